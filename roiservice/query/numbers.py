"""What many numbers are like, found out piece by piece: memory does not grow with how many there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 32  # of histograms
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SORTED = 2**22  # numbers that are sorted at once
_DIGIT = 16  # bits of a key that are told apart in one pass
_SIGN = np.uint64(2**63)  # the bit of a number's sign

Pieces = Callable[[], Iterable[NDArray[Any]]]  # the numbers anew with each call
_Keys = Callable[[], Iterator[NDArray[np.uint64]]]


def numbers(pieces: Pieces) -> dict[str, Any]:
    """Of finite numbers: count, least, greatest, mean, quantiles, and a histogram of equally wide bins.

    Quantiles are among the numbers, not between them. Only their count where there are none. A bin holds its
    lower edge, the last one its upper edge as well; where all numbers are equal there is one, without width.
    """
    count, least, greatest, total = 0, None, None, 0.0
    for values in _finite(pieces):
        count += len(values)
        least = values.min() if least is None else min(least, values.min())
        greatest = values.max() if greatest is None else max(greatest, values.max())
        with np.errstate(over="ignore", invalid="ignore"):
            total += float(values.sum(dtype=np.float64))
    if least is None or greatest is None:
        return {"count": 0}
    mean = total / count
    if not math.isfinite(mean):  # their sum was too large
        mean = sum(float((values / count).sum()) for values in _finite(pieces))
    quantiles = _quantiles(pieces, count, least.dtype.kind != "f")
    edges, counts = _histogram(pieces, float(least), float(greatest), count)
    return {
        "count": count,
        "min": least.item(),
        "max": greatest.item(),
        "mean": mean,
        "quantiles": dict(zip(map(str, QUANTILES), quantiles, strict=True)),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _finite(pieces: Pieces) -> Iterator[NDArray[Any]]:
    """The pieces without what is no number, and without those where nothing is left."""
    for values in pieces():
        finite = np.isfinite(values)
        kept = values if finite.all() else values[finite]
        if len(kept):
            yield kept


def _histogram(
    pieces: Pieces, least: float, greatest: float, count: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Edges and counts of bins, one if the numbers are too close to one another, or too far apart."""
    with np.errstate(over="ignore"):
        span = np.float64(greatest) - least
    if not (0 < span < np.inf and least + span / BINS > least):
        return np.array([least, greatest]), np.array([count])
    edges = np.linspace(least, greatest, BINS + 1)
    counts = np.zeros(BINS, np.int64)
    for values in _finite(pieces):
        wide = np.asarray(values, np.float64)
        bins = np.minimum((wide - least) / span * BINS, BINS - 1).astype(np.int64)
        # What was rounded away from an edge is brought back to its side.
        bins -= wide < edges[bins]
        bins += (wide >= edges[bins + 1]) & (bins < BINS - 1)
        counts += np.bincount(bins, minlength=BINS)
    return edges, counts


def _quantiles(pieces: Pieces, count: int, whole: bool) -> list[int] | list[float]:
    """The numbers at `QUANTILES`, by the inverse of their distribution function; `whole`: integers."""

    def keys() -> Iterator[NDArray[np.uint64]]:
        for values in _finite(pieces):
            if whole:
                yield values.astype(np.int64).view(np.uint64) ^ _SIGN
            else:
                bits = (values.astype(np.float64) + 0.0).view(np.uint64)  # + 0.0: there is one zero only
                # Unsigned integers in the order of the doubles whose bits they are.
                yield np.where(bits & _SIGN, ~bits, bits ^ _SIGN)

    ranks = [max(math.ceil(share * count) - 1, 0) for share in QUANTILES]
    found = np.array(_at_ranks(keys, ranks, count, 64), np.uint64)
    if whole:
        return [int(number) for number in (found ^ _SIGN).view(np.int64)]
    return [float(number) for number in np.where(found & _SIGN, found ^ _SIGN, ~found).view(np.float64)]


def _at_ranks(keys: _Keys, ranks: Sequence[int], count: int, unknown: int) -> list[int]:
    """The keys at these ranks of `count`, which differ in their `unknown` lower bits alone.

    `ranks` are sorted. Keys are counted by the first of these bits, then those that begin as the ones looked
    for do, and so on until they are few.
    """
    if count <= SORTED:
        few, filled = np.empty(count, np.uint64), 0
        for piece in keys():
            few[filled : filled + len(piece)] = piece
            filled += len(piece)
        few.partition(ranks)
        return [int(few[rank]) for rank in ranks]
    if not unknown:
        return [next(int(piece[0]) for piece in keys() if len(piece))] * len(ranks)
    shift = np.uint64(unknown - _DIGIT)

    def digits(of: NDArray[np.uint64]) -> NDArray[np.int64]:
        return ((of >> shift) & np.uint64(2**_DIGIT - 1)).astype(np.int64)

    counts = np.zeros(2**_DIGIT, np.int64)
    for piece in keys():
        counts += np.bincount(digits(piece), minlength=len(counts))
    ends = np.cumsum(counts)
    of_rank = np.searchsorted(ends, ranks, side="right").tolist()
    at_ranks: list[int] = []
    for digit in dict.fromkeys(of_rank):
        before, inside = int(ends[digit] - counts[digit]), np.equal(of_rank, digit)

        def alike(digit: int = digit) -> Iterator[NDArray[np.uint64]]:
            return (piece[digits(piece) == digit] for piece in keys())

        further = [rank - before for rank in np.array(ranks)[inside].tolist()]
        at_ranks += _at_ranks(alike, further, int(counts[digit]), int(shift))
    return at_ranks
