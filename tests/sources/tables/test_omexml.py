"""ROIs of OME-XML: every kind of shape and its transform, planes, colours, images, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shapely.affinity import affine_transform

from roiservice.errors import SourceDamaged
from roiservice.geometry.kinds import ELLIPSE, LINE, NAMES, POINT, POLYGON, POLYLINE, RECTANGLE
from roiservice.geometry.polygons import measure
from roiservice.sources.tables.table import NO_COLOR
from tests.sources.tables.omedocuments import SCHEMA, document, mask, only, read, roi_of, shape

TURN = {"A00": 0.0, "A01": -1.0, "A02": 20.0, "A10": 1.0, "A11": 0.0, "A12": 3.0}
SLANT = {"A00": 0.8, "A01": -0.6, "A02": 20.0, "A10": 0.6, "A11": 0.8, "A12": 3.0}


KINDS = [
    (shape("Rectangle", X=1, Y=2.5, Width=3, Height=4), RECTANGLE, shapely.box(1, 2.5, 4, 6.5)),
    (shape("Point", X=1.5, Y=2), POINT, shapely.Point(1.5, 2)),
    (shape("Label", X=1.5, Y=2, Text="here"), POINT, shapely.Point(1.5, 2)),
    (shape("Line", X1=1, Y1=2, X2=3, Y2=0.5), LINE, shapely.LineString([(1, 2), (3, 0.5)])),
    (shape("Polyline", Points="0,0 1,2 3,5"), POLYLINE, shapely.LineString([(0, 0), (1, 2), (3, 5)])),
    (shape("Polygon", Points="0,0 4,0 4,3"), POLYGON, shapely.Polygon([(0, 0), (4, 0), (4, 3)])),
    (shape("Polygon", Points="0 0, 4,0,\n4,3 0,0"), POLYGON, shapely.Polygon([(0, 0), (4, 0), (4, 3)])),
]


@pytest.mark.parametrize(("text", "kind", "expected"), KINDS)
def test_every_kind(text: str, kind: int, expected: Any) -> None:
    table = read(document(text))
    assert NAMES[table.kind[0]] == NAMES[kind]
    assert only(table).equals(expected)
    assert (table.t.tolist(), table.c.tolist(), table.z.tolist()) == ([-1], [-1], [-1])


def test_an_ellipse_is_told_by_its_box() -> None:
    table = read(document(shape("Ellipse", X=10, Y=20, RadiusX=3, RadiusY=5)))
    assert table.kind.tolist() == [ELLIPSE]
    assert measure(table.polygons).boxes.tolist() == [[7, 15, 13, 25]]


@pytest.mark.parametrize("version", ["2013-06", "2015-01", "2016-06"])
def test_any_version_of_the_schema(version: str) -> None:
    text = document(
        shape("Rectangle", X=1, Y=2, Width=3, Height=4), schema=SCHEMA.replace("2016-06", version)
    )
    assert only(read(text)).area == 12


def test_shapes_of_2013_are_wrapped() -> None:
    text = """<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2013-06"
      xmlns:R="http://www.openmicroscopy.org/Schemas/ROI/2013-06">
      <Image ID="Image:0"><R:ROIRef ID="ROI:1"/></Image>
      <R:ROI ID="ROI:1"><R:Union><R:Shape ID="Shape:1" TheZ="2" Text="hello" FillColor="255">
        <R:Rectangle X="1" Y="2" Width="3" Height="4"/>
        <R:Transform A00="2" A01="0" A02="0" A10="0" A11="1" A12="0"/>
      </R:Shape></R:Union></R:ROI></OME>"""
    table = read(text, image=0)
    assert only(table).bounds == (2, 2, 8, 6)
    assert (table.kind.tolist(), table.z.tolist(), table.color.tolist()) == ([RECTANGLE], [2], [255])
    assert table.columns["text"].to_pylist() == ["hello"]


@pytest.mark.parametrize(
    ("transform", "kind", "bounds"),
    [
        (None, RECTANGLE, (1, 2, 4, 4)),
        ({"A00": 2, "A01": 0, "A02": 5, "A10": 0, "A11": -1, "A12": 0}, RECTANGLE, (7, -4, 13, -2)),
        (TURN, RECTANGLE, (16, 4, 18, 7)),
        (SLANT, POLYGON, None),
    ],
)
def test_a_rectangle_stays_one_along_the_axes(transform: Any, kind: int, bounds: Any) -> None:
    table = read(document(shape("Rectangle", transform=transform, X=1, Y=2, Width=3, Height=2)))
    assert table.kind.tolist() == [kind]
    outline = only(table)
    assert outline.area == pytest.approx(6 * (2 if transform and transform["A00"] == 2 else 1))
    assert bounds is None or outline.bounds == bounds
    assert measure(table.polygons).area[0] > 0


@pytest.mark.parametrize(
    ("transform", "radii", "kind"),
    [(None, (3, 2), ELLIPSE), (TURN, (3, 2), ELLIPSE), (SLANT, (3, 3), ELLIPSE), (SLANT, (3, 2), POLYGON)],
)
def test_an_ellipse_stays_one_along_the_axes(transform: Any, radii: Any, kind: int) -> None:
    rx, ry = radii
    table = read(document(shape("Ellipse", transform=transform, X=4, Y=5, RadiusX=rx, RadiusY=ry)))
    assert table.kind.tolist() == [kind]
    center = shapely.Point(4, 5)
    if transform is not None:
        center = affine_transform(
            center, [transform[name] for name in ("A00", "A01", "A10", "A11", "A02", "A12")]
        )
    assert only(table).centroid.distance(center) < 1e-9
    assert only(table).area == pytest.approx(np.pi * rx * ry, rel=0.01)


NUMBERS = st.integers(-60, 60).map(lambda number: number / 8)


def transformable(width: int, height: int, transform: dict[str, float]) -> list[tuple[str, Any]]:
    """A shape of each kind but the ellipse, and the geometry that it would be without its transform."""
    pixels = np.array([[True] * 4 + [False] * 4])
    return [
        (
            shape("Rectangle", transform=transform, X=1, Y=2, Width=width, Height=height),
            shapely.box(1, 2, 1 + width, 2 + height),
        ),
        (shape("Point", transform=transform, X=width, Y=height), shapely.Point(width, height)),
        (shape("Label", transform=transform, X=width, Y=height), shapely.Point(width, height)),
        (
            shape("Line", transform=transform, X1=0, Y1=1, X2=width, Y2=height + 2),
            shapely.LineString([(0, 1), (width, height + 2)]),
        ),
        (
            shape("Polyline", transform=transform, Points=f"0,0 1,2 {width},-1"),
            shapely.LineString([(0, 0), (1, 2), (width, -1)]),
        ),
        (
            shape("Polygon", transform=transform, Points=f"0,0 {width},1 0,9"),
            shapely.Polygon([(0, 0), (width, 1), (0, 9)]),
        ),
        (mask(pixels, transform=transform), shapely.box(3, 4, 7, 5)),
    ]


@settings(deadline=None, max_examples=60)
@given(matrix=st.tuples(*[NUMBERS] * 6), size=st.tuples(*[st.integers(1, 40)] * 2), kind=st.integers(0, 6))
def test_transforms_are_those_of_shapely(matrix: tuple[float, ...], size: tuple[int, int], kind: int) -> None:
    a, b, d, e, x0, y0 = matrix
    transform = {"A00": a, "A01": b, "A02": x0, "A10": d, "A11": e, "A12": y0}
    text, geometry = transformable(*size, transform)[kind]
    table = read(document(text))
    if abs(a * e - b * d) < 1e-9:
        assert table.refused.count == 1
        assert "Transform: collapses" in table.refused.reasons[0]
    else:
        expected = affine_transform(geometry, matrix)
        assert only(table).normalize().equals_exact(expected.normalize(), 1e-9)
        assert table.kind[0] >= POINT or measure(table.polygons).area[0] > 0


@settings(deadline=None, max_examples=60)
@given(
    pixels=arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 21))),
    compression=st.sampled_from([None, "none", "zlib", "bzip2"]),
    in_bits=st.booleans(),
)
def test_a_mask_is_its_pixels(pixels: np.ndarray[Any, Any], compression: str | None, in_bits: bool) -> None:
    in_bits = in_bits or pixels.size == 1
    table = read(document(mask(pixels, compression, in_bits)))
    if not pixels.any():
        assert "no pixel set" in table.refused.reasons[0]
        return
    rows, columns = np.nonzero(pixels)
    expected = shapely.union_all(shapely.box(columns + 3, rows + 4, columns + 4, rows + 5))
    assert table.kind.tolist() == [POLYGON]
    assert only(table).symmetric_difference(expected).area == 0
    assert measure(table.polygons).area[0] == pixels.sum()


def test_a_large_mask_is_traced_in_strips() -> None:
    pixels = np.zeros((2100, 1001), bool)
    pixels[5:2050, 10:990] = True
    pixels[1000:1100, 500] = False
    assert only(read(document(mask(pixels)))).area == pixels.sum()


def test_a_mask_fills_its_stated_size() -> None:
    pixels = np.array([[True, False], [True, True]])
    outline = only(read(document(mask(pixels, Width=2.2, Height=1.8))))
    assert outline.bounds == pytest.approx((3, 4, 5.2, 5.8))
    assert outline.area == pytest.approx(3 / 4 * 2.2 * 1.8)


def test_shapes_of_one_roi_are_features_of_one_object() -> None:
    shapes = (
        shape(
            "Rectangle", ID="Shape:0", X=0, Y=0, Width=2, Height=2, TheZ=1, TheT=0, Text="a", StrokeColor=-1
        )
        + shape("Point", ID="Shape:1", X=5, Y=5, TheC=2, Text="b", FillColor=0x11223300, StrokeColor=16)
        + shape("Polygon", ID="Shape:2", Points="0,0 4,0 4,4", TheT=3, Text="a")
    )
    other = roi_of(shape("Point", X=1, Y=1, FillColor=-16776961), 7, Name="spot")
    text = document(roi_of(shapes, 3), other.replace("</ROI>", "<Description>two\nlines</Description></ROI>"))
    table = read(text)
    assert (table.object.tolist(), table.key, table.label.tolist()) == (
        [0, 0, 0, 1],
        ("ROI:3", "ROI:7"),
        [1, 2],
    )
    assert table.kind.tolist() == [RECTANGLE, POINT, POLYGON, POINT]
    assert (table.z.tolist(), table.t.tolist(), table.c.tolist()) == (
        [1, -1, -1, -1],
        [0, -1, 3, -1],
        [-1, 2, -1, -1],
    )
    assert table.color.tolist() == [0xFFFFFFFF, 0xFF0000FF]
    assert {name: values.to_pylist() for name, values in table.columns.items()} == {
        "name": [None, "spot"],
        "description": [None, "two\nlines"],
        "text": ["a; b", None],
    }


@pytest.mark.parametrize(
    ("fill", "stroke", "color"),
    [
        (0x102030FF, 0x405060FF, 0x102030FF),
        (0x10203000, 0x405060FF, 0x405060FF),
        (-1, None, 0xFFFFFFFF),
        (None, -256, 0xFFFFFF00),
        (None, None, NO_COLOR),
        ("red", 2**40, NO_COLOR),
    ],
)
def test_the_color_is_the_fill_unless_that_is_invisible(fill: Any, stroke: Any, color: int) -> None:
    stated = {"FillColor": fill, "StrokeColor": stroke}
    text = shape("Point", X=1, Y=1, **{name: value for name, value in stated.items() if value is not None})
    assert read(document(text)).color.tolist() == [color]


POINTS = [shape("Point", X=number, Y=0) for number in range(4)]
IMAGES = (
    '<Image ID="Image:0"><ROIRef ID="ROI:1"/></Image><Image ID="Image:1"/>'
    '<Image ID="Image:2"><Pixels/><ROIRef ID="ROI:3"/><ROIRef ID="ROI:1"/><ROIRef ID="ROI:9"/></Image>'
)


@pytest.mark.parametrize(("image", "labels"), [(None, [1, 2, 3, 4]), (0, [2]), (1, []), (2, [2, 4])])
def test_rois_of_an_image_are_those_it_refers_to(image: int | None, labels: list[int]) -> None:
    table = read(document(*POINTS, images=IMAGES), image=image)
    assert table.label.tolist() == labels
    assert table.polygons.xy[:, 0].tolist() == [label - 1 for label in labels]


def test_without_references_the_only_image_has_all_rois() -> None:
    assert len(read(document(*POINTS, images="<Image/>"), image=0).label) == 4
    with pytest.raises(SourceDamaged, match="describes 1 images; there is none of index 1"):
        read(document(*POINTS, images="<Image/>"), image=1)


def test_ids_that_repeat_stay_apart() -> None:
    table = read(
        document(roi_of(POINTS[0], 5), roi_of(POINTS[1], 5), "<ROI><Union>" + POINTS[2] + "</Union></ROI>")
    )
    assert table.key == ("ROI:5", "ROI:5 (2)", "ROI 3")
