"""Vertices of the outlines in a strip of pixel rows, each linked to the one that follows it.

At a lattice corner with the pixels NW NE SW SE a label has a vertex where it fills one of them,
three of them, or two diagonally (then two vertices, one per pixel: parts are 4-connected). Each vertex
has one incoming and one outgoing edge, one of them horizontal and one vertical. Corners are visited in
raster order, so that the partner of a new vertex is known without search: there is at most one pending
east edge and one pending west edge in the row, and one south and one north edge per column.

Corners are found 64 columns at a time, a bit of a word each. Places are pairs of int32 held as one int64, x
in its lower half: numba knows little-endian processors only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from roiservice.geometry.compiled import compiled
from roiservice.vectorize.bits import WORD, differences, highest, lowest

CHAIN_END = -1
DIAGONAL = 0


@compiled
def columns(table: Any) -> Any:
    """Of a vertex table: the place of each vertex, at which vertex its outline goes on, and notes.

    Vertices are numbered from 1. Vertex 0 stands for the background: what an outline of it would link is
    written there and never read. Notes are of few vertices, one each at most: the vertex, then DIAGONAL where
    its label also fills the pixel across the corner, or, at a corner that only SE does not belong to its
    label, the vertex whose north edge starts the label's run in the row below.

    The table is one int64 array in five parts, two of places, one of int32 links, two of notes.
    """
    half = table.size // 5
    return table[: 2 * half], table[2 * half : 3 * half].view(np.int32), table[3 * half :]


@compiled
def _with_room(table: Any, count: int, room: int) -> Any:
    """`table` itself if `room` vertices fit after the first `count`, else a copy at least twice as large."""
    half, needed = table.size // 5, (count + room + 1) // 2
    if needed <= half:
        return table
    larger = np.empty(5 * max(2 * half, needed), np.int64)
    places, following, notes = columns(table)
    new_places, new_following, new_notes = columns(larger)
    for v in range(count):  # slices take two seconds to compile: what they say of shapes that differ
        new_places[v], new_following[v], new_notes[v] = places[v], following[v], notes[v]
    return larger


@compiled
def _pair(first: Any, second: Any) -> Any:
    """One int64 that is `first`, not negative, and `second` when viewed as int32."""
    return np.int64(first) | np.int64(second) << 32


@compiled
def _padded(width: int, like: Any) -> Any:
    """Zeros for a pixel row, its pixel c at place c + 1, up to the end of the word of the last corner.

    That pixel lies at the start of a cache line if the memory does.
    """
    return np.zeros(WORD + (width // WORD + 1) * WORD, like.dtype)[WORD - 1 :]


@compiled
def _set_row(padded: Any, row: Any) -> None:
    inner = padded[1 : row.size + 1]
    for i in range(row.size):  # a slice assignment takes twice as long
        inner[i] = row[i]


@compiled
def _mark_corners(p: Any, q: Any, upper: Any, lower: Any, corners: Any) -> None:
    """Mark the corners between padded rows `p` (above) and `q` at which any outline turns, a bit per column.

    `upper` are the columns at which `p` changes, as bits; those of `q` are written to `lower`.
    """
    for w in range(corners.size):
        at = np.uintp(w) * np.uintp(WORD)
        changes = differences(q, at, q, at + np.uintp(1))
        lower[w] = changes
        changes |= upper[w]
        if changes:
            east = differences(p, at + np.uintp(1), q, at + np.uintp(1))
            west = east << np.uint64(1) | np.uint64(p[at] != q[at])
            changes &= east | west
        corners[w] = changes


@compiled
def _put_ports(row: Any, width: int, y: int, table: Any, n: int, south: Any, north: Any, upper: bool) -> int:
    """Cut every vertical edge that crosses the padded `row` by a port vertex; returns the next number."""
    places, following, _ = columns(table)
    for c in range(width + 1):
        west, east = row[c], row[c + 1]
        if west == east:
            continue
        if west != 0:
            places[n], following[n] = _pair(c, y), CHAIN_END
            if upper:
                south[c] = n
            else:
                following[south[c]] = n
            n += 1
        if east != 0:
            places[n], following[n] = _pair(c, y), CHAIN_END if upper else north[c]
            north[c] = n
            n += 1
    return n


@compiled
def link(above: Any, strip: Any, first_row: int, last: bool, table: Any) -> Any:
    """Vertices of a strip with all links set, ports first and last.

    Returns the table, its counts of vertices, with that of the background, and of notes, and the counts
    of upper and lower ports.
    """
    rows, width = strip.shape
    south, north = np.zeros(width + 1, np.int32), np.zeros(width + 1, np.int32)
    p, q = _padded(width, strip), _padded(width, strip)
    words = width // WORD + 1
    upper, lower, corners = np.zeros(words, np.uint64), np.zeros(words, np.uint64), np.zeros(words, np.uint64)
    _set_row(q, above)
    _mark_corners(p, q, upper, lower, corners)
    # For literals all that takes these would be compiled once more.
    n: Any = np.int64(1)
    notes: Any = np.int64(0)
    table = _with_room(table, n, 2 * (width + 1))
    n = _put_ports(q, width, first_row - 1, table, n, south, north, True)
    top = n - 1
    for r in range(rows + 1 if last else rows):
        p, q = q, p
        upper, lower = lower, upper
        if r < rows:
            _set_row(q, strip[r])
        else:
            q[:] = 0
        table = _with_room(table, n, 4 * (width + 1))
        _mark_corners(p, q, upper, lower, corners)
        n, notes = _link_row(p, q, first_row + r, corners, lower, table, n, notes, south, north)
    bottom = 0
    if not last:
        table = _with_room(table, n, 2 * (width + 1))
        bottom = _put_ports(q, width, first_row + rows - 1, table, n, south, north, False) - n
    return table, n + bottom, notes, top, bottom


@compiled
def _last_change(changes: Any, w: int, below: Any) -> Any:
    """The last column of word `w` in the bits `below`, or else of the words before it, that is set."""
    word = changes[np.uintp(w)] & below
    while word == 0:
        w -= 1
        word = changes[np.uintp(w)]
    return np.uintp(w) * np.uintp(WORD) + highest(word)


@compiled
def _link_row(  # noqa: C901 - all kinds of corner, side by side
    p: Any, q: Any, y: int, corners: Any, lower: Any, table: Any, n: int, note: int, south: Any, north: Any
) -> Any:
    """Add and link the vertices of corner row `y`, between padded rows `p` and `q`.

    Returns the next vertex and the next note. A vertex first uses the pending edges that end or start at
    it, then leaves its own: NW, then NE and SW, then SE. (The label of three pixels and that of the fourth
    never touch the same pending edge.) Every edge that begins has a vertex on either side: the background's
    is vertex 0.
    """
    places, following, notes = columns(table)
    row = _pair(0, y)
    east_start, west_end = 0, 0
    for w in range(corners.size):
        word = corners[w]
        while word:
            c = np.uintp(w) * np.uintp(WORD) + lowest(word)
            bit = word & (~word + np.uint64(1))
            word ^= bit
            place = row | np.int64(c)
            nw, ne, sw, se = p[c], p[c + np.uintp(1)], q[c], q[c + np.uintp(1)]
            up, down, left, right = nw == ne, sw == se, nw == sw, ne == se
            if (up | down) & (left | right):
                # Three of one label and one of another, most corners by far. One edge is horizontal, to the
                # east if `left`, else to the west, one vertical, to the south if `up`, else to the north. All
                # kinds take one way, since no processor foresees which comes: what a kind has not to link is
                # linked to vertex 0, what it leaves pending is overwritten before it is used.
                three = nw if up else sw
                fourth = (se if up else ne) if left else (sw if up else nw)
                a = n if three else 0
                n += three != 0
                b = n if fourth else 0
                n += fourth != 0
                places[np.uintp(a)] = place
                places[np.uintp(b)] = place
                over, under = (a, b) if up else (b, a)
                west, east = (a, b) if left else (b, a)
                from_north, to_north = south[c], north[c]
                following[np.uintp(0 if left else east_start)] = under
                following[np.uintp(0 if left else over)] = west_end
                following[np.uintp(0 if up else from_north)] = west
                following[np.uintp(0 if up else east)] = to_north
                east_start, west_end = under, over
                south[c], north[c] = west, east
                if up & left & (a != 0):
                    run = _last_change(lower, w, bit - np.uint64(1))
                    notes[np.uintp(note)] = _pair(a, north[run])
                    note += 1
                continue
            # Three labels or more, or two diagonally: each has one of the four pixels, or both of a side.
            falling, rising = nw == se and nw != 0, ne == sw and ne != 0
            if not up and not left:  # in from the north, out to the west
                v = n if nw else 0
                n += nw != 0
                places[np.uintp(v)] = place
                following[np.uintp(south[c])] = v
                following[np.uintp(v)] = west_end
                if falling:
                    notes[np.uintp(note)] = _pair(v, DIAGONAL)
                    note += 1
            if not up and not right:  # in from the east, out to the north
                v = n if ne else 0
                n += ne != 0
                places[np.uintp(v)] = place
                following[np.uintp(v)] = north[c]
                west_end = v
                if rising:
                    notes[np.uintp(note)] = _pair(v, DIAGONAL)
                    note += 1
            if not down and not left:  # in from the west, out to the south
                v = n if sw else 0
                n += sw != 0
                places[np.uintp(v)] = place
                following[np.uintp(east_start)] = v
                south[c] = v
                if rising:
                    notes[np.uintp(note)] = _pair(v, DIAGONAL)
                    note += 1
            if not down and not right:  # in from the south, out to the east
                v = n if se else 0
                n += se != 0
                places[np.uintp(v)] = place
                east_start = v
                north[c] = v
                if falling:
                    notes[np.uintp(note)] = _pair(v, DIAGONAL)
                    note += 1
    return n, note
