"""OMERO's own ROIs before ours: lists, counts, places, and what is left of them without OMERO.web."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from flask.testing import FlaskClient

from roiservice.omeroweb.client import PATIENT, Answer
from roiservice.omeroweb.client import OmeroWeb as OmeroWebClient
from roiservice.omeroweb.rois import OmeroRois, RoiList
from tests.auth.support import Store
from tests.conftest import Service, start_service
from tests.omeroweb.images import OmeroImage, squares
from tests.omeroweb.standin import OmeroWeb
from tests.stores import write_image

COUNTS = (0, 1, 499, 500, 501, 1201)
LIST = "/api/v0/m/rois/?image={image}"
PLANES = ((0, 0), (1, 0), (2, 1), (None, None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image n + 1 has n objects of one pixel; image 9999 has objects on several planes."""
    folder = tmp_path_factory.mktemp("beside") / "images"
    for count in COUNTS:
        plane = np.zeros(2500, np.uint16)
        plane[:count] = np.arange(1, count + 1)
        write_image(folder / f"{count + 1}.zarr", labels={"cells": plane.reshape(50, 50)})
    moving = np.zeros((2, 3, 32, 32), np.uint8)
    for t, z in itertools.product(range(2), range(3)):
        moving[t, z, 2:6, 2:6] = 1
        moving[t, z, 10:14, 10:14] = 10 + 3 * t + z
    write_image(folder / "9999.zarr", labels={"cells": moving}, axes="tzyx")
    return folder


@pytest.fixture
def omero() -> Iterator[OmeroWeb]:
    with OmeroWeb() as web:
        yield web


@pytest.fixture
def beside(folder: Path, omero: OmeroWeb) -> Service:
    omero.add(OmeroImage(9999, squares(7, planes=PLANES, shapes=2), size=(2, 1, 3, 32, 32)))
    return start_service(folder, omero_web_url=omero.url, omero_web_timeout=1.0, omero_web_patience=1.0)


def log_in(service: Service, omero: OmeroWeb) -> FlaskClient:
    client = service.app.test_client()
    client.set_cookie("sessionid", omero.login("ada"))
    return client


def page(client: FlaskClient, url: str, limit: int, offset: int) -> tuple[list[int], int]:
    separator = "&" if "?" in url else "?"
    answer = client.get(f"{url}{separator}limit={limit}&offset={offset}&_=1")
    assert answer.status_code == 200
    assert "X-Roiservice-Incomplete" not in answer.headers
    return [roi["@id"] for roi in answer.json["data"]], answer.json["meta"]["totalCount"]


def everything(client: FlaskClient, url: str) -> list[int]:
    ids: list[int] = []
    while True:
        found, total = page(client, url, 500, len(ids))
        ids += found
        if len(ids) >= total:
            return ids


@pytest.mark.parametrize("ours", COUNTS)
def test_pages_are_those_of_one_list(folder: Path, omero: OmeroWeb, ours: int) -> None:
    image = ours + 1
    own = everything(start_service(folder).client, LIST.format(image=image))
    assert len(own) == ours
    service = start_service(folder, omero_web_url=omero.url)
    for theirs in COUNTS:
        omero.add(OmeroImage(image, squares(theirs)))
        client = log_in(service, omero)
        both = [*range(1, theirs + 1), *own]
        borders = (0, theirs, theirs - 500, len(both), len(both) - 500)
        offsets = sorted({max(each + step, 0) for each in borders for step in (-1, 0, 1)})
        for offset, limit in itertools.product(offsets, (0, 1, 499, 500, 501)):
            expected = both[offset : offset + min(limit, 500)]
            assert page(client, LIST.format(image=image), limit, offset) == (expected, len(both))


