"""Join the strips of a plane, top to bottom, into closed rings.

The joiner keeps only what is still open at the borders of what it has seen. Joining costs time linear in
the ports of the border and the vertices of the outlines that cross it. Strips are joined to blocks, each for
itself, and blocks to the plane, in the same way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled
from roiservice.records import dataclass
from roiservice.vectorize.tracer import Chains, Int32, Int64, find_root, unite


@dataclass(frozen=True)
class Rings:
    """Closed rings in no particular order.

    `xy` (v, 2) int32 lattice points, rings unclosed: ring i is `xy[offsets[i]:offsets[i + 1]]`. For each
    of the n rings: its label as uint64, the count of its diagonal vertices (a ring with fewer than
    two cannot touch itself), and `member`, its number in the joiner's union of parts.
    """

    xy: Int32
    offsets: Int64
    labels: NDArray[np.uint64]
    diagonals: Int32
    member: Int64


@dataclass(frozen=True)
class OpenOutlines:
    """Outlines of a block that its borders cut; ports and vertices as in `Chains`.

    `part` is the number of the outline's part in the block, of 0, 1, ... up to `parts`.
    """

    xy: Int32
    offsets: Int64
    start: Int32
    end: Int32
    labels: NDArray[np.uint64]
    diagonals: Int32
    part: Int64
    parts: int
    top_ports: int
    bottom_ports: int


class _Open(NamedTuple):
    """Outlines that are open at the borders of what was joined so far.

    Outline i runs from port `start[i]` to port `end[i]`, those of the upper border counted first; its
    vertices are those of a list of pieces, the first and last of which are `head[i]` and `tail[i]`.
    """

    start: Int32
    end: Int32
    head: Int64
    tail: Int64
    labels: NDArray[np.uint64]
    diagonals: Int32
    member: Int64


# Columns of the table of pieces: vertices FIRST to LAST of the pool, followed by those of piece NEXT.
FIRST, LAST, NEXT = 0, 1, 2
SPARE_VERTICES = 2**16


class Joiner:
    """Joins strips, or blocks, that follow one another; one joiner per plane, or block with `inner`.

    What is above the first strip of an inner block is not known: outlines may come from there. The vertices
    of open outlines stay where they are in a pool, as lists of pieces, until the outline closes: what crosses
    many strips is not copied at each of them.
    """

    def __init__(self, *, inner: bool = False) -> None:
        self._inner = inner
        self._begun = False
        self._top_ports = self._bottom_ports = 0
        self._parent: Int64 = np.empty(0, np.int64)
        self._members = 0
        self._pool: Int32 = np.empty((0, 2), np.int32)
        self._pieces: Int64 = np.empty((0, 3), np.int64)
        self._pooled = self._piece_count = 0
        self.open_vertices = 0
        none32, none64 = np.empty(0, np.int32), np.empty(0, np.int64)
        self._open = _Open(none32, none32, none64, none64, np.empty(0, np.uint64), none32, none64)

    def join(self, strip: Chains) -> list[Rings]:
        """Add the next strip, traced with the last pixel row so far `above` it; the rings that closed.

        Raises ValueError where the ports of the two borders differ: the strips do not share a pixel row.
        """
        self._check_border(strip.top_ports)
        n = len(strip.start)
        member = self._enter(strip.part)
        own = Rings(strip.xy, strip.offsets[n:], strip.labels[n:], strip.diagonals[n:], member[n:])
        xy, offsets = strip.xy[: strip.offsets[n]], strip.offsets[: n + 1]
        ends = strip.start, strip.end, strip.labels[:n], strip.diagonals[:n], member[:n]
        return [own, *self._add(xy, offsets, *ends, strip.top_ports, strip.bottom_ports)]

    def join_block(self, block: OpenOutlines) -> tuple[list[Rings], int]:
        """Add the next block; the rings that closed across its border, and the member that is its part 0.

        Raises ValueError as `join` does.
        """
        self._check_border(block.top_ports)
        first = int(self._enter(np.arange(block.parts))[0]) if block.parts else self._members
        ends = block.start, block.end, block.labels, block.diagonals, block.part + first
        return self._add(block.xy, block.offsets, *ends, block.top_ports, block.bottom_ports), first

    def block(self) -> tuple[OpenOutlines, Int64]:
        """What is open in the end, and for every ring member the number of its part in the block."""
        part, parts = _numbered(self._parent[: self._members])
        xy, offsets = _vertices_of(self._open.head, self._pool, self._pieces)
        start, end, _, _, labels, diagonals, member = self._open
        ports = self._top_ports, self._bottom_ports
        return OpenOutlines(xy, offsets, start, end, labels, diagonals, part[member], parts, *ports), part

    def _check_border(self, top_ports: int) -> None:
        if not self._begun:
            if top_ports and not self._inner:
                raise ValueError("the first strip of a plane has outlines that come from above it")
        elif top_ports != self._bottom_ports:
            raise ValueError("strips do not share a pixel row")

    def _add(
        self,
        xy: Int32,
        offsets: Int64,
        start: Int32,
        end: Int32,
        labels: NDArray[np.uint64],
        diagonals: Int32,
        member: Int64,
        top_ports: int,
        bottom_ports: int,
    ) -> list[Rings]:
        """Join open outlines to those so far; the rings that closed, if any can have."""
        has_begun, self._begun, self._bottom_ports = self._begun, True, bottom_ports
        if not len(start):  # as of planes that are one block
            return []
        piece = np.arange(len(start)) + self._keep(xy, offsets)
        under = _Open(start, end, piece, piece, labels, diagonals, member)
        if not has_begun:
            self._top_ports, self._open = top_ports, under
            return []
        columns, opened = _join(self._open, under, self._top_ports, top_ports, self._parent, self._pieces)
        self._open = _Open(*(column[:opened] for column in columns))
        closed = _Open(*(column[opened:] for column in columns))
        xy, offsets = _vertices_of(closed.head, self._pool, self._pieces)
        self.open_vertices -= len(xy)
        if self._pooled > 2 * self.open_vertices + SPARE_VERTICES:
            self._compact()
        return [Rings(xy, offsets, closed.labels, closed.diagonals, closed.member)]

    def parts(self) -> Int64:
        """For every ring member the number of its part, once the plane is complete."""
        return np.asarray(_numbered(self._parent[: self._members])[0])

    def _enter(self, part: Int32 | Int64) -> Int64:
        """Give the chains of a strip, or parts of a block, their numbers in the union of parts."""
        first, self._members = self._members, self._members + len(part)
        self._parent = _with_room(self._parent, first, len(part))
        self._parent[first : self._members] = part.astype(np.int64) + first
        return np.arange(first, self._members)

    def _keep(self, xy: Int32, offsets: Int64) -> int:
        """Put the vertices of a strip's open chains into the pool, a piece each; the first piece's number."""
        n = len(offsets) - 1
        first = self._piece_count
        self._pool = _with_room(self._pool, self._pooled, len(xy))
        self._pool[self._pooled : self._pooled + len(xy)] = xy
        self._pieces = _with_room(self._pieces, first, n)
        pieces = self._pieces[first : first + n]
        pieces[:, FIRST], pieces[:, LAST] = self._pooled + offsets[:-1], self._pooled + offsets[1:]
        pieces[:, NEXT] = -1
        self._pooled += len(xy)
        self._piece_count += n
        self.open_vertices += len(xy)
        return first

    def _compact(self) -> None:
        """Make each open outline one piece and forget the vertices of closed ones."""
        xy, offsets = _vertices_of(self._open.head, self._pool, self._pieces)
        self._pooled = self._piece_count = self.open_vertices = 0
        self._pool, self._pieces = self._pool[:0], self._pieces[:0]
        first = self._keep(xy, offsets)
        piece = np.arange(first, first + len(self._open.head))
        self._open = self._open._replace(head=piece, tail=piece)


def _with_room(rows: NDArray[Any], used: int, more: int) -> NDArray[Any]:
    """`rows` itself if `more` fit after the first `used`, else a copy of at least twice the size."""
    if used + more <= len(rows):
        return rows
    larger = np.empty((2 * (used + more), *rows.shape[1:]), rows.dtype)
    larger[:used] = rows[:used]
    return larger


@compiled
def _numbered(parent: Any) -> Any:
    """The sets of a union numbered from 0 on: for every element the number of its set, and how many."""
    number = np.empty_like(parent)
    count = 0
    for i in range(parent.size):
        root = find_root(parent, i)
        if root == i:  # the lowest of its set
            number[i] = count
            count += 1
        else:
            number[i] = number[root]
    return number, count


@compiled
def _vertices_of(heads: Any, pool: Any, pieces: Any) -> Any:
    """Vertices of outlines given by their first pieces, one after the other, and offsets."""
    offsets = np.zeros(heads.size + 1, np.int64)
    for i in range(heads.size):
        offsets[i + 1] = offsets[i]
        piece = heads[i]
        while piece >= 0:
            offsets[i + 1] += pieces[piece, LAST] - pieces[piece, FIRST]
            piece = pieces[piece, NEXT]
    xy = np.empty((offsets[heads.size], 2), np.int32)
    for i in range(heads.size):
        at, piece = offsets[i], heads[i]
        while piece >= 0:
            first, last = pieces[piece, FIRST], pieces[piece, LAST]
            for v in range(first, last):  # a slice takes a second to compile: see `links`
                xy[at, 0], xy[at, 1] = pool[v, 0], pool[v, 1]
                at += 1
            piece = pieces[piece, NEXT]
    return xy, offsets


@compiled
def _join(  # noqa: C901 - one walk, two sides
    over: Any, under: Any, top: int, shared: int, parent: Any, pieces: Any
) -> Any:
    """Follow outlines across the border of `shared` ports between the open ones `over` and `under` it.

    Both count the ports of their upper border first, `top` of them over it. Returns the columns of all
    resulting outlines, those still open first, and the number of these.
    """
    both = (over, under)
    at_port = np.full((2, shared), -1, np.int32)
    for i in range(over.start.size):
        if over.start[i] >= top:
            at_port[0, over.start[i] - top] = i
    for i in range(under.start.size):
        if under.start[i] < shared:
            at_port[1, under.start[i]] = i
    n = over.start.size + under.start.size
    start, end = np.empty(n, np.int32), np.empty(n, np.int32)
    head, tail = np.empty(n, np.int64), np.empty(n, np.int64)
    labels, diagonals = np.empty(n, np.uint64), np.zeros(n, np.int32)
    member = np.empty(n, np.int64)
    used = np.zeros(over.start.size, np.bool_)
    count, opened = 0, 0
    for turn in range(3):  # what starts at the upper border, at the lower one, and what only closes
        side = 1 if turn == 1 else 0
        for i in range(both[side].start.size):
            if turn == 0 and over.start[i] >= top:
                continue
            if (turn == 1 and under.start[i] < shared) or (turn == 2 and used[i]):
                continue
            labels[count], member[count] = both[side].labels[i], both[side].member[i]
            head[count] = both[side].head[i]
            here, current, last = side, i, -1
            while True:
                if last >= 0:
                    pieces[last, NEXT] = both[here].head[current]
                last = both[here].tail[current]
                diagonals[count] += both[here].diagonals[current]
                unite(parent, member[count], both[here].member[current])
                if here == 0:
                    used[current] = True
                port = both[here].end[current]
                if (here == 1 and port >= shared) or (here == 0 and port < top):
                    break
                port -= top if here == 0 else 0
                here = 1 - here
                current = at_port[here, port]
                if here == 0 and used[current]:
                    break
            tail[count] = last
            if turn < 2:
                start[count] = over.start[i] if side == 0 else under.start[i] - shared + top
                end[count] = port if here == 0 else port - shared + top
            count += 1
        if turn == 1:
            opened = count
    columns = (
        start[:count],
        end[:count],
        head[:count],
        tail[:count],
        labels[:count],
        diagonals[:count],
        member[:count],
    )
    return columns, opened
