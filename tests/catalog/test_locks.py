"""Builders of several machines: real sessions that wait, are killed, or lose their connection."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from roiservice.catalog import locks as locks_module
from roiservice.catalog.database import LOCKS
from roiservice.catalog.locks import CLAIM, LayerLocks, SharedLocks
from roiservice.catalog.registry import Registry
from roiservice.errors import Building, RegistryFailed
from tests.catalog.support import wait_for
from tests.catalog.test_database import away
from tests.postgres import PostgresServer

HOLD = """
import sys, time
from pathlib import Path
from roiservice.catalog.registry import Registry
folder, url = Path(sys.argv[1]), sys.stdin.readline().strip()
with Registry(folder, url).locks.hold(5, folder, None):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def machines(tmp_path: Path, postgres_url: str) -> tuple[SharedLocks, SharedLocks]:
    """The locks of two machines with one registry."""
    one, other = (Registry(tmp_path / name, postgres_url).locks for name in "ab")
    assert isinstance(one, SharedLocks)
    assert isinstance(other, SharedLocks)
    return one, other


@contextmanager
def holder(folder: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that builds layer 5 for as long as it is let."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{url}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def refused(locks: LayerLocks, layer: int, folder: Path, timeout: float = 0.0) -> bool:
    """Whether another builder keeps this one from building."""
    try:
        with locks.hold(layer, folder, timeout):
            return False
    except TimeoutError:
        return True


def test_one_machine_alone_keeps_nobody_out(tmp_path: Path) -> None:
    locks = Registry(tmp_path).locks
    with locks.hold(5, tmp_path, 0.0), locks.hold(5, tmp_path, 0.0):
        locks.confirm(5, "labels:cells", ready=True)
        assert not locks.is_held(5)
    assert not (tmp_path / CLAIM).exists()


def test_a_layer_has_one_builder(tmp_path: Path, machines: tuple[LayerLocks, LayerLocks]) -> None:
    one, other = machines
    with one.hold(5, tmp_path, 0.0):
        assert one.is_held(5)
        assert other.is_held(5)
        assert refused(other, 5, tmp_path)
        assert not refused(other, 6, tmp_path / "..")
        one.confirm(5, "labels:cells", ready=True)
        with other.kept_out(5) as none:
            assert not none
    assert not other.is_held(5)
    assert not (tmp_path / CLAIM).exists()
    assert not refused(other, 5, tmp_path)


def test_who_waits_is_next(tmp_path: Path, machines: tuple[LayerLocks, LayerLocks]) -> None:
    one, other = machines
    with ThreadPoolExecutor(1) as pool:
        with one.hold(5, tmp_path, 0.0):
            waiting = pool.submit(refused, other, 5, tmp_path, 60.0)
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
        assert waiting.result(30) is False


def test_those_who_look_keep_builders_out_but_not_each_other(
    tmp_path: Path, machines: tuple[LayerLocks, LayerLocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks_module, "LONGEST_LOOK", 0.1)
    one, other = machines
    with one.kept_out(5) as none, other.kept_out(5) as none_either:
        assert none
        assert none_either
        assert refused(other, 5, tmp_path)


def test_who_waits_to_build_has_a_turn_however_many_look(
    tmp_path: Path, machines: tuple[LayerLocks, LayerLocks]
) -> None:
    one, other = machines
    with ThreadPoolExecutor(1) as pool:
        with one.kept_out(5):
            waiting = pool.submit(refused, other, 5, tmp_path, 60.0)
            wait_for(lambda: one.is_held(5))  # who looks now does not keep it waiting any longer
        assert waiting.result(30) is False


def test_many_who_ask_at_once_build_one_after_the_other(
    tmp_path: Path, machines: tuple[LayerLocks, LayerLocks]
) -> None:
    building, most, lock = 0, 0, threading.Lock()

    def build(number: int) -> None:
        nonlocal building, most
        # Threads of one machine are kept apart by files.
        with lock if number % 2 else other_lock, machines[number % 2].hold(5, tmp_path, None):
            building += 1
            most = max(most, building)
            building -= 1

    other_lock = threading.Lock()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(build, range(16)))
    assert most == 1


def test_a_killed_builder_holds_nothing_and_the_next_one_gives_it_time(
    tmp_path: Path,
    postgres_url: str,
    machines: tuple[LayerLocks, LayerLocks],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(locks_module.time, "sleep", waits.append)
    with holder(tmp_path, postgres_url) as process:
        assert machines[0].is_held(5)
        process.kill()
        process.wait()
        wait_for(lambda: not machines[0].is_held(5))
        assert (tmp_path / CLAIM).exists()
        waits.clear()
        with machines[0].hold(5, tmp_path, 0.0):
            assert locks_module.TAKEOVER in waits, "it may be alive, and come back for its lock"
    assert not (tmp_path / CLAIM).exists()


def test_a_builder_whose_session_ended_goes_on(
    tmp_path: Path,
    postgres_server: PostgresServer,
    machines: tuple[LayerLocks, LayerLocks],
) -> None:
    one, other = machines
    with one.hold(5, tmp_path, 0.0):
        postgres_server.end_sessions()
        assert refused(other, 5, tmp_path), "it had no time to come back"
        assert other.is_held(5)
        one.confirm(5, "labels:cells", ready=True)


def test_who_looks_for_long_takes_no_layer_from_a_builder_that_comes_back(
    tmp_path: Path,
    postgres_server: PostgresServer,
    machines: tuple[SharedLocks, SharedLocks],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the catalogs of a layer that is looked at lie on storage that is slow to answer."""
    monkeypatch.setattr(locks_module, "LONGEST_LOOK", 0.05)
    one, other = machines
    with one.hold(5, tmp_path, 0.0):
        with ExitStack() as looking:
            with one._held[5]._using:  # it comes back later
                postgres_server.end_sessions()
                assert looking.enter_context(other.kept_out(5))
            assert not one._held[5].keep()
            one.confirm(5, "labels:cells")
        one.confirm(5, "labels:cells", ready=True)
        assert other.is_held(5)
    assert not (tmp_path / CLAIM).exists()


def test_a_builder_goes_on_while_the_server_is_away_and_is_done_when_it_is_back(
    tmp_path: Path,
    postgres_server: PostgresServer,
    machines: tuple[LayerLocks, LayerLocks],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = machines
    with one.hold(5, tmp_path, 0.0):
        with away(postgres_server):
            one.confirm(5, "labels:cells")
            monkeypatch.setattr(locks_module, "PATIENCE", 0.1)
            with pytest.raises(RegistryFailed):
                one.confirm(5, "labels:cells", ready=True)
            with pytest.raises(RegistryFailed):
                refused(other, 5, tmp_path)
        monkeypatch.setattr(locks_module, "PATIENCE", 20.0)
        one.confirm(5, "labels:cells", ready=True)
        wait_for(lambda: _is_held(other, 5))


def test_what_took_long_to_build_waits_as_long_to_be_put_in_place(
    tmp_path: Path,
    postgres_server: PostgresServer,
    machines: tuple[SharedLocks, SharedLocks],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locks_module, "PATIENCE", 0.1)
    one, _ = machines
    with one.hold(5, tmp_path, 0.0), ThreadPoolExecutor(1) as pool:
        one._held[5].since -= 60.0
        with away(postgres_server):
            waiting = pool.submit(one.confirm, 5, "labels:cells", ready=True)
            with pytest.raises(TimeoutError):
                waiting.result(1.0)
        waiting.result(30)
        wait_for(lambda: _is_held(one, 5))


def _is_held(locks: LayerLocks, layer: int) -> bool:
    try:
        return locks.is_held(layer)
    except RegistryFailed:  # for two seconds more it is not asked
        return False


def test_a_builder_that_was_replaced_stops_and_leaves_the_other_alone(
    tmp_path: Path,
    postgres_server: PostgresServer,
    machines: tuple[LayerLocks, LayerLocks],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locks_module, "WATCH", 3600.0)  # it was cut off for long
    with machines[0].hold(5, tmp_path, 0.0):
        postgres_server.end_sessions()
        with postgres_server.connect() as faster:
            faster.execute("select pg_advisory_lock(%s, 5)", [LOCKS])
            (tmp_path / CLAIM).write_text("the other")
            with pytest.raises(Building, match="labels:cells"):
                machines[0].confirm(5, "labels:cells", ready=True)
            with pytest.raises(Building):
                machines[0].confirm(5, "labels:cells")
    assert (tmp_path / CLAIM).read_text() == "the other"
