"""Machines that share catalogs and a registry: who builds, what others say, what goes on without it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roiservice.catalog import build as build_module
from roiservice.catalog import builder as builder_module
from roiservice.catalog import engine as engine_module
from roiservice.catalog import keeper as keeper_module
from roiservice.catalog import locks as locks_module
from roiservice.catalog import tracing
from roiservice.catalog.elsewhere import TRY_AGAIN, start_build
from roiservice.catalog.failures import FAILURE
from roiservice.catalog.filelocks import being_built
from roiservice.catalog.keeper import Keeper
from roiservice.catalog.locks import CLAIM, SharedLocks
from roiservice.catalog.progress import note_start, progress_path, written_progress
from roiservice.catalog.registry import Registry
from roiservice.catalog.task import LayerKey, Task
from roiservice.errors import Building, RegistryFailed
from roiservice.sources.limits import Limits
from tests.catalog.support import RULES, layer_key, squares, wait_for
from tests.catalog.test_database import away
from tests.catalog.test_streamed import small_pieces
from tests.postgres import ENCODED, PASSWORD, PostgresServer
from tests.stores import write_image


class Machines:
    """Two machines, `one` and `other`, with a layer in one store and catalogs in one folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.store = write_image(folder / "1.zarr", labels={"cells": squares(40, 50)})
        self.one, self.other = self.keeper("a"), self.keeper("b")
        self.layer: LayerKey = layer_key(self.registry("a"), self.store)
        self.directory = self.one.current.directory(self.layer)
        self.progress = progress_path(self.one.current.pointer(self.layer))

    def registry(self, name: str) -> Registry:
        return Registry(self.folder / name, self.url)

    def keeper(self, name: str, **rules: Any) -> Keeper:
        """A keeper of a new process on the machine of that name."""
        rules_of_it = replace(RULES, **rules)
        return Keeper(self.folder / "catalogs", self.registry(name), rules_of_it, Limits())

    def building(self) -> Any:
        """For as long as this is held, the machine `other` builds. Files keep nobody out."""
        self.directory.mkdir(parents=True, exist_ok=True)
        return self.registry("b").locks.hold(self.layer.number, self.directory, None)


class Proxy:
    """Stands between one machine and PostgreSQL, until it is cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def cut(self) -> None:
        """End all connections, and take no more."""
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += near, far
                self._start(self._pass_on, near, far)
                self._start(self._pass_on, far, near)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)


@pytest.fixture
def machines(tmp_path: Path, postgres_url: str) -> Machines:
    return Machines(tmp_path, postgres_url)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Version numbers of what this process builds."""
    built: list[int] = []
    real = build_module.build_catalog

    def counted(layer: Any, version: Any, *arguments: Any, **options: Any) -> None:
        built.append(version.number)
        real(layer, version, *arguments, **options)

    monkeypatch.setattr(build_module, "build_catalog", counted)
    return built


def test_machines_share_numbers_and_catalogs(machines: Machines, builds: list[int]) -> None:
    assert layer_key(machines.registry("b"), machines.store).number == machines.layer.number
    version = machines.one.catalog(machines.layer).version
    assert machines.other.catalog(machines.layer).version == version
    assert machines.other.status(machines.layer).state == "done"
    assert builds == [version]


def test_machines_that_ask_at_once_share_one_build(machines: Machines, builds: list[int]) -> None:
    with ThreadPoolExecutor(4) as pool:
        keepers = [machines.keeper(name) for name in "abab"]
        versions = set(pool.map(lambda keeper: keeper.catalog(machines.layer).version, keepers))
    assert builds == list(versions)


def test_the_progress_of_another_machine_is_told(machines: Machines) -> None:
    with machines.building():
        assert machines.one.status(machines.layer).state == "waiting"
        written_progress(machines.progress, 1000, None)
        status = machines.one.status(machines.layer)
        assert (status.state, status.fraction) == ("building", 0.0)
    assert machines.one.status(machines.layer).state == "failed", "it is over, and left its file"


