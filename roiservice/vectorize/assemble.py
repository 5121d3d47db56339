"""From the rings of a plane to features: split, grouped by label, holes under their exteriors.

The result does not depend on how the plane was cut into strips: rings start at their first vertex in
raster order, parts and holes follow in raster order, features along a Hilbert curve.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled
from roiservice.geometry.grouping import distinct, grouped, members
from roiservice.geometry.hilbert import hilbert_keys, order_of_keys
from roiservice.geometry.polygons import Polygons
from roiservice.records import dataclass
from roiservice.vectorize.seams import Rings
from roiservice.vectorize.tracer import Int32, Int64


def split_rings(rings: Rings) -> Rings:
    """Cut rings that pass one lattice point twice into simple loops there.

    A ring can touch itself only where its label fills two pixels across a corner. Both passes then bound
    the same background, so the touches nest and never interleave: exchanging the ways on at all of them
    at once leaves only simple loops.
    """
    if not (rings.diagonals > 1).any():
        return rings
    xy, offsets, origin = _split(rings.xy, rings.offsets, rings.diagonals)
    simple = np.zeros(len(origin), np.int32)
    return Rings(xy, offsets, rings.labels[origin], simple, rings.member[origin])


@dataclass(frozen=True)
class RingTable:
    """Simple rings and what must be known of each to put it into its place.

    Ring i is `xy[offsets[i]:offsets[i + 1]]`, lattice points (x, y), int32, unclosed, beginning with its
    first in raster order, whose place in that order is `key`. For each of the n rings: its label as uint64,
    the number of the part that it bounds, its box as (x0, y0, x1, y1), and whether it is the part's exterior.
    """

    xy: NDArray[np.int32]
    offsets: Int64
    labels: NDArray[np.uint64]
    part: Int64
    key: Int64
    boxes: NDArray[np.int32]
    exterior: NDArray[np.bool_]


def tabulate(batches: list[Rings], parts: Int64) -> RingTable:
    """Simple rings of several batches in one table; `parts[member]` tells the part that a ring bounds.

    A ring of positive signed area is the exterior of a part, a negative one a hole.
    """
    count = sum(len(batch.labels) for batch in batches)
    offsets = np.zeros(count + 1, np.int64)
    table = RingTable(
        np.empty((sum(int(batch.offsets[-1] - batch.offsets[0]) for batch in batches), 2), np.int32),
        offsets,
        np.empty(count, np.uint64),
        np.empty(count, np.int64),
        np.empty(count, np.int64),
        np.empty((count, 4), np.int32),
        np.empty(count, np.bool_),
    )
    first = 0
    for batch in batches:
        rows = slice(first, first + len(batch.labels))
        np.cumsum(np.diff(batch.offsets), out=offsets[first + 1 : rows.stop + 1])
        offsets[first + 1 : rows.stop + 1] += offsets[first]
        table.labels[rows] = batch.labels
        table.part[rows] = parts[batch.member]
        measured = table.key[rows], table.boxes[rows], table.exterior[rows]
        _take_rings(batch.xy, batch.offsets, table.xy[offsets[first] :], *measured)
        first = rows.stop
    return table


@dataclass(frozen=True)
class Assembly:
    """The rings of a plane, in `tables`, in the order of features, parts and rings.

    Ring r of that order is row `row[r]` of table `table[r]`. Offsets as in `Polygons`; `labels` (f,) are of
    the plane's own dtype. Vertices stay in the tables until `polygons` asks for those of some features.
    """

    labels: NDArray[Any]
    tables: Sequence[RingTable]
    table: Int32
    row: Int64
    vertex_offsets: Int64
    ring_offsets: Int64
    part_offsets: Int64

    def polygons(self, first: int, last: int) -> Polygons:
        """The polygons of features `first` to `last`."""
        parts = self.part_offsets[first : last + 1]
        rings = self.ring_offsets[parts[0] : parts[-1] + 1]
        vertices = self.vertex_offsets[rings[0] : rings[-1] + 1]
        xy = np.empty((int(vertices[-1] - vertices[0]), 2), np.int32)
        rows, of_table = self.row[rings[0] : rings[-1]], self.table[rings[0] : rings[-1]]
        for number in np.flatnonzero(np.bincount(of_table)).tolist():
            own = np.flatnonzero(of_table == number)
            table = self.tables[number]
            _copy_rings(table.xy, table.offsets, rows[own], vertices[own] - vertices[0], xy)
        return Polygons(xy, vertices - vertices[0], rings - rings[0], parts - parts[0])

    def vertices(self, first: int, last: int) -> int:
        """How many vertices features `first` to `last` have."""
        low, high = self.vertex_offsets[self.ring_offsets[self.part_offsets[[first, last]]]]
        return int(high - low)

    def runs(self, most_vertices: int | None) -> Iterator[tuple[int, int]]:
        """First and last of as many features in turn as have so many vertices, at least one; None: of all.

        A plane without features has one empty run.
        """
        ends = self.vertex_offsets[self.ring_offsets[self.part_offsets]]
        first, count = 0, len(self.labels)
        while True:
            last = count
            if most_vertices is not None and count:
                last = int(np.searchsorted(ends, ends[first] + most_vertices, side="right")) - 1
                last = min(max(last, first + 1), count)
            yield first, last
            first = last
            if first == count:
                return


def arrange(tables: Sequence[RingTable], dtype: np.dtype[Any]) -> Assembly:
    """All rings of a plane, one feature per label; parts are numbered through all `tables`.

    Features are sorted by Hilbert key of the box centre, then label; parts and holes in raster order.
    """
    rings = [len(each.labels) for each in tables]
    if not sum(rings):
        nothing = np.zeros(1, np.int64)
        return Assembly(np.empty(0, dtype), (), np.empty(0, np.int32), nothing[:0], nothing, nothing, nothing)
    order, first = _by_label(tables)
    labels = _column(tables, "labels")[order[first[:-1]]]
    along = order_of_keys(hilbert_keys(_feature_boxes(tables, order, first[:-1])))
    chosen, first = members(first, along)
    order = order[chosen]
    ring_offsets = np.flatnonzero(np.r_[_column(tables, "exterior")[order], True])
    counts = np.concatenate([np.diff(each.offsets) for each in tables])[order]
    return Assembly(
        labels[along].astype(np.dtype(f"u{dtype.itemsize}")).view(dtype),
        tables,
        np.repeat(np.arange(len(tables), dtype=np.int32), rings)[order],
        np.concatenate([np.arange(count) for count in rings])[order],
        np.r_[0, np.cumsum(counts)],
        ring_offsets,
        np.asarray(np.searchsorted(ring_offsets, first), np.int64),
    )


def _by_label(tables: Sequence[RingTable]) -> tuple[Int64, Int64]:
    """Rings sorted by label, part and raster order, exteriors first; and where those of each label begin."""
    key, exterior, part = (_column(tables, name) for name in ("key", "exterior", "part"))
    part_key = np.empty(int(part.max()) + 1, np.int64)
    part_key[part[exterior]] = key[exterior]
    part_key = part_key[part]
    del part, exterior
    labels, _, which = distinct(_column(tables, "labels"))
    order, first = grouped(which, len(labels))
    counts = np.diff(first)
    # Most labels have one ring. Only the others' rings, which lie together by now, have an order to find.
    several = np.flatnonzero(np.repeat(counts > 1, counts))
    rings = order[several]
    order[several] = rings[np.lexsort((key[rings], part_key[rings], which[rings]))]
    return order, first


def _column(tables: Sequence[RingTable], name: str) -> NDArray[Any]:
    """That of all tables, one after the other."""
    columns: list[NDArray[Any]] = [getattr(each, name) for each in tables]
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _feature_boxes(tables: Sequence[RingTable], order: Int64, feature_first: Int64) -> NDArray[np.int32]:
    boxes = _column(tables, "boxes")[order]
    low = np.minimum.reduceat(boxes[:, :2], feature_first)
    return np.hstack((low, np.maximum.reduceat(boxes[:, 2:], feature_first)))


def assemble(batches: list[Rings], parts: Int64, dtype: np.dtype[Any]) -> tuple[NDArray[Any], Polygons]:
    """Labels, (f,) of the plane's own `dtype`, and their polygons, one feature per label; see `arrange`."""
    assembly = arrange([tabulate(batches, parts)], dtype)
    return assembly.labels, assembly.polygons(0, len(assembly.labels))