@pytest.mark.parametrize("planes", ["0/0", "1/0", "0-1/0", "2/0-1", "0-2/0-1"])
@pytest.mark.parametrize("theirs", [0, 1, 5, 30])
def test_pages_by_plane_are_those_of_one_list(
    folder: Path, beside: Service, omero: OmeroWeb, planes: str, theirs: int
) -> None:
    url = f"/iviewer/rois_by_plane/9999/{planes}/"
    own = everything(start_service(folder).client, url)
    omero.images[9999].rois = squares(theirs, planes=PLANES, shapes=2)
    client = log_in(beside, omero)
    theirs_there = [roi["@id"] for roi in json.loads(directly(omero, client, url)[2])["data"]]
    both = theirs_there + own
    for offset, limit in itertools.product(range(len(both) + 2), (0, 1, 3, 500)):
        assert page(client, url, limit, offset) == (both[offset : offset + limit], len(both))


def directly(omero: OmeroWeb, client: FlaskClient, path: str) -> tuple[int, str, bytes]:
    """What the stand-in itself answers the client's user: state, media type, body."""
    cookie = client.get_cookie("sessionid")
    assert cookie is not None
    headers = {"Cookie": f"sessionid={cookie.value}", "X-Requested-With": "XMLHttpRequest"}
    request = urllib.request.Request(omero.url + path, headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def test_gzip_holds_both(beside: Service, omero: OmeroWeb) -> None:
    omero.add(OmeroImage(502, squares(400)))
    client = log_in(beside, omero)
    url = f"{LIST.format(image=502)}&limit=500"
    packed = client.get(url, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed.data)) == client.get(url).json
    assert len(packed.data) < len(client.get(url).data) / 5


def test_a_page_behind_omero_s_rois_asks_nothing_again(beside: Service, omero: OmeroWeb) -> None:
    omero.add(OmeroImage(1202, squares(3)))
    client = log_in(beside, omero)
    assert page(client, LIST.format(image=1202), 500, 0)[1] == 1204
    before = len(omero.requests)
    for offset in (3, 500, 1000, 1204):
        page(client, LIST.format(image=1202), 500, offset)
    assert len(omero.requests) == before
    page(log_in(beside, omero), LIST.format(image=1202), 500, 500)  # another session, another count
    assert len(omero.requests) == before + 1


def test_omero_may_give_smaller_pages(beside: Service, omero: OmeroWeb) -> None:
    omero.max_limit = 100
    omero.add(OmeroImage(2, squares(250)))
    found, total = page(log_in(beside, omero), LIST.format(image=2), 500, 0)
    assert (found[:250], len(found), total) == (list(range(1, 251)), 251, 251)
    omero.max_limit = 1
    answer = log_in(beside, omero).get(f"{LIST.format(image=2)}&limit=500")
    assert answer.json["meta"]["totalCount"] == 1
    assert "small portions" in answer.headers["X-Roiservice-Incomplete"]


def test_many_portions_have_one_time_limit(beside: Service, omero: OmeroWeb) -> None:
    omero.add(OmeroImage(2, squares(900)))
    omero.max_limit, omero.latency = 50, 0.4
    client = log_in(beside, omero)
    ids = ",".join(str(roi["shapes"][0]["@id"]) for roi in omero.images[2].rois)
    ours = json.loads(client.get("/api/v0/m/images/2/rois/?limit=500").data)["data"]
    assert len(ours) == 1
    asked = len(omero.requests)
    assert asked <= 3
    shape = ours[0]["shapes"][0]["@id"]
    answer = client.get(f"/iviewer/shape_stats/?ids={ids},{shape}&z=0&t=0&cs=0")
    assert answer.headers["X-Roiservice-Incomplete"] == "OMERO (OMERO.web does not answer in time)"
    assert list(answer.json) == [str(shape)]
    assert len(omero.requests) <= asked + 3


def test_counts_per_plane_are_added(folder: Path, beside: Service, omero: OmeroWeb) -> None:
    url = "/iviewer/plane_shape_counts/9999/"
    own = np.array(start_service(folder).client.get(url).json["data"])
    client = log_in(beside, omero)
    theirs = np.array(json.loads(directly(omero, client, url)[2])["data"])
    assert theirs.any()
    assert client.get(url).json["data"] == (own + theirs).tolist()
    omero.always = 500
    assert client.get(url).json["data"] == (own + theirs).tolist()
    answer = log_in(beside, omero).get(url)
    assert answer.json["data"] == own.tolist()
    assert "OMERO" in answer.headers["X-Roiservice-Incomplete"]


