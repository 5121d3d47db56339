"""Which pixels shapes cover."""

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.features import rasterize

from roiservice.geometry.frames import Frame
from roiservice.geometry.kinds import (
    ELLIPSE,
    LINE,
    POINT,
    POLYGON,
    POLYLINE,
    RECTANGLE,
    ellipse_outlines,
)
from roiservice.geometry.polygons import Polygons, from_shapely
from roiservice.geometry.raster import PixelBox, mask_of, part_boxes, shapes_of
from roiservice.vectorize.plane import trace_plane
from tests.strategies import label_planes


def shape_of(kind, *rings):
    """A single part of these rings."""
    ends = np.cumsum([0, *map(len, rings)])
    polygons = Polygons(np.concatenate(rings), ends, np.array([0, len(rings)]), np.array([0, 1]))
    (shape,) = shapes_of(polygons, np.array([kind], np.uint8))
    return shape


def drawn(polygons, kind, box):
    """All parts of all features."""
    whole = np.zeros((box.height, box.width), bool)
    for shape in shapes_of(polygons, kind):
        whole |= mask_of(shape, box)
    return whole


def set_pixels(mask, box):
    """(x, y) of what is set."""
    y, x = np.nonzero(mask)
    return set(zip((x + box.x0).tolist(), (y + box.y0).tolist(), strict=True))


@given(plane=label_planes())
def test_outlines_give_the_mask_back_that_they_were_traced_from(plane):
    labels, polygons = trace_plane([plane])
    box = PixelBox(0, 0, plane.shape[1], plane.shape[0])
    for number, label in enumerate(labels):
        one = polygons.take(np.array([number]))
        np.testing.assert_array_equal(drawn(one, np.zeros(1, np.uint8), box), plane == label)


@given(plane=label_planes(), data=st.data())
def test_every_part_lies_in_its_box_and_any_box_shows_the_same_pixels(plane, data):
    _, polygons = trace_plane([plane])
    kind = np.zeros(len(polygons), np.uint8)
    bound = st.integers(-3, max(plane.shape) + 3)
    x0, x1, y0, y1 = (data.draw(bound) for _ in range(4))
    box = PixelBox(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    for shape in shapes_of(polygons, kind):
        own = set_pixels(mask_of(shape, shape.box), shape.box)
        xs, ys = zip(*own, strict=True)
        assert shape.box == (min(xs), min(ys), max(xs) + 1, max(ys) + 1)  # tight
        cut = {(x, y) for x, y in own if box.x0 <= x < box.x1 and box.y0 <= y < box.y1}
        assert set_pixels(mask_of(shape, box), box) == cut


COORDINATES = st.floats(-5, 25, allow_nan=False).map(lambda number: round(number, 3))
STARS = st.lists(st.floats(0.5, 12), min_size=3, max_size=14)


def star(radii, x, y):
    """A polygon that is valid whatever the radii."""
    angles = 2 * np.pi * np.arange(len(radii)) / len(radii)
    return shapely.Polygon(np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1))


@given(radii=STARS, x=COORDINATES, y=COORDINATES)
def test_outlines_anywhere_cover_the_pixels_whose_centre_is_inside(radii, x, y):
    polygon = star(np.array(radii), x, y)
    hole = shapely.affinity.scale(polygon, 0.4, 0.4, origin=(x, y))
    polygon = polygon.difference(hole)
    box = PixelBox(0, 0, 20, 20)
    polygons = from_shapely(np.array([polygon]))
    got = drawn(polygons, np.zeros(1, np.uint8), box)
    centres = shapely.points(*np.meshgrid(np.arange(20) + 0.5, np.arange(20) + 0.5))
    clear = shapely.distance(centres, polygon.boundary) > 1e-9
    np.testing.assert_array_equal(got[clear], shapely.contains(polygon, centres)[clear])
    burnt = rasterize([polygon], (20, 20)).astype(bool)
    np.testing.assert_array_equal(got[clear], burnt[clear])


@given(plane=label_planes(), scale=st.floats(0.3, 3), offset=st.floats(-2, 2))
def test_outlines_of_another_grid_share_out_the_pixels_without_gap_or_overlap(plane, scale, offset):
    """Neighbours' borders: no pixel belongs to two of them, none that lies on labels to neither."""
    full = np.where(plane == 0, plane.dtype.type(77), plane)
    _, polygons = trace_plane([full])
    polygons = polygons.in_image(Frame(scale, scale, offset, offset))
    box = PixelBox(-3, -3, 3 * plane.shape[1] + 3, 3 * plane.shape[0] + 3)
    count = np.zeros((box.height, box.width), int)
    for shape in shapes_of(polygons, np.zeros(len(polygons), np.uint8)):
        count += mask_of(shape, box)
    high, wide = plane.shape[0] * scale + offset, plane.shape[1] * scale + offset
    rows, columns = np.arange(box.y0, box.y1) + 0.5, np.arange(box.x0, box.x1) + 0.5
    on = ((rows >= offset) & (rows < high))[:, None] & ((columns >= offset) & (columns < wide))[None, :]
    np.testing.assert_array_equal(count, on.astype(int))


