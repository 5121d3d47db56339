"""Viewports, walks and overviews over HTTP."""

from __future__ import annotations

import csv
import io
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import shapely

from roiservice.query import detail
from roiservice.query.cursor import START
from roiservice.web import pages
from roiservice.web.routes import overview
from tests.conftest import start_service
from tests.query.support import tessellation
from tests.stores import write_image
from tests.web.test_web_items import get, walk

LAYER = "/images/1/collections/labels:cells"
ITEMS = f"{LAYER}/items"
SIDE, CELLS = 200, 120


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tissue") / "images"
    properties = [
        {"label-value": label, "score": label / 2, "class": "ab"[label % 2]} for label in range(1, 100)
    ]
    write_image(
        folder / "1.zarr",
        labels={"cells": tessellation(SIDE, CELLS).astype(np.uint16)},
        image_label={"properties": properties},
    )
    return start_service(folder).client


def geometries(client, url):
    features = get(client, url).json["features"]
    return {feature["id"]: shapely.geometry.shape(feature["geometry"]) for feature in features}


def refused(client, query, parameter, url=ITEMS):
    assert get(client, f"{url}?{query}", 400).json["parameter"] == parameter


def test_simplified_pages_fit_together(tissue):
    exact = geometries(tissue, f"{ITEMS}?limit=1000")
    pages = walk(tissue, f"{ITEMS}?simplify=4&limit=17")
    together = {
        feature["id"]: shapely.geometry.shape(feature["geometry"])
        for page in pages
        for feature in page["features"]
    }
    windows = {}
    for x in range(0, SIDE, 50):
        windows |= geometries(tissue, f"{ITEMS}?simplify=4&bbox={x},0,{x + 50},{SIDE}&limit=1000")
    assert together == windows
    shapes = np.array(list(together.values()))
    assert together.keys() == exact.keys()
    assert shapely.coverage_is_valid(shapes)
    assert shapely.is_valid(shapes).all()
    assert abs(shapely.area(shapes).sum() - SIDE * SIDE) < 0.005 * SIDE * SIDE
    before = shapely.get_num_coordinates(list(exact.values())).sum()
    assert before > 5 * shapely.get_num_coordinates(shapes).sum()


@pytest.mark.parametrize("form", ["geojson", "ndjson", "wkt", "qupath", "omero"])
def test_every_format_can_be_simplified(tissue, form):
    exact, drawn = (get(tissue, f"{ITEMS}?f={form}&limit=50{more}").data for more in ("", "&simplify=4"))
    assert len(drawn) < len(exact)
    assert get(tissue, f"{ITEMS}?f={form}&limit=50&simplify=0").data.count(b"]") == exact.count(b"]")


def test_measures_stay_those_of_the_exact_outlines(tissue):
    exact, drawn = (
        get(tissue, f"{ITEMS}?{query}").json["features"] for query in ("limit=50", "limit=50&simplify=9")
    )
    assert [each["properties"] for each in exact] == [each["properties"] for each in drawn]


def test_a_whole_layer_is_streamed_simplified(tissue):
    lines = get(tissue, f"{ITEMS}?f=ndjson&simplify=4").data.splitlines()
    assert len(lines) == CELLS
    paged = get(tissue, f"{ITEMS}?f=ndjson&simplify=4&limit=1000").data.splitlines()
    assert lines == paged


def test_a_stream_of_more_than_can_be_simplified_at_once_is_whole(tissue, monkeypatch):
    at_once = get(tissue, f"{ITEMS}?f=ndjson&simplify=4").data
    monkeypatch.setattr(detail, "SIMPLIFIED_VERTICES", 1500)
    refused(tissue, f"simplify=4&limit={CELLS}", "simplify")
    assert get(tissue, f"{ITEMS}?f=ndjson&simplify=4").data == at_once


def test_a_stream_that_cannot_begin_says_why(tissue, monkeypatch):
    monkeypatch.setattr(detail, "SIMPLIFIED_VERTICES", 1)
    refused(tissue, "f=ndjson&simplify=4", "simplify")


