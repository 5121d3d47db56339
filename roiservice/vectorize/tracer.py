"""Trace the outlines of all labels of a strip of pixel rows in one pass.

Outlines follow pixel edges. Every edge is oriented so that its label lies on its right as seen with
y down: east along a top edge, south along a right edge, west along a bottom edge, north along a left
edge. At a lattice corner with the pixels NW NE SW SE a label has a vertex where it fills one of them,
three of them, or two diagonally (then two vertices, one per pixel: parts are 4-connected). Each vertex
has one incoming and one outgoing edge, one of them horizontal and one vertical. Corners are visited in
raster order, so that the partner of a new vertex is known without search: there is at most one pending
east edge and one pending west edge in the row, and one south and one north edge per column.

A strip is traced without its neighbours. Where outlines cross its first or last row they are cut: the
cut is a *port*, numbered from left to right, and the open outline between two ports is a *chain*. Two
strips that share a pixel row have the same ports on it, so joining them is matching equal numbers
(`roiservice.vectorize.seams`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

# Columns of the vertex table.
X, Y, NEXT, RUN = 0, 1, 2, 3
CHAIN_END = -1
# RUN holds -1, or DIAGONAL where the same label also fills the pixel across the corner, or, at a corner
# that only SE does not belong to the label, the vertex whose north edge starts the label's run in the row
# below.
DIAGONAL = -2


@dataclass(frozen=True)
class Chains:
    """Open chains, then closed rings, of one strip.

    `xy` is (v, 2) int32 lattice points (x, y) in plane pixels, rings unclosed; chain i is
    `xy[offsets[i]:offsets[i + 1]]` and may be empty. The first `len(start)` chains are open: they run
    from port `start[i]` to port `end[i]`, where the ports of the upper border count 0, 1, ... and those
    of the lower border `top_ports`, `top_ports + 1`, .... For each of the n chains: `labels` is
    the value as an unsigned integer of the dtype's width; `diagonals` counts vertices at which the label also
    fills the pixel across the corner; `part` is the lowest chain known to bound the same 4-connected part.
    """

    xy: Int32
    offsets: Int64
    start: Int32
    end: Int32
    labels: NDArray[np.uint64]
    diagonals: Int32
    part: Int32
    top_ports: int
    bottom_ports: int


def new_table() -> Int32:
    """A vertex table for `trace_strip` to use and, from strip to strip, to use again."""
    return np.empty((2**16, 4), np.int32)


def trace_strip(
    above: NDArray[Any], strip: NDArray[Any], first_row: int, *, last: bool, table: Int32
) -> tuple[Chains, Int32]:
    """Outlines of `strip`, (rows, width) of any integer or bool dtype, C-contiguous, rows > 0.

    `above` (width,) is the pixel row before the strip (zeros for the first strip of a plane): its
    ports are the upper border. `first_row` is the plane row of `strip[0]`. With `last` the strip ends
    the plane; otherwise its last row carries the ports of the lower border. `table` is working space,
    given back, larger if it had to grow, beside the chains.
    """
    unsigned = np.dtype(f"u{strip.dtype.itemsize}")
    above, strip = above.view(unsigned), strip.view(unsigned)
    table, count, top, bottom = _link(above, strip, first_row, last, table)
    xy, offsets, start, end, pixel, diagonals = _follow(table[:count], top, bottom)
    part = _parts(table[:count], len(offsets) - 1)
    row = pixel[:, 0] - first_row
    labels = np.where(row < 0, above[pixel[:, 1]], strip[np.maximum(row, 0), pixel[:, 1]])
    return Chains(xy, offsets, start, end, labels.astype(np.uint64), diagonals, part, top, bottom), table


@compiled
def _mark_corners(p: Any, q: Any, mask: Any) -> None:
    """Mark the corners between pixel rows `p` (above) and `q` at which any outline turns."""
    n = p.size - 1
    left_p, right_p, left_q, right_q, inner = p[:n], p[1:], q[:n], q[1:], mask[1 : n + 1]
    for i in range(n):
        a, b, d, e = left_p[i], right_p[i], left_q[i], right_q[i]
        inner[i] = ((a != b) | (d != e)) & ((a != d) | (b != e))
    mask[0] = p[0] != q[0]
    mask[n + 1] = p[n] != q[n]


@compiled
def _columns(words: Any, mask: Any, corners: Any) -> int:
    """Columns of the marked corners, in order; returns how many. Written without branches inside a word."""
    count = 0
    for w in range(words.size):
        if words[w] != 0:
            for c in range(8 * w, 8 * w + 8):
                corners[count] = c
                count += mask[c]
    return count


@compiled
def _put(table: Any, n: int, x: int, y: int, following: int, run: int) -> int:
    """Write vertex `n` and return the number of the next one."""
    at = np.uintp(n)  # unsigned: a signed index costs a test for counting from the end
    table[at, X] = x
    table[at, Y] = y
    table[at, NEXT] = following
    table[at, RUN] = run
    return n + 1


@compiled
def _put_ports(row: Any, y: int, table: Any, n: int, south: Any, north: Any, upper: bool) -> int:
    """Cut every vertical edge that crosses pixel row `row` by a port vertex; returns the new count."""
    width = row.size
    for c in range(width + 1):
        west = row[c - 1] if c > 0 else row[0] ^ row[0]
        east = row[c] if c < width else row[0] ^ row[0]
        if west == east:
            continue
        if west != 0:
            if upper:
                south[c] = n
            else:
                table[south[c], NEXT] = n
            n = _put(table, n, c, y, CHAIN_END, -1)
        if east != 0:
            following = CHAIN_END if upper else north[c]
            north[c] = n
            n = _put(table, n, c, y, following, -1)
    return n


@compiled
def _with_room(table: Any, count: int, room: int) -> Any:
    """`table` itself if `room` rows fit after the first `count`, else a copy of at least twice the size."""
    if count + room <= table.shape[0]:
        return table
    larger = np.empty((max(2 * table.shape[0], count + room), 4), np.int32)
    larger[:count] = table[:count]
    return larger


@compiled
def _link(above: Any, strip: Any, first_row: int, last: bool, table: Any) -> Any:
    """Vertices of a strip with all links set, ports first and last; counts of all, upper and lower ports."""
    rows, width = strip.shape
    zeros = np.zeros(width, strip.dtype)
    south = np.full(width + 1, -1, np.int32)
    north = np.full(width + 1, -1, np.int32)
    mask = np.zeros((width + 8) // 8 * 8, np.uint8)
    words = mask.view(np.uint64)
    corners = np.empty(mask.size + 1, np.int32)
    table = _with_room(table, 0, 2 * (width + 1))
    top = _put_ports(above, first_row - 1, table, 0, south, north, True)
    n = top
    for r in range(rows + 1 if last else rows):
        p = above if r == 0 else strip[r - 1]
        q = strip[r] if r < rows else zeros
        table = _with_room(table, n, 4 * (width + 1))
        _mark_corners(p, q, mask)
        count = _columns(words, mask, corners)
        n = _link_row(p, q, first_row + r, corners, count, table, n, south, north)
    bottom = 0
    if not last:
        table = _with_room(table, n, 2 * (width + 1))
        bottom = _put_ports(strip[rows - 1], first_row + rows - 1, table, n, south, north, False) - n
    return table, n + bottom, top, bottom


@compiled
def _link_row(  # noqa: C901 - all kinds of corner, side by side
    p: Any, q: Any, y: int, corners: Any, count: int, table: Any, n: int, south: Any, north: Any
) -> int:
    """Add and link the vertices of corner row `y`, between pixel rows `p` and `q`; returns the new count.

    A vertex first uses the pending edges that end or start at it, then leaves its own: NW, then NE and
    SW, then SE. (The label of three pixels and that of the fourth never touch the same pending edge.)
    One long loop: with its first half as a function of its own the whole tracer takes half as long again.
    """
    width = p.size
    zero = p[0] ^ p[0]
    east_start, west_end = -1, -1
    for i in range(count):
        c = corners[i]
        nw = p[c - 1] if c > 0 else zero
        sw = q[c - 1] if c > 0 else zero
        ne = p[c] if c < width else zero
        se = q[c] if c < width else zero
        up, down, left, right = nw == ne, sw == se, nw == sw, ne == se
        at = np.uintp(c)
        # Three of one label and one of another, most corners by far: told apart by one branch each.
        if down and right:
            if se != 0:  # all but NW: in from the west, out to the north
                table[east_start, NEXT] = n
                n = _put(table, n, c, y, north[at], -1)
            if nw != 0:  # in from the north, out to the west
                table[south[at], NEXT] = n
                n = _put(table, n, c, y, west_end, -1)
            continue
        if down and left:
            if sw != 0:  # all but NE: in from the north, out to the east
                table[south[at], NEXT] = n
                east_start = n
                n = _put(table, n, c, y, CHAIN_END, -1)
            if ne != 0:  # in from the east, out to the north
                west_end = n
                n = _put(table, n, c, y, north[at], -1)
            continue
        if up and right:
            if ne != 0:  # all but SW: in from the south, out to the west
                north[at] = n
                n = _put(table, n, c, y, west_end, -1)
            if sw != 0:  # in from the west, out to the south
                table[east_start, NEXT] = n
                south[at] = n
                n = _put(table, n, c, y, CHAIN_END, -1)
            continue
        if up and left:
            if nw != 0:  # all but SE: in from the east, out to the south
                run = c - 1
                while run > 0 and q[run - 1] == sw:
                    run -= 1
                west_end = n
                south[at] = n
                n = _put(table, n, c, y, CHAIN_END, north[run])
            if se != 0:  # in from the south, out to the east
                east_start = n
                north[at] = n
                n = _put(table, n, c, y, CHAIN_END, -1)
            continue
        # Three labels or more, or two diagonally: each has one of the four pixels, or both of a side.
        if nw != 0 and not up and not left:  # in from the north, out to the west
            table[south[c], NEXT] = n
            n = _put(table, n, c, y, west_end, DIAGONAL if nw == se else -1)
        if ne != 0 and not up and not right:  # in from the east, out to the north
            west_end = n
            n = _put(table, n, c, y, north[c], DIAGONAL if ne == sw else -1)
        if sw != 0 and not down and not left:  # in from the west, out to the south
            table[east_start, NEXT] = n
            south[c] = n
            n = _put(table, n, c, y, CHAIN_END, DIAGONAL if ne == sw else -1)
        if se != 0 and not down and not right:  # in from the south, out to the east
            east_start = n
            north[c] = n
            n = _put(table, n, c, y, CHAIN_END, DIAGONAL if nw == se else -1)
    return n


@compiled
def _walk(table: Any, v: int, chain: int, xy: Any, filled: int) -> Any:
    """Follow links from vertex `v` to the port at the chain's end or round the ring, and mark the way.

    Returns the last vertex, the count of coordinates written so far, and that of diagonal vertices passed.
    """
    diagonals = 0
    mark = np.int32(-2 - chain)
    following = table[v, NEXT]
    while following >= 0:
        at, to = np.uintp(v), np.uintp(filled)
        xy[to, 0] = table[at, X]
        xy[to, 1] = table[at, Y]
        filled += 1
        diagonals += table[at, RUN] == DIAGONAL
        table[at, NEXT] = mark
        v = following
        following = table[np.uintp(v), NEXT]
    return v, filled, diagonals


@compiled
def _follow(table: Any, top: int, bottom: int) -> Any:
    """Follow all links: coordinates chain by chain, ports left out.

    Also gives for every chain a (row, column) pixel of its label and its count of diagonal vertices.
    Leaves in NEXT of every vertex its chain number.
    """
    count = table.shape[0]
    most = (count - top - bottom) // 4 + top + bottom + 1
    xy = np.empty((count, 2), np.int32)
    offsets = np.zeros(most + 1, np.int64)
    pixel = np.empty((most, 2), np.int32)
    diagonals = np.zeros(most, np.int32)
    start = np.empty(top + bottom, np.int32)
    end = np.empty(top + bottom, np.int32)
    chain, filled = 0, 0
    for port in range(top + bottom):
        v = port if port < top else count - bottom + port - top
        if table[v, NEXT] < 0:
            continue
        start[chain] = port
        pixel[chain, 0] = table[v, Y]
        pixel[chain, 1] = table[v, X] - (1 if port < top else 0)
        following = table[v, NEXT]
        table[v, NEXT] = -2 - chain
        v, filled, diagonals[chain] = _walk(table, following, chain, xy, filled)
        table[v, NEXT] = -2 - chain
        end[chain] = v if v < top else v - (count - bottom) + top
        chain += 1
        offsets[chain] = filled
    open_chains = chain
    for first in range(top, count - bottom):
        v = first
        if table[v, NEXT] < 0:
            continue
        x, y = table[v, X], table[v, Y]
        following = table[v, NEXT]
        dx, dy = table[following, X] - x, table[following, Y] - y
        pixel[chain, 0] = y - 1 if dx < 0 or dy < 0 else y
        pixel[chain, 1] = x - 1 if dx < 0 or dy > 0 else x
        _, filled, diagonals[chain] = _walk(table, v, chain, xy, filled)
        chain += 1
        offsets[chain] = filled
    return (
        xy[:filled],
        offsets[: chain + 1].copy(),
        start[:open_chains].copy(),
        end[:open_chains].copy(),
        pixel[:chain],
        diagonals[:chain].copy(),
    )


@compiled
def find_root(parent: Any, i: int) -> int:
    """Root of element `i` in a union-find forest; shortens the way for later calls."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@compiled
def unite(parent: Any, a: int, b: int) -> None:
    """Unite the sets of `a` and `b`; the lower root stays root."""
    a, b = find_root(parent, a), find_root(parent, b)
    if a < b:
        parent[b] = a
    else:
        parent[a] = b


@compiled
def _parts(table: Any, chains: int) -> Any:
    """For every chain the lowest chain that bounds the same part, as far as this strip shows.

    The two ends of a run of pixels of one label lie on outlines of one 4-connected part. It is enough to
    look at the first row below each corner that only SE does not belong to: every hole has such a corner,
    the first one of it in raster order, and the run that ends there starts at an outline that is not the
    hole itself and begins before it. So each hole is led, hole by hole, to the exterior around it.
    """
    part = np.arange(chains).astype(np.int32)
    for v in range(table.shape[0]):
        run = table[v, RUN]
        if run >= 0:
            mine, other = -2 - table[v, NEXT], -2 - table[run, NEXT]
            if mine != other:
                unite(part, mine, other)
    for i in range(chains):
        part[i] = find_root(part, i)
    return part
