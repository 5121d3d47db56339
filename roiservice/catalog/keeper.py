"""Which catalog of a layer is current, and who builds the next one.

The current version of a layer is one small file, replaced by rename and looked at for every request, so that
all workers change over at once. Builders of one layer exclude each other by a file lock on this host; across
hosts the atomic rename decides, as equal versions are equal bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import hashlib
import json
import logging
import os
import shutil
import subprocess
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from roiservice.catalog.build import LayerVersion, Progress, blocks_folder, build_catalog
from roiservice.catalog.elsewhere import (
    FAILURE,
    LayerKey,
    Rules,
    Task,
    being_built,
    failure_kept,
    is_built_elsewhere,
    lock_within,
    raise_last_failure,
    start_build,
)
from roiservice.catalog.engine import Engine
from roiservice.catalog.progress import (
    LOCK,
    BuildStatus,
    build_status,
    note_start,
    progress_cleared,
    progress_path,
    written_progress,
)
from roiservice.catalog.reader import Catalog, open_catalog
from roiservice.catalog.registry import Registry
from roiservice.catalog.writer import FORMAT, renumber_catalog
from roiservice.errors import (
    Building,
    CatalogDamaged,
    NotWritten,
    RoiServiceError,
    SourceError,
    SourceRefused,
    TooManyObjects,
)
from roiservice.metrics import BUILDS, Metrics
from roiservice.sources.limits import Limits
from roiservice.sources.opened import open_source
from roiservice.sources.planes import LabelLayer
from roiservice.sources.tables.layers import TableLayer
from roiservice.sources.tokens import source_token

log = logging.getLogger(__name__)

OPEN_CATALOGS = 256
REMEMBER_FAILURE = 10.0  # seconds
LONGEST_WAIT = 20.0  # seconds that a request waits for another builder of a small layer
SHORT_WAIT = 2.0  # seconds that it waits for its turn to do so; most layers are built by then


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
    ) -> None:
        self._root = root / registry.uuid
        self._registry = registry
        self._rules = rules
        self._limits = limits
        self._metrics = metrics or Metrics()
        self._engine = engine
        self._options = f"format={FORMAT},{rules.outline.key()}"
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, Catalog] = OrderedDict()
        self._pointers: dict[tuple[int, str], str] = {}
        self._pointed: dict[str, tuple[tuple[int, int], Path]] = {}
        self._checked: dict[int, float] = {}
        self._failures: dict[int, tuple[float, RoiServiceError]] = {}
        self._waiting = threading.BoundedSemaphore(rules.waiters)
        self._background = ThreadPoolExecutor(1, "refresh")
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def catalog(self, layer: LayerKey) -> Catalog:
        """The current catalog of `layer`; a small one that is missing is built now, by one request for all.

        Raises Building while a large one is built elsewhere or too many wait, SourceError if the layer
        cannot be used.
        """
        catalog = self.existing(layer)
        if catalog is None:
            return self._first(layer)
        now = time.monotonic()
        if now - self._checked.setdefault(layer.number, now) >= self._rules.check_interval:
            self._checked[layer.number] = now
            self._background.submit(self._refresh, layer)
        return catalog

    def existing(self, layer: LayerKey) -> Catalog | None:
        """The current catalog if there is one, whatever the state of its source."""
        pointer = self._pointer(layer)
        try:
            status = os.stat(pointer)
        except FileNotFoundError:
            return None
        stamp = (status.st_mtime_ns, status.st_ino)
        pointed = self._pointed.get(pointer)
        if pointed is None or pointed[0] != stamp:
            version = _version_in(Path(pointer))
            if version is None:
                return None
            pointed = self._pointed[pointer] = (stamp, self.directory(layer) / str(version))
        return self._opened(pointed[1])

    def _pointer(self, layer: LayerKey) -> str:
        """Path of the small file that names the current version.

        There is one for each way of building the layer: who serves it in another way, with other outlines or
        tables, neither finds nor replaces what this service has made of it.
        """
        key = (layer.number, layer.source.asked)
        pointer = self._pointers.get(key)
        if pointer is None:
            digest = hashlib.sha256(
                f"{self._options}\0{layer.source.asked}".encode("utf-8", "surrogateescape")
            )
            name = f"current-{digest.hexdigest()[:12]}.json"
            pointer = self._pointers[key] = str(self.directory(layer) / name)
        return pointer

    def build(self, layer: LayerKey, *, force: bool = False, progress: Progress | None = None) -> Catalog:
        """Bring the catalog of `layer` up to its source's state; waits for other builders."""
        with self._sole_builder(layer):
            return self._bring_up(layer, None, force=force, progress=progress)

    def task(self, layer: LayerKey) -> Task:
        """All that another process needs to do what `build` does."""
        return Task(layer, self._root.parent, self._registry.directory, self._rules, self._limits)

    def start(self, layer: LayerKey) -> None:
        """Have a process of its own bring the catalog up to its source's state, unless one is at work."""
        with self._lock:
            if not is_built_elsewhere(self.directory(layer)):
                self._start(layer)

    def status(self, layer: LayerKey) -> BuildStatus:
        """Whether the layer is built, and how far its build is, whichever process is at it."""
        path = progress_path(self._pointer(layer))
        return build_status(self.directory(layer), path, lambda: self.existing(layer) is not None)

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
                return self._bring_up(layer, self._rules.inline_vertices)
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
            with self._sole_builder(layer, 0.0):
                self._bring_up(layer, self._rules.inline_vertices)
        except TimeoutError:
            pass  # somebody is building it
        except TooManyObjects:
            self._build_elsewhere(layer)
        except Exception as error:  # noqa: BLE001 - a background thread has nobody to raise to
            log.warning("%s: the catalog stays as it was: %s", layer.source.collection, error)

    @contextlib.contextmanager
    def _sole_builder(self, layer: LayerKey, timeout: float | None = None) -> Iterator[None]:
        """Hold the builders' lock, and leave word of how it ends. TimeoutError if others hold it."""
        directory, path = self.directory(layer), progress_path(self._pointer(layer))
        with _locked(directory, timeout), progress_cleared(path), failure_kept(directory):
            yield

    def _bring_up(
        self,
        layer: LayerKey,
        inline_vertices: int | None,
        *,
        force: bool = False,
        progress: Progress | None = None,
    ) -> Catalog:
        """The catalog of the source's present state, built unless it is there. The layer's lock is held.

        With `inline_vertices`, TooManyObjects is raised for layers too large to be built by a request.
        """
        token = source_token(layer.source, self._limits)
        existing = self.existing(layer)
        if existing is not None and existing.meta["token"] == token and not force:
            (self.directory(layer) / FAILURE).unlink(missing_ok=True)
            self._sweep(self.directory(layer))
            return existing
        version = self._registry.version_number(layer.number, token, self._options)
        directory = self.directory(layer) / str(version)
        task = LayerVersion(layer.number, version, token, self._rules.outline)
        try:
            catalog = None if force else self._opened(directory)
            if catalog is None:
                beside = directory.with_name(f"{version}.new")
                shutil.rmtree(beside, ignore_errors=True)
                if force:  # a source that changed and looks the same
                    shutil.rmtree(blocks_folder(beside), ignore_errors=True)
                with _counted(self._metrics):
                    self._build(layer, task, beside, inline_vertices, progress)
                catalog = self._put_in_place(task, beside, directory)
            self._point_to(layer, catalog.version)
        except OSError as error:
            raise NotWritten(f"{directory}: {error}") from error
        return catalog

    def _build(
        self,
        layer: LayerKey,
        version: LayerVersion,
        directory: Path,
        inline_vertices: int | None,
        progress: Progress | None,
    ) -> None:
        opened = open_source(layer.source, self._limits)
        if inline_vertices is not None:
            self._check_size(opened)
        pixels = 0 if isinstance(opened, TableLayer) else opened.pixels
        build_catalog(
            opened,
            version,
            directory,
            self._registry,
            max_vertices=self._rules.max_vertices,
            stop_at_vertices=inline_vertices,
            progress=written_progress(progress_path(self._pointer(layer)), pixels, progress),
            engine=self._engine,
        )

    def _check_size(self, opened: LabelLayer | TableLayer) -> None:
        if opened.pixels > self._rules.inline_pixels:
            raise TooManyObjects(f"{opened.pixels} pixels")

    def _put_in_place(self, version: LayerVersion, built: Path, directory: Path) -> Catalog:
        """Give a catalog that was built beside its place that place, where it stays for good.

        One of the same version may be there, if the build was forced: equal bytes change nothing, but other
        bytes, from a source that changed and looks the same, are a version of their own.
        """
        if not directory.exists():
            os.rename(built, directory)
        elif _equal(built, directory):
            shutil.rmtree(built)
        else:
            number = self._registry.version_number(
                version.layer_number, version.token, self._options, renew=True
            )
            renumber_catalog(built, number)
            directory = directory.with_name(str(number))
            os.rename(built, directory)
        return self._opened(directory) or open_catalog(directory)

    def _point_to(self, layer: LayerKey, version: int) -> None:
        directory = self.directory(layer)
        (directory / FAILURE).unlink(missing_ok=True)
        pointer = Path(self._pointer(layer))
        replaced = _version_in(pointer)
        if replaced is not None and (directory / str(replaced)).exists():
            os.utime(directory / str(replaced))  # from now on it is kept for a while
        beside = pointer.with_name(f"{pointer.name}.{os.getpid()}")
        beside.write_text(json.dumps({"version": version, "options": self._options}), encoding="utf-8")
        os.replace(beside, pointer)
        self._sweep(directory)

    def _sweep(self, directory: Path) -> None:
        """Delete half-built catalogs, and versions that no current file has named for a while."""
        named = {str(_version_in(path)) for path in directory.glob("current-*.json")}
        oldest = time.time() - self._rules.keep_replaced
        for path in directory.iterdir():
            if not path.is_dir() or path.name in named:
                continue
            if path.suffix == ".partial" or path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)

    def _opened(self, directory: Path) -> Catalog | None:
        """The catalog in `directory`, opened once; None where there is none that can be used."""
        with self._lock:
            catalog = self._open.get(directory)
            if catalog is not None:
                self._open.move_to_end(directory)
                return catalog
        try:
            catalog = open_catalog(directory)
        except CatalogDamaged as error:
            if directory.exists():
                log.warning("%s", error)
                shutil.rmtree(directory, ignore_errors=True)
            return None
        with self._lock:
            self._open[directory] = catalog
            if len(self._open) > OPEN_CATALOGS:
                self._open.popitem(last=False)
        return catalog

    def directory(self, layer: LayerKey) -> Path:
        """Where the catalogs of a layer are."""
        return self._root / str(layer.number)

    def _build_elsewhere(self, layer: LayerKey) -> None:
        """Have a process of its own build a large layer; raises what the last one failed with."""
        with self._lock:
            running = self._processes.get(layer.number)
            if (running is not None and running.poll() is None) or is_built_elsewhere(self.directory(layer)):
                return
            self._processes.pop(layer.number, None)
            raise_last_failure(self.directory(layer), max(self._rules.check_interval, REMEMBER_FAILURE))
            if running is not None and running.returncode and not (self.directory(layer) / FAILURE).exists():
                reason = f"the process that builds it ended with code {running.returncode}"
                error = SourceRefused(layer.source.image.location, layer.source.path, reason)
                self._failures[layer.number] = (time.monotonic(), error)
                raise error
            self._start(layer)

    def _start(self, layer: LayerKey) -> None:
        task = self.task(layer)
        # Another worker may be faster: its process does as well.
        with contextlib.suppress(TimeoutError), being_built(self.directory(layer)) as mark:
            note_start(progress_path(self._pointer(layer)))
            self._processes[layer.number] = start_build(task, mark)
            self._metrics.add(1, BUILDS, "elsewhere")


def _equal(one: Path, other: Path) -> bool:
    """Whether two catalogs are the same files with the same bytes."""
    names = sorted(path.name for path in one.iterdir())
    if names != sorted(path.name for path in other.iterdir()):
        return False
    return filecmp.cmpfiles(one, other, names, shallow=False)[0] == names


def _version_in(pointer: Path) -> int | None:
    """The version that a current file names; None if it is gone or damaged."""
    try:
        return int(json.loads(pointer.read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _counted(metrics: Metrics) -> Iterator[None]:
    """Count a build; one that is too large for a request is counted where it is given away."""
    try:
        yield
    except TooManyObjects:
        raise
    except Exception:
        metrics.add(1, BUILDS, "failed")
        raise
    metrics.add(1, BUILDS, "done")


@contextlib.contextmanager
def _locked(directory: Path, timeout: float | None = None) -> Iterator[None]:
    """Hold the builders' lock of a layer; TimeoutError if others hold it longer than `timeout` s."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / LOCK, "w", encoding="ascii") as file:
        if timeout is None:
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            lock_within(file, timeout)
        yield
