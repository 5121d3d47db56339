"""Count, extremes, sum and spread of numbers that come in pieces."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.records import dataclass

Number = int | float


@dataclass(frozen=True)
class Moments:
    """What is known of some numbers: how many, their least, greatest and sum, and their squared deviations.

    `total` is exact where the numbers are integers; `deviations` is the sum of (value - mean) ** 2. Where any
    number is NaN, so is all but the count.
    """

    count: int = 0
    least: Number = 0
    greatest: Number = 0
    total: Number = 0
    deviations: float = 0.0

    def with_more(self, other: Moments) -> Moments:
        """Of both sets together.

        Deviations are combined by way of the means (Chan, Golub and LeVeque 1983). A sum of squares would
        lose all digits where values are large and close to one another.
        """
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        apart = (other.total * self.count - self.total * other.count) / (self.count * other.count)
        return Moments(
            count,
            _extreme(min, self.least, other.least),
            _extreme(max, self.greatest, other.greatest),
            self.total + other.total,
            self.deviations + other.deviations + apart * apart * (self.count * other.count / count),
        )

    @property
    def mean(self) -> float:
        """The mean; NaN of nothing."""
        return self.total / self.count if self.count else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation of the population: the root of the mean squared deviation. NaN of nothing."""
        return math.sqrt(self.deviations / self.count) if self.count else math.nan


def moments(values: NDArray[Any]) -> Moments:
    """Moments of (n,) integers, bools or floats."""
    if not len(values):
        return Moments()
    if values.dtype.kind == "f":
        return _of_floats(values.astype(np.float64))
    values = values.view(np.uint8) if values.dtype.kind == "b" else values
    least, greatest = int(values.min()), int(values.max())
    # Counted from the least, as unsigned numbers that wrap: exact, whatever the type.
    above = values.astype(np.uint64) - np.uint64(least % 2**64)
    excess = _exact_sum(above)
    apart = above.astype(np.float64) - excess / len(values)
    total = least * len(values) + excess
    return Moments(len(values), least, greatest, total, float(np.square(apart).sum()))


def _of_floats(values: NDArray[np.float64]) -> Moments:
    with np.errstate(invalid="ignore", over="ignore"):
        total = float(values.sum())
        apart = values - total / len(values)
        deviations = float(np.square(apart).sum())
    return Moments(len(values), float(values.min()), float(values.max()), total, deviations)


def _exact_sum(values: NDArray[np.uint64]) -> int:
    """Sum of fewer than 2**32 numbers; their upper and lower halves are added up apart."""
    half = np.uint64(32)
    upper, lower = values >> half, values & np.uint64(2**32 - 1)
    return (int(upper.sum()) << 32) + int(lower.sum())


def _extreme(of: Callable[[Number, Number], Number], one: Number, other: Number) -> Number:
    """The less or greater one; NaN if either is."""
    if math.isnan(one) or math.isnan(other):
        return math.nan
    return of(one, other)
