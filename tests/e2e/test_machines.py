"""Two machines with one registry and one folder of catalogs: `roiservice serve` twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from roiservice.catalog.database import LOCKS
from tests.catalog.support import squares
from tests.e2e.support import Home, Running, serving, wait_for
from tests.postgres import PostgresServer
from tests.stores import write_image

PLANES, SIDE = 400, 90
HERE = Path(__file__).parent


class Site:
    """Both machines, and what they share."""

    def __init__(self, machines: tuple[Running, Running], catalogs: Path, server: PostgresServer) -> None:
        self.machines = machines
        self.catalogs = catalogs
        self.server = server

    def ask(self, path: str) -> list[tuple[int, bytes]]:
        """What both answer to a request at once, without what names them."""
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda machine: machine.get(path), self.machines))
        bases = [machine.base.encode() for machine in self.machines]
        return [
            (status, body.replace(base, b"")) for (status, body, _), base in zip(answers, bases, strict=True)
        ]

    def states(self, layer: str) -> set[str]:
        """The states of the build of a layer, as both tell them."""
        return {machine.json(f"{layer}/build")["state"] for machine in self.machines}

    def builders(self) -> list[int]:
        """The processes that build what has never been built, as their files say."""
        found = []
        for claim in self.catalogs.glob("*/*/claim"):
            try:
                builder = int(claim.read_text().split()[1])
            except (OSError, IndexError):  # it is done, or is about to begin
                continue
            # A process that waited for another finds that nothing is left to do.
            if not list(claim.parent.glob("current-*")):
                found.append(builder)
        return found


def locks(connection: psycopg.Connection[Any]) -> int:
    """How many sessions hold the lock of a builder."""
    row = connection.execute(
        "select count(*) from pg_locks where locktype = 'advisory' and granted"
        " and mode = 'ExclusiveLock' and classid = %s and objid > 0",
        [LOCKS],
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    cells = squares(PLANES, SIDE, SIDE, side=2)
    write_image(folder / "images" / "1.zarr", labels={"cells": cells}, axes="zyx", chunks=(1, SIDE, SIDE))
    write_image(folder / "images" / "late.zarr", labels={"cells": squares(40, 50)})
    url = postgres_server.url()

    def home(name: str) -> Home:
        settings = {
            "ROISERVICE_REGISTRY_URL": url,
            "ROISERVICE_CATALOG_DIR": str(folder / "catalogs"),
            "ROISERVICE_INLINE_PIXELS": "10000",
            "TEST_MACHINE": name,
            "PYTHONPATH": os.pathsep.join([str(HERE / "machine"), os.environ.get("PYTHONPATH", "")]),
        }
        return Home(folder / name, settings)

    arguments = ("--workers", 1, folder / "images")
    with serving(home("a"), *arguments) as one, serving(home("b"), *arguments) as other:
        yield Site((one, other), folder / "catalogs", postgres_server)


def until_done(site: Site, layer: str, connection: psycopg.Connection[Any]) -> set[int]:
    """All processes that were seen to build, one at a time, until both say that it is done."""
    seen: set[int] = set()

    def done() -> bool:
        seen.update(site.builders())
        assert locks(connection) <= 1
        return site.states(layer) == {"done"}

    wait_for(done, 120)
    return seen


def rois_of(site: Site, image: int) -> list[Any]:
    """What both serve of an image, which must be the same."""
    layer = f"/images/{image}/collections/labels:cells"
    pages = [f"{layer}/items?limit=50&offset=7000", f"/api/v0/m/rois/?image={image}&limit=20"]
    found = []
    for page in pages:
        one, other = site.ask(page)
        assert one == other
        assert one[0] == 200
        found.append(one[1])
    return found


def test_one_of_them_builds_and_the_other_does_when_that_one_is_killed(site: Site) -> None:
    layer = "/images/1/collections/labels:cells"
    for status, body in site.ask(f"{layer}/items"):
        assert (status, b"building" in body) == (503, True)
    (first,) = wait_for(site.builders)
    wait_for(lambda: site.states(layer) == {"building"})
    with site.server.connect() as connection:
        assert locks(connection) == 1
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: site.states(layer) != {"building"} or first not in site.builders())
        site.ask(f"{layer}/items")  # whoever is asked next sees to it
        seen = until_done(site, layer, connection)
    assert len(seen - {first}) == 1
    assert rois_of(site, 1)
    folders = [path.name for path in site.catalogs.glob("*/*/*") if path.is_dir()]
    assert len(folders) == 1, "a layer was built twice"


def test_an_image_without_a_number_gets_the_same_on_both(site: Site) -> None:
    one, other = site.ask("/images")
    assert one == other
    assert b"late" in one[1]
    number = 10**14
    items = f"/images/{number}/collections/labels:cells/items"
    one, other = site.ask(items)
    assert {one[0], other[0]} == {200}, "a small layer is waited for"
    assert one == other


def test_they_serve_what_they_know_without_the_registry_and_come_back(site: Site) -> None:
    pages = rois_of(site, 1)
    site.server.kill()
    try:
        assert rois_of(site, 1) == pages
        assert {status for status, _ in site.ask("/readyz")} == {503}
        for machine in site.machines:
            _end_worker(machine)
        wait_for(lambda: {status for status, _ in site.ask("/healthz")} == {200})
        layer = "/images/1/collections/labels:cells/items"
        assert {status for status, _ in site.ask(layer)} == {503}, "a new worker knows no numbers"
    finally:
        site.server.start()
    wait_for(lambda: {status for status, _ in site.ask("/readyz")} == {200})
    assert rois_of(site, 1) == pages


def _end_worker(machine: Running) -> None:
    """Kill the only worker of a service, and wait for the next one."""
    before = machine.workers
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    wait_for(lambda: set(machine.workers) - set(before))