def test_centroids_boxes_and_nothing(tissue):
    exact = geometries(tissue, f"{ITEMS}?limit=30")
    points = geometries(tissue, f"{ITEMS}?limit=30&geometry=centroid")
    boxes = geometries(tissue, f"{ITEMS}?limit=30&geometry=bbox")
    assert exact.keys() == points.keys() == boxes.keys()
    for number, shape in exact.items():
        assert points[number].geom_type == "Point"
        assert shapely.distance(points[number], shape.centroid) < 1e-9
        assert boxes[number].equals(shapely.box(*shape.bounds))
    page = get(tissue, f"{ITEMS}?limit=30&geometry=none").json
    assert [feature["geometry"] for feature in page["features"]] == [None] * 30
    assert "geometry=none" in next(link["href"] for link in page["links"] if link["rel"] == "next")
    assert (
        get(tissue, f"{ITEMS}?limit=30&geometry=exact").json["features"]
        == get(tissue, f"{ITEMS}?limit=30").json["features"]
    )


def test_wkt_alike(tissue):
    def cells(geometry):
        text = get(tissue, f"{ITEMS}?f=wkt&limit=9&geometry={geometry}").get_data(as_text=True)
        return [row["WKT"] for row in csv.DictReader(io.StringIO(text))]

    assert all(cell.startswith("POINT (") for cell in cells("centroid"))
    assert all(shapely.from_wkt(cell).equals(shapely.from_wkt(cell).envelope) for cell in cells("bbox"))
    assert cells("none") == [""] * 9


@pytest.mark.parametrize("form", ["qupath", "omero"])
@pytest.mark.parametrize("geometry", ["centroid", "bbox", "none"])
def test_formats_that_need_outlines_say_so(tissue, form, geometry):
    refused(tissue, f"f={form}&geometry={geometry}", "geometry")
    alternates = get(tissue, f"{ITEMS}?geometry={geometry}").json["links"]
    titles = {link["title"] for link in alternates if link["rel"] == "alternate"}
    assert titles == {"ndjson", "wkt"}


@pytest.mark.parametrize(
    ("query", "parameter"),
    [("geometry=hull", "geometry"), ("simplify=-1", "simplify"), ("simplify=nan", "simplify"),
     ("simplify=1&geometry=bbox", "simplify"), ("max-features=0", "max-features"),
     ("max-features=5&limit=3", "max-features"), ("max-features=5&offset=0", "max-features"),
     ("max-features=5&cursor=start", "max-features"), ("max-features=5&f=omero", "max-features"),
     ("max-vertices=0", "max-vertices"), ("max-vertices=x", "max-vertices"),
     ("max-vertices=5&limit=3", "max-vertices"), ("max-vertices=5&cursor=start", "max-vertices"),
     ("max-vertices=5&f=omero", "max-vertices"), ("max-vertices=5&geometry=bbox", "max-vertices"),
     ("cursor=start&offset=3", "cursor"), ("cursor=x", "cursor"), ("cursor=", "cursor"),
     ("cursor=%C3%A9", "cursor")],
)  # fmt: skip
def test_what_is_refused(tissue, query, parameter):
    refused(tissue, query, parameter)


def test_the_largest_features_of_a_window(tissue):
    window = get(tissue, f"{ITEMS}?bbox=20,20,150,150&limit=1000").json
    page = get(tissue, f"{ITEMS}?bbox=20,20,150,150&max-features=10").json
    areas = sorted((feature["properties"]["area"] for feature in window["features"]), reverse=True)
    assert sorted((feature["properties"]["area"] for feature in page["features"]), reverse=True) == areas[:10]
    assert (page["numberMatched"], page["numberReturned"]) == (window["numberMatched"], 10)
    assert {link["rel"] for link in page["links"]} == {"self", "alternate", "collection"}
    for each in page["links"]:
        if each["rel"] in ("self", "alternate"):
            assert get(tissue, each["href"].removeprefix("http://localhost"))


