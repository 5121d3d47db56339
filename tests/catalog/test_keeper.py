"""Which catalog is current: built once, replaced when its source changes, rebuilt when it is damaged."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from roiservice.catalog import build as build_module
from roiservice.catalog import builder as builder_module
from roiservice.catalog import columns as columns_module
from roiservice.catalog import elsewhere, filelocks
from roiservice.catalog import keeper as keeper_module
from roiservice.catalog.failures import FAILURE
from roiservice.catalog.filelocks import locked
from roiservice.catalog.keeper import LONGEST_WAIT, Keeper
from roiservice.catalog.pointers import NUMBERS, highest_number
from roiservice.catalog.progress import FAILED
from roiservice.catalog.registry import Registry
from roiservice.catalog.task import LayerKey
from roiservice.errors import (
    Building,
    NoRoom,
    NotOpened,
    NotWritten,
    RoiServiceError,
    SourceDamaged,
    SourceRefused,
)
from roiservice.vectorize.outlines import Outline
from tests.catalog.support import age, keeper_at, layer_key, squares, starting_with, wait_for
from tests.catalog.test_writer import FILES
from tests.stores import write_array, write_image

RUN = """
import sys
from pathlib import Path
from tests.catalog.support import keeper_at, layer_key
from roiservice.catalog.registry import Registry
folder = Path(sys.argv[1])
layer = layer_key(Registry(folder / "state"), folder / "1.zarr")
print("ready", flush=True)
sys.stdin.read(1)
catalog = keeper_at(folder).catalog(layer)
print(catalog.version, catalog.meta["counts"]["features"], flush=True)
"""

ENDING = """
import contextlib, logging, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tests.catalog.support import keeper_at, layer_key
from roiservice.catalog import builder as module
from roiservice.catalog.registry import Registry
looked = module.source_token
def at_the_end(*given):
    with contextlib.suppress(RuntimeError):
        while True:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(int)
    return looked(*given)
module.source_token = at_the_end
logging.basicConfig()
folder = Path(sys.argv[1])
keeper_at(folder, check_interval=0.0).catalog(layer_key(Registry(folder / "state"), folder / "1.zarr"))
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_image(
        tmp_path / "1.zarr",
        labels={"cells": squares(40, 50)},
        image_label={"properties": [{"label-value": 1, "class": "a"}]},
    )


@pytest.fixture
def layer(tmp_path: Path, store: Path) -> LayerKey:
    return layer_key(Registry(tmp_path / "state"), store)


def change(store: Path, **options: Any) -> None:
    """Write other labels into the store."""
    shutil.rmtree(store)
    write_image(store, labels={"cells": squares(60, 60)}, **options)


def versions_on_disk(keeper: Keeper, layer: LayerKey) -> list[int]:
    return sorted(int(path.name) for path in keeper.current.directory(layer).iterdir() if path.name.isdigit())


def half_built(keeper: Keeper, layer: LayerKey) -> list[str]:
    return [path.name for path in keeper.current.directory(layer).iterdir() if path.suffix == ".new"]


