"""Who may read: every path of the document for those who may and those who may not, and within which time."""

from __future__ import annotations

import http.client
import json
import logging
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from roiservice.auth.claims import ACCESS, TICKET
from roiservice.auth.tokens import Owner
from roiservice.bootstrap import OmeroAccess
from tests.auth.support import Clock
from tests.conftest import Service, start_service
from tests.omeroweb.standin import OmeroWeb
from tests.web import walk
from tests.web.walk import ITEMS, NONE, PRIVATE, SHARED, Ask, Got, Ids, Request

BEARER_CHALLENGE = 'Bearer realm="roiservice"'


@dataclass
class Site:
    """A service with access control over both images, and OMERO.web beside it."""

    service: Service
    web: OmeroWeb
    ask: Ask
    ids: Ids
    ada: Mapping[str, str]
    bob: Mapping[str, str]
    owner: Owner = field(default_factory=lambda: Owner("u:4", secrets.token_hex(8)))

    @property
    def access(self) -> OmeroAccess:
        access = self.service.services.omero_access
        assert access is not None
        return access

    @property
    def passes(self) -> bool:
        return self.service.services.settings.pass_unknown

    def get(self, url: str, **headers: str) -> Got:
        return self.ask("GET", url, {name.replace("_", "-"): value for name, value in headers.items()}, None)

    def bearer(self, *images: int) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access.tokens.access_token(self.owner, images).text}"}

    def with_ticket(self, request: Request, image: int) -> str:
        ticket = self.access.tokens.ticket(self.owner, image, request.path).text
        return f"{request.url}{'&' if '?' in request.url else '?'}ticket={ticket}"

    def hold_clock(self) -> Clock:
        clock = Clock()
        self.access.policy._reads._clock = clock
        return clock


def cookie(session: str) -> dict[str, str]:
    return {"Cookie": f"theme=dark; sessionid={session}"}


def site_in(folder: Path, web: OmeroWeb, ids: Ids | None = None, **settings: object) -> Site:
    """A service of its own, whose caches are cold, over the stores, registry and catalogs of a folder."""
    if not (folder / "images").exists():
        walk.write_images(folder / "images")
    walk.add_images(web)
    service = start_service(
        folder / "images", auth="omero", omero_web_url=web.url, omero_web_timeout=1.0, **settings
    )
    ask = walk.flask_ask(service.app.test_client(use_cookies=False))
    ada, bob = cookie(web.login("ada")), cookie(web.login("bob"))
    return Site(service, web, ask, ids or walk.ids_of(ask, ada), ada, bob)