def test_a_process_that_another_machine_has_just_started_is_waited_for(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.directory.mkdir(parents=True)
    note_start(machines.progress)
    assert machines.one.status(machines.layer).state == "waiting"
    monkeypatch.setattr(SharedLocks, "beginning", 0.0)
    assert machines.one.status(machines.layer).state == "failed"


@pytest.mark.parametrize("inline_pixels", [10, 2**26], ids=["large", "small"])
def test_what_another_machine_builds_is_not_built_here(
    machines: Machines, builds: list[int], inline_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "SHORT_WAIT", 0.1)
    keeper = machines.keeper("a", inline_pixels=inline_pixels)
    with machines.building():
        with pytest.raises(Building):
            keeper.catalog(machines.layer)
        keeper.start(machines.layer)
    assert builds == []
    assert keeper._processes.running == {}
    assert not (machines.directory / FAILURE).exists()


def test_the_command_waits_for_another_machine(machines: Machines, builds: list[int]) -> None:
    with ThreadPoolExecutor(1) as pool:
        with machines.building():
            waiting = pool.submit(machines.one.build, machines.layer)
            with pytest.raises(TimeoutError):
                waiting.result(0.5)
            assert builds == []
        assert waiting.result(60).version == builds[0]


def test_the_process_that_builds_gets_the_address_where_nobody_sees_it(
    machines: Machines, capfd: pytest.CaptureFixture[str]
) -> None:
    keeper = machines.keeper("a", inline_pixels=10)
    with pytest.raises(Building):
        keeper.catalog(machines.layer)
    (process,) = keeper._processes.running.values()
    command = Path(f"/proc/{process.pid}/cmdline").read_text()
    wait_for(lambda: keeper.existing(machines.layer) is not None)
    process.wait(60)
    assert machines.other.catalog(machines.layer).meta["counts"]["features"] > 0
    for text in (command, *capfd.readouterr()):
        assert PASSWORD not in text
        assert ENCODED not in text


def test_a_process_without_the_registry_says_nothing_of_the_layer(
    machines: Machines, capfd: pytest.CaptureFixture[str]
) -> None:
    url = "postgresql://owner:pa55word@127.0.0.1:1/d"
    places = machines.folder / "catalogs", machines.folder / "c"
    task = Task(machines.layer, *places, "uuid", RULES, Limits(), url)
    with being_built(machines.directory) as mark:
        process = start_build(task, mark)
    assert process.wait(60) == TRY_AGAIN
    assert "pa55word" not in "".join(capfd.readouterr())
    assert not (machines.directory / FAILURE).exists()
    keeper = machines.keeper("a", inline_pixels=10)
    keeper._processes.running[machines.layer.number] = process
    with pytest.raises(Building):
        keeper.catalog(machines.layer)
    wait_for(lambda: keeper.existing(machines.layer) is not None)


def test_what_is_built_is_served_without_the_registry(
    machines: Machines, postgres_server: PostgresServer
) -> None:
    keeper = machines.keeper("a", check_interval=0.0)
    version = keeper.catalog(machines.layer).version
    with away(postgres_server):
        for _ in range(5):
            assert keeper.catalog(machines.layer).version == version
        fresh = replace(machines.layer, number=machines.layer.number + 100)
        for _ in range(2):
            with pytest.raises(RegistryFailed):
                keeper.catalog(fresh)
        assert not (keeper.current.directory(fresh) / FAILURE).exists()

    def again() -> bool:
        try:
            return keeper.status(machines.layer).state == "done"
        except RegistryFailed:
            return False

    wait_for(again)


def test_a_builder_that_was_replaced_puts_nothing_in_place(
    machines: Machines, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks_module, "WATCH", 3600.0)
    real = build_module.build_catalog
    with postgres_server.connect() as faster:

        def replaced(*arguments: Any, **options: Any) -> None:
            real(*arguments, **options)
            faster.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid in"
                " (select pid from pg_locks where locktype = 'advisory' and objid = %s)",
                [machines.layer.number],
            )
            lock = "select pg_try_advisory_lock(%s, %s)"
            wait_for(lambda: faster.execute(lock, [locks_module.LOCKS, machines.layer.number]).fetchone()[0])
            (machines.directory / CLAIM).write_text("the other")

        monkeypatch.setattr(build_module, "build_catalog", replaced)
        with pytest.raises(Building):
            machines.one.build(machines.layer)
    assert machines.one.existing(machines.layer) is None
    assert not (machines.directory / FAILURE).exists()


