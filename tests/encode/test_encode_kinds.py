"""Rectangles, ellipses, points and lines leave as themselves where the format can say it."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from roiservice.encode.formats import FORMATS
from roiservice.encode.geoparquet import write_geoparquet
from roiservice.geometry.features import Features
from roiservice.geometry.kinds import (
    ELLIPSE,
    LINE,
    POINT,
    POLYGON,
    POLYLINE,
    RECTANGLE,
    ellipse_outlines,
    measure_kinds,
)
from tests.encode.support import strict, whole
from tests.geometry.test_kinds import shapes_of

OUTLINE = [tuple(xy) for xy in ellipse_outlines(np.array([[20.0, 10.0]]), np.array([[8.0, 4.0]]))[0].tolist()]


@pytest.fixture
def features() -> Features:
    polygons, kind = shapes_of(
        (RECTANGLE, [[(1, 2), (5.5, 2), (5.5, 4), (1, 4)]]),
        (ELLIPSE, [OUTLINE]),
        (POINT, [[(3, 4.25)]]),
        (POINT, [[(3, 4)], [(5, 6)]]),
        (LINE, [[(0, 0), (3, 4)]]),
        (POLYLINE, [[(0, 0), (3, 4), (3, 0)]]),
        (POLYGON, [[(0, 0), (4, 0), (4, 4)]]),
        (POLYLINE, [[(0, 0), (3, 4), (3, 0)], [(9, 9), (8, 8)]]),
    )
    measures = measure_kinds(polygons, kind)
    n = len(kind)
    return Features(
        layer="drawn",
        image_name="image",
        version=1,
        feature_id=10**15 + polygons.part_offsets[:-1],
        roi_id=10**15 + np.arange(n),
        label=np.arange(1, n + 1),
        kind=kind,
        t=np.zeros(n, np.int32),
        c=np.full(n, -1, np.int32),
        z=np.zeros(n, np.int32),
        area=measures.area,
        perimeter=measures.perimeter,
        centroid=measures.centroid,
        boxes=measures.boxes,
        polygons=polygons,
        color=[None] * n,
        properties={},
    )


def test_omero_has_all_of_them(features: Features) -> None:
    rois = strict(b"[" + b",".join(FORMATS["omero"].encode(features)) + b"]")
    shapes = [[{k: v for k, v in s.items() if k in WANTED} for s in roi["shapes"]] for roi in rois]
    prefix = "http://www.openmicroscopy.org/Schemas/OME/2016-06#"
    assert shapes == [
        [{"@type": f"{prefix}Rectangle", "X": 1, "Y": 2, "Width": 4.5, "Height": 2}],
        [{"@type": f"{prefix}Ellipse", "X": 20, "Y": 10, "RadiusX": 8, "RadiusY": 4}],
        [{"@type": f"{prefix}Point", "X": 3, "Y": 4.25}],
        [{"@type": f"{prefix}Point", "X": 3, "Y": 4}, {"@type": f"{prefix}Point", "X": 5, "Y": 6}],
        [{"@type": f"{prefix}Line", "X1": 0, "Y1": 0, "X2": 3, "Y2": 4}],
        [{"@type": f"{prefix}Polyline", "Points": "0.0,0.0 3.0,4.0 3.0,0.0"}],
        [{"@type": f"{prefix}Polygon", "Points": rois[6]["shapes"][0]["Points"]}],
        [
            {"@type": f"{prefix}Polyline", "Points": "0.0,0.0 3.0,4.0 3.0,0.0"},
            {"@type": f"{prefix}Polyline", "Points": "9.0,9.0 8.0,8.0"},
        ],
    ]
    ids = [shape["@id"] for roi in rois for shape in roi["shapes"]]
    assert ids == list(range(10**15, 10**15 + 10))
    assert all(
        shape["omero:details"]["permissions"]["canEdit"] is False for roi in rois for shape in roi["shapes"]
    )


WANTED = {"@type", "X", "Y", "Width", "Height", "RadiusX", "RadiusY", "X1", "X2", "Y1", "Y2", "Points"}


def geometry_of(features: Features) -> list[Any]:
    return [
        shapely.box(1, 2, 5.5, 4),
        shapely.Polygon(OUTLINE),
        shapely.Point(3, 4.25),
        shapely.MultiPoint([(3, 4), (5, 6)]),
        shapely.LineString([(0, 0), (3, 4)]),
        shapely.LineString([(0, 0), (3, 4), (3, 0)]),
        shapely.Polygon([(0, 0), (4, 0), (4, 4)]),
        shapely.MultiLineString([[(0, 0), (3, 4), (3, 0)], [(9, 9), (8, 8)]]),
    ]


@pytest.mark.parametrize("name", ["geojson", "qupath"])
def test_geojson_has_their_outlines_and_lines(features: Features, name: str) -> None:
    found = strict(whole(name, features))["features"]
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in found]
    for shape, expected in zip(shapes, geometry_of(features), strict=True):
        assert shape.equals(expected), (shape, expected)
        assert shape.geom_type == expected.geom_type
    if name == "geojson":
        drawn = [feature["properties"].get("drawn_as") for feature in found]
        assert drawn == ["Rectangle", "Ellipse", *[None] * 6]
    else:
        assert [f["geometry"].get("isEllipse") for f in found] == [None, True, *[None] * 6]


def test_wkt_has_them_too(features: Features) -> None:
    rows = list(csv.DictReader(io.StringIO(whole("wkt", features).decode(), newline="")))
    for row, expected in zip(rows, geometry_of(features), strict=True):
        assert shapely.from_wkt(row["WKT"]).equals(expected)
    assert [row["drawn_as"] for row in rows][:3] == ["Rectangle", "Ellipse", "Point"]


def test_geopandas_reads_the_parquet(features: Features) -> None:
    file = io.BytesIO()
    write_geoparquet(file, [[features]])
    table = geopandas.read_parquet(io.BytesIO(file.getvalue()))
    assert table.crs is None
    assert all(a.equals(b) for a, b in zip(table.geometry, geometry_of(features), strict=True))
    assert table["label"].tolist() == list(range(1, 9))
    assert table["area"].tolist() == features.area.tolist()
    assert table["c"].isna().all()
    assert json.loads(table.to_json())["type"] == "FeatureCollection"


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (pa.array([2, None] * 4), pa.array([0.5] * 8), [2.0, None, 0.5]),
        (pa.array([2**53 + 1, None] * 4), pa.array([0.5] * 8), [float(2**53), None, 0.5]),
        (pa.array([2, None] * 4), pa.array(["a"] * 8), ["2", None, "a"]),
        (pa.array([0.5, None] * 4), pa.array([True] * 8), ["0.5", None, "true"]),
        (pa.array([True, None] * 4), pa.array([b"[1]"] * 8, pa.large_binary()), ["true", None, "[1]"]),
    ],
)
def test_layers_need_not_agree_about_types_in_the_parquet(
    features: Features, one: pa.Array, other: pa.Array, both: list[object]
) -> None:
    file = io.BytesIO()
    write_geoparquet(file, [[replace(features, properties={"v": each})] for each in (one, other)])
    found = pq.read_table(io.BytesIO(file.getvalue()))["v"].to_pylist()
    assert [*found[:2], found[8]] == both


def test_labels_beyond_int64_are_in_the_parquet(features: Features) -> None:
    large = replace(features, label=features.label.astype(np.uint64) + np.uint64(2**63))
    file = io.BytesIO()
    write_geoparquet(file, [[large]])
    table = pq.read_table(io.BytesIO(file.getvalue()))
    assert table["label"].to_pylist() == [2**63 + label for label in range(1, 9)]


def test_labels_beyond_int64_are_null_beside_layers_that_may_have_negative_ones(features: Features) -> None:
    labels = np.array([1, 2**63 - 1, 2**63, 2**64 - 1, 5, 6, 7, 8], np.uint64)
    file = io.BytesIO()
    write_geoparquet(file, [[replace(features, label=labels)], [replace(features, label=-features.label)]])
    found = pq.read_table(io.BytesIO(file.getvalue()))["label"].to_pylist()
    assert found == [1, 2**63 - 1, None, None, 5, 6, 7, 8, *range(-1, -9, -1)]


def test_properties_called_like_columns_of_the_parquet_are_told_apart(features: Features) -> None:
    own = {
        name: pa.array([f"{name} {i}" for i in range(len(features))]) for name in ("id", "geometry", "note")
    }
    file = io.BytesIO()
    write_geoparquet(file, [[replace(features, properties=own)]])
    table = geopandas.read_parquet(io.BytesIO(file.getvalue()))
    assert table["id"].tolist() == features.feature_id.tolist()
    assert table["property:id"].tolist()[:2] == ["id 0", "id 1"]
    assert table["property:geometry"].tolist()[0] == "geometry 0"
    assert table["note"].tolist()[0] == "note 0"