@pytest.fixture
def web() -> Iterator[OmeroWeb]:
    with OmeroWeb() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, registry and catalogs, which all services here share."""
    return tmp_path_factory.mktemp("access")


@pytest.fixture(scope="module")
def ids(folder: Path) -> Ids:
    """Known from another service: the one that is tested has told nobody anything yet."""
    with OmeroWeb() as server:
        return site_in(folder, server).ids


@pytest.fixture(params=[True, False], ids=["passing on", "alone"])
def site(folder: Path, ids: Ids, web: OmeroWeb, request: pytest.FixtureRequest) -> Site:
    return site_in(folder, web, ids, pass_unknown=request.param)


def test_it_is_said_of_every_path_who_may_ask_for_it() -> None:
    assert walk.KINDS.keys() == walk.described().keys()


def directly(web: OmeroWeb, request: Request, credentials: Mapping[str, str]) -> Got:
    """What OMERO.web itself says."""
    connection = http.client.HTTPConnection(web.host, timeout=30)
    headers = {"X-Requested-With": "XMLHttpRequest", "Host": web.host} | dict(credentials)
    connection.request(request.method, request.url, headers=headers)
    answer = connection.getresponse()
    got = Got(request.url, answer.status, dict(answer.getheaders()), answer.read())
    connection.close()
    return got


def check_allowed(got: Got, request: Request) -> None:
    if request.kind == walk.START:
        assert got.status == 405
        return
    assert got.status in ((302,) if request.path.endswith(("/roi/image_data/",)) else (200, 204, 302)), (
        request,
        got,
    )
    assert b'"error"' not in got.body[:9], (request, got)


def check_hidden(got: Got, site: Site) -> None:
    unasked = [secret for secret in site.ids.secrets if secret not in got.url.encode()]
    assert not [secret for secret in unasked if secret in got.body], got
    assert got.status != 304


def check_refused(site: Site, request: Request, headers: Mapping[str, str]) -> None:
    """What bob is told, who has a session and may not read the image."""
    got = site.ask(request.method, request.url, headers, request.body)
    check_hidden(got, site)
    if request.kind == walk.OPEN:
        assert got.status in (200, 304)
    elif request.kind == walk.TAKE:
        assert got.status == 204  # his own tokens
    elif request.kind == walk.LIST:
        assert [image["id"] for image in json.loads(got.body)["images"]] == [SHARED]
    elif request.kind == walk.STATS:
        assert json.loads(got.body) == {"error": f"there is no shape {site.ids.shape}"}
    elif request.kind == walk.THEIRS and site.passes and not re.search(r"/\d{16}/", request.url):
        said = directly(site.web, request, {"Cookie": headers["Cookie"]})
        assert (got.status, got.body) == (said.status, said.body), request
    else:
        assert got.status == 404, (request, got)
        assert got.header("Cache-Control") == "no-store"
        assert got.header("ETag") == ""


def check_nobody(site: Site, request: Request) -> None:
    got = site.ask(request.method, request.url, {}, request.body)
    check_hidden(got, site)
    if request.kind == walk.OPEN:
        assert got.status == 200
    else:
        assert got.status == 401, (request, got)
        assert got.header("WWW-Authenticate") == BEARER_CHALLENGE
        assert got.header("Cache-Control") == "no-store"


def from_here(request: Request, credentials: Mapping[str, str]) -> dict[str, str]:
    return dict(credentials) | ({"Origin": "http://localhost"} if request.method == "POST" else {})


def test_two_users_and_a_private_image(site: Site) -> None:
    """Cold, warm, and with the tags of the other's answers."""
    tags = {}
    for request in walk.requests(site.ids):
        check_nobody(site, request)
        check_refused(site, request, from_here(request, site.bob))
    for request in walk.requests(site.ids):
        got = site.ask(request.method, request.url, from_here(request, site.ada), request.body)
        check_allowed(got, request)
        tags.setdefault(request.url, got.header("ETag"))
    for request in walk.requests(site.ids):
        for headers in ({}, {"If-None-Match": tags[request.url]}, {"If-None-Match": "*"}):
            if headers and (not tags[request.url] or request.kind == walk.OPEN):
                continue
            if headers == {"If-None-Match": "*"} and request.kind in (walk.LIST, walk.STATS):
                continue  # what there is for him, he has
            check_refused(site, request, from_here(request, site.bob) | headers)
        check_nobody(site, request)
    data = [request for request in walk.requests(site.ids) if request.kind == walk.OWN]
    for request in data:
        got = site.ask("GET", request.url, {**site.ada, "If-None-Match": tags[request.url]}, None)
        assert got.status == 304, request


def test_what_is_private_and_what_is_not_there_look_the_same(site: Site) -> None:
    for request in walk.requests(site.ids):
        if request.kind not in (walk.OWN, walk.THEIRS) or f"{PRIVATE}" not in request.url.split("/labels")[0]:
            continue
        try:
            missing = request.about(NONE)
        except AssertionError:
            continue  # by the id of a ROI or shape: below
        for who in ({}, site.bob, cookie("f" * 32)):
            one, other = (site.ask("GET", each.url, who, None) for each in (request, missing))
            assert one.status == other.status, request
            assert one.body.replace(b"%d" % PRIVATE, b"N") == other.body.replace(b"%d" % NONE, b"N"), request


def test_ids_of_hidden_objects_and_of_none_look_the_same(site: Site) -> None:
    for template in (
        "/api/v0/m/rois/{roi}/", "/iviewer/roi/{roi}/page_data/", "/iviewer/roi/{roi}/image_data/",
        "/iviewer/shape/{shape}/page_data/", "/iviewer/shape/{shape}/image_data/",
        "/webgateway/render_shape_mask/{shape}/", "/iviewer/shape_stats/?ids={shape}&z=0&t=0",
    ):  # fmt: skip
        there = {"roi": site.ids.roi, "shape": site.ids.shape}
        none = {"roi": 9 * 10**15 + 1, "shape": 9 * 10**15 + 1}
        callers = ({}, site.bob, cookie("f" * 32), site.bearer(SHARED))
        for public in (None, "guest"):
            site.web.public = public
            for who in callers:
                for fault in (None, 500):
                    site.web.always = fault
                    site.access.policy._reads._known.clear()
                    one, other = (
                        site.ask("GET", template.format(**each), who, None) for each in (there, none)
                    )
                    same = [
                        got.body.replace(str(each["roi"]).encode(), b"N").replace(
                            str(each["shape"]).encode(), b"N"
                        )
                        for got, each in ((one, there), (other, none))
                    ]
                    assert (one.status, same[0]) == (other.status, same[1]), (template, who)
                    check_hidden(one, site)


