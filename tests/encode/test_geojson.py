"""GeoJSON against shapely, geojson, geopandas and GDAL."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import geojson
import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from roiservice.encode.formats import FORMATS
from roiservice.geometry.frames import Frame
from roiservice.geometry.polygons import to_shapely
from tests.encode.support import ODD_PROPERTIES, features_of, strict, whole
from tests.strategies import patterns, rings_in_rings

some = settings(max_examples=60, deadline=None)
OWN = ["label", "layer", "z", "t", "c", "area"]


def cells() -> NDArray[Any]:
    plane = np.zeros((30, 30), np.uint16)
    plane[1:9, 1:9] = 1
    plane[3:5, 3:5] = 0
    plane[12:15, 2:5] = plane[12:15, 10:13] = 2
    plane[20:25, 20:25] = 3
    return plane


@some
@given(patterns, st.booleans())
def test_geometries_are_the_polygons(pattern: NDArray[Any], scaled: bool) -> None:
    features = features_of(pattern, frame=Frame(1.306, 0.7, 3.25, -8.0) if scaled else None)
    collection = strict(whole("geojson", features))
    shapes = to_shapely(features.polygons)
    assert len(collection["features"]) == len(shapes)
    for feature, shape in zip(collection["features"], shapes, strict=True):
        read = shapely.geometry.shape(feature["geometry"])
        assert read.geom_type == shape.geom_type
        assert read.equals(shape)
        for polygon in shapely.get_parts(read):
            assert polygon.exterior.is_ccw, "right-hand rule in the numbers as given"
            assert not any(ring.is_ccw for ring in polygon.interiors)


@some
@given(patterns)
def test_the_geojson_library_finds_nothing_wrong(pattern: NDArray[Any]) -> None:
    collection = geojson.loads(whole("geojson", features_of(pattern)))
    assert collection.errors() == []
    assert all(feature.is_valid for feature in collection["features"])


def test_members_of_a_feature() -> None:
    features = features_of(
        cells(), place=(2, -1, 5), colors={3: (1, 2, 3, 255)}, properties={3: {"class": "x", "score": 0.5}}
    )
    first, second, third = strict(whole("geojson", features))["features"]
    assert set(first) == {"type", "id", "geometry", "properties"}
    assert list(first["properties"]) == OWN
    assert first["properties"] == {"label": 1, "layer": "cells", "z": 5, "t": 2, "c": None, "area": 60}
    assert (first["id"], first["geometry"]["type"]) == (int(features.feature_id[0]), "Polygon")
    assert second["geometry"]["type"] == "MultiPolygon"
    assert third["properties"] == {
        **first["properties"],
        "label": 3,
        "area": 25,
        "color": [1, 2, 3, 255],
        "class": "x",
        "score": 0.5,
    }


def test_areas_are_whole_numbers_only_where_they_are() -> None:
    features = features_of(cells(), frame=Frame(1.306, 1.0))
    areas = [feature["properties"]["area"] for feature in strict(whole("geojson", features))["features"]]
    assert areas == features.area.tolist()
    assert b'"area":60,' in whole("geojson", features_of(cells())) or b'"area":60}' in whole(
        "geojson", features_of(cells())
    )


@pytest.mark.parametrize(
    "label", [2**53 - 1, 2**53, 2**53 + 1, 2**63, 2**64 - 1, -1, -(2**53) + 1, -(2**53), -(2**63)]
)
@pytest.mark.parametrize("name", ["geojson", "ndjson"])
def test_labels_that_javascript_cannot_hold_are_strings(name: str, label: int) -> None:
    text = whole(name, features_of(np.ones((2, 2), np.uint8), labels=[label]))
    document = strict(text)
    (feature,) = document["features"] if name == "geojson" else [document]
    assert feature["properties"]["label"] == (label if abs(label) < 2**53 else str(label))


def test_ids_are_whole_numbers_that_javascript_holds() -> None:
    for feature in strict(whole("geojson", features_of(cells())))["features"]:
        assert isinstance(feature["id"], int)
        assert 0 < feature["id"] < 2**53


def test_odd_properties_survive() -> None:
    (feature,) = strict(
        whole("geojson", features_of(np.ones((2, 2), np.uint8), properties={1: ODD_PROPERTIES}))
    )["features"]
    own = feature["properties"]
    for name, value in ODD_PROPERTIES.items():
        if name in {"label", "area"}:
            assert own[f"property:{name}"] == value
        elif value is None or (isinstance(value, float) and not np.isfinite(value)):
            assert name not in own
        else:
            assert own[name] == value
    assert (own["label"], own["area"]) == (1, 4)


@pytest.mark.parametrize("layer", ["cells", 'a "b" \\ ü', "labels:x", "\u2028", "細胞"])
def test_layer_names_of_any_kind(layer: str) -> None:
    for name in ("geojson", "qupath", "omero", "wkt", "ndjson"):
        text = whole(name, features_of(cells(), layer=layer)).decode()
        if name in ("geojson", "ndjson"):
            assert json.loads(text.split("\n")[0] if name == "ndjson" else text)
        assert text


def test_no_features_are_a_valid_file() -> None:
    nothing = features_of(np.zeros((4, 4), np.uint8))
    assert strict(whole("geojson", nothing)) == {"type": "FeatureCollection", "features": []}
    assert strict(whole("qupath", nothing)) == {"type": "FeatureCollection", "features": []}
    assert strict(whole("omero", nothing)) == {"data": []}
    assert whole("ndjson", nothing) == b""
    assert whole("wkt", nothing).count(b"\n") == 1


def test_lines_are_the_same_features_one_each() -> None:
    features = features_of(cells(), properties={1: ODD_PROPERTIES})
    lines = whole("ndjson", features).decode().removesuffix("\n").split("\n")
    assert [json.loads(line) for line in lines] == strict(whole("geojson", features))["features"]


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_batches_join_to_the_same_file(name: str) -> None:
    form = FORMATS[name]
    features = features_of(rings_in_rings(30), properties={1: {"a": 1}})
    more = features_of(cells(), properties={1: {"a": 1}})
    joined = form.separator.join([*form.encode(features), *form.encode(more)])
    assert joined == form.separator.join(
        [form.separator.join(form.encode(features)), form.separator.join(form.encode(more))]
    )
    assert all(isinstance(each, bytes) for each in form.encode(more))


@pytest.mark.parametrize("side", [2.0**20, 2.0**26.5, 2.0**40])
def test_areas_of_any_size_are_exact(side: float) -> None:
    features = features_of(np.ones((1, 1), int), frame=Frame(side, side))
    (feature,) = strict(whole("geojson", features))["features"]
    assert feature["properties"]["area"] == features.area[0] == side * side
    (row,) = csv.DictReader(io.StringIO(whole("wkt", features).decode()))
    assert float(row["area"]) == side * side


@pytest.mark.parametrize("frame", [Frame(), Frame(1.306, 1.306, 0.153, 0.153)])
def test_geopandas_and_gdal_read_it(tmp_path: Path, frame: Frame) -> None:
    features = features_of(cells(), frame=frame, properties={1: {"class": "Épi", "score": 1.5}})
    path = tmp_path / "cells.geojson"
    path.write_bytes(whole("geojson", features))
    table = geopandas.read_file(path)
    assert table["label"].tolist() == features.label.tolist()
    assert table["class"].tolist()[0] == "Épi"
    assert table.geometry.is_valid.all()
    assert table.geometry.area.tolist() == pytest.approx(features.area.tolist())
    assert pyogrio.read_info(path)["features"] == 3
    lines = tmp_path / "cells.geojsonl"
    lines.write_bytes(whole("ndjson", features))
    assert len(pyogrio.read_dataframe(lines)) == 3
