"""CSV and TSV: shapes as WKT, boxes or points, or values of labels; and a bad row costs no other."""

from __future__ import annotations

import contextlib
import csv
import io
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.geometry.kinds import ELLIPSE, POINT, POLYGON, RECTANGLE, measure_kinds
from roiservice.geometry.polygons import to_shapely
from roiservice.sources.limits import Limits
from tests.encode.support import ODD_PROPERTIES, features_of, whole
from tests.sources.tables.tablefiles import columns_of, drawn, polygons, read, same_areas, shapes, values
from tests.strategies import patterns

some = settings(max_examples=50, deadline=None)

ODD = """label,wkt
1,"POLYGON ((0 0, 10 0, 10 10, 0 0))"
3,POLYGON EMPTY
5,"SRID=4326;POLYGON ((0 0,1 0,1 1,0 0))"
7,"POLYGON ((0 0, 1 0, 1 1))"
9,POINT (3 4)
11,"GEOMETRYCOLLECTION (POINT (1 1), POLYGON ((0 0,1 0,1 1,0 0)))"
13,NaN
15,"POLYGON ((1e309 0, 1 0, 1 1, 1e309 0))"
"""


def written(rows: list[list[Any]], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def test_odd_wkt_is_answered_row_by_row() -> None:
    table = shapes(ODD, "odd.csv")
    assert table.label.tolist() == [1, 5, 9, 11]
    assert table.object.tolist() == [0, 1, 2, 3, 3]
    assert [str(shape) for shape in drawn(table)] == [
        "POLYGON ((0 0, 10 0, 10 10, 0 0))",
        "POLYGON ((0 0, 1 0, 1 1, 0 0))",
        "POINT (3 4)",
        "POLYGON ((0 0, 1 0, 1 1, 0 0))",
        "POINT (1 1)",
    ]
    assert table.refused.count == 4
    reasons = [reason.replace("row ", "").replace(", column 'wkt'", "") for reason in table.refused.reasons]
    assert reasons == [
        "2: the geometry is empty",
        "4: the geometry cannot be read: Points of LinearRing do not form a closed linestring",
        "7: there is no geometry",
        "8: a coordinate is not finite, or too far away to lie in an image",
    ]


@some
@given(
    st.lists(polygons, min_size=1, max_size=6),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["WKT", "wkt", "Geometry", "geometry_wkt", "geom", "the_geom"]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_polygons_are_what_was_written(shown: list[Any], delimiter: str, name: str, encoding: str) -> None:
    rows = [["µ", "label", name], *([f"cell;,\n{n}", n + 5, shape.wkt] for n, shape in enumerate(shown))]
    table = shapes(written(rows, delimiter).encode(encoding), "a.csv")
    assert table.label.tolist() == list(range(5, 5 + len(shown)))
    assert columns_of(table) == {"µ": [f"cell;,\n{n}" for n in range(len(shown))]}
    read_back = shapely.from_wkt([shape.wkt for shape in shown])
    assert same_areas(to_shapely(table.polygons), read_back)
    assert np.allclose(measure_kinds(table.polygons, table.kind).area, shapely.area(read_back), rtol=1e-12)


def test_columns_have_the_types_of_their_cells() -> None:
    rows = [
        ["label", "int", "float", "bool", "text", "empty", "date", "mixed", "na"],
        [1, 5, 2.5, "true", "x", "", "2020-01-02", 1, "NA"],
        [2, "", "nan", "False", "", "", "2020-01-02T03:04:05", "x", 3],
        [3, -7, "1e3", "TRUE", "NA", "", "", "", ""],
    ]
    assert columns_of(values(written(rows), "a.csv")) == {
        "int": [5, None, -7],
        "float": [2.5, None, 1000.0],
        "bool": [True, False, True],
        "text": ["x", None, "NA"],
        "empty": [None, None, None],
        "date": ["2020-01-02", "2020-01-02T03:04:05", None],
        "mixed": ["1", "x", None],
        "na": [None, 3, None],
    }


def test_types_hold_for_all_rows_not_only_the_first() -> None:
    rows = [["label", "a"], *([n, n] for n in range(300_000)), [300_000, "x"]]
    table = values(written(rows), "a.csv")
    assert table.columns["a"].to_pylist()[-2:] == ["299999", "x"]


def test_planes_layers_and_colors() -> None:
    rows = [
        ["label", "layer", "z", "T", "c", "color", "wkt"],
        [1, "a", 0, "", -1, "#ff000080", "POINT (1 1)"],
        [1, "a", 1, "", -1, "#ff000080", "POINT (1 1)"],
        [1, "b", "", 3, 0, "#00ff00", "POINT (1 1)"],
    ]
    table = shapes(written(rows), "a.csv")
    assert table.key == ("a/1", "b/1")
    assert table.object.tolist() == [0, 0, 1]
    assert (table.z.tolist(), table.t.tolist(), table.c.tolist()) == ([0, 1, -1], [-1, -1, 3], [-1, -1, 0])
    assert [hex(color) for color in table.color] == ["0xff000080", "0xff00ff"]
    assert columns_of(table) == {"layer": ["a", "b"]}


def test_rows_of_omero_tables_are_shapes_of_rois() -> None:
    rows = [
        ["roi", "shape", "z", "c", "t", "roi_name", "wkt"],
        [4001, 40001, 0, -1, 0, "first", "POLYGON ((0 0, 2 0, 2 2, 0 0))"],
        [4001, 40002, 0, -1, 0, "first", "POLYGON ((5 5, 7 5, 7 7, 5 5))"],
        [4002, 40003, 1, -1, 0, "second", "POLYGON ((0 0, 2 0, 2 2, 0 0))"],
    ]
    table = shapes(written(rows), "a.csv")
    assert table.label.tolist() == [4001, 4002]
    assert table.object.tolist() == [0, 0, 1]
    assert table.z.tolist() == [0, 0, 1]
    assert columns_of(table) == {"roi_name": ["first", "second"]}
    assert not table.warnings


@pytest.mark.parametrize(
    ("header", "row", "kind", "box"),
    [
        ("x,y,width,height", "1,2,3,4", RECTANGLE, [1, 2, 4, 6]),
        ("XMin,YMin,XMax,YMax,label", "1.5,2,4,6,9", RECTANGLE, [1.5, 2, 4, 6]),
        ("x,y", "1,2", POINT, [1, 2, 1, 2]),
        ("y,x,z", "1,2,0", POINT, [2, 1, 2, 1]),
        ("x,y,radius", "10,20,5", ELLIPSE, [5, 15, 15, 25]),
        ("label,x,y,radius", "3,10,20,5", ELLIPSE, [5, 15, 15, 25]),
        ("x,y,wkt", '7,7,"POLYGON ((0 0, 2 0, 2 2, 0 0))"', POLYGON, [0, 0, 2, 2]),
    ],
)
def test_boxes_points_and_circles(header: str, row: str, kind: int, box: list[float]) -> None:
    table = shapes(f"{header}\n{row}\n", "a.csv")
    assert table.kind.tolist() == [kind]
    assert measure_kinds(table.polygons, table.kind).boxes.tolist() == [box]


def test_labels_with_positions_alone_are_values() -> None:
    table = values("label,x,y\n5,1.5,2\n", "a.csv")
    assert table.label.tolist() == [5]
    assert columns_of(table) == {"x": [1.5], "y": [2]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x,y\n1,2\n,2\n", "row 2, column 'x, y': there is no position"),
        ("x,y,width,height\n1,2,3,4\n1,2,0,4\n", "row 2, column 'x, y, width, height': there is no box"),
        ("x,y,radius\n1,2,3\n1,2,-3\n", "row 2, column 'radius': a radius must be finite and not below 0"),
        ("label,wkt\n1,POINT (1 1)\n,POINT (1 1)\n", "row 2, column 'label': the label is no whole number"),
        ("label,wkt\n1,POINT (1 1)\n2\n", "row 2: has 1 cells instead of 2"),
        ("label,wkt\n1,POINT (1 1)\n2,POINT (1 1),x\n", "row 2: has 3 cells instead of 2"),
        ('label,wkt\n1,POINT (1 1)\n2,"POINT (1 1)\n', "row 2: cannot be read: unexpected end of data"),
    ],
)
def test_one_bad_row_costs_no_other(text: str, reason: str) -> None:
    good = text.splitlines()[1]
    table = shapes(text + good.replace("1", "3", 1) + "\n\n" + good.replace("1", "4", 1), "a.csv")
    assert len(table.label) == 3
    assert table.refused.count == 1
    assert table.refused.reasons == (reason,)


def test_a_quote_that_is_never_closed_costs_its_row_alone() -> None:
    lines = ["label,wkt\n", *(f"{n},POINT ({n} 0)\n" for n in range(1, 9))]
    lines[3] = '3,"POINT (3 0)\n'
    table = shapes("".join(lines), "a.csv")
    assert table.label.tolist() == [1, 2, 4, 5, 6, 7, 8]
    assert table.refused.reasons == ("row 3: cannot be read: unexpected end of data",)


def test_a_quote_closed_by_that_of_another_row_costs_the_rows_between() -> None:
    lines = ["label,wkt\n", *(f"{n},POINT ({n} 0)\n" for n in range(1, 9))]
    lines[3], lines[5] = '3,"POINT (3 0)\n', '5,"POINT (5 0)\n'
    table = shapes("".join(lines), "a.csv")
    assert table.label.tolist() == [1, 2, 6, 7, 8]
    assert table.refused.count == 1


def test_cells_longer_than_usual_limits() -> None:
    turn = np.linspace(0, 2 * np.pi, 400_000, endpoint=False)
    outline = shapely.polygons(np.stack([np.cos(turn), np.sin(turn)], axis=1) * 1e5)
    text = written([["label", "wkt"], [1, outline.wkt], [2, "POINT (1 1)"]])
    assert len(text) > 2**23
    assert shapes(text, "a.csv").label.tolist() == [1, 2]
    assert shapes(text + "3\n", "a.csv").label.tolist() == [1, 2]


def test_values_of_labels() -> None:
    table = values("area,Label,layer\n1.5,7,cells\n2.5,9,cells\n3.5,7,cells\n4,,cells\n5,6\n", "a.csv")
    assert table.label.tolist() == [9, 7]
    assert table.layers == ("cells",)
    assert columns_of(table) == {"area": [2.5, 3.5]}
    assert table.warnings == (
        "refused row 5: has 2 cells instead of 3",
        "2 rows left out, first row 4: the label is no whole number",
        "1 row left out, first row 1: a later row has the same label",
    )


def test_names_of_rows_serve_where_nothing_else_does() -> None:
    assert shapes(",wkt\n10,POINT (1 1)\n11,POINT (2 2)\n", "a.csv").label.tolist() == [10, 11]
    assert shapes(",wkt\na,POINT (1 1)\nb,POINT (2 2)\n", "a.csv").key == ("a", "b")
    assert shapes(",label,wkt\n0,5,POINT (1 1)\n", "a.csv").label.tolist() == [5]
    assert shapes(",wkt\n1,POINT (1 1)\n1,POINT (2 2)\n", "a.csv").label.tolist() == [1, 2]
    assert values(",area\n10,1\n11,2\n", "a.csv").label.tolist() == [10, 11]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", SourceDamaged, "is empty"),
        (b"\xef\xbb\xbf\r\n\r\n", SourceDamaged, "is empty"),
        ("label,a\n1,2\n".encode("utf-16"), SourceDamaged, "is no text in UTF-8"),
        (b"PK\x03\x04\0\0\0", SourceDamaged, "is no text in UTF-8"),
        (
            b"a,b\n1,2\n",
            SourceRefused,
            "has no column of geometries, positions or labels; its columns are: 'a', 'b'",
        ),
        (b"label,b\nx,2\n", SourceRefused, "its columns are: 'label', 'b'"),
        (b"x," * 10_001 + b"y\n", SourceRefused, "has 10002 columns; 10000 are allowed"),
    ],
)
def test_what_is_no_table_is_refused(data: bytes, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(data, "a.csv")


def test_limits_hold() -> None:
    with pytest.raises(SourceRefused, match="has more than 2 rows"):
        read("label,a\n1,1\n2,2\n3,3\n4,4\n", "a.csv", Limits(table_rows=2))
    with pytest.raises(SourceRefused, match="its shapes have more than the 1 vertices allowed"):
        read("wkt\nPOINT (1 1)\nPOINT (2 2)\n", "a.csv", Limits(table_vertices=1))


def test_other_ways_of_writing() -> None:
    assert values("label,a\r1,2\r2,3\r", "a.csv").label.tolist() == [1, 2]
    assert values("\r\nlabel;a\r\n1;2\r\n", "a.csv").label.tolist() == [1]
    assert values(" label , a\n1,2\n", "a.csv").label.tolist() == [1]
    latin = values("label,area_µm\n1,2\n".encode("latin-1"), "a.csv")
    assert list(latin.columns) == ["area_µm"]
    assert latin.warnings == ("read as Latin-1, since it is no UTF-8",)
    twice = values("label,a,a\n1,2,3\n", "a.csv")
    assert columns_of(twice) == {"a": [2], "a_2": [3]}
    assert columns_of(values('label,a\n1,"5"" nail"\n2,5" nail\n', "a.csv")) == {"a": ['5" nail'] * 2}
    assert shapes("label,wkt\n", "a.csv").label.tolist() == []
    assert values("label,a\n", "a.csv").label.tolist() == []


@some
@given(patterns, st.sampled_from([(0, -1, 0), (2, 1, -1), (-1, -1, -1)]), st.booleans())
def test_own_exports_are_read_back(pattern: NDArray[Any], place: tuple[int, int, int], odd: bool) -> None:
    labels = np.unique(pattern[pattern != 0]).tolist()
    stated = {label: {**(ODD_PROPERTIES if odd else {}), "n": n} for n, label in enumerate(labels)}
    colors = {label: (label % 256, 2, 3, 4) for label in labels[1:]}
    features = features_of(pattern, place=place, properties=stated, colors=colors)
    table = shapes(whole("wkt", features), "a.csv")
    assert table.label.tolist() == features.label.tolist()
    assert np.array_equal(table.polygons.xy, features.polygons.xy)
    assert np.array_equal(table.polygons.ring_offsets, features.polygons.ring_offsets)
    assert (table.t.tolist(), table.z.tolist()) == (features.t.tolist(), features.z.tolist())
    if len(features):
        assert columns_of(table)["n"] == features.properties["n"].to_pylist()
        assert not {"layer", "id", "WKT"} & set(table.columns)
        if odd:
            assert columns_of(table)["label"][0] == ODD_PROPERTIES["label"]


@some
@given(st.binary(max_size=60), st.integers(0, 300))
def test_no_damage_raises_anything_else(junk: bytes, at: int) -> None:
    sound = ODD.encode()
    for data in (
        junk,
        b"label,a\n" + junk,
        sound[:at],
        sound[:at] + junk + sound[at:],
        sound[:at] + sound[at + 1 :],
    ):
        with contextlib.suppress(SourceDamaged, SourceRefused):
            read(data, "a.csv")