def test_places_are_those_in_the_list_of_both(beside: Service, omero: OmeroWeb) -> None:
    client = log_in(beside, omero)
    everywhere = client.get(LIST.format(image=9999)).json["data"]
    for index, roi in enumerate(everywhere[7:], start=7):
        data = client.get(f"/iviewer/roi/{roi['@id']}/page_data/").json
        assert (data["roi_index"], data["roi_count"]) == (index, len(everywhere))
        for shape in roi["shapes"]:
            data = client.get(f"/iviewer/shape/{shape['@id']}/page_data/").json
            listed, total = page(
                client, f"/iviewer/rois_by_plane/9999/{data['theZ']}/{data['theT']}/", 500, 0
            )
            assert listed[data["roi_index"]] == roi["@id"]
            assert data["roi_count"] == total


def test_the_viewer_is_told_the_number_of_both(beside: Service, omero: OmeroWeb) -> None:
    client = log_in(beside, omero)
    answer = client.get("/iviewer/image_data/9999/")
    theirs = json.loads(directly(omero, client, "/iviewer/image_data/9999/")[2])
    assert theirs["roi_count"] == 7
    assert answer.json == theirs | {"roi_count": 7 + 7}
    omero.images[9999].readers = frozenset()
    refused = client.get("/iviewer/image_data/9999/")
    assert (refused.status_code, refused.json) == (404, {"error": "Image not found"})


@pytest.mark.parametrize("pass_unknown", [True, False])
def test_who_follows_a_link_to_one_of_omero_s_is_told_the_number_of_both(
    folder: Path, omero: OmeroWeb, pass_unknown: bool
) -> None:
    omero.add(OmeroImage(9999, squares(7, planes=PLANES, shapes=2), size=(2, 1, 3, 32, 32)))
    omero.add(OmeroImage(77, squares(4, first=1001)))
    service = start_service(folder, omero_web_url=omero.url, pass_unknown=pass_unknown)
    client = log_in(service, omero)
    for path, count in (("roi/3", 14), ("shape/11", 14), ("roi/1002", 4), ("shape/10010", 4)):
        url = f"/iviewer/{path}/image_data/"
        theirs = json.loads(directly(omero, client, url)[2])
        answer = client.get(url)
        assert answer.json == theirs | {"roi_count": count}
    missing = client.get("/iviewer/roi/999/image_data/")
    assert (missing.status_code, missing.data) == (
        404,
        directly(omero, client, "/iviewer/roi/999/image_data/")[2],
    )
    omero.always = "html200"
    assert client.get("/iviewer/roi/3/image_data/").data == b"<html>maintenance</html>"
    omero.always = 500
    assert client.get("/iviewer/roi/3/image_data/").status_code == 500


@pytest.mark.parametrize(
    "fault",
    [500, "hang", "slow", "malformed", "truncated", "html200", "redirect", "drop", "security", "down"],
)
def test_without_omero_web_the_list_is_ours_alone_and_says_so(
    folder: Path, beside: Service, omero: OmeroWeb, fault: str | int
) -> None:
    own = everything(start_service(folder).client, LIST.format(image=9999))
    client = log_in(beside, omero)
    omero.always = fault
    for url in (LIST.format(image=9999), "/iviewer/rois_by_plane/9999/0-2/0-1/"):
        answer = client.get(url)
        assert answer.status_code == 200
        assert [roi["@id"] for roi in answer.json["data"]] == own
        assert answer.json["meta"]["totalCount"] == len(own)
        assert answer.headers["X-Roiservice-Incomplete"].startswith("OMERO (")
    place = client.get(f"/iviewer/roi/{own[2]}/page_data/")
    assert (place.status_code, place.json["roi_index"]) == (200, 2)
    assert place.headers["X-Roiservice-Incomplete"].startswith("OMERO (")
    assert not [each for each in omero.requests if "elsewhere" in each.path]


