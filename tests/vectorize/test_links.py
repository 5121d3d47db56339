"""What is found 64 columns at a time: the words themselves, and outlines at and across their borders."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roiservice.geometry.polygons import measure
from roiservice.vectorize.bits import WORD, differences, highest, lowest
from roiservice.vectorize.plane import trace_plane
from tests.vectorize.support import filled, four_connected_parts, holes, traced

WIDTHS = st.sampled_from([1, 2, 62, 63, 64, 65, 66, 126, 127, 128, 129, 193])


@numba.njit
def _word(a: Any, i: int, b: Any, j: int) -> Any:
    return differences(a, np.uintp(i), b, np.uintp(j))


@numba.njit
def _ends(word: Any) -> Any:
    return lowest(word), highest(word)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), i=st.integers(0, 9), j=st.integers(0, 9))
def test_a_word_has_a_bit_for_each_difference(dtype: str, seed: int, i: int, j: int) -> None:
    chance = np.random.default_rng(seed)
    high = np.iinfo(dtype).max
    a, b = (chance.choice(np.array([0, 1, high, high - 1], dtype), WORD + 9) for _ in range(2))
    unequal = a[i : i + WORD] != b[j : j + WORD]
    assert int(_word(a, i, b, j)) == sum(2 ** int(k) for k in np.flatnonzero(unequal))


@given(st.integers(1, 2**64 - 1))
def test_ends_of_a_word(word: int) -> None:
    low, high = _ends(np.uint64(word))
    assert (low, high) == ((word & -word).bit_length() - 1, word.bit_length() - 1)


@settings(max_examples=60, deadline=None)
@given(WIDTHS, st.integers(1, 40), st.integers(1, 70), st.integers(1, 4), st.integers(0, 2**32))
def test_outlines_fill_their_masks_at_all_widths(
    width: int, height: int, across: int, labels: int, seed: int
) -> None:
    """Blocks `across` columns wide: runs that end words away from where they begin, and beside a border."""
    chance = np.random.default_rng(seed)
    blocks = chance.integers(0, labels + 1, (height, width // across + 2))
    plane = np.repeat(blocks, across, axis=1)[:, chance.integers(0, across) :][:, :width].astype(np.uint16)
    plane = np.ascontiguousarray(plane)
    shapes = traced(plane)
    assert sorted(shapes) == np.unique(plane[plane != 0]).tolist()
    for label, shape in shapes.items():
        assert np.array_equal(filled(shape, plane.shape), plane == label)


@pytest.mark.parametrize("width", [63, 64, 65, 200, 1000])
@pytest.mark.parametrize("hole", [(1, 1), (0.5, 1), (1, 0.5)])
def test_a_hole_far_from_where_its_run_begins_is_a_hole(width: int, hole: tuple[float, float]) -> None:
    plane = np.ones((9, width), np.uint8)
    first, last = int(hole[0] * (width - 3)), int(hole[1] * (width - 2))
    plane[3:5, min(first, last - 1) : last] = 0
    labels, polygons = trace_plane([plane])
    assert labels.tolist() == [1]
    assert len(polygons.part_offsets) - 1 == four_connected_parts(plane == 1) == 1
    assert len(polygons.vertex_offsets) - 2 == holes(plane == 1) == 1
    assert measure(polygons).area[0] == plane.sum()
