"""Shapes that are no polygons: their measures and geometries, against shapely."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from roiservice.geometry.kinds import (
    ELLIPSE,
    ELLIPSE_VERTICES,
    LINE,
    POINT,
    POLYGON,
    POLYLINE,
    RECTANGLE,
    ellipse_outlines,
    geometries,
    measure_kinds,
)
from roiservice.geometry.polygons import Polygons, measure

coordinates = st.integers(-1000, 1000).map(lambda n: n / 4)
points = st.tuples(coordinates, coordinates)


def shapes_of(*features: tuple[int, list[list[tuple[float, float]]]]) -> tuple[Polygons, Any]:
    """Features of a kind and parts of one ring each."""
    parts = [part for _, each in features for part in each]
    xy = np.array([xy for part in parts for xy in part], float).reshape(-1, 2)
    vertices = np.cumsum([0, *map(len, parts)])
    rings = np.arange(len(parts) + 1)
    per_feature = np.cumsum([0, *(len(each) for _, each in features)])
    return Polygons(xy, vertices, rings, per_feature), np.array([kind for kind, _ in features], np.uint8)


@given(points, points, st.lists(points, min_size=2, max_size=9), st.lists(points, min_size=1, max_size=4))
def test_points_and_lines_are_measured_as_shapely_does(
    start: tuple[float, float],
    end: tuple[float, float],
    line: list[tuple[float, float]],
    several: list[tuple[float, float]],
) -> None:
    polygons, kind = shapes_of(
        (LINE, [[start, end]]),
        (POLYGON, [[(0, 0), (4, 0), (4, 3)]]),
        (POLYLINE, [line, [start, end]]),
        (POINT, [[point] for point in several]),
    )
    measures = measure_kinds(polygons, kind)
    expected = [
        shapely.LineString([start, end]),
        shapely.Polygon([(0, 0), (4, 0), (4, 3)]),
        shapely.MultiLineString([line, [start, end]]),
        shapely.MultiPoint(several) if len(several) > 1 else shapely.Point(several[0]),
    ]
    assert measures.area == pytest.approx([0, 6, 0, 0])
    assert measures.perimeter == pytest.approx(shapely.length(expected))
    assert np.array_equal(measures.boxes, shapely.bounds(expected))
    assert measures.centroid[3] == pytest.approx(np.mean(several, axis=0))
    found = geometries(polygons, kind)
    assert [each.geom_type for each in found] == [each.geom_type for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(shapely.get_coordinates(one), shapely.get_coordinates(other))


@given(points, st.integers(1, 400), st.integers(1, 400))
def test_an_ellipse_has_its_own_measures_and_touches_its_box(
    center: tuple[float, float], rx: int, ry: int
) -> None:
    outline = ellipse_outlines(np.array([center]), np.array([[rx, ry]]))
    polygons, kind = shapes_of((ELLIPSE, [[tuple(xy) for xy in outline[0].tolist()]]))
    measures = measure_kinds(polygons, kind)
    (x, y) = center
    assert measures.boxes[0].tolist() == [x - rx, y - ry, x + rx, y + ry]
    assert measures.area[0] == pytest.approx(np.pi * rx * ry)
    assert measures.centroid[0].tolist() == [x, y]
    round_one = shapely.affinity.scale(shapely.Point(x, y).buffer(1, quad_segs=4096), rx, ry)
    assert measures.perimeter[0] == pytest.approx(
        round_one.length, rel=5e-4
    )  # what the approximation is worth
    drawn = measure(polygons)
    assert drawn.area[0] > 0, "positive with y down"
    assert drawn.area[0] == pytest.approx(measures.area[0], rel=0.002)
    assert len(outline[0]) == ELLIPSE_VERTICES
    assert outline[0][0].tolist() == [x, y - ry]


def test_whole_coordinates_may_be_as_far_apart_as_they_can_be() -> None:
    far = 2**31 - 1
    xy, each = np.array([[-far, 1], [far, 1], [far, 5]], np.int32), np.array([0, 1])
    measures = measure_kinds(Polygons(xy, 3 * each, each, each), np.array([POLYLINE], np.uint8))
    assert measures.perimeter.tolist() == [2 * far + 4]
    assert measures.centroid[0] == pytest.approx([far / 3, 7 / 3])


def test_rectangles_are_polygons() -> None:
    polygons, kind = shapes_of((RECTANGLE, [[(1, 2), (5, 2), (5, 4), (1, 4)]]))
    assert measure_kinds(polygons, kind).area.tolist() == [8]
    assert geometries(polygons, kind)[0].equals(shapely.box(1, 2, 5, 4))


def test_nothing_is_no_shapes() -> None:
    assert len(geometries(Polygons.empty(), np.empty(0, np.uint8))) == 0
    assert len(measure_kinds(Polygons.empty(), np.empty(0, np.uint8)).area) == 0
