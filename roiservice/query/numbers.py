"""What many numbers are like, found out piece by piece: memory does not grow with how many there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled
from roiservice.query.subsets import BATCH

BINS = 32  # of histograms
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SORTED = 2**22  # numbers that are held at once
_FINER = 64  # parts of a bin, by which the numbers are found that may be a quantile
_DIGIT = 16  # bits of a key that are told apart in one pass
_SIGN = np.uint64(2**63)  # the bit of a number's sign

Pieces = Callable[[], Iterable[NDArray[Any]]]  # the numbers anew with each call
_Keys = Callable[[], Iterator[NDArray[np.uint64]]]
_Edges = NDArray[np.float64]


def numbers(pieces: Pieces, most: int) -> dict[str, Any]:
    """Of finite numbers: count, least, greatest, mean, quantiles, and a histogram of equally wide bins.

    There are no more than `most` numbers; integers are no longer than int64. Quantiles are among the numbers,
    not between them. Only their count where there are none. A bin holds its lower edge, the last one its
    upper edge as well; where all numbers are equal, or nearly, there is one.
    """
    finite = _held(pieces, most) if most <= SORTED else partial(_finite, pieces)
    count, least, greatest, total = 0, None, None, 0.0
    for values in finite():
        count += len(values)
        least = values.min() if least is None else min(least, values.min())
        greatest = values.max() if greatest is None else max(greatest, values.max())
        with np.errstate(over="ignore", invalid="ignore"):
            total += float(values.sum(dtype=np.float64))
    if least is None or greatest is None:
        return {"count": 0}
    mean = total / count
    if not math.isfinite(mean):  # their sum was too large
        mean = sum(float((values / count).sum()) for values in finite())
    edges, bins = _edges(float(least), float(greatest))
    counts = np.zeros(len(edges) - 1, np.int64)
    for values in finite():
        _binned(_wide(values), edges, counts)
    quantiles = _quantiles(finite, edges, counts)
    return {
        "count": count,
        "min": least.item(),
        "max": greatest.item(),
        "mean": mean,
        "quantiles": dict(zip(map(str, QUANTILES), quantiles, strict=True)),
        "histogram": {
            "edges": edges[:: len(counts) // bins].tolist(),
            "counts": counts.reshape(bins, -1).sum(axis=1).tolist(),
        },
    }


def _finite(pieces: Pieces) -> Iterator[NDArray[Any]]:
    """The pieces without what is no number, and without those where nothing is left."""
    for values in pieces():
        finite = np.isfinite(values)
        kept = values if finite.all() else values[finite]
        if len(kept):
            yield kept


def _held(pieces: Pieces, most: int) -> Pieces:
    """The finite numbers, looked up once; no more than `most`."""
    held = _together(_finite(pieces), most)
    return lambda: (held[first : first + BATCH] for first in range(0, len(held), BATCH))


def _together(pieces: Iterable[NDArray[Any]], most: int) -> NDArray[Any]:
    """All numbers of the pieces, no more than `most`, which are in memory once."""
    together, filled = np.empty(0), 0
    for values in pieces:
        if not filled:
            together = np.empty(most, values.dtype)
        together[filled : filled + len(values)] = values
        filled += len(values)
    return together[:filled]


def _edges(least: float, greatest: float) -> tuple[_Edges, int]:
    """Edges of the parts of bins, and how many bins: one if numbers are too close, or too far apart.

    Edges differ, and those of bins are the same with parts as without, which a power of two divides exactly
    unless the quotient is subnormal.
    """
    with np.errstate(over="ignore"):
        span = np.float64(greatest) - least
    for parts in (BINS * _FINER, BINS):
        width = span / parts
        is_exact = 0 < span < np.inf and width * parts == span
        if is_exact and least + width > least and greatest - width < greatest:
            return np.linspace(least, greatest, parts + 1), BINS
    return np.array([least, greatest]), 1


def _wide(values: NDArray[Any]) -> NDArray[np.float64]:
    """As doubles that are not written to: for others the loop is compiled anew."""
    wide = np.asarray(values, np.float64).view()
    wide.flags.writeable = False
    return wide


@compiled
def _binned(values: Any, edges: Any, counts: Any) -> Any:
    """The part between edges (p + 1,) that each value (n,) lies in, of 16 bits; counts (p,) grow by these."""
    parts, least, span = counts.size, edges[0], edges[-1] - edges[0]
    bins = np.zeros(values.size, np.uint16)
    if parts > 1:
        for i in range(values.size):  # by itself, several at once
            bins[i] = min(int((values[i] - least) / span * parts), parts - 1)
    for i in range(values.size):
        part = int(bins[i])
        # What was rounded away from an edge is brought back to its side.
        if parts > 1 and values[i] < edges[part]:
            part -= 1
        elif part < parts - 1 and values[i] >= edges[part + 1]:
            part += 1
        bins[i] = part
        counts[part] += 1
    return bins


def _quantiles(finite: Pieces, edges: _Edges, counts: NDArray[np.int64]) -> list[int] | list[float]:
    """The numbers at `QUANTILES`, by the inverse of their distribution function.

    Only the parts of the histogram that they lie in are looked at, unless these have too many numbers.
    """
    count = int(counts.sum())
    ranks = np.array([max(math.ceil(share * count) - 1, 0) for share in QUANTILES])
    parts = np.searchsorted(np.cumsum(counts), ranks, side="right")
    wanted = np.zeros(len(counts), bool)
    wanted[parts] = True
    if counts[wanted].sum() > SORTED:
        return _among_many(finite, count, ranks.tolist())
    unused = np.zeros_like(counts)
    few = (values[wanted.take(_binned(_wide(values), edges, unused))] for values in finite())
    some = _together(few, int(counts[wanted].sum()))
    places = ranks - np.cumsum(np.where(wanted, 0, counts))[parts]  # without those of other parts before
    some.partition(np.unique(places))
    found: list[int] | list[float] = (some[places] + 0).tolist()  # there is one zero only
    return found


def _among_many(finite: Pieces, count: int, ranks: Sequence[int]) -> list[int] | list[float]:
    """The numbers at these ranks, however many there are."""
    whole = next(iter(finite())).dtype.kind != "f"

    def keys() -> Iterator[NDArray[np.uint64]]:
        for values in finite():
            if whole:
                yield values.astype(np.int64).view(np.uint64) ^ _SIGN
            else:
                bits = (values.astype(np.float64) + 0.0).view(np.uint64)  # + 0.0: there is one zero only
                # Unsigned integers in the order of the doubles whose bits they are.
                yield np.where(bits & _SIGN, ~bits, bits ^ _SIGN)

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