def test_bearers(site: Site) -> None:
    mine, other = site.bearer(PRIVATE), site.bearer(SHARED)
    asked = len(site.web.requests)
    for request in walk.requests(site.ids):
        if (
            request.kind in (walk.OWN, walk.THEIRS, walk.STATS)
            and request.template != "/iviewer/image_data/{image_id}/"
        ):
            check_allowed(site.ask("GET", request.url, mine, None), request)
        if request.kind == walk.OWN:
            got = site.ask("GET", request.url, other, None)
            assert got.status == 403, request
            assert 'error="insufficient_scope"' in got.header("WWW-Authenticate")
        check_hidden(site.ask(request.method, request.url, other, request.body), site)
        bad = {"Authorization": mine["Authorization"][:-8] + "AAAAAAAA", **site.ada}
        got = site.ask(request.method, request.url, bad, request.body)
        check_hidden(got, site)
        assert got.status == (200 if request.kind == walk.OPEN and request.template != "/" else 401), request
    checks = [each for each in site.web.requests[asked:] if each.path == f"/api/v0/m/images/{PRIVATE}/"]
    assert checks == []  # a token says all itself


def test_tickets(site: Site) -> None:
    for request in walk.requests(site.ids):
        if (
            request.kind not in (walk.OWN, walk.THEIRS)
            or request.template == "/iviewer/image_data/{image_id}/"
        ):
            continue
        got = site.get(site.with_ticket(request, PRIVATE))
        check_allowed(got, request)
        check_hidden(site.get(site.with_ticket(request, SHARED)), site)
        elsewhere = site.access.tokens.ticket(site.owner, PRIVATE, f"/images/{PRIVATE}/elsewhere").text
        got = site.get(f"{request.url}{'&' if '?' in request.url else '?'}ticket={elsewhere}")
        assert got.status == 403, request
        check_hidden(got, site)


def test_links_hold_the_ticket(site: Site) -> None:
    ticket = site.access.tokens.ticket(site.owner, PRIVATE, f"/images/{PRIVATE}").text
    url, seen = f"/images/{PRIVATE}/collections/labels:{walk.LAYER}/items?limit=4&ticket={ticket}", 0
    while url:
        page = json.loads(site.get(url.removeprefix("http://localhost")).body)
        seen += len(page["features"])
        url = next((link["href"] for link in page["links"] if link["rel"] == "next"), "")
    assert seen == 9


def test_the_public_user(site: Site) -> None:
    site.web.public = "guest"
    for request in walk.requests(site.ids):
        if request.kind in (walk.OWN, walk.THEIRS):
            check_hidden(site.ask("GET", request.url, {}, None), site)
            if request.kind == walk.OWN:
                assert site.get(request.url).status == 404
    assert [image["id"] for image in json.loads(site.get("/images").body)["images"]] == [SHARED]
    shared = f"/images/{SHARED}/collections/labels:cells/items"
    assert len(json.loads(site.get(shared).body)["features"]) == 9
    assert len(json.loads(site.get(f"/api/v0/m/rois/?image={SHARED}").body)["data"]) == 2 + 9
    assert site.get(shared).header("Cache-Control") == "private, no-cache"


def test_a_session_starts_builds_from_pages_of_its_own_host_alone(
    folder: Path, web: OmeroWeb, ids: Ids
) -> None:
    site = site_in(folder, web, ids, build_on_post=True)
    url = f"/images/{PRIVATE}/collections/labels:{walk.LAYER}/build"
    here, elsewhere = {"Origin": "http://localhost"}, {"Origin": "http://elsewhere.example"}
    for headers, status in (
        ({**site.ada, **elsewhere}, 403),
        (site.ada, 403),
        ({**site.bob, **here}, 404),
        (here, 401),
        (site.bearer(SHARED), 403),
        ({**site.ada, **here}, 202),
        (site.bearer(PRIVATE), 202),
    ):
        assert site.ask("POST", url, headers, {}).status == status, headers
    for process in site.service.services.layers._keeper._processes.running.values():
        assert process.wait(60) == 0