def test_what_omero_web_alone_can_answer_is_waited_for_longer(folder: Path, omero: OmeroWeb) -> None:
    omero.add(OmeroImage(9999, squares(7), size=(2, 1, 3, 32, 32)))
    omero.latency = 0.6
    service = start_service(folder, omero_web_url=omero.url, omero_web_timeout=0.3, omero_web_patience=20.0)
    client = log_in(service, omero)
    rois = client.get(LIST.format(image=9999))
    assert "OMERO" in rois.headers["X-Roiservice-Incomplete"]
    assert client.get("/iviewer/image_data/9999/").json["roi_count"] == 14
    shape = rois.json["data"][0]["shapes"][0]["@id"]
    found = client.get(f"/iviewer/shape_stats/?ids=10,{shape}&z=0&t=0&cs=0").json
    assert list(found) == ["10", str(shape)]
    # But not by so many at once that nothing else is answered.
    web = service.services.omero_web
    with ExitStack() as others:
        for _ in range(PATIENT):
            others.enter_context(web.patience())
        assert client.get("/iviewer/image_data/9999/").status_code == 503


def test_only_the_session_cookie_goes_on(beside: Service, omero: OmeroWeb) -> None:
    client = log_in(beside, omero)
    client.set_cookie("csrftoken", "secret")
    client.get(
        f"{LIST.format(image=77)}&limit=5&bsession=key&username=ada&password=pw&_=1",
        headers={"Authorization": "Bearer secret", "X-OMERO-Session-Key": "key"},
    )
    (asked,) = omero.requests
    assert asked.headers["Cookie"] == f"sessionid={client.get_cookie('sessionid').value}"
    assert sorted(asked.query.split("&")) == ["image=77", "limit=5"]
    sent = str(asked.headers)
    assert "secret" not in sent
    assert "Session-Key" not in sent


@pytest.mark.parametrize(
    "path",
    [
        "/api/v0/m/rois/?image=77&limit=2&offset=1",
        "/api/v0/m/images/77/rois/?limit=1",
        "/api/v0/m/rois/12/",
        "/api/v0/m/rois/987/",
        "/iviewer/rois_by_plane/77/0/0/?limit=2",
        "/iviewer/plane_shape_counts/77/",
        "/iviewer/image_data/77/",
        "/iviewer/roi/12/page_data/",
        "/iviewer/roi/12/image_data/",
        "/iviewer/shape/120/page_data/",
        "/iviewer/image_data/78/",
        "/iviewer/shape_stats/?ids=110,111&z=0&t=0&cs=0",
        "/iviewer/shape_stats/?ids=110,5&z=0&t=0",
    ],
)
def test_what_is_unknown_here_is_omero_web_s(beside: Service, omero: OmeroWeb, path: str) -> None:
    omero.add(OmeroImage(77, squares(4, first=11)))
    client = log_in(beside, omero)
    expected = directly(omero, client, path)
    answer = client.get(path)
    assert (answer.status_code, answer.content_type, answer.data) == expected
    omero.always = "drop"
    assert client.get(path).status_code == 503


def test_what_is_unknown_here_may_be_left_to_a_proxy(folder: Path, omero: OmeroWeb) -> None:
    omero.add(OmeroImage(77, squares(4)))
    service = start_service(folder, omero_web_url=omero.url, pass_unknown=False)
    client = log_in(service, omero)
    assert client.get(LIST.format(image=77)).status_code == 404
    assert client.get("/iviewer/image_data/77/").status_code == 404
    assert client.get("/iviewer/shape_stats/?ids=10&z=0&t=0").status_code == 404
    assert not omero.requests


@pytest.mark.parametrize("cookie", ["sessionid=a; sessionid=b", 'sessionid="a b"', "sessionid=a%0d%0ab"])
def test_unclean_sessions_go_nowhere(beside: Service, omero: OmeroWeb, cookie: str) -> None:
    client = beside.app.test_client(use_cookies=False)
    answer = client.get(LIST.format(image=2), headers={"Cookie": cookie})
    assert (answer.status_code, answer.json["meta"]["totalCount"]) == (200, 1)
    assert all("Cookie" not in each.headers for each in omero.requests)


