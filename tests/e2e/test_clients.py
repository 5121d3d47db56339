"""GDAL against the running service: fields, boxes and pages. More of it is in tests/web."""

from __future__ import annotations

from collections.abc import Iterator

import geopandas
import pyogrio
import pytest
import shapely

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
    assert set(window["label"]) == set(coins[coins.intersects(shapely.box(0, 0, 100, 100))]["label"])


def test_gdal_follows_the_pages(service: Running) -> None:
    coins = geopandas.read_file(f"OAPIF:{service.base}/images/1", layer=LAYER, PAGE_SIZE=5)
    assert sorted(coins["label"]) == list(range(1, COINS + 1))