def test_attack_17_logout_and_changed_permissions_count_within_a_minute(site: Site) -> None:
    clock = site.hold_clock()
    page = ITEMS
    assert [site.get(page, **who).status for who in (site.ada, site.bob)] == [200, 404]
    site.web.images[PRIVATE].readers = frozenset({"bob"})  # chmod, chgrp
    clock.now += 10
    assert [site.get(page, **who).status for who in (site.ada, site.bob)] == [200, 200]
    clock.now += 50
    assert site.get(page, **site.ada).status == 404
    site.web.logout("bob")
    clock.now += 9
    assert site.get(page, **site.bob).status == 200  # asked for 59 s ago
    clock.now += 1
    got = site.get(page, **site.bob)
    assert (got.status, json.loads(got.body)["title"]) == (401, "The session has ended")


def test_attack_17_a_token_lasts_no_longer_than_it_says(site: Site) -> None:
    clock = Clock()
    site.access.tokens._clock = clock
    bearer = site.bearer(PRIVATE)
    site.web.images[PRIVATE].readers = frozenset()
    clock.now += 299
    assert site.get(ITEMS, **bearer).status == 200
    clock.now += 1
    got = site.get(ITEMS, **bearer)
    assert got.status == 401
    assert got.header("WWW-Authenticate").endswith('error="invalid_token", error_description="expired"')
    assert ACCESS.longest <= 3600
    assert TICKET.longest <= 86_400


