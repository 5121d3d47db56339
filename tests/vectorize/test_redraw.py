"""Simplified and smooth outlines: nothing gets lost, nothing invalid, shared borders stay shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.measure import find_contours

from roiservice.geometry.polygons import Polygons, measure, to_shapely
from roiservice.vectorize.outlines import Outline, _areal, fill_rings, redraw
from roiservice.vectorize.plane import trace_plane
from tests.strategies import patterns, rings_in_rings, snake, spiral

Plane = NDArray[Any]
some = settings(max_examples=60, deadline=None)
tolerances = st.sampled_from([0.3, 0.7, 1.0, 1.5, 2.5, 10.0])


def polygons_of(plane: Plane) -> Polygons:
    return trace_plane([np.ascontiguousarray(plane)])[1]


def blobs(side: int = 96, count: int = 40, seed: int = 1) -> Plane:
    """Cells that touch one another, with curved borders and a little background."""
    chance = np.random.default_rng(seed)
    centres = chance.uniform(0, side, (count, 2))
    rows, columns = np.indices((side, side))
    distance = (rows[..., None] - centres[:, 0]) ** 2 + (columns[..., None] - centres[:, 1]) ** 2
    nearest = distance.argmin(axis=-1) + 1
    return np.where(distance.min(axis=-1) < 90, nearest, 0)


def test_outlines_are_exact_unless_told_otherwise() -> None:
    polygons = polygons_of(blobs())
    assert redraw(polygons, Outline()) is polygons
    assert redraw(polygons, Outline(min_area=5)) is polygons


@pytest.mark.parametrize("outline", [Outline(simplify=1.0), Outline(smooth=True)])
def test_nothing_is_redrawn_as_nothing(outline: Outline) -> None:
    assert len(redraw(Polygons.empty(), outline)) == 0


def test_what_a_library_makes_invalid_or_nothing_of_is_mended() -> None:
    bow = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
    spiked = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4), (0, 0), (-1, 0)])
    flat = shapely.Polygon([(0, 0), (4, 0), (0, 0)])
    square = shapely.box(0, 0, 4, 4)
    given = np.array([bow, spiked, flat, shapely.Polygon(), square])
    mended = _areal(given, np.array([square] * 5))
    assert shapely.is_valid(mended).all()
    assert shapely.area(mended).tolist() == [8.0, 8.0, 16.0, 16.0, 16.0]
    assert given[0] is bow


@some
@given(patterns, tolerances)
def test_simplified_features_are_all_there_and_valid(plane: Plane, tolerance: float) -> None:
    polygons = polygons_of(plane)
    drawn = redraw(polygons, Outline(simplify=tolerance))
    shapes = to_shapely(drawn)
    assert len(drawn) == len(polygons)
    assert shapely.is_valid(shapes).all()
    assert (shapely.area(shapes) > 0).all()
    assert (np.diff(drawn.part_offsets) >= 1).all()


@some
@given(patterns, tolerances)
def test_simplified_neighbours_do_not_overlap(plane: Plane, tolerance: float) -> None:
    shapes = to_shapely(redraw(polygons_of(plane), Outline(simplify=tolerance)))
    assert shapely.area(shapes).sum() == pytest.approx(shapely.area(shapely.union_all(shapes)))


@pytest.mark.parametrize("tolerance", [0.7, 1.5, 3.0])
def test_simplified_neighbours_neither_part_nor_overlap(tolerance: float) -> None:
    polygons = polygons_of(blobs())
    before = to_shapely(polygons)
    after = to_shapely(redraw(polygons, Outline(simplify=tolerance)))
    assert shapely.coverage_is_valid(after)
    assert shapely.area(after).sum() == pytest.approx(shapely.area(shapely.union_all(after)))
    left, right = shapely.STRtree(before).query(before, predicate="touches")
    shared = shapely.length(shapely.intersection(before[left], before[right])) >= 1
    still = shapely.length(shapely.intersection(after[left], after[right])) > 0
    assert shared.sum() > 50
    assert np.array_equal(shared & still, shared), "neighbours parted"
    if tolerance > 1:  # below, little but the points where three cells meet is touched
        assert shapely.get_num_coordinates(after).sum() < shapely.get_num_coordinates(before).sum()


def test_neighbours_of_long_edges_still_fit() -> None:
    plane = np.repeat([1] * 49 + [2] * 22 + [3] * 27, 3).reshape(2, 49, 3).transpose(0, 2, 1).reshape(6, 49)
    after = to_shapely(redraw(polygons_of(plane), Outline(simplify=0.5)))
    assert shapely.coverage_is_valid(after)
    assert shapely.area(after).sum() == pytest.approx(plane.size, abs=4)


def test_a_simplified_plane_without_background_stays_without() -> None:
    chance = np.random.default_rng(3)
    plane = chance.integers(1, 9, (8, 8)).repeat(7, 0).repeat(7, 1)
    after = to_shapely(redraw(polygons_of(plane), Outline(simplify=2.0)))
    assert shapely.coverage_is_valid(after)
    assert shapely.get_num_interior_rings(shapely.get_parts(shapely.union_all(after))).sum() == 0


def test_a_higher_tolerance_leaves_fewer_vertices() -> None:
    polygons = polygons_of(blobs())
    counts = [len(redraw(polygons, Outline(simplify=tolerance)).xy) for tolerance in (0.5, 1.0, 2.0, 4.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


@some
@given(patterns)
def test_smooth_features_are_all_there_and_valid(plane: Plane) -> None:
    polygons = polygons_of(plane)
    drawn = redraw(polygons, Outline(smooth=True))
    shapes = to_shapely(drawn)
    assert len(drawn) == len(polygons)
    assert shapely.is_valid(shapes).all()
    exact = to_shapely(polygons)
    assert (shapely.area(shapes) > 0).all()
    assert shapely.covers(shapely.buffer(exact, 0.5 + 1e-9), shapes).all(), (
        "further than half a pixel outside"
    )


def marched(mask: Plane) -> Any:
    """The contour of a mask as scikit-image draws it."""
    lines = [line[:, ::-1] - 0.5 for line in find_contours(np.pad(mask.astype(float), 1), 0.5)]
    return shapely.build_area(shapely.multilinestrings([shapely.linestrings(line) for line in lines]))


def has_saddle(mask: Plane) -> bool:
    """Whether two pixels of a mask, or two beside it, touch at a corner alone: contours may go either way."""
    padded = np.pad(mask, 1)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return bool(((a == d) & (b == c) & (a != b)).any())


@some
@given(patterns)
def test_smooth_outlines_are_those_of_marching_squares(plane: Plane) -> None:
    labels, polygons = trace_plane([np.ascontiguousarray(plane)])
    for label, shape in zip(labels, to_shapely(redraw(polygons, Outline(smooth=True))), strict=True):
        mask = plane == label
        if not has_saddle(mask):
            assert shapely.equals(shape, marched(mask))


@pytest.mark.parametrize("plane", [blobs(), rings_in_rings(40), snake(20, 20), spiral(30)])
def test_smooth_outlines_of_what_people_draw_are_too(plane: Plane) -> None:
    labels, polygons = trace_plane([np.ascontiguousarray(plane)])
    for label, shape in zip(labels, to_shapely(redraw(polygons, Outline(smooth=True))), strict=True):
        assert has_saddle(plane == label) or shapely.equals(shape, marched(plane == label))


def test_a_smooth_outline_as_large_as_a_slide_takes_no_memory_for_its_box() -> None:
    box = np.array([[0, 0], [2**20, 0], [2**20, 2**20], [0, 2**20]], np.int32)
    one = np.array([0, 1])
    drawn = redraw(Polygons(box, np.array([0, 4]), one, one), Outline(smooth=True))
    assert measure(drawn).area.tolist() == [2**40 - 0.5]


@pytest.mark.parametrize("plane", [blobs(), rings_in_rings(40), snake(20, 20), spiral(30)])
def test_smooth_areas_are_near_the_pixel_counts(plane: Plane) -> None:
    polygons = polygons_of(plane)
    before, after = measure(polygons), measure(redraw(polygons, Outline(smooth=True)))
    corners = np.diff(polygons.vertex_offsets[polygons.ring_offsets[polygons.part_offsets]])
    assert (np.abs(after.area - before.area) <= 0.125 * corners + 1e-9).all()  # a cut corner is 1/8 pixel


def test_a_smooth_edge_stays_where_it_was() -> None:
    plane = np.zeros((20, 30), int)
    plane[5:15, 10:20] = 1
    assert measure(redraw(polygons_of(plane), Outline(smooth=True))).boxes.tolist() == [[10, 5, 20, 15]]


@settings(max_examples=150, deadline=None)
@given(patterns)
def test_filling_the_rings_gives_the_mask(plane: Plane) -> None:
    labels, polygons = trace_plane([np.ascontiguousarray(plane)])
    rings = polygons.ring_offsets[polygons.part_offsets]
    for i, label in enumerate(labels):
        mask = np.zeros((plane.shape[0] + 5, plane.shape[1] + 4), np.uint8)
        fill_rings(polygons.xy, polygons.vertex_offsets[rings[i] : rings[i + 1] + 1], -2, -3, mask)
        assert np.array_equal(mask[3:-2, 2:-2], plane == label)
        assert mask.sum() == (plane == label).sum()


def test_outlines_of_other_options_have_other_names() -> None:
    outlines = [
        Outline(),
        Outline(min_area=1),
        Outline(simplify=1),
        Outline(simplify=1.5),
        Outline(smooth=True),
    ]
    assert len({outline.key() for outline in outlines}) == len(outlines)
    assert Outline(simplify=1.5).key() == Outline(simplify=1.5).key()
