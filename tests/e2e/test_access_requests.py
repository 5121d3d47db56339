"""Attacks on the running service that are not about the text of a token; numbers are those of docs/access.md.

17 and 20 are in test_access_bounds.py; 17, 19 (all paths), 22 to 26 (all paths) in tests/web as well.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from roiservice.auth.claims import TICKET
from tests.cache.support import RedisServer
from tests.e2e.access import (
    Forge,
    Guarded,
    all_at_once,
    ask_at,
    bearer,
    caching_proxy,
    guarded,
    listening,
    raw,
)
from tests.e2e.support import end, wait_for
from tests.omeroweb import views
from tests.omeroweb.images import image_document
from tests.omeroweb.standin import OmeroWeb
from tests.web import walk
from tests.web.walk import ITEMS, NONE, PRIVATE, SHARED

AT_ONCE = 1000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with OmeroWeb() as web, guarded(tmp_path_factory.mktemp("site"), web) as running:
        yield running


@pytest.fixture(scope="module")
def forge(site: Guarded) -> Forge:
    return site.forge


def test_attack_12_ids_in_paths(site: Guarded, forge: Forge) -> None:
    """A token for one image, and every way to write another one."""
    for who in (bearer(forge.token(img=[SHARED])), site.session("bob"), {}):
        for name in (
            f"0{PRIVATE}",
            f"+{PRIVATE}",
            "\uff17\uff10\uff10\uff17",
            f"{PRIVATE}%00",
            f"{SHARED}/../{PRIVATE}",
            f"{SHARED}/%2e%2e/{PRIVATE}",
            f"{SHARED}%2f..%2f{PRIVATE}",
            f"/{PRIVATE}",
            "7.007e3",
            f"{PRIVATE}.0",
            f"-{PRIVATE}",
            f"{PRIVATE}%20",
            f"{PRIVATE};x=1",
            str(2**63),
            str(2**64 + PRIVATE),
            f"{PRIVATE}%0d%0a",
        ):
            path = f"/images/{name}/collections/labels:{walk.LAYER}/items"
            answer = raw(
                site.host,
                f"GET {path} HTTP/1.1\r\nHost: {site.host}\r\nConnection: close\r\n".encode() + lines(who),
            )
            state, body = int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]
            assert state in (308, 400, 401, 403, 404), (name, answer)
            assert b"FeatureCollection" not in body
            assert state != 401 or not who, name


def lines(headers: dict[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode() + b"\r\n"


def test_attack_13_layers_that_leave_their_image(site: Guarded) -> None:
    ada = site.session("ada")
    folder = site.home.path.parent
    (folder / "secret.json").write_text('{"secret": 1}')
    (folder / "images/7007.zarr/labels/out").symlink_to(folder / "images/8008.zarr/labels/cells")
    (folder / "images/7007.zarr/labels/etc").symlink_to("/etc")
    for name in (
        "..%2f..%2f8008.zarr%2flabels%2fcells",
        "labels:..:..:8008.zarr:labels:cells",
        "..\\..\\8008.zarr",
        "..",
        ".",
        "%2fetc%2fpasswd",
        ":etc:passwd",
        "labels:cells%00",
        "labels:out",
        "labels:etc",
        "labels:%2e%2e",
        "file:%2f%2f%2fetc",
        "labels:..",
        "%2e%2e%5c%2e%2e",
        "http:%2f%2f127.0.0.1",
    ):
        for end_of_path in ("", "/items", "/queryables"):
            got = site.get(f"/images/{PRIVATE}/collections/{name}{end_of_path}", **ada)
            assert got.status in (400, 404, 422, 502), (name, got)
            assert str(folder).encode() not in got.body
            assert b"root:" not in got.body


def test_attack_14_two_users_and_a_caching_proxy(site: Guarded, tmp_path: Path, forge: Forge) -> None:
    with caching_proxy(site.service.base, tmp_path / "nginx") as proxy:
        ask, ada, bob = ask_at(proxy), site.session("ada"), site.session("bob")
        ids = walk.ids_of(ask_at(site.service.base), ada)
        for request in walk.requests(ids):
            if request.method != "GET":
                continue
            first = ask("GET", request.url, ada, None)
            assert first.status in (200, 302), request
            again = ask("GET", request.url, ada, None)
            tag = first.header("ETag")
            for who in (bob, {}, bearer(forge.token(img=[SHARED]))):
                for more in ({}, {"If-None-Match": tag}) if tag and request.kind != walk.OPEN else ({},):
                    got = ask("GET", request.url, {**who, **more}, None)
                    unasked = [secret for secret in ids.secrets if secret not in request.url.encode()]
                    assert not [secret for secret in unasked if secret in got.body], (request, got)
                    if request.kind == walk.OWN:
                        assert got.status == (404 if who is bob else 403 if who else 401)
            if request.kind in (walk.OWN, walk.LIST):
                assert again.header("X-Cache") != "HIT", request


def test_attack_15_the_tag_of_another_ones_answer(site: Guarded) -> None:
    ada, bob = site.session("ada"), site.session("bob")
    for url in (ITEMS, f"/images/{PRIVATE}", f"/api/v0/m/rois/?image={PRIVATE}", f"{ITEMS}?f=ndjson"):
        tag = site.get(url, **ada).header("ETag")
        assert site.get(url, **ada, If_None_Match=tag).status == 304
        for who, state in ((bob, 404), ({}, 401)):
            for given in (tag, "*", f"W/{tag}", f'"x", {tag}'):
                got = site.get(url, **who, If_None_Match=given)
                assert got.status == (
                    200 if "api" in url and who else state
                )  # OMERO's own list, which is empty
                assert got.header("ETag") != tag


@pytest.fixture(scope="module", params=["file", "redis"])
def revoking(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Without Redis, and with one."""
    folder = tmp_path_factory.mktemp("revoking")
    with OmeroWeb() as web:
        if request.param == "file":
            with guarded(folder, web) as running:
                yield running
            return
        redis = RedisServer(folder)
        redis.start()
        try:
            with guarded(folder, web, redis_url=redis.url) as running:
                yield running
        finally:
            redis.stop()