@given(x=COORDINATES, y=COORDINATES, w=st.floats(0, 15), h=st.floats(0, 15))
def test_rectangles(x, y, w, h):
    corners = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])
    shape = shape_of(RECTANGLE, corners)
    (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
    inside = {
        (j, i) for j in range(-6, 41) for i in range(-6, 41) if x0 <= j + 0.5 < x1 and y0 <= i + 0.5 < y1
    }
    assert set_pixels(mask_of(shape, shape.box), shape.box) == inside


@given(x=COORDINATES, y=COORDINATES, rx=st.floats(0.1, 12), ry=st.floats(0.1, 12))
def test_ellipses_are_those_of_the_equation_not_of_their_outline(x, y, rx, ry):
    shape = shape_of(ELLIPSE, ellipse_outlines(np.array([[x, y]]), np.array([[rx, ry]]))[0])
    got = set_pixels(mask_of(shape, shape.box), shape.box)
    for j in range(shape.box.x0 - 1, shape.box.x1 + 1):
        for i in range(shape.box.y0 - 1, shape.box.y1 + 1):
            distance = ((j + 0.5 - x) / rx) ** 2 + ((i + 0.5 - y) / ry) ** 2
            if abs(distance - 1) > 1e-9:
                assert ((j, i) in got) == (distance < 1)


def test_a_flat_ellipse_covers_nothing():
    shape = shape_of(ELLIPSE, ellipse_outlines(np.array([[5.0, 5.0]]), np.array([[3.0, 0.0]]))[0])
    assert not mask_of(shape, shape.box).any()


@given(x=COORDINATES, y=COORDINATES)
def test_a_point_is_the_pixel_that_holds_it(x, y):
    shape = shape_of(POINT, np.array([[x, y]]))
    pixel = (int(np.floor(x)), int(np.floor(y)))
    assert shape.box == (*pixel, pixel[0] + 1, pixel[1] + 1)
    assert set_pixels(mask_of(shape, shape.box), shape.box) == {pixel}


@given(ends=hnp.arrays(np.float64, (2, 2), elements=COORDINATES))
def test_a_line_goes_from_pixel_to_pixel_without_a_gap(ends):
    shape = shape_of(LINE, ends)
    got = set_pixels(mask_of(shape, shape.box), shape.box)
    first, last = (tuple(np.floor(end).astype(int).tolist()) for end in ends)
    assert {first, last} <= got
    assert len(got) == max(abs(first[0] - last[0]), abs(first[1] - last[1])) + 1
    line = shapely.LineString(ends)
    assert all(line.distance(shapely.Point(x + 0.5, y + 0.5)) < 1.5 for x, y in got)
    assert got == set_pixels(mask_of(shape_of(LINE, ends[::-1]), shape.box), shape.box)
    reached, waiting = {first}, [first]
    while waiting:
        x, y = waiting.pop()
        near = {(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & got - reached
        reached |= near
        waiting += near
    assert reached == got


@pytest.mark.parametrize("box", [PixelBox(2, 2, 6, 4), PixelBox(0, 5, 9, 9), PixelBox(20, 20, 30, 30)])
def test_lines_are_cut_at_the_border_of_a_box(box):
    shape = shape_of(POLYLINE, np.array([[0.2, 0.3], [8.7, 4.1], [3.3, 8.9], [3.3, 0.1]]))
    whole = set_pixels(mask_of(shape, shape.box), shape.box)
    inside = {(x, y) for x, y in whole if box.x0 <= x < box.x1 and box.y0 <= y < box.y1}
    assert set_pixels(mask_of(shape, box), box) == inside


def test_boxes_hold_every_kind_and_are_never_empty():
    shapes = [[(1, 2), (5, 2), (5, 6)], [(3, 3)], [(1.5, 1.5), (4.0, 1.5)], [(2, 2), (2, 2), (2, 2)]]
    ends = np.cumsum([0, *map(len, shapes)])
    each = np.arange(5)
    polygons = Polygons(np.concatenate(shapes).astype(float), ends, each, each)
    kind = np.array([POLYGON, POINT, LINE, POLYGON], np.uint8)
    assert part_boxes(polygons, kind).tolist() == [[1, 2, 5, 6], [3, 3, 4, 4], [1, 1, 5, 2], [2, 2, 3, 3]]
    assert part_boxes(Polygons.empty(), np.empty(0, np.uint8)).shape == (0, 4)


def test_coordinates_far_away_neither_fail_nor_take_long():
    corners = np.array([[-1e300, -1e18], [1e300, -1e18], [1e300, 1e18], [-1e300, 1e18]])
    box = PixelBox(0, 0, 3, 2)
    assert mask_of(shape_of(POLYGON, corners), box).all()
    assert mask_of(shape_of(LINE, np.array([[-1e18, 0.5], [1e18, 0.5]])), box).tolist() == [
        [True] * 3,
        [False] * 3,
    ]
    assert not mask_of(shape_of(POINT, np.array([[1e300, 0.5]])), box).any()
