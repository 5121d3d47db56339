"""What the catalogs may take of the disk: who makes room, who does not, and what is too large."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roiservice.catalog import build as build_module
from roiservice.catalog import columns as columns_module
from roiservice.catalog import engine as engine_module
from roiservice.catalog import quota as quota_module
from roiservice.catalog import tracing
from roiservice.catalog.failures import FAILURE
from roiservice.catalog.filelocks import being_built, locked
from roiservice.catalog.keeper import Keeper
from roiservice.catalog.leftovers import USE_NOTED
from roiservice.catalog.progress import DONE, FAILED
from roiservice.catalog.quota import TOO_LARGE, Quota
from roiservice.catalog.reader import Catalog
from roiservice.catalog.registry import Registry
from roiservice.catalog.task import LayerKey
from roiservice.errors import Building, NoRoom, SourceRefused
from roiservice.metrics import REMOVED, Metrics
from roiservice.vectorize.outlines import Outline
from tests.catalog.support import age, keeper_at, layer_key, squares, starting_with, wait_for
from tests.stores import write_image
from tests.test_metrics import samples

NAMES = ("a", "b", "c", "d")


def plane(name: str) -> np.ndarray:
    """Labels that tell layers apart by how many there are, as large on disk as those of others."""
    labels = squares(40, 50)
    labels[labels > 40 + NAMES.index(name)] = 0
    return labels


@pytest.fixture
def layers(tmp_path: Path) -> list[LayerKey]:
    store = write_image(tmp_path / "1.zarr", labels={name: plane(name) for name in NAMES})
    registry = Registry(tmp_path / "state")
    return [layer_key(registry, store, name) for name in NAMES]


@cache
def bytes_of_one() -> int:
    """Bytes that the catalog of one of the layers takes."""
    with tempfile.TemporaryDirectory() as folder:
        store = write_image(Path(folder) / "1.zarr", labels={"a": plane("a")})
        keeper = keeper_at(Path(folder))
        layer = layer_key(Registry(Path(folder) / "state"), store, "a")
        return folder_bytes(catalog_folder(keeper, layer, keeper.build(layer)))


@pytest.fixture
def one() -> int:
    return bytes_of_one()


def folder_bytes(folder: Path) -> int:
    """Bytes of disk of all files below a folder, as du counts them without the folders."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def catalog_bytes(root: Path) -> int:
    return sum(folder_bytes(path) for path in root.glob("catalogs/*/*/*") if path.is_dir())


def catalog_folder(keeper: Keeper, layer: LayerKey, catalog: Catalog) -> Path:
    return keeper.current.directory(layer) / str(catalog.version)


def kept(keeper: Keeper, layers: Sequence[LayerKey]) -> list[bool]:
    return [keeper.existing(layer) is not None for layer in layers]


def make_old(keeper: Keeper, layer: LayerKey, seconds: float) -> None:
    for folder in keeper.current.directory(layer).iterdir():
        if folder.is_dir():
            age(folder, seconds)


def change(tmp_path: Path, name: str) -> None:
    """Write other labels for one layer into the store."""
    other = write_image(tmp_path / "other.zarr", labels={name: plane(name)[::-1]})
    shutil.rmtree(tmp_path / "1.zarr/labels" / name)
    os.rename(other / "labels" / name, tmp_path / "1.zarr/labels" / name)
    shutil.rmtree(other)


def test_without_a_quota_nothing_goes(tmp_path: Path, layers: Sequence[LayerKey]) -> None:
    keeper = keeper_at(tmp_path)
    for layer in layers:
        keeper.build(layer)
        make_old(keeper, layer, 10**9)
    keeper.tidy()
    assert kept(keeper, layers) == [True] * 4


def test_who_was_used_longest_ago_makes_room_and_is_built_again(
    tmp_path: Path, layers: Sequence[LayerKey], one: int
) -> None:
    keeper = keeper_at(tmp_path, catalog_bytes=3 * one)
    built = [keeper.build(layer) for layer in layers[:3]]
    for layer, seconds in zip(layers, (200, 300, 100), strict=False):
        make_old(keeper, layer, seconds)
    keeper.build(layers[3])
    assert kept(keeper, layers) == [True, False, True, True]
    assert catalog_bytes(tmp_path) <= 3 * one
    assert built[1].features["label"].sum() > 0, "who has it open reads on"
    again = keeper.catalog(layers[1])
    assert (again.version, again.meta) == (built[1].version, built[1].meta)
    assert kept(keeper, layers) == [False, True, True, True]


