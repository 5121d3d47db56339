"""The running service: several processes, restarts, builds cut short, layers too large for a request."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.e2e.support import Home, Running, end, serving, wait_for
from tests.stores import write_image


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def cells(path: Path, size: int = 300, planes: int = 2) -> Path:
    """A z-stack of touching 10 x 10 cells, each with a corner pixel cut out."""
    rows, columns = np.indices((size, size)) // 10
    labels = (rows * (size // 10) + columns + 1).astype(np.uint32)
    labels[::10, ::10] = 0
    stack = np.broadcast_to(labels, (planes, size, size))
    return write_image(path, labels={"cells": stack}, axes="zyx", chunks=(1, 100, 100))


def noise(path: Path, planes: int) -> Path:
    """Planes whose outlines take a while: labels at random."""
    labels = np.random.default_rng(1).integers(1, 2000, (planes, 600, 600), np.uint16)
    return write_image(path, labels={"noise": labels}, axes="zyx")


def pages(service: Running) -> dict[str, bytes]:
    """What clients see, without the address of the service."""
    paths = (
        "/images/1/collections/labels:cells/items?limit=500",
        "/api/v0/m/rois/?image=1&limit=500",
        "/iviewer/rois_by_plane/1/1/0/?limit=500",
        "/iviewer/plane_shape_counts/1/",
    )
    bodies = {path: service.get(path) for path in paths}
    assert {status for status, _, _ in bodies.values()} == {200}
    return {path: body.replace(service.base.encode(), b"") for path, (_, body, _) in bodies.items()}


def test_ids_and_bytes_last_over_restarts_and_lost_catalogs(home: Home, tmp_path: Path) -> None:
    path = cells(tmp_path / "1.zarr")
    with serving(home, path, "--workers", 2) as service:
        first = pages(service)
    with serving(home, path, "--workers", 1) as service:
        assert pages(service) == first
    for file in home.path.glob("cache/**/*.arrow"):
        file.unlink()
    with serving(home, path, "--workers", 2) as service:
        assert pages(service) == first


def test_workers_build_a_layer_once_and_agree(home: Home, tmp_path: Path) -> None:
    with (
        serving(home, cells(tmp_path / "1.zarr"), "--workers", 3) as service,
        ThreadPoolExecutor(12) as threads,
    ):
        answers = list(threads.map(lambda _: service.get("/api/v0/m/rois/?image=1&limit=500"), range(24)))
    assert {status for status, _, _ in answers} == {200}
    assert len({body for _, body, _ in answers}) == 1
    assert len(list(home.path.glob("cache/**/layer.json"))) == 1


def test_a_worker_that_is_killed_is_replaced(home: Home, tmp_path: Path) -> None:
    with serving(home, cells(tmp_path / "1.zarr"), "--workers", 2) as service:
        first = pages(service)
        wait_for(lambda: len(service.workers) == 2)  # one that answers does not mean that both are there
        os.kill(service.workers[0], signal.SIGKILL)
        wait_for(lambda: _answers(service))
        assert pages(service) == first


def test_clients_that_say_nothing_keep_no_others_waiting(home: Home, tmp_path: Path) -> None:
    with serving(home, cells(tmp_path / "1.zarr"), "--workers", 1) as service, ExitStack() as stack:
        where = urlsplit(service.base)
        for _ in range(24):
            silent = stack.enter_context(socket.create_connection((where.hostname, where.port)))
            silent.sendall(b"GET /healthz HTTP/1.1\r\n")  # and no more
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(service.get, "/images/1/collections/labels:cells/items?limit=1")
            try:
                assert answer.result(20)[0] == 200
            finally:
                stack.close()


def _answers(service: Running) -> bool:
    try:
        return service.get("/healthz")[0] == 200
    except OSError:
        return False


def test_a_build_that_is_killed_leaves_nothing_half(home: Home, tmp_path: Path) -> None:
    path = noise(tmp_path / "1.zarr", planes=12)
    process = home.start("build", path)
    wait_for(lambda: list(home.path.glob("cache/**/[0-9]*.new")))
    process.kill()
    process.communicate()
    assert not list(home.path.glob("cache/**/layer.json"))
    done = home.run("export", path, "-f", "ndjson", "-z", 3)
    assert done.returncode == 0
    areas = [json.loads(line)["properties"]["area"] for line in done.stdout.splitlines()]
    assert sum(areas) == 600 * 600
    assert not list(home.path.glob("cache/**/*.new"))


def test_a_large_layer_is_built_beside_the_service(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", {"ROISERVICE_INLINE_PIXELS": "1000"})
    items = "/images/1/collections/labels:noise/items?limit=1"
    with serving(home, noise(tmp_path / "1.zarr", planes=6), "--workers", 2) as service:
        status, body, headers = service.get(items)
        assert status == 503
        assert headers["Content-Type"] == "application/problem+json"
        assert int(headers["Retry-After"]) > 0
        assert b"labels:noise" in body
        # The viewer would wait for ever for an answer that is an error.
        status, body, headers = service.get("/iviewer/rois_by_plane/1/0/0/?limit=500")
        assert status == 200
        if not json.loads(body)["data"]:
            assert "X-Roiservice-Incomplete" in headers
        wait_for(lambda: service.get(items)[0] == 200, 60)
        assert "X-Roiservice-Incomplete" not in service.get("/iviewer/rois_by_plane/1/0/0/?limit=500")[2]


def test_a_changed_source_is_seen_without_a_restart(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", {"ROISERVICE_CHECK_INTERVAL": "0.2"})
    path = "/images/1/collections/labels:cells/items?limit=1"
    one = np.zeros((20, 20), np.uint8)
    one[2:5, 2:5] = 1
    two = one.copy()
    two[10:15, 10:15] = 2
    write_image(tmp_path / "1.zarr", labels={"cells": one})
    with serving(home, tmp_path / "1.zarr", "--workers", 2) as service:
        assert service.json(path)["numberMatched"] == 1
        write_image(tmp_path / "new/1.zarr", labels={"cells": two})
        os.rename(tmp_path / "1.zarr", tmp_path / "old.zarr")
        os.rename(tmp_path / "new/1.zarr", tmp_path / "1.zarr")
        wait_for(lambda: service.json(path)["numberMatched"] == 2)


def test_a_layer_that_is_rebuilt_during_a_walk(home: Home, tmp_path: Path) -> None:
    path = cells(tmp_path / "1.zarr")
    items = "/images/1/collections/labels:cells/items"
    with serving(home, path, "--workers", 2) as service:
        first = service.json(f"{items}?cursor=start&limit=50")
        following = next(link["href"] for link in first["links"] if link["rel"] == "next")
        following = following.removeprefix(service.base)
        identifier = first["features"][7]["id"]
        assert service.get(following)[0] == service.get(f"{items}/{identifier}")[0] == 200
        path.rename(tmp_path / "old")
        cells(path, size=200)
        assert home.run("build", path).returncode == 0
        for _ in range(6):  # whichever of the workers answers
            status, body, _ = service.get(following)
            assert (status, json.loads(body)["type"]) == (410, "/docs#cursor-expired")
            assert b"cursor=start" in body
            status, body, _ = service.get(f"{items}/{identifier}")
            assert (status, json.loads(body)["type"]) == (410, "/docs#gone")
            assert service.json(f"{items}?cursor=start&limit=50")["numberMatched"] == 800


def test_requests_that_run_are_answered_before_the_end(home: Home, tmp_path: Path) -> None:
    with serving(home, cells(tmp_path / "1.zarr"), "--workers", 1) as service:
        path = "/images/1/collections/labels:cells/items?f=ndjson"
        request = urllib.request.Request(service.base + path, headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(request) as answer:
            code, errors = end(service.process)
            body = answer.read()
        assert (code, errors) == (0, "")
        text = gzip.decompress(body) if answer.headers["Content-Encoding"] == "gzip" else body
        assert len(text.splitlines()) == 2 * 900


def test_statistics_of_a_whole_page_fit_into_one_url(home: Home, tmp_path: Path) -> None:
    with serving(home, cells(tmp_path / "1.zarr"), "--workers", 1) as service:
        rois = service.json("/iviewer/rois_by_plane/1/0/0/?limit=500")["data"]
        shapes = [shape["@id"] for roi in rois for shape in roi["shapes"]]
        path = f"/iviewer/shape_stats/?ids={','.join(map(str, shapes))}&z=0&t=0"
        assert len(path) > 2 * 8190
        assert list(service.json(path)) == [str(shape) for shape in shapes]
        assert service.get("/?" + "x" * 2**17)[0] in (400, 414)


def test_answers_to_long_lists_of_labels_can_be_read(home: Home, tmp_path: Path) -> None:
    """Python's client takes lines of a head of 64 KiB, others 100; a URL may be longer than these."""
    with serving(home, cells(tmp_path / "1.zarr"), "--workers", 1) as service:
        layer = "/images/1/collections/labels:cells"
        longest, half = (",".join(map(str, range(1, count))) for count in (20_000, 10_000))
        page = service.json(f"{layer}/items?limit=7&offset=7&label={longest}")
        links = {link["rel"]: link["href"] for link in page["links"]}
        again = service.json(links["next"].removeprefix(service.base))
        assert (page["numberMatched"], again["numberReturned"]) == (1800, 7)
        for path in (f"density?label={longest}", f"summary?label={longest}"):
            status, _, headers = service.get(f"{layer}/{path}")
            assert (status, len(headers["Link"]) < 1000) == (200, True)
        _, lines, headers = service.get(f"{layer}/items?f=wkt&limit=1000&offset=7&label={half}")
        found = re.search(r'<([^>]*)>; rel="next"', headers["Link"])
        assert found is not None
        rest = service.get(found[1].removeprefix(service.base))[1]
        assert len(lines.splitlines()) + len(rest.splitlines()) == 1800 - 7 + 2
