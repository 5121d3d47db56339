"""When and where catalogs are built: by the request that asks, in the background, or elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from roiservice.catalog.builder import Builder, Manner
from roiservice.catalog.current import CurrentCatalogs
from roiservice.catalog.elsewhere import BuildProcesses, StartBuild, start_build
from roiservice.catalog.failures import REMEMBER_FAILURE
from roiservice.catalog.filelocks import LONGEST_LOOK, builders_kept_out, is_built_elsewhere
from roiservice.catalog.indexes import FORMAT
from roiservice.catalog.pointers import highest_number, pointer_stamp
from roiservice.catalog.progress import BuildStatus, Progress, build_status, progress_path
from roiservice.catalog.quota import Uses
from roiservice.catalog.reader import Catalog
from roiservice.catalog.registry import Registry
from roiservice.catalog.task import LayerKey, Rules, Task
from roiservice.errors import BuilderKilled, Building, SourceError, TooManyObjects, renewed
from roiservice.metrics import Metrics
from roiservice.sources.limits import Limits

if TYPE_CHECKING:
    from roiservice.catalog.engine import Engine

log = logging.getLogger(__name__)

LONGEST_WAIT = 20.0  # seconds that a request waits for another builder of a small layer
SHORT_WAIT = 2.0  # seconds that it waits for its turn to do so; most layers are built by then


class Keeper:
    """Has catalogs built when they are asked for, those that are `current`; shared by threads."""

    def __init__(
        self,
        root: Path,
        registry: Registry,
        rules: Rules,
        limits: Limits,
        metrics: Metrics | None = None,
        engine: Engine | None = None,
        start_build: StartBuild = start_build,
    ) -> None:
        self._root = root / registry.uuid
        self._registry = registry
        registry.highest_used = partial(highest_number, self._root)
        self._rules = rules
        self._limits = limits
        metrics = metrics or Metrics()
        self.current = CurrentCatalogs(self._root, f"format={FORMAT},{rules.outline.key()}")
        self._builder = Builder(self.current, registry, rules, limits, metrics, engine)
        self._processes = BuildProcesses(self.current, registry, metrics, start_build)
        self._uses = Uses(self._root)
        self._failures: dict[int, tuple[float, SourceError]] = {}
        self._checked: dict[int, float] = {}
        self._refreshing: set[int] = set()
        self._waiting = threading.BoundedSemaphore(rules.waiters)
        self._background = ThreadPoolExecutor(1, "refresh")

    def catalog(self, layer: LayerKey) -> Catalog:
        """The current catalog of `layer`; a small one that is missing is built now, by one request for all.

        Raises Building while a large one is built elsewhere or too many wait, SourceError if the layer
        cannot be used.
        """
        catalog = self.existing(layer)
        if catalog is None:
            return self._first(layer)
        self._uses.note(layer.number, catalog.version)
        now = time.monotonic()
        is_due = now - self._checked.setdefault(layer.number, now) >= self._rules.check_interval
        if is_due and layer.number not in self._refreshing:  # where looking takes long, none waits twice
            self._checked[layer.number] = now
            self._refreshing.add(layer.number)
            try:
                self._background.submit(self._refresh, layer)
            except RuntimeError as error:  # there are as many threads as may be
                self._refreshing.discard(layer.number)
                log.warning("%s: the source is not looked at now: %s", layer.source.collection, error)
        return catalog

    def existing(self, layer: LayerKey) -> Catalog | None:
        """The current catalog if there is one, whatever the state of its source."""
        return self.current.get(layer)

    def has_catalog(self, layer: LayerKey) -> bool:
        """Whether there is a current catalog, none of which is opened for that."""
        return pointer_stamp(self.current.pointer(layer)) is not None

    def build(
        self, layer: LayerKey, *, force: bool = False, progress: Progress | None = None, inline: bool = False
    ) -> Catalog:
        """Bring the catalog of `layer` up to its source's state; waits for other builders.

        With `inline`, TooManyObjects is raised for layers too large to be built by a request.
        """
        return self._builder.build(layer, Manner(inline=inline, progress=progress, force=force))

    def task(self, layer: LayerKey) -> Task:
        """All that another process needs to do what `build` does."""
        known, places = self._registry, (self._root.parent, self._registry.directory)
        return Task(layer, *places, known.uuid, self._rules, self._limits, known.url)

    def start(self, layer: LayerKey) -> None:
        """Have a process of its own bring the catalog up to its source's state, unless one is at work.

        Raises NoRoom while as many as may be are at work for other layers.
        """
        self._processes.start(self.task(layer))

    def status(self, layer: LayerKey) -> BuildStatus:
        """Whether the layer is built, and how far its build is, whichever process is at it."""
        directory, path = self.current.directory(layer), progress_path(self.current.pointer(layer))
        locks = self._registry.locks
        return build_status(directory, path, lambda: self.existing(layer) is not None, locks, layer.number)

    def tidy(self) -> None:
        """Delete what builds that were killed have left of all layers, and what is more than the quota."""
        self._builder.tidy()

    def _first(self, layer: LayerKey) -> Catalog:
        directory = self.current.directory(layer)
        failed = self._failures.get(layer.number)
        is_remembered = failed is not None and time.monotonic() - failed[0] < REMEMBER_FAILURE
        if failed is not None and is_remembered and not is_built_elsewhere(directory):
            raise renewed(failed[1])
        if not self._waiting.acquire(timeout=SHORT_WAIT):
            raise Building(layer.source.collection)
        try:
            # Looked at before the lock: a process that builds a large layer holds it for long.
            self._builder.check_size(layer)
            if is_built_elsewhere(directory):
                raise Building(layer.source.collection)
            return self._builder.build(layer, Manner(inline=True, timeout=LONGEST_WAIT))
        except TimeoutError:
            raise Building(layer.source.collection) from None
        except TooManyObjects:
            self._start_elsewhere(layer)
            raise Building(layer.source.collection) from None
        except SourceError as error:
            self._remember(layer, error)
            raise
        finally:
            self._waiting.release()

    def _start_elsewhere(self, layer: LayerKey) -> None:
        """Have a process build what is too large for a request; raises what the last one failed with."""
        try:
            self._processes.start_unless_failed(self.task(layer))
        except BuilderKilled as error:
            self._remember(layer, error)
            raise

    def _remember(self, layer: LayerKey, error: SourceError) -> None:
        """What a layer failed with, for those who ask next; others are forgotten once they are asked anew."""
        now = time.monotonic()
        recent = {number: each for number, each in self._failures.items() if now - each[0] < REMEMBER_FAILURE}
        self._failures = {**recent, layer.number: (now, renewed(error))}

    def _refresh(self, layer: LayerKey) -> None:
        """Look at the source again; errors leave the catalog in service."""
        try:
            self.current.opened.close_deleted()
            with builders_kept_out(self.current.directory(layer)) as is_idle:
                pass
            if not is_idle:
                return  # somebody is building it, or looks at the source just now
            try:
                self._builder.build(layer, Manner(inline=True, timeout=LONGEST_LOOK))
            except TooManyObjects:
                self._start_elsewhere(layer)
        except TimeoutError:
            pass  # somebody is building it
        except Exception as error:  # noqa: BLE001 - a background thread has nobody to raise to
            log.warning("%s: the catalog stays as it was: %s", layer.source.collection, error)
        finally:
            self._refreshing.discard(layer.number)