def test_the_largest_features_within_a_number_of_vertices(tissue):
    def vertices(feature):
        return len(shapely.get_coordinates(shapely.geometry.shape(feature["geometry"]))) - 1  # but the last

    window = get(tissue, f"{ITEMS}?bbox=20,20,150,150&limit=1000").json["features"]
    largest = sorted(window, key=lambda feature: -feature["properties"]["area"])
    budget = sum(map(vertices, largest[:7])) + vertices(largest[7]) - 1
    page = get(tissue, f"{ITEMS}?bbox=20,20,150,150&max-vertices={budget}").json
    assert {each["id"] for each in page["features"]} == {each["id"] for each in largest[:7]}
    assert (page["numberMatched"], page["numberReturned"]) == (len(window), 7)
    assert all("limit" not in link["href"] for link in page["links"])
    assert f"max-vertices={budget}" in page["links"][0]["href"]
    fewer = get(tissue, f"{ITEMS}?bbox=20,20,150,150&max-vertices={budget}&max-features=3").json
    assert {each["id"] for each in fewer["features"]} == {each["id"] for each in largest[:3]}
    # None that is too large alone keeps the others from being there.
    least = min(map(vertices, window))
    (smallest, *_) = get(tissue, f"{ITEMS}?bbox=20,20,150,150&max-vertices={least}").json["features"]
    assert vertices(smallest) == least


@pytest.mark.parametrize("start", [f"cursor={START}&", ""])
@pytest.mark.parametrize(("form", "total"), [("geojson", CELLS), ("wkt", CELLS), ("omero", CELLS)])
def test_a_walk_visits_everything_once(tissue, form, total, start):
    url, bodies = f"{ITEMS}?{start}limit=50&f={form}", []
    while url:
        answer = get(tissue, url)
        bodies.append(answer.data)
        links = dict(reversed(each.split("; ")[:2]) for each in answer.headers["Link"].split(", "))
        assert 'rel="prev"' not in links
        url = links.get('rel="next"', "").strip("<>").removeprefix("http://localhost")
        assert "offset" not in url
    plain = [get(tissue, f"{ITEMS}?limit=50&f={form}&offset={offset}").data for offset in range(0, total, 50)]
    assert len(bodies) == 3
    if form != "geojson":  # whose bodies hold their links
        assert bodies == plain


@pytest.mark.parametrize("box", ["-0,0,150,150", "-0.0,-0,150,150", "-1e-400,0,150,150"])
def test_a_walk_within_a_box_that_begins_at_minus_zero(tissue, box):
    """As programs write what they have rounded to zero from below."""
    walked = walk(tissue, f"{ITEMS}?cursor={START}&limit=20&bbox={box}")
    window = get(tissue, f"{ITEMS}?limit=1000&bbox=0,0,150,150").json
    assert [feature["id"] for page in walked for feature in page["features"]] == [
        feature["id"] for feature in window["features"]
    ]


@pytest.mark.parametrize("start", [f"cursor={START}", "offset=0"])
def test_all_links_of_a_walk_lead_somewhere(tissue, start):
    offered = []
    for page in walk(tissue, f"{ITEMS}?{start}&limit=50"):
        offered.append({each["title"] for each in page["links"] if each["rel"] == "alternate"})
        for each in page["links"]:
            get(tissue, each["href"].removeprefix("http://localhost"))
    # That of OMERO counts ROIs: what others count says nothing about where it goes on.
    by_feature = {"ndjson", "wkt", "qupath"}
    assert offered == [by_feature | {"omero"}, by_feature, by_feature]


def test_a_cursor_belongs_to_its_filters(tissue):
    links = get(tissue, f"{ITEMS}?cursor=start&limit=5&min-area=2").json["links"]
    following = next(link["href"] for link in links if link["rel"] == "next")
    cursor = parse_qs(urlsplit(following).query)["cursor"][0]
    assert (
        get(tissue, f"{ITEMS}?cursor={cursor}&min-area=2&limit=7&geometry=none").json["numberReturned"] == 7
    )
    refused(tissue, f"cursor={cursor}", "cursor")
    refused(tissue, f"cursor={cursor}&min-area=2&f=omero", "cursor")


@pytest.mark.parametrize("start", ["cursor=start&", ""])
def test_a_walk_ends_when_the_layer_is_replaced(tmp_path: Path, start: str):
    folder = tmp_path / "images"
    write_image(folder / "1.zarr", labels={"cells": tessellation(60, 20).astype(np.uint8)})
    service = start_service(folder, check_interval=0.0)
    first = get(service.client, f"{ITEMS}?{start}limit=5").json
    following = next(link["href"] for link in first["links"] if link["rel"] == "next")
    assert get(service.client, following).json["numberReturned"] == 5
    shutil.rmtree(folder / "1.zarr")
    write_image(folder / "1.zarr", labels={"cells": tessellation(60, 20, seed=1).astype(np.uint8)})
    for _ in range(500):
        answer = service.client.get(following)
        if answer.status_code == 410:
            break
        assert answer.status_code == 200
    assert answer.json["type"].endswith("#cursor-expired")
    assert "cursor=start" in answer.json["detail"]
    assert get(service.client, f"{ITEMS}?cursor=start").json["numberReturned"] == 20


