"""Layers traced on a dask cluster: the same bytes as without, and clear errors where it fails."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster

from roiservice.catalog import cluster as cluster_module
from roiservice.catalog.cluster import Cluster, DaskEngine, cluster_at
from roiservice.catalog.failures import FAILURE
from roiservice.catalog.keeper import Keeper
from roiservice.catalog.progress import NONE
from roiservice.catalog.registry import Registry
from roiservice.catalog.versions import blocks_folder
from roiservice.errors import BadParameter, EngineFailed, SourceDamaged, SourceRefused
from roiservice.sources.limits import Limits
from roiservice.sources.planes import LabelLayer
from tests.catalog.support import RULES, keeper_at, layer_key, wait_for
from tests.catalog.test_streamed import blobs, build, content, layer_in, small_pieces, start
from tests.stores import write_image

Progress = Callable[[int, int], None]
QUIET: dict[str, Any] = {
    "threads_per_worker": 1,
    "dashboard_address": "127.0.0.1:0",
    "scheduler_kwargs": {"dashboard": False},
    "silence_logs": logging.CRITICAL,
}


@pytest.fixture(scope="module")
def running() -> Iterator[LocalCluster]:
    """Two workers, processes of one thread each."""
    with LocalCluster(n_workers=2, **QUIET) as running:
        yield running


@contextmanager
def threads_as_cluster(workers: int) -> Iterator[LocalCluster]:
    """A scheduler and workers that are threads of this process: quick to start, and to be taken away."""
    with LocalCluster(n_workers=workers, processes=False, protocol="tcp", **QUIET) as running:
        yield running


@pytest.fixture
def engine(running: LocalCluster) -> Iterator[DaskEngine]:
    with closing(DaskEngine(Cluster(running.scheduler_address))) as engine:
        yield engine


@pytest.fixture
def layer(tmp_path: Path) -> LabelLayer:
    """Three planes of nine blocks each."""
    write_image(tmp_path / "1.zarr", labels={"cells": blobs(3, 90, 70)}, axes="zyx", chunks=(1, 10, 30))
    return layer_in(tmp_path)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_pieces(monkeypatch.setattr)


@pytest.fixture
def plain(tmp_path: Path, layer: LabelLayer) -> dict[str, bytes]:
    """What the threads of this process make of the layer."""
    build(layer, tmp_path / "plain")
    return content(tmp_path / "plain")


def test_a_cluster_gives_the_same_bytes(
    tmp_path: Path, engine: DaskEngine, layer: LabelLayer, plain: dict[str, bytes]
) -> None:
    build(layer, tmp_path / "there", engine=engine)
    assert content(tmp_path / "there") == plain
    assert not blocks_folder(tmp_path / "there").exists()


@pytest.mark.parametrize("chunks", [(1, 40, 30), (4, 40, 30), (3, 10, 30)])
def test_planes_that_are_traced_in_one_go_are_the_same(
    tmp_path: Path, engine: DaskEngine, monkeypatch: pytest.MonkeyPatch, chunks: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(cluster_module, "BATCH_PIXELS", 3000)
    write_image(tmp_path / "1.zarr", labels={"cells": blobs(6, 40, 30)}, axes="zyx", chunks=chunks)
    layer = layer_in(tmp_path)
    for name, by in (("plain", None), ("there", engine)):
        build(layer, tmp_path / name, engine=by)
    assert content(tmp_path / "there") == content(tmp_path / "plain")


@pytest.mark.parametrize("by_dask", [True, False])
def test_a_killed_build_goes_on_with_and_without_a_cluster(
    tmp_path: Path,
    running: LocalCluster,
    engine: DaskEngine,
    layer: LabelLayer,
    plain: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    by_dask: bool,
) -> None:
    process = start(tmp_path, 0.05, *([running.scheduler_address] if by_dask else []))
    assert process.stdout is not None
    for _ in range(5):
        assert process.stdout.readline() == "block\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = len(list(blocks_folder(tmp_path / "resumed").glob("*.block")))
    assert 5 <= kept < 27
    asked: list[int] = []
    trace = cluster_module._Asked.trace
    monkeypatch.setattr(
        cluster_module._Asked, "trace", lambda of, batch: asked.append(len(batch)) or trace(of, batch)
    )
    build(layer, tmp_path / "resumed", engine=None if by_dask else engine)
    assert content(tmp_path / "resumed") == plain
    assert sum(asked) == (0 if by_dask else 27 - kept)


def after(blocks: int, act: Callable[[], Any]) -> Progress:
    """Progress that does something once so many blocks have been joined."""
    seen: list[int] = []

    def advance(pixels: int, features: int) -> None:
        if pixels:
            seen.append(pixels)
            if len(seen) == blocks:
                act()

    return advance


def test_a_worker_that_is_killed_costs_nothing_but_its_blocks(
    tmp_path: Path, running: LocalCluster, engine: DaskEngine, layer: LabelLayer, plain: dict[str, bytes]
) -> None:
    with Client(running.scheduler_address, set_as_default=False) as client:
        before = client.run(os.getpid)
        process = next(iter(before.values()))
        build(
            layer,
            tmp_path / "there",
            engine=engine,
            progress=after(3, lambda: os.kill(process, signal.SIGKILL)),
        )
        assert content(tmp_path / "there") == plain
        wait_for(lambda: len(client.nthreads()) == 2)  # the cluster has started another


def test_a_damaged_chunk_is_named_as_without_a_cluster(
    tmp_path: Path, engine: DaskEngine, layer: LabelLayer
) -> None:
    (tmp_path / "1.zarr/labels/cells/0/c/1/3/1").write_bytes(b"damaged")
    said = []
    for by in (None, engine):
        with pytest.raises(SourceDamaged, match=r"chunk \(1, 3, 1\)") as raised:
            build(layer, tmp_path / "2", engine=by)
        said.append(vars(raised.value))
        assert not list(tmp_path.glob("2*"))
    assert said[0] == said[1]


def test_too_many_vertices_are_refused_as_without_a_cluster(
    tmp_path: Path, engine: DaskEngine, layer: LabelLayer
) -> None:
    said = []
    for by in (None, engine):
        with pytest.raises(SourceRefused, match="more than 20 vertices") as raised:
            build(layer, tmp_path / "2", engine=by, max_vertices=20)
        said.append(vars(raised.value))
    assert said[0] == said[1]


def test_what_is_at_work_is_cancelled(
    tmp_path: Path, running: LocalCluster, engine: DaskEngine, layer: LabelLayer
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(layer, tmp_path / "2", engine=engine, progress=after(2, interrupt))
    with Client(running.scheduler_address, set_as_default=False) as client:
        wait_for(lambda: not client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))
    assert list(blocks_folder(tmp_path / "2").iterdir())


def test_no_more_than_twice_as_many_blocks_as_threads_are_at_work(
    engine: DaskEngine, layer: LabelLayer
) -> None:
    with ThreadPoolExecutor(1) as crew, engine.tracer(layer, 10, None, crew) as tracer:
        assert tracer.at_once == 4
        assert len(list(tracer.batches)) == 27


def test_workers_that_find_something_else_there_are_not_believed(
    tmp_path: Path, engine: DaskEngine, layer: LabelLayer
) -> None:
    write_image(tmp_path / "1.zarr", labels={"cells": np.zeros((3, 90, 80), np.uint16)}, axes="zyx")
    with pytest.raises(EngineFailed, match=r"1.zarr \[labels/cells\]: a worker on \S+ finds"):
        build(layer, tmp_path / "2", engine=engine)
    shutil.rmtree(tmp_path / "1.zarr")
    with pytest.raises(EngineFailed, match=r"cannot open what this process can: \S+1.zarr"):
        build(layer, tmp_path / "2", engine=engine)


def test_workers_that_do_not_see_the_chunks_are_not_believed(
    tmp_path: Path, engine: DaskEngine, layer: LabelLayer
) -> None:
    """What has been copied there but for some chunks reads as if there were no objects in these."""
    with ThreadPoolExecutor(1) as crew, engine.tracer(layer, 10, None, crew) as tracer:
        first, second, *_ = tracer.batches
        (tmp_path / "1.zarr/labels/cells/0/c/2/8/2").unlink()
        with pytest.raises(EngineFailed, match=r"1.zarr \[labels/cells\]: .* not find chunk c/2/8/2"):
            tracer.trace(first)
    with ThreadPoolExecutor(1) as crew, engine.tracer(layer, 10, None, crew) as tracer:
        assert len(list(tracer.trace(second))) == 1, "nobody has it"


def test_workers_that_cannot_look_for_the_chunks_are_at_fault_not_the_layer(
    tmp_path: Path, layer: LabelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def has_file(self: LabelLayer, _name: str) -> bool:
        raise SourceDamaged(self.source.location, self.source.path, "the server answers 503")

    monkeypatch.setattr(LabelLayer, "has_file", has_file)
    with (
        threads_as_cluster(1) as running,
        closing(DaskEngine(Cluster(running.scheduler_address))) as engine,
        pytest.raises(EngineFailed, match=r"cannot open what this process can: .* answers 503"),
    ):
        build(layer, tmp_path / "2", engine=engine)


def test_time_that_runs_out_within_a_worker_is_no_wait_for_workers(
    tmp_path: Path, layer: LabelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storage that does not answer raises what a wait for a result does that takes long."""
    raised = []

    def trace_batch(*_arguments: Any) -> Any:
        raised.append(1)
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr(cluster_module, "trace_batch", trace_batch)
    with (
        threads_as_cluster(1) as running,
        closing(DaskEngine(Cluster(running.scheduler_address))) as engine,
        pytest.raises(EngineFailed, match=r"the cluster failed: TimeoutError: .*Connection timed out"),
    ):
        build(layer, tmp_path / "2", engine=engine)
    assert raised


