"""Builds of a new state that are cancelled: the old catalog stays in service, and the next build goes on."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from roiservice.catalog.progress import DONE, FAILED
from roiservice.catalog.reader import Catalog
from roiservice.catalog.registry import Registry
from roiservice.catalog.task import LayerKey
from roiservice.query.pages import roi_page
from roiservice.query.select import RoiQuery
from roiservice.sources.planes import LabelLayer
from tests.catalog.support import keeper_at, layer_key, squares, starting_with, wait_for
from tests.catalog.test_leftovers import BLOCKS, SHAPE, kill, write_store
from tests.catalog.test_streamed import blobs, content, small_pieces
from tests.stores import write_image


def first_page(catalog: Catalog) -> list[int]:
    rows = roi_page(catalog, RoiQuery(), 0, 10).rows
    labels: list[int] = catalog.features["label"][rows].tolist()
    return labels


def test_pages_go_on_from_the_old_catalog_until_the_build_has_gone_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch.setattr)
    layer = write_store(tmp_path, blobs(*SHAPE) + 100)
    worker = keeper_at(tmp_path)
    old = worker.build(layer)
    page = first_page(old)
    write_store(tmp_path, blobs(*SHAPE))
    for moment in ("after the first block", "in the middle"):
        kill(tmp_path, layer, moment)
        for keeper in (worker, keeper_at(tmp_path)):
            assert first_page(keeper.catalog(layer)) == page
        assert worker.status(layer).state == FAILED
    kept = len(list(worker.current.directory(layer).glob("*.blocks/*.block")))
    assert kept >= 10
    read: list[int] = []
    real = LabelLayer.read
    monkeypatch.setattr(LabelLayer, "read", lambda *a, **k: read.append(1) or real(*a, **k))
    new = keeper_at(tmp_path).build(layer)
    assert len(read) == BLOCKS - kept
    assert first_page(worker.catalog(layer)) == first_page(new) != page
    assert worker.status(layer).state == DONE
    folder = worker.current.directory(layer) / str(new.version)
    resumed = content(folder)
    shutil.rmtree(folder)
    assert keeper_at(tmp_path).build(layer).version == new.version
    assert content(folder) == resumed


@pytest.fixture
def stack(tmp_path: Path) -> LayerKey:
    """A small layer that has a catalog, and is now one of many planes."""
    store = write_image(tmp_path / "1.zarr", labels={"cells": squares(40, 50)})
    layer = layer_key(Registry(tmp_path / "state"), store)
    keeper_at(tmp_path).build(layer)
    shutil.rmtree(store)
    write_image(store, labels={"cells": squares(300, 90, 90, side=2)}, axes="zyx", chunks=(1, 90, 90))
    return layer


WAITING = """
import time
from roiservice.catalog.writer import CatalogWriter
CatalogWriter.settle = lambda _: time.sleep(60)
"""


def test_a_process_beside_the_service_that_is_ended_leaves_the_old_catalog(
    tmp_path: Path, stack: LayerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = keeper_at(tmp_path)
    old = keeper.catalog(stack)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with monkeypatch.context() as patch:  # it is not done before it is ended
            patch.setattr(keeper._processes, "_start", starting_with(WAITING))
            keeper.start(stack)
        wait_for(lambda: list(keeper.current.directory(stack).glob("[0-9]*.new")))
        (process,) = keeper._processes.running.values()
        process.send_signal(number)
        assert process.wait(30) == -number
        assert keeper.catalog(stack).version == keeper_at(tmp_path).catalog(stack).version == old.version
        assert keeper.status(stack).state == FAILED
        for path in keeper.current.directory(stack).glob("[0-9]*.new"):
            shutil.rmtree(path)
    keeper.start(stack)
    wait_for(lambda: keeper.status(stack).state == DONE, 60.0)
    assert keeper.catalog(stack).meta["counts"]["features"] == 300 * 22 * 22
    assert list(keeper.current.directory(stack).glob("*.*[!n]")) == []
