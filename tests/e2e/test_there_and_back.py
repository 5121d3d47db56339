"""What is exported and given as a table again is the same: every format, every kind of shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, assume, given, settings

from roiservice.bootstrap import Services, build_services
from roiservice.commands.export import export
from roiservice.encode.formats import FORMATS
from roiservice.layers import Layer
from roiservice.query.columns import read_features
from roiservice.settings import Settings
from tests.stores import write_image
from tests.strategies import label_planes

SUFFIXES = {
    "geojson": ".geojson",
    "ndjson": ".ndjson",
    "wkt": ".csv",
    "parquet": ".parquet",
    "qupath": ".geojson",
}
DRAWN = {
    "type": "FeatureCollection",
    "features": [
        {"type": "Feature", "properties": {"label": label, "note": f"n {label}"}, "geometry": geometry}
        for label, geometry in enumerate(
            [
                {
                    "type": "Polygon",
                    "coordinates": [[[1, 1], [9, 1], [9, 6], [1, 1]], [[5, 2], [7, 2], [7, 3], [5, 2]]],
                },
                {"type": "MultiPoint", "coordinates": [[1, 2], [3.5, 4]]},
                {"type": "Point", "coordinates": [7, 7]},
                {"type": "LineString", "coordinates": [[0, 0], [3, 4]]},
                {"type": "MultiLineString", "coordinates": [[[0, 0], [3, 4], [9, 9]], [[1, 1], [2, 2]]]},
            ],
            1,
        )
    ],
}


def only_layer(folder: Path, path: Path) -> tuple[Services, Layer]:
    own = Settings(catalog_dir=folder / "catalogs", state_dir=folder / "state")
    services = build_services(own, [(None, str(path))])
    (image,) = services.images.page(0, 2)
    (layer,) = services.layers.of(image).layers
    return services, layer


def features_of(folder: Path, path: Path) -> list[dict[str, Any]]:
    services, layer = only_layer(folder, path)
    catalog = services.layers.catalog(layer)
    features = read_features(catalog, np.arange(len(catalog.features["place"])))
    return [json.loads(each) for each in FORMATS["geojson"].encode(features)]


def there_and_back(
    folder: Path, path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    monkeypatch.setenv("ROISERVICE_CATALOG_DIR", str(folder / "catalogs"))
    monkeypatch.setenv("ROISERVICE_STATE_DIR", str(folder / "state"))
    target = folder / f"{path.stem}-{name}{SUFFIXES[name]}"
    assert export(str(path), [], name, layer=None, z=None, t=None, output=target, overrides={}) == 0
    return features_of(folder, target)


def bare(features: list[dict[str, Any]], name: str) -> list[tuple[Any, ...]]:
    """Without ids and the layer's name; QuPath has no plane "all", and measurements of its own."""
    out = []
    for feature in features:
        own = {key: value for key, value in feature["properties"].items() if key != "layer"}
        if name == "qupath":
            own = {"label": str(own.get("label", own.get("name")))}
        out.append((feature["geometry"], own))
    return out


@pytest.mark.parametrize("name", SUFFIXES)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(label_planes())
def test_label_images(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, name: str, plane: np.ndarray
) -> None:
    folder = tmp_path_factory.mktemp("labels")
    stated = {
        "properties": [{"label-value": 1, "class": 'ü "x", 1'}],
        "colors": [{"label-value": 1, "rgba": [1, 2, 3, 4]}],
    }
    path = write_image(folder / "image.zarr", labels={"cells": plane}, image_label=stated)
    expected = features_of(folder, path)
    assume(expected)
    assume(all(abs(int(f["properties"]["label"])) < 2**63 for f in expected))  # others come back as text
    assert bare(there_and_back(folder, path, name, monkeypatch), name) == bare(expected, name)


@pytest.mark.parametrize("name", SUFFIXES)
def test_points_and_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "drawn.geojson").write_text(json.dumps(DRAWN))
    expected = features_of(tmp_path, tmp_path / "drawn.geojson")
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in expected]
    asked = [shapely.geometry.shape(feature["geometry"]) for feature in DRAWN["features"]]
    assert all(any(shape.equals(other) for other in asked) for shape in shapes)
    assert len(shapes) == len(asked)
    assert bare(there_and_back(tmp_path, tmp_path / "drawn.geojson", name, monkeypatch), name) == bare(
        expected, name
    )
