"""Layers that are being built, are damaged, or have been replaced."""

import os
import shutil
import time

import numpy as np
import pytest

from tests.conftest import start_service
from tests.stores import edit_attributes, write_image

SQUARES = np.zeros((32, 32), np.uint8)
SQUARES[2:6, 2:6], SQUARES[10:20, 10:20] = 3, 9


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "images"


def damage(store, layer):
    """Make every chunk of level 0 unreadable."""
    for file in (store / "labels" / layer / "0").rglob("*"):
        if file.is_file() and not file.name.startswith(".z"):
            file.write_bytes(b"no chunk")


def eventually(answer, wanted, seconds=30):
    deadline = time.monotonic() + seconds
    while not wanted(got := answer()):
        assert time.monotonic() < deadline, got.get_data(as_text=True)
        time.sleep(0.05)
    return got


def test_a_damaged_layer_leaves_the_others_to_the_viewer(folder):
    store = write_image(folder / "7.zarr", labels={"sound": SQUARES, "broken": SQUARES}, version="0.4")
    damage(store, "broken")
    client = start_service(folder).client
    for url in ("/api/v0/m/rois/?image=7", "/iviewer/rois_by_plane/7/0/0/", "/iviewer/plane_shape_counts/7/"):
        answer = client.get(url)
        assert answer.status_code == 200
        named = answer.headers["X-Roiservice-Incomplete"]
        assert "labels:broken" in named
        assert "labels:sound" not in named
        assert str(folder) not in named
    rois = client.get("/api/v0/m/rois/?image=7").json
    assert (rois["meta"]["totalCount"], len(rois["data"])) == (2, 2)
    for roi in rois["data"]:
        page_data = client.get(f"/iviewer/roi/{roi['@id']}/page_data/")
        assert page_data.status_code == 200
        assert "X-Roiservice-Incomplete" in page_data.headers


def test_stores_may_be_called_anything(folder):
    """Bytes that are no Unicode are in no answer, and keep no other image from being served."""
    for name in (b"sound\xff.zarr", b"broken\xff.zarr", b"plain.zarr"):
        write_image(folder / os.fsdecode(name), labels={"cells": SQUARES}, version="0.4")
    damage(folder / os.fsdecode(b"broken\xff.zarr"), "cells")
    client = start_service(folder).client
    images = client.get("/images").json["images"]
    assert [image["title"] for image in images] == ["broken?", "plain", "sound?"]
    statuses = []
    for image in images:
        assert client.get(f"/images/{image['id']}").json["title"] == image["title"]
        for form in ("geojson", "qupath", "wkt"):
            answer = client.get(f"/images/{image['id']}/collections/labels:cells/items?f={form}")
            statuses.append(answer.status_code)
    assert statuses == [502] * 3 + [200] * 6


def test_a_damaged_layer_is_a_problem_on_our_own_paths(folder):
    store = write_image(folder / "7.zarr", labels={"sound": SQUARES, "broken": SQUARES}, version="0.4")
    damage(store, "broken")
    client = start_service(folder).client
    answer = client.get("/images/7/collections/labels:broken/items")
    assert answer.status_code == 502
    assert answer.content_type == "application/problem+json"
    assert answer.json["type"] == "/docs#source-damaged"
    assert "labels/broken/0" in answer.json["detail"]
    assert str(folder) not in answer.get_data(as_text=True)
    assert client.get("/images/7/collections/labels:sound/items").json["numberMatched"] == 2


def test_a_layer_that_cannot_be_listed_is_named(folder):
    store = write_image(folder / "7.zarr", labels={"sound": SQUARES, "bröken": SQUARES}, version="0.4")
    (store / "labels" / "bröken" / ".zattrs").write_text("{")
    client = start_service(folder).client
    answer = client.get("/api/v0/m/rois/?image=7")
    assert len(answer.json["data"]) == 2
    assert "labels/br\\xf6ken" in answer.headers["X-Roiservice-Incomplete"]
    assert [problem["layer"] for problem in client.get("/images/7").json["problems"]] == [
        "labels/bröken/.zattrs"
    ]
    assert client.get("/images/7/collections").json["problems"]


def test_a_refused_layer_is_a_problem(folder):
    store = write_image(folder / "7.zarr", labels={"cells": SQUARES.astype(np.float32)})
    client = start_service(folder).client
    assert client.get("/images/7/collections/labels:cells/items").status_code == 422
    answer = client.get("/api/v0/m/rois/?image=7")
    assert answer.json["data"] == []
    assert "labels:cells" in answer.headers["X-Roiservice-Incomplete"]
    assert client.get("/iviewer/plane_shape_counts/7/").json == {"data": [[0]]}
    assert store.exists()