@pytest.mark.parametrize("kind", ["jti", "sid", "sub", "image"])
def test_attack_16_tokens_that_were_taken_back(revoking: Guarded, kind: str) -> None:
    """Every process refuses them after a second."""
    values = {"jti": os.urandom(16).hex(), "sid": os.urandom(8).hex(), "sub": f"u:{os.getpid()}"}
    forge = revoking.forge
    tokens = [bearer(forge.token(**values))]
    links = [f"{ITEMS}?ticket={forge.token(TICKET, **values)}"]
    others = bearer(forge.token(jti=os.urandom(16).hex()))
    for _ in range(9):
        assert {revoking.get(ITEMS, **each).status for each in tokens} == {200}
        assert {revoking.get(each).status for each in links} == {200}
    value = PRIVATE if kind == "image" else values[kind]
    assert revoking.home.run("revoke", f"--{kind}", value).returncode == 0
    time.sleep(1.1)
    for _ in range(9):
        assert {revoking.get(ITEMS, **each).status for each in tokens} == {401}
        assert {revoking.get(each).status for each in links} == {401}
        assert revoking.get(ITEMS, **others).status == (401 if kind == "image" else 200)


def test_attack_16_redis_is_down(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    redis.start()
    try:
        with (
            OmeroWeb() as web,
            guarded(tmp_path, web, redis_url=redis.url, revocation_required="yes") as site,
        ):
            token, ada = bearer(site.forge.token()), site.session("ada")
            assert site.get(ITEMS, **token).status == 200
            redis.kill()
            got = wait_for(lambda: (got := site.get(ITEMS, **token)).status != 200 and got)
            assert (got.status, got.header("Retry-After")) == (503, "5")
            assert site.get(ITEMS, **ada).status == 200  # sessions do not need it
            redis.start()
            assert wait_for(lambda: site.get(ITEMS, **token).status == 200)
    finally:
        redis.stop()


def test_attack_19_secrets_in_the_servers_log(tmp_path: Path) -> None:
    """Requests that are none, too long, or fail, are logged and counted without their words."""
    with OmeroWeb() as web, guarded(tmp_path, web) as site:
        ticket, session = site.forge.token(TICKET), web.login("ada")
        target = f"{ITEMS}?ticket={ticket}".encode()
        answers = [
            raw(site.host, each)
            for each in (
                b"GET " + target + b" HTTP/9\r\n\r\n",
                b"GET " + target + b" HTTP/1.1 extra\r\n\r\n",
                b"G{T " + target + b" HTTP/1.1\r\n\r\n",
                b"GET " + target + b"A" * 200_000 + b" HTTP/1.1\r\n\r\n",
                b"GET / HTTP/1.1\r\nCookie sessionid=" + session.encode() + b"\r\n\r\n",
                b"GET / HTTP/1.1\r\nCookie: sessionid=" + session.encode() + b"\0\r\n\r\n",
                b"GET / HTTP/1.1\r\nCo okie: sessionid=" + session.encode() + b"\r\n\r\n",
                b"GET / HTTP/1.1\r\nCookie: a\r\n sessionid=" + session.encode() + b"\r\n\r\n",
                b"GET / HTTP/1.1\r\nX: " + b"A" * 10_000 + session.encode() + b"\r\n\r\n",
                b"GET / HTTP/1.1\r\nTransfer-Encoding: " + session.encode() + b"\r\n\r\n",
                b"GET " + target + b" HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n",
            )
        ]
        assert [int(answer.split()[1]) for answer in answers[:3]] == [400] * 3
        assert [
            answer for answer in answers if answer and int(answer.split()[1]) not in (400, 414, 431, 501)
        ] == []
        who = {"Cookie": f"sessionid={session}"}
        assert site.get(target.decode()).status == 200
        answers += [site.get(f"{target.decode()}x", Referer=target.decode()).body]
        answers += [site.get(ITEMS, Authorization=f"Bearer {ticket}", **who).body]
        web.always = "malformed"
        answers += [site.get(f"/images/{NONE}", **who).body, site.get("/metrics").body]
        _, errors = end(site.service.process)
        told = errors.encode() + b"".join(answers)
        assert b"a request was refused with 400" in told
        for word in (*ticket.split(".")[1:], session):
            assert word.encode() not in told


def test_attack_21_stores_that_lead_elsewhere(tmp_path: Path) -> None:
    """Paths in metadata and links of the file system; what OMERO names is in tests/omeroweb/test_ngff.py."""
    with OmeroWeb() as web, listening() as (port, visits):
        walk.write_images(tmp_path / "prepared")
        with guarded(tmp_path, web) as site:
            ada, image = site.session("ada"), tmp_path / f"images/{PRIVATE}.zarr"
            for place in (
                f"http://127.0.0.1:{port}/x",
                f"s3://127.0.0.1:{port}/x",
                "http://169.254.169.254/latest",
                "file:///etc",
                f"gopher://127.0.0.1:{port}/",
                "../../8008.zarr/labels/cells",
                "/etc",
                "..",
            ):
                group = image / "labels/zarr.json"
                document = json.loads(group.read_text())
                listed = document["attributes"].get("ome", document["attributes"])
                listed["labels"] = [place]
                group.write_text(json.dumps(document))
                label = image / "labels" / walk.LAYER / "zarr.json"
                own = json.loads(label.read_text())
                own["attributes"]["ome"]["multiscales"][0]["datasets"][0]["path"] = place
                label.write_text(json.dumps(own))
                for path in (
                    "collections",
                    f"collections/labels:{walk.LAYER}/items",
                    "collections/labels:cells/items",
                ):
                    got = site.get(f"/images/{PRIVATE}/{path}", **ada)
                    assert b"root:" not in got.body
                    assert b'"features"' not in got.body
            time.sleep(0.2)
    assert visits == []


def test_attack_22_credentials_in_the_query(site: Guarded) -> None:
    bob, before = site.session("bob"), len(site.web.requests)
    site.get(f"/api/v0/m/rois/?image={NONE}&bsession=secret&username=secret&password=secret", **bob)
    site.get(
        "/iviewer/shape_stats/?ids=3&z=0&t=0&bsession=secret&server=secret",
        **bob,
        X_OMERO_Session_Key="secret",
    )
    asked = site.web.requests[before:]
    assert len(asked) >= 2
    assert "secret" not in str(asked)


def test_attack_23_an_omero_web_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        OmeroWeb() as web,
        guarded(tmp_path, web, omero_web_timeout="0.5") as site,
        listening() as (port, visits),
    ):
        web.redirect_to = f"http://127.0.0.1:{port}/"
        for fault in (500, "malformed", "html200", "redirect", "hang", "truncated"):
            ada = site.session("ada")
            web.always = fault
            got = site.get(ITEMS, **ada)
            assert (got.status, got.header("Retry-After"), got.header("Cache-Control")) == (
                503,
                "5",
                "no-store",
            ), fault
            web.always = None
            assert wait_for(lambda ada=ada: site.get(ITEMS, **ada).status == 200), fault
        ada = site.session("ada")
        other = {**image_document(web.images[PRIVATE], ""), "@id": SHARED}
        monkeypatch.setattr(views, "image_document", lambda *_: other)
        assert site.get(ITEMS, **ada).status == 503
        monkeypatch.undo()
        assert site.get(ITEMS, **ada).status == 200
    assert visits == []


