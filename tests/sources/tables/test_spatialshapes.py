"""Shapes elements of SpatialData, versions 0.1 (ragged arrays), 0.2 and 0.3 (GeoParquet)."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely.affinity import affine_transform

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.geometry.kinds import POLYGON
from roiservice.geometry.polygons import measure, to_shapely
from roiservice.sources.limits import Limits
from roiservice.sources.roots import open_store
from roiservice.sources.tables.affine import Affine
from roiservice.sources.tables.spatialdata import SHAPES, Element
from roiservice.sources.tables.spatialshapes import read_shapes
from roiservice.sources.tables.table import ShapeTable
from tests.sources.support import LIMITS
from tests.sources.tables.spatialstores import (
    write_element,
    write_ragged,
    write_root,
    write_shapes,
    write_values,
)

ELEMENT = Element("s", "shapes/s", SHAPES)
IDENTITY = Affine()
TURN = Affine(0, 2, 5, -2, 0, 300)
ENCODINGS = ("WKB", "geoarrow", "ragged")
NUMBERS = itertools.count()

SQUARE = shapely.box(0, 0, 4, 4)
HOLED = shapely.Polygon([(0, 0), (9, 0), (9, 9), (0, 9)], [[(1, 1), (1, 2), (2, 2), (2, 1)]])
TWO = shapely.MultiPolygon([shapely.box(20, 0, 22, 2), shapely.box(30, 0, 31, 5)])


def read(root: Path, affine: Affine = IDENTITY, limits: Limits = LIMITS) -> ShapeTable:
    return read_shapes(open_store(root, limits), ELEMENT, affine, limits)


def frame(geometries: Sequence[Any], **columns: Any) -> gpd.GeoDataFrame:
    index = columns.pop("index", None)
    return gpd.GeoDataFrame(columns, geometry=list(geometries), index=index)


def mapped(geometry: Any, affine: Affine) -> Any:
    return affine_transform(geometry, [affine.xx, affine.xy, affine.yx, affine.yy, affine.x0, affine.y0])


def outlines(table: ShapeTable) -> list[Any]:
    return list(to_shapely(table.polygons))


def boxes(table: ShapeTable) -> np.ndarray[Any, Any]:
    return measure(table.polygons).boxes


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_polygons_and_multipolygons_are_mapped(tmp_path: Path, encoding: str) -> None:
    geometries = [SQUARE, HOLED, TWO] if encoding != "geoarrow" else [SQUARE, HOLED]
    table = read(
        write_shapes(tmp_path, frame(geometries, index=[7, 9, 11][: len(geometries)]), encoding), TURN
    )
    for found, given_ in zip(outlines(table), geometries, strict=True):
        assert found.equals(mapped(given_, TURN))
    assert table.polygons.xy.dtype == np.float64
    assert (table.kind == POLYGON).all()
    assert table.label.tolist() == [7, 9, 11][: len(geometries)]
    assert table.key is None
    assert table.columns == {}
    assert table.refused.count == 0
    assert table.warnings == ()


def test_geoarrow_of_multipolygons(tmp_path: Path) -> None:
    table = read(write_shapes(tmp_path, frame([TWO, shapely.MultiPolygon([HOLED])]), "geoarrow"))
    assert [shape.equals(wanted) for shape, wanted in zip(outlines(table), [TWO, HOLED], strict=True)] == [
        True
    ] * 2


POLYGONS = st.lists(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 20), st.integers(1, 20)),
        min_size=1,
        max_size=3,
    ),
    min_size=1,
    max_size=6,
)
SCALES = st.floats(0.1, 10) | st.floats(-10, -0.1)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(POLYGONS, st.sampled_from(ENCODINGS), SCALES, SCALES, st.floats(0, 6.3), st.floats(-100, 100))
def test_areas_and_boxes_are_those_of_shapely(
    tmp_path: Path, rows: Any, encoding: str, sx: float, sy: float, angle: float, shift: float
) -> None:
    geometries = [shapely.union_all([shapely.box(x, y, x + w, y + h) for x, y, w, h in row]) for row in rows]
    if encoding == "geoarrow":
        geometries = [shapely.multipolygons(shapely.get_parts(geometry)) for geometry in geometries]
    turn = Affine(math.cos(angle), -math.sin(angle), shift, math.sin(angle), math.cos(angle), -shift)
    affine = Affine(xx=sx, yy=sy).then(turn)
    table = read(write_shapes(tmp_path / str(next(NUMBERS)), frame(geometries), encoding), affine)
    expected = gpd.GeoSeries(geometries).affine_transform(
        [affine.xx, affine.xy, affine.yx, affine.yy, affine.x0, affine.y0]
    )
    found = measure(table.polygons)
    assert table.refused.count == 0
    assert np.allclose(found.boxes, expected.bounds.to_numpy(), atol=1e-9)
    assert np.allclose(found.area, expected.area, rtol=1e-9)
    assert np.array_equal(table.object, np.arange(len(rows)))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_z_coordinates_are_left_out(tmp_path: Path, encoding: str) -> None:
    shapes = [shapely.force_3d(SQUARE, 3.0), shapely.force_3d(HOLED, 4.0)]
    table = read(write_shapes(tmp_path, frame(shapes), encoding))
    assert [shape.equals(wanted) for shape, wanted in zip(outlines(table), [SQUARE, HOLED], strict=True)] == [
        True
    ] * 2


# Labels, keys and properties.


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_index_of_texts_gives_keys(tmp_path: Path, encoding: str) -> None:
    index = pd.Index(["aaab-1", "aaac-1"], name=None if encoding == "ragged" else "cell_id", dtype=object)
    table = read(write_shapes(tmp_path, frame([SQUARE, HOLED], index=index), encoding))
    assert table.key == ("aaab-1", "aaac-1")
    assert table.label.tolist() == [1, 2]
    name = "index" if encoding == "ragged" else "cell_id"
    assert table.columns[name].to_pylist() == ["aaab-1", "aaac-1"]


def test_an_index_without_name_is_called_index(tmp_path: Path) -> None:
    table = read(write_shapes(tmp_path, frame([SQUARE], index=pd.Index(["a"], dtype=object))))
    assert table.key == ("a",)
    assert list(table.columns) == ["index"]
    shapes = frame([SQUARE], index=pd.Index(["a"], dtype=object))
    shapes["index"] = [3]
    other = read(write_shapes(tmp_path / "b", shapes))
    assert other.key == ("a",)
    assert other.columns["index"].to_pylist() == [3]


def test_a_column_of_labels_beside_keys(tmp_path: Path) -> None:
    shapes = frame(
        [SQUARE, HOLED], index=pd.Index(["a", "b"], name="id", dtype=object), label=[31, 32], n=[1, 2]
    )
    table = read(write_shapes(tmp_path, shapes))
    assert table.label.tolist() == [31, 32]
    assert table.key == ("a", "b")
    assert {name: values.to_pylist() for name, values in table.columns.items()} == {
        "id": ["a", "b"],
        "n": [1, 2],
    }


def test_labels_that_are_missing_are_no_labels(tmp_path: Path) -> None:
    shapes = frame([SQUARE, HOLED], index=pd.Index(["a", "b"], name="id", dtype=object), label=[31, None])
    table = read(write_shapes(tmp_path, shapes))
    assert table.label.tolist() == [1, 2]
    assert table.columns["label"].to_pylist() == [31.0, None]


def test_an_index_of_numbers_wins_over_a_column(tmp_path: Path) -> None:
    table = read(write_shapes(tmp_path, frame([SQUARE, HOLED], index=[5, 3], label=[31, 32])))
    assert table.label.tolist() == [5, 3]
    assert table.columns["label"].to_pylist() == [31, 32]


@pytest.mark.parametrize(("start", "step"), [(0, 1), (5, 3)])
def test_an_index_that_only_counts_is_not_in_the_file(tmp_path: Path, start: int, step: int) -> None:
    index = pd.RangeIndex(start, start + 2 * step, step)
    table = read(write_shapes(tmp_path, frame([SQUARE, HOLED], index=index)))
    assert table.label.tolist() == [start, start + step]


@pytest.mark.parametrize(
    "stated",
    [
        b"{",
        b"3",
        b"{}",
        b"[" * 5000,
        b'{"index_columns": 3}',
        b'{"index_columns": [{"kind": "range"}]}',
        b'{"index_columns": [{"start": 9223372036854775807, "step": 1}]}',
    ],
)
def test_rows_are_counted_where_there_is_no_index(tmp_path: Path, stated: bytes) -> None:
    import pyarrow.parquet as pq

    root = write_shapes(tmp_path, frame([SQUARE, HOLED]))
    file = root / "shapes" / "s" / "shapes.parquet"
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"pandas": stated}), file)
    assert read(root).label.tolist() == [1, 2]


def test_columns_are_properties_with_their_types(tmp_path: Path) -> None:
    shapes = frame(
        [SQUARE, HOLED],
        name=pd.Categorical(["a", None]),
        ok=[True, False],
        score=np.array([0.5, np.nan], np.float32),
    )
    table = read(write_shapes(tmp_path, shapes))
    assert {name: str(values.type) for name, values in table.columns.items()} == {
        "name": "string",
        "ok": "bool",
        "score": "double",
    }
    assert table.columns["name"].to_pylist() == ["a", None]
    assert table.columns["score"].to_pylist() == [0.5, None]


# Rows and stores that cannot be used.


def test_bad_rows_leave_the_others(tmp_path: Path) -> None:
    line = shapely.Polygon([(0, 0), (1, 1), (2, 2), (0, 0)])
    wild = shapely.Polygon([(0, 0), (math.inf, 0), (1, 1), (0, 0)])
    bow = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4), (0, 0)])
    shapes = frame([SQUARE, None, shapely.Polygon(), line, wild, bow, HOLED], index=range(10, 17))
    table = read(write_shapes(tmp_path, shapes), TURN)
    assert table.label.tolist() == [10, 15, 16]
    assert table.refused.count == 4
    assert [reason.split(",")[0] for reason in table.refused.reasons] == ["row 2", "row 3", "row 4", "row 5"]
    assert measure(table.polygons).area.tolist() == [64, 32, 320]
    assert "1 invalid polygon was repaired, first in row 6" in table.warnings


def ragged(path: Path, **arrays: Any) -> Path:
    """Ragged polygons: a square, then what replaces its arrays."""
    root = write_ragged(write_root(path / "a.zarr", "0.1"), [SQUARE, HOLED], [1, 2])
    for name, values in arrays.items():
        write_values(root / "shapes" / "s" / name, np.asarray(values))
    return root


def test_bad_rows_of_ragged_arrays_leave_the_others(tmp_path: Path) -> None:
    coords = np.concatenate(
        [shapely.get_coordinates(SQUARE), [[0, 0], [1, 1]], [[0, 0], [1, np.nan], [1, 1]]]
    )
    coords = np.concatenate([coords, shapely.get_coordinates(SQUARE) + 9])
    rings = [0, 5, 7, 10, 15]
    root = ragged(tmp_path, coords=coords, offset0=rings, offset1=[0, 1, 2, 3, 3, 4], Index=[1, 2, 3, 4, 5])
    table = read(root)
    assert table.label.tolist() == [1, 5]
    assert measure(table.polygons).boxes.tolist() == [[0, 0, 4, 4], [9, 9, 13, 13]]
    assert table.refused.reasons == (
        "row 2, column 'coords': a ring has fewer than three vertices",
        "row 3, column 'coords': a coordinate is not finite",
        "row 4, column 'coords': the geometry, or a part of it, is empty",
    )


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"offset0": [0, 5, 10, 3]}, r"s/offset0\]: must ascend from 0 to 15"),
        ({"offset0": [0, 9, 5, 15]}, "must ascend"),
        ({"offset0": [1, 5, 10, 15]}, "must ascend"),
        ({"offset1": [0, 1, 2]}, r"s/offset1\]: must ascend from 0 to 3"),
        ({"offset1": np.array([], np.int64)}, "must hold integers, at least one"),
        ({"offset1": [0.0, 1.0, 3.0]}, "must hold integers"),
        ({"coords": np.zeros((15, 4))}, r"s/coords\]: has 4 columns"),
        ({"coords": np.zeros(15)}, "has 1 axes instead of 2"),
        ({"coords": np.array([["a"] * 2] * 15)}, "instead of numbers"),
        ({"Index": [1, 2, 3]}, r"s/Index\]: has 3 entries for 2 shapes"),
    ],
)
def test_ragged_arrays_that_do_not_fit_are_damaged(tmp_path: Path, arrays: Any, text: str) -> None:
    with pytest.raises(SourceDamaged, match=text):
        read(ragged(tmp_path, **arrays))


def test_other_types_of_ragged_arrays_are_refused(tmp_path: Path) -> None:
    root = ragged(tmp_path)
    document = root / "shapes" / "s" / ".zattrs"
    for geos in ({"name": "LINESTRING", "type": 1}, {"name": []}, 3, None):
        attributes = json.loads(document.read_text())
        attributes["spatialdata_attrs"]["geos"] = geos
        document.write_text(json.dumps(attributes))
        with pytest.raises(
            SourceRefused, match=r"\[shapes/s\]: geos.name is .*; it may be POINT, POLYGON, M"
        ):
            read(root)


def test_elements_without_their_file(tmp_path: Path) -> None:
    root = write_root(tmp_path / "a.zarr")
    with pytest.raises(SourceDamaged, match=r"\[shapes/s\]: there is no such group"):
        read(root)
    element = write_element(root, "s")
    with pytest.raises(SourceDamaged, match=r"\[shapes/s/shapes.parquet\]: there is no such file"):
        read(root)
    (element / "shapes.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(SourceDamaged, match=r"\[shapes/s/shapes.parquet\]: is no Parquet file"):
        read(root)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_limits(tmp_path: Path, encoding: str) -> None:
    root = write_shapes(tmp_path, frame([SQUARE, HOLED]), encoding)
    with pytest.raises(SourceRefused, match=r"shapes/s.*allowed"):
        read(root, limits=replace(LIMITS, table_rows=1))
    with pytest.raises(SourceRefused, match=r"shapes/s.*allowed"):
        read(root, limits=replace(LIMITS, table_vertices=10))
    with pytest.raises(SourceRefused, match=r"shapes/s.*allowed"):
        read(root, limits=replace(LIMITS, table_bytes=100))
    assert len(read(root, limits=replace(LIMITS, table_rows=2, table_vertices=15)).polygons) == 2
