"""Tokens over HTTP: for whom they are made, from where, for how long, and how they are taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from roiservice.auth.local import local_store
from roiservice.auth.revocation import Revocations
from tests.conftest import start_service
from tests.omeroweb.standin import OmeroWeb
from tests.web import walk
from tests.web.test_web_access import Site, cookie, site_in
from tests.web.walk import ITEMS, NONE, PRIVATE, SHARED, Got

HERE = {"Origin": "http://localhost"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokens")


@pytest.fixture
def site(folder: Path) -> Iterator[Site]:
    with OmeroWeb() as web:
        site = site_in(folder, web, cors_origins="https://viewer.example")
        yield site
        local_store(site.service.services.settings.state_dir).remove(f"rev:img:{PRIVATE}")


def post(site: Site, url: str, body: object, who: Mapping[str, str], **headers: str) -> Got:
    own = {name.replace("_", "-"): value for name, value in headers.items()}
    return site.ask("POST", url, {**HERE, **who, **own}, body)


def bearer(got: Got) -> dict[str, str]:
    return {"Authorization": f"Bearer {json.loads(got.body)['token']}"}


def test_a_token_is_for_what_its_owner_may_read(site: Site) -> None:
    got = post(site, "/tokens", {"images": [PRIVATE, SHARED], "lifetime": 60}, site.ada)
    document = json.loads(got.body)
    assert (got.status, document["token_type"], document["expires_in"]) == (200, "Bearer", 60)
    assert got.header("Cache-Control") == "no-store"
    assert site.get(ITEMS, **bearer(got)).status == 200
    for images in ([PRIVATE], [SHARED, PRIVATE], [NONE]):
        got = post(site, "/tokens", {"images": images}, site.bob)
        assert got.status == 404
        assert b'"token"' not in got.body
    assert post(site, "/tokens", {"images": [SHARED]}, site.bob).status == 200
    assert post(site, "/tokens", {"images": [PRIVATE]}, {}).status == 401
    assert post(site, "/tokens", {"images": [PRIVATE]}, cookie("f" * 32)).status == 401


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
def test_a_token_is_read_with_the_public_keys(site: Site) -> None:
    text = json.loads(post(site, "/tokens", {"images": [PRIVATE]}, site.ada).body)["token"]
    got = site.get("/.well-known/jwks.json")
    assert got.header("Cache-Control") == "public, max-age=300"
    keys = KeySet.import_key_set(json.loads(got.body))
    claims = jwt.decode(text, keys, algorithms=["EdDSA"]).claims
    assert claims["img"] == [PRIVATE]
    assert "d" not in json.loads(got.body)["keys"][0]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"images": []},
        {"images": PRIVATE},
        {"images": [True]},
        {"images": ["7"]},
        {"images": [7.0]},
        {"images": [-1]},
        {"images": [2**63]},
        {"images": list(range(1, 102))},
        {"images": [PRIVATE], "lifetime": 3601},
        {"images": [PRIVATE], "lifetime": 0},
        {"images": [PRIVATE], "lifetime": True},
        {"images": [PRIVATE], "sub": "u:0"},
        [PRIVATE],
        "x",
        7,
    ],
)
def test_what_is_no_request_for_a_token(site: Site, body: object) -> None:
    assert post(site, "/tokens", body, site.ada).status == 400


@pytest.mark.parametrize(
    "path", ["", "/", "images/7", "/images/../7", "/images//7", "/a%2e", "/" + "a" * 600, 7]
)
def test_what_is_no_path_of_a_ticket(site: Site, path: object) -> None:
    assert post(site, "/tickets", {"image": PRIVATE, "path": path}, site.ada).status == 400


def test_a_ticket_is_made_with_a_session_or_a_token(site: Site) -> None:
    wanted = {"image": PRIVATE, "path": f"/images/{PRIVATE}"}
    token = bearer(post(site, "/tokens", {"images": [PRIVATE], "lifetime": 100}, site.ada))
    for who, longest in ((site.ada, 900), (token, 100)):
        document = json.loads(post(site, "/tickets", wanted, who).body)
        assert 0 < document["expires_in"] <= longest
        assert site.get(f"{ITEMS}?ticket={document['ticket']}").status == 200
        assert site.ask("HEAD", f"{ITEMS}?ticket={document['ticket']}", {}, None).status == 200
        assert site.ask("POST", f"/tickets?ticket={document['ticket']}", {}, wanted).status == 400
    other = bearer(post(site, "/tokens", {"images": [SHARED]}, site.ada))
    assert post(site, "/tickets", wanted, other).status == 403
    assert post(site, "/tickets", wanted, site.bob).status == 404


def test_a_token_makes_no_token(site: Site) -> None:
    token = bearer(post(site, "/tokens", {"images": [PRIVATE]}, site.ada))
    assert post(site, "/tokens", {"images": [PRIVATE]}, token).status == 403


def test_attack_25_only_pages_of_this_host_use_the_cookie(site: Site) -> None:
    wanted = {"images": [PRIVATE]}
    for origin in (
        "https://evil.example", "null", "http://localhost.evil", "http://evil/localhost", "", "http://localhost:81",
        "https://viewer.example",
    ):  # fmt: skip
        got = site.ask("POST", "/tokens", {**site.ada, "Origin": origin}, wanted)
        assert got.status == 403, origin
        assert (got.header("Access-Control-Allow-Origin") != "") == (origin == "https://viewer.example")
        assert got.header("Access-Control-Allow-Credentials") == ""
    assert site.ask("POST", "/tokens", site.ada, wanted).status == 403  # no browser says where it comes from
    assert site.ask("POST", "/tokens", {**site.ada, "Sec-Fetch-Site": "cross-site"}, wanted).status == 403
    assert site.ask("POST", "/tokens", {**site.ada, "Sec-Fetch-Site": "same-origin"}, wanted).status == 200
    client = site.service.app.test_client(use_cookies=False)
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        own = {**site.ada, **HERE, "Content-Type": media_type}
        assert client.post("/tokens", data=json.dumps(wanted), headers=own).status_code == 403


def test_attack_25_other_sites_read_only_what_is_listed(site: Site) -> None:
    token = bearer(post(site, "/tokens", {"images": [PRIVATE]}, site.ada))
    for origin, listed in (
        ("https://viewer.example", True),
        ("https://evil.example", False),
        ("null", False),
    ):
        got = site.get(ITEMS, Origin=origin, **token)
        assert got.header("Access-Control-Allow-Origin") == (origin if listed else "")
        assert got.header("Access-Control-Allow-Credentials") == ""
        asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
        got = site.ask("OPTIONS", ITEMS, asked, None)
        assert (got.header("Access-Control-Allow-Headers") != "") == listed
        assert "Origin" in got.header("Vary")
        refused = site.get(ITEMS, Origin=origin)
        assert (refused.status, refused.header("Access-Control-Allow-Origin")) == (
            401,
            origin if listed else "",
        )


def test_tokens_are_taken_back_by_their_owner(site: Site) -> None:
    """Without Redis; every other process of the host sees it within a second."""
    one, two = (post(site, "/tokens", {"images": [PRIVATE]}, site.ada) for _ in range(2))
    assert post(site, "/revoke", {"token": json.loads(one.body)["token"]}, site.bob).status == 403
    assert post(site, "/revoke", {"token": json.loads(one.body)["token"]}, site.ada).status == 204
    assert site.get(ITEMS, **bearer(one)).status == 401
    assert site.get(ITEMS, **bearer(two)).status == 200
    assert post(site, "/revoke", {}, site.ada).status == 204
    assert site.get(ITEMS, **bearer(two)).status == 401
    again = start_service(
        site.service.folder, auth="omero", omero_web_url=site.web.url
    )  # another process, or the same after a restart
    ask = walk.flask_ask(again.app.test_client(use_cookies=False))
    assert ask("GET", ITEMS, bearer(two), None).status == 401


@pytest.mark.parametrize("body", [{"token": 7}, {"token": None, "x": 1}, []])
def test_what_is_no_revocation(site: Site, body: object) -> None:
    assert post(site, "/revoke", body, site.ada).status == 400
    assert post(site, "/revoke", {"token": "x.y.z"}, site.ada).status == 401


def test_bodies_have_a_limit(site: Site) -> None:
    assert post(site, "/tokens", {"images": [PRIVATE] * 100_000}, site.ada).status == 413


def test_in_public_there_are_no_tokens(folder: Path) -> None:
    service = start_service(folder / "images")
    ask = walk.flask_ask(service.app.test_client(use_cookies=False))
    for url in ("/tokens", "/tickets", "/revoke"):
        assert ask("POST", url, {}, {}).status == 404
    assert ask("GET", "/.well-known/jwks.json", {}, None).status == 404


def test_made_up_sessions_leave_no_marks(site: Site) -> None:
    before = len(site.web.requests)
    assert post(site, "/revoke", {}, cookie("madeup0123456789")).status == 401
    assert len(site.web.requests) == before + 1
    assert post(site, "/revoke", {}, site.ada).status == 204


def test_who_lost_a_right_a_moment_ago_gets_no_token(site: Site) -> None:
    assert site.get(ITEMS, **site.ada).status == 200
    site.web.logout("ada")
    assert post(site, "/tokens", {"images": [PRIVATE]}, site.ada).status == 401
    assert post(site, "/tickets", {"image": PRIVATE, "path": "/images"}, site.ada).status == 401


@pytest.mark.parametrize("url", ["/tokens", "/tickets", "/revoke"])
def test_nested_bodies_are_no_requests(site: Site, url: str) -> None:
    answer = site.service.client.post(
        url, data="[" * 60_000, headers={"Content-Type": "application/json", **HERE, **site.ada}
    )
    assert answer.status_code == 400


def test_an_image_whose_tokens_were_taken_back_is_left_out_of_lists(site: Site) -> None:
    both = bearer(post(site, "/tokens", {"images": [PRIVATE, SHARED]}, site.ada))
    access = site.service.services.omero_access
    assert access is not None
    access.revocations.revoke("img", PRIVATE)
    got = site.get("/images", **both)
    assert (got.status, [each["id"] for each in json.loads(got.body)["images"]]) == (200, [SHARED])


def test_several_credentials_in_one_header_are_none(site: Site) -> None:
    assert site.get(ITEMS, **site.ada, Authorization="Basic eDp5, Bearer bad").status == 401


def test_what_omero_web_says_is_for_its_reader_alone(site: Site) -> None:
    got = site.get(f"/iviewer/image_data/{PRIVATE}/", **site.ada)
    assert got.header("Cache-Control") == "private, no-cache"
    assert {"Authorization", "Cookie"} <= set(got.header("Vary").split(", "))
    assert got.header("X-Content-Type-Options") == "nosniff"


def test_a_ticket_ends_with_the_token_that_made_it(site: Site) -> None:
    got = post(site, "/tokens", {"images": [PRIVATE]}, site.ada)
    wanted = {"image": PRIVATE, "path": f"/images/{PRIVATE}"}
    with_token = json.loads(post(site, "/tickets", wanted, bearer(got)).body)["ticket"]
    with_session = json.loads(post(site, "/tickets", wanted, site.ada).body)["ticket"]
    assert [site.get(f"{ITEMS}?ticket={each}").status for each in (with_token, with_session)] == [200, 200]
    assert post(site, "/revoke", {"token": json.loads(got.body)["token"]}, site.ada).status == 204
    assert [site.get(f"{ITEMS}?ticket={each}").status for each in (with_token, with_session)] == [401, 200]


@pytest.mark.parametrize("kind", ["jti", "sid", "img"])
def test_a_token_that_was_just_taken_back_makes_no_ticket(site: Site, kind: str) -> None:
    """Another process took it back, which this one would notice a second later."""
    token = site.access.tokens.access_token(site.owner, [PRIVATE])
    who = {"Authorization": f"Bearer {token.text}"}
    assert site.get(ITEMS, **who).status == 200
    other = Revocations(local_store(site.service.services.settings.state_dir))
    other.revoke(kind, {"jti": token.token_id, "sid": site.owner.session, "img": PRIVATE}[kind])
    got = post(site, "/tickets", {"image": PRIVATE, "path": f"/images/{PRIVATE}"}, who)
    assert (got.status, b'"ticket"' in got.body) == (401, False)