def test_attack_24_a_bad_bearer_and_a_good_cookie(site: Guarded, forge: Forge) -> None:
    ada = site.session("ada")
    for token in (forge.token()[:-4] + "AAAA", "", "x", forge.token(TICKET)):
        for url in (ITEMS, "/images", f"/api/v0/m/rois/?image={PRIVATE}", f"/api/v0/m/rois/?image={NONE}"):
            assert site.get(url, **ada, **bearer(token)).status == 401
    assert site.get(f"{ITEMS}?ticket={forge.token(TICKET)}x", **ada).status == 401
    assert site.get(f"{ITEMS}?ticket={forge.token(TICKET)}", **ada, **bearer(forge.token())).status == 400


def test_attack_25_pages_of_other_sites(site: Guarded) -> None:
    ada, wanted = site.session("ada"), {"images": [PRIVATE]}
    for origin in ("https://evil.example", "null", f"http://{site.host}.evil", "http://127.0.0.1"):
        got = site.get("/tokens", "POST", wanted, **ada, Origin=origin)
        assert (got.status, got.header("Access-Control-Allow-Origin")) == (403, "")
    got = site.get(
        "/tokens", "POST", wanted, **ada, Origin="http://evil", X_Forwarded_Host="evil", Forwarded="host=evil"
    )
    assert got.status == 403
    for media_type in ("text/plain", "application/x-www-form-urlencoded"):
        own = {"Origin": site.service.base, "Content-Type": media_type}
        assert site.get("/tokens", "POST", wanted, **ada, **own).status == 403
    assert site.get("/tokens", "POST", wanted, **ada, Origin=site.service.base).status == 200


