"""OMERO.web with the service beside it, behind nginx with the files of `deploy/`: what goes where."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml

from tests.e2e.nginx import ROOT, Nginx, _free_port, configured, nginx_before
from tests.e2e.support import Home, Running, end, serving, wait_for
from tests.omeroweb.images import OmeroImage, squares
from tests.omeroweb.standin import OmeroWeb
from tests.stores import write_image

OURS, OMEROS = 1, 5  # image 1 has ROIs of both, image 5 is unknown to the service
CELLS, OWN = 9, 3
SETTINGS = {
    "ROISERVICE_SCRIPT_NAME": "/roi",
    "ROISERVICE_FORWARDED_HOPS": "1",
    "ROISERVICE_PASS_UNKNOWN": "false",
}


@dataclass(frozen=True)
class Got:
    """An answer, unpacked if it came compressed."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        assert self.status == 200, (self.status, self.body[:500])
        return json.loads(self.body)

    @property
    def ids(self) -> list[int]:
        return [roi["@id"] for roi in self.json()["data"]]


@dataclass(frozen=True)
class Site:
    """All that runs: nginx, the service, OMERO.web with its prefix, and a user's session."""

    nginx: Nginx
    service: Running
    web: OmeroWeb
    session: str

    def get(self, path: str, method: str = "GET", **headers: str) -> Got:
        connection = http.client.HTTPConnection(urlsplit(self.nginx.base).netloc, timeout=30)
        own = {"Cookie": f"theme=dark; sessionid={self.session}"}
        connection.request(method, path, headers=own | {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        plain = gzip.decompress(body) if answer.headers["Content-Encoding"] == "gzip" else body
        return Got(answer.status, answer.headers, plain)

    def rois(self, image: int, **headers: str) -> Got:
        return self.get(f"{self.web.prefix}/api/v0/m/rois/?image={image}&limit=500", **headers)


def site(folder: Path, prefix: str = "", wait: str = "30s", port: int | None = None) -> Iterator[Site]:
    """With `port` the service looks for OMERO.web behind nginx itself, which listens there."""
    labels = np.kron(np.arange(1, CELLS + 1, dtype=np.uint16).reshape(3, 3), np.ones((8, 8), np.uint16))
    write_image(folder / "images/1.zarr", labels={"cells": labels})
    with OmeroWeb(prefix=prefix) as web:
        web.add(OmeroImage(OURS, squares(OWN)))
        web.add(OmeroImage(OMEROS, squares(2, first=50)))
        url = web.url if port is None else f"http://127.0.0.1:{port}{prefix}"
        home = Home(folder / "home", SETTINGS | {"ROISERVICE_OMERO_WEB_URL": url})
        with (
            serving(home, folder / "images", "--workers", 1) as service,
            nginx_before(
                service.base, web.url, folder / "nginx", prefix=prefix, wait=wait, port=port
            ) as nginx,
        ):
            yield Site(nginx, service, web, web.login("ada"))


@pytest.fixture(scope="module", params=["", "/omero", "/of/two-parts"])
def beside(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from site(tmp_path_factory.mktemp("site"), request.param)


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    """One whose parts a test may end."""
    yield from site(tmp_path)


def test_rois_of_both_are_one_list(beside: Site) -> None:
    ids = beside.rois(OURS).ids
    assert ids[:OWN] == [1, 2, 3]
    assert len(ids) == OWN + CELLS
    assert min(ids[OWN:]) > 10**15
    prefix = beside.web.prefix
    assert beside.get(f"{prefix}/iviewer/rois_by_plane/1/0/0/?limit=500").ids == ids
    assert beside.get(f"{prefix}/api/v0/m/images/1/rois/?limit=500").ids == ids
    assert beside.get(f"{prefix}/iviewer/plane_shape_counts/1/").json() == {"data": [[OWN + CELLS]]}
    assert beside.get(f"{prefix}/iviewer/image_data/1/").json()["roi_count"] == OWN + CELLS


def test_ids_tell_whose_a_roi_is(beside: Site) -> None:
    prefix = beside.web.prefix
    last = beside.rois(OURS).json()["data"][-1]
    roi, shape = last["@id"], last["shapes"][0]["@id"]
    assert beside.get(f"{prefix}/api/v0/m/rois/{roi}/").json()["data"]["@id"] == roi
    assert beside.get(f"{prefix}/api/v0/m/rois/2/").json()["data"]["@id"] == 2
    place = beside.get(f"{prefix}/iviewer/shape/{shape}/page_data/").json()
    assert (place["roi"]["id"], place["roi_index"]) == (roi, OWN + CELLS - 1)
    assert beside.get(f"{prefix}/iviewer/roi/2/page_data/").json()["roi_index"] == 1
    # Whose image it is, is not told by the id.
    assert beside.get(f"{prefix}/iviewer/roi/2/image_data/").json()["roi_count"] == OWN + CELLS
    assert beside.get(f"{prefix}/iviewer/shape/501/image_data/").json()["roi_count"] == 2
    assert beside.get(f"{prefix}/iviewer/shape/77/image_data/").status == 404
    asked = len(beside.web.requests)
    assert beside.get(f"{prefix}/api/v0/m/rois/{10**15 + 7}/").status == 404
    assert len(beside.web.requests) > asked  # OMERO.web had the last word


def test_what_is_unknown_here_is_omeros_own_answer(beside: Site) -> None:
    web, prefix = beside.web, beside.web.prefix
    for path in (
        "/api/v0/m/rois/?image=5&limit=1&_=17",
        "/api/v0/m/rois/?limit=1",
        "/api/v0/m/images/5/rois/",
        "/iviewer/rois_by_plane/5/0/0/?limit=500&offset=0",
        "/iviewer/plane_shape_counts/5/",
        "/iviewer/image_data/5/",
        "/iviewer/image_data/77/",
        "/webgateway/get_rois_json/5",
        "/api/v0/m/images/5/",
        "/api/v0/m/images/77/",
        "/iviewer/?images=5",
        "/nothing/here/",
    ):
        through = beside.get(prefix + path, X_Requested_With="XMLHttpRequest")
        asked = web.requests[-1]
        assert (asked.path, asked.query) == (prefix + path.partition("?")[0], path.partition("?")[2])
        assert f"sessionid={beside.session}" in asked.headers["Cookie"]
        connection = http.client.HTTPConnection(web.host, timeout=30)
        host = {"Host": urlsplit(beside.nginx.base).netloc, "X-Requested-With": "XMLHttpRequest"}
        connection.request("GET", prefix + path, headers=host | {"Cookie": f"sessionid={beside.session}"})
        direct = connection.getresponse()
        assert (through.status, through.body) == (direct.status, direct.read()), path
        for name in ("Content-Type", "X-OMERO-ApiVersion", "Set-Cookie"):
            assert through.headers[name] == direct.headers[name], (path, name)
        connection.close()


def test_a_prefix_that_is_missing_is_none_of_the_services(beside: Site) -> None:
    if beside.web.prefix:
        assert beside.get("/api/v0/m/rois/?image=1").status == 404
        assert beside.web.requests[-1].path == "/api/v0/m/rois/"


def test_the_services_own_paths(beside: Site) -> None:
    host = urlsplit(beside.nginx.base).netloc
    moved = beside.get("/roi")
    assert (moved.status, moved.headers["Location"]) == (308, "/roi/")
    links = {link["rel"]: link["href"] for link in beside.get("/roi/images/1").json()["links"]}
    assert links["self"].startswith(f"http://{host}/roi/images/1")
    forged = beside.get("/roi/images/1", X_Forwarded_Host="evil", X_Forwarded_Prefix="/evil")
    assert b"evil" not in forged.body
    for path in ("/roi/metrics", "/roi/metrics/", "/roi//metrics/", "/roi/%6detrics/", "/roi/x/../metrics/"):
        assert beside.get(path).status == 404, path
    missing = beside.get("/roi/images/77")
    assert (missing.status, missing.headers["Content-Type"]) == (404, "application/problem+json")


def test_links_to_next_pages_may_be_long(beside: Site) -> None:
    labels = ",".join(map(str, range(1, 8000)))
    first = beside.get(f"/roi/images/1/collections/labels:cells/items?f=wkt&limit=5&label={labels}")
    assert first.status == 200
    found = re.search(r'<http://[^/]*([^>]*)>; rel="next"', first.headers["Link"])
    assert found is not None
    rest = beside.get(found[1])
    assert len(first.body.splitlines()) + len(rest.body.splitlines()) == CELLS + 2


def test_answers_are_compressed_once(beside: Site) -> None:
    plain = beside.rois(OURS)
    packed = beside.rois(OURS, Accept_Encoding="gzip, deflate, br")
    assert (plain.headers["Content-Encoding"], packed.headers["Content-Encoding"]) == (None, "gzip")
    assert packed.json() == plain.json()
    assert "Accept-Encoding" in packed.headers["Vary"]
    unchanged = beside.rois(OURS, Accept_Encoding="gzip", If_None_Match=packed.headers["ETag"])
    assert (unchanged.status, unchanged.body) == (304, b"")


def test_redirects_hold_below_every_prefix(beside: Site) -> None:
    shape = beside.rois(OURS).json()["data"][-1]["shapes"][0]["@id"]
    path = f"{beside.web.prefix}/iviewer/shape/{shape}/image_data/"
    answer = beside.get(path)
    if answer.status == 302:
        assert answer.headers["Location"] == "../../../image_data/1/"
        answer = beside.get(f"{beside.web.prefix}/iviewer/image_data/1/")
    assert answer.json()["id"] == OURS


def test_every_path_lives_on_without_the_service(own_site: Site) -> None:
    shape = own_site.rois(OURS).json()["data"][-1]["shapes"][0]["@id"]
    end(own_site.service.process)
    assert own_site.rois(OURS).ids == [1, 2, 3]
    assert own_site.get("/iviewer/rois_by_plane/1/0/0/").ids == [1, 2, 3]
    assert own_site.get("/iviewer/image_data/1/").json()["roi_count"] == OWN
    assert own_site.get(f"/iviewer/shape/{shape}/page_data/").status == 404
    many = ",".join(["10"] * 5000)  # the viewer puts all shapes of a page into one URL
    assert own_site.get(f"/iviewer/shape_stats/?ids={many}&z=0&t=0").json()["10"]
    down = own_site.get("/roi/images/1")
    assert (down.status, down.headers["Content-Type"]) == (503, "application/problem+json")
    assert json.loads(down.body)["status"] == 503


def test_every_path_in_the_manner_of_omeros_goes_to_the_service() -> None:
    pattern = re.compile(re.findall(r'location ~ "(.*?)" {', configured("nginx.conf", {}, ""), re.DOTALL)[0])
    paths = yaml.safe_load((ROOT / "openapi.yaml").read_text())["paths"]
    values = {"kind": "shape", "z": "0", "t": "0-3"}
    for path in (path for path in paths if path.startswith(("/api/", "/iviewer/", "/webgateway/"))):
        filled = re.sub(r"{(\w+)}", lambda name: values.get(name[1], str(10**15)), path)
        assert pattern.match(filled), path


def has_all(own_site: Site) -> bool:
    return len(own_site.rois(OURS).ids) == OWN + CELLS


def test_a_service_that_hangs_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    for own_site in site(tmp_path, wait="1s"):
        assert wait_for(partial(has_all, own_site))  # not before the layer is built
        group = os.getpgid(own_site.service.process.pid)
        os.killpg(group, signal.SIGSTOP)
        try:
            assert own_site.rois(OURS).ids == [1, 2, 3]
            assert own_site.get("/roi/images/1").status == 503
        finally:
            os.killpg(group, signal.SIGCONT)
        assert wait_for(partial(has_all, own_site))


def test_omero_web_may_be_named_by_its_public_address(tmp_path: Path) -> None:
    """Then the service meets its own requests, which are for OMERO.web."""
    for own_site in site(tmp_path, port=_free_port()):
        for got in (own_site.rois(OURS), own_site.get("/iviewer/rois_by_plane/1/0/0/?limit=500")):
            assert "X-Roiservice-Incomplete" not in got.headers
            assert (got.ids[:OWN], len(got.ids)) == ([1, 2, 3], OWN + CELLS)
        assert own_site.get("/iviewer/image_data/1/").json()["roi_count"] == OWN + CELLS
        assert own_site.rois(OMEROS).ids == [50, 51]


def test_omero_web_may_be_down(own_site: Site) -> None:
    """Its own answer is then nginx's; the list of both, ours alone."""
    own_site.web.always = "drop"
    assert len(own_site.rois(OURS).ids) == CELLS
    assert own_site.get("/api/v0/m/rois/?image=5").status == 502


def test_logs_hold_no_secret(own_site: Site) -> None:
    secrets = {
        "Authorization": "Bearer secret-token",
        "Referer": "http://elsewhere/?ticket=secret-referer",
        "X_OMERO_Session_Key": "secret-key",
    }
    paths = ("/api/v0/m/rois/?image=1&bsession=secret-query", "/roi/images/1?ticket=secret-ticket")
    for each in (*paths, "/iviewer/rois_by_plane/5/0/0/?password=secret-word"):
        own_site.get(each, **secrets)
    own_site.get("/roi?ticket=secret-ticket", **secrets)
    end(own_site.service.process)
    for each in paths:
        own_site.get(each, **secrets)
    # A line is written when its answer is out.
    lines = wait_for(lambda: (lines := own_site.nginx.logged.splitlines())[5:] and lines)
    assert len(lines) == 6
    assert any(" /iviewer/rois_by_plane/5/0/0/ " in line for line in lines)
    written = "".join(log.read_text() for log in own_site.nginx.folder.glob("*.log"))
    assert "secret" not in written
    assert own_site.session not in written
    assert "?" not in written
