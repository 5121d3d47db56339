"""Outlines of label planes against masks, GDAL and scipy, on planes of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from roiservice.errors import TooManyObjects
from roiservice.geometry.polygons import measure, to_shapely
from roiservice.vectorize import seams
from roiservice.vectorize.plane import trace_plane
from tests.strategies import (
    INTEGERS,
    checkerboard,
    cuts,
    diamonds,
    label_planes,
    patterns,
    rings_in_rings,
    snake,
    spiral,
    strips_of,
)
from tests.vectorize.support import (
    filled,
    four_connected_parts,
    gdal_polygons,
    holes,
    rings_of,
    spelled,
    strip_size,
    traced,
)

Plane = NDArray[Any]
many = settings(max_examples=250, deadline=None)
few = settings(max_examples=80, deadline=None)


@many
@given(label_planes())
def test_areas_boxes_and_labels_are_those_of_the_pixels(plane: Plane) -> None:
    labels, polygons = trace_plane([plane])
    measured = measure(polygons)
    assert labels.dtype == plane.dtype
    assert sorted(labels.tolist()) == sorted(set(plane[plane != 0].tolist()))
    for i, label in enumerate(labels):
        rows, columns = np.nonzero(plane == label)
        assert measured.area[i] == len(rows)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert tuple(measured.boxes[i]) == box
        assert measured.centroid[i] == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5))


@many
@given(patterns)
def test_every_polygon_is_valid_and_fills_its_mask(pattern: Plane) -> None:
    for label, shape in traced(pattern).items():
        assert shapely.is_valid(shape), shapely.is_valid_reason(shape)
        assert np.array_equal(filled(shape, pattern.shape), pattern == label)


@many
@given(patterns)
@example(rings_in_rings(13))
@example(diamonds(9, 9))
def test_parts_and_holes_are_those_of_gdal(pattern: Plane) -> None:
    for label, shape in traced(pattern).items():
        parts = shapely.get_parts(shape)
        assert len(parts) == four_connected_parts(pattern == label)
        assert shapely.get_num_interior_rings(parts).sum() == holes(pattern == label)
        assert {spelled(part) for part in parts} == gdal_polygons(pattern == label)


@many
@given(patterns)
def test_rings_are_lean_simple_and_turned_one_way(pattern: Plane) -> None:
    _, polygons = trace_plane([pattern])
    for parts in rings_of(polygons):
        for rings in parts:
            assert [_twice_area(ring) > 0 for ring in rings] == [True] + [False] * (len(rings) - 1)
            for ring in rings:
                assert len(set(ring)) == len(ring), "a ring passes one point twice"
                assert ring[0] == min(ring, key=lambda point: (point[1], point[0]))
                for (x0, y0), (x1, y1), (x2, _y2) in zip(
                    ring[-2:] + ring[:-2], ring[-1:] + ring[:-1], ring, strict=True
                ):
                    assert (x0 == x1) != (y0 == y1), "an edge is not along pixels"
                    assert (x0 == x1) != (x1 == x2), "a vertex on a straight edge"


def _twice_area(ring: list[tuple[float, float]]) -> float:
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring[-1:] + ring[:-1], ring, strict=True))


@many
@given(label_planes(), cuts, st.sampled_from([1, 2, 3, 32]))
@example(spiral(23), [1] * 30, 32)
@example(snake(40, 21), [1] * 40, 32)
@example(snake(40, 21).T.copy(), [7, 1, 1, 9], 1)
@example(rings_in_rings(24), [], 1)
def test_the_cut_into_strips_does_not_show(plane: Plane, heights: list[int], rows: int) -> None:
    labels, polygons = trace_plane([plane])
    with strip_size(rows):
        cut_labels, cut = trace_plane(iter(strips_of(plane, heights)))
    assert cut_labels.dtype == labels.dtype
    assert cut_labels.tolist() == labels.tolist()
    for name in ("xy", "vertex_offsets", "ring_offsets", "part_offsets"):
        assert np.array_equal(getattr(polygons, name), getattr(cut, name)), name


@pytest.mark.parametrize("dtype", INTEGERS)
def test_every_dtype_keeps_its_extremes(dtype: str) -> None:
    values = [True] if dtype == "bool" else [np.iinfo(dtype).min, np.iinfo(dtype).max, 1]
    plane = np.zeros((3, 7), dtype)
    for place, value in enumerate(values):
        plane[1, 2 * place + 1] = value
    labels, polygons = trace_plane([plane[:1], plane[1:2], plane[2:]])
    assert labels.dtype == plane.dtype
    assert set(labels.tolist()) == {value for value in plane.ravel().tolist() if value}
    assert measure(polygons).area.tolist() == [1] * len(labels)


@pytest.mark.parametrize("plane", [np.zeros((5, 5), np.uint16), np.zeros((0, 5), int), np.zeros((5, 0), int)])
def test_a_plane_without_objects_gives_none(plane: Plane) -> None:
    labels, polygons = trace_plane([plane])
    assert (len(labels), labels.dtype, len(polygons)) == (0, plane.dtype, 0)


def test_no_strip_at_all_gives_none() -> None:
    labels, polygons = trace_plane([])
    assert (len(labels), len(polygons)) == (0, 0)


def test_a_full_plane_is_one_square_at_the_border() -> None:
    _, polygons = trace_plane([np.ones((70, 50), np.uint8)])
    assert polygons.xy.tolist() == [[0, 0], [50, 0], [50, 70], [0, 70]]


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_a_spiral_is_one_ring_whatever_the_seams(rows: int) -> None:
    plane = spiral(101)
    with strip_size(rows):
        labels, polygons = trace_plane([plane])
    assert labels.tolist() == [1]
    assert (len(polygons.part_offsets), len(polygons.ring_offsets), len(polygons.vertex_offsets)) == (2, 2, 2)
    assert measure(polygons).area[0] == plane.sum()


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_a_comb_with_a_thousand_teeth_is_joined_at_its_last_row(rows: int) -> None:
    plane = np.zeros((40, 2001), np.uint8)
    plane[:, ::2] = 1
    plane[-1] = 1
    with strip_size(rows):
        _, polygons = trace_plane([plane])
    assert len(polygons.ring_offsets) == 2
    assert measure(polygons).area[0] == plane.sum()


def test_corner_touches_part_objects_and_holes() -> None:
    parts = traced(checkerboard(6, 6))[1]
    assert shapely.get_num_geometries(parts) == 18
    plane = np.ones((6, 6), int)
    plane[1, 1] = plane[2, 2] = plane[3, 3] = 0
    assert shapely.get_num_interior_rings(traced(plane)[1]) == 3


def test_an_island_of_the_same_label_in_its_own_hole_is_a_part() -> None:
    plane = np.ones((7, 7), int)
    plane[1:6, 1:6] = 0
    plane[3, 3] = 1
    shape = traced(plane)[1]
    assert shapely.get_num_geometries(shape) == 2
    assert shapely.get_num_interior_rings(shapely.get_parts(shape)).tolist() == [1, 0]


def test_large_noise_against_counting() -> None:
    plane = np.random.default_rng(5).integers(0, 3, (400, 700), np.uint16)
    with strip_size(32):
        labels, polygons = trace_plane([plane[:250], plane[250:]])
    areas = dict(zip(labels.tolist(), measure(polygons).area.tolist(), strict=True))
    assert areas == {1: (plane == 1).sum(), 2: (plane == 2).sum()}
    parts = dict(zip(labels.tolist(), np.diff(polygons.part_offsets).tolist(), strict=True))
    assert parts == {1: four_connected_parts(plane == 1), 2: four_connected_parts(plane == 2)}
    assert shapely.is_valid(to_shapely(polygons)).all()


@few
@given(label_planes())
def test_tracing_twice_gives_the_same(plane: Plane) -> None:
    first, second = trace_plane([plane]), trace_plane([plane.copy()])
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].xy.tobytes() == second[1].xy.tobytes()


@few
@given(label_planes())
def test_the_plane_is_left_as_it_was(plane: Plane) -> None:
    kept = plane.copy()
    plane.setflags(write=False)
    trace_plane([plane])
    assert np.array_equal(plane, kept)


@few
@given(patterns.filter(lambda pattern: pattern.any()))
def test_the_limit_of_vertices_is_exact(pattern: Plane) -> None:
    vertices = len(trace_plane([pattern])[1].xy)
    assert len(trace_plane([pattern], vertices)[1].xy) == vertices
    with pytest.raises(TooManyObjects, match=str(vertices - 1)):
        trace_plane([pattern], vertices - 1)


def test_the_limit_holds_while_an_outline_is_still_open() -> None:
    """An outline that only closes in the last row must not grow past the limit before it is noticed."""
    seen = 0

    def strips() -> Any:
        nonlocal seen
        chance = np.random.default_rng(0)
        for _ in range(50):
            seen += 1
            rows = np.zeros((64, 512), np.uint8)
            rows[:, ::4] = 1
            rows[:, 1::4] = chance.integers(
                0, 2, (64, 128)
            )  # ragged teeth: nothing closes before the last row
            yield rows
        yield np.ones((1, 512), np.uint8)

    with pytest.raises(TooManyObjects):
        trace_plane(strips(), 2000)
    assert seen < 10


def test_long_open_outlines_are_not_copied_at_each_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(0)
    teeth = np.zeros((2000, 256), np.uint8)
    teeth[:, ::4] = 1
    teeth[:, 1::4] = chance.integers(0, 2, (2000, 64))  # nothing closes before the last row
    copied = 0
    copy = seams._vertices_of

    def counting(*columns: Any) -> Any:
        nonlocal copied
        xy, offsets = copy(*columns)
        copied += len(xy)
        return xy, offsets

    monkeypatch.setattr(seams, "_vertices_of", counting)
    with strip_size(4):
        _, polygons = trace_plane([teeth])
    assert len(polygons.xy) <= copied < 3 * len(polygons.xy)


def test_a_strip_may_be_written_over_once_the_next_is_asked_for() -> None:
    plane = rings_in_rings(24)

    def strips() -> Iterator[Plane]:
        buffer = np.empty((5, 24), plane.dtype)
        for row in range(0, 24, 5):
            rows = plane[row : row + 5]
            buffer[: len(rows)] = rows
            yield buffer[: len(rows)]

    labels, polygons = trace_plane(strips())
    expected_labels, expected = trace_plane([plane])
    assert labels.tolist() == expected_labels.tolist()
    assert polygons.xy.tolist() == expected.xy.tolist()


def test_strips_of_zero_rows_are_passed_over() -> None:
    plane = np.ones((4, 3), np.int32)
    labels, polygons = trace_plane([plane[:0], plane[:2], plane[2:2], plane[2:], plane[:0]])
    assert labels.tolist() == [1]
    assert measure(polygons).area.tolist() == [12]