@compiled
def _copy_rings(xy: Any, offsets: Any, rows: Any, place: Any, out: Any) -> None:
    """Copy the rings of these rows of a table, each to its place."""
    for i in range(rows.size):
        to = place[i]
        for v in range(offsets[rows[i]], offsets[rows[i] + 1]):
            out[to, 0], out[to, 1] = xy[v, 0], xy[v, 1]
            to += 1


@compiled
def _take_rings(xy: Any, offsets: Any, out: Any, key: Any, boxes: Any, exterior: Any) -> None:
    """Copy rings one after the other, each from its first vertex on, and measure them."""
    to = 0
    for i in range(offsets.size - 1):
        lo, hi = offsets[i], offsets[i + 1]
        best, begin, twice_area = np.int64(2**62), lo, np.int64(0)
        x0, y0, x1, y1 = xy[lo, 0], xy[lo, 1], xy[lo, 0], xy[lo, 1]
        px, py = np.int64(xy[hi - 1, 0]), np.int64(xy[hi - 1, 1])
        for v in range(lo, hi):
            x, y = np.int64(xy[v, 0]), np.int64(xy[v, 1])
            twice_area += px * y - x * py
            raster = (y << 32) | x
            if raster < best:
                best, begin = raster, v
            x0, y0, x1, y1 = min(x0, x), min(y0, y), max(x1, x), max(y1, y)
            px, py = x, y
        key[i], exterior[i] = best, twice_area > 0
        boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3] = x0, y0, x1, y1
        for v in range(begin, hi):
            out[to, 0], out[to, 1] = xy[v, 0], xy[v, 1]
            to += 1
        for v in range(lo, begin):
            out[to, 0], out[to, 1] = xy[v, 0], xy[v, 1]
            to += 1


