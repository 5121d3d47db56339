"""Columns of which some rows go and others come: what stays between two of these is copied as a whole."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled
from roiservice.geometry.grouping import index_dtype
from roiservice.records import dataclass

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """Rows of a column of `count` rows, and of another one whose rows are counted on from these.

    Each of r runs begins with row `first` (r,) of both, and comes out at `place` (r,); `total` rows come out.
    """

    count: int
    first: Int64
    place: Int64
    total: int

    def taken(self, column: NDArray[Any], come: NDArray[Any]) -> NDArray[Any]:
        """The rows of a column (count, ...) and of those that `come` (k, ...), with the type of `column`."""
        rows = np.empty((self.total, *column.shape[1:]), column.dtype)
        size = column.dtype.itemsize * math.prod(column.shape[1:])
        both = _bytes_of(column), _bytes_of(come.astype(column.dtype, copy=False))
        _copy(self.first * size, self._bounds() * size, *both, rows.reshape(-1).view(np.uint8))
        return rows

    def places(self, come: int) -> NDArray[Any]:
        """Where each row comes out, (count + come,); 0 for rows that go."""
        places = np.zeros(self.count + come, index_dtype(self.count + come))
        _number(self.first, self._bounds(), places)
        return places

    def stay_put(self, start: Int64, end: Int64) -> NDArray[np.bool_]:
        """Whether all rows from each `start` to `end` (k,) belong to one run and come out where they were."""
        run = np.searchsorted(self.place, start, side="right") - 1
        stays = (self.first == self.place) & (self.first < self.count)
        return np.asarray(stays[run] & (self._bounds()[run + 1] >= end))

    def _bounds(self) -> Int64:
        """Where each run comes out, and the number of rows."""
        return np.append(self.place, self.total)


def edited(count: int, gone: Int64, places: Int64) -> Runs:
    """Of `count` rows, those `gone` (g,) go; k others come, each before that one of `places` (k,), sorted."""
    # Sorts that keep the order of what is equal are quick where much is in order, which all of this is.
    bounds = np.sort(np.concatenate(([0], gone + 1, gone, places, [count])), kind="stable")
    bounds = bounds[np.diff(bounds, prepend=-1) > 0]
    stays = np.ones(len(bounds), bool)
    stays[np.searchsorted(bounds, gone)] = stays[-1] = False
    starts, lengths = bounds[stays], np.diff(bounds, append=count)[stays]
    come = np.flatnonzero(np.diff(places, prepend=-1))
    before, counts = places[come], np.diff(come, append=len(places))
    order = np.argsort(np.concatenate((before, starts)), kind="stable")  # what comes stands first
    first = np.concatenate((count + come, starts))[order]
    lengths = np.concatenate((counts, lengths))[order]
    return Runs(count, first, np.cumsum(lengths) - lengths, int(lengths.sum()))


def _bytes_of(column: NDArray[Any]) -> NDArray[np.uint8]:
    """Its bytes, not to be written to: loops are compiled anew for arrays that are."""
    content = np.ascontiguousarray(column).reshape(-1).view(np.uint8)
    content.flags.writeable = False
    return content


@compiled
def _copy(first: Any, bounds: Any, column: Any, come: Any, rows: Any) -> None:
    """Copy runs of bytes: `first` of each, counted on from `column` to `come`, and where it comes out."""
    for run in range(first.size):
        target, start = rows[bounds[run] : bounds[run + 1]], first[run]
        if start < column.size:
            _paste(target, column[start : start + target.size])
        else:
            start -= column.size
            _paste(target, come[start : start + target.size])


@compiled
def _paste(target: Any, source: Any) -> None:
    for k in range(target.size):  # so written it becomes one copy of memory
        target[k] = source[k]


@compiled
def _number(first: Any, bounds: Any, places: Any) -> None:
    for run in range(first.size):
        for place in range(bounds[run], bounds[run + 1]):
            places[first[run] + place - bounds[run]] = place