def test_workers_of_another_version_are_refused(
    tmp_path: Path, engine: DaskEngine, layer: LabelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "__version__", "0.0.1")
    with pytest.raises(EngineFailed, match=r"a worker has roiservice \S+, not 0.0.1 as this process"):
        build(layer, tmp_path / "2", engine=engine)


def test_a_scheduler_that_goes_away_is_said_and_the_blocks_are_kept(
    tmp_path: Path, layer: LabelLayer, plain: dict[str, bytes]
) -> None:
    with threads_as_cluster(1) as running, closing(DaskEngine(Cluster(running.scheduler_address))) as engine:
        with pytest.raises(EngineFailed, match="the connection to the scheduler was lost"):
            build(layer, tmp_path / "2", engine=engine, progress=after(3, running.close))
        with pytest.raises(EngineFailed, match=running.scheduler_address):
            build(layer, tmp_path / "3", engine=engine)
    assert list(blocks_folder(tmp_path / "2").iterdir())
    build(layer, tmp_path / "2")
    assert content(tmp_path / "2") == plain


def test_what_fails_for_want_of_a_cluster_is_no_failure_of_the_layer(tmp_path: Path) -> None:
    """A service that is asked for the layer builds it."""
    write_image(tmp_path / "1.zarr", labels={"cells": blobs(90, 70)})
    registry = Registry(tmp_path / "state")
    layer = layer_key(registry, tmp_path / "1.zarr")
    with threads_as_cluster(1) as running, closing(DaskEngine(Cluster(running.scheduler_address))) as engine:
        running.close()
        keeper = Keeper(tmp_path / "catalogs", registry, RULES, Limits(), engine=engine)
        with pytest.raises(EngineFailed):
            keeper.build(layer)
    assert not (keeper.current.directory(layer) / FAILURE).exists()
    assert keeper.status(layer).state == NONE
    assert keeper_at(tmp_path).catalog(layer).meta["counts"]["features"] > 0


