"""Images and layers behind a host that has gone silent: who has to wait for it, and who has not."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import pytest
import shapely

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
from tests.sources.tables.spatialstores import write_element, write_raster, write_root
from tests.stores import write_group, write_image, write_multiscale

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


def services_at(home: Path, location: str, *tables: str, **settings: Any) -> Services:
    own = Settings(catalog_dir=home / "catalogs", state_dir=home / "state", check_interval=0.0, **settings)
    return build_services(own, [(None, location)], [(None, table) for table in tables])


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


PARTS = {
    "0.4": ("labels/more/.zattrs", "labels/more/.zarray", "labels/.zattrs", "labels/cells/"),
    "0.5": ("labels/more/", "labels/zarr.json", "labels/cells/"),
}


@pytest.mark.parametrize(("fault", "version"), [(500, "0.4"), (500, "0.5"), ("reset", "0.5")])
def test_a_layer_that_cannot_be_looked_at_for_a_moment_stays(
    tmp_path: Path, web: Served, fault: int | str, version: str
) -> None:
    two = {"cells": squares(20, 20), "more": squares(20, 20)}
    shutil.rmtree(tmp_path / "data/7.zarr")
    write_image(tmp_path / "data/7.zarr", labels=two, version=version)
    services = services_at(tmp_path, f"{web.url}/7.zarr")
    image = services.images.get(7)
    before = services.layers.of(image)
    assert len(before.layers) == 2
    for part in PARTS[version]:
        web.faults.on = {f"7.zarr/{part}": (fault, -1)}
        listing = services.layers.of(image)
        assert listing.layers == before.layers
        assert listing.problems
    web.faults.on = {}
    assert services.layers.of(image) == before
    shutil.rmtree(tmp_path / "data/7.zarr/labels/more")
    assert [layer.name for layer in services.layers.of(image).layers] == ["cells"]


def test_a_label_image_elsewhere_that_cannot_be_looked_at_stays(tmp_path: Path, web: Served) -> None:
    write_multiscale(tmp_path / "data/extra.zarr", squares(20, 20), "yx", "0.5")
    services = services_at(tmp_path, f"{web.url}/7.zarr")
    image = services.images.get(7)
    image = replace(image, source=replace(image.source, labels=((f"{web.url}/extra.zarr", ""),)))
    before = services.layers.of(image).layers
    assert [layer.name for layer in before] == ["cells", "extra"]
    web.faults.on = {"extra.zarr/zarr.json": (500, -1)}
    assert services.layers.of(image).layers == before


def test_an_image_taken_for_labels_stays_so_while_its_labels_cannot_be_looked_at(
    tmp_path: Path, web: Served
) -> None:
    write_multiscale(tmp_path / "data/9.zarr", squares(20, 20), "yx", "0.5")
    services = services_at(tmp_path, f"{web.url}/9.zarr", root_labels=True)
    image = services.images.get(9)
    before = services.layers.of(image).layers
    assert [layer.collection for layer in before] == ["root"]
    web.faults.on = {"9.zarr/labels/zarr.json": (500, -1)}
    assert services.layers.of(image).layers == before
    web.faults.on = {}
    (tmp_path / "data/9.zarr/labels").mkdir()
    (tmp_path / "data/9.zarr/labels/zarr.json").write_text("{")
    assert not services.layers.of(image).layers


def test_table_files_that_cannot_be_looked_at_stay(tmp_path: Path, web: Served) -> None:
    (tmp_path / "data/my spots.csv").write_text("x,y\n1,1\n2,2\n")
    (tmp_path / "data/cells.csv").write_text("label,n\n1,1\n2,2\n")
    files = f"{web.url}/my%20spots.csv", f"{web.url}/cells.csv"
    services = services_at(tmp_path, f"{web.url}/7.zarr", *files)
    image = services.images.get(7)
    before = services.layers.of(image).layers
    assert [(layer.name, len(layer.source.values)) for layer in before] == [("cells", 1), ("my spots", 0)]
    web.faults.on = {"csv$": (500, -1)}
    assert services.layers.of(image).layers == before


@pytest.mark.parametrize("part", ["tables/t1/zarr.json", "shapes/a/zarr.json", "shapes/a", "labels/aaa"])
@pytest.mark.parametrize("says_so", [True, False])
def test_an_element_that_cannot_be_looked_at_costs_no_other(tmp_path: Path, part: str, says_so: bool) -> None:
    root = write_root(tmp_path / "9.zarr")
    if not says_so:  # as before container 0.1
        (root / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    write_raster(root, "cells", squares(20, 20))
    for name in "ab":
        shapes = geopandas.GeoDataFrame(geometry=[shapely.box(1, 1, 3, 3)])
        shapes.to_parquet(write_element(root, name) / "shapes.parquet")
    for name in ("t1", "t2"):
        write_group(root / "tables" / name, "0.5", {}, region="cells")
    services = services_at(tmp_path, str(root))
    image = services.images.get(9)
    before = services.layers.of(image).layers
    assert [(each.name, len(each.source.values)) for each in before] == [("cells", 2), ("a", 0), ("b", 0)]
    place = root / part
    if place.exists():
        place.rename(root / "away")
    place.symlink_to(place)  # ELOOP
    assert services.layers.of(image).layers == before
    place.unlink()
    assert (services.layers.of(image).layers == before) == (part == "labels/aaa")


def test_a_table_of_shapes_is_said_to_be_of_no_label_image(tmp_path: Path) -> None:
    root = write_root(tmp_path / "9.zarr")
    write_raster(root, "cells", squares(20, 20))
    write_group(root / "tables" / "t", "0.5", {}, region="spots")
    services = services_at(tmp_path, str(root))
    (warning,) = services.layers.of(services.images.get(9)).warnings
    assert warning == "tables/t: values of labels, but of no label image of this image called spots"


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
