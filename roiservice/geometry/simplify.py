"""Simplify outlines so that what touches still fits, whatever part of a plane is looked at.

Borders are cut at junctions, the points where three or more objects (or the background) meet, and each arc
between two junctions is simplified alone, always from the same end: both objects on its sides get the same
line, whichever page they are on. Vertices are left out as Douglas and Peucker (1973) do, but only where
nothing else lies between the old line and the new one. That is enough for new lines never to cross: each
keeps to a region of its own, which ends at the old line. So nothing turns over, parts stay parts and holes
holes. Whether anything lies in between is asked of the unsimplified neighbours, so the answer is the same
wherever it is asked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled
from roiservice.geometry.polygons import Polygons

Int64 = NDArray[np.int64]

_PIECE = 1024  # vertices of an arc that are looked at together: the work per vertex is bounded
_ROUNDED = 2.0**-51  # of the products that a side is told by: more than what rounding may change
_LONGEST = 2**20  # of a straight edge that is searched for junctions, in pixels


def simplified(
    polygons: Polygons, count: int, tolerance: float, scale: tuple[float, float] = (1.0, 1.0)
) -> Polygons:
    """The first `count` features, with vertices left out that are at most `tolerance` from the new line.

    The other features are neighbours, of the same plane: at least all whose box comes as close as the
    tolerance to an outline of the first. `scale` is the size (x, y) of a unit of coordinates in units of the
    tolerance. The result has the same features, parts and rings, its vertices are some of the old ones or lie
    on straight edges where neighbours meet, and its dtype is that of `polygons.xy`.
    """
    rings = polygons.ring_offsets[polygons.part_offsets[count]]
    if not rings:
        return polygons.take(np.arange(count))
    keys = _keys(polygons.xy)
    nodes, first, table = _number(keys)
    whole = polygons.xy.dtype.kind != "f"
    path, offsets, near = _paths(keys, polygons.vertex_offsets, nodes, first, table, whole)
    x, y = polygons.xy[first].astype(np.float64).T.copy()
    bins = _bins(x, y, path[: offsets[rings]])
    kept, ends = _outlines(path, offsets[: rings + 1], near, x, y, bins, tolerance, *scale)
    parts = polygons.part_offsets[: count + 1]
    return Polygons(polygons.xy[first[kept]], ends, polygons.ring_offsets[: parts[-1] + 1], parts)


def _keys(xy: NDArray[Any]) -> Int64:
    """(v, 2) integers that are equal for equal coordinates."""
    if xy.dtype.kind != "f":
        return xy.astype(np.int64)
    return (xy.astype(np.float64) + 0.0).view(np.int64)  # + 0.0: there is one zero only


def _bins(x: NDArray[np.float64], y: NDArray[np.float64], shown: Int64) -> Any:
    """The nodes within the box of the `shown` ones, by squares of a grid: offsets, nodes, and the grid."""
    x0, y0, x1, y1 = x[shown].min(), y[shown].min(), x[shown].max(), y[shown].max()
    inside = np.flatnonzero((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1))
    side = max(np.sqrt((x1 - x0) * (y1 - y0) / len(inside)), (x1 - x0 + y1 - y0) / len(inside), 1e-9) * 2
    columns = int((x1 - x0) // side) + 1
    square = ((y[inside] - y0) // side).astype(np.int64) * columns
    square += ((x[inside] - x0) // side).astype(np.int64)
    squares = columns * (int((y1 - y0) // side) + 1)
    starts = np.zeros(squares + 1, np.int64)
    np.cumsum(np.bincount(square, minlength=squares), out=starts[1:])
    return starts, inside[np.argsort(square, kind="stable")], columns, float(x0), float(y0), float(side)


@compiled
def _slot(table: Any, keys: Any, first: Any, kx: int, ky: int) -> Any:
    """Where the node of that point stands in the hash table, or the free place for it."""
    mask = table.size - 1
    at = kx * 0x1E3779B97F4A7C15 ^ ky * 0x42B2AE3D27D4EB4F
    at = (at ^ (at >> 32)) * 0x369DEA0F31A53F85  # of doubles, few of the lower bits differ
    at = (at ^ (at >> 29)) & mask
    while table[at] >= 0:
        vertex = first[table[at]]
        if keys[vertex, 0] == kx and keys[vertex, 1] == ky:
            break
        at = (at + 1) & mask
    return at


@compiled
def _number(keys: Any) -> Any:
    """The node of each vertex, equal points being one; a vertex of each node; a hash table of nodes."""
    size = 16
    while size < 2 * keys.shape[0]:
        size *= 2
    table = np.full(size, -1, np.int64)
    nodes = np.empty(keys.shape[0], np.int64)
    first = np.empty(keys.shape[0], np.int64)
    count = 0
    for v in range(keys.shape[0]):
        at = _slot(table, keys, first, keys[v, 0], keys[v, 1])
        if table[at] < 0:
            table[at] = count
            first[count] = v
            count += 1
        nodes[v] = table[at]
    return nodes, first[:count].copy(), table


@compiled
def _paths(keys: Any, offsets: Any, nodes: Any, first: Any, table: Any, whole: bool) -> Any:
    """Nodes along each ring, also those of others that lie on its edges; offsets; neighbours of each node.

    Only edges along an axis between `whole` numbers are searched. `near` (n, 5) holds up to five nodes that
    are next to a node along any ring, else -1: three or more make a junction.
    """
    path = np.empty(nodes.size + nodes.size // 4 + 16, np.int64)
    ends = np.zeros(offsets.size, np.int64)
    near = np.full((first.size, 5), -1, np.int64)
    filled = 0
    for r in range(offsets.size - 1):
        for v in range(offsets[r], offsets[r + 1]):
            following = v + 1 if v + 1 < offsets[r + 1] else offsets[r]
            dx, dy = keys[following, 0] - keys[v, 0], keys[following, 1] - keys[v, 1]
            steps = 1
            if whole and (dx == 0 or dy == 0) and abs(dx) + abs(dy) <= _LONGEST:
                steps = max(abs(dx) + abs(dy), 1)
            sx, sy = np.sign(dx), np.sign(dy)
            for step in range(steps):
                node = nodes[v]
                if step:
                    node = table[_slot(table, keys, first, keys[v, 0] + step * sx, keys[v, 1] + step * sy)]
                if node >= 0:
                    if filled == path.size:
                        longer = np.empty(2 * path.size, np.int64)
                        for i in range(filled):  # a slice takes seconds to compile
                            longer[i] = path[i]
                        path = longer
                    path[filled] = node
                    filled += 1
        ends[r + 1] = filled
        for i in range(ends[r], filled):
            before = path[i - 1] if i > ends[r] else path[filled - 1]
            _note(near, path[i], before)
            _note(near, before, path[i])
    return path[:filled], ends, near


@compiled
def _note(near: Any, node: int, other: int) -> None:
    for i in range(near.shape[1]):
        if near[node, i] == other:
            return
        if near[node, i] < 0:
            near[node, i] = other
            return


@compiled
def _outlines(
    path: Any, offsets: Any, near: Any, x: Any, y: Any, bins: Any, tolerance: float, sx: float, sy: float
) -> Any:
    """The nodes that are kept of each ring, and offsets."""
    kept = np.empty(path.size, np.int64)
    ends = np.zeros(offsets.size, np.int64)
    longest = 1
    for r in range(offsets.size - 1):
        longest = max(longest, offsets[r + 1] - offsets[r] + 1)
    arc, keep, stack = np.empty(longest, np.int64), np.zeros(longest, np.bool_), np.empty(longest, np.int64)
    place = np.full((x.size, 2), -1, np.int64)  # of a node: the arc that it was last seen on, and where
    filled, serial = 0, 0
    for r in range(offsets.size - 1):
        ring = path[offsets[r] : offsets[r + 1]]
        n = ring.size
        start = _start(ring, near, x, y)
        k = start
        while k < start + n:
            last = k + 1
            while last < start + n and near[ring[last % n], 2] < 0:
                last += 1
            size = last - k + 1
            for i in range(size):
                arc[i] = ring[(k + i) % n]
            flipped = _runs_back(arc[:size], x, y)
            if flipped:
                for i in range(size // 2):
                    arc[i], arc[size - 1 - i] = arc[size - 1 - i], arc[i]
            serial += 1
            for i in range(size):
                place[arc[i], 0], place[arc[i], 1] = serial, i
            _choose(arc[:size], keep, stack, near, x, y, bins, place, tolerance, sx, sy)
            for i in range(size - 1):
                j = size - 1 - i if flipped else i
                if keep[j]:
                    kept[filled] = arc[j]
                    filled += 1
            k = last
        ends[r + 1] = filled
    return kept[:filled], ends


@compiled
def _start(ring: Any, near: Any, x: Any, y: Any) -> int:
    """Where a ring is cut first: at a junction, or at its topmost, then leftmost vertex if it has none."""
    best = 0
    for i in range(ring.size):
        if near[ring[i], 2] >= 0:
            return i
        if _before(ring[i], ring[best], x, y):
            best = i
    return best


@compiled
def _before(one: int, other: int, x: Any, y: Any) -> bool:
    return bool(y[one] < y[other] or (y[one] == y[other] and x[one] < x[other]))


@compiled
def _runs_back(arc: Any, x: Any, y: Any) -> bool:
    """Whether an arc is turned round, so that it has one direction wherever it is met."""
    if arc[0] != arc[-1]:
        return _before(arc[-1], arc[0], x, y)
    return _before(arc[-2], arc[1], x, y)


@compiled
def _choose(
    arc: Any, keep: Any, stack: Any, near: Any, x: Any, y: Any, bins: Any, place: Any, tolerance: float,
    sx: float, sy: float,
) -> None:  # fmt: skip
    """Set `keep` for the nodes of an arc."""
    n = arc.size
    keep[:n] = False
    keep[0] = keep[n - 1] = True
    for k in range(_PIECE, n - 1, _PIECE):
        keep[k] = True
    if arc[0] == arc[-1]:  # a triangle at least is left of a ring
        far = _farthest(arc, 0, 0, n - 1, x, y, sx, sy)[0]
        keep[far] = True
        keep[_farthest_from_line(arc, far, x, y)] = True
    top = 0
    for i in range(n - 1, 0, -1):
        if keep[i]:
            stack[top] = i
            top += 1
    start: Any = np.int64(0)  # a plain 0 is a type of its own: all that follows would be compiled twice
    while top:
        j = stack[top - 1]
        split = _split(arc, start, j, near, x, y, bins, place, tolerance, sx, sy)
        if split < 0:
            start = j
            top -= 1
        else:
            keep[split] = True
            stack[top] = split
            top += 1


@compiled
def _split(
    arc: Any, i: int, j: int, near: Any, x: Any, y: Any, bins: Any, place: Any, tolerance: float, sx: float,
    sy: float,
) -> Any:  # fmt: skip
    """Which node between i and j has to stay; -1 if a straight line may take the place of all."""
    if j == i + 1:
        return -1
    far, distance = _farthest(arc, i, j, j, x, y, sx, sy)
    if distance > tolerance:
        return far
    middle = far if distance > 0 else (i + j) // 2
    # Two arcs between the same two junctions must not become the same line. Where nothing lies between
    # either arc and that line, they lie on two sides of it: one of the sides may have it. But where an edge
    # is that line already, none may.
    if i == 0 and j == arc.size - 1 and (_twice_area(arc, x, y) < 0 or _is_near(near, arc[i], arc[j])):
        return middle
    if not _is_free(arc, i, j, x, y, bins, place, distance / sx, distance / sy):
        return middle
    return -1


@compiled
def _farthest(arc: Any, i: int, j: int, stop: int, x: Any, y: Any, sx: float, sy: float) -> Any:
    """The first of the nodes after i and before `stop` that are farthest from the segment from i to j."""
    ax, ay = x[arc[i]], y[arc[i]]
    dx, dy = (x[arc[j]] - ax) * sx, (y[arc[j]] - ay) * sy
    length = dx * dx + dy * dy
    far, most = i + 1, -1.0
    for k in range(i + 1, stop):
        px, py = (x[arc[k]] - ax) * sx, (y[arc[k]] - ay) * sy
        along = px * dx + py * dy
        if along <= 0:
            square = px * px + py * py
        elif along >= length:
            square = (px - dx) ** 2 + (py - dy) ** 2
        else:
            square = (px * dy - py * dx) ** 2 / length
        if square > most:
            far, most = k, square
    return far, np.sqrt(most)


@compiled
def _farthest_from_line(arc: Any, far: int, x: Any, y: Any) -> int:
    """The first of all nodes of a ring that are farthest from the line through its start and node `far`."""
    best, most = far, 0.0
    for k in range(1, arc.size - 1):
        apart = abs(_turn(arc[0], arc[far], arc[k], x, y))
        if apart > most:
            best, most = k, apart
    return best


@compiled
def _turn(a: int, b: int, p: int, x: Any, y: Any) -> float:
    """Twice the signed area of a triangle; 0 if p is on the line from a to b."""
    return float((x[b] - x[a]) * (y[p] - y[a]) - (x[p] - x[a]) * (y[b] - y[a]))


@compiled
def _side(a: int, b: int, p: int, x: Any, y: Any) -> float:
    """The same, but also 0 if p is so close to the line that rounding may have put it on its side."""
    left, right = (x[b] - x[a]) * (y[p] - y[a]), (x[p] - x[a]) * (y[b] - y[a])
    return float(left - right if abs(left - right) > _ROUNDED * (abs(left) + abs(right)) else 0.0)


@compiled
def _twice_area(arc: Any, x: Any, y: Any) -> float:
    """Of what lies between an arc and the line between its ends."""
    total = 0.0
    for k in range(1, arc.size - 2):
        total += _turn(arc[0], arc[k], arc[k + 1], x, y)
    return total + _turn(arc[0], arc[-2], arc[-1], x, y)


@compiled
def _is_near(near: Any, node: int, other: int) -> bool:
    """Whether an edge leads from one node to another; also if there are too many edges to know."""
    for i in range(near.shape[1]):
        if near[node, i] == other:
            return True
    return bool(near[node, near.shape[1] - 1] >= 0)


@compiled
def _is_free(
    arc: Any, i: int, j: int, x: Any, y: Any, bins: Any, place: Any, width: float, height: float
) -> bool:
    """Whether no node lies on the line from i to j, or between it and the arc.

    What lies between is as close to the line as the arc is: at most `width` in x and `height` in y.
    """
    starts, members, columns, x0, y0, side = bins
    ax, ay, bx, by = x[arc[i]], y[arc[i]], x[arc[j]], y[arc[j]]
    rows = (starts.size - 1) // columns
    low, high = min(ay, by) - height, max(ay, by) + height
    for row in range(max(int((low - y0) // side), 0), min(int((high - y0) // side), rows - 1) + 1):
        left, right = min(ax, bx), max(ax, bx)
        if ay != by:  # only where the line passes this row of the grid
            one = (y0 + row * side - height - ay) / (by - ay)
            other = (y0 + (row + 1) * side + height - ay) / (by - ay)
            one, other = max(min(one, other), 0.0), min(max(one, other), 1.0)
            left, right = ax + one * (bx - ax), ax + other * (bx - ax)
            left, right = min(left, right), max(left, right)
        first = min(max(int((left - width - x0) // side), 0), columns - 1)
        last = min(max(int((right + width - x0) // side), 0), columns - 1)
        for m in range(starts[row * columns + first], starts[row * columns + last + 1]):
            if _is_between(members[m], arc, i, j, x, y, place):
                return False
    return True


@compiled
def _is_between(node: int, arc: Any, i: int, j: int, x: Any, y: Any, place: Any) -> bool:
    """Whether a node that is not of the arc from i to j lies on the line, or between it and the arc.

    Also where rounding hides it: what is kept for nothing does no harm.
    """
    if node == arc[i] or node == arc[j]:
        return False
    if place[node, 0] == place[arc[i], 0] and i < place[node, 1] < j:
        return False
    inside = False
    before = arc[j]  # from j to i along the line, then along the arc
    for k in range(i, j + 1):
        here = arc[k]
        if (y[before] > y[node]) != (y[here] > y[node]):
            side = _side(before, here, node, x, y)
            if side == 0:
                return True
            if (side > 0) == (y[here] > y[before]):
                inside = not inside
        before = here
    if inside:
        return True
    a, b = arc[i], arc[j]
    within = (x[node] - x[a]) * (x[node] - x[b]) + (y[node] - y[a]) * (y[node] - y[b]) <= 0
    return bool(within and _side(a, b, node, x, y) == 0)
