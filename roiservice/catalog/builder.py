"""Build catalogs, and put them into service.

Builders of one layer exclude each other by a file lock on this host, and by `roiservice.catalog.locks` across
hosts.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from roiservice.catalog.current import CurrentCatalogs
from roiservice.catalog.failures import FAILURE, failure_kept
from roiservice.catalog.filelocks import locked
from roiservice.catalog.leftovers import make_way, sweep, sweep_all
from roiservice.catalog.progress import (
    Progress,
    build_counted,
    progress_cleared,
    progress_path,
    written_progress,
)
from roiservice.catalog.quota import Quota
from roiservice.catalog.reader import Catalog, open_catalog
from roiservice.catalog.registry import Registry
from roiservice.catalog.task import LayerKey, Rules
from roiservice.catalog.versions import LayerVersion, is_kept, put_in_place
from roiservice.errors import NotWritten, TooManyObjects
from roiservice.metrics import Metrics
from roiservice.records import dataclass
from roiservice.sources.limits import Limits
from roiservice.sources.opened import open_source
from roiservice.sources.planes import LabelLayer
from roiservice.sources.tables.layers import TableLayer
from roiservice.sources.tokens import chunk_state, looked_at, source_token

if TYPE_CHECKING:
    from roiservice.catalog.engine import Engine

LONGEST_TURN = 2.0  # seconds that another host's build is waited for, if any are


@dataclass(frozen=True)
class Manner:
    """How a layer is to be built.

    `inline`: as by a request, so that TooManyObjects is raised for layers too large for that. `timeout` is
    how many seconds others that build it are waited for, None: until they are done; then TimeoutError.
    """

    inline: bool = False
    timeout: float | None = None
    progress: Progress | None = None
    force: bool = False


class Builder:
    """Builds catalogs as the `rules` say, and has them be the `current` ones; used by several threads."""

    def __init__(
        self,
        current: CurrentCatalogs,
        registry: Registry,
        rules: Rules,
        limits: Limits,
        metrics: Metrics,
        engine: Engine | None,
    ) -> None:
        self._current = current
        self._registry = registry
        self._rules = rules
        self._limits = limits
        self._metrics = metrics
        self._engine = engine
        self._quota = Quota(current.root, rules, self._excluding, metrics)

    def build(self, layer: LayerKey, manner: Manner) -> Catalog:
        """Bring the catalog of `layer` up to its source's state, and leave word of how it ends.

        Raises TimeoutError, TooManyObjects, SourceError, NotWritten.
        """
        directory, path = self._current.directory(layer), progress_path(self._current.pointer(layer))
        with self._excluding(directory, manner.timeout), progress_cleared(path), failure_kept(directory):
            catalog = self._bring_up(layer, manner)
            (directory / FAILURE).unlink(missing_ok=True)
        return catalog

    def check_size(self, layer: LayerKey) -> None:
        """TooManyObjects for a layer with more pixels than a request may build. Raises SourceError."""
        self._check_pixels(open_source(layer.source, self._limits))

    def tidy(self) -> None:
        """Delete what builds that were killed have left of all layers, and what is more than the quota."""
        sweep_all(self._current.root, self._excluding, self._rules.keep_replaced, self._metrics)
        self._quota.hold()

    @contextlib.contextmanager
    def _excluding(self, directory: Path, timeout: float | None) -> Iterator[None]:
        """Hold the builders' locks of the layer with catalogs in `directory`; TimeoutError if others do.

        What another host builds may take long, and is not waited for as long as what this one does.
        """
        longest = None if timeout is None else min(timeout, LONGEST_TURN)
        with locked(directory, timeout), self._registry.locks.hold(int(directory.name), directory, longest):
            yield

    def _bring_up(self, layer: LayerKey, manner: Manner) -> Catalog:
        """The catalog of the source's present state, built unless it is there. The layer's lock is held."""
        store = looked_at(layer.source, self._limits)
        token = source_token(layer.source, self._limits, store)
        existing = self._current.get(layer)
        if existing is not None and existing.meta["token"] == token and not manner.force:
            self._sweep(layer)
            return existing
        if existing is not None and len(existing.rois["roi"]):  # none of its numbers is to be given again
            self._registry.note_used(existing.layer_number, int(existing.rois["roi"][-1]))
        number = self._registry.version_number(layer.number, token, self._current.options)
        directory = self._current.directory(layer) / str(number)
        try:
            catalog = self._usable(directory)
            # One that says otherwise is of a process that was killed while it had a version kept.
            if catalog is None or manner.force or catalog.meta["token"] != token:
                chunks = chunk_state(layer.source, self._limits, store)
                version = LayerVersion(layer.number, number, token, self._rules.outline, chunks)
                before = None if manner.force or existing is None else existing.directory
                catalog = self._built(layer, version, manner, before)
            self._current.put(layer, catalog.version)
            self._sweep(layer, is_built=True)
            self._quota.keep(self._current.directory(layer) / str(catalog.version))
        except OSError as error:
            self._registry.locks.confirm(layer.number, layer.source.collection)
            self._sweep(layer)  # half of it may be left
            raise NotWritten(f"{directory}: {error}") from error
        return catalog

    def _usable(self, directory: Path) -> Catalog | None:
        """The catalog in `directory`; one that is damaged is deleted."""
        if not directory.exists():
            self._current.opened.close(directory)
        catalog = self._current.opened.get(directory)
        if catalog is None:
            shutil.rmtree(directory, ignore_errors=True)
        return catalog

    def _built(self, layer: LayerKey, version: LayerVersion, manner: Manner, before: Path | None) -> Catalog:
        """Build a version beside where it belongs, and put it there, or elsewhere if another one is there.

        The one `before` stays if it tells the same.
        """
        directory, locks = self._current.directory(layer) / str(version.number), self._registry.locks
        beside = directory.with_name(f"{version.number}{locks.mark(layer.number)}.new")
        make_way(beside, afresh=manner.force)
        with build_counted(self._metrics):
            is_same = self._build(layer, version, beside, manner, before)
            self._quota.check(layer, beside)
        locks.confirm(layer.number, layer.source.collection, ready=True)
        state = layer.number, version.token, self._current.options
        if before is not None and is_kept(before, beside, is_same=is_same):
            self._registry.keep_version(int(before.name), *state)
            self._current.opened.close(before)
            placed = before
        else:
            renewed = partial(self._registry.version_number, *state, renew=True)
            placed = put_in_place(beside, directory, renewed, is_known=not manner.force)
        return self._current.opened.get(placed) or open_catalog(placed)

    def _build(
        self, layer: LayerKey, version: LayerVersion, directory: Path, manner: Manner, before: Path | None
    ) -> bool:
        """See `build_catalog`."""
        from roiservice.catalog.build import build_catalog  # takes a while, and few processes build

        opened = open_source(layer.source, self._limits)
        if manner.inline:
            self._check_pixels(opened)
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
            stop_at_vertices=self._rules.inline_vertices if manner.inline else None,
            progress=written_progress(progress_path(self._current.pointer(layer)), pixels, advance),
            settled=watched.settled,
            before=before,
            engine=self._engine,
        )

    def _check_pixels(self, opened: LabelLayer | TableLayer) -> None:
        if opened.pixels > self._rules.inline_pixels:
            raise TooManyObjects(f"{opened.pixels} pixels")

    def _sweep(self, layer: LayerKey, *, is_built: bool = False) -> None:
        """As `sweep`, of a layer whose lock is held."""
        sweep(self._current.directory(layer), self._rules.keep_replaced, self._metrics, is_built=is_built)
