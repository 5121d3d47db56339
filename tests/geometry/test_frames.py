"""Frames against transforms worked out by hand, pixel centre by pixel centre."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roiservice.geometry.frames import Frame, edge_offset

scales = st.floats(0.05, 20)
shifts = st.floats(-1000, 1000)


def by_hand(edge: float, scale: float, start: float, image_scale: float, image_start: float) -> float:
    """Where a layer's pixel edge lies in its image: NGFF transforms map pixel centres to the world."""
    centre_index = edge - 0.5  # an edge lies half a pixel before the centre of that number
    world = scale * centre_index + start
    return (world - image_start) / image_scale + 0.5


@given(scales, scales, shifts, shifts, st.integers(0, 10_000))
def test_with_translations_edges_go_through_the_world(
    scale: float, image_scale: float, start: float, image_start: float, edge: int
) -> None:
    ratio, place = scale / image_scale, (start - image_start) / image_scale
    expected = by_hand(edge, scale, start, image_scale, image_start)
    assert edge * ratio + edge_offset(ratio, place) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_without_translation_the_outer_edges_agree() -> None:
    assert edge_offset(0.65 / 0.4977, None) == 0


def test_two_to_one_with_the_offset_that_downsampling_writes() -> None:
    """A label pixel covers 2 x 2 image pixels; its centre lies at 0.5: then edges map to doubled edges."""
    assert edge_offset(2.0, 0.5) == 0


def test_two_to_one_with_a_translation_of_zero_is_half_a_pixel_off() -> None:
    assert edge_offset(2.0, 0.0) == -0.5


def test_y_and_x_are_not_mixed_up() -> None:
    frame = Frame(scale_x=2, scale_y=3, offset_x=11, offset_y=7)
    assert frame.to_image(np.array([[10, 100]])).tolist() == [[31, 307]]


def test_equal_grids_are_the_identity_and_keep_integers() -> None:
    frame = Frame(offset_x=edge_offset(1.0, 0.0))
    xy = np.array([[1, 2]], np.int32)
    assert frame.is_identity
    assert frame.to_image(xy) is xy
    assert not Frame(offset_x=1e-9).is_identity


@given(scales, scales, shifts, shifts, st.tuples(shifts, shifts, shifts, shifts))
def test_boxes_go_there_and_back(
    scale_x: float, scale_y: float, offset_x: float, offset_y: float, box: tuple[float, float, float, float]
) -> None:
    frame = Frame(scale_x, scale_y, offset_x, offset_y)
    x0, y0, x1, y1 = frame.box_to_layer(box)
    back = frame.to_image(np.array([[x0, y0], [x1, y1]])).ravel().tolist()
    assert all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-6) for a, b in zip(back, box, strict=True))


def test_the_area_of_a_pixel() -> None:
    assert Frame(2, 1.306).pixel_area == pytest.approx(2.612)
