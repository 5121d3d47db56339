"""Moments of numbers in pieces, against exact arithmetic."""

import math
from fractions import Fraction
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from roiservice.query.moments import Moments, moments

INTEGERS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "bool"]
PIECES = st.lists(st.integers(0, 60), max_size=4)


def in_pieces(values, cuts):
    """Moments put together from consecutive pieces, empty ones among them."""
    ends = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    pieces = [moments(values[a:b]) for a, b in pairwise(ends)]
    return reduce(Moments.with_more, pieces, Moments())


def exactly(values):
    """Mean and population deviation in rational numbers, rounded once."""
    exact = [Fraction(value) for value in values.tolist()]
    mean = sum(exact) / len(exact)
    return float(mean), math.sqrt(sum((each - mean) ** 2 for each in exact) / len(exact))


@given(data=st.data(), dtype=st.sampled_from(INTEGERS), cuts=PIECES)
def test_integers_of_every_type(data, dtype, cuts):
    values = data.draw(hnp.arrays(np.dtype(dtype), st.integers(1, 60)))
    found = in_pieces(values, cuts)
    numbers = [int(value) for value in values.tolist()]
    assert (found.count, found.least, found.greatest) == (len(numbers), min(numbers), max(numbers))
    assert found.total == sum(numbers)
    mean, deviation = exactly(values.astype(object))
    assert found.mean == mean
    assert found.deviation == pytest.approx(deviation, rel=1e-12)


@given(
    values=hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6, allow_subnormal=False)),
    cuts=PIECES,
    width=st.sampled_from([np.float32, np.float64]),
)
def test_floats(values, cuts, width):
    values = values.astype(width)
    found = in_pieces(values, cuts)
    size = float(np.abs(values).max())
    assert (found.least, found.greatest) == (values.min(), values.max())
    assert found.total == pytest.approx(math.fsum(values.tolist()), rel=1e-12, abs=1e-12 * size)
    mean, deviation = exactly(values)
    assert found.mean == pytest.approx(mean, rel=1e-12, abs=1e-12 * size)
    assert found.deviation == pytest.approx(deviation, rel=1e-12, abs=1e-14 * size)


def test_large_values_close_to_one_another_keep_their_spread():
    values = (10**18 + np.arange(1000) % 7).astype(np.uint64)
    expected = float((np.arange(1000) % 7).std())
    assert in_pieces(values, [100, 500, 501]).deviation == pytest.approx(expected, rel=1e-12)
    floats = 1e9 + (np.arange(1000) % 7).astype(np.float64)
    assert in_pieces(floats, [100, 500, 501]).deviation == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("cuts", [[], [1], [2, 3]])
def test_values_that_are_no_numbers_are_not_left_out(odd, cuts):
    found = in_pieces(np.array([1.0, 2.0, odd, 3.0]), cuts)
    assert found.count == 4
    assert not math.isfinite(found.total)
    assert math.isnan(found.deviation)
    assert math.isnan(found.least) == math.isnan(found.greatest) == math.isnan(odd)


def test_nothing():
    assert in_pieces(np.empty(0, np.uint8), [3]).count == 0
    assert math.isnan(Moments().mean)
    assert math.isnan(Moments().deviation)