def test_a_builder_that_was_replaced_stops_at_its_next_block(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[int] = []

    def confirm(self: SharedLocks, layer: int, collection: str, *, ready: bool = False) -> None:
        lost.append(layer)
        raise Building(collection)

    monkeypatch.setattr(SharedLocks, "confirm", confirm)
    with pytest.raises(Building):
        machines.one.build(machines.layer)
    assert lost == [machines.layer.number]
    assert not list(machines.directory.glob("*/layer.json"))


@contextlib.contextmanager
def locked_here(directory: Path, _timeout: float | None = None) -> Iterator[None]:
    """The file that keeps builders of one machine apart, which here are to be on several."""
    directory.mkdir(parents=True, exist_ok=True)
    yield


@pytest.fixture
def many_blocks(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> LayerKey:
    """A layer of nine blocks, built by machines that see no other's files of locks."""
    small_pieces(monkeypatch.setattr)
    monkeypatch.setattr(builder_module, "locked", locked_here)
    store = write_image(machines.folder / "2.zarr", labels={"cells": squares(90, 70)}, chunks=(10, 70))
    return layer_key(machines.registry("a"), store)


def test_a_builder_that_is_cut_off_from_postgresql_leaves_the_layer_to_the_next(
    machines: Machines, many_blocks: LayerKey, postgres_server: PostgresServer
) -> None:
    """It can reach the catalogs all the time, and neither goes on nor comes upon what the other writes."""
    proxy = Proxy(postgres_server.port)
    url = machines.url.replace(f":{postgres_server.port}/", f":{proxy.port}/")
    registry = Registry(machines.folder / "c", url)
    cut_off = Keeper(machines.folder / "catalogs", registry, RULES, Limits())
    begun, stopped = threading.Event(), threading.Event()

    def wait_in_the_middle(pixels: int, _features: int) -> None:
        if pixels and not begun.is_set():
            begun.set()
            assert stopped.wait(60)

    with ThreadPoolExecutor(1) as pool:
        others: list[Any] = []

        def be_cut_off(pixels: int, _features: int) -> None:
            if pixels and not others:
                proxy.cut()
                others.append(pool.submit(machines.other.build, many_blocks, progress=wait_in_the_middle))
                assert begun.wait(60)

        try:
            with pytest.raises(Building):
                cut_off.build(many_blocks, progress=be_cut_off)
        finally:
            stopped.set()
        catalog = others[0].result(60)
    assert machines.one.catalog(many_blocks).version == catalog.version
    assert catalog.meta["counts"]["features"] == squares(90, 70).max()
    folder = machines.one.current.directory(many_blocks)
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [str(catalog.version)]
    assert not (folder / FAILURE).exists()


def test_a_machine_goes_on_from_the_blocks_of_another(
    machines: Machines, many_blocks: LayerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "AHEAD", 1)
    traced: list[Any] = []
    real = engine_module.trace_strip
    monkeypatch.setattr(engine_module, "trace_strip", lambda *a: traced.append(a) or real(*a))

    def interrupt(pixels: int, _features: int) -> None:
        if pixels and len(traced) > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        machines.one.build(many_blocks, progress=interrupt)
    assert len(traced) < 9
    machines.other.build(many_blocks)
    assert len(traced) == 9
