"""Rows put together from columns of texts, against plain joins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roiservice.encode.rows import Texts, by_value, rows
from roiservice.encode.text import integers

some = settings(max_examples=100, deadline=None)
columns = st.integers(0, 5).flatmap(
    lambda count: st.tuples(
        st.just(count),
        st.lists(st.binary(max_size=9) | st.lists(st.binary(max_size=9), min_size=count, max_size=count)),
    )
)


@some
@given(columns)
def test_rows(case: tuple[int, list[bytes | list[bytes]]]) -> None:
    count, pieces = case
    pieces.append(b"")
    found = rows(count, [piece if isinstance(piece, bytes) else Texts.of(piece) for piece in pieces])
    expected = [b"".join(p if isinstance(p, bytes) else p[i] for p in pieces) for i in range(count)]
    assert list(found) == expected
    assert found.buffer.tobytes() == b"".join(expected)


@pytest.mark.parametrize("kind", ["i1", "u1", "<i4", ">u4", "<i8", ">i8", "<u8", ">u8"])
def test_the_largest_and_smallest_of_each_kind_of_integers(kind: str) -> None:
    limits = np.iinfo(kind)
    for values in ([limits.min, 3], [3, limits.max], [limits.max // 2 + 1], []):
        assert list(integers(np.array(values, kind))) == [b"%d" % value for value in values]


@some
@given(st.lists(st.integers(-(2**63) + 1, 2**63 - 1)))
def test_integers(values: list[int]) -> None:
    assert list(integers(np.array(values, np.int64))) == [b"%d" % value for value in values]


def test_texts_are_taken_and_left_empty() -> None:
    texts = Texts.of([b"a", b"", b"bcd"])
    assert list(texts.take(np.array([2, 2, 1, 0]))) == [b"bcd", b"bcd", b"", b"a"]
    assert list(texts.where(np.array([False, True, True]))) == [b"", b"", b"bcd"]
    assert list(by_value(np.array([3, 1, 3]), lambda value: b"%d!" % value)) == [b"3!", b"1!", b"3!"]
