"""Ragged arrays of polygons: choosing, closing, measuring, and the way to shapely and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from roiservice.geometry.frames import Frame
from roiservice.geometry.polygons import Polygons, closed, from_shapely, measure, to_shapely
from roiservice.vectorize.plane import trace_plane
from tests.strategies import patterns
from tests.vectorize.support import rings_of

some = settings(max_examples=100, deadline=None)


def polygons_of(pattern: NDArray[Any]) -> Polygons:
    return trace_plane([np.ascontiguousarray(pattern)])[1]


@some
@given(patterns, st.data())
def test_taking_features_is_choosing_from_a_list(pattern: NDArray[Any], data: st.DataObject) -> None:
    polygons = polygons_of(pattern)
    chosen = data.draw(st.lists(st.sampled_from(range(len(polygons))), max_size=6)) if len(polygons) else []
    taken = polygons.take(np.array(chosen, np.int64))
    everything = rings_of(polygons)
    assert rings_of(taken) == [everything[i] for i in chosen]
    assert taken.xy.dtype == polygons.xy.dtype
    assert len(taken) == len(chosen)


@some
@given(patterns)
def test_shapely_and_back(pattern: NDArray[Any]) -> None:
    polygons = polygons_of(pattern)
    shapes = to_shapely(polygons)
    back = from_shapely(shapes)
    assert len(back) == len(polygons)
    assert shapely.equals(to_shapely(back), shapes).all()
    assert (measure(back).area == measure(polygons).area).all()
    for parts in rings_of(back):
        for rings in parts:
            turned = [shapely.is_ccw(shapely.linearrings(ring)) for ring in rings]
            assert turned == [True] + [False] * (len(rings) - 1)
    types = shapely.get_type_id(shapes)
    single = np.diff(polygons.part_offsets) == 1
    assert np.array_equal(types == shapely.GeometryType.POLYGON, single)


@some
@given(patterns)
def test_closed_rings_end_where_they_begin(pattern: NDArray[Any]) -> None:
    polygons = polygons_of(pattern)
    xy, offsets = closed(polygons)
    rings = [ring for parts in rings_of(polygons) for part in parts for ring in part]
    assert len(offsets) == len(rings) + 1
    for ring, first, last in zip(rings, offsets, offsets[1:], strict=False):
        assert list(map(tuple, xy[first:last].tolist())) == [*ring, ring[0]]


@some
@given(patterns, st.floats(0.1, 9), st.floats(-50, 50))
def test_measures_agree_with_shapely(pattern: NDArray[Any], scale: float, shift: float) -> None:
    polygons = polygons_of(pattern).in_image(Frame(scale, 2.0, shift, -3.0))
    shapes = to_shapely(polygons)
    measured = measure(polygons)
    assert measured.area == pytest.approx(shapely.area(shapes))
    assert measured.perimeter == pytest.approx(shapely.length(shapes))
    assert np.allclose(measured.boxes, shapely.bounds(shapes).reshape(-1, 4))
    assert np.allclose(measured.centroid, shapely.get_coordinates(shapely.centroid(shapes)))


def test_measures_are_exact_far_from_the_origin() -> None:
    far = 2**26 - 101
    ring = (
        np.array([[0, 0], [100, 0], [100, 100], [0, 100], [0, 40], [1, 40], [1, 39], [0, 39]], np.int32) + far
    )
    polygons = Polygons(ring, np.array([0, 8]), np.array([0, 1]), np.array([0, 1]))
    assert measure(polygons).area.tolist() == [9999]
    assert measure(polygons).boxes.tolist() == [[far, far, far + 100, far + 100]]


def test_measures_of_coordinates_near_the_end_of_int32() -> None:
    high = 2**31 - 1
    ring = np.array([[-high, -high], [high, -high], [high, high], [-high, high]], np.int32)
    measured = measure(Polygons(ring, np.array([0, 4]), np.array([0, 1]), np.array([0, 1])))
    assert measured.area[0] == pytest.approx((2.0 * high) ** 2)
    assert measured.centroid[0].tolist() == pytest.approx([0, 0], abs=1)


def test_empty_polygons() -> None:
    nothing = Polygons.empty()
    assert len(nothing) == 0
    assert len(nothing.take(np.empty(0, np.int64))) == 0
    assert measure(nothing).boxes.shape == (0, 4)
    assert to_shapely(nothing).shape == (0,)
    assert len(from_shapely(np.empty(0, object))) == 0


@some
@given(patterns)
def test_parts_and_holes_in_another_order_find_back_to_raster_order(pattern: NDArray[Any]) -> None:
    traced = polygons_of(pattern)
    turned = np.empty(len(traced), object)
    for i, shape in enumerate(to_shapely(traced)):
        parts = [shapely.Polygon(p.exterior, list(p.interiors)[::-1]) for p in shapely.get_parts(shape)]
        turned[i] = shapely.MultiPolygon(parts[::-1])
    again = from_shapely(turned).in_raster_order(np.ones(len(turned), bool)) if len(turned) else traced
    for one, other in zip(vars(again).values(), vars(traced).values(), strict=True):
        assert np.array_equal(one, other)


def test_parts_of_others_stay_in_their_order() -> None:
    xy = np.array([[5, 5], [3, 3], [4, 1], [9, 9], [8, 2]])
    each = np.arange(6)
    points = Polygons(xy, each, each, np.array([0, 3, 5]))
    assert points.in_raster_order(np.array([False, True])).xy.tolist() == xy[[0, 1, 2, 4, 3]].tolist()


@some
@given(st.lists(patterns, min_size=1, max_size=3))
def test_joining_pieces_is_joining_lists(pieces: list[NDArray[Any]]) -> None:
    each = [polygons_of(piece) for piece in pieces]
    assert rings_of(Polygons.joined(each)) == [feature for piece in each for feature in rings_of(piece)]


@some
@given(patterns, patterns, st.data())
def test_features_alike_are_equal_lists(
    pattern: NDArray[Any], other: NDArray[Any], data: st.DataObject
) -> None:
    both = Polygons.joined([polygons_of(pattern), polygons_of(other)])
    choices = st.lists(st.integers(0, len(both) - 1), min_size=6, max_size=6)
    one, two = (both.take(np.array(data.draw(choices) if len(both) else [], np.int64)) for _ in range(2))
    expected = [own == others for own, others in zip(rings_of(one), rings_of(two), strict=True)]
    assert one.alike(two).tolist() == expected
    moved = Polygons(one.xy + 1, one.vertex_offsets, one.ring_offsets, one.part_offsets)
    assert one.alike(one).all()
    assert not one.alike(moved).any()
