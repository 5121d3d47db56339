"""Join the strips of a plane, top to bottom, into closed rings.

The joiner keeps only what is still open at the lower border of what it has seen. Joining costs time
linear in the ports of the border and the vertices of the outlines that cross it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled
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


class Joiner:
    """Joins strips that follow one another; one joiner per plane."""

    def __init__(self) -> None:
        self._parent: Int64 = np.empty(0, np.int64)
        self._members = 0
        self._open: tuple[Any, ...] | None = None

    def join(self, strip: Chains) -> list[Rings]:
        """Add the next strip (traced with this one's last pixel row `above` it); the rings that closed.

        Raises ValueError where the ports of the two borders differ, that is where the strips do not share a
        row.
        """
        member = self._enter(strip.part)
        n = len(strip.start)
        closed = Rings(strip.xy, strip.offsets[n:], strip.labels[n:], strip.diagonals[n:], member[n:])
        if self._open is None:
            none = np.empty(0, np.int32)
            self._open = (
                strip.xy[:0],
                np.zeros(1, np.int64),
                none,
                none,
                strip.labels[:0],
                none,
                member[:0],
            )
            if strip.top_ports:
                raise ValueError("the first strip of a plane has outlines that come from above it")
        if 2 * len(self._open[2]) != strip.top_ports:
            raise ValueError("strips do not share a pixel row")
        opened = (strip.xy, strip.offsets, strip.start, strip.end, strip.labels, strip.diagonals, member)
        self._open, seam = _join(self._open, opened, strip.top_ports, self._parent)
        return [closed, Rings(*seam)]

    def parts(self) -> Int64:
        """For every ring member the number of its part, once the plane is complete."""
        roots: Int64 = _roots(self._parent[: self._members])
        return roots

    def _enter(self, part: Int32) -> Int64:
        """Give the chains of a strip their numbers in the union of parts."""
        first, self._members = self._members, self._members + len(part)
        if self._members > len(self._parent):
            larger = np.empty(2 * self._members, np.int64)
            larger[:first] = self._parent[:first]
            self._parent = larger
        self._parent[first : self._members] = part.astype(np.int64) + first
        return np.arange(first, self._members)


@compiled
def _roots(parent: Any) -> Any:
    roots = np.empty_like(parent)
    for i in range(parent.size):
        roots[i] = find_root(parent, i)
    return roots


@compiled
def _join(over: Any, under: Any, shared: int, parent: Any) -> Any:  # noqa: C901 - one walk, two sides
    """Follow outlines across the border between the open chains `over` it and the strip `under` it.

    Returns the chains still open at the strip's lower border and the rings that closed, both as tuples of
    columns.
    """
    xy_a, offsets_a, start_a, end_a, labels_a, diagonals_a, member_a = over
    xy_b, offsets_b, start_b, end_b, labels_b, diagonals_b, member_b = under
    over_at = np.full(shared, -1, np.int32)
    under_at = np.full(shared, -1, np.int32)
    for i in range(start_a.size):
        over_at[start_a[i]] = i
    for i in range(start_b.size):
        if start_b[i] < shared:
            under_at[start_b[i]] = i
    n = start_a.size + start_b.size
    xy = np.empty((xy_a.shape[0] + offsets_b[start_b.size], 2), np.int32)
    offsets = np.zeros(n + 1, np.int64)
    start = np.empty(n, np.int32)
    end = np.empty(n, np.int32)
    labels = np.empty(n, np.uint64)
    diagonals = np.zeros(n, np.int32)
    member = np.empty(n, np.int64)
    used = np.zeros(start_a.size, np.bool_)
    filled, chain, opened = 0, 0, 0
    for phase in range(2):
        for i in range(start_b.size if phase == 0 else start_a.size):
            below = phase == 0
            if (below and start_b[i] < shared) or (not below and used[i]):
                continue
            current, port = i, -1
            labels[chain] = labels_b[i] if below else labels_a[i]
            member[chain] = member_b[i] if below else member_a[i]
            while True:
                if below:
                    lo, hi, port = offsets_b[current], offsets_b[current + 1], end_b[current]
                    xy[filled : filled + hi - lo] = xy_b[lo:hi]
                    diagonals[chain] += diagonals_b[current]
                    unite(parent, member[chain], member_b[current])
                else:
                    lo, hi, port = offsets_a[current], offsets_a[current + 1], end_a[current]
                    xy[filled : filled + hi - lo] = xy_a[lo:hi]
                    diagonals[chain] += diagonals_a[current]
                    unite(parent, member[chain], member_a[current])
                    used[current] = True
                filled += hi - lo
                if below and port >= shared:
                    break
                current = over_at[port] if below else under_at[port]
                below = not below
                if phase == 1 and not below and used[current]:
                    break
            if phase == 0:
                start[chain] = start_b[i] - shared
                end[chain] = port - shared
            chain += 1
            offsets[chain] = filled
        if phase == 0:
            opened = chain
    first = offsets[opened]
    still_open = (
        xy[:first].copy(),
        offsets[: opened + 1].copy(),
        start[:opened].copy(),
        end[:opened].copy(),
        labels[:opened].copy(),
        diagonals[:opened].copy(),
        member[:opened].copy(),
    )
    rings = (
        xy[first:filled],
        offsets[opened : chain + 1] - first,
        labels[opened:chain],
        diagonals[opened:chain],
        member[opened:chain],
    )
    return still_open, rings
