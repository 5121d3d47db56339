"""Some of the rows of a catalog, or of its ROIs, in order: spans of them, or one bit for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.indexes import BLOCK_ROWS
from roiservice.geometry.compiled import compiled
from roiservice.records import dataclass

Rows = NDArray[np.int64]
Span = tuple[int, int]

GROUP = BLOCK_ROWS  # numbers whose bits lie together; those of rows are the blocks of a catalog
# That are looked at together: what is in memory at once does not grow with the layer, and stays in the cache.
BATCH_GROUPS = 128
BATCH = GROUP * BATCH_GROUPS  # rows

Masks = tuple[Rows, NDArray[np.bool_]]  # groups (k,), sorted, and which of their numbers are meant (k, GROUP)


@dataclass(frozen=True)
class Spans:
    """All rows of half-open ranges that follow one another."""

    spans: tuple[Span, ...]

    def __len__(self) -> int:
        return sum(last - first for first, last in self.spans)

    def page(self, offset: int, limit: int) -> Rows:
        """Rows `offset` to `offset + limit` of these, without listing those before."""
        pieces = [np.empty(0, np.int64)]
        for first, last in self.spans:
            skipped = min(offset, last - first)
            taken = min(limit, last - first - skipped)
            pieces.append(np.arange(first + skipped, first + skipped + taken))
            offset, limit = offset - skipped, limit - taken
        return np.concatenate(pieces)

    def batches(self) -> Iterator[slice]:
        """All rows, at most `BATCH` at a time, as slices, which cost nothing."""
        for first, last in self.spans:
            for start in range(first, last, BATCH):
                yield slice(start, min(start + BATCH, last))


@dataclass(frozen=True, eq=False)
class Subset:
    """Some of the numbers 0, 1, ...: a bit each, so that it takes little memory however many they are.

    `groups` (k,) are those that have any of the numbers, sorted; `bits` (k, GROUP / 8), the first number's
    is the highest of its byte; `before` (k + 1,): how many of the numbers come before each group, and in all.
    """

    groups: Rows
    bits: NDArray[np.uint8]
    before: Rows

    @staticmethod
    def of(numbers: Rows) -> Subset:
        """These numbers, sorted, distinct and few: groups that have any of them are laid out."""
        groups = np.unique(numbers // GROUP)
        masks = np.zeros((len(groups), GROUP), bool)
        masks[np.searchsorted(groups, numbers // GROUP), numbers % GROUP] = True
        return Subset.of_masks([(groups, masks)])

    @staticmethod
    def of_masks(pieces: Iterable[Masks]) -> Subset:
        """The numbers that the masks of some groups say, in whatever order these come; each comes once."""
        nothing = np.empty(0, np.int64), np.empty((0, GROUP), bool)
        packed = (_packed(*each) for each in (nothing, *pieces))
        groups, bits, counts = map(np.concatenate, zip(*packed, strict=True))
        order, before = np.argsort(groups), np.zeros(len(groups) + 1, np.int64)
        np.cumsum(counts[order], out=before[1:])
        return Subset(groups[order], bits[order], before)

    def __len__(self) -> int:
        return int(self.before[-1])

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.groups.nbytes + self.bits.nbytes + self.before.nbytes

    def page(self, offset: int, limit: int) -> Rows:
        """Numbers `offset` to `offset + limit` of these; only their own groups are looked at."""
        end = min(offset + limit, len(self))
        if offset >= end:
            return np.empty(0, np.int64)
        first = int(np.searchsorted(self.before, offset, side="right")) - 1
        last = int(np.searchsorted(self.before, end))
        skipped = offset - int(self.before[first])
        return self._numbers(first, last)[skipped : skipped + end - offset]

    def batches(self) -> Iterator[Rows]:
        """All numbers, at most `BATCH` at a time."""
        for first in range(0, len(self.groups), BATCH_GROUPS):
            yield self._numbers(first, first + BATCH_GROUPS)

    def index(self, number: int) -> int | None:
        """How many of the numbers come before this one; None if it is none of them."""
        place = int(np.searchsorted(self.groups, number // GROUP))
        if place == len(self.groups) or self.groups[place] != number // GROUP:
            return None
        mask = np.unpackbits(self.bits[place])
        return int(self.before[place] + mask[: number % GROUP].sum()) if mask[number % GROUP] else None

    def _numbers(self, first: int, last: int) -> Rows:
        """The numbers of these groups."""
        count = int(self.before[min(last, len(self.groups))] - self.before[first])
        numbers: Rows = _unpack(self.groups[first:last], self.bits[first:last], count)
        return numbers


def _packed(groups: Rows, masks: NDArray[np.bool_]) -> tuple[Rows, NDArray[np.uint8], NDArray[np.int16]]:
    """Groups that have any of their numbers, their masks as `np.packbits` has them, and how many are set."""
    words = np.ascontiguousarray(masks).view(np.uint64)
    words.flags.writeable = False  # for others the loop is compiled anew
    bits, counts = _pack(words)
    if counts.all():
        return groups, bits, counts
    has_any = counts > 0
    return groups[has_any], bits[has_any], counts[has_any]


@compiled
def _pack(words: Any) -> Any:
    """Words of eight truth values, the first in the lowest byte: in a third of the time of numpy's calls.

    A product adds the values up in its highest byte, each at its own place, or all at the lowest one. Nothing
    is carried into it: no two terms of the one product meet, and the bytes of the other are 8 at most.
    """
    places, ones, highest = np.uint64(0x8040201008040201), np.uint64(0x0101010101010101), np.uint64(56)
    bits, counts = np.empty(words.shape, np.uint8), np.empty(words.shape[0], np.int16)
    for group in range(words.shape[0]):
        count = np.uint64(0)
        for i in range(words.shape[1]):
            bits[group, i] = (words[group, i] * places) >> highest
            count += (words[group, i] * ones) >> highest
        counts[group] = count
    return bits, counts


@compiled
def _unpack(groups: Any, bits: Any, count: int) -> Any:
    """The `count` numbers that bits of groups say, in order."""
    numbers, found = np.empty(count + 1, np.int64), 0  # each is written before its bit is looked at
    for group in range(groups.size):
        for i in range(bits.shape[1]):
            for bit in range(8):
                numbers[found] = groups[group] * GROUP + i * 8 + bit
                found += (bits[group, i] >> (7 - bit)) & 1
    return numbers[:count]
