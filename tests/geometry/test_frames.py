"""Frames against transforms worked out by hand, pixel centre by pixel centre."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roiservice.geometry.frames import Frame, frame_between

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
    frame = frame_between((scale, 1.0), (image_scale, 1.0), (start, 0.0), (image_start, 0.0))
    x, y = frame.to_image(np.array([[0, edge]]))[0]
    expected = by_hand(edge, scale, start, image_scale, image_start)
    assert y == pytest.approx(expected, rel=1e-9, abs=1e-6)
    assert x == 0


@pytest.mark.parametrize("edge", [0, 1, 10, 999])
def test_without_translation_the_outer_edges_agree(edge: int) -> None:
    frame = frame_between((0.6500, 0.3250), (0.4977, 0.3250), None, None)
    assert frame.scale_y == pytest.approx(1.306, abs=1e-4)
    assert (frame.scale_x, frame.offset_x, frame.offset_y) == (1, 0, 0)
    assert frame.to_image(np.array([[edge, edge]]))[0].tolist() == [edge, pytest.approx(edge * 0.65 / 0.4977)]


def test_two_to_one_with_the_offset_that_downsampling_writes() -> None:
    """A label pixel covers 2 x 2 image pixels; its centre lies at 0.5: then edges map to doubled edges."""
    frame = frame_between((2, 2), (1, 1), (0.5, 0.5), None)
    assert (frame.scale_x, frame.scale_y) == (2, 2)
    assert (frame.offset_x, frame.offset_y) == (0, 0)


def test_two_to_one_with_a_translation_of_zero_is_half_a_pixel_off() -> None:
    frame = frame_between((2, 2), (1, 1), (0, 0), (0, 0))
    assert (frame.offset_x, frame.offset_y) == (-0.5, -0.5)


def test_an_offset_counts_in_image_pixels() -> None:
    frame = frame_between((0.25, 0.5), (0.25, 0.5), (10.0, 20.0), (5.0, 10.0))
    assert frame == Frame(1, 1, offset_x=20.0, offset_y=20.0)


def test_y_and_x_are_not_mixed_up() -> None:
    frame = frame_between((3, 2), (1, 1), (7, 11), (0, 0))
    assert (frame.scale_y, frame.scale_x) == (3, 2)
    assert (frame.offset_y, frame.offset_x) == (7 - 1, 11 - 0.5)


def test_equal_grids_are_the_identity_and_keep_integers() -> None:
    frame = frame_between((0.5, 0.5), (0.5, 0.5), (1.0, 2.0), (1.0, 2.0))
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
