"""The stand-in for OMERO.web answers as OMERO.web does, which other tests rely on."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.omeroweb.images import OmeroImage, squares
from tests.omeroweb.standin import OmeroWeb

Got = tuple[int, Any, dict[str, str]]


@pytest.fixture
def web() -> Iterator[OmeroWeb]:
    with OmeroWeb() as web:
        web.add(OmeroImage(1, squares(620, planes=[(0, 0), (1, None)]), (2, 1, 3, 256, 256)))
        web.add(OmeroImage(2, squares(3, first=1000), readers=frozenset({"eve"})))
        yield web


def get(web: OmeroWeb, path: str, session: str | None = None, method: str = "GET", **headers: str) -> Got:
    connection = http.client.HTTPConnection(web.host, timeout=10)
    own = {} if session is None else {"Cookie": f"{web.cookie_name}={session}"}
    connection.request(method, web.prefix + path, headers=own | headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    as_json = answer.headers["Content-Type"] == "application/json" and body
    return answer.status, json.loads(body) if as_json else body, dict(answer.headers)


def test_an_image_is_told_to_those_who_may_read_it(web: OmeroWeb) -> None:
    ada, eve = web.login("ada"), web.login("eve")
    status, body, headers = get(web, "/api/v0/m/images/2/", eve)
    assert (status, body["data"]["@id"], headers["X-OMERO-ApiVersion"]) == (200, 2, "0.2")
    assert body["data"]["@type"].endswith("#Image")
    for path in ("/api/v0/m/images/2/", "/api/v0/m/images/3/"):
        status, body, headers = get(web, path, ada)
        assert (status, headers["X-OMERO-ApiVersion"]) == (404, "0.2")
    status, body, headers = get(web, "/api/v0/m/images/2/")
    assert (status, body) == (403, {"message": "Not logged in"})
    assert "X-OMERO-ApiVersion" not in headers
    web.logout("eve")
    assert get(web, "/api/v0/m/images/2/", eve)[0] == 403
    assert get(web, f"/api/v0/m/images/{2**63}/", ada)[0] == 500
    assert get(web, "/api/v0/m/images/2", ada)[0] == 301


@pytest.mark.parametrize(
    ("query", "ids", "meta"),
    [
        ("", range(1, 201), (0, 200)),
        ("&limit=3&offset=618", range(619, 621), (618, 3)),
        ("&limit=9999", range(1, 501), (0, 500)),
        ("&limit=-1&offset=-5", range(1, 201), (0, 200)),
        ("&limit=0", range(0), (0, 0)),
    ],
)
def test_pages_of_rois(web: OmeroWeb, query: str, ids: range, meta: tuple[int, int]) -> None:
    status, body, _ = get(web, f"/api/v0/m/rois/?image=1{query}", web.login("ada"))
    assert status == 200
    assert [roi["@id"] for roi in body["data"]] == list(ids)
    told = dict(zip(("offset", "limit", "maxLimit", "totalCount"), (*meta, 500, 620), strict=True))
    assert body["meta"] == told
    assert get(web, f"/api/v0/m/images/1/rois/?{query}", web.login("ada"))[1] == body


def test_rois_of_what_cannot_be_read_are_none(web: OmeroWeb) -> None:
    ada = web.login("ada")
    assert get(web, "/api/v0/m/rois/?image=2", ada)[1]["meta"]["totalCount"] == 0
    assert get(web, "/iviewer/rois_by_plane/2/0/0/", ada)[1] == {"data": [], "meta": {"totalCount": 0}}
    assert get(web, "/api/v0/m/rois/1000/", ada)[0] == 404
    assert get(web, "/iviewer/image_data/2/", ada)[:2] == (404, {"error": "Image not found"})
    assert get(web, "/iviewer/image_data/2/")[0] == 302
    assert get(web, "/iviewer/image_data/2/", **{"X-Requested-With": "XMLHttpRequest"})[:2] == (403, b"")


def test_the_viewers_paths(web: OmeroWeb) -> None:
    ada = web.login("ada")
    page = get(web, "/iviewer/rois_by_plane/1/1/1/?limit=2&offset=1", ada)[1]
    assert [roi["@id"] for roi in page["data"]] == [4, 6]
    assert page["meta"] == {"totalCount": 310}
    assert get(web, "/iviewer/rois_by_plane/1/0-2/0/?limit=1", ada)[1]["meta"] == {"totalCount": 620}
    assert get(web, "/iviewer/plane_shape_counts/1/", ada)[1] == {"data": [[310, 0], [310, 310], [0, 0]]}
    assert get(web, "/iviewer/image_data/1/", ada)[1]["roi_count"] == 620
    place = {"image": {"id": 1}, "roi": {"id": 6}}
    assert get(web, "/iviewer/roi/6/page_data/", ada)[1] == place | {"roi_index": 5, "roi_count": 620}
    on_plane = place | {"roi_index": 2, "roi_count": 310, "theZ": 1, "theT": None}
    assert get(web, "/iviewer/shape/15/page_data/", ada)[1] == on_plane
    assert get(web, "/iviewer/shape/15/image_data/", ada)[1]["id"] == 1
    assert list(get(web, "/iviewer/shape_stats/?ids=6:15&z=0&t=0", ada)[1]) == ["15"]
    assert get(web, "/webgateway/render_shape_mask/15/", ada)[1].startswith(b"\x89PNG")
    assert len(get(web, "/webgateway/get_rois_json/1", ada)[1]) == 620


def test_the_public_user_only_reads(web: OmeroWeb) -> None:
    web.public = "eve"
    assert get(web, "/api/v0/m/images/2/")[0] == 200
    assert get(web, "/api/v0/m/images/2/", method="HEAD")[0] == 403


def test_a_prefix_is_before_every_path() -> None:
    with OmeroWeb(prefix="/omero") as web:
        web.add(OmeroImage(1))
        assert get(web, "/api/v0/m/images/1/", web.login("ada"))[0] == 200
        assert web.asked("/api/")[0].path == "/omero/api/v0/m/images/1/"
        connection = http.client.HTTPConnection(web.host)
        connection.request("GET", "/api/v0/m/images/1/")
        assert connection.getresponse().status == 404
        connection.close()


@pytest.mark.parametrize(
    ("fault", "status"), [(500, 500), (404, 404), ("html200", 200), ("redirect", 302), ("down", 403)]
)
def test_faults_that_are_answers(web: OmeroWeb, fault: str | int, status: int) -> None:
    ada = web.login("ada")
    web.faults.append(fault)
    assert get(web, "/api/v0/m/images/1/", ada)[0] == status
    assert get(web, "/api/v0/m/images/1/", ada)[0] == (403 if fault == "down" else 200)


def test_faults_that_are_no_answers(web: OmeroWeb) -> None:
    ada = web.login("ada")
    web.always, web.on = "drop", "images"
    with pytest.raises(ConnectionError):
        get(web, "/api/v0/m/images/1/", ada)
    assert get(web, "/api/v0/m/rois/?image=1&limit=1", ada)[0] == 200
    web.always = "truncated"
    with pytest.raises(http.client.IncompleteRead):
        get(web, "/api/v0/m/images/1/", ada)
    web.always = "malformed"
    with pytest.raises(ValueError, match=r"delimiter|Unterminated|Expecting"):
        get(web, "/api/v0/m/images/1/", ada)


def test_hanging_requests_end_with_the_server() -> None:
    with OmeroWeb(always="hang", public="ada") as web:
        failed: list[BaseException] = []

        def ask() -> None:
            try:
                get(web, "/api/v0/m/images/1/")
            except (OSError, http.client.HTTPException) as error:
                failed.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        while not web.requests:
            thread.join(0.01)
        assert thread.is_alive()
    thread.join(5)
    assert len(failed) == 1
