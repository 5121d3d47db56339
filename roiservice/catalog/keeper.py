"""Which catalog of a layer is current, and who builds the next one.

The current version of a layer is one small file, replaced by rename and looked at for every request, so that
all workers change over at once. Builders of one layer exclude each other by a file lock on this host, and by
`roiservice.catalog.locks` across hosts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from roiservice.catalog.elsewhere import (
    FAILURE,
    TRY_AGAIN,
    BuildProcess,
    LayerKey,
    Rules,
    StartBuild,
    Task,
    being_built,
    failure_kept,
    is_built_elsewhere,
    locked,
    one_of_few,
    raise_last_failure,
    start_build,
    started,
)
from roiservice.catalog.indexes import FORMAT
from roiservice.catalog.leftovers import make_way, sweep, sweep_all
from roiservice.catalog.pointers import highest_number, pointer_name, pointer_stamp, version_in, write_pointer
from roiservice.catalog.progress import (
    BuildStatus,
    build_counted,
    build_status,
    note_start,
    progress_cleared,
    progress_path,
    written_progress,
)
from roiservice.catalog.quota import Quota, Uses
from roiservice.catalog.reader import Catalog, OpenCatalogs, open_catalog
from roiservice.catalog.registry import Registry
from roiservice.catalog.versions import LayerVersion, is_kept, put_in_place
from roiservice.errors import (
    Building,
    NotWritten,
    RoiServiceError,
    SourceError,
    SourceRefused,
    TooManyObjects,
)
from roiservice.metrics import BUILDS, Metrics
from roiservice.records import dataclass
from roiservice.sources.limits import Limits
from roiservice.sources.opened import open_source
from roiservice.sources.planes import LabelLayer
from roiservice.sources.tables.layers import TableLayer
from roiservice.sources.tokens import chunk_state, looked_at, source_token

if TYPE_CHECKING:
    from roiservice.catalog.build import Progress
    from roiservice.catalog.engine import Engine

log = logging.getLogger(__name__)

REMEMBER_FAILURE = 10.0  # seconds
LONGEST_WAIT = 20.0  # seconds that a request waits for another builder of a small layer
SHORT_WAIT = 2.0  # seconds that it waits for its turn to do so; most layers are built by then


@dataclass(frozen=True)
class _Manner:
    """How a layer is to be built.

    With `inline_vertices`, TooManyObjects is raised for layers too large to be built by a request.
    """

    inline_vertices: int | None = None
    progress: Progress | None = None
    force: bool = False


class Keeper:
    """Current catalogs of all layers of this process; shared by its threads."""

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
        self._metrics = metrics or Metrics()
        self._quota = Quota(self._root, rules, self._excluding, self._metrics)
        self._uses = Uses(self._root)
        self._engine = engine
        self._options = f"format={FORMAT},{rules.outline.key()}"
        self._lock = threading.Lock()
        self._open = OpenCatalogs()
        self._pointers: dict[tuple[int, str], str] = {}
        self._pointed: dict[str, tuple[tuple[int, int], Path]] = {}
        self._checked: dict[int, float] = {}
        self._refreshing: set[int] = set()
        self._failures: dict[int, tuple[float, RoiServiceError]] = {}
        self._waiting = threading.BoundedSemaphore(rules.waiters)
        self._background = ThreadPoolExecutor(1, "refresh")
        self._start_build = start_build
        self._processes: dict[int, BuildProcess] = {}

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
        pointer = self._pointer(layer)
        stamp = pointer_stamp(pointer)
        pointed = self._pointed.get(pointer)
        if pointed is not None and pointed[0] != stamp:
            self._open.close(pointed[1])
        if stamp is None:
            return None
        if pointed is None or pointed[0] != stamp:
            version = version_in(Path(pointer))
            if version is None:
                return None
            pointed = self._pointed[pointer] = (stamp, self.directory(layer) / str(version))
        catalog = self._open.get(pointed[1])
        if catalog is None and pointer_stamp(pointer) != stamp:
            return self.existing(layer)  # it was replaced between the two looks
        return catalog

    def tidy(self) -> None:
        """Delete what builds that were killed have left of all layers, and what is more than the quota."""
        sweep_all(self._root, self._excluding, self._rules.keep_replaced, self._metrics)
        self._quota.hold()

    def _pointer(self, layer: LayerKey) -> str:
        """Path of the small file that names the current version."""
        key = (layer.number, layer.source.asked)
        pointer = self._pointers.get(key)
        if pointer is None:
            name = pointer_name(self._options, layer.source.asked)
            pointer = self._pointers[key] = str(self.directory(layer) / name)
        return pointer

    def build(
        self, layer: LayerKey, *, force: bool = False, progress: Progress | None = None, inline: bool = False
    ) -> Catalog:
        """Bring the catalog of `layer` up to its source's state; waits for other builders.

        With `inline`, TooManyObjects is raised for layers too large to be built by a request.
        """
        inline_vertices = self._rules.inline_vertices if inline else None
        with self._sole_builder(layer):
            return self._bring_up(layer, _Manner(inline_vertices, progress, force))

    def task(self, layer: LayerKey) -> Task:
        """All that another process needs to do what `build` does."""
        known, places = self._registry, (self._root.parent, self._registry.directory)
        return Task(layer, *places, known.uuid, self._rules, self._limits, known.url)

    def start(self, layer: LayerKey) -> None:
        """Have a process of its own bring the catalog up to its source's state, unless one is at work.

        Raises NoRoom while as many as may be are at work for other layers.
        """
        if self._registry.is_building(layer.number):
            return
        with self._lock:
            if not is_built_elsewhere(self.directory(layer)):
                self._start(layer)

    def status(self, layer: LayerKey) -> BuildStatus:
        """Whether the layer is built, and how far its build is, whichever process is at it."""
        directory, path = self.directory(layer), progress_path(self._pointer(layer))
        locks = self._registry.locks
        return build_status(directory, path, lambda: self.existing(layer) is not None, locks, layer.number)

    def _first(self, layer: LayerKey) -> Catalog:
        failed = self._failures.get(layer.number)
        if failed is not None and time.monotonic() - failed[0] < REMEMBER_FAILURE:
            raise failed[1]
        if not self._waiting.acquire(timeout=SHORT_WAIT):
            raise Building(layer.source.collection)
        directory = self.directory(layer)
        try:
            # Looked at before the lock: a process that builds a large layer holds it for long.
            with failure_kept(directory):
                self._check_size(open_source(layer.source, self._limits))
            if is_built_elsewhere(directory):
                raise Building(layer.source.collection)
            with self._sole_builder(layer, LONGEST_WAIT):
                return self._bring_up(layer, _Manner(self._rules.inline_vertices))
        except TimeoutError:
            raise Building(layer.source.collection) from None
        except TooManyObjects:
            self._build_elsewhere(layer)
            raise Building(layer.source.collection) from None
        except SourceError as error:
            self._failures[layer.number] = (time.monotonic(), error)
            raise
        finally:
            self._waiting.release()

    def _refresh(self, layer: LayerKey) -> None:
        """Look at the source again; errors leave the catalog in service."""
        try:
            self._open.close_deleted()
            try:
                with self._sole_builder(layer, 0.0):
                    self._bring_up(layer, _Manner(self._rules.inline_vertices))
            except TooManyObjects:
                self._build_elsewhere(layer)
        except TimeoutError:
            pass  # somebody is building it
        except Exception as error:  # noqa: BLE001 - a background thread has nobody to raise to
            log.warning("%s: the catalog stays as it was: %s", layer.source.collection, error)
        finally:
            self._refreshing.discard(layer.number)

    @contextlib.contextmanager
    def _sole_builder(self, layer: LayerKey, timeout: float | None = None) -> Iterator[None]:
        """Hold the builders' locks, and leave word of how it ends. TimeoutError if others hold one."""
        directory, path = self.directory(layer), progress_path(self._pointer(layer))
        with self._excluding(directory, timeout), progress_cleared(path), failure_kept(directory):
            yield

    @contextlib.contextmanager
    def _excluding(self, directory: Path, timeout: float | None) -> Iterator[None]:
        """Hold the builders' locks of the layer with catalogs in `directory`; TimeoutError if others do.

        What another host builds may take long, and is not waited for as long as what this one does.
        """
        longest = None if timeout is None else min(timeout, SHORT_WAIT)
        with locked(directory, timeout), self._registry.locks.hold(int(directory.name), directory, longest):
            yield

    def _bring_up(self, layer: LayerKey, manner: _Manner) -> Catalog:
        """The catalog of the source's present state, built unless it is there. The layer's lock is held."""
        store = looked_at(layer.source, self._limits)
        token = source_token(layer.source, self._limits, store)
        existing = self.existing(layer)
        if existing is not None and existing.meta["token"] == token and not manner.force:
            (self.directory(layer) / FAILURE).unlink(missing_ok=True)
            sweep(self.directory(layer), self._rules.keep_replaced, self._metrics)
            return existing
        if existing is not None and len(existing.rois["roi"]):  # none of its numbers is to be given again
            self._registry.note_used(existing.layer_number, int(existing.rois["roi"][-1]))
        version = self._registry.version_number(layer.number, token, self._options)
        directory = self.directory(layer) / str(version)
        try:
            if not directory.exists():
                self._open.close(directory)
            if (catalog := self._open.get(directory)) is None:
                shutil.rmtree(directory, ignore_errors=True)  # it is damaged
            # One that says otherwise is of a process that was killed while it had a version kept.
            if catalog is None or manner.force or catalog.meta["token"] != token:
                chunks = chunk_state(layer.source, self._limits, store)
                task = LayerVersion(layer.number, version, token, self._rules.outline, chunks)
                before = None if manner.force or existing is None else existing.directory
                catalog = self._built(layer, task, manner, before)
            self._point_to(layer, catalog.version)
            self._quota.keep(self.directory(layer) / str(catalog.version))
        except OSError as error:
            self._registry.locks.confirm(layer.number, layer.source.collection)
            sweep(self.directory(layer), self._rules.keep_replaced, self._metrics)  # half of it may be left
            raise NotWritten(f"{directory}: {error}") from error
        return catalog

    def _built(self, layer: LayerKey, version: LayerVersion, manner: _Manner, before: Path | None) -> Catalog:
        """Build a version beside where it belongs, and put it there, or elsewhere if another one is there.

        The one `before` stays if it tells the same.
        """
        directory, locks = self.directory(layer) / str(version.number), self._registry.locks
        beside = directory.with_name(f"{version.number}{locks.mark(layer.number)}.new")
        make_way(beside, afresh=manner.force)
        with build_counted(self._metrics):
            is_same = self._build(layer, version, beside, manner, before)
            self._quota.check(layer, beside)
        locks.confirm(layer.number, layer.source.collection, ready=True)
        state = layer.number, version.token, self._options
        if before is not None and is_kept(before, beside, is_same=is_same):
            self._registry.keep_version(int(before.name), *state)
            self._open.close(before)
            placed = before
        else:
            renewed = partial(self._registry.version_number, *state, renew=True)
            placed = put_in_place(beside, directory, renewed, is_known=not manner.force)
        return self._open.get(placed) or open_catalog(placed)

    def _build(
        self, layer: LayerKey, version: LayerVersion, directory: Path, manner: _Manner, before: Path | None
    ) -> bool:
        """See `build_catalog`."""
        from roiservice.catalog.build import build_catalog  # takes a while, and few processes build

        opened = open_source(layer.source, self._limits)
        if manner.inline_vertices is not None:
            self._check_size(opened)
        pixels = 0 if isinstance(opened, TableLayer) else opened.pixels
        watched = self._quota.watched(layer, directory, manner.progress)

        def advance(more: int, features: int) -> None:
            self._registry.locks.confirm(layer.number, layer.source.collection)
            watched.advance(more, features)

        return build_catalog(
            opened,
            version,
            directory,
            self._registry,
            max_vertices=self._rules.max_vertices,
            stop_at_vertices=manner.inline_vertices,
            progress=written_progress(progress_path(self._pointer(layer)), pixels, advance),
            settled=watched.settled,
            before=before,
            engine=self._engine,
        )

    def _check_size(self, opened: LabelLayer | TableLayer) -> None:
        if opened.pixels > self._rules.inline_pixels:
            raise TooManyObjects(f"{opened.pixels} pixels")

    def _point_to(self, layer: LayerKey, version: int) -> None:
        directory = self.directory(layer)
        (directory / FAILURE).unlink(missing_ok=True)
        pointer = Path(self._pointer(layer))
        replaced = version_in(pointer)
        if replaced is not None and (directory / str(replaced)).exists():
            os.utime(directory / str(replaced))  # from now on it is kept for a while
        write_pointer(pointer, version, self._options)
        sweep(directory, self._rules.keep_replaced, self._metrics, is_built=True)

    def directory(self, layer: LayerKey) -> Path:
        """Where the catalogs of a layer are."""
        return self._root / str(layer.number)

    def _build_elsewhere(self, layer: LayerKey) -> None:
        """Have a process of its own build a large layer; raises what the last one failed with."""
        if self._registry.is_building(layer.number):
            return
        with self._lock:
            running = self._processes.get(layer.number)
            code = 0 if running is None else running.poll()
            if code is None or is_built_elsewhere(self.directory(layer)):
                return
            self._processes.pop(layer.number, None)
            raise_last_failure(self.directory(layer), max(self._rules.check_interval, REMEMBER_FAILURE))
            if code not in (0, TRY_AGAIN) and not (self.directory(layer) / FAILURE).exists():
                reason = f"the process that builds it ended with code {code}"
                error = SourceRefused(layer.source.image.location, layer.source.path, reason)
                self._failures[layer.number] = (time.monotonic(), error)
                raise error
            self._start(layer)

    def _start(self, layer: LayerKey) -> None:
        # Another worker may be faster: its process does as well.
        with (
            contextlib.suppress(TimeoutError),
            one_of_few(self._registry.directory) as place,
            being_built(self.directory(layer)) as mark,
        ):
            note_start(progress_path(self._pointer(layer)))
            for process in self._processes.values():
                process.poll()  # one that ended is let go of, though nobody may ask for its layer again
            self._processes[layer.number] = started(self._start_build, self.task(layer), mark, place)
            self._metrics.add(1, BUILDS, "elsewhere")
