"""Simplified outlines: what touches still fits, and the same border is the same line wherever it is met."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from roiservice.geometry import simplify
from roiservice.geometry.polygons import Polygons, from_shapely, measure, to_shapely
from roiservice.geometry.simplify import simplified
from roiservice.vectorize.plane import trace_plane
from tests.query.support import tessellation
from tests.strategies import patterns

many = settings(max_examples=300, deadline=None)
tolerances = st.sampled_from([0.4, 0.75, 1.0, 1.5, 2.0, 4.0, 9.0, 100.0])


def traced(plane: NDArray[Any]) -> Polygons:
    return trace_plane([np.ascontiguousarray(plane)])[1]


def is_whole(shapes: NDArray[Any]) -> bool:
    """Whether all polygons are valid, and fit: no two overlap, and borders that touch are the same."""
    return bool(shapely.is_valid(shapes).all() and shapely.coverage_is_valid(shapes))


@many
@given(plane=patterns, tolerance=tolerances)
def test_what_touches_still_fits(plane: NDArray[Any], tolerance: float) -> None:
    exact = traced(plane)
    drawn = simplified(exact, len(exact), tolerance)
    shapes = to_shapely(drawn)
    assert is_whole(shapes)
    assert (shapely.area(shapes) > 0).all()
    assert drawn.part_offsets.tolist() == exact.part_offsets.tolist()
    assert drawn.ring_offsets.tolist() == exact.ring_offsets.tolist()
    assert drawn.xy.dtype == exact.xy.dtype


@many
@given(plane=patterns, tolerance=tolerances)
def test_lines_stay_within_the_tolerance(plane: NDArray[Any], tolerance: float) -> None:
    exact = traced(plane)
    before, after = (
        shapely.boundary(to_shapely(each)) for each in (exact, simplified(exact, len(exact), tolerance))
    )
    apart = (
        shapely.hausdorff_distance(before, shapely.segmentize(after, 0.25), 0.1)
        if len(exact)
        else np.zeros(0)
    )
    assert (apart <= tolerance + 0.3).all()


@many
@given(plane=patterns, tolerance=tolerances, data=st.data())
def test_a_border_does_not_depend_on_what_else_is_there(
    plane: NDArray[Any], tolerance: float, data: st.DataObject
) -> None:
    exact = traced(plane)
    if not len(exact):
        return
    everything = simplified(exact, len(exact), tolerance)
    some = data.draw(st.lists(st.integers(0, len(exact) - 1), min_size=1, max_size=4, unique=True))
    boxes = measure(exact).boxes
    chosen = boxes[some]
    near = [
        i
        for i in range(len(exact))
        if i not in some
        and ((chosen[:, :2] <= boxes[i, 2:] + tolerance) & (chosen[:, 2:] >= boxes[i, :2] - tolerance))
        .all(axis=1)
        .any()
    ]
    part = exact.take(np.array(some + near))
    for one, other in zip(
        arrays(simplified(part, len(some), tolerance)), arrays(everything.take(some)), strict=True
    ):
        assert one.tolist() == other.tolist()


def arrays(polygons: Polygons) -> list[NDArray[Any]]:
    return [polygons.xy, polygons.vertex_offsets, polygons.ring_offsets, polygons.part_offsets]


@pytest.mark.parametrize("background", [0.0, 0.3])
def test_a_tessellation_gets_simple(background: float) -> None:
    exact = traced(tessellation(600, 300, background))
    drawn = simplified(exact, len(exact), 4.0)
    before, after = to_shapely(exact), to_shapely(drawn)
    assert is_whole(after)
    assert len(exact.xy) >= 5 * len(drawn.xy)
    assert abs(shapely.area(after).sum() - shapely.area(before).sum()) < 0.005 * shapely.area(before).sum()
    outer = shapely.union_all(before), shapely.union_all(after)
    assert shapely.hausdorff_distance(*map(shapely.boundary, outer)) <= 4.0 + 1e-9


def test_without_background_nothing_is_lost_but_corners_of_the_plane() -> None:
    exact = traced(tessellation(400, 150, 0.0))
    union = shapely.union_all(to_shapely(simplified(exact, len(exact), 4.0)))
    plane = shapely.box(0, 0, 400, 400)
    assert shapely.get_num_interior_rings(union) == 0
    assert shapely.within(union, plane)
    assert shapely.hausdorff_distance(shapely.boundary(union), shapely.boundary(plane)) <= 4.0


def test_long_rough_borders() -> None:
    heights = np.random.default_rng(5).integers(20, 40, 4000)
    plane = np.where(np.arange(60)[:, None] < heights, 1, 2)
    exact = traced(plane)
    for tolerance in (1.0, 4.0, 100.0):
        drawn = simplified(exact, 2, tolerance)
        assert is_whole(to_shapely(drawn))
    assert len(drawn.xy) < 30


def test_thin_objects_between_two_junctions_do_not_vanish() -> None:
    plane = np.ones((12, 60), np.uint8)
    plane[6:] = 2
    plane[5:7, 10:50] = 3  # between two junctions, across the border
    plane[6:7, 52:58] = 4  # a straight side on the border
    exact = traced(plane)
    shapes = to_shapely(simplified(exact, len(exact), 50.0))
    assert is_whole(shapes)
    assert (shapely.area(shapes) > 0).all()


def test_tolerances_are_measured_in_image_pixels() -> None:
    plane = np.zeros((40, 40), np.uint8)
    plane[5:30, 5:30] = 1
    plane[4, 15:20] = 1  # a bump of one pixel
    exact = traced(plane)
    assert len(simplified(exact, 1, 1.0).xy) < 8
    assert len(simplified(exact, 1, 1.0, (1.0, 4.0)).xy) == 8
    assert len(simplified(exact, 1, 4.0, (1.0, 4.0)).xy) < 8


def test_fractional_coordinates() -> None:
    grown = shapely.buffer(shapely.points([[5.25, 5.5], [40.5, 5.5]]), 4.5, quad_segs=32)
    left, right = shapely.box(0, 20, 10.3, 30), shapely.box(10.3, 20, 22.7, 30)
    exact = from_shapely(np.array([*grown, left, right]))
    drawn = to_shapely(simplified(exact, len(exact), 0.5))
    assert is_whole(drawn)
    assert shapely.get_num_coordinates(drawn[0]) < 16
    assert shapely.equals(drawn[2], left)


@pytest.mark.parametrize("step", [1, 0.5, 0.125, 1 / 3])
def test_points_of_a_lattice_are_spread_over_the_table_of_points(step: float) -> None:
    keys = simplify._keys(np.indices((128, 128)).reshape(2, -1).T * step)
    empty = np.full(2 * len(keys), -1)
    slots = {simplify._slot(empty, keys, empty, x, y) for x, y in keys}
    assert len(slots) > 0.7 * len(keys)  # chance alone would give 0.79


def test_there_is_one_zero() -> None:
    bump = (0.25, 5.5)
    left = shapely.Polygon([(-9, 0), (0.0, 0), bump, (0.0, 9), (-9, 9)])
    right = shapely.Polygon([(9, 0), (9, 9), (-0.0, 9), bump, (-0.0, 0)])
    drawn = to_shapely(simplified(from_shapely(np.array([left, right])), 2, 0.5))
    assert shapely.equals(drawn, [shapely.box(-9, 0, 0, 9), shapely.box(0, 0, 9, 9)]).all()


def turned(plane: NDArray[Any], angle: float) -> Polygons:
    """A vertex at every lattice point of the outlines, turned: what was straight is so but for rounding."""
    unit = shapely.transform(shapely.segmentize(to_shapely(traced(plane)), 1.0), np.round)
    cosine, sine = np.cos(angle), np.sin(angle)
    return from_shapely(shapely.transform(unit, lambda xy: xy @ [[cosine, sine], [-sine, cosine]]))


@many
@given(plane=patterns, tolerance=tolerances, angle=st.floats(0, 7))
@example(plane=np.array([[1, 2, 2, 3], [3, 3, 1, 3], [3, 3, 3, 3]]), tolerance=4.0, angle=0.3)
def test_rounding_neither_parts_nor_folds_anything(
    plane: NDArray[Any], tolerance: float, angle: float
) -> None:
    exact = turned(plane, angle)
    shapes = to_shapely(simplified(exact, len(exact), tolerance))
    assert is_whole(shapes) or not is_whole(to_shapely(exact))
    assert (shapely.area(shapes) > 0).all()


def test_nothing() -> None:
    assert len(simplified(Polygons.empty(), 0, 1.0)) == 0
