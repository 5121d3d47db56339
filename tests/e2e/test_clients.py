"""Clients that people use, against the running service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import geopandas
import pyogrio
import pytest
from owslib.ogcapi.features import Features

from tests.e2e.support import Home, Running, serving

LAYER = "labels:coins"
COINS = 24
AREA = 38_893  # pixels


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The demo image, served as image 1."""
    with serving(Home(tmp_path_factory.mktemp("home")), command="demo") as running:
        yield running


def test_gdal_reads_layers_fields_and_boxes_in_pixels(service: Running) -> None:
    source = f"OAPIF:{service.base}/images/1"
    assert [name for name, _ in pyogrio.list_layers(source)] == [LAYER, "labels:table"]
    coins = geopandas.read_file(source, layer=LAYER)
    assert (len(coins), coins.area.sum(), coins.crs) == (COINS, AREA, None)
    assert {"label", "layer", "area", "name", "diameter"} <= set(coins.columns)
    window = geopandas.read_file(source, layer=LAYER, bbox=(0, 0, 100, 100))
    assert set(window["label"]) == set(coins[coins.intersects(_square(100))]["label"])


def test_gdal_follows_the_pages(service: Running) -> None:
    coins = geopandas.read_file(f"OAPIF:{service.base}/images/1", layer=LAYER, PAGE_SIZE=5)
    assert sorted(coins["label"]) == list(range(1, COINS + 1))


@pytest.mark.parametrize("form", ["geojson", "ndjson", "wkt"])
def test_gdal_reads_every_file(service: Running, tmp_path: Path, form: str) -> None:
    suffix = {"geojson": "geojson", "ndjson": "geojsonl", "wkt": "csv"}[form]
    _, body, _ = service.get(f"/images/1/collections/{LAYER}/items?f={form}")
    (tmp_path / f"coins.{suffix}").write_bytes(body)
    coins = geopandas.read_file(tmp_path / f"coins.{suffix}", engine="pyogrio")
    pixels = coins.set_crs(None, allow_override=True)  # files of GeoJSON count as WGS 84 to GDAL
    assert (len(pixels), pixels.area.sum()) == (COINS, AREA)


def test_owslib_walks_from_the_landing_page(service: Running) -> None:
    client = Features(f"{service.base}/images/1")
    assert client.feature_collections() == [LAYER, "labels:table"]
    assert client.api()["openapi"].startswith("3.0")
    assert client.conformance()["conformsTo"]
    assert client.collection(LAYER)["id"] == LAYER
    page = client.collection_items(LAYER, limit=3)
    assert (page["numberMatched"], page["numberReturned"]) == (COINS, 3)
    assert client.collection_items(LAYER, bbox=[0, 0, 100, 100])["numberMatched"] == 2


def _square(size: int) -> object:
    import shapely

    return shapely.box(0, 0, size, size)