def test_an_image_whose_store_is_gone_does_not_fail_the_viewer(folder):
    store = write_image(folder / "7.zarr", labels={"cells": SQUARES})
    service = start_service(folder)
    assert service.client.get("/images").json["images"]
    shutil.rmtree(store)
    answer = service.client.get("/api/v0/m/rois/?image=7")
    assert answer.status_code == 200
    assert answer.json["meta"]["totalCount"] == 0
    assert service.client.get("/images/7/collections/labels:cells/items").status_code in (404, 502)


def test_a_large_layer_is_built_meanwhile(folder):
    write_image(folder / "7.zarr", labels={"large": SQUARES, "small": SQUARES[:16, :16]})
    client = start_service(folder, inline_pixels=300).client
    items = "/images/7/collections/labels:large/items"
    answer = client.get(items)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json["type"] == "/docs#building"
    rois = client.get("/api/v0/m/rois/?image=7")
    missing = "X-Roiservice-Incomplete" in rois.headers  # unless it is there already
    assert rois.json["meta"]["totalCount"] == (2 if missing else 4)
    answer = eventually(lambda: client.get(items), lambda answer: answer.status_code == 200)
    assert answer.json["numberMatched"] == 2
    complete = client.get("/api/v0/m/rois/?image=7", headers={"If-None-Match": rois.headers["ETag"]})
    assert complete.status_code == (200 if missing else 304)
    complete = client.get("/api/v0/m/rois/?image=7")
    assert complete.json["meta"]["totalCount"] == 4
    assert "X-Roiservice-Incomplete" not in complete.headers


def test_the_place_of_a_roi_whose_layer_cannot_be_served_now(folder):
    store = write_image(folder / "7.zarr", labels={"a": SQUARES, "b": SQUARES}, version="0.4")
    first = start_service(folder)
    rois = first.client.get("/api/v0/m/rois/?image=7").json["data"]
    last, shape = rois[-1]["@id"], rois[-1]["shapes"][0]["@id"]
    damage(store, "b")
    shutil.rmtree(folder.parent / "catalogs")
    client = start_service(folder).client
    answer = client.get(f"/iviewer/roi/{last}/page_data/")
    assert answer.status_code == 200
    assert answer.json == {"image": {"id": 7}, "roi": {"id": last}, "roi_index": 2, "roi_count": 2}
    assert client.get(f"/iviewer/shape/{shape}/page_data/").json["roi_count"] == 2
    assert client.get(f"/iviewer/shape/{shape}/image_data/").status_code == 302
    assert client.get(f"/api/v0/m/rois/{last}/").status_code == 502


def test_ids_of_a_replaced_version_are_gone_and_roi_ids_last(folder):
    store = write_image(folder / "7.zarr", labels={"cells": SQUARES})
    client = start_service(folder, check_interval=0).client
    items = "/images/7/collections/labels:cells/items"
    old = client.get(items)
    rois = [roi["@id"] for roi in client.get("/api/v0/m/rois/?image=7").json["data"]]
    write_image(store, labels={"cells": np.flipud(SQUARES)})
    new = eventually(
        lambda: client.get(items),
        # A store that is half written may be seen, and is a version as well.
        lambda answer: answer.headers["ETag"] != old.headers["ETag"] and len(answer.json["features"]) == 2,
    )
    identifier = old.json["features"][0]["id"]
    assert identifier not in {feature["id"] for feature in new.json["features"]}
    gone = client.get(f"{items}/{identifier}")
    assert gone.status_code == 410
    assert gone.json["type"] == "/docs#gone"
    assert client.get(f"/iviewer/shape/{identifier}/page_data/").status_code == 410
    assert client.get(f"/iviewer/shape/{identifier}/image_data/").status_code == 410
    assert [roi["@id"] for roi in client.get("/api/v0/m/rois/?image=7").json["data"]] == rois
    assert client.get(items, headers={"If-None-Match": old.headers["ETag"]}).status_code == 200


def test_an_image_without_layers(folder):
    write_image(folder / "7.zarr")
    client = start_service(folder).client
    assert client.get("/images/7").json["size"] is None
    assert client.get("/images/7/collections").json["collections"] == []
    assert client.get("/api/v0/m/rois/?image=7").json["data"] == []
    assert client.get("/iviewer/plane_shape_counts/7/").json == {"data": [[0]]}


def test_hostile_names_stay_text(folder):
    name = '"><script>alert(1)</script>'
    store = write_image(folder / f"{name.replace('/', '')}.zarr", labels={"a b&c?#": SQUARES})
    edit_attributes(store / "labels" / "a b&c?#", image_label={"properties": [{"label-value": 3, "x": name}]})
    client = start_service(folder).client
    image = client.get("/images").json["images"][0]
    page = client.get("/", headers={"Accept": "text/html"}).get_data(as_text=True)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    layer = client.get(f"/images/{image['id']}/collections").json["collections"][0]
    assert layer["id"] == "labels:a b&c?#"
    for link in layer["links"]:
        assert client.get(link["href"]).status_code == 200
