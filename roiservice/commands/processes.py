"""Small layers built side by side: each by a process of its own, for most of what they cost is interpreted.

The processes are ended by closing a pipe, which happens however this process ends. They finish or undo the
step they are at, so that neither locks nor half catalogs are left.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from roiservice.bootstrap import Services
from roiservice.catalog.cluster import Cluster, DaskEngine
from roiservice.catalog.engine import Threads
from roiservice.catalog.keeper import Keeper
from roiservice.catalog.registry import registry_again
from roiservice.catalog.task import Rules, Task
from roiservice.commands.interrupt import INTERRUPTED, compiled_code, ctrl_c_waits
from roiservice.errors import EngineFailed, TooManyObjects
from roiservice.layers import Layer
from roiservice.records import dataclass
from roiservice.sources.limits import Limits

SMALL_PIXELS = 2**26  # of a layer; larger ones keep all threads busy by themselves
ANY_NUMBER = 2**63  # of vertices
AHEAD = 8  # images for each process: one that takes long is not to keep the others from work
LOADED = ("numcodecs", "roiservice.commands.loaded")  # modules that take longest to be imported


@dataclass(frozen=True)
class Built:
    """A layer that is up to date: what its catalog says of itself, and the pixels that were traced for it."""

    meta: dict[str, Any]
    pixels: int


class Processes:
    """So many processes that build small layers, each at a cluster if one is given; to be closed."""

    def __init__(self, services: Services, count: int, cluster: Cluster | None, *, force: bool) -> None:
        self._services = services
        self._force = force
        ended, self._end = multiprocessing.Pipe(duplex=False)
        # Forked from a process that has no threads, and has loaded all this once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, *LOADED])
        self._cluster = cluster
        with ctrl_c_waits():  # what it shares with the processes comes with one more
            self._pool = ProcessPoolExecutor(count, context, _prepare, (ended,))
        self._ready = threading.Event()
        self._starter = threading.Thread(target=self._start, name="start", daemon=True)
        self._starter.start()
        self.worth_ahead = AHEAD * count  # images that are worth being begun before they are waited for

    def _start(self) -> None:
        """Wait for the first one. Where there can be none, they are never ready."""
        with suppress(OSError, BrokenProcessPool):
            with ctrl_c_waits():  # for the processes, for ever: it is for this one, which ends the others
                first = self._pool.submit(os.getpid)
            first.result()
            self._ready.set()

    @property
    def ready(self) -> bool:
        """Whether one has started, which takes a second or two. Until then nothing may be begun."""
        return self._ready.is_set()

    def begin(self, layer: Layer) -> Future[Built | None]:
        """Build a layer; None comes if it is too large for this. Raises EngineFailed."""
        task = self._services.layers.task(layer)
        with ctrl_c_waits(), _killed_said():
            return self._pool.submit(_build, task, self._cluster, self._force, SMALL_PIXELS)

    def close(self) -> None:
        """End all that is at work."""
        self._end.close()
        self._starter.join()  # one that finds its parent gone while it starts would complain
        self._pool.shutdown(wait=True, cancel_futures=True)


def result_of(begun: Future[Built | None]) -> Built | None:
    """What `Processes.begin` has led to. Raises RoiServiceError."""
    with _killed_said():
        return begun.result()


@contextmanager
def _killed_said() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise EngineFailed("a process that built layers was killed; build again to go on") from None


def _prepare(ended: Connection) -> None:
    """What each process begins with."""
    threading.Thread(target=_end_with, args=(ended,), daemon=True).start()


def _end_with(ended: Connection) -> None:
    """Wait until the process that this one works for ends, or wants this one to."""
    ended.poll(None)
    os.kill(os.getpid(), signal.SIGTERM)


def _build(task: Task, cluster: Cluster | None, force: bool, most_pixels: int) -> Built | None:
    rules = replace(task.rules, inline_pixels=most_pixels, inline_vertices=ANY_NUMBER)
    places = task.catalogs, task.state
    keeper = _keeper(*places, task.registry_url, task.registry_uuid, rules, task.limits, cluster)
    pixels = 0
    try:
        with compiled_code(signal.SIGTERM) as step:

            def advance(more: int, _features: int) -> None:
                nonlocal pixels
                step()
                pixels += more

            catalog = keeper.build(task.layer, force=force, progress=advance, inline=True)
    except TooManyObjects:
        return None
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    return Built(catalog.meta, pixels)


@lru_cache(1)
def _keeper(
    catalogs: Path,
    state: Path,
    registry_url: str | None,
    registry_uuid: str,
    rules: Rules,
    limits: Limits,
    cluster: Cluster | None,
) -> Keeper:
    """That of this process, which works with one thread, as there are as many processes as processors."""
    engine = Threads(1) if cluster is None else DaskEngine(cluster, threads=1)
    registry = registry_again(state, registry_url, registry_uuid)
    return Keeper(catalogs, registry, rules, limits, engine=engine)
