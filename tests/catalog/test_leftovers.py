"""What builds leave behind that were killed, and when it goes."""

from __future__ import annotations

import errno
import fcntl
import gc
import itertools
import os
import resource
import shutil
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roiservice.catalog import build as build_module
from roiservice.catalog import builder as builder_module
from roiservice.catalog import columns as columns_module
from roiservice.catalog import current as current_module
from roiservice.catalog import indexes as indexes_module
from roiservice.catalog import keeper as keeper_module
from roiservice.catalog import pointers as pointers_module
from roiservice.catalog import reader as reader_module
from roiservice.catalog.filelocks import locked
from roiservice.catalog.keeper import Keeper
from roiservice.catalog.leftovers import KEPT_BLOCKS, USE_NOTED
from roiservice.catalog.pointers import NUMBERS, highest_number, version_in, write_pointer
from roiservice.catalog.progress import DONE, FAILED, NONE
from roiservice.catalog.registry import Registry
from roiservice.catalog.task import LayerKey
from roiservice.errors import NotWritten
from roiservice.metrics import REMOVED
from roiservice.sources.planes import LabelLayer
from roiservice.vectorize.outlines import Outline
from tests.catalog.support import age, keeper_at, layer_key
from tests.catalog.test_streamed import blobs, small_pieces
from tests.stores import write_image
from tests.test_metrics import samples

SHAPE = (2, 90, 70)
BLOCKS = 2 * 9


def write_store(tmp_path: Path, labels: np.ndarray) -> LayerKey:
    shutil.rmtree(tmp_path / "1.zarr", ignore_errors=True)
    write_image(tmp_path / "1.zarr", labels={"cells": labels}, axes="zyx", chunks=(1, 10, 70))
    return layer_key(Registry(tmp_path / "state"), tmp_path / "1.zarr")


@pytest.fixture
def layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LayerKey:
    small_pieces(monkeypatch.setattr)
    return write_store(tmp_path, blobs(*SHAPE))


