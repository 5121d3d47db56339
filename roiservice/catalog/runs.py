"""Columns of which some rows go and others come: what stays between two of these is copied as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.grouping import index_dtype

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
        for first, place, end in self._each():
            from_row, source = (first - self.count, come) if first >= self.count else (first, column)
            rows[place:end] = source[from_row : from_row + end - place]
        return rows

    def places(self, come: int) -> NDArray[Any]:
        """Where each row comes out, (count + come,); anything for rows that go."""
        places = np.zeros(self.count + come, index_dtype(self.count + come))
        for first, place, end in self._each():
            places[first : first + end - place] = np.arange(place, end)
        return places

    def stay_put(self, start: Int64, end: Int64) -> NDArray[np.bool_]:
        """Whether all rows from each `start` to `end` (k,) belong to one run and come out where they were."""
        run = np.searchsorted(self.place, start, side="right") - 1
        stays = (self.first == self.place) & (self.first < self.count)
        ends = np.append(self.place[1:], self.total)
        return np.asarray(stays[run] & (ends[run] >= end))

    def _each(self) -> Iterator[tuple[int, int, int]]:
        places = self.place.tolist()
        return zip(self.first.tolist(), places, [*places, self.total][1:], strict=True)


def edited(count: int, gone: Int64, places: Int64) -> Runs:
    """Of `count` rows, those `gone` (g,) go; k others come, each before that one of `places` (k,), sorted."""
    bounds = np.unique(np.concatenate(([0], gone + 1, gone, places, [count])))
    stays = np.isin(bounds[:-1], gone, invert=True)
    starts, lengths = bounds[:-1][stays], np.diff(bounds)[stays]
    before, come, counts = np.unique(places, return_index=True, return_counts=True)
    order = np.argsort(np.concatenate((before, starts)), kind="stable")  # what comes stands first
    first = np.concatenate((count + come, starts))[order]
    lengths = np.concatenate((counts, lengths))[order]
    return Runs(count, first, np.cumsum(lengths) - lengths, int(lengths.sum()))
