"""A catalog made from the one before: what stays is stored once, and told as if all had been written."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roiservice.catalog import builder as builder_module
from roiservice.catalog import current as current_module
from roiservice.catalog import quota as quota_module
from roiservice.catalog import splice
from roiservice.catalog.columns import read_columns, write_columns
from roiservice.catalog.equality import equal_catalogs
from roiservice.catalog.reader import Catalog, Spliced, open_catalog
from roiservice.errors import SourceRefused
from roiservice.query.columns import gathered, read_features
from roiservice.query.pages import feature_page, largest_features, roi_page
from roiservice.query.select import PropertyFilter, RoiQuery
from roiservice.query.summary import summary
from tests.catalog.support import keeper_at, squares
from tests.catalog.test_incremental import Layer, contents
from tests.catalog.test_leftovers import before, renaming_of, replacing_of
from tests.vectorize.support import rings_of

SHARED = ("features", "parts", "rings", "vertices")


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    return Layer(tmp_path, squares(160, 240, dtype="uint32"))


def refused(*_: object) -> None:
    raise OSError(95, "Operation not supported")


def inodes(catalog: Catalog, *names: str) -> list[int]:
    return [(catalog.directory / f"{name}.arrow").stat().st_ino for name in names]


def test_files_are_shared_and_hold_what_did_not_change(layer: Layer) -> None:
    layer.array[50:60, 100:108] = 7777
    catalog = layer.rebuilt()
    assert catalog.later is not None
    assert inodes(catalog, *SHARED) == inodes(layer.first, *SHARED)
    now, before = set(catalog.features["label"][:].tolist()), set(layer.first.features["label"].tolist())
    later = set(catalog.later.columns["label"].tolist())
    assert 7777 in later
    assert now - before <= later
    assert len(later) < 8, "cells of the window that are what they were are stored again"


def test_one_change_after_another(layer: Layer) -> None:
    """What was stored later and is replaced again is stored no longer."""
    stored = []
    for value in range(7001, 7006):
        layer.array[50:56, 100:106] = value
        catalog = layer.keeper.build(layer.key(layer.folder))
        assert catalog.later is not None
        stored.append(len(catalog.later.columns["label"]))
        assert inodes(catalog, *SHARED) == inodes(layer.first, *SHARED)
    assert len(set(stored)) == 1
    layer.array[3, 200:210] = 8000
    catalog = layer.keeper.build(layer.key(layer.folder))
    assert contents(catalog) == contents(layer.from_scratch())


@pytest.mark.parametrize(
    ("rows", "columns", "value"),
    [
        (slice(3, 6), slice(3, 6), 0),  # the first feature goes
        (slice(0, 6), slice(297, 300), 0),  # two go
        (slice(150, 151), slice(150, 151), 20_000),  # one comes
        (slice(298, 299), slice(0, 2), 20_000),
        (slice(150, 152), slice(150, 152), 5052),  # one gets another box
        (slice(0, 30), slice(0, 30), 0),
    ],
)
def test_blocks_of_rows_that_stay_and_others(tmp_path: Path, rows: slice, columns: slice, value: int) -> None:
    at = np.indices((300, 300)) // 3
    layer = Layer(tmp_path, (at[0] * 100 + at[1] + 1).astype(np.uint32))
    assert len(layer.first.blocks) == 10
    layer.array[rows, columns] = value
    catalog = layer.rebuilt()
    assert catalog.later is not None
    assert contents(catalog) == contents(layer.from_scratch())


def test_all_is_written_once_much_is_stored_later(layer: Layer) -> None:
    kinds = set()
    for column in range(0, 240, 16):
        layer.array[:, column : column + 2] = 7000 + column
        catalog = layer.keeper.build(layer.key(layer.folder))
        kinds.add(catalog.later is None)
        if catalog.later is not None:
            base = len(catalog.base.columns["label"])
            assert len(catalog.later.columns["label"]) * splice.LATER_SHARE <= base
        assert contents(catalog) == contents(layer.from_scratch())
    assert kinds == {True, False}


def test_where_files_cannot_be_linked_they_are_copied(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refused)
    layer.array[50:60, 100:108] = 7777
    catalog = layer.rebuilt()
    assert set(inodes(catalog, *SHARED)).isdisjoint(inodes(layer.first, *SHARED))
    assert contents(catalog) == contents(layer.from_scratch())


def test_the_old_version_may_go(layer: Layer) -> None:
    layer.array[50:60, 100:108] = 7777
    catalog = layer.rebuilt()
    shutil.rmtree(layer.first.directory)
    assert contents(layer.keeper.build(layer.key(layer.folder))) == contents(layer.from_scratch())
    assert catalog.later is not None


@pytest.mark.parametrize("name", ["features", "rings", "rows", "chunks", ""])
def test_nothing_is_shared_with_a_damaged_catalog(layer: Layer, name: str) -> None:
    """It may be open and in service."""
    path = layer.first.directory / f"{name}.arrow" if name else layer.first.directory
    if name:
        beginning = path.read_bytes()[:100]
        path.unlink()
        path.write_bytes(beginning)
    else:
        shutil.rmtree(path)
    layer.array[50:60, 100:108] = 7777
    catalog = layer.keeper.build(layer.key(layer.folder))
    assert catalog.later is None
    assert contents(catalog) == contents(layer.from_scratch())


def test_a_version_that_others_built_again_meanwhile(layer: Layer) -> None:
    """What is open is what it was; features may be stored elsewhere in the files that lie there now."""
    other = keeper_at(layer.folder, keep_replaced=0.0)
    layer.array[50:60, 100:108] = 7777
    spliced = layer.rebuilt()
    assert spliced.later is not None
    state = layer.folder / "state of the source"
    shutil.copytree(layer.store, state)
    layer.array[:, ::3] = 0
    assert other.build(layer.key(layer.folder)).later is None
    assert not spliced.directory.exists()
    shutil.rmtree(layer.store)
    shutil.copytree(state, layer.store)
    again = other.build(layer.key(layer.folder))
    assert (again.version, again.later) == (spliced.version, None)
    layer.array[3:9, 3:9] = 6666
    catalog = layer.keeper.build(layer.key(layer.folder))
    assert catalog.later is not None
    assert contents(catalog) == contents(layer.from_scratch())


def names(layer: Layer) -> set[str]:
    """What there is in the folder of the layer."""
    return {path.name for path in layer.first.directory.parent.iterdir()}


QUERIES = [
    RoiQuery(),
    RoiQuery(bbox=(80.5, 40, 130, 70)),
    RoiQuery(labels=(1, 300, 7777)),
    RoiQuery(min_area=17.0),
    RoiQuery(bbox=(90, 40, 140, 70), properties=(PropertyFilter("perimeter", 3, 17),)),
]


@pytest.mark.parametrize("query", QUERIES)
def test_queries_find_what_they_find_in_a_whole_catalog(layer: Layer, query: RoiQuery) -> None:
    layer.array[50:60, 100:108] = 7777
    layer.array[54:56, 103:105] = 0
    layer.array[20:23, 40:43] = layer.array[1, 1]  # a second part
    one, other = layer.rebuilt(), layer.from_scratch()
    assert one.later is not None
    assert other.later is None
    for page in (
        lambda catalog: feature_page(catalog, query, 3, 200),
        lambda catalog: roi_page(catalog, query, 2, 200),
        lambda catalog: largest_features(catalog, query, 50, 300),
    ):
        pages = page(one), page(other)
        assert pages[0].rows.tolist() == pages[1].rows.tolist()
        features = [
            read_features(catalog, each.rows) for catalog, each in zip((one, other), pages, strict=True)
        ]
        assert rings_of(features[0].polygons) == rings_of(features[1].polygons)
        assert features[0].label.tolist() == features[1].label.tolist()
        assert features[0].boxes.tolist() == features[1].boxes.tolist()
    assert summary(one, query) == summary(other, query)


def test_rows_may_come_in_any_order(layer: Layer) -> None:
    layer.array[50:60, 100:108] = 7777
    one, other = layer.rebuilt(), layer.from_scratch()
    rows = np.random.default_rng(1).permutation(len(one.features["place"]))
    assert rings_of(gathered(one, rows)) == rings_of(gathered(other, rows))


def test_columns_are_taken_from_as_arrays_are(layer: Layer) -> None:
    layer.array[50:60, 100:108] = 7777
    one, other = layer.rebuilt(), layer.from_scratch()
    count = len(other.features["place"])
    is_large = other.features["area"] > 12
    for rows in (slice(10, 2000, 3), np.arange(count)[::-7], is_large, np.empty(0, np.int64)):
        for name, column in other.features.items():
            if name != "part_first":
                assert one.features[name][rows].tolist() == column[rows].tolist()
    for name in ("label", "box"):
        assert [each.tolist() for each in one.features[name]] == other.features[name].tolist()
        assert np.array_equal(one.features[name], other.features[name])


def test_a_copy_of_a_column_is_no_view_of_a_file() -> None:
    column = Spliced(np.arange(10.0), np.empty(0), np.arange(3, 7))
    for copy in (np.array(column), np.array(column, np.float64)):
        copy += 1
    assert column.base.tolist() == list(range(10))
    assert np.asarray(column).tolist() == [3, 4, 5, 6]


def test_a_forced_build_of_the_same_source_changes_nothing(layer: Layer) -> None:
    layer.array[50:60, 100:108] = 7777
    catalog = layer.rebuilt()
    again = layer.keeper.build(layer.key(layer.folder), force=True)
    assert again.directory == catalog.directory


@pytest.mark.parametrize("damaged", ["features", "later_features", "vertices", "later_vertices", "rois"])
def test_catalogs_that_tell_other_things_are_not_equal(layer: Layer, tmp_path: Path, damaged: str) -> None:
    layer.array[50:60, 100:108] = 7777
    folder = layer.rebuilt().directory
    copy, whole = tmp_path / "copy", tmp_path / "whole"
    shutil.copytree(folder, copy)
    shutil.copytree(layer.from_scratch().directory, whole)
    meta = (folder / "layer.json").read_text()
    (whole / "layer.json").write_text(meta)
    assert equal_catalogs(copy, whole)
    columns = read_columns(copy / f"{damaged}.arrow")
    name = {"vertices": "xy", "rois": "roi"}.get(damaged.removeprefix("later_"), "area")
    changed = {**columns, name: columns[name] + 1}
    (copy / f"{damaged}.arrow").unlink()
    write_columns(copy / f"{damaged}.arrow", changed)
    assert not equal_catalogs(copy, whole)


def test_a_build_that_fails_leaves_nothing(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    there = names(layer)
    layer.array[50:60, 100:108] = 7777
    monkeypatch.setattr(splice, "write_indexes", full)
    with pytest.raises(builder_module.NotWritten):
        layer.rebuilt()
    assert names(layer) == there | {"failure.json"}


def test_a_build_that_is_stopped_leaves_nothing(layer: Layer) -> None:
    """Who is told of progress may stop it: another builder took over, or the disk is too full."""

    there = names(layer)
    layer.array[50:60, 100:108] = 7777
    for calls in (1, 2, 3):  # a plane was traced, all are, all is written
        left = iter([None] * (calls - 1))

        def stop(_pixels: int, _features: int, left: Iterator[None] = left) -> None:
            next(left)

        with pytest.raises(StopIteration):
            layer.keeper.build(layer.key(layer.folder), progress=stop)
        assert names(layer) == there | {"failure.json"}
    assert layer.rebuilt().later is not None


@pytest.mark.parametrize("is_linked", [True, False])
def test_shared_files_take_no_room(layer: Layer, monkeypatch: pytest.MonkeyPatch, is_linked: bool) -> None:
    """The quota is of what is on the disk while there are two versions; the one before goes after that."""
    monkeypatch.setattr(quota_module, "LOOK_INTERVAL", 0.0)
    monkeypatch.setattr(quota_module, "COST", 0)
    if not is_linked:
        monkeypatch.setattr(os, "link", refused)
    size = sum(path.stat().st_size for path in layer.first.directory.iterdir())
    keeper = keeper_at(layer.folder, catalog_bytes=int(1.8 * size))
    layer.array[50:60, 100:108] = 7777
    if is_linked:
        assert keeper.build(layer.key(layer.folder)).later is not None
        assert not layer.first.directory.exists()
    else:
        with pytest.raises(SourceRefused, match="beside"):
            keeper.build(layer.key(layer.folder))
        assert {name for name in names(layer) if name[0].isdigit()} == {layer.first.directory.name}


def test_progress_is_told_of_all_pixels_once(layer: Layer) -> None:
    told: list[tuple[int, int]] = []
    layer.array[50:60, 100:108] = 7777
    layer.array[1:5, 1:5] = 0
    catalog = layer.keeper.build(layer.key(layer.folder), progress=lambda *each: told.append(each))
    assert catalog.later is not None
    assert sum(pixels for pixels, _ in told) == 160 * 240
    assert told[-1][1] == catalog.meta["counts"]["features"]


IN_SERVICE = "before what is left is deleted"
MOMENTS: dict[str, Callable[[], Any]] = {
    "before files are shared": lambda: before(os, "link"),
    "when some are": lambda: before(os, "link", lambda paths: Path(paths[0]).name == "rings.arrow"),
    "while later ones are written": lambda: before(splice, "write_columns"),
    "before the indexes are": lambda: before(splice, "write_indexes"),
    "before it is in place": renaming_of(".new"),
    "before it is in service": lambda: before(current_module, "write_pointer"),
    "while it is put into service": replacing_of("current-"),
    IN_SERVICE: lambda: before(builder_module, "sweep"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_build_that_is_killed_harms_nobody(layer: Layer, moment: str) -> None:
    """Neither the version whose files are shared, nor the next build."""
    layer.array[3:9, 3:9] = 6666
    old = layer.keeper.build(layer.key(layer.folder))
    told = [contents(layer.first), contents(old)]
    layer.array[50:60, 100:108] = 7777
    child = os.fork()
    if child == 0:
        try:
            MOMENTS[moment]()
            keeper_at(layer.folder).build(layer.key(layer.folder))
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it was not killed"
    there = keeper_at(layer.folder).existing(layer.key(layer.folder))
    assert there is not None
    assert (there.version == old.version) == (moment != IN_SERVICE)
    new = keeper_at(layer.folder).build(layer.key(layer.folder))
    assert new.later is not None
    assert contents(new) == contents(layer.from_scratch())
    assert [contents(open_catalog(each.directory)) for each in (layer.first, old)] == told
    assert {name for name in names(layer) if "." in name} == {
        Path(layer.keeper.current.pointer(layer.key(layer.folder))).name
    }
