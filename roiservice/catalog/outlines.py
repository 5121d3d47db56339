"""Outlines of chosen features, gathered from where they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.reader import Catalog, Stored
from roiservice.geometry.compiled import compiled
from roiservice.geometry.polygons import Polygons

Int64 = NDArray[np.int64]


def outlines(catalog: Catalog, part_first: Int64, part_count: NDArray[Any]) -> Polygons:
    """Polygons with these parts (f,), on the layer's own grid."""
    pieces, order = [], []
    for stored, some, first_part in _stored_in(catalog, part_first):
        first, count = part_first[some] - first_part, part_count[some].astype(np.int64)
        pieces.append(Polygons(*_gather(stored.xy, stored.ring_vertices, stored.part_rings, first, count)))
        order.append(some)
    if len(pieces) == 1:
        return pieces[0]
    return Polygons.joined(pieces).take(np.argsort(np.concatenate(order)))


def vertex_counts(catalog: Catalog, rows: Int64) -> Int64:
    """Vertices of the outlines of these rows, each."""
    first, part_count = catalog.features["part_first"][rows], catalog.features["part_count"][rows]
    counts = np.empty(len(rows), np.int64)
    for stored, some, first_part in _stored_in(catalog, first):
        begin = first[some] - first_part
        rings, vertices = stored.part_rings, stored.ring_vertices
        counts[some] = vertices[rings[begin + part_count[some]]] - vertices[rings[begin]]
    return counts


def _stored_in(catalog: Catalog, part_first: Int64) -> Iterator[tuple[Stored, Any, int]]:
    """What features with these first parts are stored in, which of them, and the number of its part 0."""
    late = part_first >= catalog.base.parts
    if catalog.later is None or not late.any():
        yield catalog.base, slice(None), 0
    else:
        yield catalog.base, np.flatnonzero(~late), 0
        yield catalog.later, np.flatnonzero(late), catalog.base.parts


@compiled
def _gather(xy: Any, vertex_first: Any, ring_first: Any, part_first: Any, part_count: Any) -> Any:
    """Ragged arrays of the chosen features: vertices, and offsets of rings, parts and features."""
    n = part_first.size
    parts = np.zeros(n + 1, np.int64)
    rings_in, vertices_in = 0, 0
    for i in range(n):
        parts[i + 1] = parts[i] + part_count[i]
        first, last = ring_first[part_first[i]], ring_first[part_first[i] + part_count[i]]
        rings_in += last - first
        vertices_in += vertex_first[last] - vertex_first[first]
    rings = np.zeros(parts[n] + 1, np.int64)
    vertices = np.zeros(rings_in + 1, np.int64)
    out = np.empty((vertices_in, 2), xy.dtype)
    part, ring, filled = 0, 0, 0
    for i in range(n):
        for p in range(part_first[i], part_first[i] + part_count[i]):
            for r in range(ring_first[p], ring_first[p + 1]):
                for v in range(vertex_first[r], vertex_first[r + 1]):
                    out[filled, 0], out[filled, 1] = xy[v, 0], xy[v, 1]
                    filled += 1
                ring += 1
                vertices[ring] = filled
            part += 1
            rings[part] = ring
    return out, vertices, rings, parts