def start(folder: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("!")
    process.stdin.flush()


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Version numbers of what this process builds; the building itself is the real one, only slower."""
    built: list[int] = []
    real = build_module.build_catalog

    def counted(layer: Any, version: Any, *arguments: Any, **options: Any) -> None:
        built.append(version.number)
        time.sleep(0.2)
        real(layer, version, *arguments, **options)

    monkeypatch.setattr(build_module, "build_catalog", counted)
    return built


def test_a_catalog_is_built_once_and_found_again(tmp_path: Path, layer: LayerKey, builds: list[int]) -> None:
    keeper = keeper_at(tmp_path)
    assert keeper.existing(layer) is None
    first = keeper.catalog(layer)
    assert keeper.catalog(layer) is keeper.existing(layer), "opened again for each request"
    assert keeper.catalog(layer).version == first.version
    other = keeper_at(tmp_path)
    assert other.catalog(layer).version == first.version
    assert builds == [first.version]


def test_threads_that_ask_at_once_share_one_build(tmp_path: Path, layer: LayerKey, builds: list[int]) -> None:
    keeper = keeper_at(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        catalogs = list(pool.map(lambda _: keeper.catalog(layer), range(16)))
    assert len(builds) == 1
    assert {catalog.version for catalog in catalogs} == set(builds)


def test_threads_of_several_keepers_share_one_build(
    tmp_path: Path, layer: LayerKey, builds: list[int]
) -> None:
    keepers = [keeper_at(tmp_path) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        versions = set(pool.map(lambda keeper: keeper.catalog(layer).version, keepers))
    assert builds == list(versions)


def test_processes_that_ask_at_once_share_one_build(tmp_path: Path, store: Path) -> None:
    processes = [start(tmp_path) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        go(process)
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    assert len({out for out, _ in answers}) == 1
    (directory,) = (tmp_path / "catalogs").glob("*/[0-9]*")
    assert len([path for path in directory.iterdir() if path.is_dir()]) == 1


def test_few_requests_wait_for_a_build_and_the_rest_are_told(
    tmp_path: Path, layer: LayerKey, builds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "SHORT_WAIT", 0.05)
    keeper = keeper_at(tmp_path, waiters=2)
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(keeper.catalog(layer).version)
        except Building as error:
            answers.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = [answer for answer in answers if isinstance(answer, Building)]
    assert len(builds) == 1
    assert 1 <= len(told) <= 6
    assert all(answer.retry_after > 0 for answer in told)
    assert keeper.catalog(layer).version == builds[0]


def test_a_changed_source_is_built_anew_and_the_old_goes_after_its_grace(
    tmp_path: Path, store: Path, layer: LayerKey
) -> None:
    keeper = keeper_at(tmp_path, check_interval=0.0)
    old = keeper.catalog(layer)
    change(store)
    assert keeper.catalog(layer).version == old.version, "a request must not wait for the refresh"
    wait_for(lambda: keeper.catalog(layer).version != old.version)
    new = keeper.catalog(layer)
    assert new.meta["counts"]["features"] > old.meta["counts"]["features"]
    assert versions_on_disk(keeper, layer) == [old.version, new.version]
    assert old.features["label"].sum() > 0, "readers of the old version go on"


def test_a_version_just_replaced_is_kept_however_old_it_is(
    tmp_path: Path, store: Path, layer: LayerKey
) -> None:
    keeper = keeper_at(tmp_path, keep_replaced=600.0)
    old = keeper.build(layer)
    age(keeper.current.directory(layer) / str(old.version), 86_400)  # it was built yesterday
    change(store)
    new = keeper.build(layer)
    assert versions_on_disk(keeper, layer) == [old.version, new.version]


def test_a_version_replaced_long_ago_is_swept_by_the_next_build(
    tmp_path: Path, store: Path, layer: LayerKey
) -> None:
    keeper = keeper_at(tmp_path, keep_replaced=0.05)
    old = keeper.build(layer)
    change(store)
    keeper.build(layer)
    time.sleep(0.1)
    change(store, chunks=(30, 30))
    new = keeper.build(layer)
    assert old.version not in versions_on_disk(keeper, layer)
    assert new.version in versions_on_disk(keeper, layer)


def test_a_version_replaced_long_ago_is_swept_though_nothing_changes(
    tmp_path: Path, store: Path, layer: LayerKey
) -> None:
    keeper = keeper_at(tmp_path, keep_replaced=0.05, check_interval=0.0)
    keeper.build(layer)
    change(store)
    new = keeper.build(layer)
    time.sleep(0.1)
    keeper.catalog(layer)  # looks at the source again, in the background
    wait_for(lambda: versions_on_disk(keeper, layer) == [new.version], 3)


def test_a_source_that_takes_long_to_look_at_is_not_queued_again_and_again(
    tmp_path: Path, layer: LayerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = keeper_at(tmp_path, check_interval=0.0)
    keeper.build(layer)
    looked = threading.Semaphore(0)
    begun, go_on = threading.Event(), threading.Event()
    real = builder_module.source_token

    def source_token(*source: Any) -> str:
        begun.set()
        assert go_on.wait(60)
        looked.release()
        return real(*source)

    monkeypatch.setattr(builder_module, "source_token", source_token)
    for _ in range(50):
        keeper.catalog(layer)
    assert begun.wait(60)
    assert keeper._background._work_queue.qsize() == 0
    go_on.set()
    assert looked.acquire(timeout=60)
    wait_for(lambda: not keeper._refreshing)
    keeper.catalog(layer)
    assert looked.acquire(timeout=60), "it is looked at again"


def test_who_looks_how_far_a_build_is_keeps_no_change_from_being_noticed(
    tmp_path: Path, layer: LayerKey, store: Path
) -> None:
    keeper = keeper_at(tmp_path, check_interval=0.0)
    first = keeper.build(layer)
    change(store)
    with filelocks.builders_kept_out(keeper.current.directory(layer)):
        keeper.catalog(layer)
        time.sleep(0.1)  # as long as somebody looks
    wait_for(lambda: not keeper._refreshing)
    assert keeper.catalog(layer).version != first.version


def test_what_keeps_a_changed_layer_from_being_built_elsewhere_is_logged(
    tmp_path: Path,
    layer: LayerKey,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    keeper_at(tmp_path).build(layer)
    change(store)

    def start_build(*_arguments: Any) -> Any:
        raise BlockingIOError(errno.EAGAIN, "no process can be started")

    keeper = keeper_at(tmp_path, check_interval=0.0, inline_pixels=1)
    monkeypatch.setattr(keeper._processes, "_start", start_build)
    keeper.catalog(layer)
    keeper.catalog(layer)
    wait_for(lambda: "no process can be started" in caplog.text)
    assert "the catalog stays as it was" in caplog.text


def test_what_a_process_that_ends_cannot_read_is_not_called_damaged(
    tmp_path: Path, layer: LayerKey, store: Path
) -> None:
    keeper = keeper_at(tmp_path)
    keeper.build(layer)
    change(store)
    ended = subprocess.run(
        [sys.executable, "-c", ENDING, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "the catalog stays as it was: the process that built it was stopped" in ended.stderr
    assert "1.zarr" not in ended.stderr
    assert not (keeper.current.directory(layer) / FAILURE).exists()


def test_a_source_is_looked_at_again_once_there_can_be_a_thread_for_it(
    tmp_path: Path, layer: LayerKey, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = keeper_at(tmp_path, check_interval=0.0)
    first = keeper.build(layer)
    change(store)

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", start)
        for _ in range(3):
            assert keeper.catalog(layer).version == first.version
    wait_for(lambda: keeper.catalog(layer).version != first.version)


def test_who_asks_while_no_process_can_be_started_is_to_try_again(
    tmp_path: Path, layer: LayerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, real = keeper_at(tmp_path, inline_pixels=1), elsewhere.start_build

    def start_build(*_arguments: Any) -> Any:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(keeper._processes, "_start", start_build)
    for ask in (keeper.catalog, keeper.start):
        with pytest.raises(Building, match="temporarily unavailable"):
            ask(layer)
    monkeypatch.setattr(keeper._processes, "_start", real)
    with pytest.raises(Building):
        keeper.catalog(layer)
    wait_for(lambda: keeper.existing(layer) is not None)


def test_a_source_that_went_away_leaves_its_catalog_in_service(
    tmp_path: Path, store: Path, layer: LayerKey
) -> None:
    keeper = keeper_at(tmp_path, check_interval=0.0)
    version = keeper.catalog(layer).version
    shutil.rmtree(store)
    for _ in range(5):
        assert keeper.catalog(layer).version == version
        time.sleep(0.02)


def test_going_back_to_an_earlier_state_gives_its_number_again(
    tmp_path: Path, store: Path, layer: LayerKey
) -> None:
    keeper = keeper_at(tmp_path)
    first = keeper.build(layer).version
    kept = tmp_path / "kept"
    os.rename(store, kept)
    write_image(store, labels={"cells": squares(60, 60)})
    assert keeper.build(layer).version != first
    shutil.rmtree(store)
    os.rename(kept, store)
    again = keeper.build(layer)
    assert again.version == first
    assert keeper_at(tmp_path).catalog(layer).version == first


def test_workers_change_over_at_once(tmp_path: Path, store: Path, layer: LayerKey) -> None:
    worker, builder = keeper_at(tmp_path), keeper_at(tmp_path)
    old = worker.catalog(layer).version
    change(store)
    assert worker.catalog(layer).version == old
    assert builder.build(layer).version != old
    assert worker.catalog(layer).version == builder.catalog(layer).version


def test_roi_ids_last_and_shape_ids_do_not(tmp_path: Path, layer: LayerKey, store: Path) -> None:
    keeper = keeper_at(tmp_path)
    old = keeper.build(layer)
    change(store)
    new = keeper.build(layer)
    assert old.first_roi_id == new.first_roi_id
    assert old.first_shape_id != new.first_shape_id


def test_building_by_force_gives_the_same_bytes(tmp_path: Path, layer: LayerKey, builds: list[int]) -> None:
    keeper = keeper_at(tmp_path)
    version = keeper.build(layer).version
    directory = keeper.current.directory(layer) / str(version)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert keeper.build(layer).version == version
    assert len(builds) == 1
    assert keeper.build(layer, force=True).version == version
    assert len(builds) == 2
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_changed_source_that_looks_the_same_is_told_apart_after_building_by_force(
    tmp_path: Path, store: Path, layer: LayerKey
) -> None:
    """Content changed, sizes and times put back: only --force can know. Ids must not name other objects."""
    pixels = store / "labels/cells/0"
    array = squares(40, 50)
    write_array(pixels, array, chunks=(40, 50), compressors=None)
    keeper, worker = keeper_at(tmp_path), keeper_at(tmp_path)
    first = keeper.build(layer)
    worker.catalog(layer)
    (chunk,) = [path for path in pixels.rglob("*") if path.is_file() and path.name != "zarr.json"]
    status = chunk.stat()
    array[array == 1] = 0
    chunk.write_bytes(array.astype("<u2").tobytes())
    os.utime(chunk, ns=(status.st_atime_ns, status.st_mtime_ns))
    forced = keeper.build(layer, force=True)
    assert forced.meta["counts"]["features"] == first.meta["counts"]["features"] - 1
    assert worker.catalog(layer).meta["counts"] == forced.meta["counts"], "a worker goes on with the old one"
    assert forced.version != first.version, "cached pages and ids of the old content stay valid for the new"


@pytest.mark.parametrize(
    "name",
    [*(f"{name}.arrow" for name in FILES if name != "page_rows"), "layer.json"],  # there is one plane
)
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_catalog_is_built_again(
    tmp_path: Path, layer: LayerKey, builds: list[int], name: str, damage: str
) -> None:
    version = keeper_at(tmp_path).catalog(layer).version
    keeper = keeper_at(tmp_path)
    path = keeper.current.directory(layer) / str(version) / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-20])
    assert keeper.catalog(layer).version == version
    assert builds == [version, version]
    assert keeper_at(tmp_path).catalog(layer).meta["counts"]["features"] > 0
    assert len(builds) == 2


def test_a_catalog_that_cannot_be_opened_for_a_moment_stays(
    tmp_path: Path, layer: LayerKey, builds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are short: that says nothing of what is in them."""
    keeper_at(tmp_path).catalog(layer)
    real, short = columns_module.pa.memory_map, [True]

    def memory_map(path: str) -> Any:
        if short:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path)

    monkeypatch.setattr(columns_module.pa, "memory_map", memory_map)
    keeper = keeper_at(tmp_path)
    for ask in (keeper.existing, keeper.catalog, keeper.build):
        with pytest.raises(NotOpened, match="Too many open files"):
            ask(layer)
    short.clear()
    assert keeper.catalog(layer).version == keeper.build(layer).version
    assert len(builds) == 1


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": "x"}', '{"version": null}', "\0" * 40, '{"version": 99999}']
)
def test_a_damaged_current_file_is_written_again(tmp_path: Path, layer: LayerKey, text: str) -> None:
    version = keeper_at(tmp_path).catalog(layer).version
    keeper = keeper_at(tmp_path)
    (pointer,) = keeper.current.directory(layer).glob("current-*.json")
    pointer.write_text(text)
    assert keeper.catalog(layer).version == version
    assert json.loads(pointer.read_text())["version"] == version