@compiled
def _split(xy: Any, offsets: Any, diagonals: Any) -> Any:
    """All rings, those with two or more diagonal vertices cut into loops; and the ring each loop is from."""
    out = np.empty_like(xy[: offsets[-1] - offsets[0]])
    most = (offsets[-1] - offsets[0]) // 4 + 1
    out_offsets = np.zeros(most + 1, np.int64)
    origin = np.empty(most, np.int64)
    n, filled = 0, 0
    for i in range(offsets.size - 1):
        lo, hi = offsets[i], offsets[i + 1]
        size = hi - lo
        if diagonals[i] < 2:
            for v in range(lo, hi):  # slices and rows take three seconds to compile: see `links`
                out[filled, 0], out[filled, 1] = xy[v, 0], xy[v, 1]
                filled += 1
            origin[n] = i
            n += 1
            out_offsets[n] = filled
            continue
        key = np.empty(size, np.int64)
        following = np.empty(size, np.int64)
        for v in range(size):
            key[v] = (np.int64(xy[lo + v, 1]) << 32) | np.int64(xy[lo + v, 0])
            following[v] = v + 1 if v + 1 < size else 0
        order = np.argsort(key)
        for k in range(size - 1):
            a, b = order[k], order[k + 1]
            if key[a] == key[b]:
                following[a], following[b] = following[b], following[a]
        for first in range(size):
            if following[first] < 0:
                continue
            v = first
            while following[v] >= 0:
                out[filled, 0], out[filled, 1] = xy[lo + v, 0], xy[lo + v, 1]
                filled += 1
                w = following[v]
                following[v] = -1
                v = w
            origin[n] = i
            n += 1
            out_offsets[n] = filled
    return out[:filled], out_offsets[: n + 1].copy(), origin[:n].copy()
