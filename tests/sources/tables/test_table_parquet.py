"""Parquet: GeoParquet in all its encodings, WKT and WKB without metadata, values of labels, and limits."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import geopandas
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.geometry.kinds import ELLIPSE, POINT, measure_kinds
from roiservice.geometry.polygons import to_shapely
from roiservice.sources.limits import Limits
from roiservice.sources.tables.geometries import Reasons
from roiservice.sources.tables.parquet import read_geoparquet
from tests.sources.tables.tablefiles import columns_of, drawn, polygons, read, same_areas, shapes, values

some = settings(max_examples=40, deadline=None)


def written(table: Any, **options: Any) -> bytes:
    """A file of a pyarrow table, of columns, or of a data frame as pandas and geopandas write it."""
    out = io.BytesIO()
    if isinstance(table, pandas.DataFrame):
        table.to_parquet(out, **options)
    else:
        table = pa.table(table) if isinstance(table, dict) else table
        pa.parquet.write_table(table, out, **options)
    return out.getvalue()


def frame(geometries: list[Any], index: Any = None, **columns: Any) -> Any:
    return geopandas.GeoDataFrame(columns, geometry=geometries, index=index)


@some
@given(st.lists(polygons | st.none(), min_size=1, max_size=6), st.sampled_from(["WKB", "geoarrow"]))
def test_polygons_are_those_that_geopandas_reads(shown: list[Any], encoding: str) -> None:
    if len({shape.geom_type for shape in shown if shape is not None}) != 1:
        encoding = "WKB"
    data = written(frame(shown, label=range(3, 3 + len(shown))), geometry_encoding=encoding)
    theirs = geopandas.read_parquet(io.BytesIO(data)).dropna(subset="geometry")
    table = shapes(data, "a.parquet")
    assert table.label.tolist() == theirs.label.tolist()
    assert same_areas(to_shapely(table.polygons), theirs.geometry)
    measured = measure_kinds(table.polygons, table.kind)
    assert np.array_equal(measured.boxes, theirs.bounds.to_numpy().reshape(-1, 4))
    assert np.allclose(measured.area, theirs.area, rtol=1e-12)
    assert table.refused.count == shown.count(None)


@pytest.mark.parametrize("encoding", ["WKB", "geoarrow"])
@pytest.mark.parametrize(
    "texts",
    [
        ["POINT (1 2)", None, "POINT EMPTY", "POINT (3 4)"],
        ["POINT Z (1 2 3)"],
        ["MULTIPOINT ((1 2), (3 4))", "MULTIPOINT ((1 2))"],
        ["LINESTRING (0 0, 1 1)", "LINESTRING (0 0, 1 1, 2 0)", "LINESTRING EMPTY"],
        ["LINESTRING EMPTY"],
        ["MULTILINESTRING ((0 0, 1 1), (2 2, 3 3, 4 4))"],
        ["POLYGON ((0 0, 9 0, 9 9, 0 0), (5 1, 6 2, 6 1, 5 1))", "POLYGON EMPTY"],
        ["MULTIPOLYGON (((0 0, 9 0, 9 9, 0 0)), ((20 0, 21 0, 21 1, 20 0)))", None],
    ],
)
def test_all_types_in_all_encodings(encoding: str, texts: list[str | None]) -> None:
    shown = [None if text is None else shapely.from_wkt(text) for text in texts]
    data = written(frame(shown, n=range(len(shown))), geometry_encoding=encoding)
    table = shapes(data, "a.parquet")
    kept = [shape for shape in shown if shape is not None and not shape.is_empty]
    assert all(shapely.equals(drawn(table), shapely.force_2d(kept)))
    assert table.refused.count == len(shown) - len(kept)
    assert table.label.tolist() == [n + 1 for n, shape in enumerate(shown) if any(shape is k for k in kept)]


def test_interleaved_coordinates_and_damaged_rings() -> None:
    def pairs(*points: tuple[float, float]) -> list[list[float]]:
        return [list(point) for point in points]

    closed = pairs((0, 0), (4, 0), (4, 4), (0, 0))
    rows = [
        [closed],
        [pairs((0, 0), (4, 0), (4, 4))],
        [pairs((0, 0), (4, 0), (4, 4), (1, 1))],
        None,
        [closed],
    ]
    kind = pa.list_(pa.list_(pa.list_(pa.float64(), 2)))
    field = pa.field("outline", kind, metadata={"ARROW:extension:name": "geoarrow.polygon"})
    table = pa.table([pa.array(rows, kind)], schema=pa.schema([field]))
    found = shapes(written(table), "a.parquet")
    assert found.label.tolist() == [1, 5]
    assert measure_kinds(found.polygons, found.kind).area.tolist() == [8, 8]
    assert found.refused.count == 3
    assert found.refused.reasons[0] == (
        "row 2, column 'outline': a ring is not closed, or has less than four points"
    )


def test_parts_without_rings_and_holes_without_exterior() -> None:
    ring = [{"x": x, "y": y} for x, y in ((0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 0.0))]
    point = pa.struct([("x", pa.float64()), ("y", pa.float64())])
    kind = pa.list_(pa.list_(pa.list_(point)))
    field = pa.field("outline", kind, metadata={"ARROW:extension:name": "geoarrow.multipolygon"})
    rows = [[[], [ring]], [[[], ring]], [[ring], []]]
    found = shapes(written(pa.table([pa.array(rows, kind)], schema=pa.schema([field]))), "a.parquet")
    assert found.label.tolist() == [1, 3]
    assert found.refused.count == 1


@pytest.mark.parametrize("name", ["WKT", "geometry", "Geom", "wkb", "geometry_wkb"])
@pytest.mark.parametrize("as_text", [True, False])
def test_columns_without_metadata_are_found_by_their_names(name: str, as_text: bool) -> None:
    shown = [shapely.box(0, 0, 2, 3), None, shapely.Point(1, 1)]
    stored = [s and (s.wkt if as_text else s.wkb) for s in shown]
    table = shapes(written({"label": [4, 5, 6], "a": ["x", "y", "z"], name: stored}), "a.parquet")
    assert table.label.tolist() == [4, 6]
    assert columns_of(table) == {"a": ["x", "z"]}
    assert table.refused.reasons == (f"row 2, column {name!r}: there is no geometry",)


@pytest.mark.parametrize("kind", [pa.string_view(), pa.binary_view(), pa.large_string(), pa.large_binary()])
def test_geometries_are_found_however_arrow_lays_them_out(kind: Any) -> None:
    box = shapely.box(0, 0, 2, 3)
    stored = pa.array([box.wkt if "string" in str(kind) else box.wkb], kind)
    assert drawn(shapes(written(pa.table({"label": [4], "geom": stored})), "a.parquet"))[0].area == 6


def test_helpers_of_geometries_are_no_properties() -> None:
    one = frame([shapely.box(0, 0, 1, 1)], a=[1])
    one["centre"] = geopandas.GeoSeries([shapely.Point(0, 0)])
    table = shapes(written(one, write_covering_bbox=True), "a.geoparquet")
    assert columns_of(table) == {"a": [1]}


def test_points_with_a_radius_are_circles() -> None:
    data = written(frame([shapely.Point(10, 20), shapely.Point(1, 1)], radius=[2.5, None]))
    table = shapes(data, "a.parquet")
    assert table.kind.tolist() == [ELLIPSE, POINT]
    assert measure_kinds(table.polygons, table.kind).boxes[0].tolist() == [7.5, 17.5, 12.5, 22.5]


@pytest.mark.parametrize(
    ("index", "columns", "labels", "key"),
    [
        (None, {}, [1, 2], None),
        ([7, 9], {}, [7, 9], None),
        (pandas.Index([7, 9], name="cell_id"), {}, [7, 9], None),
        (pandas.Index(["a", "b"], name="cell_id"), {}, [1, 2], ("a", "b")),
        (["a", "a"], {}, [1, 2], None),
        ([7, 7], {}, [1, 2], None),
        ([7, 9], {"label": [3, 4]}, [3, 4], None),
        (pandas.MultiIndex.from_tuples([(1, "a"), (2, "b")], names=["n", "s"]), {}, [1, 2], None),
    ],
)
def test_the_index_of_pandas_gives_labels_or_keys(
    index: Any, columns: dict[str, Any], labels: list[int], key: tuple[str, ...] | None
) -> None:
    data = written(frame([shapely.box(0, 0, 1, 1), shapely.box(1, 1, 2, 2)], index, **columns))
    table = shapes(data, "a.parquet")
    assert table.label.tolist() == labels
    assert table.key == key
    assert set(table.columns) == ({"n", "s"} if isinstance(index, pandas.MultiIndex) else set())


def test_values_of_labels() -> None:
    table = values(written({"label": [5, 6, 5], "a": [1.0, 2.0, 3.0], "layer": ["cells"] * 3}), "a.parquet")
    assert table.label.tolist() == [6, 5]
    assert columns_of(table) == {"a": [2.0, 3.0]}
    assert table.layers == ("cells",)
    assert table.warnings == ("1 row left out, first row 1: a later row has the same label",)
    indexed = values(written(pandas.DataFrame({"a": ["x", "y"]}, index=[8, 9])), "a.parquet")
    assert indexed.label.tolist() == [8, 9]
    with pytest.raises(SourceRefused, match=r"one of labels; its columns are: a, b"):
        read(written({"a": [1], "b": [2]}), "a.parquet")


def test_columns_of_many_types() -> None:
    data = written(
        {
            "label": pa.array([1, 2], pa.uint16()),
            "class": pa.array(["a", "b"]).dictionary_encode(),
            "time": pa.array([0, 1], pa.timestamp("s")),
            "list": [[1, 2], None],
            "struct": [{"a": 1}, None],
            "bytes": [b"x", b"y"],
            "half": pa.array(np.array([0.5, np.nan], np.float16)),
        }
    )
    assert columns_of(values(data, "a.parquet")) == {
        "class": ["a", "b"],
        "time": ["1970-01-01 00:00:00.000", "1970-01-01 00:00:01.000"],
        "list": ["[1,2]", None],
        "struct": ['{"a":1}', None],
        "half": [0.5, None],
    }


def test_several_parts_are_one_table() -> None:
    parts = [
        written(frame([shapely.box(0, 0, 1, 1), None], ["a", "b"], n=[1, 2])),
        written(frame([shapely.box(5, 5, 6, 6)], ["c"], n=[3])),
    ]
    reasons = Reasons()
    geometries, table, index = read_geoparquet(parts, "store", "shapes/cells", Limits(), reasons)
    assert [shape and shape.bounds for shape in geometries] == [(0, 0, 1, 1), None, (5, 5, 6, 6)]
    assert table.column("n").to_pylist() == [1, 2, 3]
    assert index is not None
    assert index.to_pylist() == ["a", "b", "c"]
    assert reasons.refusals().reasons == ("row 2, column 'geometry': there is no geometry",)
    with pytest.raises(SourceDamaged, match="has no column of geometries"):
        read_geoparquet(written({"a": [1]}), "store", "shapes/cells", Limits())


def test_limits_are_held_against_the_footer() -> None:
    data = written({"label": range(1000), "a": ["x" * n for n in range(1000)]})
    with pytest.raises(SourceRefused, match="has 1000 rows; 999 are allowed"):
        read(data, "a.parquet", Limits(table_rows=999))
    with pytest.raises(SourceRefused, match=r"column 'a' has \d+ bytes; 400000 are allowed"):
        read(data, "a.parquet", Limits(table_bytes=400_000))
    wide = written({f"a{n}": [7] * 5000 for n in range(6)})
    with pytest.raises(SourceRefused, match=r"its columns have \d+ bytes; 160000 are allowed"):
        read(wide, "a.parquet", Limits(table_bytes=40_000))


@pytest.mark.parametrize("encoding", ["RLE_DICTIONARY", "DELTA_BYTE_ARRAY"])
def test_texts_that_swell_are_refused(encoding: str) -> None:
    """One text, stored once or as what differs from the one before, stands for a million times its bytes."""
    column = pa.array(["x" * 100_000]).take(pa.array(np.zeros(20_000, np.int64)))
    options: dict[str, Any] = {"use_dictionary": ["a"]}
    if encoding != "RLE_DICTIONARY":
        options = {"use_dictionary": False, "column_encoding": {"a": encoding}}
    data = written({"a": column}, **options)
    assert len(data) < 10_000_000
    limits = Limits(table_bytes=500_000_000)
    with pytest.raises(SourceRefused, match=r"column 'a' decodes to \d+ bytes; 500000000 are allowed"):
        read(data, "a.parquet", limits)


def test_lists_of_texts_that_may_swell_are_left_out() -> None:
    data = written({"label": [1] * 1000, "a": [["x" * 1000]] * 1000})
    table = values(data, "a.parquet", Limits(table_bytes=500_000))
    assert not table.columns
    assert table.warnings[0] == "column 'a' is left out: its lists of texts may be too large"


@pytest.mark.parametrize(
    "encoding", ["RLE_DICTIONARY", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN"]
)
def test_texts_within_the_limits_are_read_whatever_their_encoding(encoding: str) -> None:
    texts = [None if n % 7 == 0 else f"cell {n % 500} of {'many ' * (n % 5)}" for n in range(20_000)]
    options: dict[str, Any] = {"use_dictionary": ["a"]}
    if encoding != "RLE_DICTIONARY":
        options = {"use_dictionary": False, "column_encoding": {"a": encoding}}
    data = written({"label": range(20_000), "a": texts}, row_group_size=3000, **options)
    table = values(data, "a.parquet", Limits(table_bytes=2_000_000))
    assert columns_of(table) == {"a": texts}


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1", b"junk" * 100])
def test_what_is_no_parquet_is_damaged(data: bytes) -> None:
    with pytest.raises(SourceDamaged, match="is no Parquet file that can be read"):
        read(data, "a.parquet")


def test_metadata_that_does_not_fit_is_damage() -> None:
    table = pa.table({"geometry": [1.5]}).replace_schema_metadata(
        {"geo": '{"primary_column":"geometry","columns":{"geometry":{"encoding":"polygon"}}}'}
    )
    with pytest.raises(SourceDamaged, match="cannot be read: geometries are not lists of coordinates"):
        read(written(table), "a.parquet")
    unknown = table.replace_schema_metadata(
        {"geo": '{"primary_column":"geometry","columns":{"geometry":{"encoding":"twkb"}}}'}
    )
    with pytest.raises(SourceDamaged, match="the encoding 'twkb' cannot be read"):
        read(written(unknown), "a.parquet")
    numbers = table.replace_schema_metadata(
        {"geo": '{"primary_column":"geometry","columns":{"geometry":{"encoding":"WKB"}}}'}
    )
    with pytest.raises(SourceDamaged, match="cannot be read"):
        read(written(numbers), "a.parquet")
    for text in ('{"primary_column":[]}', "nonsense", "[]", '{"columns":7,"primary_column":"geometry"}'):
        with pytest.raises(SourceRefused, match="neither a column of geometries nor one of labels"):
            read(written(table.replace_schema_metadata({"geo": text})), "a.parquet")


_SOUND = written(frame([shapely.box(0, 0, 1, 1), shapely.Point(1, 2)], ["a", "b"], n=[1, 2]))


@some
@given(st.integers(0, len(_SOUND) - 1), st.binary(min_size=1, max_size=8))
def test_no_damage_raises_anything_else(at: int, junk: bytes) -> None:
    for data in (_SOUND[:at], _SOUND[:at] + junk + _SOUND[at + len(junk) :]):
        with contextlib.suppress(SourceDamaged, SourceRefused):
            read(data, "a.parquet")
