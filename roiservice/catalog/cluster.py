"""Layers traced on a dask cluster: its workers read the store themselves, this process joins what they trace.

Only blocks that this process asks for are at work, twice as many as the workers have threads. What dask sends
between processes is pickled: whoever can talk to a scheduler can run code on it, and on those who ask it.
"""

from __future__ import annotations

import logging
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from roiservice import __version__
from roiservice.catalog.engine import THREADS, Batch, Tracer, batches, trace_batch
from roiservice.errors import BadParameter, EngineFailed, RoiServiceError, SourceError
from roiservice.records import dataclass
from roiservice.sources.layer import LayerSource
from roiservice.sources.limits import Limits
from roiservice.sources.planes import LabelLayer, open_layer
from roiservice.sources.tokens import chunk_state
from roiservice.vectorize.blocks import Block

if TYPE_CHECKING:
    from distributed import Client, Security
    from distributed import Future as DaskFuture

LOCAL = "local"
BATCH_PIXELS = 2**22  # of small planes that are traced in one go
CONNECTING = 10.0  # seconds after which a scheduler is taken for unreachable
NO_WORKERS = 60.0  # seconds that are waited for a worker where there is none
OPEN_LAYERS = 16  # of one worker
CHUNKS_SEEN = 64  # files of a layer that each worker must find: chunks that are not there have no objects

Result = TypeVar("Result")


@dataclass(frozen=True)
class Cluster:
    """A cluster to connect to. `security` None: as dask is configured."""

    address: str
    security: Security | None = field(default=None, compare=False)


