"""OME-XML that is damaged, hostile or too large: bad shapes cost nothing but themselves."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.geometry.polygons import measure
from roiservice.sources.limits import Limits
from tests.sources.tables.omedocuments import document, mask, read, shape

POINTS = [shape("Point", X=number, Y=0) for number in range(4)]
BAD = [
    (shape("Rectangle", X=1, Y=2, Width=0, Height=4), "Width: 0 is not above 0"),
    (shape("Rectangle", X=1, Y=2, Width=3), "Height: is missing"),
    (shape("Ellipse", X=1, Y=2, RadiusX="wide", RadiusY=1), "RadiusX: 'wide' is no finite number"),
    (shape("Ellipse", X=1, Y=2, RadiusX=1, RadiusY=-1), "RadiusY: -1 is not above 0"),
    (shape("Point", X="NaN", Y=2), "X: 'NaN' is no finite number"),
    (shape("Point", X="1e300", Y=2), "too far away"),
    (shape("Polygon", Points="0,0 1,1"), "Points: has 4 numbers; there must be 3 pairs or more"),
    (shape("Polygon", Points="0,0 1,1 2"), "Points: has 5 numbers"),
    (shape("Polygon", Points="0,0 1,1 2,inf"), "not finite"),
    (shape("Polyline", Points="M 0 0"), "pairs of numbers such as"),
    (shape("Polyline"), "Points: is missing"),
    (shape("Path", d="M 0 0"), "Path: is no kind of shape"),
    (shape("Point", X=1, Y=2, TheZ=-1), "TheZ: '-1' is no index"),
    (shape("Point", X=1, Y=2, TheT="all"), "TheT: 'all' is no index"),
    (shape("Point", X=1, Y=2, transform={"A00": 1.0}), "A01: is missing"),
    (shape("Mask", X=1, Y=2, Width=3, Height=3), "BinData: is missing"),
    (mask(np.ones((9, 9), bool), "zip"), "Compression 'zip' is not none, zlib or bzip2"),
    (mask(np.ones((9, 9), bool), Width=4), "holds 11 bytes or more; one bit for each pixel are 5"),
    (mask(np.ones((9, 9), bool), "zlib", Width=4), "holds 11 bytes or more"),
    (mask(np.ones((9, 9), bool), Width=900), "holds 11 bytes or more; one bit for each pixel are 1013"),
    (mask(np.ones((9, 9), bool), Width=1e9), "pixels are more than allowed"),
    *[
        (shape("Mask", f"<BinData {data}</BinData>", X=1, Y=2, Width=3, Height=3), "BinData: cannot be read")
        for data in ('Compression="zlib">AAAA', 'Compression="bzip2">AAAA', ">AAAAA")
    ],
]


def test_a_bad_shape_costs_nothing_but_itself() -> None:
    good = shape("Point", X=1, Y=2)
    for number, (text, reason) in enumerate(BAD):
        table = read(document(good + text.replace(" ", ' ID="Shape:5" ', 1), good))
        assert (table.label.tolist(), table.object.tolist()) == ([1, 2], [0, 1]), number
        assert table.refused.count == 1
        assert table.refused.reasons[0].startswith("row 2")
        assert reason in table.refused.reasons[0]
    named = read(document(shape("Point", ID="Shape:5", X=1))).refused.reasons
    assert named == ("row 1: ROI:0 Shape:5 Y: is missing",)


def test_a_polygon_that_crosses_itself_is_repaired() -> None:
    table = read(document(POINTS[0], shape("Polygon", Points="0,0 4,4 4,0 0,4")))
    assert table.refused.count == 0
    assert "repaired, first in row 2" in table.warnings[0]
    assert measure(table.polygons).area[1] == 8


def test_a_document_without_rois_is_empty() -> None:
    table = read(document())
    assert (len(table.polygons), table.key, table.columns, table.refused.count) == (0, (), {}, 0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<!DOCTYPE x [<!ENTITY a "b">]><OME/>', "document type or entities"),
        ("<!DOCTYPE OME><OME/>", "document type or entities"),
        ("<OME>" + "<a>" * 200 + "</a>" * 200 + "</OME>", "nested deeper than 64 levels"),
    ],
)
def test_documents_that_could_hurt_are_refused(text: str, reason: str) -> None:
    with pytest.raises(SourceRefused, match=reason):
        read(text)


@pytest.mark.parametrize(
    "text", ["", "<OME>", "no XML", '<?xml version="1.0" encoding="nonsense"?><OME/>', "<a/>"]
)
def test_what_is_no_ome_xml_is_damage(text: str) -> None:
    with pytest.raises(SourceDamaged):
        read(text)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(table_rows=3), "more than 3 shapes"),
        (Limits(table_vertices=3), "more than 3 vertices"),
    ],
)
def test_limits_hold_while_shapes_come(limits: Limits, reason: str) -> None:
    with pytest.raises(SourceRefused, match=reason):
        read(document(*POINTS), limits)


def test_masks_of_many_pixels_are_refused() -> None:
    pixels = np.ones((8, 8), bool)
    table = read(document(mask(pixels), mask(pixels)), Limits(plane_pixels=100))
    assert (table.label.tolist(), table.refused.count) == ([1], 1)
    assert "8 x 8 pixels are more than allowed" in table.refused.reasons[0]
    bomb = mask(np.ones((8, 8000), bool), "zlib")
    assert "holds 101 bytes or more" in read(document(bomb), Limits(table_bytes=100)).refused.reasons[0]


@settings(deadline=None, max_examples=150)
@given(data=st.binary(max_size=30), at=st.integers(0, 900))
def test_only_source_errors_come_out_of_any_file(data: bytes, at: int) -> None:
    sound = document(
        mask(np.eye(5, dtype=bool)), *POINTS, images="<Image><ROIRef ID='ROI:0'/></Image>"
    ).encode()
    with suppress(SourceError):
        read(sound[:at] + data + sound[at + len(data) :], image=0)
