"""A catalog made from the one before: features that stay are not written again.

The files of stored features never change, so versions share them by hard links. What has come since lies
beside them in files of its own, whose names begin with `later_`; the rows say where each feature is stored.
So a catalog has two sets of files at most: with every change the second one is written anew, and once it
has grown to a share of the first everything is built anew.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.columns import write_columns
from roiservice.catalog.indexes import (
    BLOCK_ROWS,
    PLANE_COLUMNS,
    CatalogRows,
    RoiColumns,
    block_boxes,
    write_indexes,
)
from roiservice.catalog.outlines import vertex_counts
from roiservice.catalog.reader import LATER, OUTLINES, Catalog, Spliced, Stored
from roiservice.catalog.retrace import TooMuch
from roiservice.catalog.runs import Runs, edited
from roiservice.geometry.grouping import index_dtype
from roiservice.geometry.polygons import Polygons
from roiservice.records import dataclass

LATER_SHARE = 8  # features stored later, and those no longer used, are at most one so many-th of the others
EXCHANGED = 2**16  # values that are exchanged at a time

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Replaced:
    """Features of a plane that come in place of others.

    `number` is the plane's in the catalog before. Rows `gone` (g,) go; k features come, each before that
    row of `places` (k,), sorted. `columns` are theirs, but for those of their outlines, and `objects` tell
    their ROIs apart.
    """

    number: int
    gone: Int64
    places: Int64
    objects: Int64
    columns: Mapping[str, NDArray[Any]]
    outlines: Polygons


@dataclass(frozen=True)
class Splice:
    """What becomes of the features of the catalog `before`.

    `come` is what is replaced on all planes, and `rows` what becomes of the rows by that; `later` is what is
    stored later, and `stored` (n,) where each row is stored.
    """

    before: Catalog
    replaced: Sequence[Replaced]
    come: Replaced
    rows: Runs
    later: Stored
    stored: NDArray[Any]


def spliced(before: Catalog, replaced: Sequence[Replaced]) -> Splice:
    """The catalog `before` with some features replaced. Raises TooMuch where nothing would be gained."""
    come = _joined(replaced, before)
    rows = edited(len(before.features["place"]), come.gone, come.places)
    return Splice(before, replaced, come, rows, *_stored_after(before, come, rows))


def write_splice(
    directory: Path,
    splice: Splice,
    objects: Int64 | None,
    describe: Callable[[NDArray[Any], NDArray[Any]], RoiColumns],
    meta: Mapping[str, Any],
    chunks: Mapping[str, Any] | None,
    confirm: Callable[[], None],
) -> None:
    """Write the catalog to `directory`.

    `objects` (m,) are those of the ROIs before, None if their labels are; for the others see
    `CatalogWriter.finish`. `confirm` is called once all is written, and may raise. Nothing is
    left behind on failure.
    """
    before, come, later, stored = splice.before, splice.come, splice.later, splice.stored
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        for name in ("features", *OUTLINES):
            _share(before.directory / f"{name}.arrow", directory / f"{name}.arrow")
        _write_later(directory, later)
        with ThreadPoolExecutor(1) as pool:  # both move much memory, and wait for it
            part_count = pool.submit(_part_counts_after, before, come, splice.rows)
            place, labels, rois = _rois_after(before, objects, come, splice.rows, describe)
        boxes = Spliced(before.base.columns["box"], later.columns["box"], stored)
        vertices = before.meta["counts"]["vertices"] - int(vertex_counts(before, come.gone).sum())
        after = CatalogRows(
            place,
            part_count.result(),
            _blocks_after(before, boxes, splice.rows),
            _planes_after(before, splice.replaced),
            labels,
            rois,
            vertices + len(come.outlines.xy),
            stored,
        )
        write_indexes(directory, after, meta, chunks)
        confirm()
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _joined(replaced: Sequence[Replaced], before: Catalog) -> Replaced:
    """What is replaced on all planes; its `columns` have the types of those before."""
    none = np.empty(0, np.int64)
    own = {name: column for name, column in before.base.columns.items() if not name.startswith("part_")}
    return Replaced(
        -1,
        np.concatenate([none, *(each.gone for each in replaced)]),
        np.concatenate([none, *(each.places for each in replaced)]),
        np.concatenate([none, *(each.objects for each in replaced)]),
        {
            name: np.concatenate(
                [column[:0], *(each.columns[name].astype(column.dtype) for each in replaced)]
            )
            for name, column in own.items()
        },
        Polygons.joined([Polygons.empty(), *(each.outlines for each in replaced)]),
    )


def _stored_after(before: Catalog, come: Replaced, rows: Runs) -> tuple[Stored, NDArray[Any]]:
    """What is stored later, in the order of the rows, and where each row is stored. May raise TooMuch."""
    base = len(before.base.columns["label"])
    known = 0 if before.later is None else len(before.later.columns["label"])
    dtype = index_dtype(base + known + len(come.places))
    was_stored = np.arange(base, dtype=dtype) if before.stored is None else before.stored
    fresh = base + known + np.arange(len(come.places), dtype=dtype)
    stored = rows.taken(was_stored.astype(dtype, copy=False), fresh)
    late = np.flatnonzero(stored >= base)
    unused = base - (rows.total - len(late))
    if (unused + len(late)) * LATER_SHARE > base:
        raise TooMuch
    taken = stored[late] - base
    stored[late] = base + np.arange(len(late))
    columns = {
        name: np.concatenate(([] if before.later is None else [before.later.columns[name]]) + [column])[taken]
        for name, column in come.columns.items()
    }
    outlines = [come.outlines] if before.later is None else [_outlines(before.later, before), come.outlines]
    polygons = Polygons.joined(outlines).take(taken)
    columns["part_first"] = before.base.parts + polygons.part_offsets[:-1]
    columns["part_count"] = np.diff(polygons.part_offsets).astype(np.int32)
    columns = {name: columns[name] for name in before.base.columns}
    return Stored(columns, polygons.ring_offsets, polygons.vertex_offsets, polygons.xy), stored


def _outlines(later: Stored, before: Catalog) -> Polygons:
    """All that is stored later: one feature's parts lie there after another's."""
    parts = np.append(later.columns["part_first"] - before.base.parts, later.parts)
    return Polygons(later.xy, later.ring_vertices, later.part_rings, parts)


def _rois_after(
    before: Catalog,
    objects: Int64 | None,
    come: Replaced,
    rows: Runs,
    describe: Callable[[NDArray[Any], NDArray[Any]], RoiColumns],
) -> tuple[NDArray[Any], NDArray[Any], RoiColumns]:
    """Place of each row among the ROIs, their labels, and what else belongs to them."""
    own, first, which = np.unique(come.objects, return_index=True, return_inverse=True)
    own_labels = come.columns["label"][first]
    number, numbers = describe(own, own_labels).number, before.rois["roi"]
    at = np.searchsorted(numbers, number)
    is_known = at < len(numbers)
    is_known[is_known] = numbers[at[is_known]] == number[is_known]
    fresh = np.flatnonzero(~is_known)
    fresh = fresh[np.argsort(number[fresh])]
    # From here on a ROI goes by its place before, new ones by those that follow, in order of their numbers.
    index = at.copy()
    index[fresh] = len(numbers) + np.arange(len(fresh))
    rois = edited(len(numbers), _left_without(before, come.gone, index), at[fresh])
    place = rows.taken(before.features["place"], index[which])
    _exchange(place, rois.places(len(fresh)))
    labels = rois.taken(before.rois["label"], own_labels[fresh])
    told_apart = labels if objects is None else rois.taken(objects, own[fresh])
    return place, labels, describe(told_apart, labels)


def _left_without(before: Catalog, gone: Int64, kept: Int64) -> Int64:
    """ROIs, by their place, of which all rows go, but for those `kept`."""
    rois, counts = np.unique(before.features["place"][gone], return_counts=True)
    had = before.roi_first[rois + 1] - before.roi_first[rois]
    return np.setdiff1d(rois[had == counts], kept, assume_unique=True)


def _exchange(values: NDArray[Any], others: NDArray[Any]) -> None:
    """Put another one in the place of each value, some at a time: indexes by the million would be copied."""
    for start in range(0, len(values), EXCHANGED):
        some = values[start : start + EXCHANGED]
        some[:] = others[some]


def _part_counts_after(before: Catalog, come: Replaced, rows: Runs) -> NDArray[Any]:
    first, shapes = before.features["shape_first"], before.meta["counts"]["shapes"]
    return rows.taken(np.diff(first, append=first.dtype.type(shapes)), np.diff(come.outlines.part_offsets))


def _blocks_after(before: Catalog, boxes: Spliced, rows: Runs) -> NDArray[np.float64]:
    """Boxes of the blocks; of those whose rows are what they were, the boxes that are known."""
    starts = np.arange(0, rows.total, BLOCK_ROWS)
    is_same = rows.stay_put(starts, np.minimum(starts + BLOCK_ROWS, rows.total))
    if rows.total < rows.count:
        is_same[-1:] = False  # it may have had more rows
    blocks = np.empty((len(starts), 4))
    blocks[is_same] = before.blocks[: len(starts)][is_same[: len(before.blocks)]]
    others = np.flatnonzero(~is_same)
    for run in np.split(others, np.flatnonzero(np.diff(others) > 1) + 1):
        if len(run):
            blocks[run] = block_boxes(boxes, int(starts[run[0]]), int(starts[run[-1]]) + BLOCK_ROWS)
    return blocks


def _planes_after(before: Catalog, replaced: Sequence[Replaced]) -> Int64:
    planes = np.column_stack([before.planes[name] for name in PLANE_COLUMNS])
    for each in replaced:
        planes[each.number, 4] += len(each.places) - len(each.gone)
    planes[:, 3] = np.cumsum(planes[:, 4]) - planes[:, 4]
    return planes


def _write_later(folder: Path, later: Stored) -> None:
    write_columns(folder / f"{LATER}features.arrow", later.columns)
    for (name, column), values in zip(
        OUTLINES.items(), (later.part_rings, later.ring_vertices, later.xy), strict=True
    ):
        write_columns(folder / f"{LATER}{name}.arrow", {column: values})


def _share(path: Path, other: Path) -> None:
    """Have a file, which nobody changes, under another name as well; a copy where links are not possible."""
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)