def die(*_arguments: Any, **_options: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def before(module: Any, name: str, where: Callable[[tuple[Any, ...]], bool] = lambda _: True) -> None:
    """Die when a function is called with arguments that `where` is true for."""
    real = getattr(module, name)

    def dying(*arguments: Any, **options: Any) -> Any:
        if where(arguments):
            die()
        return real(*arguments, **options)

    setattr(module, name, dying)


def after_blocks(blocks: int) -> Callable[[], Any]:
    """Progress that dies after so many blocks."""
    done = itertools.count(1)
    return lambda: lambda pixels, _: die() if pixels and next(done) == blocks else None


def renaming_of(ending: str) -> Callable[[], None]:
    return lambda: before(os, "rename", lambda arguments: str(arguments[0]).endswith(ending))


def replacing_of(beginning: str) -> Callable[[], None]:
    return lambda: before(os, "replace", lambda arguments: Path(arguments[1]).name.startswith(beginning))


IN_SERVICE = "before what is left is deleted"
MOMENTS: dict[str, Callable[[], Any]] = {
    "before the first block": lambda: before(LabelLayer, "read"),
    "after the first block": after_blocks(1),
    "in the middle": after_blocks(10),
    "after the last block": after_blocks(BLOCKS),
    "while a block is written": lambda: before(
        os, "replace", lambda arguments: str(arguments[1]).endswith("1-30.block")
    ),
    "while progress is written": replacing_of("progress-"),
    "while columns are written": lambda: before(columns_module, "write_columns"),
    "before the catalog is in place": renaming_of(".new"),
    "before it is in service": lambda: before(current_module, "write_pointer"),
    "while it is put into service": replacing_of("current-"),
    IN_SERVICE: lambda: before(builder_module, "sweep"),
    "while its blocks are deleted": lambda: before(
        shutil, "rmtree", lambda arguments: str(arguments[0]).endswith(".blocks")
    ),
}


def kill(tmp_path: Path, layer: LayerKey, moment: str, **rules: Any) -> None:
    """Kill a process that builds the layer at that moment."""
    child = os.fork()
    if child == 0:
        try:
            progress = MOMENTS[moment]()
            keeper_at(tmp_path, **rules).build(layer, progress=progress)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it was not killed"


def names(keeper: Keeper, layer: LayerKey) -> list[str]:
    return sorted(path.name for path in keeper.current.directory(layer).iterdir())


def clean(keeper: Keeper, layer: LayerKey, versions: Sequence[int]) -> list[str]:
    pointer = Path(keeper.current.pointer(layer)).name
    return sorted([pointer, "lock", *map(str, versions)])


@pytest.mark.parametrize("moment", MOMENTS)
def test_nothing_is_left_after_the_next_build(tmp_path: Path, layer: LayerKey, moment: str) -> None:
    kill(tmp_path, layer, moment)
    keeper = keeper_at(tmp_path)
    catalog = keeper.build(layer)
    assert names(keeper, layer) == clean(keeper, layer, [catalog.version])
    assert len(list((keeper.current.directory(layer) / str(catalog.version)).iterdir())) == 12 + 1


@pytest.mark.parametrize("moment", MOMENTS)
def test_nothing_is_left_after_the_next_build_of_a_changed_source(
    tmp_path: Path, layer: LayerKey, moment: str
) -> None:
    """Until then the old catalog is in service, unless the kill came after the new one was."""
    old = keeper_at(tmp_path).build(layer)
    write_store(tmp_path, blobs(*SHAPE)[:, ::-1])
    kill(tmp_path, layer, moment)
    keeper = keeper_at(tmp_path)
    between = keeper.catalog(layer)
    assert (between.version == old.version) == (moment != IN_SERVICE)
    assert between.features["label"].sum() > 0
    write_store(tmp_path, blobs(*SHAPE)[:, :, ::-1])
    new = keeper.build(layer)
    assert new.version not in (old.version, between.version)
    whole = [int(name) for name in names(keeper, layer) if name.isdigit()]
    assert names(keeper, layer) == clean(keeper, layer, whole)
    keeper_at(tmp_path, keep_replaced=0.0).build(layer)
    assert names(keeper, layer) == clean(keeper, layer, [new.version])


def test_a_build_that_failed_leaves_nothing_but_its_reason(tmp_path: Path, layer: LayerKey) -> None:
    keeper = keeper_at(tmp_path)

    def fail(_pixels: int, _features: int) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        keeper.build(layer, progress=fail)
    assert names(keeper, layer) == ["failure.json", "lock"]


@pytest.mark.parametrize("size", [0, 1_000, 4_000, 9_000])
def test_a_disk_that_is_full_leaves_nothing_but_the_old_catalog(
    tmp_path: Path, layer: LayerKey, size: int
) -> None:
    """Files of at most `size` bytes: what a block takes is less than a column does."""
    keeper = keeper_at(tmp_path)
    old = keeper.build(layer)
    write_store(tmp_path, blobs(*SHAPE)[:, ::-1])
    real = build_module.build_catalog

    def limited(*arguments: Any, **options: Any) -> None:  # once the registry has been written to
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        real(*arguments, **options)

    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            build_module.build_catalog = limited
            keeper_at(tmp_path).build(layer)
        except NotWritten:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert keeper.catalog(layer).version == old.version
    assert names(keeper, layer) == sorted([*clean(keeper, layer, [old.version]), "failure.json"])
    assert keeper.status(layer).state == FAILED
    assert keeper.build(layer).version != old.version
    assert keeper.status(layer).state == DONE


INDEXES = ("rows", "blocks", "planes", "rois", "roi_rows", "roi_first", "page_rows", "chunks")


@pytest.mark.parametrize("name", ["features", "parts", "rings", *INDEXES])
def test_columns_that_cannot_be_written_leave_nothing(
    tmp_path: Path, layer: LayerKey, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """They are written by threads. Files that are deleted are let go of at once, or the disk stays full."""
    plain = columns_module.write_columns

    def full(path: Path, *arguments: Any) -> None:
        if path.stem == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(path, *arguments)

    monkeypatch.setattr(columns_module, "write_columns", full)
    monkeypatch.setattr(columns_module, "SPOOL_BYTES", 0)
    keeper = keeper_at(tmp_path)
    gc.disable()
    try:
        with pytest.raises(NotWritten, match="No space left"):
            keeper.build(layer)
        held = Path("/proc/self/maps").read_text().count(f"{keeper.current.directory(layer)}/")
    finally:
        gc.enable()
    assert names(keeper, layer) == ["failure.json", "lock"]
    assert held == 0


def test_blocks_wait_a_day_for_the_build_to_go_on(tmp_path: Path, layer: LayerKey) -> None:
    """Another way of building the layer is up to date meanwhile, and looks again."""
    other = keeper_at(tmp_path, outline=Outline(min_area=5), keep_replaced=0.0)
    other.build(layer)
    kill(tmp_path, layer, "in the middle")
    keeper = keeper_at(tmp_path)
    (blocks,) = keeper.current.directory(layer).glob("*.blocks")
    for tidy in (keeper.tidy, other.tidy, lambda: other.build(layer)):
        tidy()
        assert len(list(blocks.iterdir())) >= 10
    assert list(keeper.current.directory(layer).glob("*.new")) == []
    age(blocks, KEPT_BLOCKS + 1)
    keeper.tidy()
    assert not blocks.exists()
    assert samples(keeper._builder._metrics.text())[REMOVED, 'reason="unfinished"'] == 2


def test_a_service_that_starts_leaves_alone_what_is_being_built(tmp_path: Path, layer: LayerKey) -> None:
    keeper = keeper_at(tmp_path)
    half = keeper.current.directory(layer) / "9.new"
    half.mkdir(parents=True)
    with locked(keeper.current.directory(layer)):
        keeper_at(tmp_path).tidy()
        assert half.exists()
    keeper.tidy()
    assert not half.exists()


def test_a_service_that_starts_without_catalogs_has_nothing_to_tidy(tmp_path: Path) -> None:
    keeper = keeper_at(tmp_path, catalog_bytes=1)
    keeper.tidy()
    assert not keeper._root.exists()
    keeper._root.mkdir(parents=True)
    (keeper._root / "file").touch()
    keeper.tidy()
    assert sorted(path.name for path in keeper._root.iterdir()) == ["file", "usage"]


@pytest.mark.parametrize("with_another_build", [True, False])
def test_catalogs_of_another_format_go_when_nobody_uses_them_any_more(
    tmp_path: Path, layer: LayerKey, monkeypatch: pytest.MonkeyPatch, with_another_build: bool
) -> None:
    """Another release may be at work beside this one: it notes its uses as this one does."""
    with monkeypatch.context() as patch:
        for module in (keeper_module, pointers_module, reader_module, indexes_module):
            patch.setattr(module, "FORMAT", 1)
        earlier = keeper_at(tmp_path).build(layer).version
    keeper = keeper_at(tmp_path, keep_replaced=60.0)
    assert keeper.existing(layer) is None
    version = keeper.build(layer).version
    folder = keeper.current.directory(layer) / str(earlier)
    for seconds, is_there in ((30.0 + USE_NOTED, True), (120.0 + USE_NOTED, False)):
        age(folder, seconds)
        if with_another_build:
            keeper.build(layer)
        else:
            keeper.tidy()
        assert folder.exists() == is_there
    assert names(keeper, layer) == clean(keeper, layer, [version])


def test_a_current_file_without_a_catalog_of_another_format_goes(tmp_path: Path, layer: LayerKey) -> None:
    keeper = keeper_at(tmp_path)
    keeper.build(layer)
    other = keeper.current.directory(layer) / "current-0123456789ab.json"
    other.write_text('{"version": 77, "options": "format=1,min_area=0"}')
    keeper.tidy()
    assert not other.exists()
    assert keeper.existing(layer) is not None


def test_catalogs_that_are_taken_away_while_they_are_built_are_said(tmp_path: Path, layer: LayerKey) -> None:
    keeper = keeper_at(tmp_path)
    with pytest.raises(NotWritten, match=str(keeper.current.directory(layer))):
        keeper.build(layer, progress=lambda *_: shutil.rmtree(tmp_path / "catalogs", ignore_errors=True))
    assert keeper.build(layer).meta["counts"]["features"] > 0


def test_a_place_where_nothing_can_be_written_is_said(tmp_path: Path, layer: LayerKey) -> None:
    """As on a disk that is read-only: a file where the layer's folder is to be."""
    keeper = keeper_at(tmp_path, inline_pixels=10)
    keeper.current.directory(layer).parent.mkdir(parents=True)
    keeper.current.directory(layer).write_text("in the way")
    for act in (keeper.build, keeper.catalog, keeper.start):
        with pytest.raises(NotWritten, match=str(keeper.current.directory(layer))):
            act(layer)
    keeper.tidy()


def test_storage_that_cannot_lock_is_said(
    tmp_path: Path, layer: LayerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    keeper = keeper_at(tmp_path, inline_pixels=10)
    for act in (keeper.build, keeper.catalog, keeper.start):
        with pytest.raises(NotWritten, match="cannot be locked: No locks available"):
            act(layer)
    assert keeper.status(layer).state == NONE
    keeper.tidy()


def test_a_number_is_noted_before_the_catalog_is_in_service(tmp_path: Path, layer: LayerKey) -> None:
    """A registry from a backup would else give it again."""
    keeper = keeper_at(tmp_path)
    kill(tmp_path, layer, "while it is put into service")
    version = keeper.build(layer).version
    assert highest_number(keeper._root) == version
    (keeper._root / NUMBERS).unlink()
    pointer = Path(keeper.current.pointer(layer))
    kill(tmp_path, write_store(tmp_path, blobs(*SHAPE) * 2), "while it is put into service")
    assert highest_number(keeper._root) == version + 1
    assert version_in(pointer) == version


def test_a_disk_that_is_full_leaves_the_number_noted_before(tmp_path: Path) -> None:
    pointer = tmp_path / "uuid" / "1" / "current-a.json"
    pointer.parent.mkdir(parents=True)
    write_pointer(pointer, 41, "")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_pointer(pointer, 42, "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert highest_number(pointer.parent.parent) == 41
    write_pointer(pointer, 9, "")
    assert highest_number(pointer.parent.parent) == 41
    write_pointer(pointer, 100, "")
    assert highest_number(pointer.parent.parent) == 100


def test_files_that_are_short_leave_the_number_noted_before(tmp_path: Path) -> None:
    pointer = tmp_path / "uuid" / "1" / "current-a.json"
    pointer.parent.mkdir(parents=True)
    write_pointer(pointer, 41, "")
    first_free = os.dup(0)
    os.close(first_free)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + 1, before[1]))  # room for one
    try:
        write_pointer(pointer, 9, "")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert version_in(pointer) == 9
    assert highest_number(pointer.parent.parent) == 41


def test_who_hangs_while_a_number_is_noted_keeps_nobody_from_building(
    tmp_path: Path, layer: LayerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pointers_module, "NOTE_WAIT", 0.1)
    keeper = keeper_at(tmp_path)
    keeper._root.mkdir(parents=True)
    with open(keeper._root / NUMBERS, "w") as file, ThreadPoolExecutor(1) as pool:
        fcntl.flock(file, fcntl.LOCK_EX)
        built = pool.submit(keeper.build, layer)
        try:
            assert built.result(30).version > 0
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def test_nothing_goes_while_it_cannot_be_read_what_is_in_service(tmp_path: Path, layer: LayerKey) -> None:
    """As for a moment where files are short, or storage of other machines has another one by that name."""
    keeper = keeper_at(tmp_path, keep_replaced=60.0)
    folder = keeper.current.directory(layer) / str(keeper.build(layer).version)
    (pointer,) = keeper.current.directory(layer).glob("current-*.json")
    content = pointer.read_text()
    pointer.unlink()
    pointer.symlink_to(pointer)  # which leads nowhere
    age(folder, 1000)
    keeper.tidy()
    assert folder.exists()
    tight = keeper_at(tmp_path, keep_replaced=60.0, catalog_bytes=1)
    tight.tidy()
    assert folder.exists()
    pointer.unlink()
    pointer.write_text(content)
    tight.tidy()
    assert not folder.exists()
