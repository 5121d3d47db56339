"""Several processes that ask about one image at once: one of them asks OMERO.web, and none waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from roiservice.auth import readcheck
from roiservice.auth.local import LocalStore
from roiservice.auth.readcheck import Decision, ReadCheck
from roiservice.auth.sessions import SessionNames
from roiservice.omeroweb.client import OmeroWeb as Client
from tests.auth.support import SECRET
from tests.omeroweb.images import OmeroImage
from tests.omeroweb.standin import OmeroWeb

Make = Callable[[], ReadCheck]


@pytest.fixture
def web() -> Iterator[OmeroWeb]:
    with OmeroWeb(latency=0.3) as server:
        server.add(OmeroImage(1, readers=frozenset({"ada"})))
        yield server


@pytest.fixture
def process(web: OmeroWeb, tmp_path: Path) -> Make:
    """What a process of one host has of its own; they share the file alone."""

    def make() -> ReadCheck:
        client = Client(web.url, timeout=2)
        return ReadCheck(client, SessionNames(SECRET, "sessionid", web.url), LocalStore(tmp_path / "shared"))

    return make


def ask_all(checks: list[ReadCheck], session: str | None, times: int = 50) -> list[Decision]:
    start = threading.Barrier(len(checks) * times)

    def ask(check: ReadCheck) -> Decision:
        start.wait(30)
        return check.may_read(session, 1)

    with ThreadPoolExecutor(len(checks) * times) as threads:
        return list(threads.map(ask, checks * times))


def test_one_of_all_processes_asks(web: OmeroWeb, process: Make) -> None:
    checks = [process() for _ in range(4)]
    assert set(ask_all(checks, web.login("ada"))) == {Decision.ALLOWED}
    assert len(web.requests) == 1
    assert set(ask_all(checks, web.login("bob"))) == {Decision.REFUSED}
    assert len(web.requests) == 2


def test_answers_that_are_not_kept_are_asked_for_by_each(web: OmeroWeb, process: Make) -> None:
    checks = [process() for _ in range(4)]
    assert set(ask_all(checks, "a" * 32)) == {Decision.LOGIN}
    assert len(web.requests) <= 4
    web.always = 500
    assert set(ask_all(checks, web.login("ada"))) == {Decision.UNAVAILABLE}
    web.always = None
    assert process().may_read(web.login("ada"), 1) is Decision.ALLOWED


def test_a_process_that_was_killed_while_it_asked_stops_nobody(
    web: OmeroWeb, process: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readcheck, "LONGEST_FLIGHT", 1)
    ada = web.login("ada")
    killed, other = process(), process()
    assert killed._shared is not None
    assert killed._shared.take_off((killed._names.of(ada), 1))
    assert other.may_read(ada, 1) is Decision.ALLOWED


def test_without_the_file_each_asks(web: OmeroWeb, process: Make, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    ada = web.login("ada")
    assert [process().may_read(ada, 1) for _ in range(2)] == [Decision.ALLOWED] * 2
    assert len(web.requests) == 2
