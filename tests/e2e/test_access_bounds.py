"""What holds of running processes over time and between requests: attacks 17, 20 and 22 of docs/access.md.

The processes have a clock that the tests put forward.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from roiservice.catalog.registry import FIRST_ID, ROIS
from tests.cache.support import RedisServer
from tests.e2e.access import WORKERS, Guarded, ask_at, bearer, guarded
from tests.omeroweb.standin import OmeroWeb
from tests.web.walk import ITEMS, NONE, PRIVATE, SHARED

# Python imports a module of this name before anything else.
SITECUSTOMIZE = """
import os, time
real = time.time
def put_forward():
    with open(os.environ["TESTS_CLOCK"]) as file:
        return real() + float(file.read())
time.time = put_forward
"""
SESSIONS = ":1:django.contrib.sessions.cache"
TRIES = 3 * WORKERS  # all processes answer some of these


@dataclass
class Clock:
    """By how many seconds the clock of the service is ahead."""

    file: Path
    ahead: float = 0.0

    def passes(self, seconds: float) -> None:
        self.ahead += seconds
        beside = self.file.with_suffix(".new")
        beside.write_text(str(self.ahead))
        beside.replace(self.file)


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(tmp_path / "clock/now")
    clock.file.parent.mkdir()
    (clock.file.parent / "sitecustomize.py").write_text(SITECUSTOMIZE)
    clock.passes(0)
    monkeypatch.setenv("TESTS_CLOCK", str(clock.file))
    monkeypatch.setenv("PYTHONPATH", str(clock.file.parent), prepend=os.pathsep)
    return clock


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with OmeroWeb() as web, guarded(tmp_path_factory.mktemp("site"), web) as running:
        yield running


def states(site: Guarded, who: Mapping[str, str]) -> set[int]:
    return {site.get(ITEMS, **who).status for _ in range(TRIES)}


def test_attack_17_logout_and_changed_permissions(tmp_path: Path, clock: Clock) -> None:
    """Within a minute for sessions, within its own lifetime for a token; no process remembers for longer."""
    with OmeroWeb() as web, guarded(tmp_path, web) as site:
        ada, bob = site.session("ada"), site.session("bob")
        wanted, here = {"images": [PRIVATE]}, {"Origin": site.service.base}
        assert (states(site, ada), states(site, bob)) == ({200}, {404})
        token = bearer(json.loads(site.get("/tokens", "POST", wanted, **ada, **here).body)["token"])
        web.images[PRIVATE].readers = frozenset({"bob"})  # chmod, chgrp
        clock.passes(10)
        assert states(site, bob) == {200}
        clock.passes(50)
        assert states(site, ada) == {404}
        web.logout("bob")
        clock.passes(60)
        assert states(site, bob) == {401}
        assert states(site, token) == {200}
        clock.passes(300 - 120)
        assert states(site, token) == {401}
        assert site.get("/tokens", "POST", wanted, **ada, **here).status == 404


def test_attack_17_logout_where_sessions_can_be_read(tmp_path: Path) -> None:
    """It counts at once; the service may do no more in that Redis than docs/access.md gives it."""
    redis = RedisServer(tmp_path)
    redis.start()
    user = "roiservice on >secret ~*django.contrib.sessions.cache* +get +select"
    redis.client().execute_command("ACL", "SETUSER", *user.split())
    url = redis.url.replace("//", "//roiservice:secret@")
    try:
        with OmeroWeb() as web, guarded(tmp_path, web, sessions_redis_url=url) as site:
            session = web.login("ada")
            who = {"Cookie": f"sessionid={session}", "Origin": site.service.base}
            kept = {"connector": {"server_id": 1, "is_public": False, "user_id": 4}, "can_create": True}
            redis.client().set(SESSIONS + session, pickle.dumps(kept))
            assert states(site, who) == {200}
            site.get("/tokens", "POST", {"images": [PRIVATE]}, **who)
            redis.client().delete(SESSIONS + session)
            assert states(site, who) == {401}  # OMERO.web was not asked: the stand-in still knows it
            web.public = "guest"
            for url, body in (("/tokens", {"images": [SHARED]}), ("/revoke", {})):
                assert site.get(url, "POST", body, **who).status == 401
            assert site.get(f"/images/{SHARED}", **who).status == 200
    finally:
        redis.stop()


def test_attack_20_missing_and_unreadable_take_the_same_way(site: Guarded) -> None:
    """No clock is looked at: both ask OMERO.web once, then nobody, and say the same."""
    bob = site.session("bob")
    for image in (PRIVATE, NONE):
        before = len(site.web.requests)
        answers = {site.get(f"/images/{image}", **bob).body.replace(b"%d" % image, b"N") for _ in range(9)}
        assert len(answers) == 1
        assert len(site.web.requests) - before == 1
    assert (
        len(
            {
                site.get(f"/images/{image}", **bob).body.replace(b"%d" % image, b"N")
                for image in (PRIVATE, NONE)
            }
        )
        == 1
    )


def test_attack_20_ids_of_hidden_rois_and_of_none(site: Guarded) -> None:
    """Each costs one question, in whatever process and order they are asked for."""
    ada, bob = site.session("ada"), site.session("bob")
    rois = json.loads(site.get(f"/api/v0/m/rois/?image={PRIVATE}", **ada).body)["data"]
    hidden = [each["@id"] for each in rois if each["@id"] >= FIRST_ID]
    assert len(hidden) == 9
    site.get(f"/images/{PRIVATE}", **bob)
    for number, none in zip(hidden * 2, range(9 * 10**15, 9 * 10**15 + 18), strict=True):
        took = []
        for each in (number, none):
            before = len(site.web.asked("/api/v0/m/images/"))
            got = site.get(f"/iviewer/roi/{each}/page_data/", **bob)
            took.append(len(site.web.asked("/api/v0/m/images/")) - before)
            assert got.status == 404
        assert took == [1, 1]


def test_attack_22_one_request_is_not_thousands_of_questions(site: Guarded) -> None:
    spread = ",".join(str(FIRST_ID + number * ROIS + 1) for number in range(1000, 8000))
    before = len(site.web.requests)
    for who in ({}, {"Cookie": "sessionid=" + "f" * 32}, site.session("bob")):
        assert b"layers" in site.get(f"/iviewer/shape_stats/?ids={spread}&z=0&t=0", **who).body
    assert len(site.web.requests) == before


def test_headers_of_proxies_count_only_where_the_settings_say_so(site: Guarded) -> None:
    """gunicorn, left to itself, believes whoever asks from this host."""
    token = bearer(site.forge.token())
    for name, value in (
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Protocol", "ssl"),
        ("X-Forwarded-Ssl", "on"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Port", "81"),
        ("X-Forwarded-Prefix", "/evil"),
        ("Forwarded", "host=evil.example;proto=https"),
        ("X-Real-Ip", "10.0.0.1"),
        ("Script-Name", "/evil"),
        ("SCRIPT_NAME", "/images"),
        ("PATH_INFO", f"/images/{SHARED}"),
        ("REMOTE_USER", "root"),
    ):
        got = ask_at(site.service.base)("GET", f"/images/{PRIVATE}", {**token, name: value}, None)
        assert got.status == 200, name
        links = [link["href"] for link in json.loads(got.body)["links"]]
        assert links
        assert all(href.startswith(f"{site.service.base}/") for href in links), (name, links)