FAULTS = [
    500,
    503,
    403,
    "malformed",
    "truncated",
    "html200",
    "redirect",
    "drop",
    "slow",
    "hang",
    "security",
    "down",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_attack_23_what_omero_web_does_wrong_lets_nobody_in_and_takes_nothing_away(
    folder: Path, ids: Ids, web: OmeroWeb, fault: str | int
) -> None:
    site = site_in(folder, web, ids, pass_unknown=False)
    clock = site.hold_clock()
    web.latency = 0.3
    assert site.get(ITEMS, **site.ada).status == 200
    web.always, web.on = fault, f"^/api/v0/m/images/{PRIVATE}/$"
    for who, known in ((site.ada, True), (site.bob, False)):
        for url in (ITEMS, f"/api/v0/m/rois/?image={PRIVATE}", f"/iviewer/rois_by_plane/{PRIVATE}/0/0/"):
            got = site.get(url, **who)
            assert (got.status == 200) == known, (fault, url)
            if not known:
                check_hidden(got, site)
    clock.now += 60
    refusal = {"down": 401, "security": 404, 403: 404}.get(fault, 503)  # the last are OMERO's own refusals
    for who in (site.ada, site.bob):
        got = site.get(ITEMS, **who)
        assert got.status in (refusal, 401 if fault == "down" else refusal)
        check_hidden(got, site)
    web.always = None
    clock.now += 10
    site.service.services.omero_web._circuits.clear()
    ada, bob = (cookie(web.login(user)) for user in ("ada", "bob"))
    assert [site.get(ITEMS, **who).status for who in (ada, bob)] == [200, 404]
    assert not [each for each in web.requests if "elsewhere" in each.path]


def test_attack_22_no_other_credential_goes_on(site: Site) -> None:
    smuggled = "bsession=secret&username=root&password=omero&server=1"
    before = len(site.web.requests)
    site.ask(
        "GET",
        f"/api/v0/m/rois/?image={NONE}&limit=3&{smuggled}",
        {**site.bob, "X-OMERO-Session-Key": "secret"},
        None,
    )
    site.ask(
        "GET", f"/iviewer/shape_stats/?ids=1&z=0&t=0&{smuggled}", {**site.bob, "X-CSRFToken": "secret"}, None
    )
    site.ask("GET", f"{ITEMS}?{smuggled}", site.bob, None)
    asked = site.web.requests[before:]
    assert asked
    for each in asked:
        sent = f"{each.query} {each.headers}"
        assert not [word for word in ("secret", "root", "password", "theme") if word in sent]


@pytest.mark.parametrize(
    "given",
    [
        "sessionid=a\r\nX-Evil: 1",
        "sessionid=" + "a" * 600,
        "sessionid=a b",
        "sessionid=\xe4" * 20,
        "sessionid=one11111; sessionid=two22222",
        'sessionid="a\\"; bsession=x"',
    ],
)
def test_attack_26_one_clean_session_goes_on_or_none(site: Site, given: str) -> None:
    before = len(site.web.requests)
    for url in (ITEMS, f"/api/v0/m/rois/?image={PRIVATE}", "/api/v0/m/rois/"):
        try:
            got = site.ask("GET", url, {"Cookie": given}, None)
        except ValueError:
            continue  # the client's own library refuses to send it
        assert got.status in (400, 401, 403, 404), (url, got)
        assert got.status != 404 or not site.passes
        check_hidden(got, site)
    for each in site.web.requests[before:]:
        assert each.headers.get("Cookie", "sessionid=a").count("=") == 1
        assert "bsession" not in str(each.headers)


def test_attack_24_a_bad_bearer_and_a_good_cookie(site: Site) -> None:
    """All paths are in `test_bearers`; here those of OMERO that are passed on."""
    before = len(site.web.requests)
    for url in (
        "/api/v0/m/rois/",
        f"/api/v0/m/rois/?image={NONE}",
        "/api/v0/m/rois/3/",
        "/iviewer/shape_stats/?ids=3&z=0&t=0",
    ):
        for bad in ("Bearer x.y.z", "Bearer", "Digest a"):
            got = site.ask("GET", url, {**site.ada, "Authorization": bad}, None)
            assert got.status == 401, (url, bad, got)
    assert len(site.web.requests) == before


def test_attack_19_no_secret_is_in_any_log_or_answer(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bearer, session = site.bearer(PRIVATE)["Authorization"][7:], site.ada["Cookie"].rpartition("=")[2]
    ticket = site.access.tokens.ticket(site.owner, PRIVATE, f"/images/{PRIVATE}").text
    bodies = []
    for request in walk.requests(site.ids):
        callers = (
            {**site.ada, "Referer": f"http://here/?ticket={ticket}"},
            {"Authorization": f"Bearer {bearer}"},
            {"Authorization": f"Bearer {bearer}x", **site.ada},
            {"Authorization": f"Basic {bearer}"},
            {"Authorization": bearer},
        )
        bodies += [site.ask(request.method, request.url, headers, request.body) for headers in callers]
        join = "&" if "?" in request.url else "?"
        bad = (f"ticket={ticket}x", f"ticket={ticket}&ticket={bearer}", f"ticket={bearer}")
        bodies += [site.get(f"{request.url}{join}{tickets}") for tickets in bad]
    bodies += [site.get("/metrics"), site.get("/readyz")]
    parts = [part for text in (bearer, ticket) for part in text.split(".")[1:]] + [session]
    logged = "\n".join(f"{record.getMessage()} {record.exc_text or ''}" for record in caplog.records)
    for part in parts:
        assert part not in logged
        for got in bodies:
            assert part.encode() not in got.body, got
            assert part not in str(dict(got.headers)), got
    assert site.get(ITEMS, **site.ada).header("Referrer-Policy") == "no-referrer"


def test_answers_may_be_kept_by_their_reader_alone(site: Site) -> None:
    for request in walk.requests(site.ids):
        if request.kind not in (walk.OWN, walk.LIST):
            continue
        for who in (site.ada, site.bob, {}):
            got = site.ask("GET", request.url, who, None)
            assert got.header("Cache-Control") in ("private, no-cache", "no-store"), request
            assert {"Authorization", "Cookie", "Origin"} <= set(got.header("Vary").split(", ")), request
            assert got.header("X-Content-Type-Options") == "nosniff"
            assert got.header("Referrer-Policy") == "no-referrer"


def test_in_public_cookies_of_others_on_the_host_do_no_harm(tmp_path: Path) -> None:
    walk.write_images(tmp_path / "images")
    service = start_service(tmp_path / "images")
    ask = walk.flask_ask(service.app.test_client(use_cookies=False))
    assert ask("GET", ITEMS, {"Cookie": "sessionid=one; sessionid=two; sessionid=ä"}, None).status == 200
