"""Rows in groups: sorted by counting, as what is numbered densely needs linear time only, and gathered."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled

Int64 = NDArray[np.int64]

SPARSE = 4  # numbers up to so many times their count, and a million, are worth a table
SPARE = 2**20
_MASK = 2**22 - 1


def distinct(numbers: NDArray[Any]) -> tuple[NDArray[Any], Int64, Int64]:
    """The distinct integers of (n,) `numbers`, sorted; the first row of each; for every row, which it is.

    As `numpy.unique` with `return_index` and `return_inverse`.
    """
    if len(numbers) and numbers.min() >= 0 and int(numbers.max()) <= SPARSE * len(numbers) + SPARE:
        values, first, which = _counted(numbers, int(numbers.max()))
        return values, first, which
    values, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    return values, first, which


def index_dtype(count: int) -> type[np.signedinteger[Any]]:
    """The type of indexes into so many rows, or of how many there are up to that: 32 bits if they suffice."""
    return np.int32 if count < 2**31 else np.int64


def grouped(which: NDArray[Any], groups: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows sorted by `which` (n,), the number 0 to `groups` - 1 of the group of each; else as they come.

    And where each group begins among these, (groups + 1,). Both of `index_dtype`.
    """
    dtype = index_dtype(len(which))
    first, rows = np.zeros(groups + 1, dtype), np.empty(len(which), dtype)
    _group(which, first, rows)
    return rows, first


def members(offsets: NDArray[Any], chosen: NDArray[Any]) -> tuple[Int64, Int64]:
    """The rows of the `chosen` groups (k,), one group after another, and where each begins, (k + 1,).

    Group g has the rows `offsets[g]` to `offsets[g + 1]`.
    """
    first = offsets[chosen]
    count = offsets[chosen + 1] - first
    begins = np.zeros(len(chosen) + 1, np.int64)
    np.cumsum(count, out=begins[1:])
    return np.arange(begins[-1]) + np.repeat(first - begins[:-1], count), begins


def rows_among(numbers: NDArray[Any], wanted: NDArray[Any]) -> Int64:
    """Rows of the integers `numbers` (n,) that are among the few `wanted` (k,), sorted."""
    wanted, seen = wanted.astype(numbers.dtype), np.zeros(_MASK + 1, bool)
    seen[wanted & _MASK] = True
    rows = np.flatnonzero(seen[numbers & _MASK])  # and some others whose lower bits are alike
    return rows[np.isin(numbers[rows], wanted)]


@compiled
def _counted(numbers: Any, highest: Any) -> Any:
    table = np.full(highest + 1, -1, np.int64)
    count = 0
    for i in range(numbers.size):
        if table[numbers[i]] < 0:
            table[numbers[i]] = i
            count += 1
    values, first = np.empty(count, numbers.dtype), np.empty(count, np.int64)
    count = 0
    for number in range(table.size):
        if table[number] >= 0:
            values[count], first[count], table[number] = number, table[number], count
            count += 1
    which = np.empty(numbers.size, np.int64)
    for i in range(numbers.size):
        which[i] = table[numbers[i]]
    return values, first, which


@compiled
def _group(which: Any, first: Any, rows: Any) -> None:
    groups = first.size - 1
    for i in range(which.size):
        first[which[i]] += 1
    begin = 0
    for group in range(groups + 1):
        first[group], begin = begin, begin + first[group]
    for i in range(which.size):
        rows[first[which[i]]] = i
        first[which[i]] += 1
    for group in range(groups, 0, -1):  # each is now where the next one begins
        first[group] = first[group - 1]
    first[0] = 0
