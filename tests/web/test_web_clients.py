"""Clients that others wrote read the service: GDAL, OWSLib, geojson, and what Python brings along."""

import gzip
import urllib.request

import geojson
import pyogrio
import pytest
import shapely
from owslib.ogcapi.features import Features


@pytest.fixture
def image_url(live_url):
    return f"{live_url}/images/1"


def test_gdal_reads_layers_and_boxes(image_url):
    source = f"OAPIF:{image_url}"
    assert {name for name, _ in pyogrio.list_layers(source)} == {"labels:rings", "labels:squares"}
    everything = pyogrio.read_dataframe(source, layer="labels:squares")
    assert len(everything) == 48
    assert set(everything.area) == {36}
    assert set(everything.columns) == {"label", "layer", "z", "t", "c", "area", "geometry"}
    # GDAL takes coordinates for degrees, and cuts boxes to them, where it is not told of another frame.
    assert len(pyogrio.read_dataframe(source, layer="labels:squares", bbox=(0, 0, 25, 25))) == 9


@pytest.mark.parametrize(("name", "suffix"), [("wkt", "csv"), ("ndjson", "geojsonl"), ("geojson", "geojson")])
def test_gdal_reads_the_other_formats(client, tmp_path, name, suffix):
    file = tmp_path / f"rings.{suffix}"
    file.write_bytes(client.get(f"/images/1/collections/labels:rings/items?f={name}").data)
    assert sorted(shapely.area(pyogrio.read_dataframe(file).geometry)) == [50, 300]


def test_owslib_finds_its_way(image_url):
    service = Features(image_url)
    assert service.feature_collections() == ["labels:rings", "labels:squares"]
    assert service.api()["openapi"] == "3.0.3"
    assert service.conformance()["conformsTo"]
    assert service.collection("labels:rings")["id"] == "labels:rings"
    found = service.collection_items("labels:squares", limit=3, bbox=[0, 0, 45, 45])
    assert (found["numberMatched"], found["numberReturned"]) == (25, 3)


def test_geojson_finds_nothing_wrong(client):
    for layer in ("1/collections/labels:rings", "1/collections/labels:squares", "2/collections/labels:cells"):
        collection = geojson.loads(client.get(f"/images/{layer}/items").data)
        assert collection.is_valid, collection.errors()
        assert all(feature.geometry.is_valid for feature in collection.features)


def test_a_spliced_answer_passes_through_a_real_server(live_url):
    request = urllib.request.Request(
        f"{live_url}/api/v0/m/rois/?image=1", headers={"Accept-Encoding": "gzip"}
    )
    with urllib.request.urlopen(request) as answer:
        packed = answer.read()
    with urllib.request.urlopen(f"{live_url}/api/v0/m/rois/?image=1") as answer:
        assert gzip.decompress(packed) == answer.read()


def test_a_stream_passes_through_a_real_server(live_url):
    url = f"{live_url}/images/1/collections/labels:squares/items?f=ndjson"
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})) as answer:
        assert len(gzip.decompress(answer.read()).splitlines()) == 48