def test_statistics_of_both_come_in_one_answer(beside: Service, omero: OmeroWeb) -> None:
    client = log_in(beside, omero)
    everywhere = client.get(LIST.format(image=9999)).json["data"]
    shapes = [shape["@id"] for roi in (everywhere[0], everywhere[-1]) for shape in roi["shapes"]]
    url = f"/iviewer/shape_stats/?ids={','.join(map(str, shapes))}&z=0&t=0&cs=0"
    assert set(client.get(url).json) == {str(shape) for shape in shapes}
    omero.always = 500
    alone = client.get(url)
    assert set(alone.json) == {str(shape["@id"]) for shape in everywhere[-1]["shapes"]}
    assert "OMERO" in alone.headers["X-Roiservice-Incomplete"]


def test_many_shapes_of_omero_s_are_asked_for_in_urls_that_it_takes(beside: Service, omero: OmeroWeb) -> None:
    omero.add(OmeroImage(2, squares(900, first=10**7)))
    client = log_in(beside, omero)
    theirs = [roi["shapes"][0]["@id"] for roi in omero.images[2].rois]
    ours = client.get(f"{LIST.format(image=2)}&offset=900").json["data"][0]["shapes"][0]["@id"]
    ids = ",".join(map(str, [*theirs, ours]))
    answer = client.get(f"/iviewer/shape_stats/?ids={ids}&z=0&t=0&cs=0")
    assert "X-Roiservice-Incomplete" not in answer.headers
    assert set(answer.json) == {str(shape) for shape in (*theirs, ours)}
    asked = omero.asked("/iviewer/shape_stats/")
    assert max(len(f"{each.path}?{each.query}") for each in asked) < 4000  # what gunicorn takes by default


def test_drawings_of_both_come_in_one_list(beside: Service, omero: OmeroWeb) -> None:
    client = log_in(beside, omero)
    both = [roi["@id"] for roi in client.get(LIST.format(image=9999)).json["data"]]
    url = "/webgateway/get_rois_json/9999/"
    assert [roi["id"] for roi in client.get(url).json] == both
    omero.always = 500
    alone = client.get(url)
    assert [roi["id"] for roi in alone.json] == both[7:]
    assert "OMERO" in alone.headers["X-Roiservice-Incomplete"]


def test_another_page_s_404_is_no_answer(folder: Path, omero: OmeroWeb) -> None:
    service = start_service(folder, omero_web_url=f"{omero.url}/elsewhere")
    for path in (
        LIST.format(image=9999),
        "/iviewer/plane_shape_counts/9999/",
        "/webgateway/get_rois_json/9999/",
    ):
        answer = log_in(service, omero).get(path)
        assert answer.status_code == 200
        assert "OMERO" in answer.headers["X-Roiservice-Incomplete"]


def test_a_projection_that_ends_before_it_starts_is_one_from_plane_0(
    beside: Service, omero: OmeroWeb
) -> None:
    client = log_in(beside, omero)
    url = "/iviewer/rois_by_plane/9999/{}/0/"
    assert client.get(url.format("2-1")).json == client.get(url.format("0-1")).json
    assert client.get(url.format("2-1")).json != client.get(url.format("2")).json
    omero.add(OmeroImage(77, squares(4)))
    assert client.get("/iviewer/rois_by_plane/77/5-2/0/").status_code == 200


def test_one_slow_path_harms_itself_alone(beside: Service, omero: OmeroWeb) -> None:
    omero.on, omero.always = "plane_shape_counts", "hang"
    for _ in range(4):
        client = log_in(beside, omero)
        assert "OMERO" in client.get("/iviewer/plane_shape_counts/9999/").headers["X-Roiservice-Incomplete"]
    assert page(client, LIST.format(image=9999), 500, 0)[1] == 14
    assert client.get("/iviewer/image_data/9999/").json["roi_count"] == 14


