"""Images and layers behind a host that has gone silent: who has to wait for it, and who has not."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from roiservice.bootstrap import Services, build_services
from roiservice.errors import SourceError
from roiservice.layers import LayerListing
from roiservice.settings import Settings
from roiservice.sources.remote import transport
from roiservice.sources.remote.transport import Patience
from roiservice.web import create_app
from tests.catalog.support import squares
from tests.sources.remote.server import Served, served
from tests.sources.tables.fractal import write_table, write_tables
from tests.stores import write_image

THREADS = 16
STALL = 8.0  # seconds that the host is waited for
PATIENCE = Patience(connect=2, stall=STALL, whole=20, tries=1, pause=0.01)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A host with two images and a damaged one, for whose answers nobody waits longer than STALL."""
    monkeypatch.setattr(transport, "PATIENCE", PATIENCE)
    for number in (7, 8, 71):
        write_image(tmp_path / f"data/{number}.zarr", labels={"cells": squares(20, 20)}, version="0.5")
    (tmp_path / "data/8.zarr/zarr.json").write_text("{")
    with served(tmp_path / "data") as web:
        yield web


def services_at(home: Path, location: str) -> Services:
    own = Settings(catalog_dir=home / "catalogs", state_dir=home / "state", check_interval=0.0)
    return build_services(own, [(None, location)])


def test_nobody_waits_for_layers_that_are_known(tmp_path: Path, web: Served) -> None:
    services = services_at(tmp_path, f"{web.url}/7.zarr")
    image = services.images.get(7)
    known = services.layers.of(image)
    web.faults.on[".*"] = ("stall", -1)
    asked, begun = web.asked.total(), time.monotonic()
    with ThreadPoolExecutor(THREADS) as threads:
        assert list(threads.map(services.layers.of, [image] * THREADS)) == [known] * THREADS
    assert time.monotonic() - begun < STALL - 1
    assert web.asked.total() - asked == 1


def test_those_who_ask_first_for_layers_share_the_wait(
    tmp_path: Path, web: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "PATIENCE", replace(PATIENCE, stall=2))
    services = services_at(tmp_path, f"{web.url}/7.zarr")
    image = services.images.get(7)
    web.faults.on[".*"] = ("stall", -1)
    asked = web.asked.total()

    def failed(_: int) -> SourceError:
        with pytest.raises(SourceError, match=r"7\.zarr") as caught:
            services.layers.of(image)
        return caught.value

    with ThreadPoolExecutor(THREADS) as threads:
        errors = list(threads.map(failed, range(THREADS)))
    assert len(set(map(id, errors))) == THREADS
    assert web.asked.total() - asked == 1


def test_nobody_waits_for_an_image_that_is_known_or_another_one(tmp_path: Path, web: Served) -> None:
    services = services_at(tmp_path, f"{web.url}/{{image_id}}.zarr")
    known = services.images.get(7)
    web.faults.on["^7.zarr"] = ("stall", -1)
    asked, begun = web.asked.total(), time.monotonic()
    with ThreadPoolExecutor(THREADS) as threads:
        assert list(threads.map(services.images.get, [7] * THREADS)) == [known] * THREADS
    assert web.asked.total() - asked == 1
    assert services.images.get(7 + 64).id == 71
    assert time.monotonic() - begun < STALL - 1


def test_an_image_that_cannot_be_opened_is_told_to_each(tmp_path: Path, web: Served) -> None:
    """Else all requests for it would stay in memory, held by the one error that they all got."""
    services = services_at(tmp_path, f"{web.url}/{{image_id}}.zarr")
    client = create_app(services).test_client()
    depths, errors = set(), set()
    for _ in range(5):
        assert client.get("/images/8").status_code == 502
        with pytest.raises(SourceError, match=r"8\.zarr") as caught:
            services.images.get(8)
        assert caught.value.store.endswith("8.zarr")
        depths.add(len(caught.traceback))
        errors.add(caught.value)
    assert len(depths) == 1
    assert len(errors) == 5


