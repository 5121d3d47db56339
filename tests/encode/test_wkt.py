"""CSV with WKT, read by csv, shapely and GDAL."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from roiservice.encode.text import wkt_texts
from roiservice.encode.wkt import _cell
from roiservice.geometry.features import Features
from roiservice.geometry.frames import Frame
from roiservice.geometry.polygons import to_shapely
from tests.encode.support import ODD_PROPERTIES, features_of, whole
from tests.encode.test_geojson import cells
from tests.strategies import patterns


def table_of(features: Features) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(whole("wkt", features).decode(), newline="")))


@settings(max_examples=60, deadline=None)
@given(
    patterns,
    st.sampled_from(
        [
            Frame(),
            Frame(1.306, 1 / 3, 1e6, -0.1),
            Frame(1 / 3, 1 / 7, 1e-4 / 3, -0.1),
            Frame(1e-5 / 3, 1e-3 / 7),
        ]
    ),
)
def test_geometries_are_the_polygons(pattern: NDArray[Any], frame: Frame) -> None:
    features = features_of(pattern, frame=frame)
    rows = table_of(features)
    assert len(rows) == len(features)
    for row, shape in zip(rows, to_shapely(features.polygons), strict=True):
        read = shapely.from_wkt(row["WKT"])
        assert read.geom_type == shape.geom_type
        assert np.array_equal(shapely.get_coordinates(read), shapely.get_coordinates(shape))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text() | st.integers() | st.booleans() | st.none() | st.floats(-1e9, 1e9), min_size=2))
def test_cells_are_quoted_as_the_standard_library_does(values: list[object]) -> None:
    plain = [str(value).lower() if isinstance(value, bool) else value for value in values]
    plain = [int(value) if isinstance(value, float) and value.is_integer() else value for value in plain]
    expected = io.StringIO()
    csv.writer(expected, lineterminator="\r\n").writerow(plain)
    assert b",".join(map(_cell, values)) + b"\r\n" == expected.getvalue().encode()


@settings(max_examples=60, deadline=None)
@given(patterns)
def test_lattice_points_are_spelled_as_by_geos(pattern: NDArray[Any]) -> None:
    polygons = features_of(pattern).polygons
    assert [text.decode() for text in wkt_texts(polygons)] == shapely.to_wkt(
        to_shapely(polygons), rounding_precision=-1
    ).tolist()


def test_columns() -> None:
    features = features_of(
        cells(), place=(-1, 0, 4), colors={1: (255, 0, 16, 8)}, properties={2: {"class": "a,b"}}
    )
    first, second, _ = table_of(features)
    assert list(first) == ["WKT", "id", "label", "layer", "z", "t", "c", "area", "color", "drawn_as", "class"]
    assert {name: first[name] for name in ("label", "layer", "z", "t", "c", "area", "color", "class")} == {
        "label": "1",
        "layer": "cells",
        "z": "4",
        "t": "",
        "c": "0",
        "area": "60",
        "color": "#ff001008",
        "class": "",
    }
    assert first["id"] == str(features.feature_id[0])
    assert second["class"] == "a,b"


@pytest.mark.parametrize("label", [2**64 - 1, -(2**63), 2**53 + 1])
def test_labels_of_any_size(label: int) -> None:
    assert table_of(features_of(np.ones((1, 1), int), labels=[label]))[0]["label"] == str(label)


def test_odd_properties_survive() -> None:
    (row,) = table_of(features_of(np.ones((2, 2), np.uint8), properties={1: ODD_PROPERTIES}))
    assert row["class"] == ODD_PROPERTIES["class"]
    assert row['quote" \\ \n\t,;'] == 'a "b"\r\n, c\u2028\u0000d'
    assert (row["endless"], row["yes"], "nothing" in row, "missing" in row) == ("", "true", False, False)
    assert json.loads(row["nested"]) == ODD_PROPERTIES["nested"]
    assert (int(row["huge"]), float(row["score"]), float(row["large"])) == (2**63 - 1, 0.1, 1.5e300)
    assert (row["label"], row["property:label"]) == ("1", "reserved")
    assert None not in row


@pytest.mark.parametrize("name", ["WKT", "id", "wkt", "color", "layer"])
def test_no_column_is_there_twice(name: str) -> None:
    features = features_of(cells(), properties={1: {name: "own"}})
    header = whole("wkt", features).decode().split("\r\n")[0].split(",")
    assert len({column.lower() for column in header}) == len(header), (
        "GDAL takes names for equal whatever their case"
    )
    row = table_of(features)[0]
    assert row["id"] == str(features.feature_id[0])
    assert row["WKT"].startswith("POLYGON")
    assert "own" in row.values()


def test_gdal_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    features = features_of(cells(), frame=Frame(1.306, 1.306), properties={1: {"class": "Épi", "id": 5}})
    path.write_bytes(whole("wkt", features))
    table = pyogrio.read_dataframe(path)
    assert table.geometry.area.tolist() == pytest.approx(features.area.tolist())
    assert [int(label) for label in table["label"]] == features.label.tolist()
    assert table["class"].tolist()[0] == "Épi"