def test_pages_behind_omero_s_rois_stay_while_omero_web_fails(beside: Service, omero: OmeroWeb) -> None:
    omero.add(OmeroImage(1202, squares(10)))
    client = log_in(beside, omero)
    before = page(client, LIST.format(image=1202), 5, 20)
    omero.always = 500
    first = client.get(f"{LIST.format(image=1202)}&limit=5")
    assert "OMERO" in first.headers["X-Roiservice-Incomplete"]
    assert page(client, LIST.format(image=1202), 5, 20) == before


def test_pages_across_the_border_keep_their_places_while_omero_web_fails(
    folder: Path, beside: Service, omero: OmeroWeb
) -> None:
    own = everything(start_service(folder).client, LIST.format(image=1202))
    omero.add(OmeroImage(1202, squares(10)))
    client = log_in(beside, omero)
    page(client, LIST.format(image=1202), 5, 20)
    omero.always = 500
    for offset, limit in ((0, 500), (8, 5), (9, 2)):
        answer = client.get(f"{LIST.format(image=1202)}&limit={limit}&offset={offset}")
        assert "OMERO" in answer.headers["X-Roiservice-Incomplete"]
        assert [roi["@id"] for roi in answer.json["data"]] == own[: offset + limit - 10]
        assert answer.json["meta"]["totalCount"] == 1211
    place = client.get(f"/iviewer/roi/{own[1]}/page_data/").json
    assert (place["roi_index"], place["roi_count"]) == (11, 1211)
    alone = client.get(f"{LIST.format(image=1202)}&limit=5&offset=3")
    assert [roi["@id"] for roi in alone.json["data"]] == own[3:8]


def test_processes_agree_on_counts(folder: Path, beside: Service, omero: OmeroWeb) -> None:
    omero.add(OmeroImage(1202, squares(10)))
    client = log_in(beside, omero)
    page(client, LIST.format(image=1202), 5, 20)
    other = start_service(folder, omero_web_url=omero.url)
    cookie = client.get_cookie("sessionid")
    assert cookie is not None
    second = other.app.test_client()
    second.set_cookie("sessionid", cookie.value)
    omero.images[1202].rois = squares(12)
    second.get("/iviewer/image_data/1202/")
    assert page(client, LIST.format(image=1202), 5, 20) == page(second, LIST.format(image=1202), 5, 20)
    assert page(client, LIST.format(image=1202), 5, 20)[1] == 1213


def test_a_page_by_plane_is_by_default_as_long_as_may_be(beside: Service, omero: OmeroWeb) -> None:
    answer = log_in(beside, omero).get("/iviewer/rois_by_plane/1202/0/0/").json
    assert (len(answer["data"]), answer["meta"]["totalCount"]) == (500, 1201)


def test_a_roi_that_was_just_saved_is_there_once_the_image_is_opened_again(
    beside: Service, omero: OmeroWeb
) -> None:
    omero.add(OmeroImage(1202))
    client = log_in(beside, omero)
    client.get("/iviewer/image_data/1202/")
    plane, counts = "/iviewer/rois_by_plane/1202/0/0/", "/iviewer/plane_shape_counts/1202/"
    before = client.get(counts).json["data"][0][0]
    assert page(client, plane, 500, 0)[1] == 1201
    omero.images[1202].rois = squares(1)
    assert client.get("/iviewer/image_data/1202/").json["roi_count"] == 1202
    found, total = page(client, plane, 500, 0)
    assert (found[0], total) == (1, 1202)
    assert client.get(counts).json["data"] == [[before + 1]]


def test_that_there_is_no_roi_is_believed_for_a_shorter_time(omero: OmeroWeb) -> None:
    """A viewer's user who draws the first one looks for it at once; a page asks for others by itself."""
    omero.add(OmeroImage(2))
    omero.add(OmeroImage(3, squares(5)))
    kept = {}
    for image in (2, 3):
        store = Store()
        OmeroRois(OmeroWebClient(omero.url), store).count(RoiList(image), omero.login("ada"))
        (kept[image],) = store.ttls.values()
    assert kept[2] < kept[3] / 5


