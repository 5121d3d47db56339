"""From the rings of a plane to features: split, grouped by label, holes under their exteriors.

The result does not depend on how the plane was cut into strips: rings start at their first vertex in
raster order, parts and holes follow in raster order, features along a Hilbert curve.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled
from roiservice.geometry.hilbert import hilbert_keys
from roiservice.geometry.polygons import Polygons
from roiservice.vectorize.seams import Rings
from roiservice.vectorize.tracer import Int64


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


def assemble(batches: list[Rings], parts: Int64, dtype: np.dtype[Any]) -> tuple[NDArray[Any], Polygons]:
    """Labels, (f,) of the plane's own `dtype`, and their polygons, one feature per label.

    `batches` are simple rings; `parts[member]` tells the part that a ring bounds. A ring of positive signed
    area is the exterior of a part, a negative one a hole. Features are sorted by Hilbert key of the box
    centre, then label.
    """
    batches = [batch for batch in batches if len(batch.labels)]
    unsigned = np.dtype(f"u{dtype.itemsize}")
    if not batches:
        return np.empty(0, dtype), Polygons.empty()
    labels = np.concatenate([batch.labels for batch in batches])
    part = parts[np.concatenate([batch.member for batch in batches])]
    measured = [_first_vertices(batch.xy, batch.offsets) for batch in batches]
    key = np.concatenate([m[0] for m in measured])
    begin = np.concatenate([m[1] for m in measured])
    exterior = np.concatenate([m[2] for m in measured]) > 0
    part_key = np.empty(int(part.max()) + 1, np.int64)
    part_key[part[exterior]] = key[exterior]
    order = np.lexsort((key, part_key[part], labels))
    labels, exterior = labels[order], exterior[order]
    feature_first = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
    boxes = np.concatenate([m[3] for m in measured])[order]
    boxes = np.hstack(
        (np.minimum.reduceat(boxes[:, :2], feature_first), np.maximum.reduceat(boxes[:, 2:], feature_first))
    )
    feature_labels = labels[feature_first]
    along = np.lexsort((feature_labels, hilbert_keys(boxes)))
    rings_of = np.diff(np.r_[feature_first, len(labels)])[along]
    ring_order = _ranges(feature_first[along], rings_of)
    exterior = exterior[ring_order]
    ring_offsets = np.r_[np.flatnonzero(exterior), len(labels)]
    feature_ring = np.r_[0, np.cumsum(rings_of)]
    part_offsets = np.asarray(np.searchsorted(ring_offsets, feature_ring), np.int64)
    xy, vertex_offsets = _gather(batches, order[ring_order], begin)
    return feature_labels[along].astype(unsigned).view(dtype), Polygons(
        xy, vertex_offsets, ring_offsets, part_offsets
    )


def _ranges(first: Int64, count: Int64) -> Int64:
    """The numbers `first[i], first[i] + 1, ... (count[i] of them)` one after the other."""
    total = np.cumsum(count)
    return np.asarray(np.arange(total[-1]) + np.repeat(first - (total - count), count))


def _gather(batches: list[Rings], order: Int64, begin: Int64) -> tuple[NDArray[np.int32], Int64]:
    """Vertices of all rings in the order given, each ring starting at its vertex `begin`."""
    counts = np.concatenate([np.diff(batch.offsets) for batch in batches])
    offsets = np.r_[0, np.cumsum(counts[order])]
    xy = np.empty((int(offsets[-1]), 2), np.int32)
    place = np.empty(len(order), np.int64)
    place[order] = offsets[:-1]
    first = 0
    for batch in batches:
        last = first + len(batch.labels)
        _copy_rotated(batch.xy, batch.offsets, begin[first:last], place[first:last], xy)
        first = last
    return xy, offsets


@compiled
def _copy_rotated(xy: Any, offsets: Any, begin: Any, place: Any, out: Any) -> None:
    for i in range(offsets.size - 1):
        lo, hi, to = offsets[i], offsets[i + 1], place[i]
        for v in range(lo + begin[i], hi):
            out[to, 0], out[to, 1] = xy[v, 0], xy[v, 1]
            to += 1
        for v in range(lo, lo + begin[i]):
            out[to, 0], out[to, 1] = xy[v, 0], xy[v, 1]
            to += 1


@compiled
def _first_vertices(xy: Any, offsets: Any) -> Any:
    """Per ring: raster key of its first vertex, that vertex's place, twice the signed area, its box."""
    n = offsets.size - 1
    key = np.empty(n, np.int64)
    begin = np.empty(n, np.int64)
    area = np.zeros(n, np.int64)
    boxes = np.empty((n, 4), np.int32)
    for i in range(n):
        lo, hi = offsets[i], offsets[i + 1]
        best, total = np.int64(2**62), np.int64(0)
        x0, y0, x1, y1 = xy[lo, 0], xy[lo, 1], xy[lo, 0], xy[lo, 1]
        px, py = np.int64(xy[hi - 1, 0]), np.int64(xy[hi - 1, 1])
        for v in range(lo, hi):
            x, y = np.int64(xy[v, 0]), np.int64(xy[v, 1])
            total += px * y - x * py
            raster = (y << 32) | x
            if raster < best:
                best, begin[i] = raster, v - lo
            x0, y0, x1, y1 = min(x0, x), min(y0, y), max(x1, x), max(y1, y)
            px, py = x, y
        key[i], area[i] = best, total
        boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3] = x0, y0, x1, y1
    return key, begin, area, boxes


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
            out[filled : filled + size] = xy[lo:hi]
            filled += size
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
                out[filled] = xy[lo + v]
                filled += 1
                w = following[v]
                following[v] = -1
                v = w
            origin[n] = i
            n += 1
            out_offsets[n] = filled
    return out[:filled], out_offsets[: n + 1].copy(), origin[:n].copy()
