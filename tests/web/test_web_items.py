"""Features of a layer over HTTP."""

import csv
import io
import json
import re
import tracemalloc
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import shapely

from roiservice.encode.formats import FORMATS
from roiservice.query.detail import FULL, Detail
from roiservice.query.select import RoiQuery
from roiservice.web.pages import ItemsRequest, PageRequest, page_key
from tests.conftest import start_service
from tests.stores import write_image

ITEMS = "/images/1/collections/labels:squares/items"
RINGS = "/images/1/collections/labels:rings/items"
CELLS = "/images/2/collections/labels:cells/items"


def get(client, url, status=200, **headers):
    response = client.get(url, headers=headers)
    assert response.status_code == status, response.get_data(as_text=True)
    return response


def labels(client, url):
    return sorted(feature["properties"]["label"] for feature in get(client, url).json["features"])


def walk(client, url, rel="next"):
    """All pages from `url` on, by their links."""
    pages = []
    while url:
        page = get(client, url).json
        pages.append(page)
        url = next((link["href"] for link in page["links"] if link["rel"] == rel), None)
    return pages


def test_a_page_is_a_feature_collection(client):
    response = get(client, f"{ITEMS}?limit=5")
    page = response.json
    assert response.content_type == "application/geo+json"
    assert page["type"] == "FeatureCollection"
    assert (page["numberMatched"], page["numberReturned"], len(page["features"])) == (48, 5, 5)
    assert response.headers["Content-Crs"] == "<http://localhost/def/crs/pixel>"
    rels = {link["rel"]: link for link in page["links"]}
    assert set(rels) == {"self", "next", "alternate", "collection"}
    assert all(link["href"].startswith("http://localhost/") for link in page["links"])
    assert rels["next"]["type"] == "application/geo+json"
    assert '; rel="next"; type="application/geo+json"' in response.headers["Link"]


def test_features_are_the_objects(client):
    page = get(client, RINGS).json
    by_label = {feature["properties"]["label"]: feature for feature in page["features"]}
    ring, twin = by_label[7], by_label[70_000]
    assert shapely.area(shapely.geometry.shape(ring["geometry"])) == 300 == ring["properties"]["area"]
    assert ring["properties"]["color"] == [255, 0, 0, 128]
    assert ring["properties"]["class"] == "ring, hollow"
    assert twin["geometry"]["type"] == "MultiPolygon"
    assert twin["properties"]["layer"] == "rings"