def test_density(tissue):
    grid = get(tissue, f"{LAYER}/density?cells=4").json
    assert (grid["origin"], grid["cell"], grid["rows"], grid["columns"]) == ([0, 0], 50, 4, 4)
    points = [
        shape.coords[0] for shape in geometries(tissue, f"{ITEMS}?limit=1000&geometry=centroid").values()
    ]
    expected = np.histogram2d(*np.array(points)[:, ::-1].T, bins=4, range=[[0, SIDE], [0, SIDE]])[0]
    assert grid["counts"] == expected.tolist()
    assert grid["features"] == CELLS
    assert np.sum(grid["areas"]) == SIDE * SIDE
    assert np.sum(get(tissue, f"{LAYER}/density?class=a").json["counts"]) == 49


def test_summary(tissue):
    found = get(tissue, f"{LAYER}/summary").json
    assert (found["features"], found["rois"]) == (CELLS, CELLS)
    area = found["measures"]["area"]
    assert area["mean"] * CELLS == pytest.approx(SIDE * SIDE)
    assert sum(area["histogram"]["counts"]) == CELLS
    score = found["properties"]["score"]
    assert (score["type"], score["count"], score["missing"], score["min"], score["max"]) == (
        "number",
        99,
        21,
        0.5,
        49.5,
    )
    assert found["properties"]["class"]["common"] == [
        {"value": "b", "count": 50},
        {"value": "a", "count": 49},
    ]
    some = get(tissue, f"{LAYER}/summary?score=1..2").json
    assert (some["rois"], some["properties"]["class"]["distinct"]) == (3, 2)