def test_links_lead_to_where_the_caller_asked(beside: Service, omero: OmeroWeb) -> None:
    answer = log_in(beside, omero).get(LIST.format(image=9999))
    assert answer.json["data"][0]["url:roi"] == "http://localhost/api/v0/m/rois/1/"
    assert omero.host.encode() not in answer.data


def test_whose_rois_are_wanted_is_for_omero_to_say(beside: Service, omero: OmeroWeb) -> None:
    client = log_in(beside, omero)
    for path in (LIST.format(image=9999), "/api/v0/m/images/9999/rois/?limit=200"):
        assert client.get(path).json["meta"]["totalCount"] == 14
        # Each is a list of its own, whose count is remembered apart from that of all.
        both = client.get(f"{path}&owner=4&group=-1").json
        assert (both["meta"]["totalCount"], len(both["data"])) == (14, 14)
        others = client.get(f"{path}&owner=5").json
        assert (others["meta"]["totalCount"], len(others["data"])) == (7, 7)
        assert min(roi["@id"] for roi in others["data"]) >= 10**15
        assert client.get(f"{path}&group=many").status_code == 400
    asked = {each.query for each in omero.asked("/api/v0/m/rois/")}
    assert any("owner=4&group=-1" in query for query in asked)


def test_of_repeated_parameters_the_last_counts(beside: Service, omero: OmeroWeb) -> None:
    client = log_in(beside, omero)
    assert client.get("/api/v0/m/rois/?image=2&image=500&limit=1&limit=2").json["meta"]["limit"] == 2
    assert client.get("/api/v0/m/rois/?image=2&image=500").json["meta"]["totalCount"] == 499


@pytest.mark.parametrize(
    "body",
    [
        {"data": [None, {"@id": 1}], "meta": {"totalCount": 2}},
        {"data": [], "meta": {"totalCount": 7}},
        {"data": {}, "meta": {"totalCount": 0}},
        {"data": [], "meta": {"totalCount": -1}},
        {"data": [], "meta": {}},
        [],
    ],
)
def test_lists_that_are_not_as_promised_are_left_out(beside: Service, body: object) -> None:
    beside.services.omero_rois._web = _Answers(json.dumps(body).encode())
    answer = beside.client.get(LIST.format(image=2))
    assert (answer.status_code, answer.json["meta"]["totalCount"]) == (200, 1)
    assert "OMERO" in answer.headers["X-Roiservice-Incomplete"]


@pytest.mark.parametrize("rows", [[], [[]], [[1], [1, 2]], [[-5]], [["5"]], [[1.7]], [[2**63 - 1]], {"0": 1}])
def test_counts_that_are_none_are_left_out(beside: Service, rows: object) -> None:
    beside.services.omero_rois._web = _Answers(json.dumps({"data": rows}).encode())
    answer = beside.client.get("/iviewer/plane_shape_counts/2/")
    assert answer.json == {"data": [[1]]}
    assert "OMERO" in answer.headers["X-Roiservice-Incomplete"]


def test_odd_texts_and_too_many_rois_do_no_harm(beside: Service) -> None:
    rois = b'{"@id":1,"shapes":[{"Text":"\\ud800","X":NaN}]},{"@id":2,"shapes":[]},{"@id":3,"shapes":[]}'
    beside.services.omero_rois._web = _Answers(b'{"data":[' + rois + b'],"meta":{"totalCount":2}}')
    answer = beside.client.get(LIST.format(image=2))
    assert answer.json["meta"]["totalCount"] == 3
    assert [roi["@id"] for roi in answer.json["data"]][:2] == [1, 2]
    assert len(answer.json["data"]) == 3
    assert "X-Roiservice-Incomplete" not in answer.headers


class _Answers:
    """What an OMERO.web would say that no stand-in says."""

    origin = "http://127.0.0.1:1"

    def __init__(self, body: bytes) -> None:
        self._answer = Answer(200, (("Content-Type", "application/json"),), body)

    def deadline(self) -> float:
        return math.inf

    def get(self, path: str, query: str = "", session: str | None = None, until: float = 0) -> Answer:
        del path, query, session, until
        return self._answer
