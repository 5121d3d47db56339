"""Trace the outlines of all labels of a strip of pixel rows in one pass.

Outlines follow pixel edges. Every edge is oriented so that its label lies on its right as seen with
y down: east along a top edge, south along a right edge, west along a bottom edge, north along a left
edge. Where the vertices are, and how each finds the next, is in `roiservice.vectorize.links`.

A strip is traced without its neighbours. Where outlines cross its first or last row they are cut: the
cut is a *port*, numbered from left to right, and the open outline between two ports is a *chain*. Two
strips that share a pixel row have the same ports on it, so joining them is matching equal numbers
(`roiservice.vectorize.seams`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled
from roiservice.records import dataclass
from roiservice.vectorize.links import DIAGONAL, columns, link

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


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


def new_table() -> Int64:
    """A vertex table for `trace_strip` to use and, from strip to strip, to use again: see `links.columns`."""
    return np.empty(5 * 2**15, np.int64)


def trace_strip(
    above: NDArray[Any], strip: NDArray[Any], first_row: int, *, last: bool, table: Int64
) -> tuple[Chains, Int64]:
    """Outlines of `strip`, (rows, width) of any integer or bool dtype, C-contiguous, rows > 0.

    `above` (width,) is the pixel row before the strip (zeros for the first strip of a plane): its
    ports are the upper border. `first_row` is the plane row of `strip[0]`. With `last` the strip ends
    the plane; otherwise its last row carries the ports of the lower border. `table` is working space,
    given back, larger if it had to grow, beside the chains.
    """
    unsigned = np.dtype(f"u{strip.dtype.itemsize}")
    above, strip = above.view(unsigned), strip.view(unsigned)
    table, count, notes, top, bottom = link(above, strip, first_row, last, table)
    xy, offsets, start, end, pixel = _follow(table, count, top, bottom)
    part, diagonals = _parts(table, notes, len(offsets) - 1)
    row = pixel[:, 0] - first_row
    labels = np.where(row < 0, above[pixel[:, 1]], strip[np.maximum(row, 0), pixel[:, 1]])
    return Chains(xy, offsets, start, end, labels.astype(np.uint64), diagonals, part, top, bottom), table


@compiled
def _walk(places: Any, following: Any, v: int, chain: int, out: Any, filled: int) -> Any:
    """Follow links from vertex `v` to the port at the chain's end or round the ring, and mark the way.

    Returns the last vertex and the count of places written so far.
    """
    mark = np.int32(-2 - chain)
    ahead = following[v]
    while ahead >= 0:
        at = np.uintp(v)  # unsigned: a signed index costs a test for counting from the end
        out[np.uintp(filled)] = places[at]
        filled += 1
        following[at] = mark
        v = ahead
        ahead = following[np.uintp(v)]
    return v, filled


@compiled
def _follow(table: Any, count: int, top: int, bottom: int) -> Any:
    """Follow all links: coordinates chain by chain, ports left out.

    Also gives for every chain a (row, column) pixel of its label. Leaves in `following` of every vertex its
    chain number, as -2 - chain.
    """
    places, following, _ = columns(table)
    xy = places.view(np.int32).reshape(-1, 2)
    most = (count - 1 - top - bottom) // 4 + top + bottom + 1
    out = np.empty(count, np.int64)
    offsets = np.zeros(most + 1, np.int64)
    pixel = np.empty((most, 2), np.int32)
    start, end = np.empty(top + bottom, np.int32), np.empty(top + bottom, np.int32)
    chain, filled = 0, 0
    for port in range(top + bottom):
        v = 1 + port if port < top else count - bottom + port - top
        first = following[v]
        if first < 0:
            continue
        start[chain] = port
        pixel[chain, 0] = xy[v, 1]
        pixel[chain, 1] = xy[v, 0] - (1 if port < top else 0)
        following[v] = -2 - chain
        v, filled = _walk(places, following, first, chain, out, filled)
        following[v] = -2 - chain
        end[chain] = v - 1 if v <= top else v - (count - bottom) + top
        chain += 1
        offsets[chain] = filled
    open_chains = chain
    for v in range(1 + top, count - bottom):
        ahead = following[v]
        if ahead < 0:
            continue
        x, y = xy[v, 0], xy[v, 1]
        dx, dy = xy[ahead, 0] - x, xy[ahead, 1] - y
        pixel[chain, 0] = y - 1 if dx < 0 or dy < 0 else y
        pixel[chain, 1] = x - 1 if dx < 0 or dy > 0 else x
        _, filled = _walk(places, following, v, chain, out, filled)
        chain += 1
        offsets[chain] = filled
    return (
        out[:filled].view(np.int32).reshape(-1, 2),
        offsets[: chain + 1].copy(),
        start[:open_chains].copy(),
        end[:open_chains].copy(),
        pixel[:chain],
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
def _parts(table: Any, count: int, chains: int) -> Any:
    """For every chain the lowest chain that bounds the same part, as far as this strip shows; and diagonals.

    `count` is that of the notes; `_follow` has marked the vertices with their chains.

    The two ends of a run of pixels of one label lie on outlines of one 4-connected part. It is enough to
    look at the first row below each corner that only SE does not belong to: every hole has such a corner,
    the first one of it in raster order, and the run that ends there starts at an outline that is not the
    hole itself and begins before it. So each hole is led, hole by hole, to the exterior around it.
    """
    part = np.arange(chains).astype(np.int32)
    diagonals = np.zeros(chains, np.int32)
    _, marks, notes = columns(table)
    pairs = notes.view(np.int32).reshape(-1, 2)
    for i in range(count):
        mine, run = -2 - marks[np.uintp(pairs[i, 0])], pairs[i, 1]
        if run == DIAGONAL:
            diagonals[mine] += 1
            continue
        other = -2 - marks[np.uintp(run)]
        if mine != other:
            unite(part, mine, other)
    for i in range(chains):
        part[i] = find_root(part, i)
    return part, diagonals