@pytest.mark.parametrize("text", ["", "[]", "{}", "\0" * 40])
def test_a_damaged_current_file_of_other_options_keeps_nobody_from_building(
    tmp_path: Path, layer: LayerKey, text: str
) -> None:
    keeper_at(tmp_path, outline=Outline(min_area=5)).catalog(layer)
    keeper = keeper_at(tmp_path)
    (pointer,) = keeper.current.directory(layer).glob("current-*.json")
    pointer.write_text(text)
    assert keeper.catalog(layer).meta["counts"]["features"] > 0


def test_options_live_side_by_side(tmp_path: Path, layer: LayerKey, builds: list[int]) -> None:
    exact = keeper_at(tmp_path, keep_replaced=0.0)
    simple = keeper_at(tmp_path, outline=Outline(simplify=1.0), keep_replaced=0.0)
    versions = [exact.catalog(layer).version, simple.catalog(layer).version]
    assert len(set(versions)) == 2
    assert [exact.build(layer).version, simple.build(layer).version] == versions
    assert versions_on_disk(exact, layer) == sorted(versions)
    assert builds == versions
    assert exact.catalog(layer).first_roi_id == simple.catalog(layer).first_roi_id


def test_a_failure_is_remembered_for_a_while(
    tmp_path: Path, layer: LayerKey, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = next(
        path for path in (store / "labels/cells/0").rglob("*") if path.is_file() and path.name != "zarr.json"
    )
    chunk.write_bytes(b"garbage")
    keeper = keeper_at(tmp_path)
    told = []
    for _ in range(3):
        with pytest.raises(SourceDamaged, match="labels/cells/0") as error:
            keeper.catalog(layer)
        told.append(error.value)
    assert told[1] is not told[2], "it would hold on to all who were told"
    assert half_built(keeper, layer) == []
    change(store)
    monkeypatch.setattr(keeper_module, "REMEMBER_FAILURE", 0.0)
    assert keeper.catalog(layer).meta["counts"]["features"] > 0


def test_a_build_that_was_started_is_not_hidden_behind_the_last_failure(
    tmp_path: Path, layer: LayerKey, store: Path
) -> None:
    document = store / "labels/cells/0/zarr.json"
    content = document.read_text()
    document.write_text("no JSON")
    keeper = keeper_at(tmp_path)
    with pytest.raises(SourceDamaged):
        keeper.catalog(layer)
    document.write_text(content)
    with filelocks.being_built(keeper.current.directory(layer)), pytest.raises(Building):
        keeper.catalog(layer)


def test_failures_of_the_future_are_of_a_clock_that_differs(
    tmp_path: Path, layer: LayerKey, store: Path
) -> None:
    document = store / "labels/cells/0/zarr.json"
    content = document.read_text()
    document.write_text("no JSON")
    with pytest.raises(SourceDamaged):
        keeper_at(tmp_path, inline_pixels=10).build(layer)
    document.write_text(content)
    keeper = keeper_at(tmp_path, inline_pixels=10)
    age(keeper.current.directory(layer) / FAILURE, -300.0)
    with pytest.raises(Building):
        keeper.catalog(layer)
    wait_for(lambda: keeper.existing(layer) is not None)


def test_a_large_layer_is_built_by_another_process(
    tmp_path: Path, layer: LayerKey, builds: list[int]
) -> None:
    keeper = keeper_at(tmp_path, inline_pixels=10)
    with pytest.raises(Building) as told:
        keeper.catalog(layer)
    assert told.value.retry_after > 0
    with pytest.raises(Building):
        keeper.catalog(layer)
    wait_for(lambda: keeper.existing(layer) is not None)
    assert keeper.catalog(layer).meta["counts"]["features"] > 0
    assert builds == []


FULL = """
import resource, signal
from roiservice.catalog import build
real = build.build_catalog
def limited(*arguments, **options):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    return real(*arguments, **options)
build.build_catalog = limited
"""


def test_a_process_that_finds_the_disk_full_is_told_of_once(tmp_path: Path, layer: LayerKey) -> None:
    keeper = keeper_at(tmp_path, inline_pixels=10)
    keeper._processes._start = starting_with(FULL)
    for _ in range(2):
        with pytest.raises(Building):
            keeper.catalog(layer)
        wait_for(lambda: keeper.status(layer).state == FAILED)
        with pytest.raises(NotWritten):
            keeper.catalog(layer)


def test_a_process_that_builds_runs_nothing_that_lies_where_it_is_started(
    tmp_path: Path, layer: LayerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(99)")
    monkeypatch.chdir(tmp_path)
    assert elsewhere.start_build(keeper_at(tmp_path).task(layer)).wait(60) == 0


def test_a_process_that_ends_before_it_has_read_its_task_is_one_that_ended(
    tmp_path: Path, layer: LayerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is killed for want of memory as soon as it starts."""
    real = subprocess.Popen

    def ended(*arguments: Any, **options: Any) -> Any:
        process = real(*arguments, **options)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return process

    monkeypatch.setattr(elsewhere.sys, "executable", shutil.which("false"))
    monkeypatch.setattr(elsewhere.subprocess, "Popen", ended)
    assert elsewhere.start_build(keeper_at(tmp_path).task(layer)).wait(30) == 1


def test_no_more_than_a_few_processes_build_at_once(
    tmp_path: Path, layer: LayerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filelocks, "AT_ONCE", 2)
    workers = [keeper_at(tmp_path, inline_pixels=10) for _ in range(2)]
    state = tmp_path / "state"
    with contextlib.ExitStack() as others:
        for _ in range(2):
            others.enter_context(filelocks.one_of_few(state))
        for worker in workers:
            for ask in (worker.catalog, worker.start):
                with pytest.raises(NoRoom, match="2 other layers"):
                    ask(layer)
            assert worker.status(layer).state == "none"
            assert worker._processes.running == {}
    workers[0].start(layer)
    with filelocks.one_of_few(state), pytest.raises(NoRoom), filelocks.one_of_few(state):
        pass  # the process holds its place
    wait_for(lambda: workers[1].existing(layer) is not None)
    workers[0]._processes.running[layer.number].wait()
    with filelocks.one_of_few(state), filelocks.one_of_few(state):
        pass


def test_processes_that_ended_are_let_go_of(tmp_path: Path, layer: LayerKey) -> None:
    keeper = keeper_at(tmp_path, inline_pixels=10)
    keeper.start(layer)
    process = keeper._processes.running[layer.number]
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    keeper.start(LayerKey(Registry(tmp_path / "state").layer_number(2, "labels:cells"), layer.source))
    assert not Path(f"/proc/{process.pid}").exists()


def test_a_layer_of_many_vertices_is_built_by_another_process(tmp_path: Path, layer: LayerKey) -> None:
    keeper = keeper_at(tmp_path, inline_vertices=10)
    with pytest.raises(Building):
        keeper.catalog(layer)
    assert half_built(keeper, layer) == []
    wait_for(lambda: keeper.existing(layer) is not None)
    assert keeper.catalog(layer).meta["counts"]["vertices"] > 10


def test_what_the_other_process_fails_with_is_reported(tmp_path: Path, layer: LayerKey, store: Path) -> None:
    chunk = next(
        path for path in (store / "labels/cells/0").rglob("*") if path.is_file() and path.name != "zarr.json"
    )
    chunk.write_bytes(b"garbage")
    keeper = keeper_at(tmp_path, inline_pixels=10)
    with pytest.raises(Building):
        keeper.catalog(layer)
    failure = keeper.current.directory(layer) / FAILURE
    wait_for(failure.exists)
    wait_for(lambda: all(process.poll() is not None for process in keeper._processes.running.values()))
    with pytest.raises(SourceDamaged, match="labels/cells/0"):
        keeper.catalog(layer)
    assert half_built(keeper, layer) == []
    change(store)
    age(failure, 7200)
    with pytest.raises(Building):
        keeper.catalog(layer)
    wait_for(lambda: keeper.existing(layer) is not None)
    assert not failure.exists()


def test_another_process_that_is_killed_is_reported_and_replaced(
    tmp_path: Path, layer: LayerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = keeper_at(tmp_path, inline_pixels=10)
    with pytest.raises(Building):
        keeper.catalog(layer)
    (process,) = keeper._processes.running.values()
    process.kill()
    process.wait()
    with pytest.raises(RoiServiceError) as told:
        keeper.catalog(layer)
    assert not isinstance(told.value, Building)
    monkeypatch.setattr(keeper_module, "REMEMBER_FAILURE", 0.0)
    with pytest.raises(Building):
        keeper.catalog(layer)
    wait_for(lambda: keeper.existing(layer) is not None)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"kind": "SourceDamaged"}', '{"kind": "SourceDamaged", "parts": [1]}']
)
def test_a_damaged_report_of_a_failure_keeps_nobody_from_building(
    tmp_path: Path, layer: LayerKey, text: str
) -> None:
    keeper = keeper_at(tmp_path, inline_pixels=10)
    keeper.current.directory(layer).mkdir(parents=True)
    (keeper.current.directory(layer) / FAILURE).write_text(text)
    with pytest.raises(Building):
        keeper.catalog(layer)
    wait_for(lambda: keeper.existing(layer) is not None)


def test_a_layer_that_could_not_be_looked_at_is_built_once_it_can_be(
    tmp_path: Path, layer: LayerKey, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "REMEMBER_FAILURE", 0.0)
    keeper = keeper_at(tmp_path, inline_pixels=10, check_interval=600.0)
    document = store / "labels/cells/0/zarr.json"
    content = document.read_text()
    document.write_text("no JSON")
    with pytest.raises(SourceDamaged):
        keeper.catalog(layer)
    document.write_text(content)
    with pytest.raises(Building):
        keeper.catalog(layer)
    wait_for(lambda: keeper.existing(layer) is not None)


def test_a_refusal_of_the_other_process_is_reported(tmp_path: Path, layer: LayerKey) -> None:
    keeper = keeper_at(tmp_path, inline_pixels=10, max_vertices=20)
    with pytest.raises(Building):
        keeper.catalog(layer)
    wait_for((keeper.current.directory(layer) / FAILURE).exists)
    wait_for(lambda: all(process.poll() is not None for process in keeper._processes.running.values()))
    with pytest.raises(SourceRefused, match="20 vertices"):
        keeper.catalog(layer)


def test_a_large_layer_that_changed_is_built_elsewhere_while_the_old_serves(
    tmp_path: Path, store: Path, layer: LayerKey
) -> None:
    keeper_at(tmp_path).build(layer)
    keeper = keeper_at(tmp_path, inline_pixels=10, check_interval=0.0)
    old = keeper.catalog(layer).version
    change(store)
    keeper.catalog(layer)
    wait_for(lambda: keeper.catalog(layer).version != old)
    assert keeper.catalog(layer).extent == (0, 0, 58, 58)


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3])
def test_a_build_that_is_killed_leaves_nothing_half(tmp_path: Path, delay: float) -> None:
    """A layer of many planes, so that the build takes a while after it has begun to write."""
    write_image(
        tmp_path / "1.zarr", labels={"cells": squares(400, 90, 90, side=2)}, axes="zyx", chunks=(1, 90, 90)
    )
    layer = layer_key(Registry(tmp_path / "state"), tmp_path / "1.zarr")
    keeper = keeper_at(tmp_path)
    process = start(tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    go(process)
    wait_for(lambda: keeper.current.directory(layer).exists() and bool(half_built(keeper, layer)))
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert half_built(keeper, layer) or versions_on_disk(keeper, layer)
    if not versions_on_disk(keeper, layer):
        assert keeper.existing(layer) is None
    catalog = keeper.catalog(layer)
    assert catalog.meta["counts"]["features"] == 400 * 22 * 22
    assert half_built(keeper, layer) == []
    assert len(versions_on_disk(keeper, layer)) == 1


def test_the_lock_of_a_killed_builder_is_free(tmp_path: Path, layer: LayerKey) -> None:
    def hold(directory: str, holding: Any) -> None:
        with locked(Path(directory)):
            holding.set()
            time.sleep(60)

    keeper = keeper_at(tmp_path)
    context = multiprocessing.get_context("fork")
    holding = context.Event()
    holder = context.Process(target=hold, args=(str(keeper.current.directory(layer)), holding))
    holder.start()
    assert holding.wait(10)
    with pytest.raises(TimeoutError), locked(keeper.current.directory(layer), 0.1):
        pass
    holder.kill()
    holder.join()
    assert keeper.catalog(layer).meta["counts"]["features"] > 0


def test_who_waits_too_long_for_another_builder_is_told(
    tmp_path: Path, layer: LayerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "LONGEST_WAIT", 0.1)
    keeper = keeper_at(tmp_path)
    with locked(keeper.current.directory(layer)), pytest.raises(Building):
        keeper.catalog(layer)
    assert keeper.catalog(layer).meta["counts"]["features"] > 0


def test_reading_while_it_is_built_by_force_again_and_again(tmp_path: Path, layer: LayerKey) -> None:
    keeper_at(tmp_path).build(layer)
    stop = threading.Event()

    def rebuild() -> None:
        builder = keeper_at(tmp_path)
        while not stop.is_set():
            builder.build(layer, force=True)

    thread = threading.Thread(target=rebuild)
    thread.start()
    try:
        counts = {keeper_at(tmp_path).catalog(layer).meta["counts"]["features"] for _ in range(40)}
    finally:
        stop.set()
        thread.join()
    assert counts == {int(squares(40, 50).max())}


def test_catalogs_of_another_registry_are_not_mistaken(tmp_path: Path, store: Path) -> None:
    first = keeper_at(tmp_path)
    layer = layer_key(Registry(tmp_path / "state"), store)
    first.catalog(layer)
    shutil.rmtree(tmp_path / "state")
    second = keeper_at(tmp_path)
    assert second.existing(layer_key(Registry(tmp_path / "state"), store)) is None


def test_numbers_that_a_registry_from_a_backup_has_lost_are_not_given_again(
    tmp_path: Path, store: Path
) -> None:
    """What was built, cached or linked under them would be taken for that of another image."""
    other = write_image(tmp_path / "2.zarr", labels={"cells": squares(60, 60)})
    Registry(tmp_path / "state").close()
    shutil.copytree(tmp_path / "state", tmp_path / "backup")
    keeper = keeper_at(tmp_path)
    version = keeper.build(layer_key(keeper._registry, store)).version
    shutil.rmtree(tmp_path / "state")
    shutil.copytree(tmp_path / "backup", tmp_path / "state")
    keeper = keeper_at(tmp_path)
    second = layer_key(keeper._registry, other)
    assert second.number > version
    assert keeper.existing(second) is None
    assert keeper.catalog(second).extent == (0, 0, 58, 58)
    assert highest_number(keeper._root) == keeper.catalog(second).version
    (keeper._root / NUMBERS).write_text("x")
    assert highest_number(keeper._root) == 0
    keeper.build(second, force=True)
    assert highest_number(keeper._root) == keeper.catalog(second).version


def test_no_roi_gets_the_id_of_another_from_a_registry_from_a_backup(tmp_path: Path) -> None:
    """Where labels are no ROI numbers: what a catalog says of them may be newer than the backup."""
    labels = squares(20, 20, dtype="uint32")
    store = write_image(tmp_path / "1.zarr", labels={"cells": labels})
    keeper = keeper_at(tmp_path)
    layer = layer_key(keeper._registry, store)
    keeper.build(layer)
    keeper._registry.close()
    shutil.copytree(tmp_path / "state", tmp_path / "backup")
    array = zarr.open_array(store / "labels/cells/0", mode="r+")
    array[labels == 1] = 2**31 + 5
    given = keeper_at(tmp_path).build(layer).rois["roi"].max()
    shutil.rmtree(tmp_path / "state")
    shutil.copytree(tmp_path / "backup", tmp_path / "state")
    array[labels == 1] = 2**31 + 6
    catalog = keeper_at(tmp_path).build(layer)
    assert catalog.rois["label"].max() == 2**31 + 6
    assert catalog.rois["roi"].max() == given + 1


def test_a_process_builds_nothing_for_another_registry_in_place_of_the_one_that_asked(
    tmp_path: Path, layer: LayerKey
) -> None:
    keeper = keeper_at(tmp_path)
    task = keeper.task(layer)
    shutil.rmtree(tmp_path / "state")
    other = Registry(tmp_path / "state")
    assert other.uuid != keeper._registry.uuid
    assert other.layer_number(7, "a") == layer.number
    assert elsewhere.start_build(task).wait(30) == elsewhere.TRY_AGAIN
    assert not list((tmp_path / "catalogs").rglob("layer.json")), "another layer may have that number there"
    with pytest.raises(NotWritten, match="gone"):
        keeper._registry.layer_number(7, "a")
    with pytest.raises(NotWritten, match="gone"):
        keeper.start(layer)


def test_many_layers_do_not_mix(tmp_path: Path) -> None:
    planes = {f"l{n}": np.full((10, 10), n + 1, np.uint8) for n in range(6)}
    store = write_image(tmp_path / "1.zarr", labels=planes)
    registry = Registry(tmp_path / "state")
    keeper = keeper_at(tmp_path)
    for n, name in enumerate(planes):
        catalog = keeper.catalog(layer_key(registry, store, name))
        assert (catalog.name, catalog.rois["label"].tolist()) == (name, [n + 1])


def test_nobody_waits_for_the_lock_while_a_large_layer_is_built(
    tmp_path: Path, layer: LayerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is held for minutes then; threads that wait for it would be missing elsewhere."""
    waits: list[float] = []
    real = filelocks.lock_within

    def counted(file: Any, timeout: float) -> None:
        if timeout not in (0.0, filelocks.LONGEST_LOOK):  # these are for the marks
            waits.append(timeout)
        real(file, 0.0)

    monkeypatch.setattr(filelocks, "lock_within", counted)
    large = keeper_at(tmp_path, inline_pixels=10)
    many_vertices = keeper_at(tmp_path)
    with open_lock(large.current.directory(layer)):
        with pytest.raises(Building):
            many_vertices.catalog(layer)
        assert waits == [LONGEST_WAIT], "the lock of a small layer is waited for"
        with pytest.raises(Building):
            large.catalog(layer)
        with pytest.raises(Building):
            many_vertices.catalog(layer)
        assert waits == [LONGEST_WAIT]
    wait_for(lambda: large.existing(layer) is not None)


@contextlib.contextmanager
def open_lock(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
