"""Counts over several processes, and what `/metrics` says of them."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading

import pytest

from roiservice.errors import OmeroWebFailed
from roiservice.metrics import (
    BUILDS,
    CACHE_BYTES,
    OMERO_LEFT_ALONE,
    OMERO_REQUESTS,
    OTHER,
    PAGES,
    REQUESTS,
    Metrics,
)
from roiservice.omeroweb.client import OmeroWeb
from tests.conftest import start_service, write_sample_images

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\]|\\.)*",?)+)\})? (\S+)')


def samples(text):
    """All samples of a text in Prometheus' format, by name and labels as they are written."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert (match[1], match[2]) not in found
            found[match[1], match[2]] = float(match[3])
    return found


def in_a_process(work):
    """Run `work` in a fork of this process, to its end."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)  # nothing is cleaned up
    os.waitpid(child, 0)


def test_processes_add_up_and_what_a_killed_one_counted_stays():
    metrics = Metrics(4)
    metrics.claim()

    def work():
        metrics.claim()
        metrics.add(5, PAGES, "redis")
        metrics.set(100, CACHE_BYTES)

    metrics.add(1, PAGES, "redis")
    metrics.set(7, CACHE_BYTES)
    for _ in range(6):
        in_a_process(work)
    found = samples(metrics.text())
    assert found[PAGES, 'source="redis"'] == 31
    assert found[CACHE_BYTES, None] == 107, "each process begins its gauges anew"


def test_processes_that_live_at_once_do_not_share_a_row():
    metrics = Metrics(4)
    ready, go = os.pipe(), os.pipe()
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            metrics.claim()
            metrics.set(10**number, CACHE_BYTES)
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            os._exit(0)
        children.append(child)
    for _ in children:
        os.read(ready[0], 1)
    assert samples(metrics.text())[CACHE_BYTES, None] == 1111
    os.write(go[1], b"xxxx")
    for child in children:
        os.waitpid(child, 0)


def test_threads_lose_no_count():
    metrics = Metrics()

    def work():
        for _ in range(5000):
            metrics.add(1, BUILDS, "done")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert samples(metrics.text())[BUILDS, 'result="done"'] == 40_000


def test_durations_fall_into_all_buckets_that_hold_them():
    metrics = Metrics()
    metrics.declare_routes(["/images"])
    for seconds in (0.0005, 0.001, 0.2, 99.0):
        metrics.request("/images", 200, seconds)
    metrics.request("/not/a/route", 799, 1.0)
    found = samples(metrics.text())
    name = "roiservice_http_request_duration_seconds"
    assert found[f"{name}_bucket", 'route="/images",le="0.001"'] == 2
    assert found[f"{name}_bucket", 'route="/images",le="0.1"'] == 2
    assert found[f"{name}_bucket", 'route="/images",le="0.25"'] == 3
    assert found[f"{name}_bucket", 'route="/images",le="10.0"'] == 3
    assert found[f"{name}_bucket", 'route="/images",le="+Inf"'] == 4
    assert found[f"{name}_count", 'route="/images"'] == 4
    assert found[f"{name}_sum", 'route="/images"'] == pytest.approx(99.2015)
    assert found[REQUESTS, f'route="{OTHER}",status="{OTHER}"'] == 1


def test_there_is_room_for_many_routes_but_not_for_any_number():
    Metrics().declare_routes([f"/{number}" for number in range(90)])
    with pytest.raises(ValueError, match="more cells"):
        Metrics().declare_routes([f"/{number}" for number in range(900)])


def test_requests_are_counted_by_route_and_nothing_of_them_is_said(tmp_path):
    folder = tmp_path / "images"
    write_sample_images(folder)
    client = start_service(folder).client
    for path in (
        "/images/1",
        "/images/2",
        "/images/999999",
        "/images/1/collections/labels:secret/items?label=secret",
        "/secret",
        '/secret"}\n',
        "/api/v0/m/rois/?image=1",
        "/api/v0/m/rois/?image=1",
    ):
        client.get(path, headers={"Cookie": "sessionid=secret", "Authorization": "Bearer secret"})
    client.post("/images/1")
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    text = answer.get_data(as_text=True)
    assert "secret" not in text
    assert str(tmp_path) not in text
    found = samples(text)
    assert found[REQUESTS, 'route="/images/{image_id}",status="200"'] == 2
    assert found[REQUESTS, 'route="/images/{image_id}",status="404"'] == 1
    assert found[REQUESTS, f'route="{OTHER}",status="404"'] == 2
    assert found[REQUESTS, f'route="{OTHER}",status="405"'] == 1
    assert found[REQUESTS, 'route="/api/v0/m/rois/",status="200"'] == 2
    assert found[PAGES, 'source="made"'] == 1
    assert found[PAGES, 'source="memory"'] == 1
    assert found[BUILDS, 'result="done"'] == 2
    assert client.get("/metrics?secret=1").status_code == 400


def test_a_build_that_fails_is_counted(tmp_path):
    folder = tmp_path / "images"
    write_sample_images(folder)
    chunks = [
        path for path in (folder / "1.zarr/labels/rings").rglob("*") if path.parent.name in "0123456789"
    ]
    for path in chunks:
        if path.is_file() and path.name not in ("zarr.json", ".zarray"):
            path.write_bytes(b"junk")
    client = start_service(folder).client
    assert client.get("/images/1/collections/labels:rings/items").status_code == 502
    assert samples(client.get("/metrics").get_data(as_text=True))[BUILDS, 'result="failed"'] == 1


def test_requests_to_an_omero_web_that_is_down_are_counted():
    metrics = Metrics()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    web = OmeroWeb(f"http://127.0.0.1:{port}", timeout=2.0, metrics=metrics)
    for _ in range(5):
        with pytest.raises(OmeroWebFailed):
            web.get("/secret/")
    found = samples(metrics.text())
    assert found[OMERO_REQUESTS, 'result="failed"'] == 3
    assert found[OMERO_REQUESTS, 'result="not_sent"'] == 2
    assert found[OMERO_LEFT_ALONE, None] == 1
