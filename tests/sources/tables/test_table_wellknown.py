"""WKT and WKB that nobody has checked."""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from roiservice.sources.tables.geometries import Reasons
from roiservice.sources.tables.wellknown import from_bytes, from_text
from tests.sources.tables.tablefiles import polygons

some = settings(max_examples=50, deadline=None)

LEVELS = 500_000  # of nesting; a reader that recurses exhausts its stack long before


def one_text(text: str | None) -> tuple[Any, str]:
    reasons = Reasons()
    (found,) = from_text(pa.array([text], pa.string()), reasons, "wkt")
    return found, "".join(reasons.refusals().reasons).removeprefix("row 1, column 'wkt': ")


def one_value(value: bytes | None) -> tuple[Any, str]:
    reasons = Reasons()
    (found,) = from_bytes(pa.array([value], pa.binary()), reasons, "wkb")
    return found, "".join(reasons.refusals().reasons).removeprefix("row 1, column 'wkb': ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("POINT (1 2)", "POINT (1 2)"),
        ("point(1 2)", "POINT (1 2)"),
        (" SRID=4326; POINT (1 2)", "POINT (1 2)"),
        ("srid = 0;MultiPoint (1 2, 3 4)", "MULTIPOINT ((1 2), (3 4))"),
        ("POINT Z (1 2 3)", "POINT Z (1 2 3)"),
        ("POLYGON EMPTY", "POLYGON EMPTY"),
        ("0101000000000000000000F03F0000000000000040", "POINT (1 2)"),
        (r"\x0101000000000000000000f03f0000000000000040", "POINT (1 2)"),
    ],
)
def test_texts_that_can_be_read(text: str, expected: str) -> None:
    assert str(one_text(text)[0]) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "there is no geometry"),
        ("", "there is no geometry"),
        ("NaN", "there is no geometry"),
        (" None ", "there is no geometry"),
        (
            "POLYGON ((0 0, 1 0, 1 1))",
            "the geometry cannot be read: Points of LinearRing do not form a closed",
        ),
        ("POINT (1, 2)", "the geometry cannot be read: Expected number"),
        ("POINT (1 2", "the geometry cannot be read"),
        ("TIN (((0 0, 1 0, 1 1, 0 0)))", "the geometry cannot be read: Unknown type"),
        ("CIRCULARSTRING (0 0, 1 1, 2 0)", "curves are not read, only straight lines"),
        ("CurvePolygon (CIRCULARSTRING (0 0, 1 1, 2 0, 0 0))", "curves are not read, only straight lines"),
        ("GEOMETRYCOLLECTION (" * LEVELS + "POINT (1 1)" + ")" * LEVELS, "collections are nested too deep"),
        ("010100000000", "the geometry cannot be read"),
        ("a cell", "the geometry cannot be read"),
    ],
)
def test_texts_that_cannot_be_read(text: str | None, reason: str) -> None:
    found, said = one_text(text)
    assert found is None
    assert said.startswith(reason)


def test_numbers_beyond_double_precision_are_left_to_be_refused_as_coordinates() -> None:
    assert str(one_text("POINT (1e309 0)")[0]) == "POINT (Infinity 0)"


@some
@given(
    st.lists(polygons | st.none(), max_size=6),
    st.sampled_from([0, 1]),
    st.booleans(),
    st.integers(0, 6),
)
def test_bytes_are_what_was_written(drawn: list[Any], order: int, with_srid: bool, cut: int) -> None:
    written = [
        None
        if shape is None
        else shapely.to_wkb(shapely.set_srid(shape, 9), byte_order=order, include_srid=with_srid)
        for shape in drawn
    ]
    column = pa.chunked_array([written[:cut], written[cut:]], pa.binary())
    reasons = Reasons()
    found = from_bytes(column, reasons, "wkb")
    assert [None if shape is None else shapely.normalize(shape).wkt for shape in found] == [
        None if shape is None else shapely.normalize(shape).wkt for shape in drawn
    ]
    assert reasons.refusals().count == drawn.count(None)
    texts = pa.array([None if value is None else value.hex() for value in written], pa.string())
    assert shapely.equals(from_text(texts, Reasons(), "hex"), found).tolist() == [
        s is not None for s in drawn
    ]


def nested(kind: int, levels: int, order: str = "<") -> bytes:
    """One geometry of a type code within the other, and a point inmost."""
    mark = b"\1" if order == "<" else b"\0"
    srid = struct.pack(order + "I", 4326) if kind & 0x20000000 else b""
    level = mark + struct.pack(order + "I", kind) + srid + struct.pack(order + "I", 1)
    return level * levels + struct.pack("<BIdd", 1, 1, 1.0, 1.0)


@pytest.mark.parametrize("kind", [4, 5, 6, 7, 1007, 3007, 0x80000007, 0xC0000007, 0x20000007])
@pytest.mark.parametrize("order", ["<", ">"])
def test_no_depth_of_nesting_ends_the_process(kind: int, order: str) -> None:
    assert one_value(nested(kind, LEVELS, order)) == (None, "collections are nested too deep")


@pytest.mark.parametrize("kind", [8, 9, 10, 11, 12, 1010, 0x8000000B])
@pytest.mark.parametrize("within", [0, 1, 3])
def test_curves_are_refused_wherever_they_are(kind: int, within: int) -> None:
    inmost = nested(kind, 1)
    outer = nested(7, within)[: -struct.calcsize("<BIdd")] if within else b""
    assert one_value(outer + inmost) == (None, "curves are not read, only straight lines")


def test_some_levels_of_nesting_are_read() -> None:
    found, _ = one_value(nested(7, 10))
    assert found.geom_type == "GeometryCollection"
    mixed = shapely.geometrycollections(
        [shapely.box(0, 0, 1, 1), shapely.LineString([(0, 0), (1, 1)]), found]
    )
    assert one_value(shapely.to_wkb(mixed))[0].equals(mixed)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\1",
        b"\1\3\0\0\0",
        b"\1\3\0\0\0\1\0\0\0\xff\xff\xff\x7f",
        b"\1\7\0\0\0\xff\xff\xff\xff",
        b"junk" * 9,
    ],
)
def test_damaged_bytes_cost_one_row(value: bytes) -> None:
    good = shapely.to_wkb(shapely.Point(1, 2))
    reasons = Reasons()
    found = from_bytes(pa.array([good, value, good]), reasons, "wkb")
    assert [str(shape) for shape in found] == ["POINT (1 2)", "None", "POINT (1 2)"]
    assert reasons.refusals().count == 1
    assert reasons.refusals().reasons[0].startswith("row 2, column 'wkb': ")


@some
@given(st.binary(max_size=80))
def test_no_bytes_raise(junk: bytes) -> None:
    from_bytes(pa.array([junk, b"\1\7\0\0\0" + junk]), Reasons(), "wkb")


@some
@given(st.text(max_size=40))
def test_no_text_raises(junk: str) -> None:
    from_text(
        pa.array(
            [junk.encode("utf-8", "replace").decode(), "POINT (" + junk.replace("\ud800", "")], pa.string()
        ),
        Reasons(),
        "wkt",
    )
