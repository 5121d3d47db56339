"""Sorting by counting, against numpy's sorting."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from roiservice.geometry.grouping import distinct, grouped, rows_among
from roiservice.geometry.hilbert import order_of_keys

DTYPES = st.sampled_from([np.int64, np.uint64, np.int32, np.uint8])


@st.composite
def numbers(draw: st.DrawFn) -> NDArray[Any]:
    """Few or many different ones, near each other or as far apart as their type allows."""
    dtype = np.dtype(draw(DTYPES))
    limits = np.iinfo(dtype)
    low, high = draw(st.sampled_from([(0, 5), (max(limits.min, -3), 3), (limits.min, limits.max)]))
    return draw(arrays.arrays(dtype, st.integers(0, 40), elements=st.integers(low, high)))


@given(numbers())
def test_distinct_is_unique(values: NDArray[Any]) -> None:
    found = distinct(values)
    for own, expected in zip(found, np.unique(values, return_index=True, return_inverse=True), strict=True):
        np.testing.assert_array_equal(own, expected)
    assert found[0].dtype == values.dtype


@given(arrays.arrays(np.int32, st.integers(0, 50), elements=st.integers(0, 6)))
def test_grouped_is_a_stable_sort(which: NDArray[np.int32]) -> None:
    rows, first = grouped(which, 7)
    np.testing.assert_array_equal(rows, np.argsort(which, kind="stable"))
    np.testing.assert_array_equal(first, np.searchsorted(np.sort(which), np.arange(8)))


@given(arrays.arrays(np.int64, st.integers(0, 50), elements=st.integers(0, 2**32 - 1) | st.integers(0, 3)))
def test_keys_are_sorted_stably(keys: NDArray[np.int64]) -> None:
    np.testing.assert_array_equal(order_of_keys(keys), np.argsort(keys, kind="stable"))


@given(numbers(), st.data())
def test_rows_among_few(values: NDArray[Any], data: st.DataObject) -> None:
    """Those whose lower bits alone are alike are not among them."""
    values = values.astype(np.uint64 if values.dtype.kind == "u" else np.int64)
    elements = st.sampled_from([*values.tolist(), 2**22, 2**40 + 1, 0, 1])
    wanted = np.array(data.draw(st.lists(elements, max_size=5)), values.dtype)
    np.testing.assert_array_equal(rows_among(values, wanted), np.flatnonzero(np.isin(values, wanted)))
