"""What the states of builds are told from: a file, a lock and a mark."""

from __future__ import annotations

import fcntl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from roiservice.catalog import progress
from roiservice.catalog.filelocks import LOCK, being_built
from roiservice.catalog.progress import BuildStatus, note_start, progress_path, written_progress
from roiservice.catalog.registry import Registry
from roiservice.catalog.task import LayerKey
from tests.catalog.support import keeper_at, layer_key, squares
from tests.stores import write_image


@pytest.fixture
def layer(tmp_path: Path) -> LayerKey:
    store = write_image(tmp_path / "1.zarr", labels={"cells": squares(40, 50)})
    return layer_key(Registry(tmp_path / "state"), store)


def test_a_builder_that_has_said_nothing_yet_is_waited_for(tmp_path: Path, layer: LayerKey) -> None:
    keeper = keeper_at(tmp_path)
    assert keeper.status(layer).state == "none"
    keeper.current.directory(layer).mkdir(parents=True)
    with open(keeper.current.directory(layer) / LOCK, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert keeper.status(layer).state == "waiting"
    assert keeper.status(layer).state == "none"
    with being_built(keeper.current.directory(layer)):
        assert keeper.status(layer).state == "waiting"
    assert keeper.status(layer).state == "none"


def test_who_only_looks_at_the_source_of_a_built_layer_builds_nothing(
    tmp_path: Path, layer: LayerKey
) -> None:
    keeper = keeper_at(tmp_path)
    keeper.build(layer)
    with open(keeper.current.directory(layer) / LOCK, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert keeper.status(layer).state == "done"


def test_a_process_that_has_built_a_layer_does_not_wait_again_while_it_ends(
    tmp_path: Path, layer: LayerKey
) -> None:
    keeper = keeper_at(tmp_path)
    with being_built(keeper.current.directory(layer)):
        note_start(progress_path(keeper.current.pointer(layer)))
        assert keeper.status(layer).state == "waiting"
        keeper.build(layer)
        assert keeper.status(layer) == BuildStatus("building", 1.0)
    assert keeper.status(layer).state == "done"


def test_those_who_look_do_not_take_each_other_for_builders(tmp_path: Path, layer: LayerKey) -> None:
    keeper = keeper_at(tmp_path)
    keeper.build(layer)
    with being_built(keeper.current.directory(layer)):
        pass  # so that there is a mark to look at
    with ThreadPoolExecutor(8) as pool:
        states = set(pool.map(lambda _: keeper.status(layer).state, range(2000)))
    assert states == {"done"}


def test_those_who_look_keep_nobody_from_building(tmp_path: Path, layer: LayerKey) -> None:
    keeper = keeper_at(tmp_path)
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            keeper.status(layer)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            with being_built(keeper.current.directory(layer)):
                assert keeper.build(layer, force=True).meta["counts"]["features"] > 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert keeper.status(layer).state == "done"


def test_the_file_is_not_written_for_every_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    path = progress_path(str(tmp_path / "current-1.json"))
    told: list[tuple[int, int]] = []
    advance = written_progress(path, 1000, lambda pixels, features: told.append((pixels, features)))
    contents = set()
    for step in range(100):
        now = step / 50  # two seconds in all
        advance(10, step)
        contents.add(path.read_text())
    assert len(contents) <= 1 + 2 / progress.WRITE_INTERVAL
    assert told == [(10, step) for step in range(100)]
    status = progress._read(path)
    assert status is not None
    assert status.fraction == pytest.approx(0.76)
    assert status.pixels_per_second == pytest.approx(500, abs=1)
    assert status.seconds_left == pytest.approx(240 / 500, abs=0.1)


def test_blocks_that_a_build_before_has_traced_do_not_count_as_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    path = progress_path(str(tmp_path / "current-1.json"))
    advance = written_progress(path, 1000, None)
    advance(600, 0)  # they are there
    for step in (0.6, 1.2, 1.8):
        now = step
        advance(60, 0)
    status = progress._read(path)
    assert status is not None
    assert (status.fraction, status.pixels_per_second) == (0.78, 100)
    assert status.seconds_left == pytest.approx(2.2)


def test_rates_are_not_told_before_the_first_pixels_and_after_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "WRITE_INTERVAL", 0.0)
    path = progress_path(str(tmp_path / "current-1.json"))
    advance = written_progress(path, 100, None)
    for pixels, known in ((0, False), (50, False), (10, True), (40, False)):
        advance(pixels, 0)
        status = progress._read(path)
        assert status is not None
        assert (status.pixels_per_second is not None, status.seconds_left is not None) == (known, known)
    assert status.fraction == 1.0


def test_word_of_a_start_does_not_hide_how_far_another_is(tmp_path: Path) -> None:
    path = progress_path(str(tmp_path / "current-1.json"))
    written_progress(path, 1000, None)
    said = path.read_text()
    note_start(path)
    assert path.read_text() == said


def test_progress_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """As where the disk is full."""
    path = tmp_path / "progress-1.json"
    path.mkdir()
    written_progress(path, 1000, None)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