@pytest.mark.parametrize("limit", [1, 7, 47, 48, 49, 1000])
@pytest.mark.parametrize("start", ["", "&offset=0"])
def test_walking_next_visits_each_feature_once(client, limit, start):
    pages = walk(client, f"{ITEMS}?limit={limit}{start}")
    ids = [feature["id"] for page in pages for feature in page["features"]]
    assert len(ids) == len(set(ids)) == 48
    assert all(page["numberMatched"] == 48 for page in pages)
    assert len(pages) == -(-48 // limit)


def test_next_keeps_all_filters(client):
    pages = walk(client, f"{ITEMS}?limit=2&bbox=0,0,45,45&min-area=1&z=0-3&t=0&_=17")
    ids = [feature["id"] for page in pages for feature in page["features"]]
    assert len(ids) == len(set(ids)) == 25 == pages[0]["numberMatched"]
    following = next(link for link in pages[0]["links"] if link["rel"] == "next")["href"]
    asked = {name: values[0] for name, values in parse_qs(urlsplit(following).query).items()}
    assert asked.pop("cursor")
    assert asked == {"bbox": "0,0,45,45", "min-area": "1", "z": "0-3", "t": "0", "limit": "2"}


def test_prev_leads_back_the_same_way(client):
    pages = walk(client, f"{ITEMS}?limit=7&offset=20", "prev")
    ids = [feature["id"] for page in reversed(pages) for feature in page["features"]]
    assert len(ids) == len(set(ids)) == 27


def test_an_offset_beyond_the_end_gives_an_empty_page(client):
    for offset in (48, 49, 10**15, "9" * 40):
        page = get(client, f"{ITEMS}?offset={offset}").json
        assert (page["features"], page["numberMatched"], page["numberReturned"]) == ([], 48, 0)
        assert "next" not in {link["rel"] for link in page["links"]}


def test_a_limit_above_the_largest_is_cut(client):
    assert get(client, f"{ITEMS}?limit=1000000000").json["numberReturned"] == 48


def test_filters(client):
    assert labels(client, f"{CELLS}?z=0&t=0") == [1, 10]
    assert labels(client, f"{CELLS}?z=1-2&t=0") == [1, 1, 5, 5, 11, 12]
    assert labels(client, f"{CELLS}?label=5,10&label=11") == [5, 5, 10, 11]
    assert labels(client, f"{CELLS}?label=999") == []
    assert labels(client, f"{CELLS}?min-area=17&t=0") == [5, 5]
    assert labels(client, f"{CELLS}?bbox=0,0,1,21,21,1&t=0") == [1, 5, 11]
    assert labels(client, f"{CELLS}?bbox=100,100,200,200") == []
    assert labels(client, f"{CELLS}?c=0&z=0&t=0") == [1, 10]


def test_the_pixel_frame_is_the_only_one(client):
    crs = get(client, "/images/1/collections/labels:squares").json["storageCrs"]
    assert get(client, crs).json["axes"][1]["direction"] == "down"
    page = get(client, f"{ITEMS}?limit=1&bbox=0,0,45,45&bbox-crs={crs}&crs={crs}").json
    following = next(link for link in page["links"] if link["rel"] == "next")["href"]
    assert parse_qs(urlsplit(following).query)["crs"] == [crs]
    assert (
        get(client, f"{ITEMS}?crs=http://www.opengis.net/def/crs/OGC/1.3/CRS84", 400).json["parameter"]
        == "crs"
    )


@pytest.mark.parametrize(
    ("query", "parameter"),
    [("x=1", "x"), ("limit=0", "limit"), ("offset=-1", "offset"), ("bbox=1,2", "bbox"), ("z=2-1", "z"),
     ("f=kml", "f"), ("label=a", "label"), ("min-area=-1", "min-area"), ("limit=1&limit=2", "limit")],
)  # fmt: skip
def test_a_bad_parameter_is_named(client, query, parameter):
    response = get(client, f"{ITEMS}?{query}", 400)
    assert response.content_type == "application/problem+json"
    assert response.json["parameter"] == parameter
    assert response.json["status"] == 400


def test_wkt_is_csv(client):
    response = get(client, f"{RINGS}?f=wkt")
    rows = list(csv.DictReader(io.StringIO(response.get_data(as_text=True))))
    assert response.content_type == "text/csv; charset=utf-8"
    assert {row["label"]: shapely.from_wkt(row["WKT"]).area for row in rows} == {"7": 300, "70000": 50}
    assert get(client, RINGS, Accept="text/csv").data == response.data
    assert get(client, f"{RINGS}?f=wkt&offset=9").data == response.data.split(b"\r\n")[0] + b"\r\n"


def test_qupath_gets_what_it_imports(client):
    page = get(client, f"{RINGS}?f=qupath").json
    assert set(page) == {"type", "features"}
    assert all(feature["geometry"]["plane"] == {"c": -1, "z": 0, "t": 0} for feature in page["features"])


def test_omero_pages_count_rois(client):
    first = get(client, f"{CELLS}?f=omero&limit=2")
    assert [len(roi["shapes"]) for roi in first.json["data"]] == [6, 2]
    assert 'rel="next"' in first.headers["Link"]
    rest = get(client, f"{CELLS}?f=omero&offset=2").json["data"]
    ids = [roi["@id"] for roi in first.json["data"] + rest]
    assert ids == sorted(set(ids))
    assert len(ids) == 8


def test_heads_hold_long_links_only_where_bodies_have_none(client):
    labels = ",".join(map(str, range(1, 1001)))
    page = get(client, f"{ITEMS}?limit=5&offset=5&label={labels}")
    assert {"self", "next", "prev", "collection"} < {link["rel"] for link in page.json["links"]}
    assert re.findall(r'rel="(\w+)"', page.headers["Link"]) == ["collection"]
    for form in ("wkt", "ndjson", "qupath", "omero"):
        page = get(client, f"{ITEMS}?limit=5&offset=5&label={labels}&f={form}")
        assert re.findall(r'rel="(\w+)"', page.headers["Link"]) == ["next", "collection"]


def test_lines_without_a_limit_are_the_whole_layer(client):
    lines = get(client, f"{CELLS}?f=ndjson").data.splitlines()
    assert len(lines) == 14
    features = [json.loads(line) for line in lines]
    assert features == [f for page in walk(client, f"{CELLS}?limit=5") for f in page["features"]]
    assert [
        json.loads(line) for line in get(client, f"{CELLS}?f=ndjson&limit=3").data.splitlines()
    ] == features[:3]
    assert [
        json.loads(line) for line in get(client, f"{CELLS}?f=ndjson&offset=9").data.splitlines()
    ] == features[9:]


@pytest.mark.parametrize("query", ["f=ndjson&label=999", "f=ndjson&limit=5&offset=99"])
def test_no_lines_are_no_bytes(client, query):
    assert get(client, f"{CELLS}?{query}").data == b""


def test_one_feature(client):
    for feature in get(client, RINGS).json["features"]:
        response = get(client, f"{RINGS}/{feature['id']}")
        alone = response.json
        assert {link["rel"] for link in alone.pop("links")} == {"self", "collection"}
        assert alone == feature
        assert response.content_type == "application/geo+json"
    assert get(client, f"{RINGS}/{feature['id']}?f=wkt").data.startswith(b"WKT,")
    assert len(get(client, f"{RINGS}/{feature['id']}?f=omero").json["data"]) == 1


def test_the_tag_of_a_feature_is_that_of_its_bytes(client):
    one, other = (feature["id"] for feature in get(client, f"{ITEMS}?limit=2").json["features"])
    urls = [f"{ITEMS}/{one}", f"{ITEMS}/{other}", f"{ITEMS}/{one}?f=geojson", f"{ITEMS}/{one}?f=wkt"]
    tags = [get(client, url).headers["ETag"] for url in urls]
    assert len(set(tags)) == len(urls)
    for url, tag in zip(urls, tags, strict=True):
        assert get(client, url, 304, **{"If-None-Match": tag}).headers["ETag"] == tag


def test_lines_and_a_page_of_lines_have_tags_of_their_own(client):
    assert (
        get(client, f"{ITEMS}?f=ndjson").headers["ETag"]
        != (get(client, f"{ITEMS}?f=ndjson&limit=200").headers["ETag"])
    )


def test_pages_that_differ_in_anything_have_keys_of_their_own():
    plain = {"query": RoiQuery(), "offset": 1, "limit": 2, "max_shapes": 3}
    page = {**plain, "detail": FULL, "largest": False, "vertices": None}
    changes = [
        {"query": RoiQuery(min_area=1.0)}, {"offset": 2}, {"limit": 1}, {"max_shapes": 2},
        {"detail": Detail(simplify=1.0)}, {"largest": True}, {"vertices": 4},
    ]  # fmt: skip
    asked = [PageRequest(**plain), ItemsRequest(**page), *(ItemsRequest(**page | each) for each in changes)]
    keys = {page_key("registry", (1,), FORMATS["geojson"], each) for each in asked}
    keys.add(page_key("registry", (1,), FORMATS["wkt"], asked[0]))
    keys.add(page_key("registry", (1, 1), FORMATS["geojson"], asked[0]))
    assert len(keys) == len(asked) + 2


def test_ids_that_are_no_features(client):
    first, second = (feature["id"] for feature in get(client, RINGS).json["features"])
    cell = get(client, CELLS).json["features"][0]["id"]
    roi = get(client, f"{RINGS}?f=omero").json["data"][0]["@id"]
    # The second shape of the two-part feature, ids never given, one of another image, a ROI's, mere numbers.
    for number in (second + 1, second + 2, first + 10**6, cell, roi, 0, 5, 2**53 - 1):
        response = get(client, f"{RINGS}/{number}", 404)
        assert response.content_type == "application/problem+json"
    for text in ("x", "-1", "9" * 17, "9" * 5000, str(2**53)):
        get(client, f"{RINGS}/{text}", 404)


def test_layers_that_are_not_there(client):
    for layer in ("labels:none", "squares:x", "labels:..:labels:squares", "%2e%2e", ":", "labels:squares%00"):
        response = get(client, f"/images/1/collections/{layer}/items", 404)
        assert response.content_type == "application/problem+json"
    get(client, "/images/3/collections/labels:squares/items", 404)


def test_links_are_remembered_without_the_names_of_all_columns(tmp_path):
    """A table may have a column for each gene; what is remembered of its pages is bounded by number alone."""
    plane = np.zeros((20, 20), np.uint8)
    plane[2:8, 2:8] = 1
    genes = {f"gene-{number:05d}": number for number in range(3000)}
    image_label = {"properties": [{"label-value": 1, **genes}]}
    write_image(tmp_path / "images" / "1.zarr", labels={"cells": plane}, image_label=image_label)
    client = start_service(tmp_path / "images").client
    url = f"/images/{client.get('/images').json['images'][0]['id']}/collections/labels:cells/items?f=wkt"
    size = len(get(client, url, Host="host").data)
    tracemalloc.start()
    for number in range(50):  # one page, in links of as many hosts
        assert len(get(client, url, Host=f"host-{number}").data) == size
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / 50 < size / 4, (kept, size)
