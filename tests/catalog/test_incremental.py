"""A source of which some chunks changed: their surroundings are traced, and the catalog is that of all."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from roiservice.catalog import build as build_module
from roiservice.catalog import builder as builder_module
from roiservice.catalog import changes, retrace, splice, versions
from roiservice.catalog.before import PlaneBefore
from roiservice.catalog.current import CurrentCatalogs
from roiservice.catalog.outlines import outlines
from roiservice.catalog.pointers import pointer_stamp
from roiservice.catalog.reader import Catalog, open_catalog
from roiservice.catalog.registry import Registry
from roiservice.catalog.task import LayerKey
from roiservice.catalog.writer import CatalogWriter
from roiservice.errors import NotWritten, SourceRefused, TooManyObjects
from roiservice.sources.layer import BY_COMPONENT, ValueSource
from roiservice.sources.limits import Limits
from roiservice.sources.planes import LabelLayer, open_layer
from roiservice.sources.tables.listing import TABLE_FILE
from roiservice.sources.tokens import chunk_state
from roiservice.vectorize.outlines import Outline
from tests.catalog.support import keeper_at, layer_key, squares
from tests.stores import write_array, write_image
from tests.vectorize.support import rings_of

CHUNK = 16


def contents(catalog: Catalog) -> dict[str, Any]:
    """All that a catalog tells, without its number and where its features are stored."""
    rows = np.arange(len(catalog.features["place"]))
    columns = {name: column[rows] for name, column in catalog.features.items()}
    first, count = columns.pop("part_first"), columns["part_count"]
    columns |= {f"planes.{name}": column for name, column in catalog.planes.items()}
    columns |= {f"rois.{name}": column for name, column in catalog.rois.items()}
    columns |= {name: getattr(catalog, name) for name in ("blocks", "roi_rows", "roi_first", "page_rows")}
    return {
        "columns": {name: (str(column.dtype), column.tolist()) for name, column in columns.items()},
        "rings": rings_of(outlines(catalog, first, count)),
        "properties": {name: column.to_pylist() for name, column in catalog.properties.items()},
        "meta": {**catalog.meta, "version": 0},
        "chunks": (catalog.directory / "chunks.arrow").read_bytes(),
    }


def array_of(store: Path) -> zarr.Array[Any]:
    """Level 0 of the labels, to be changed."""
    array = zarr.open_array(store / "labels/cells/0", mode="r+")
    assert isinstance(array, zarr.Array)
    return array


class Layer:
    """A layer, its catalogs, and what building them has read."""

    def __init__(self, folder: Path, labels: np.ndarray, **options: Any) -> None:
        chunks = (*(1,) * (labels.ndim - 2), CHUNK, CHUNK)
        self.folder = folder
        self.store = write_image(folder / "1.zarr", labels={"cells": labels}, **{"chunks": chunks, **options})
        self.keeper = keeper_at(folder)
        self.array = array_of(self.store)
        self.first = self.keeper.build(self.key(folder))

    def key(self, folder: Path) -> LayerKey:
        return layer_key(Registry(folder / "state"), self.store)

    def rebuilt(self) -> Catalog:
        """The catalog of the present state, made from the one before."""
        catalog = self.keeper.build(self.key(self.folder))
        assert catalog.version != self.first.version
        return catalog

    def from_scratch(self) -> Catalog:
        """The same by a service that has nothing yet."""
        other = self.folder / "other"
        shutil.rmtree(other, ignore_errors=True)
        return keeper_at(other).build(self.key(other))


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """What is read from now on: (t, c, z), first and last row, first and last column."""
    read: list[tuple[int, ...]] = []
    plain = LabelLayer.read

    def spied(self: LabelLayer, index: Any, row0: int, row1: int, columns: Any = None) -> Any:
        read.append((*index, row0, row1, *(columns or (0, self.width))))
        return plain(self, index, row0, row1, columns)

    monkeypatch.setattr(LabelLayer, "read", spied)
    return read


def test_only_the_surroundings_are_traced(tmp_path: Path, windows: list[tuple[int, ...]]) -> None:
    layer = Layer(tmp_path, squares(160, 240, dtype="uint32"))
    layer.array[50:60, 100:108] = 7777  # in one chunk
    windows.clear()
    catalog = layer.rebuilt()
    assert len(windows) == 1
    *_, row0, row1, column0, column1 = windows[0]
    assert 48 - 6 <= row0 <= 48 < 64 <= row1 <= 64 + 6
    assert 96 - 6 <= column0 <= 96 < 112 <= column1 <= 112 + 6
    assert 7777 in catalog.rois["label"]
    assert contents(catalog) == contents(layer.from_scratch())


def test_distant_chunks_have_windows_of_their_own(tmp_path: Path, windows: list[tuple[int, ...]]) -> None:
    layer = Layer(tmp_path, squares(160, 240))
    layer.array[0:4, 0:4] = 0
    layer.array[150:160, 230:240] = 5000
    windows.clear()
    catalog = layer.rebuilt()
    assert len(windows) == 2
    assert contents(catalog) == contents(layer.from_scratch())


def test_a_label_gains_a_part_elsewhere(tmp_path: Path, windows: list[tuple[int, ...]]) -> None:
    layer = Layer(tmp_path, squares(160, 240))
    windows.clear()
    layer.array[20:23, 40:43] = layer.array[1, 1]
    catalog = layer.rebuilt()
    assert windows[-1][3] == windows[-1][5] == 0
    assert sorted(catalog.features["part_count"][:])[-2:] == [1, 2]
    assert contents(catalog) == contents(layer.from_scratch())


@pytest.mark.parametrize("changed", [0, 7777])
def test_a_label_with_distant_parts_is_not_in_what_lies_between(
    tmp_path: Path, windows: list[tuple[int, ...]], changed: int
) -> None:
    """Two corners, and a frame around all but the changed chunk."""
    labels = squares(160, 240, dtype="uint32")
    labels[:3, :3] = labels[-3:, -3:] = 9001
    labels[40:44, 80:130] = labels[70:74, 80:130] = labels[40:74, 80:84] = labels[40:74, 126:130] = 9002
    layer = Layer(tmp_path, labels)
    layer.array[50:60, 100:108] = changed
    windows.clear()
    catalog = layer.rebuilt()
    *_, row0, row1, column0, column1 = windows[-1]
    assert 40 < row0 <= row1 < 74
    assert 84 < column0 <= column1 < 126
    assert contents(catalog) == contents(layer.from_scratch())


def test_a_change_in_a_shard_is_one_of_its_chunks(tmp_path: Path, windows: list[tuple[int, ...]]) -> None:
    layer = Layer(tmp_path, squares(192, 240), chunks=(8, 8), shards=(48, 48))
    layer.array[100:104, 60:70] = 7777  # in chunks from (96, 56) to (104, 72) of the shard (2, 1)
    layer.array[187:192, 236:240] = 0
    windows.clear()
    catalog = layer.rebuilt()
    assert windows
    assert all(
        row1 - row0 <= 8 + 12 and column1 - column0 <= 16 + 12 for *_, row0, row1, column0, column1 in windows
    )
    assert contents(catalog) == contents(layer.from_scratch())


def test_a_shard_of_which_that_cannot_be_told_is_one_chunk(
    tmp_path: Path, windows: list[tuple[int, ...]]
) -> None:
    labels = squares(192, 240)
    layer = Layer(tmp_path, labels)
    codecs = (zarr.codecs.GzipCodec(), zarr.codecs.ZstdCodec())  # which zarr alone reads
    write_array(layer.store / "labels/cells/0", labels, chunks=(8, 8), shards=(48, 48), compressors=codecs)
    layer.keeper.build(layer.key(tmp_path))
    array_of(layer.store)[100:104, 60:70] = 7777  # in the shard (2, 1), whose first chunk is that of (96, 48)
    windows.clear()
    catalog = layer.rebuilt()
    assert windows
    assert all(window[3] <= 96 and window[5] <= 48 for window in windows)
    assert all(144 <= window[4] < 192 and 96 <= window[6] < 240 for window in windows)
    assert contents(catalog) == contents(layer.from_scratch())


def test_shards_that_were_copied_are_not_traced(
    tmp_path: Path, windows: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MOST_CHUNKS", 2)
    layer = Layer(tmp_path, squares(192, 240), chunks=(8, 8), shards=(48, 48))
    for path in (layer.store / "labels/cells/0/c").rglob("*"):
        os.utime(path)
    windows.clear()
    catalog = layer.keeper.build(layer.key(tmp_path))
    assert not windows
    assert contents(catalog) == contents(layer.from_scratch())
    layer.array[:] = layer.array[:] + 1  # in all of them
    windows.clear()
    catalog = layer.keeper.build(layer.key(tmp_path))
    assert [window[3:] for window in windows] == [(0, 192, 0, 240)]
    assert contents(catalog) == contents(layer.from_scratch())


@pytest.mark.parametrize("shards", [None, (48, 48)])
@pytest.mark.parametrize("after_a_change", [False, True])
def test_what_only_looks_changed_keeps_its_version(
    tmp_path: Path, shards: tuple[int, int] | None, after_a_change: bool
) -> None:
    """Else ids and walks would end with each copy of a store."""
    layer = Layer(tmp_path, squares(192, 240), shards=shards)
    if after_a_change:
        layer.array[100:104, 60:70] = 7777
        layer.first = layer.rebuilt()
    files = [path for path in (layer.store / "labels/cells/0/c").rglob("*") if path.is_file()]
    first = layer.first
    for _ in range(3):
        os.utime(files[0])
        catalog = layer.keeper.build(layer.key(tmp_path))
        token = catalog.meta["token"]
        assert (catalog.version, token != first.meta["token"]) == (first.version, True)
        assert contents(catalog) == contents(layer.from_scratch())
    other = keeper_at(tmp_path)  # and others find it so
    assert other.build(layer.key(tmp_path)).meta["token"] == token
    assert other.build(layer.key(tmp_path), force=True).version == first.version
    layer.array[20:24, 60:70] = 8888
    catalog = layer.rebuilt()
    assert contents(catalog) == contents(layer.from_scratch())


@pytest.mark.parametrize("outline", [Outline(), Outline(simplify=1.0)])
def test_a_store_that_was_copied_keeps_its_versions(tmp_path: Path, outline: Outline) -> None:
    """Documents and all chunks have other times then, so that all is traced again."""
    layer = Layer(tmp_path, squares(192, 240))
    keeper = keeper_at(tmp_path, outline=outline)
    first = keeper.build(layer.key(tmp_path))
    shutil.move(layer.store, tmp_path / "before.zarr")
    shutil.copytree(tmp_path / "before.zarr", layer.store, copy_function=shutil.copy)
    catalog = keeper.build(layer.key(tmp_path))
    assert catalog.version == first.version
    assert catalog.meta["token"] != first.meta["token"]
    other = keeper_at(tmp_path / "other", outline=outline).build(layer.key(tmp_path / "other"))
    assert contents(catalog) == contents(other)
    array_of(layer.store)[100:104, 60:70] = 7777
    assert keeper.build(layer.key(tmp_path)).version != first.version


def test_what_was_killed_while_a_version_was_kept_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = Layer(tmp_path, squares(96, 96))
    file = next(path for path in (layer.store / "labels/cells/0/c").rglob("*") if path.is_file())
    was = file.stat().st_mtime_ns

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    os.utime(file)
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "keep_version", killed)
        with pytest.raises(KeyboardInterrupt):
            layer.keeper.build(layer.key(tmp_path))
    os.utime(file, ns=(was, was))  # the registry knows a version for that, which is now another state's
    pointers = set()
    for _ in range(3):
        keeper = keeper_at(tmp_path)
        catalog = keeper.build(layer.key(tmp_path))
        assert (catalog.version, catalog.meta["token"]) == (layer.first.version, layer.first.meta["token"])
        pointers.add(pointer_stamp(keeper.current.pointer(layer.key(tmp_path))))
    assert len(pointers) == 1
    assert contents(catalog) == contents(layer.from_scratch())


def test_values_that_changed_make_a_new_version_though_no_pixel_has(tmp_path: Path) -> None:
    layer, table = Layer(tmp_path, squares(96, 96)), tmp_path / "values.csv"
    table.write_text("label,n\n1,1\n")
    key = layer.key(tmp_path)
    key = replace(key, source=replace(key.source, values=(ValueSource(TABLE_FILE, str(table)),)))
    layer.first = layer.keeper.build(key)
    for n, is_another in (("1", False), ("2", True)):
        table.write_text(f"label,n\n1,{n}\n")
        os.utime(next(path for path in (layer.store / "labels/cells/0/c").rglob("*") if path.is_file()))
        catalog = layer.keeper.build(key)
        assert catalog.properties["n"][0].as_py() == int(n)
        assert (catalog.version != layer.first.version) == is_another


def test_a_version_whose_record_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the disk is full: the old record is there, and the next look tries again."""
    layer = Layer(tmp_path, squares(96, 96))
    os.utime(next(path for path in (layer.store / "labels/cells/0/c").rglob("*") if path.is_file()))
    plain = os.replace

    def failing(source: Any, target: Any) -> None:
        if str(target).endswith("layer.json"):
            raise OSError(28, "No space left on device")
        plain(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(versions.os, "replace", failing)
        with pytest.raises(NotWritten):
            layer.keeper.build(layer.key(tmp_path))
    assert open_catalog(layer.first.directory).version == layer.first.version
    catalog = layer.keeper.build(layer.key(tmp_path))
    assert catalog.version == layer.first.version
    assert catalog.meta["token"] != layer.first.meta["token"]
    assert contents(catalog) == contents(layer.from_scratch())


@pytest.mark.parametrize(
    ("module", "name"),
    [(builder_module, "chunk_state"), (build_module, "chunk_digests"), (build_module, "columns_of")],
)
def test_a_shard_that_is_written_meanwhile_is_traced_by_the_next_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    layer = Layer(tmp_path, squares(192, 240), chunks=(8, 8), shards=(48, 48))
    plain = getattr(module, name)

    def with_a_change(*arguments: Any) -> Any:
        """Change pixels once the files were looked at, before their chunks are, or once all is traced."""
        found = plain(*arguments) if module is builder_module else None
        layer.array[100:104, 60:70] = 7777
        return plain(*arguments) if found is None else found

    with monkeypatch.context() as patch:
        patch.setattr(module, name, with_a_change)
        layer.keeper.build(layer.key(tmp_path), force=True)
    catalog = layer.keeper.build(layer.key(tmp_path))
    assert 7777 in catalog.rois["label"]
    assert contents(catalog) == contents(layer.from_scratch())


def test_what_changes_and_is_undone_while_windows_are_traced_is_traced_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = squares(192, 240)
    labels[96:112, 48:80] = 0
    labels[100:104, 60:68] = 5000  # in the chunks (12, 7) and (12, 8), which begin at the columns 56 and 64
    layer = Layer(tmp_path, labels, chunks=(8, 8), shards=(48, 48))
    layer.array[96:98, 57:59] = 7777
    plain = LabelLayer.read

    def cut(*arguments: Any) -> Any:
        """What is read is cut, as if somebody had done so for a moment."""
        layer.array[100:104, 64:68] = 0
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LabelLayer, "read", cut)
        layer.rebuilt()
    layer.array[100:104, 64:68] = 5000
    catalog = layer.keeper.build(layer.key(tmp_path))
    assert contents(catalog) == contents(layer.from_scratch())