def test_attack_26_headers_within_cookies(site: Guarded) -> None:
    before, session = len(site.web.requests), site.web.login("ada")
    for value in (
        b"sessionid=%b\r\nX-OMERO-Session-Key: evil",
        b"sessionid=%b%%0d%%0aX: evil",
        b"sessionid=%b; sessionid=evilevil",
        b"sessionid=evilevil; sessionid=%b",
        b'sessionid="%b\\"; bsession=evil"',
        b"sessionid=%b\x00evil",
        b"sessionid=%b\nX: evil",
        b"sessionid=%b; bsession=evil; csrftoken=evil",
        b"sessionid=%b\xc4\x8aX: evil",
    ):
        cookie = b"Cookie: " + value % session.encode()
        raw(
            site.host,
            b"GET "
            + ITEMS.encode()
            + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            + cookie
            + b"\r\n\r\n",
        )
        raw(
            site.host,
            b"GET /api/v0/m/rois/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + cookie + b"\r\n\r\n",
        )
    for each in site.web.requests[before:]:
        assert "evil" not in str(each)
        assert each.headers.get("Cookie", f"sessionid={session}") == f"sessionid={session}"


def test_attack_27_a_thousand_first_requests_at_once(tmp_path: Path) -> None:
    """One check, though the service is several processes, and OMERO.web takes its time."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    with OmeroWeb(latency=0.3) as web, guarded(tmp_path, web) as site:
        assert site.get(ITEMS, **site.session("ada")).status == 200  # builds the catalog
        for user, state in (("ada", 200), ("bob", 404)):
            before = site.checks()
            who = lines({"Host": site.host, "Connection": "close", **site.session(user)})
            request = f"GET {ITEMS}?limit=1 HTTP/1.1\r\n".encode() + who
            states = asyncio.run(all_at_once(site.host, request, AT_ONCE))
            assert (len(states), set(states)) == (AT_ONCE, {state})
            assert site.checks() - before == 1
