"""Bytes that cross the network for a page of a layer behind http: cold, with another box, and once more.

`python -m tests.bench.remote`: 4096 x 4096 pixels of 28 900 touching cells in chunks of 512, over loopback. A
layer is read once, as a whole, for its catalog; pages after that read nothing.
"""

from __future__ import annotations

import functools
import http.server
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roiservice.bootstrap import build_services
from roiservice.settings import Settings
from roiservice.sources.remote.transport import connect, origin_of
from roiservice.web import create_app
from tests.bench.common import touching_cells
from tests.stores import write_image

ITEMS = "/images/1/collections/labels:cells/items?bbox={0},{0},{1},{1}&limit=500"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A plain file server that keeps its connections and says nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Ask for pages and count."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = write_image(folder / "www" / "1.zarr", labels={"cells": touching_cells()}, chunks=(512, 512))
        level = sum(each.stat().st_size for each in (store / "labels").rglob("*") if each.is_file())
        print(f"label image on disk: {level / 1e6:.2f} MB")
        with served(folder / "www") as base:
            traffic = connect(origin_of(base)).traffic
            settings = Settings(catalog_dir=folder / "catalogs", state_dir=folder / "state")
            client = create_app(build_services(settings, [(None, f"{base}/1.zarr")])).test_client()
            for what, low in (
                ("cold, with the build", 1000),
                ("another box", 2000),
                ("the same again", 2000),
            ):
                bytes_before, requests_before = traffic.bytes, traffic.requests
                began = time.perf_counter()
                answer = client.get(ITEMS.format(low, low + 300))
                seconds = time.perf_counter() - began
                read, asked = traffic.bytes - bytes_before, traffic.requests - requests_before
                found = len(answer.json["features"])
                print(f"{what}: {found} features, {read / 1e6:.2f} MB in {asked} requests, {seconds:.2f} s")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Base URL of a file server over `folder`."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


if __name__ == "__main__":
    main()