def test_a_cluster_without_workers_is_not_waited_for_in_vain(
    tmp_path: Path, layer: LabelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "NO_WORKERS", 0.3)
    with threads_as_cluster(0) as running, pytest.raises(EngineFailed, match="the cluster has no workers"):
        DaskEngine(Cluster(running.scheduler_address))
    with (
        threads_as_cluster(1) as running,
        closing(DaskEngine(Cluster(running.scheduler_address))) as engine,
        pytest.raises(EngineFailed, match="the cluster has no workers"),
    ):
        build(layer, tmp_path / "2", engine=engine, progress=after(2, lambda: running.scale(0)))


def test_a_scheduler_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "CONNECTING", 0.3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(EngineFailed, match=f"{address}: no scheduler answers there"):
            DaskEngine(Cluster(address))


def test_something_else_at_that_address_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the scheduler's own pages, to which its client would listen for ever."""
    monkeypatch.setattr(cluster_module, "CONNECTING", 0.3)
    pages = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    address = f"tcp://127.0.0.1:{pages.server_port}"
    try:
        with pytest.raises(EngineFailed, match=f"{address}: no scheduler answers there"):
            DaskEngine(Cluster(address))
    finally:
        pages.shutdown()
        pages.server_close()


@pytest.mark.parametrize("address", ["", "host", "host:port", "ftp://host:1", "tls://127.0.0.1:1"])
def test_an_address_that_no_scheduler_can_have_is_wrong_usage(address: str) -> None:
    with pytest.raises(BadParameter, match="--dask"):
        DaskEngine(Cluster(address))


def test_without_dask_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(BadParameter, match=r"pip install 'roiservice\[dask\]'"), cluster_at("local"):
        pass