def test_uses_are_noted_for_all_workers_and_now_and_then_alone(
    tmp_path: Path, layers: Sequence[LayerKey], one: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, worker = (keeper_at(tmp_path, catalog_bytes=3 * one) for _ in range(2))
    for number, layer in enumerate(layers[:3]):
        builder.build(layer)
        make_old(builder, layer, 10_000 - number)
    touched: list[Path] = []
    real = os.utime
    monkeypatch.setattr(os, "utime", lambda path, *more: touched.append(Path(path)) or real(path, *more))
    for _ in range(5):
        catalog = worker.catalog(layers[0])
    assert touched == [catalog_folder(worker, layers[0], catalog)]
    builder.build(layers[3])
    assert kept(builder, layers) == [True, False, True, True]
    later = time.monotonic() + USE_NOTED
    monkeypatch.setattr(time, "monotonic", lambda: later)
    worker.catalog(layers[0])
    assert len(touched) == 2


def test_a_catalog_of_another_user_is_served(
    tmp_path: Path, layers: Sequence[LayerKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper_at(tmp_path).build(layers[0])

    def refuse(*_arguments: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    assert keeper_at(tmp_path).catalog(layers[0]).meta["counts"]["features"] > 0


def test_replaced_versions_go_before_any_that_is_in_service(
    tmp_path: Path, layers: Sequence[LayerKey], one: int
) -> None:
    keeper = keeper_at(tmp_path, catalog_bytes=3 * one)
    for layer in layers[:2]:
        keeper.build(layer)
        make_old(keeper, layer, 1000)
    change(tmp_path, NAMES[0])
    keeper.build(layers[0])
    assert len([path for path in keeper.current.directory(layers[0]).iterdir() if path.name.isdigit()]) == 2
    keeper.build(layers[2])
    assert len([path for path in keeper.current.directory(layers[0]).iterdir() if path.name.isdigit()]) == 1
    assert kept(keeper, layers) == [True, True, True, False]


def test_what_killed_builds_have_left_goes_first_of_all(
    tmp_path: Path, layers: Sequence[LayerKey], one: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = keeper_at(tmp_path, catalog_bytes=3 * one)
    keeper.build(layers[0])
    make_old(keeper, layers[0], 1000)
    for left in ("77.new", "78.new.blocks", "79.gone"):
        folder = keeper.current.directory(layers[1]) / left
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(bytes(one))
    monkeypatch.setattr(quota_module, "USAGE_HOLDS", 0.0)
    keeper.build(layers[2])
    assert kept(keeper, layers) == [True, False, True, False]
    assert catalog_bytes(tmp_path) <= 3 * one


def test_what_others_have_put_there_is_not_counted_and_stays(
    tmp_path: Path, layers: Sequence[LayerKey], one: int
) -> None:
    keeper = keeper_at(tmp_path, catalog_bytes=one)
    keeper.build(layers[0])
    elsewhere = tmp_path / "elsewhere"
    folder = keeper.current.directory(layers[0])
    for each in (elsewhere, folder / "kept", keeper._root / "²", keeper._root / "7"):
        each.mkdir()
        (each / "file").write_bytes(bytes(2 * one))
    for link in (folder / "77", folder / "78.new", folder / "79.gone", keeper._root / "8" / "80"):
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(elsewhere)
    (folder / "81").write_bytes(bytes(one))
    before = {path for path in keeper._root.rglob("*") if "." not in path.name}
    for path in before:
        os.utime(path, (0, 0), follow_symlinks=False)
    keeper.tidy()
    keeper.build(layers[0], force=True)
    assert before <= set(keeper._root.rglob("*"))
    assert (elsewhere / "file").exists()
    assert kept(keeper, layers[:1]) == [True]


def test_a_layer_that_is_being_built_makes_no_room(
    tmp_path: Path, layers: Sequence[LayerKey], one: int
) -> None:
    keeper = keeper_at(tmp_path, catalog_bytes=2 * one)
    for number, layer in enumerate(layers[:2]):
        keeper.build(layer)
        make_old(keeper, layer, 1000 - number)
    with locked(keeper.current.directory(layers[0])):
        keeper.build(layers[2])
        assert kept(keeper, layers) == [True, False, True, False]
    with being_built(keeper.current.directory(layers[0])):
        keeper.build(layers[3])
        assert kept(keeper, layers) == [True, False, False, True]


def test_other_ways_of_building_a_layer_are_catalogs_of_their_own(
    tmp_path: Path, layers: Sequence[LayerKey], one: int
) -> None:
    exact = keeper_at(tmp_path, catalog_bytes=3 * one)
    simple = keeper_at(tmp_path, catalog_bytes=3 * one, outline=Outline(min_area=1))
    exact.build(layers[0])
    simple.build(layers[0])
    make_old(exact, layers[0], 1000)
    age(catalog_folder(simple, layers[0], simple.catalog(layers[0])), 0)
    exact.build(layers[1])
    exact.build(layers[2])
    assert (kept(exact, layers), kept(simple, layers)) == (
        [False, True, True, False],
        [True, False, False, False],
    )


@pytest.mark.parametrize("look_interval", [0.0, 3600.0])
def test_a_catalog_larger_than_the_quota_is_refused_and_the_others_stay(
    tmp_path: Path,
    layers: Sequence[LayerKey],
    one: int,
    monkeypatch: pytest.MonkeyPatch,
    look_interval: float,
) -> None:
    write_image(tmp_path / "2.zarr", labels={"large": squares(400, 400)})
    large = layer_key(Registry(tmp_path / "state"), tmp_path / "2.zarr", "large")
    keeper = keeper_at(tmp_path, catalog_bytes=2 * one)
    keeper.build(layers[0])
    monkeypatch.setattr(quota_module, "LOOK_INTERVAL", look_interval)
    with pytest.raises(SourceRefused, match=rf"\d+ bytes .* ROISERVICE_CATALOG_BYTES allows {2 * one}$"):
        keeper.build(large)
    assert [path.name for path in keeper.current.directory(large).iterdir() if path.is_dir()] == []
    assert kept(keeper, layers) == [True, False, False, False]


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LayerKey:
    """A layer of many blocks that are kept in files."""
    monkeypatch.setattr(build_module, "SPILL_PIXELS", 0)
    monkeypatch.setattr(build_module, "SPILL_PIXELS_OF_PLANES", 0)
    monkeypatch.setattr(tracing, "BLOCK_PIXELS", 500)
    monkeypatch.setattr(tracing, "AHEAD", 1)
    monkeypatch.setattr(engine_module, "BATCH_PIXELS", 1)
    monkeypatch.setattr(quota_module, "LOOK_INTERVAL", 0.0)
    monkeypatch.setattr(quota_module, "COST", 0)
    write_image(tmp_path / "3.zarr", labels={"cells": squares(30, 60, 60)}, axes="zyx", chunks=(1, 60, 60))
    return layer_key(Registry(tmp_path / "state"), tmp_path / "3.zarr")


def built_until(keeper: Keeper, layer: LayerKey) -> int:
    """Pixels that a build traced before it was refused."""
    done: list[int] = []
    with pytest.raises(SourceRefused, match="ROISERVICE_CATALOG_BYTES"):
        keeper.build(layer, progress=lambda pixels, _: done.append(pixels))
    return sum(done)


def test_a_build_stops_when_its_files_pass_the_quota(tmp_path: Path, stack: LayerKey) -> None:
    folder = keeper_at(tmp_path).current.directory(stack)
    done = built_until(keeper_at(tmp_path, catalog_bytes=300_000), stack)
    assert 0 < done < 30 * 60 * 60
    assert [path.name for path in folder.iterdir() if path.is_dir()] == []
    assert built_until(keeper_at(tmp_path, catalog_bytes=300_000), stack) == 0, "it is built in vain again"
    more = built_until(keeper_at(tmp_path, catalog_bytes=500_000), stack)
    assert done < more < 30 * 60 * 60
    keeper = keeper_at(tmp_path, catalog_bytes=10**7)
    assert keeper.build(stack).meta["counts"]["features"] == 30 * 100
    assert not (folder / TOO_LARGE).exists()


def test_what_a_build_has_traced_is_looked_at_before_its_catalog_is_written(
    tmp_path: Path, stack: LayerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in blocks, and in the columns that are collected, comes on top of the catalog itself."""
    free = keeper_at(tmp_path)
    size = folder_bytes(catalog_folder(free, stack, free.build(stack)))
    shutil.rmtree(free.current.directory(stack))
    monkeypatch.setattr(quota_module, "COST", 10**9)  # one look while it is traced, when little is there
    assert built_until(keeper_at(tmp_path, catalog_bytes=size + 4096), stack) == 30 * 60 * 60
    assert [path.name for path in free.current.directory(stack).iterdir() if path.is_dir()] == []


def test_a_build_makes_room_while_it_goes_on(
    tmp_path: Path, layers: Sequence[LayerKey], one: int, stack: LayerKey
) -> None:
    others = keeper_at(tmp_path)
    for layer in layers:
        others.build(layer)
    keeper = keeper_at(tmp_path, catalog_bytes=4 * one + 1_500_000)
    most: list[int] = []
    keeper.build(stack, progress=lambda *_: most.append(catalog_bytes(tmp_path)))
    assert max(most) <= 4 * one + 1_500_000
    assert kept(keeper, [stack]) == [True]


def test_the_catalog_in_service_stays_when_there_is_no_room_for_the_next(
    tmp_path: Path,
    layers: Sequence[LayerKey],
    one: int,
    stack: LayerKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(columns_module, "SPOOL_BYTES", 0)  # what is collected lies in files at once
    old = keeper_at(tmp_path).build(stack)
    keeper_at(tmp_path).build(layers[0])
    shutil.rmtree(tmp_path / "3.zarr")
    write_image(tmp_path / "3.zarr", labels={"cells": squares(30, 66, 66)}, axes="zyx", chunks=(1, 66, 66))
    size = folder_bytes(catalog_folder(keeper_at(tmp_path), stack, old))
    keeper = keeper_at(tmp_path, catalog_bytes=size + 2 * one)
    assert built_until(keeper, stack) > 0
    assert keeper.catalog(stack).version == old.version
    assert keeper.existing(layers[0]) is None, "others have made room"
    assert keeper_at(tmp_path, catalog_bytes=10**7).build(stack).version != old.version


def test_a_build_that_finds_no_room_beside_another_is_to_be_tried_again(
    tmp_path: Path, layers: Sequence[LayerKey], stack: LayerKey
) -> None:
    """What the other has collected it will need once more, for columns."""
    keeper = keeper_at(tmp_path, catalog_bytes=2_000_000)
    other = keeper.current.directory(layers[0])
    with locked(other):
        (other / "9.new").mkdir()
        (other / "9.new" / "box.raw").write_bytes(bytes(700_000))
        with pytest.raises(
            NoRoom, match=r"others 17\d{5} that cannot go now; ROISERVICE_CATALOG_BYTES"
        ) as told:
            keeper.build(stack)
        assert told.value.retry_after > 0
        assert [path for path in keeper.current.directory(stack).iterdir() if path.is_dir()] == []
        status = keeper.status(stack)
        assert (status.state, str(status.error)) == (FAILED, str(told.value))
    assert keeper.build(stack).meta["counts"]["features"] == 30 * 100
    assert keeper.status(stack).state == DONE
    assert not (other / "9.new").exists()


def test_a_build_in_a_process_of_its_own_keeps_to_the_quota(
    tmp_path: Path, layers: Sequence[LayerKey], one: int
) -> None:
    keeper = keeper_at(tmp_path, inline_pixels=10, catalog_bytes=one - 1)
    with pytest.raises(Building):
        keeper.catalog(layers[0])
    wait_for((keeper.current.directory(layers[0]) / FAILURE).exists)
    wait_for(lambda: all(process.poll() is not None for process in keeper._processes.running.values()))
    with pytest.raises(SourceRefused, match=f"ROISERVICE_CATALOG_BYTES allows {one - 1}"):
        keeper.catalog(layers[0])


LOOKING_AT_ONCE = "from roiservice.catalog import quota; quota.LOOK_INTERVAL = 0.0"  # however fast it builds


def test_a_process_that_found_no_room_is_followed_by_another(
    tmp_path: Path, layers: Sequence[LayerKey], stack: LayerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = keeper_at(tmp_path, inline_pixels=10, catalog_bytes=2_000_000)
    monkeypatch.setattr(keeper._processes, "_start", starting_with(LOOKING_AT_ONCE))
    other = keeper.current.directory(layers[0])
    with locked(other):
        (other / "9.new").mkdir()
        (other / "9.new" / "box.raw").write_bytes(bytes(700_000))
        with pytest.raises(Building):
            keeper.catalog(stack)
        wait_for(lambda: keeper.status(stack).state == FAILED)
        assert "others" in str(keeper.status(stack).error)
    with pytest.raises(Building, match="is being built"):
        keeper.catalog(stack)
    wait_for(lambda: keeper.status(stack).state == DONE)


def test_a_lower_quota_counts_from_the_start_on(tmp_path: Path, layers: Sequence[LayerKey], one: int) -> None:
    keeper = keeper_at(tmp_path)
    for number, layer in enumerate(layers):
        keeper.build(layer)
        make_old(keeper, layer, 1000 - number)
    keeper_at(tmp_path, catalog_bytes=2 * one).tidy()
    assert kept(keeper, layers) == [False, False, True, True]


def test_workers_let_go_of_what_was_deleted(tmp_path: Path, layers: Sequence[LayerKey], one: int) -> None:
    """As long as a file is mapped the disk does not take it back."""
    worker = keeper_at(tmp_path, check_interval=0.0)
    builder = keeper_at(tmp_path, catalog_bytes=2 * one)
    for number, layer in enumerate(layers[:2]):
        worker.catalog(layer)
        make_old(worker, layer, 1000 - number)
    deleted = str(catalog_folder(worker, layers[0], worker.catalog(layers[0])))
    make_old(worker, layers[0], 2000)
    builder.build(layers[2])
    assert f"{deleted}.gone/vertices.arrow (deleted)" in Path("/proc/self/maps").read_text()
    worker.catalog(layers[1])
    wait_for(lambda: deleted not in Path("/proc/self/maps").read_text())


def test_a_version_whose_folder_is_gone_is_built_again_under_its_number(
    tmp_path: Path, layers: Sequence[LayerKey]
) -> None:
    keeper, other = keeper_at(tmp_path), keeper_at(tmp_path)
    version = keeper.build(layers[0]).version
    for each in keeper.current.directory(layers[0]).glob("*"):
        shutil.rmtree(each, ignore_errors=True)
    assert other.existing(layers[0]) is None
    assert other.catalog(layers[0]).version == version
    for pointer in keeper.current.directory(layers[0]).glob("current-*"):
        pointer.unlink()
        shutil.rmtree(keeper.current.directory(layers[0]) / str(version))
    assert keeper.build(layers[0]).version == version
    assert keeper_at(tmp_path).existing(layers[0]) is not None, "named, but only in the memory of one process"


def test_what_is_built_by_force_after_its_catalog_went_is_another_version(
    tmp_path: Path, layers: Sequence[LayerKey]
) -> None:
    """Nobody can tell whether it is the same: pages and ids of the old one must not be taken for the new."""
    keeper = keeper_at(tmp_path)
    version = keeper.build(layers[0]).version
    shutil.rmtree(keeper.current.directory(layers[0]))
    assert keeper_at(tmp_path).build(layers[0], force=True).version > version


def test_who_asks_while_catalogs_come_and_go_is_answered(
    tmp_path: Path, layers: Sequence[LayerKey], one: int
) -> None:
    """Four layers in the room of two, asked for at once by several processes' worth of threads."""
    keepers = [keeper_at(tmp_path, catalog_bytes=2 * one + 4096) for _ in range(3)]
    expected = [int((np.unique(plane(name)) > 0).sum()) for name in NAMES]
    wrong: list[object] = []

    def ask(keeper: Keeper, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(25):
            which = chance.randrange(4)
            try:
                catalog = keeper.catalog(layers[which])
                found = len(np.unique(catalog.features["label"]))
            except Building:
                continue
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody may get it
                found = repr(error)
            if found != expected[which]:
                wrong.append(found)

    threads = [threading.Thread(target=ask, args=(keepers[n % 3], n)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    keepers[0].tidy()
    assert catalog_bytes(tmp_path) <= 2 * one + 4096
    left = {path.suffix for path in tmp_path.glob("catalogs/*/*/*") if path.is_dir()}
    assert left == {""}


def test_not_everything_is_looked_at_for_each_build(
    tmp_path: Path, layers: Sequence[LayerKey], one: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    real = Quota._folders
    monkeypatch.setattr(Quota, "_folders", lambda self: looks.append(1) or real(self))
    monkeypatch.setattr(quota_module, "MANY", 1)
    monkeypatch.setattr(quota_module, "LOOK_INTERVAL", 3600.0)  # none while it is built
    for layer in layers[:3]:  # by workers that share no memory
        keeper_at(tmp_path, catalog_bytes=3 * one).build(layer)
    assert len(looks) == 1
    keeper = keeper_at(tmp_path, catalog_bytes=3 * one)
    keeper.build(layers[3])
    assert len(looks) == 2
    assert sum(kept(keeper, layers)) == 3, "a little more is freed than has to be, but no more than that"
    usage = keeper._root / "usage"
    noted = usage.read_text()
    assert noted.split()[0] == str(catalog_bytes(tmp_path))
    for text in ("", "x", "1 x", "1 2 3", f"{one} 0", noted.replace(" ", " 9")):
        usage.write_text(text)
        keeper.build(layers[0], force=True)
        assert usage.read_text().split()[0] == str(catalog_bytes(tmp_path))


def test_who_hangs_while_the_quota_is_looked_after_keeps_nobody_from_building(
    tmp_path: Path,
    layers: Sequence[LayerKey],
    one: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As a process that is stopped does; what it kept from being looked after is so the next time."""
    monkeypatch.setattr(quota_module, "USAGE_WAIT", 0.1)
    monkeypatch.setattr(quota_module, "LOOK_INTERVAL", 3600.0)  # none while it is built
    keeper = keeper_at(tmp_path, catalog_bytes=one)
    keeper.build(layers[0])
    with open(keeper._root / quota_module.USAGE) as file, ThreadPoolExecutor(1) as pool:
        fcntl.flock(file, fcntl.LOCK_EX)
        built = pool.submit(keeper.build, layers[1])
        try:
            built.result(30)
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
    assert kept(keeper, layers) == [True, True, False, False]
    assert caplog.text.count("the quota was not looked after: others have been at it for long") == 1
    keeper.build(layers[2])
    assert catalog_bytes(tmp_path) <= one


STEPS = st.tuples(st.sampled_from(["build", "change", "use", "force", "tidy"]), st.sampled_from(NAMES))


@given(st.lists(STEPS, min_size=4, max_size=14), st.sampled_from([1.0, 2.5, 3.0]))
@settings(max_examples=12)
def test_whatever_is_built_and_used_the_quota_holds(steps: list[tuple[str, str]], room: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = write_image(root / "1.zarr", labels={name: plane(name) for name in NAMES})
        registry = Registry(root / "state")
        quota = int(room * bytes_of_one())
        worker = keeper_at(root, catalog_bytes=quota)
        for step, name in steps:
            layer = layer_key(registry, store, name)
            if step == "change":
                change(root, name)
            if step == "use":
                assert worker.catalog(layer).name == name
            elif step == "tidy":
                worker.tidy()
            else:
                keeper_at(root, catalog_bytes=quota).build(layer, force=step == "force")
                assert worker.existing(layer) is not None
            assert catalog_bytes(root) <= quota


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": "x", "bytes": 5}', "\0"])
def test_a_damaged_note_keeps_nobody_from_building(
    tmp_path: Path, layers: Sequence[LayerKey], one: int, text: str
) -> None:
    keeper = keeper_at(tmp_path, catalog_bytes=2 * one)
    keeper.current.directory(layers[0]).mkdir(parents=True)
    (keeper.current.directory(layers[0]) / TOO_LARGE).write_text(text)
    assert keeper.build(layers[0]).meta["counts"]["features"] > 0


def test_what_went_is_counted(tmp_path: Path, layers: Sequence[LayerKey], one: int) -> None:
    metrics = Metrics()
    keeper = keeper_at(tmp_path, catalog_bytes=2 * one)
    keeper._builder._quota = Quota(keeper._root, keeper._rules, locked, metrics)
    for layer in layers:
        keeper.build(layer)
    assert samples(metrics.text())[REMOVED, 'reason="quota"'] == 2
