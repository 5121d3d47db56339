"""Geometries of any type become features of the right kind, whole, turned and laid out as polygons are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roiservice.errors import SourceRefused
from roiservice.geometry.kinds import ELLIPSE, LINE, POINT, POLYGON, POLYLINE, geometries, measure_kinds
from roiservice.geometry.polygons import to_shapely
from roiservice.sources.tables.geometries import Reasons, from_geometries, table_of
from tests.sources.tables.tablefiles import object_array, polygons, same_areas

some = settings(max_examples=100, deadline=None)


def of_wkt(*texts: str | None) -> Any:
    return object_array(None if text is None else shapely.from_wkt(text) for text in texts)


@some
@given(st.lists(polygons, min_size=1, max_size=5))
def test_polygons_keep_their_areas_and_boxes(drawn: list[Any]) -> None:
    shapes = from_geometries(object_array(drawn))
    measured = measure_kinds(shapes.polygons, shapes.kind)
    assert shapes.row.tolist() == list(range(len(drawn)))
    assert same_areas(to_shapely(shapes.polygons), drawn)
    assert np.allclose(measured.area, shapely.area(drawn), rtol=1e-12, atol=0)
    assert np.array_equal(measured.boxes, shapely.bounds(drawn))


@some
@given(polygons)
def test_rings_are_turned_and_begin_at_the_top(drawn: Any) -> None:
    found = from_geometries(object_array([drawn])).polygons
    exteriors = set(found.ring_offsets[:-1].tolist())
    for ring, (first, end) in enumerate(pairwise(found.vertex_offsets.tolist())):
        points = found.xy[first:end]
        assert points[0].tolist() == min(points.tolist(), key=lambda p: (p[1], p[0]))
        assert shapely.is_ccw(shapely.linearrings(points)) == (ring in exteriors)


@pytest.mark.parametrize(
    ("text", "kinds", "parts"),
    [
        ("POLYGON ((0 0, 1 0, 1 1, 0 0))", [POLYGON], [1]),
        ("MULTIPOLYGON (((0 0, 1 0, 1 1, 0 0)), ((5 5, 6 5, 6 6, 5 5)), EMPTY)", [POLYGON], [2]),
        ("POLYGON ((0 0, 9 0, 9 9, 0 0), EMPTY)", [POLYGON], [1]),
        ("POLYGON Z ((0 0 7, 1 0 7, 1 1 7, 0 0 7))", [POLYGON], [1]),
        ("POINT (3 4)", [POINT], [1]),
        ("MULTIPOINT (3 4, 5 6)", [POINT], [2]),
        ("LINESTRING (0 0, 1 1)", [LINE], [1]),
        ("LINESTRING (0 0, 1 1, 2 0)", [POLYLINE], [1]),
        ("LINEARRING (0 0, 1 1, 2 0, 0 0)", [POLYLINE], [1]),
        ("MULTILINESTRING ((0 0, 1 1), (2 2, 3 3))", [POLYLINE], [2]),
        (
            "GEOMETRYCOLLECTION (POINT (1 1), POLYGON ((0 0, 1 0, 1 1, 0 0)), LINESTRING (0 0, 5 5), "
            "GEOMETRYCOLLECTION (POINT (2 2), POINT EMPTY))",
            [POLYGON, LINE, POINT],
            [1, 1, 2],
        ),
    ],
)
def test_each_type_has_its_kind(text: str, kinds: list[int], parts: list[int]) -> None:
    shapes = from_geometries(of_wkt(text))
    assert shapes.kind.tolist() == kinds
    assert np.diff(shapes.polygons.part_offsets).tolist() == parts
    assert shapes.row.tolist() == [0] * len(kinds)


def test_features_come_in_the_order_of_their_rows() -> None:
    texts = ("POINT (0 0)", "POLYGON ((0 0, 1 0, 1 1, 0 0))", None, "LINESTRING (0 0, 1 1)", "POINT (5 5)")
    shapes = from_geometries(of_wkt(*texts))
    assert shapes.row.tolist() == [0, 1, 3, 4]
    drawn = [str(shape) for shape in geometries(shapes.polygons, shapes.kind)]
    assert drawn == ["POINT (0 0)", "POLYGON ((0 0, 1 0, 1 1, 0 0))", "LINESTRING (0 0, 1 1)", "POINT (5 5)"]


def test_points_with_a_radius_are_circles() -> None:
    points = of_wkt("POINT (10 20)", "POINT (1 2)", "POINT (3 4)", "MULTIPOINT (0 0, 9 9)", "POINT (0 0)")
    reasons = Reasons()
    shapes = from_geometries(points, radius=np.array([3.5, np.nan, 0, 1, -1]), reasons=reasons)
    assert shapes.kind.tolist() == [ELLIPSE, POINT, POINT, ELLIPSE, ELLIPSE]
    measured = measure_kinds(shapes.polygons, shapes.kind)
    assert measured.boxes[0].tolist() == [6.5, 16.5, 13.5, 23.5]
    assert measured.area[0] == np.pi * 3.5**2
    assert reasons.refusals().reasons == ("row 5, column 'radius': a radius must be finite and not below 0",)


def test_an_ellipse_fills_the_box_of_its_polygon() -> None:
    boxes = object_array([shapely.box(0, 0, 10, 4), shapely.box(0, 0, 10, 4), shapely.Point(1, 1)])
    shapes = from_geometries(boxes, ellipse=np.array([True, False, True]))
    assert shapes.kind.tolist() == [ELLIPSE, POLYGON, POINT]
    measured = measure_kinds(shapes.polygons, shapes.kind)
    assert measured.boxes[0].tolist() == [0, 0, 10, 4]
    assert np.isclose(measured.area[0], np.pi * 5 * 2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "there is no geometry"),
        ("POLYGON EMPTY", "the geometry is empty"),
        ("GEOMETRYCOLLECTION (POINT EMPTY)", "the geometry is empty"),
        ("POLYGON ((0 0, 1 1, 0 0))", "the polygon has no area"),
        ("POLYGON ((0 0, 0 0, 0 0, 0 0))", "the polygon has no area"),
        (
            "POLYGON ((0 0, 1e13 0, 1 1, 0 0))",
            "a coordinate is not finite, or too far away to lie in an image",
        ),
        ("LINESTRING (0 0, Inf 1)", "a coordinate is not finite, or too far away to lie in an image"),
    ],
)
def test_one_row_that_cannot_be_used_costs_no_other(text: str | None, reason: str) -> None:
    reasons = Reasons()
    shapes = from_geometries(of_wkt("POINT (1 1)", text, "POINT (2 2)"), reasons=reasons, column="wkt")
    assert shapes.row.tolist() == [0, 2]
    assert reasons.refusals().count == 1
    assert reasons.refusals().reasons == (f"row 2, column 'wkt': {reason}",)


@pytest.mark.parametrize(
    ("text", "area"),
    [
        ("POLYGON ((0 0, 2 2, 2 0, 0 2, 0 0))", 2),  # both halves of a bow tie
        ("MULTIPOLYGON (((0 0, 2 0, 2 2, 0 2, 0 0)), ((1 0, 3 0, 3 2, 1 2, 1 0)))", 6),  # united
        ("POLYGON ((0 0, 4 0, 4 4, 0 4, 0 0, -3 0, 0 0))", 16),  # a spike
        ("POLYGON ((0 0, 9 0, 9 9, 0 9, 0 0), (1 1, 2 1, 2 2, 1 2, 1 1), (2 1, 3 1, 3 2, 2 2, 2 1))", 79),
        (
            "MULTIPOLYGON (((0 0, 2 2, 2 0, 0 2, 0 0)), ((5 0, 9 0, 9 4, 5 4, 5 0), (6 1, 7 1, 7 2, 6 1)))",
            17.5,
        ),
        ("GEOMETRYCOLLECTION (POLYGON ((0 0, 2 0, 2 2, 0 2, 0 0)), POLYGON ((1 1, 3 1, 3 3, 1 3, 1 1)))", 7),
    ],
)
def test_invalid_polygons_are_repaired_and_counted(text: str, area: float) -> None:
    reasons = Reasons()
    shapes = from_geometries(of_wkt(None, text), reasons=reasons)
    assert measure_kinds(shapes.polygons, shapes.kind).area.tolist() == [area]
    assert to_shapely(shapes.polygons)[0].is_valid
    assert reasons.warnings() == ("1 invalid polygon was repaired, first in row 2",)


@some
@given(
    st.lists(st.lists(st.tuples(*[st.integers(0, 9)] * 2), min_size=3, max_size=9), min_size=1, max_size=4)
)
@example([[(1, 1), (0, 0), (1, 0), (1, 1), (0, 0), (0, 1)]])
def test_whatever_is_drawn_becomes_valid_or_is_refused(rings: list[list[tuple[int, int]]]) -> None:
    drawn = object_array(shapely.polygons([shapely.linearrings(ring) for ring in rings]))
    reasons = Reasons()
    shapes = from_geometries(drawn, reasons=reasons)
    found = to_shapely(shapes.polygons)
    assert shapely.is_valid(found).all()
    assert (measure_kinds(shapes.polygons, shapes.kind).area > 0).all()
    assert len(shapes.row) + reasons.refusals().count == len(drawn)
    for row, shape in zip(shapes.row, found, strict=True):
        assert shape.equals(drawn[row]) or not drawn[row].is_valid
        assert drawn[row].convex_hull.buffer(1e-9).covers(shape)


def test_a_polygon_that_crosses_itself_all_over_is_refused_at_once() -> None:
    tangle = shapely.polygons(np.random.default_rng(0).random((5000, 2)))
    reasons = Reasons()
    assert len(from_geometries(object_array([tangle]), reasons=reasons).row) == 0
    assert "crosses itself too often" in reasons.refusals().reasons[0]


def test_a_long_outline_with_few_crossings_is_repaired() -> None:
    turn = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    outline = np.stack([np.cos(turn), np.sin(turn)], axis=1) * (1000 + 20 * np.sin(50 * turn))[:, None]
    outline[[100, 101]] = outline[[101, 100]]
    reasons = Reasons()
    shapes = from_geometries(object_array([shapely.polygons(outline)]), reasons=reasons)
    assert len(shapes.row) == 1
    assert reasons.refusals().count == 0


def test_more_vertices_than_allowed_are_refused() -> None:
    boxes = object_array([shapely.box(0, 0, 1, 1)] * 3)
    with pytest.raises(SourceRefused, match="its shapes have more than the 14 vertices allowed"):
        from_geometries(boxes, most_vertices=14)
    with pytest.raises(SourceRefused, match="more than the 60 vertices allowed"):
        from_geometries(of_wkt("POINT (1 1)"), radius=np.array([1.0]), most_vertices=60)


def test_rows_of_one_label_are_one_object() -> None:
    reasons = Reasons()
    shapes = from_geometries(of_wkt("POINT (1 1)", None, "POINT (2 2)", "POINT (3 3)"), reasons=reasons)
    table = table_of(
        shapes,
        4,
        label=np.array([7, 7, 9, 7]),
        key=None,
        color=np.array([1, 2, 3, 4]),
        columns={"a": pa.array([1, 2, 3, 4]), "b": pa.array(["x", "x", "y", "x"])},
        z=np.array([0, 0, 0, 5], np.int32),
        reasons=reasons,
    )
    assert table.label.tolist() == [7, 9]
    assert table.object.tolist() == [0, 1, 0]
    assert (table.z.tolist(), table.t.tolist(), table.c.tolist()) == ([0, 0, 5], [-1] * 3, [-1] * 3)
    assert table.color.tolist() == [1, 3]
    assert table.columns["a"].to_pylist() == [1, 3]
    assert table.columns["b"].to_pylist() == ["x", "y"]
    assert table.refused.count == 1
    assert table.warnings == (
        "values of 'a' differ between rows of one object; those of its first row are kept",
    )


def test_objects_without_a_label_are_called_by_their_row() -> None:
    reasons = Reasons()
    shapes = from_geometries(of_wkt(None, "POINT (1 1)", "POINT (2 2)"), reasons=reasons)
    table = table_of(shapes, 3, label=None, key=["a", "b", "c"], color=None, columns={}, reasons=reasons)
    assert table.label.tolist() == [2, 3]
    assert table.key == ("b", "c")
    assert table.color.tolist() == [-1, -1]


def test_the_first_reasons_are_kept_in_the_order_of_rows() -> None:
    reasons = Reasons()
    for row in range(30, 0, -1):
        reasons.refuse(row, "a", "first")
        reasons.refuse(row, "a", "second")
    assert reasons.refusals().count == 30
    assert [reason.split(",")[0] for reason in reasons.refusals().reasons] == [
        f"row {n}" for n in range(21, 31)
    ]
    assert not any("second" in reason for reason in reasons.refusals().reasons)
