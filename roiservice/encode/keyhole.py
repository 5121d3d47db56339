"""Polygons with holes as single rings, for formats whose polygon is one list of points.

A bridge runs from the ring to the hole and back along itself: the area stays exact and the even-odd and
non-zero rules both leave the hole empty, since holes turn the other way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled
from roiservice.geometry.polygons import Polygons

# Pairs of vertices compared per part in search of short bridges; past it any bridge will do.
SEARCH = 4_000_000


def keyhole_rings(polygons: Polygons) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """One ring per part: vertices, unclosed, and offsets (parts + 1,)."""
    if len(polygons.ring_offsets) == len(polygons.vertex_offsets):
        return polygons.xy, polygons.vertex_offsets  # no holes
    xy, offsets = _cut(polygons.xy, polygons.vertex_offsets, polygons.ring_offsets, SEARCH)
    return xy, offsets


@compiled
def _cut(xy: Any, vertices: Any, rings: Any, search: int) -> Any:
    """Join every hole, in order, to the nearest vertex of what its part consists of so far."""
    holes = vertices.size - rings.size
    out = np.empty((xy.shape[0] + 2 * holes, 2), xy.dtype)
    following = np.empty(out.shape[0], np.int64)
    joined = np.empty_like(out)
    offsets = np.zeros(rings.size, np.int64)
    filled = 0
    for p in range(rings.size - 1):
        first = vertices[rings[p]]
        n = vertices[rings[p] + 1] - first
        joined[:n] = xy[first : first + n]
        for v in range(n):
            following[v] = v + 1 if v + 1 < n else 0
        effort = 0
        for r in range(rings[p] + 1, rings[p + 1]):
            lo, hi = vertices[r], vertices[r + 1]
            near, start = 0, lo
            effort += n * (hi - lo)
            if effort <= search:
                best = np.inf
                for v in range(n):
                    for w in range(lo, hi):
                        dx, dy = float(joined[v, 0] - xy[w, 0]), float(joined[v, 1] - xy[w, 1])
                        if dx * dx + dy * dy < best:
                            best, near, start = dx * dx + dy * dy, v, w
            after, previous = following[near], near
            for k in range(hi - lo + 1):
                w = lo + (start - lo + k) % (hi - lo)
                joined[n] = xy[w]
                following[previous] = n
                previous = n
                n += 1
            joined[n] = joined[near]
            following[previous], following[n] = n, after
            n += 1
        v = 0
        for _ in range(n):
            out[filled] = joined[v]
            filled += 1
            v = following[v]
        offsets[p + 1] = filled
    return out, offsets
