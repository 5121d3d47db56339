"""Hold the tables of the sample data to what geopandas reads, and all layers to what comes back from exports.

Usage: tables.py SHARED, the folder with data/. Exit code 1 if anything differs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import shapely

from roiservice.bootstrap import Services, build_services
from roiservice.commands.export import export
from roiservice.encode.formats import FORMATS
from roiservice.layers import Layer
from roiservice.query.columns import read_features
from roiservice.settings import Settings

FORMATS_BACK = {"geojson": ".geojson", "wkt": ".csv", "qupath": ".geojson", "parquet": ".parquet"}
Row = tuple[Any, ...]


def main() -> int:
    data = Path(sys.argv[1]).resolve() / "data"
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(
            ROISERVICE_CATALOG_DIR=f"{scratch}/catalogs", ROISERVICE_STATE_DIR=f"{scratch}/state"
        )
        checks = [
            *files(data, Path(scratch)),
            *letters(data, Path(scratch)),
            *round_trips(data, Path(scratch)),
        ]
    for name, problem in checks:
        if problem:
            failures += 1
            print(f"{name}: {problem}")
    print(f"tables: {len(checks)} checks, {failures} failures")
    return 1 if failures else 0


def services_at(scratch: Path, *paths: Path) -> Services:
    settings = Settings(catalog_dir=scratch / "catalogs", state_dir=scratch / "state")
    return build_services(settings, [(None, str(path)) for path in paths])


def layers_of(services: Services) -> Iterator[Layer]:
    for image in services.images.page(0, services.images.total()):
        yield from services.layers.of(image).layers


def features_of(services: Services, layer: Layer) -> list[dict[str, Any]]:
    catalog = services.layers.catalog(layer)
    rows = np.arange(len(catalog.features["place"]))
    return [json.loads(each) for each in FORMATS["geojson"].encode(read_features(catalog, rows))]


def files(data: Path, scratch: Path) -> Iterator[tuple[str, str]]:
    """Row counts, boxes and areas of table files, in the order of the file, against geopandas."""
    for path in sorted((data / "tables").glob("text_letters_*")):
        if path.suffix == ".csv":
            table = pandas.read_csv(path)
            shapes = shapely.from_wkt(table["wkt" if "wkt" in table else "WKT"])
        elif path.name.endswith("_wkt.parquet"):
            table = pandas.read_parquet(path)
            shapes = shapely.from_wkt(table[next(c for c in table if "wkt" in c.lower())])
        else:
            read = geopandas.read_parquet if path.suffix == ".parquet" else geopandas.read_file
            shapes = read(path).geometry.to_numpy()
        services = services_at(scratch, path)
        (layer,) = layers_of(services)
        found = [shapely.geometry.shape(each["geometry"]) for each in features_of(services, layer)]
        yield path.name, compared(np.array(found, object), np.asarray(shapes))


def compared(found: Any, expected: Any) -> str:
    """What differs between two sets of geometries; "" if nothing does."""
    if len(found) != len(expected):
        return f"{len(found)} instead of {len(expected)} rows"
    for what, measure in (("boxes", shapely.bounds), ("areas", shapely.area)):
        a, b = (np.sort(np.round(measure(each), 6), axis=0) for each in (found, expected))
        if not np.array_equal(a, b):
            return f"other {what}"
    return ""


def letters(data: Path, scratch: Path) -> Iterator[tuple[str, str]]:
    """The same objects as label image and as table give the same GeoJSON but for ids, layer and plane."""
    image = services_at(scratch, data / "v05_tczyx_letters_holes_u16.zarr")
    expected = [bare(each) for layer in layers_of(image) for each in features_of(image, layer)]
    for name in ("text_letters_geoparquet.parquet", "text_letters_gdal.geojson"):
        services = services_at(scratch, data / "tables" / name)
        (layer,) = layers_of(services)
        same = [bare(each) for each in features_of(services, layer)] == expected
        yield f"{name} as the label image", "" if same else "differs"


def bare(feature: dict[str, Any]) -> Row:
    own = {k: v for k, v in feature["properties"].items() if k not in ("layer", "z", "t", "c")}
    return feature["geometry"], own


def round_trips(data: Path, scratch: Path) -> Iterator[tuple[str, str]]:
    """Every layer, exported and read back as a table, has the same features and properties."""
    stores = [
        *sorted(data.glob("*.zarr")),
        *sorted(data.glob("*.ozx")),
        data / "repo_fractal-tasks-core_1.6.0",
    ]
    number = count(1)
    for store in stores:
        services = services_at(scratch, store)
        for layer in layers_of(services):
            expected = features_of(services, layer)
            if not expected:
                continue
            source = layer.source.image
            place = str(Path(source.location, source.path))
            for name, suffix in FORMATS_BACK.items():
                target = scratch / f"{next(number)}{suffix}"
                export(place, [], name, layer=layer.collection, z=None, t=None, output=target, overrides={})
                again = services_at(scratch, target)
                (back,) = layers_of(again)
                problem = differs(expected, features_of(again, back), name)
                yield f"{layer.image.name} {layer.collection} as {name}", problem


def differs(expected: list[dict[str, Any]], found: list[dict[str, Any]], name: str) -> str:
    if len(expected) != len(found):
        return f"{len(found)} instead of {len(expected)} features"
    for a, b in zip(in_order(expected, name), in_order(found, name), strict=True):
        if a[0] != b[0]:
            return f"another object or plane: {b[0]} instead of {a[0]}"
        if not shapely.equals_exact(a[1], b[1], tolerance=1e-9):
            return f"another geometry of {a[0]}"
        if a[2] != b[2]:
            return f"other properties of {a[0]}: {b[2]} instead of {a[2]}"
    return ""


def in_order(features: list[dict[str, Any]], name: str) -> list[Row]:
    """(label and plane, geometry, properties) of each; QuPath has no plane "all" and keeps numbers alone."""
    rows = []
    for feature in features:
        own = dict(feature["properties"])
        plane = [own.pop(axis) for axis in ("z", "t", "c")]
        own.pop("layer")
        area = round(own.pop("area"), 6)
        if name == "qupath":
            plane, own = [plane[0] or 0, plane[1] or 0, plane[2]], {}
        shape = shapely.geometry.shape(feature["geometry"])
        rows.append(
            ((str(own.pop("label", feature["properties"]["label"])), *map(str, plane), area), shape, own)
        )
    return sorted(rows, key=lambda row: (row[0], row[1].wkb))


if __name__ == "__main__":
    sys.exit(main())