def test_layers_that_come_and_go_are_seen_by_the_next_request(tmp_path: Path, web: Served) -> None:
    services = services_at(tmp_path, f"{web.url}/7.zarr")
    image = services.images.get(7)

    def names(listing: LayerListing) -> list[str]:
        return [layer.name for layer in listing.layers]

    assert names(services.layers.of(image)) == ["cells"]
    more = {"cells": squares(20, 20), "more": squares(20, 20)}
    write_image(tmp_path / "data/7.zarr", labels=more)
    assert names(services.layers.of(image)) == ["cells", "more"]


@pytest.mark.parametrize("fault", [500, "reset"])
def test_a_layer_that_cannot_be_looked_at_for_a_moment_stays(
    tmp_path: Path, web: Served, fault: int | str
) -> None:
    two = {"cells": squares(20, 20), "more": squares(20, 20)}
    write_image(tmp_path / "data/7.zarr", labels=two, version="0.5")
    services = services_at(tmp_path, f"{web.url}/7.zarr")
    image = services.images.get(7)
    before = services.layers.of(image)
    assert len(before.layers) == 2
    for part in ("labels/more/", "labels/zarr.json", "labels/cells/"):
        web.faults.on = {f"7.zarr/{part}": (fault, -1)}
        listing = services.layers.of(image)
        assert listing.layers == before.layers
        assert listing.problems
    web.faults.on = {}
    assert services.layers.of(image) == before
    shutil.rmtree(tmp_path / "data/7.zarr/labels/more")
    assert [layer.name for layer in services.layers.of(image).layers] == ["cells"]


def test_a_layer_that_is_gone_is_not_kept_for_what_is_wrong_with_others(tmp_path: Path, web: Served) -> None:
    """That may never end, and hides what is new."""
    two = {"cells": squares(20, 20), "more": squares(20, 20)}
    store = write_image(tmp_path / "data/7.zarr", labels=two, version="0.5")
    document = store / "labels/zarr.json"
    group = json.loads(document.read_text())
    group["attributes"]["ome"]["labels"] = ["cells", "more", "../x"]
    document.write_text(json.dumps(group))
    services = services_at(tmp_path, f"{web.url}/7.zarr")
    image = services.images.get(7)
    before = services.layers.of(image)
    assert len(before.layers) == 2
    assert len(before.problems) == 1
    shutil.rmtree(store / "labels/more")
    listing = services.layers.of(image)
    assert [layer.name for layer in listing.layers] == ["cells"]
    assert len(listing.problems) == 1


@pytest.mark.parametrize("fault", [500, "html"])
def test_a_table_of_values_that_cannot_be_read_stays_and_is_gone_if_it_is_none(
    tmp_path: Path, web: Served, fault: int | str
) -> None:
    store = write_image(tmp_path / "data/9.zarr", labels={"cells": squares(20, 20)}, version="0.4")
    region = {"path": "../labels/cells"}
    values = {"label": [1, 2], "x": [1.5, 2.5]}
    write_table(store, "features", values, type="feature_table", region=region, instance_key="label")
    write_tables(store, ["features"])
    services = services_at(tmp_path, f"{web.url}/9.zarr")
    image = services.images.get(9)
    before = services.layers.of(image).layers
    assert len(before[0].source.values) == 1
    web.faults.on = {"9.zarr/tables/features": (fault, -1)}
    assert (services.layers.of(image).layers == before) == (fault == 500)


def test_what_is_known_is_answered_while_the_host_is_silent(tmp_path: Path, web: Served) -> None:
    client = create_app(services_at(tmp_path, f"{web.url}/7.zarr")).test_client()
    image, layer = "/images/7", "/images/7/collections/labels:cells"
    paths = [f"{layer}/items", image, f"{image}/collections", layer, "/api/v0/m/rois/?image=7"]
    before = [client.get(path).data for path in paths]
    assert json.loads(before[1])["size"] == {"t": 1, "c": 1, "z": 1, "y": 20, "x": 20}
    web.faults.on[".*"] = ("stall", -1)
    begun = time.monotonic()
    assert [client.get(path).data for path in paths] == before
    assert time.monotonic() - begun < STALL - 1