@pytest.mark.parametrize("name", ["density", "summary"])
def test_overviews_are_cached_and_tagged(tissue, name):
    url = f"{LAYER}/{name}?bbox=0,0,90,90"
    answer = get(tissue, url)
    assert get(tissue, url).data == answer.data
    assert answer.headers["Content-Crs"] == "<http://localhost/def/crs/pixel>"
    get(tissue, url, 304, **{"If-None-Match": answer.headers["ETag"]})
    get(tissue, f"{LAYER}/{name}?x=1", 400)
    assert get(tissue, f"{LAYER}/{name}?limit=1", 400).json["parameter"] == "limit"
    packed = get(tissue, url, **{"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"


@pytest.mark.parametrize("cells", ["0", "513", "x", "1.5", ""])
def test_cells_that_are_none(tissue, cells):
    refused(tissue, f"cells={cells}", "cells", f"{LAYER}/density")


def test_a_layer_links_to_its_overviews(tissue):
    links = [link for link in get(tissue, LAYER).json["links"] if link["rel"] == "related"]
    assert [link["href"].rpartition("/")[2] for link in links] == ["density", "summary"]
    for link in links:
        get(tissue, link["href"].removeprefix("http://localhost"))


@pytest.mark.parametrize(
    ("module", "name", "url", "limit"),  # pages of a limit that no other test has made and kept
    [
        (overview, "summary", f"{LAYER}/summary?min-area=", 3),
        (pages, "largest_features", f"{ITEMS}?max-features=9&min-area=", 4),
    ],
)
def test_pages_do_not_wait_for_what_looks_at_all_features(tissue, monkeypatch, module, name, url, limit):
    begun, ended, made = threading.Event(), threading.Event(), getattr(module, name)

    def slow(*arguments):
        begun.set()
        ended.wait(60)
        return made(*arguments)

    monkeypatch.setattr(module, name, slow)
    asked = [f"{url}{area}" for area in range(2, 2 + 2 * max(os.cpu_count() or 1, 2))]
    with ThreadPoolExecutor(len(asked) + 4) as threads:
        looks = [threads.submit(get, tissue.application.test_client(), url) for url in asked]
        assert begun.wait(60)
        time.sleep(0.2)  # for the others to queue up
        # Many, as keys that differ may share a lock.
        quick = [f"{ITEMS}?limit={limit}&offset={offset}" for offset in range(200)]
        some = [threads.submit(get, tissue.application.test_client(), url) for url in quick]
        _, waiting = wait(some, 20)
        ended.set()
        assert not waiting
        assert all(each.result().json["features"] for each in looks)


def test_what_looks_at_all_features_leaves_threads_to_others(tissue, monkeypatch):
    begun, ended, made = threading.Event(), threading.Event(), overview.summary

    def slow(*arguments):
        begun.set()
        ended.wait(60)
        return made(*arguments)

    class Places(threading.BoundedSemaphore):
        taken = threading.Semaphore(0)

        def acquire(self, *arguments, **more):
            is_taken = super().acquire(*arguments, **more)
            if is_taken:
                self.taken.release()
            return is_taken

    monkeypatch.setattr(overview, "summary", slow)
    monkeypatch.setattr(overview, "_one_at_a_time", pages.Lane(threading.Lock(), Places(2)))
    with ThreadPoolExecutor(2) as threads:
        urls = [f"{LAYER}/summary?min-area=0.{number}" for number in (1, 2)]
        looks = [threads.submit(get, tissue.application.test_client(), url) for url in urls]
        try:
            assert begun.wait(60)
            for _ in urls:
                assert Places.taken.acquire(timeout=60)
            answer = get(tissue, f"{LAYER}/density?cells=9&min-area=0.3", 503)
            assert (answer.json["type"].rpartition("#")[2], answer.headers["Retry-After"]) == ("busy", "1")
        finally:
            ended.set()
        assert all(each.result().json["features"] == CELLS for each in looks)
    get(tissue, f"{LAYER}/density?cells=9&min-area=0.3")


def test_streams_that_nobody_reads_leave_threads_to_others(tissue, monkeypatch):
    url = f"{ITEMS}?f=ndjson"
    few = pages.Lane(threading.BoundedSemaphore(2), threading.BoundedSemaphore(2))
    monkeypatch.setattr(pages, "STREAMS", few)
    unread = [tissue.get(url, buffered=False) for _ in range(2)]
    assert unread[0].headers["X-Accel-Buffering"] == "no", (
        "nginx would read no more for a while, as who has gone"
    )
    answer = get(tissue, url, 503)
    assert (answer.json["type"].rpartition("#")[2], answer.headers["Retry-After"]) == ("busy", "1")
    get(tissue, f"{ITEMS}?limit=3")
    for each in unread:
        each.close()
    assert get(tissue, url).data
    assert tissue.head(url).status_code == 200
    assert get(tissue, url).data


def test_omeros_drawings_wait_for_a_place(tissue, monkeypatch):
    """The viewers that ask for them do not ask again."""
    url = "/webgateway/get_rois_json/1/"
    few = pages.Lane(threading.BoundedSemaphore(2), threading.BoundedSemaphore(2), 60.0)
    monkeypatch.setattr(pages, "OMERO_STREAMS", few)
    unread = [tissue.get(url, buffered=False) for _ in range(2)]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(get, tissue.application.test_client(), url)
        time.sleep(0.2)
        assert not waiting.done()
        unread[0].close()
        with waiting.result(60) as answer:
            assert len(answer.json) == CELLS
    unread.append(tissue.get(url, buffered=False))
    monkeypatch.setattr(pages, "OMERO_STREAMS", replace(few, waiting=threading.BoundedSemaphore(1)))
    with pages.OMERO_STREAMS.waiting:  # as many as may wait
        get(tissue, url, 503)
    monkeypatch.setattr(pages, "OMERO_STREAMS", replace(few, patience=0.01))
    get(tissue, url, 503)
    for each in unread:
        each.close()


def test_of_streams_few_are_made_at_once():
    at_work, most, lock = 0, 0, threading.Lock()

    def chunks():
        nonlocal at_work, most
        for number in range(5):
            with lock:
                at_work += 1
                most = max(most, at_work)
            time.sleep(0.01)
            with lock:
                at_work -= 1
            yield number

    count = 4 * pages.AT_ONCE
    with ThreadPoolExecutor(count) as threads:
        streams = [threads.submit(lambda: list(pages.in_turn(chunks()))) for _ in range(count)]
        assert [each.result() for each in streams] == [[0, 1, 2, 3, 4]] * count
    assert most == pages.AT_ONCE
