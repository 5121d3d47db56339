"""Polygons with holes as single rings, for formats whose polygon is one list of points.

A bridge runs from one ring to the next and back along itself: the area stays exact and the even-odd and
non-zero rules both leave the hole empty, since holes turn the other way. All rings of a part are joined by
the shortest bridges that do so, a minimum spanning tree (Prim 1957) of their distances: a shortest way from
one ring to the nearest other cannot cross a third, so the ring is simple but for its bridges.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled
from roiservice.geometry.polygons import Polygons

# Pieces and edges of rings, and pairs of these, looked at per part in search of the shortest bridges; past it
# any will do.
SEARCH = 10_000_000
PIECE = 32  # edges of a ring that have one box


def keyhole_rings(polygons: Polygons) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """One ring per part: vertices, unclosed, and offsets (parts + 1,).

    Bridges may end within an edge. Vertices stay integers where all edges of parts with holes run along an
    axis, so that those ends are integers as well.
    """
    if len(polygons.ring_offsets) == len(polygons.vertex_offsets):
        return polygons.xy, polygons.vertex_offsets  # no holes
    xy = polygons.xy.astype(np.float64, copy=False)  # which holds 32 bits exactly
    out, offsets = _cut(xy, polygons.vertex_offsets, polygons.ring_offsets, SEARCH)
    if xy is polygons.xy or _has_slopes(xy, polygons.vertex_offsets, polygons.ring_offsets):
        return out, offsets
    return out.astype(polygons.xy.dtype), offsets


@compiled
def _has_slopes(xy: Any, vertices: Any, rings: Any) -> bool:
    """Whether a part with holes has an edge along neither axis."""
    for p in range(rings.size - 1):
        if rings[p + 1] - rings[p] == 1:
            continue
        for r in range(rings[p], rings[p + 1]):
            before = vertices[r + 1] - 1
            for v in range(vertices[r], vertices[r + 1]):
                if xy[v, 0] != xy[before, 0] and xy[v, 1] != xy[before, 1]:
                    return True
                before = v
    return False


@compiled
def _cut(xy: Any, vertices: Any, rings: Any, search: int) -> Any:
    """Join the rings of every part; ragged rings, one per part."""
    holes = vertices.size - rings.size
    out = np.empty((xy.shape[0] + 4 * holes, 2))
    offsets = np.zeros(rings.size, np.int64)
    filled = 0
    for p in range(rings.size - 1):
        first, last = rings[p], rings[p + 1]
        lo, hi = vertices[first], vertices[last]
        if last - first == 1:
            for v in range(lo, hi):
                _put(out[filled], xy[v])
                filled += 1
        else:
            filled = _walk(out, filled, *_joined(xy, vertices, first, last, search))
        offsets[p + 1] = filled
    return out[:filled], offsets


@compiled
def _walk(out: Any, filled: int, points: Any, following: Any) -> int:
    """Write a path that leads back to its first node."""
    node = 0
    while True:
        _put(out[filled], points[node])
        filled += 1
        node = following[node]
        if node == 0:
            return filled


@compiled
def _joined(xy: Any, vertices: Any, first: int, last: int, search: int) -> Any:
    """Nodes of one path around all rings from `first` to `last`: their points, and which follows which.

    Every vertex is a node; a bridge adds its two ends once more, and nodes where it ends within an edge.
    `ahead` is the next node along the ring itself, `leave` the node at the same point from which the path
    goes on along that ring, after all bridges from there.
    """
    base, count = vertices[first], vertices[last] - vertices[first]
    points = np.empty((count + 4 * (last - first - 1), 2))
    ahead = np.empty(points.shape[0], np.int64)
    for r in range(first, last):
        lo, hi = vertices[r] - base, vertices[r + 1] - base
        for v in range(lo, hi):
            _put(points[v], xy[base + v])
            ahead[v] = v + 1 if v + 1 < hi else lo
    following, leave = ahead.copy(), np.arange(points.shape[0])
    starts = vertices[first : last + 1] - base
    edges, ends = _bridges(points[:count], starts, search)
    n = count
    for k in range(edges.shape[0]):
        for side in range(2):
            # The node at that end of the bridge: one that is there, or a new one between two of the edge.
            node, length = edges[k, side], _square(points[edges[k, side]], ends[k, side])
            while ahead[node] >= count and _square(points[edges[k, side]], points[ahead[node]]) <= length:
                node = ahead[node]
            if _square(points[node], ends[k, side]) > 0:
                _put(points[n], ends[k, side])
                ahead[n], ahead[node] = ahead[node], n
                following[n], following[leave[node]] = following[leave[node]], n
                node = n
                n += 1
            edges[k, side] = node
        near, far = edges[k, 0], edges[k, 1]
        entry, back = n, n + 1
        _put(points[entry], points[far])
        _put(points[back], points[near])
        n += 2
        following[back] = following[leave[near]]
        following[leave[near]] = entry
        following[entry] = following[far]
        following[far] = back
        leave[near], leave[far] = back, entry
    return points[:n], following[:n]


@compiled
def _bridges(points: Any, starts: Any, search: int) -> Any:
    """The shortest bridges that join all rings, in an order in which each starts at what is joined already.

    Per bridge the first vertices of the two edges on which it ends, and its ends: (n, 2), (n, 2, 2).
    """
    rings = starts.size - 1
    boxes, of_ring = _pieces(points, starts)
    edges, ends = np.zeros((rings - 1, 2), np.int64), np.empty((rings - 1, 2, 2))
    best = np.full(rings, np.inf)
    best_edges, best_ends = np.zeros((rings, 2), np.int64), np.empty((rings, 2, 2))
    for r in range(1, rings):  # what will do if the search takes too long
        best_edges[r, 1] = starts[r]
        _put(best_ends[r, 0], points[0])
        _put(best_ends[r, 1], points[starts[r]])
    joined, latest, unjoined = np.zeros(rings, np.bool_), 0, 1
    joined[0] = True
    for k in range(rings - 1):
        while joined[unjoined]:
            unjoined += 1
        nearest = unjoined
        if search > 0:
            for r in range(unjoined, rings):
                if search > 0 and not joined[r]:
                    search -= _approach(
                        points, starts, boxes, of_ring, latest, r, best, best_edges, best_ends
                    )
                    if best[r] < best[nearest]:
                        nearest = r
        joined[nearest], latest = True, nearest
        _put(edges[k], best_edges[nearest])
        _put(ends[k, 0], best_ends[nearest, 0])
        _put(ends[k, 1], best_ends[nearest, 1])
    return edges, ends


@compiled
def _pieces(points: Any, starts: Any) -> Any:
    """Boxes around pieces of rings, at most PIECE edges each: (n, 4), and where those of each ring begin."""
    of_ring = np.zeros(starts.size, np.int64)
    for r in range(starts.size - 1):
        of_ring[r + 1] = of_ring[r] + (starts[r + 1] - starts[r] + PIECE - 1) // PIECE
    boxes = np.empty((of_ring[-1], 4))
    for r in range(starts.size - 1):
        for k in range(of_ring[r + 1] - of_ring[r]):
            first = starts[r] + k * PIECE
            last = min(first + PIECE, starts[r + 1])
            end = points[last if last < starts[r + 1] else starts[r]]  # of the piece's last edge
            box = boxes[of_ring[r] + k]
            for axis in range(2):
                low = high = end[axis]
                for i in range(first, last):
                    low, high = min(low, points[i, axis]), max(high, points[i, axis])
                box[axis], box[axis + 2] = low, high
    return boxes, of_ring


@compiled
def _approach(
    points: Any, starts: Any, boxes: Any, of_ring: Any, a: int, b: int, best: Any, edges: Any, ends: Any
) -> int:
    """Note where ring `b` is nearest to ring `a`, if that is nearer than what is known of `b`.

    Rings do not cross, so one end of a shortest way between them is a vertex. Returns how many pieces, edges
    and pairs of them were looked at.
    """
    effort = 0
    for mine in range(of_ring[a], of_ring[a + 1]):
        first = starts[a] + (mine - of_ring[a]) * PIECE
        last = min(first + PIECE, starts[a + 1])
        for other in range(of_ring[b], of_ring[b + 1]):
            effort += 1
            if _apart(boxes[mine], boxes[other]) >= best[b]:
                continue
            other_first = starts[b] + (other - of_ring[b]) * PIECE
            other_last = min(other_first + PIECE, starts[b + 1])
            for i in range(first, last):
                end = i + 1 if i + 1 < starts[a + 1] else starts[a]
                effort += 1
                if _apart(_box_of(points, i, end), boxes[other]) < best[b]:
                    effort += other_last - other_first
                    ring = (other_first, other_last, starts[b], starts[b + 1])
                    _approach_edge(points, (i, end), ring, b, best, edges, ends)
    return effort


@compiled
def _box_of(points: Any, start: int, end: int) -> Any:
    """The box of an edge."""
    x0, x1 = points[start, 0], points[end, 0]
    y0, y1 = points[start, 1], points[end, 1]
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


@compiled
def _apart(a: Any, b: Any) -> float:
    """Square of the distance of two boxes: what lies in them is no nearer."""
    x, y = max(a[0] - b[2], b[0] - a[2], 0.0), max(a[1] - b[3], b[1] - a[3], 0.0)
    return float(x * x + y * y)


@compiled
def _approach_edge(points: Any, edge: Any, ring: Any, b: int, best: Any, edges: Any, ends: Any) -> None:
    """The same for one edge of the other ring; `ring` is which vertices of `b` to look at, and all."""
    for start in range(ring[0], ring[1]):
        after = start + 1 if start + 1 < ring[3] else ring[2]
        for side in range(2):
            if side == 0:
                vertex, first, last = start, edge[0], edge[1]
            else:
                vertex, first, last = edge[0], start, after
            distance, x, y = _foot(points, vertex, first, last)
            if distance < best[b]:
                best[b] = distance
                edges[b, side], edges[b, 1 - side] = first, vertex
                ends[b, side, 0], ends[b, side, 1] = points[first, 0] + x, points[first, 1] + y
                _put(ends[b, 1 - side], points[vertex])


@compiled
def _foot(points: Any, vertex: int, edge: int, end: int) -> Any:
    """Square of the distance of a vertex from the edge that runs from `edge` to `end`, without its end.

    And where on it, as seen from its start. Exact along an axis.
    """
    dx, dy = points[end, 0] - points[edge, 0], points[end, 1] - points[edge, 1]
    x, y = points[vertex, 0] - points[edge, 0], points[vertex, 1] - points[edge, 1]
    along, whole = x * dx + y * dy, dx * dx + dy * dy
    if along >= whole > 0:
        return np.inf, 0.0, 0.0  # nearest to the end, where the next edge starts
    if along <= 0:
        foot_x, foot_y = 0.0, 0.0
    elif dx == 0:
        foot_x, foot_y = 0.0, y
    elif dy == 0:
        foot_x, foot_y = x, 0.0
    else:
        foot_x, foot_y = along / whole * dx, along / whole * dy
    return (x - foot_x) ** 2 + (y - foot_y) ** 2, foot_x, foot_y


@compiled
def _put(pair: Any, values: Any) -> None:
    """Set two numbers. What assignments of rows say of shapes that differ takes three seconds to compile."""
    pair[0], pair[1] = values[0], values[1]


@compiled
def _square(a: Any, b: Any) -> float:
    """Square of the distance of two points."""
    x, y = a[0] - b[0], a[1] - b[1]
    return float(x * x + y * y)
