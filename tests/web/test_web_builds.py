"""How far the build of a layer is, over HTTP: real processes that succeed, fail and are killed."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from roiservice.catalog.filelocks import AT_ONCE, LOCK, one_of_few
from roiservice.catalog.progress import STATES
from roiservice.settings import Settings
from tests.catalog.support import squares
from tests.conftest import start_service
from tests.stores import write_image

LAYER = "/images/7/collections/labels:cells"
BUILD = f"{LAYER}/build"
PLANES, SIDE = 1200, 90


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "images"


def write_many_planes(folder):
    """A layer that takes a while: its objects are few, its planes are many."""
    cells = squares(PLANES, SIDE, SIDE, side=2)
    write_image(folder / "7.zarr", labels={"cells": cells}, axes="zyx", chunks=(1, SIDE, SIDE))


def eventually(ask, wanted, seconds=60):
    deadline = time.monotonic() + seconds
    seen = []
    while not wanted(got := ask()):
        seen.append(got)
        assert time.monotonic() < deadline, seen[-3:]
        time.sleep(0.01)
    return got


def builder(folder):
    """`roiservice build`, in a process of its own."""
    environment = {
        **os.environ,
        "ROISERVICE_CATALOG_DIR": str(folder.parent / "catalogs"),
        "ROISERVICE_STATE_DIR": str(folder.parent / "state"),
    }
    command = [sys.executable, "-m", "roiservice", "build", str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def check_document(document):
    assert document["state"] in STATES
    assert document["fraction"] is None or 0 <= document["fraction"] <= 1
    known = {"state", "fraction", "objects", "pixels_per_second", "seconds_left", "error"}
    assert document.keys() <= known
    assert ("error" in document) == (document["state"] == "failed")


def test_a_layer_that_nobody_built_and_one_that_is_there(folder):
    write_image(folder / "7.zarr", labels={"cells": squares(40, 50)})
    client = start_service(folder).client
    assert client.get(BUILD).json == {"state": "none", "fraction": None}
    assert client.get(f"{LAYER}/items").status_code == 200
    assert client.get(BUILD).json == {"state": "done", "fraction": 1.0}
    assert client.get(f"{BUILD}?x=1").status_code == 400
    assert client.get("/images/7/collections/labels:none/build").status_code == 404
    assert client.get("/images/8/collections/labels:cells/build").status_code == 404


def test_the_answer_that_a_layer_is_being_built_leads_to_its_progress(folder):
    write_many_planes(folder)
    service, other = (start_service(folder, inline_pixels=300) for _ in range(2))
    told = service.client.get(f"{LAYER}/items")
    assert told.status_code == 503
    assert told.json["progress"] == BUILD
    assert told.headers["Link"] == f'<{BUILD}>; rel="monitor"; type="application/json"'
    assert other.client.get(BUILD).json["state"] in ("waiting", "building"), "other workers must know"
    seen = []

    def ask():
        seen.append(other.client.get(told.json["progress"]).json)
        check_document(seen[-1])
        return seen[-1]

    eventually(ask, lambda document: document["state"] == "done")
    assert {each["state"] for each in seen} <= {"waiting", "building", "done"}
    building = [each for each in seen if each["state"] == "building"]
    fractions = [each["fraction"] for each in building if each["fraction"] is not None]
    assert fractions == sorted(fractions)
    assert any(each.get("pixels_per_second", 0) > 0 and "seconds_left" in each for each in building)


def test_the_link_is_below_the_prefix(folder):
    write_image(folder / "7.zarr", labels={"a b&c": squares(40, 50)})
    client = start_service(folder, inline_pixels=300, script_name="/rois").client
    told = client.get("/rois/images/7/collections/labels:a b&c/items")
    assert told.status_code == 503
    assert told.json["progress"] == "/rois/images/7/collections/labels:a%20b%26c/build"
    assert client.get(told.json["progress"]).status_code == 200


def test_the_progress_of_the_build_command_is_there_too(folder):
    write_many_planes(folder)
    client = start_service(folder, inline_pixels=300).client
    process = builder(folder)
    try:
        eventually(lambda: client.get(BUILD).json, lambda document: (document["fraction"] or 0) > 0)
        document = eventually(
            lambda: client.get(BUILD).json, lambda document: document["state"] != "building"
        )
        assert document["state"] == "done"
    finally:
        process.wait(60)


def test_a_build_that_is_killed_is_over_and_the_next_goes_on(folder):
    write_many_planes(folder)
    client = start_service(folder, inline_pixels=300, build_on_post=True).client
    process = builder(folder)
    eventually(lambda: client.get(BUILD).json, lambda document: document["state"] == "building")
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    document = client.get(BUILD).json
    check_document(document)
    assert document["state"] == "failed"
    assert "ended before it was done" in document["error"]
    assert client.post(BUILD).status_code == 202
    assert client.get(BUILD).json["state"] in ("waiting", "building", "done")
    eventually(lambda: client.get(BUILD).json["state"], lambda state: state == "done")
    assert client.get(f"{LAYER}/items?limit=1").status_code == 200


def test_a_process_that_is_killed_before_it_begins(folder):
    write_many_planes(folder)
    service = start_service(folder, inline_pixels=300)
    other = start_service(folder, inline_pixels=300)
    assert service.client.get(f"{LAYER}/items").status_code == 503
    (process,) = service.services.layers._keeper._processes.running.values()
    assert other.client.get(BUILD).json["state"] == "waiting"
    process.kill()
    process.wait(60)
    assert other.client.get(BUILD).json["state"] == "failed"


@pytest.mark.parametrize("inline_pixels", [300, 2**26], ids=["by a process", "by a request"])
def test_a_build_that_fails_says_why_without_saying_where(folder, inline_pixels):
    store = write_image(folder / "7.zarr", labels={"cells": squares(40, 50)})
    for file in (store / "labels" / "cells" / "0").rglob("*"):
        if file.is_file() and file.name != "zarr.json":
            file.write_bytes(b"no chunk")
    service, other = (start_service(folder, inline_pixels=inline_pixels) for _ in range(2))
    assert service.client.get(f"{LAYER}/items").status_code in (502, 503)
    document = eventually(
        lambda: other.client.get(BUILD).json, lambda document: document["state"] == "failed"
    )
    check_document(document)
    assert document["error"].startswith("7.zarr [labels/cells/0")
    assert str(folder) not in document["error"]
    assert document["fraction"] is None


def test_a_build_that_succeeds_ends_the_failure_before_it(folder):
    store = write_image(folder / "7.zarr", labels={"cells": squares(40, 50)})
    service = start_service(folder, inline_pixels=300, max_vertices=4)
    service.client.get(f"{LAYER}/items")
    document = eventually(lambda: service.client.get(BUILD).json, lambda each: each["state"] == "failed")
    assert "vertices" in document["error"]
    mended = start_service(folder)
    assert mended.client.get(f"{LAYER}/items").status_code == 200
    assert mended.client.get(BUILD).json == {"state": "done", "fraction": 1.0}
    assert store.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "\0" * 40, '{"pixels": 0, "done": 0, "features": 0, "rate": 0}']
)
def test_a_damaged_file_of_progress_is_no_failure_of_the_service(folder, text):
    write_image(folder / "7.zarr", labels={"cells": squares(40, 50)})
    client = start_service(folder).client
    client.get(f"{LAYER}/items")
    (pointer,) = (folder.parent / "catalogs").glob("*/*/current-*.json")
    pointer.with_name(pointer.name.replace("current", "progress")).write_text(text)
    document = client.get(BUILD).json
    check_document(document)
    assert document["state"] == "failed"


def test_builds_are_started_only_where_the_setting_says_so(folder):
    write_image(folder / "7.zarr", labels={"cells": squares(40, 50)})
    assert Settings().build_on_post is False
    refused = start_service(folder).client.post(BUILD)
    assert refused.status_code == 405
    assert set(refused.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert not list((folder.parent / "catalogs").glob(f"*/*/{LOCK}"))
    client = start_service(folder, build_on_post=True).client
    answer = client.post(BUILD)
    assert answer.status_code == 202
    check_document(answer.json)
    assert answer.json["state"] in ("waiting", "building")
    assert client.post(BUILD).status_code == 202, "a second one is left to the first"
    eventually(lambda: client.get(BUILD).json["state"], lambda state: state == "done")
    assert client.post("/images/8/collections/labels:cells/build").status_code == 404
    with ExitStack() as others:
        for _ in range(AT_ONCE):
            others.enter_context(one_of_few(folder.parent / "state"))
        busy = client.post(BUILD)
    assert (busy.status_code, busy.headers["Retry-After"]) == (503, "5")