@contextmanager
def cluster_at(address: str) -> Iterator[Cluster]:
    """The cluster of the scheduler at `address`; `local`: one of this host's processors, until this ends.

    BadParameter without the package for it.
    """
    try:
        import distributed
    except ImportError as error:
        raise BadParameter("--dask", "needs dask.distributed: pip install 'roiservice[dask]'") from error
    for name in ("distributed", "distributed.client", "distributed.nanny", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is raised
    if address != LOCAL:
        yield Cluster(address)
        return
    with distributed.LocalCluster(n_workers=THREADS, **_private()) as cluster:
        yield Cluster(cluster.scheduler_address, cluster.security)


def _private() -> dict[str, Any]:
    """Options of a cluster that serves this process and nobody else on this host, who may be another user."""
    from dask import config
    from distributed import Security

    config.set({f"distributed.{part}.http.routes": [] for part in ("scheduler", "worker")})
    return {
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        "scheduler_kwargs": {"dashboard": False},
        "security": Security.temporary(),
        "silence_logs": logging.CRITICAL,
    }


class DaskEngine:
    """The workers of a cluster; see `Engine`. `threads` of this process join and write what they trace."""

    def __init__(self, cluster: Cluster, threads: int = THREADS) -> None:
        """Connect. Raises EngineFailed."""
        self.threads = threads
        self._cluster = cluster
        self._client = _connected(cluster)

    def close(self) -> None:
        """Disconnect."""
        with suppress(OSError, TimeoutError):
            self._client.close()

    @contextmanager
    def tracer(
        self, layer: LabelLayer, rows: int, max_vertices: int | None, _crew: ThreadPoolExecutor
    ) -> Iterator[Tracer]:
        """See `Engine`. EngineFailed is raised where the cluster is at fault, not the layer."""
        at_once = 2 * _threads_of(self._client, self._cluster.address) or 1
        asked = _Asked(self._client, self._cluster.address, _Job.of(layer, max_vertices))
        crew = ThreadPoolExecutor(at_once, "cluster")  # these only wait
        try:
            yield Tracer(crew, at_once, batches(layer, rows, BATCH_PIXELS), asked.trace)
        finally:
            asked.drop()
            crew.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Job:
    """What a worker must know of a layer, whose size and type are what they were when the build began."""

    build: str
    source: LayerSource
    limits: Limits
    looks: tuple[str, int, int]
    chunks: tuple[str, ...]
    max_vertices: int | None

    @classmethod
    def of(cls, layer: LabelLayer, max_vertices: int | None) -> _Job:
        build, looks = uuid.uuid4().hex, _looks(layer)
        return cls(build, layer.source, layer.limits, looks, _some_chunks(layer), max_vertices)


class _Asked:
    """Batches of one layer that the cluster was asked for."""

    def __init__(self, client: Client, address: str, job: _Job) -> None:
        self._client = client
        self._address = address
        self._job = job
        self._lock = threading.Lock()
        self._futures: set[DaskFuture[Any]] = set()
        self._dropped = False

    def trace(self, batch: Batch) -> Iterator[Block]:
        """The blocks of a batch, once a worker has traced them."""
        future = self._submit(batch)
        try:
            return iter(self._result(future))
        finally:
            with self._lock:
                self._futures.discard(future)
            future.release()

    def drop(self) -> None:
        """Cancel what is at work; nothing more is asked for."""
        with self._lock:
            self._dropped = True
            futures = list(self._futures)
        if futures:
            with suppress(Exception):  # a cluster that is gone needs not be told
                self._client.cancel(futures, force=True)

    def _submit(self, batch: Batch) -> DaskFuture[Any]:
        with self._lock:
            if self._dropped:
                raise EngineFailed("nothing more is asked for")
            try:
                future = self._client.submit(trace_there, __version__, self._job, batch, pure=False)
            except Exception as error:
                raise _lost(self._address, error) from error
            self._futures.add(future)
            return future

    def _result(self, future: DaskFuture[Any]) -> Sequence[Block]:
        while True:
            try:
                blocks: Sequence[Block] = future.result(timeout=NO_WORKERS)
                return blocks
            except RoiServiceError:
                raise
            except TimeoutError as error:
                if future.status == "error":  # the worker's own: waiting longer gives the same at once
                    raise _lost(self._address, error) from error
                if not _threads_of(self._client, self._address):
                    raise EngineFailed(f"{self._address}: the cluster has no workers") from None
            except CancelledError as error:
                raise EngineFailed(f"{self._address}: the connection to the scheduler was lost") from error
            except Exception as error:
                raise _lost(self._address, error) from error


def trace_there(version: str, job: _Job, batch: Batch) -> list[Block]:
    """What workers do: the blocks of a batch, from the store itself. Raises SourceError, TooManyObjects."""
    if version != __version__:
        raise EngineFailed(f"a worker has roiservice {__version__}, not {version} as this process")
    return list(trace_batch(_opened(job), batch, job.max_vertices))


@lru_cache(OPEN_LAYERS)
def _opened(job: _Job) -> LabelLayer:
    """The layer, opened once for each build. EngineFailed where it is not what it is for who asks."""
    here = f"a worker on {socket.gethostname()}"
    try:
        layer = open_layer(job.source, job.limits)
        missing = [name for name in job.chunks if not layer.has_file(name)]
    except SourceError as error:
        raise EngineFailed(f"{here} cannot open what this process can: {error}") from error
    where = f"{job.source.location} [{job.source.path}]"
    if _looks(layer) != job.looks:
        raise EngineFailed(f"{where}: {here} finds {_looks(layer)} there, this process {job.looks}")
    if missing:
        raise EngineFailed(f"{where}: {here} does not find chunk {missing[0]}, as this process did")
    return layer


def _some_chunks(layer: LabelLayer) -> tuple[str, ...]:
    """Names of some files of chunks, the first and the last among them; none where they cannot be listed."""
    state = None
    with suppress(SourceError):  # the store went away: who reads it says so
        state = chunk_state(layer.source, layer.limits)
    names = () if state is None else state.names
    count = min(CHUNKS_SEEN, len(names))
    return tuple(names[i * (len(names) - 1) // max(count - 1, 1)] for i in range(count))


def _looks(layer: LabelLayer) -> tuple[str, int, int]:
    return str(layer.dtype), layer.height, layer.width


def _connected(cluster: Cluster) -> Client:
    from distributed import Client

    _check_address(cluster)
    connect = partial(Client, cluster.address, security=cluster.security, set_as_default=False)
    try:
        client = _answer(partial(connect, timeout=CONNECTING), 2 * CONNECTING)
    except Exception as error:
        raise EngineFailed(f"{cluster.address}: no scheduler answers there: {_brief(error)}") from error
    try:
        client.wait_for_workers(1, timeout=NO_WORKERS)
    except Exception as error:
        client.close()
        raise EngineFailed(f"{cluster.address}: the cluster has no workers") from error
    return client


def _threads_of(client: Client, address: str) -> int:
    """Threads of all workers there are now."""
    try:
        return sum(_answer(client.nthreads, NO_WORKERS).values())
    except Exception as error:
        raise _lost(address, error) from error


def _answer(ask: Callable[[], Result], seconds: float) -> Result:
    """What `ask` returns; TimeoutError if that takes longer.

    A client waits for ever for who is no scheduler, or does not say a word. The thread that does is left.
    """
    answer: Future[Result] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    if not wait([answer], seconds).done:
        raise TimeoutError(f"it says nothing for {seconds:g} s")
    return answer.result()


def _check_address(cluster: Cluster) -> None:
    """BadParameter for an address that no scheduler can have, and without the certificates that it asks for.

    A client would find out as well, and be at a loss how to end.
    """
    from distributed import Security
    from distributed.comm.addressing import get_address_host_port, parse_address

    try:
        get_address_host_port(cluster.address, strict=False)
        security = (cluster.security or Security()).get_connection_args("client")
        if parse_address(cluster.address)[0] == "tls" and security["ssl_context"] is None:
            raise ValueError("dask has no certificates (distributed.comm.tls in its configuration)")
    except (ValueError, OSError) as error:
        raise BadParameter("--dask", f"{cluster.address}: {error}") from error


def _lost(address: str, error: Exception) -> EngineFailed:
    return EngineFailed(f"{address}: the cluster failed: {_brief(error)}")


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
