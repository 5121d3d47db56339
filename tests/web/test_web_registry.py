"""Requests while the registry is away: what is known goes on, the rest is told to come back."""

import shutil

import numpy as np
import pytest

from tests.catalog.support import wait_for
from tests.catalog.test_database import away
from tests.conftest import start_service, write_sample_images
from tests.stores import write_image

SQUARES = "/images/1/collections/labels:squares"
PROBLEM = "application/problem+json"


@pytest.fixture
def service(tmp_path, postgres_url):
    write_sample_images(tmp_path / "images")
    return start_service(tmp_path / "images", registry_url=postgres_url, check_interval=0.0)


def check_told(answer):
    assert answer.status_code == 503, answer.data
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.content_type == PROBLEM
    assert answer.json["type"].endswith("#registry-failed")
    assert answer.json["detail"] == "the registry of lasting ids does not answer"


def test_requests_while_the_registry_is_away(service, postgres_server):
    get = service.client.get
    pages = [f"{SQUARES}/items?limit=3", "/api/v0/m/rois/?image=1", "/images/1", SQUARES]
    first = get(pages[0]).json["features"][0]
    roi = get(pages[1]).json["data"][0]["@id"]
    pages += [f"{SQUARES}/items/{first['id']}", f"/api/v0/m/rois/{roi}/"]
    before = [get(page) for page in pages]
    assert {answer.status_code for answer in before} == {200}
    assert get("/readyz").json["parts"]["registry"] == {"status": "ok"}
    with away(postgres_server):
        assert [get(page).data for page in pages] == [answer.data for answer in before]
        ready = get("/readyz")
        assert (ready.status_code, ready.json["status"]) == (503, "unavailable")
        assert ready.json["parts"]["registry"] == {"status": "unreachable"}
        assert get("/healthz").status_code == 200
        check_told(get("/images/2/collections"))
        check_told(get(f"{SQUARES}/build"))
        listed = get("/api/v0/m/rois/?image=2")
        assert (listed.status_code, listed.json["data"]) == (200, [])
        assert "registry" in listed.headers["X-Roiservice-Incomplete"]
        unknown = get(f"/api/v0/m/rois/{roi + 2**40}/")
        assert (unknown.status_code, int(unknown.headers["Retry-After"]) > 0) == (503, True)
    wait_for(lambda: get("/readyz").status_code == 200)
    assert get("/images/2/collections").status_code == 200
    assert get(f"{SQUARES}/build").json["state"] == "done"


def test_what_is_known_goes_on_where_the_registry_was_taken_away(tmp_path):
    """A layer that comes gets no number, and keeps nobody from the others; nor does an image never seen."""
    write_sample_images(tmp_path / "images")
    get = start_service(tmp_path / "images", check_interval=0.0).client.get
    pages = [f"{SQUARES}/items?limit=3", "/api/v0/m/rois/?image=1", "/images/1", "/images/1/collections"]
    before = [get(page) for page in pages]
    assert {answer.status_code for answer in before} == {200}
    shutil.rmtree(tmp_path / "state")
    write_image(tmp_path / "images/1.zarr", labels={"later": np.ones((60, 80), np.uint8)})
    assert [get(page).data for page in pages] == [answer.data for answer in before]
    listed = get("/api/v0/m/rois/?image=2")
    assert (listed.status_code, listed.json["data"]) == (200, [])
    assert "image 2" in listed.headers["X-Roiservice-Incomplete"]
    assert get("/images/2/collections").status_code == 503
    assert get("/readyz").status_code == 503
