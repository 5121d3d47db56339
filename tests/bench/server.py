"""The running server: the first page of an image that nobody has asked for, and the rate of warm pages.

First pages: 2048 x 2048 images with as yet no catalog; target 0.3 s with the build. Warm pages: as many
requests as clients can make, in turns with a bare Flask route under the same gunicorn settings that returns
the same bytes.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.common import touching_cells
from tests.stores import write_image

WORKERS = 2
CLIENTS = 8
HEADERS = {"Accept-Encoding": "gzip"}
BARE = """
import sys
from pathlib import Path
from flask import Flask, Response
from roiservice.server import Server, address_of, listen

def make_app():
    app = Flask(__name__)
    body = Path(sys.argv[1]).read_bytes()
    @app.get("/")
    def page():
        return Response(body, mimetype="application/json", headers={"Content-Encoding": "gzip"})
    return app

listener = listen("127.0.0.1", 0, public_address=False)
print(address_of(listener), flush=True)
Server(make_app, listener, int(sys.argv[2])).run()
"""


def main(images: int = 5, rounds: int = 3, seconds: float = 4.0) -> None:
    """First pages, then rates in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(1, images + 2):
            labels = {"cells": touching_cells(2048, 85, seed=number)}
            write_image(folder / "images" / f"{number}.zarr", labels=labels, chunks=(512, 512))
        environment = {
            **os.environ,
            "ROISERVICE_CATALOG_DIR": str(folder / "catalogs"),
            "ROISERVICE_STATE_DIR": str(folder / "state"),
        }
        serve = [sys.executable, "-m", "roiservice", "serve", "--port", "0", "--workers", str(WORKERS)]
        with running([*serve, str(folder / "images")], environment) as base:
            first_pages(base, images)
            url = f"{base}/api/v0/m/rois/?image=1&limit=500"
            body = get(url)
            (folder / "page").write_bytes(body)
            print(f"warm page: {len(body)} bytes as sent")
            bare = [sys.executable, "-c", BARE, str(folder / "page"), str(WORKERS)]
            with running(bare, environment) as plain:
                rates(url, f"{plain}/", rounds, seconds)


def first_pages(base: str, images: int) -> None:
    """Seconds to the first page of each image; the first image warms up what only starts once."""
    wait_until_ready(base)
    taken = []
    for number in range(1, images + 2):
        begin = time.perf_counter()
        get(f"{base}/api/v0/m/rois/?image={number}&limit=500")
        taken.append(time.perf_counter() - begin)
    print(f"first page of a cold 2048 x 2048 image: median {statistics.median(taken[1:]):.3f} s,", end=" ")
    print(f"of the very first {taken[0]:.3f} s; target 0.3 s")


def rates(url: str, bare: str, rounds: int, seconds: float) -> None:
    """Requests per second of both, in turns."""
    pairs = []
    for _ in range(rounds):
        pairs.append((rate(url, seconds), rate(bare, seconds)))
        print(f"warm: {pairs[-1][0]:.0f} pages/s, bare route {pairs[-1][1]:.0f} /s")
    print(f"median ratio {statistics.median(ours / other for ours, other in pairs):.2f}")


def rate(url: str, seconds: float) -> float:
    """Requests per second, by wrk where it is installed, else by threads of this process."""
    if shutil.which("wrk") is None:
        return threaded_rate(url, seconds)
    command = ["wrk", "-t2", f"-c{CLIENTS}", f"-d{seconds:.0f}s", "-H", "Accept-Encoding: gzip", url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in text, text
    found = re.search(r"Requests/sec:\s+([0-9.]+)", text)
    assert found is not None, text
    return float(found[1])


def threaded_rate(url: str, seconds: float) -> float:
    """The same by `CLIENTS` threads, each on one connection."""
    parts = urlsplit(url)
    counts: list[int] = []
    deadline = time.perf_counter() + seconds

    def ask() -> None:
        connection = http.client.HTTPConnection(parts.netloc)
        done = 0
        while time.perf_counter() < deadline:
            connection.request("GET", f"{parts.path}?{parts.query}", headers=HEADERS)
            answer = connection.getresponse()
            assert answer.status == 200
            answer.read()
            done += 1
        counts.append(done)

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def get(url: str) -> bytes:
    """The body as sent; AssertionError unless it is a whole page."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    connection.request("GET", f"{parts.path}?{parts.query}", headers=HEADERS)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, body
    assert answer.headers.get("X-Roiservice-Incomplete") is None, answer.headers["X-Roiservice-Incomplete"]
    return body


def wait_until_ready(base: str, seconds: float = 60.0) -> None:
    """Wait for the workers, which compile or load their loops when they start."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, AssertionError):
            get(f"{base}/healthz")
            time.sleep(1)
            return
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.1)


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str]) -> Iterator[str]:
    """A server process and the base URL that it prints."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        base = None
        while base is None:
            line = process.stdout.readline()
            assert line, "the server ended"
            base = re.search(r"http://[0-9.:]+", line)
        yield base[0]
    finally:
        process.terminate()
        process.wait(20)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