def test_what_changed_once_it_was_traced_and_looks_the_same_is_traced_with_its_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one tick of the clock that times are taken from, which may be a second or two."""
    labels = squares(192, 240)
    layer = Layer(tmp_path, labels)
    write_array(layer.store / "labels/cells/0", labels, chunks=(8, 8), shards=(48, 48), compressors=None)
    shard = layer.store / "labels/cells/0/c/2/1"
    plain = CatalogWriter.settle

    def with_a_change(self: CatalogWriter) -> None:
        status = shard.stat()
        layer.array[100:104, 60:62] = 7777
        assert shard.stat().st_size == status.st_size
        os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
        plain(self)

    layer.array = array_of(layer.store)
    with monkeypatch.context() as patch:
        patch.setattr(CatalogWriter, "settle", with_a_change)
        assert 7777 not in layer.keeper.build(layer.key(tmp_path)).rois["label"]
    layer.array[140:142, 60:62] = 8888  # elsewhere in the shard
    catalog = layer.keeper.build(layer.key(tmp_path))
    assert 7777 in catalog.rois["label"]
    assert contents(catalog) == contents(layer.from_scratch())


@pytest.mark.parametrize(("smooth", "is_read"), [(False, True), (True, False)])
def test_shards_are_read_once_more_only_for_catalogs_that_others_can_be_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smooth: bool, is_read: bool
) -> None:
    read: list[str] = []
    plain = LabelLayer.digests

    def spied(self: LabelLayer, name: str, *stamp: int) -> bytes:
        read.append(name)
        return plain(self, name, *stamp)

    layer = Layer(tmp_path, squares(96, 96), chunks=(8, 8), shards=(48, 48))
    monkeypatch.setattr(LabelLayer, "digests", spied)
    keeper_at(tmp_path / "other", outline=Outline(smooth=smooth)).build(layer.key(tmp_path / "other"))
    assert sorted(read) == (["c/0/0", "c/0/1", "c/1/0", "c/1/1"] if is_read else [])


@pytest.mark.parametrize("again", [False, True])
def test_builds_can_be_ended_while_shards_are_read_once_more(
    tmp_path: Path, windows: list[tuple[int, ...]], again: bool
) -> None:
    layer = Layer(tmp_path, squares(192, 240), chunks=(8, 8), shards=(48, 48))
    layer.array[100:104, 60:70] = 7777

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    windows.clear()
    with pytest.raises(KeyboardInterrupt):
        layer.keeper.build(layer.key(tmp_path), force=not again, progress=stop)
    assert not windows


def test_planes_without_a_change_are_not_read(tmp_path: Path, windows: list[tuple[int, ...]]) -> None:
    stack = squares(3, 4, 64, 80)
    layer = Layer(tmp_path, stack, axes="tzyx")
    layer.array[1, 2, 5:9, 6:30] = 300
    windows.clear()
    catalog = layer.rebuilt()
    assert {window[:3] for window in windows} == {(1, 0, 2)}
    assert contents(catalog) == contents(layer.from_scratch())


def test_chunks_that_come_and_go(tmp_path: Path, windows: list[tuple[int, ...]]) -> None:
    labels = squares(160, 240)
    labels[64:96, 64:96] = 0
    layer = Layer(tmp_path, labels)
    layer.array[70:75, 70:75] = 9999  # a chunk that was not stored
    layer.array[112:128, 112:128] = 0
    assert not (layer.store / "labels/cells/0/c/7/7").exists()
    windows.clear()
    catalog = layer.rebuilt()
    assert 0 < len(windows) <= 2
    assert contents(catalog) == contents(layer.from_scratch())


def test_the_last_block_has_the_box_of_the_rows_that_are_left(tmp_path: Path) -> None:
    labels = squares(160, 240)
    labels[:, 200:] = 0
    labels[0:4, 232:236] = 9000
    layer = Layer(tmp_path, labels)
    assert layer.first.features["label"][-1] == 9000
    layer.array[0:4, 232:236] = 0
    catalog = layer.rebuilt()
    assert catalog.later is not None
    assert contents(catalog) == contents(layer.from_scratch())


def test_new_rois_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    layer = Layer(tmp_path, squares(160, 240, dtype="int32"))
    layer.array[0:2, 0:9] = -3  # negative labels have numbers above those of others
    layer.array[2:4, 0:9] = 9000
    catalog = layer.rebuilt()
    assert catalog.later is not None
    assert catalog.rois["label"][-2:].tolist() == [9000, -3]
    assert contents(catalog) == contents(layer.from_scratch())


def test_what_is_no_longer_used_is_given_up_once_it_is_much(tmp_path: Path) -> None:
    layer = Layer(tmp_path, squares(160, 240))
    for column, is_much in ((18, False), (42, True)):  # a thirteenth of the objects, and a sixth
        layer.array[:, :column] = 0
        catalog = layer.keeper.build(layer.key(tmp_path))
        assert (catalog.later is None) == is_much
        assert contents(catalog) == contents(layer.from_scratch())


def test_a_layer_may_become_empty_and_full_again(tmp_path: Path) -> None:
    labels = np.zeros((160, 240), np.uint8)
    labels[3:5, 3:9] = 1
    layer = Layer(tmp_path, labels)
    for value in (0, 2):
        layer.array[3:5, 3:9] = value
        catalog = layer.keeper.build(layer.key(tmp_path))
        assert len(catalog.rois["roi"]) == (value > 0)
        assert contents(catalog) == contents(layer.from_scratch())


def test_much_is_traced_as_a_whole(tmp_path: Path, windows: list[tuple[int, ...]]) -> None:
    labels = squares(160, 240)
    labels[80] = 9999  # from one side to the other
    labels[:, 120] = 9999
    layer = Layer(tmp_path, labels)
    layer.array[80, 0:3] = 0
    windows.clear()
    catalog = layer.rebuilt()
    assert [window[3:] for window in windows] == [(0, 160, 0, 240)]
    assert contents(catalog) == contents(layer.from_scratch())


def test_a_new_farthest_box_orders_anew(tmp_path: Path) -> None:
    """Hilbert keys depend on it: beyond 65536 pixels all of them change."""
    labels = np.zeros((32, 70_000), np.uint8)
    labels[2:30:4, 2:600:4] = 1 + np.arange(7)[:, None]
    labels[1:30:4, 700:900:3] = 11 + np.arange(8)[:, None]
    layer = Layer(tmp_path, labels, chunks=(32, 1000))
    layer.array[5:8, 69_990:69_995] = 100
    assert contents(layer.rebuilt()) == contents(layer.from_scratch())


@pytest.mark.parametrize("option", ["metadata", "force", "min_area"])
def test_all_is_traced_where_more_than_chunks_counts(
    tmp_path: Path, windows: list[tuple[int, ...]], option: str
) -> None:
    layer = Layer(tmp_path, squares(160, 240))
    keeper = layer.keeper
    if option == "min_area":
        keeper = keeper_at(tmp_path, outline=Outline(min_area=2.0))
        keeper.build(layer.key(tmp_path))
    layer.array[3:5, 3:9] = 1000
    if option == "metadata":
        document = layer.store / "labels/cells/zarr.json"
        document.write_text(json.dumps(json.loads(document.read_text())))
    windows.clear()
    keeper.build(layer.key(tmp_path), force=option == "force")
    assert [window[3:] for window in windows] == [(0, 160, 0, 240)]


def test_a_folder_of_chunks_behind_a_link(tmp_path: Path) -> None:
    layer = Layer(tmp_path, squares(160, 240), version="0.4")
    row = layer.store / "labels/cells/0/3"
    row.rename(layer.store / "moved")
    row.symlink_to(layer.store / "moved", target_is_directory=True)
    layer.keeper.build(layer.key(tmp_path))
    row.unlink()
    shutil.copytree(layer.store / "moved", row)
    layer.array[50:60, 100:108] = 9999
    shutil.rmtree(layer.store / "moved")
    row.rename(layer.store / "moved")
    row.symlink_to(layer.store / "moved", target_is_directory=True)
    catalog = layer.keeper.build(layer.key(tmp_path))
    assert 9999 in catalog.rois["label"]


def test_blocks_of_another_state_are_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source may change after its token was made, but before its chunks were listed."""
    monkeypatch.setattr(build_module, "SPILL_PIXELS", 0)
    monkeypatch.setattr(build_module, "SPILL_PIXELS_OF_PLANES", 0)
    layer = Layer(tmp_path, squares(160, 240))
    layer.array[0:4, 0:4] = 8888
    monkeypatch.setattr(builder_module, "source_token", lambda *_: "the same")

    def stop(pixels: int, _: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CurrentCatalogs, "get", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        layer.keeper.build(layer.key(tmp_path), progress=stop)
    layer.array[50:60, 100:108] = 9999
    assert 9999 in layer.keeper.build(layer.key(tmp_path)).rois["label"]


def test_other_metadata_than_those_of_the_catalog_count(
    tmp_path: Path, windows: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents may change after the state was told, but before the layer is opened."""
    layer = Layer(
        tmp_path, squares(160, 240), image_shape=(320, 480), scale=[1.0, 1.0], label_scale=[2.0, 2.0]
    )
    document = layer.store / "labels/cells/zarr.json"
    state = builder_module.chunk_state(layer.key(tmp_path).source, Limits())
    document.write_text(document.read_text().replace("2.0", "1.5"))
    monkeypatch.setattr(builder_module, "chunk_state", lambda *_: state)
    windows.clear()
    assert layer.rebuilt().meta["frame"][0] == 1.5
    assert [window[3:] for window in windows] == [(0, 160, 0, 240)]


@pytest.mark.parametrize("rule", [{"measures": ("solidity",)}, {"objects": BY_COMPONENT}])
def test_objects_that_are_told_by_more_than_their_label_are_all_traced(
    tmp_path: Path, windows: list[tuple[int, ...]], rule: dict[str, Any]
) -> None:
    layer = Layer(tmp_path, squares(160, 240))
    key, afresh = (
        replace(each, source=replace(each.source, **rule))
        for each in (layer.key(tmp_path), layer.key(tmp_path / "other"))
    )
    layer.keeper.build(key)
    layer.array[50:60, 100:108] = 7777
    windows.clear()
    catalog = layer.keeper.build(key)
    assert [window[3:] for window in windows] == [(0, 160, 0, 240)]
    assert contents(catalog) == contents(keeper_at(tmp_path / "other").build(afresh))


def test_very_many_changed_chunks_are_not_looked_at_one_by_one(
    tmp_path: Path, windows: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MOST_CHUNKS", 2)
    layer = Layer(tmp_path, squares(160, 240))
    for count, is_whole in ((2, False), (3, True)):
        for number in range(count):
            layer.array[0:2, CHUNK * 4 * number] = 1000 * count + number
        windows.clear()
        catalog = layer.keeper.build(layer.key(tmp_path))
        assert ([window[3:] for window in windows] == [(0, 160, 0, 240)]) == is_whole
        assert contents(catalog) == contents(layer.from_scratch())


def test_boxes_on_very_many_planes_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer(tmp_path, squares(40, 32, 32), axes="zyx", chunks=(40, 16, 16))
    before = chunk_state(layer.key(tmp_path).source, Limits())
    layer.array[3, 0:2, 0:20] = 9999  # in two chunks
    state = chunk_state(layer.key(tmp_path).source, Limits())
    assert state is not None
    assert before != state
    opened = open_layer(layer.key(tmp_path).source, Limits())
    for most, is_known in ((80, True), (79, False)):
        monkeypatch.setattr(changes, "MOST_BOXES", most)
        found = changes.changes_since(layer.first.directory, opened, state, lambda: None)
        assert (found is not None) == is_known


@pytest.mark.parametrize("rows", [1, 2, 5, 16])
def test_windows_are_cut_at_the_rows_of_blocks_but_never_to_one_row(rows: int) -> None:
    for y0, y1 in itertools.combinations(range(40), 2):
        cuts = retrace._cuts(y0, y1, rows)
        assert [row for cut in cuts for row in range(*cut)] == list(range(y0, y1))
        assert all(first % max(rows, 2) == 0 for first, _ in cuts[1:])
        assert y1 - y0 == 1 or all(last - first > 1 for first, last in cuts)


def test_limits_hold_for_what_stays_as_well(tmp_path: Path) -> None:
    layer = Layer(tmp_path, squares(160, 240))
    layer.array[0:4, 0:4] = 0
    with pytest.raises(SourceRefused, match="more than 100 vertices"):
        keeper_at(tmp_path, max_vertices=100).build(layer.key(tmp_path))
    with pytest.raises(TooManyObjects):
        keeper_at(tmp_path, inline_vertices=100).build(layer.key(tmp_path), inline=True)


VALUES = st.sampled_from([0, 1, 5, 40, 2000, 2001, 3000])
RECTANGLES = st.tuples(
    st.integers(0, 95), st.integers(0, 111), st.integers(1, 40), st.integers(1, 40), VALUES
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(RECTANGLES, min_size=1, max_size=4),
    st.sampled_from(["uint16", "int32", "uint64"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 2**21]),
    st.sampled_from([None, (32, 48)]),
)
def test_any_change_gives_the_catalog_of_all(
    changes: list[tuple[int, int, int, int, int]],
    dtype: str,
    noisy: bool,
    step_by_step: bool,
    block: int,
    shards: tuple[int, int] | None,
) -> None:
    labels = squares(96, 112, dtype=dtype)
    if noisy:
        labels = np.random.default_rng(4).integers(0, 60, (32, 38)).repeat(3, 0).repeat(3, 1)[:96, :112]
        labels = labels.astype(dtype)
    labels[1:4, 2:5] = labels[90:94, 100:105] = labels[60, 8:100] = 3000  # wide, and mostly elsewhere
    if dtype == "int32":
        labels[50:52, 50:52] = -3
    if dtype == "uint64":
        labels[50:52, 50:52] = 2**63 + 5
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrace, "BLOCK_PIXELS", block)
        patch.setattr(retrace, "PLANE_SHARE", 1)
        patch.setattr(splice, "LATER_SHARE", 0)
        layer = Layer(Path(folder), labels, shards=shards)
        for row, column, height, width, value in changes:
            layer.array[row : row + height, column : column + width] = value
            if step_by_step:
                layer.keeper.build(layer.key(layer.folder))
        catalog = layer.keeper.build(layer.key(layer.folder))
        assert contents(catalog) == contents(layer.from_scratch())


def test_outlines_of_wide_labels_are_not_read_once_all_is_traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label of background lies in every chunk: that it has too much to be traced again is seen by one."""
    labels = squares(160, 240, dtype="uint32")
    labels[::4] = labels[:, 0] = 9999
    layer = Layer(tmp_path, labels)
    layer.array[5 : 160 : 3 * CHUNK, 5] = 7777  # in four chunks
    seen, plain = [], PlaneBefore.outlines
    monkeypatch.setattr(
        PlaneBefore, "outlines", lambda before, rows: [seen.append(rows), plain(before, rows)][1]
    )
    assert contents(layer.rebuilt()) == contents(layer.from_scratch())
    assert len(seen) == 1
