"""`roiservice build`: catalogs of all layers."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from functools import partial
from typing import Any, Protocol, TypeVar

import click

from roiservice.bootstrap import Services, build_services
from roiservice.catalog.cluster import Cluster, DaskEngine, cluster_at
from roiservice.catalog.engine import THREADS
from roiservice.catalog.progress import BUILDING
from roiservice.catalog.quota import SETTING
from roiservice.catalog.reader import Catalog
from roiservice.commands.console import Overall, check_given, complain, overall_progress, progress, waiting
from roiservice.commands.interrupt import compiled_code, ctrl_c_waits
from roiservice.commands.processes import Built, Processes, result_of
from roiservice.errors import EngineFailed, NoRoom, NotWritten, RoiServiceError
from roiservice.images import Image, Location
from roiservice.layers import Layer, LayerListing
from roiservice.memory import use_memory_freely
from roiservice.records import dataclass
from roiservice.settings import load_settings

IMAGES = 1000  # at a time
WORTH_PROCESSES = 4.0  # seconds of work that must be left for one process before there are more
MANY_IMAGES = 256  # that are as much work, however small they are


class Described(Protocol):
    """A catalog, or what another process says of one."""

    @property
    def meta(self) -> dict[str, Any]:
        """What its `layer.json` says."""


Result = TypeVar("Result", bound=Described)


def build(
    locations: Sequence[Location],
    tables: Sequence[Location],
    *,
    force: bool,
    dask: str | None,
    overrides: Mapping[str, Any],
) -> int:
    """Build every layer there is; 1 if an image or a layer could not be built, or there is none, else 0.

    With `dask` the cluster at that address traces them. Raises EngineFailed.
    """
    settings = load_settings(overrides)
    check_given(locations, settings)
    use_memory_freely()
    with ExitStack() as stack:
        cluster = engine = None
        if dask is not None:
            with ctrl_c_waits():  # for workers on this host for ever: they are ended by this process
                cluster = stack.enter_context(cluster_at(dask))
            with waiting(f"connecting to {cluster.address}"):
                engine = stack.enter_context(closing(DaskEngine(cluster)))
        services = build_services(settings, locations, tables, engine=engine)
        for warning in services.images.warnings:
            complain(f"warning: {warning}")
        builder = stack.enter_context(closing(_Builder(services, cluster, force=force)))
        failures = sum(builder.finish(begun) for begun in builder.begun())
        if gone := builder.gone():
            complain(f"warning: {gone} of these catalogs made room for others: {SETTING} is too low for all")
    for unusable in services.images.problems:
        complain(unusable)
        failures += 1
    if not failures and not builder.total:
        complain("there is no image: nothing was built")
        failures = 1
    return 1 if failures else 0


@dataclass(frozen=True)
class _Begun:
    """An image whose layers are being built: `builds` wait for each. Or what is wrong with the image."""

    image: Image
    listing: LayerListing | None
    error: RoiServiceError | None
    builds: Sequence[Callable[[], Described]]


class _Builder:
    """Builds all images in turn; where that is worth it, processes build small layers ahead.

    Until these are ready, this one goes on by itself.
    """

    def __init__(self, services: Services, cluster: Cluster | None, *, force: bool) -> None:
        self._services = services
        self._cluster = cluster
        self._force = force
        self._stack = ExitStack()
        self._processes: Processes | None = None
        self._at_work: list[futures.Future[Built | None]] = []
        self._bar: Overall | None = None
        self._built: list[Layer] = []
        self.total = 0  # images
        self._done = self._ahead = 0
        self._since = 0.0

    def close(self) -> None:
        """End all that is at work."""
        self._stack.close()

    def begun(self) -> Iterator[_Begun]:
        """All images in order; some that follow have been begun as well."""
        waiting: deque[_Begun] = deque()
        self.total = self._services.images.total()
        if self.total >= MANY_IMAGES:
            self._start_processes(self.total)
        for offset in range(0, self.total, IMAGES):
            for image in self._services.images.page(offset, IMAGES):
                waiting.append(self._begin(image))
                while len(waiting) > self._ahead:  # it may have grown meanwhile
                    yield waiting.popleft()
        yield from waiting

    def finish(self, begun: _Begun) -> int:
        """Wait for an image, say what came of it, and count what could not be built."""
        failures = 1
        if begun.error is not None:
            with self._bar_hidden():
                complain(begun.error)
        elif begun.listing is not None:
            failures = self._finish(begun.image, begun.listing, begun.builds)
        self._done += 1
        if self._bar is not None:
            self._bar.image_done()
        else:
            self._look_for_help()
        return failures

    def gone(self) -> int:
        """How many of the catalogs that were built made room for others, and are not there any more."""
        return sum(not self._services.layers.has_catalog(layer) for layer in self._built)

    def _finish(self, image: Image, listing: LayerListing, builds: Sequence[Callable[[], Described]]) -> int:
        if listing.problems or listing.warnings:
            with self._bar_hidden():
                complain_of(image, listing)
        built, errors = finished(listing.layers, builds, self._bar_hidden)
        if self._services.settings.catalog_bytes is not None:
            numbers = {each.meta["layer_number"] for each in built}
            self._built += (layer for layer in listing.layers if layer.number in numbers)
        with self._bar_hidden():
            for each in built:
                counts, name = each.meta["counts"], each.meta["name"]
                click.echo(f"{image.name} {name}: {counts['rois']} ROIs, {counts['features']} features")
        return len(listing.problems) + errors

    def _begin(self, image: Image) -> _Begun:
        try:
            listing = self._services.layers.of(image)
        except RoiServiceError as error:
            return _Begun(image, None, error, ())
        return _Begun(image, listing, None, [self._begin_layer(layer) for layer in listing.layers])

    def _begin_layer(self, layer: Layer) -> Callable[[], Described]:
        here = partial(_built, self._services, layer, force=self._force)
        if self._processes is None or self._bar is None:
            return here
        future = self._processes.begin(layer)
        self._at_work = [*(each for each in self._at_work if not each.done()), future]

        def wait() -> Described:
            with suppress(NoRoom):
                built = result_of(future)
                if built is not None:
                    if self._bar is not None:
                        self._bar.layer_done(built.pixels, built.meta["counts"]["features"])
                    return built
                with self._bar_hidden():  # it is too large for a process of its own
                    return here()
            futures.wait(self._at_work)  # there is room once nothing else is being built
            with self._bar_hidden():
                return here()

        return wait

    def _look_for_help(self) -> None:
        """Start processes if what is left would take longer than that; let them work once they are ready."""
        if self._done == 1:
            self._since = time.monotonic()  # the first image took longer: what all need had to be loaded
        elif self._processes is None:
            left = self.total - self._done
            seconds = (time.monotonic() - self._since) / (self._done - 1) * left
            if seconds >= WORTH_PROCESSES:
                self._start_processes(min(left, max(2, math.ceil(seconds))))
        if self._processes is not None and self._processes.ready:
            self._bar = self._stack.enter_context(overall_progress(self.total, self._done))
            self._ahead = self._processes.worth_ahead

    def _start_processes(self, worth: int) -> None:
        """Start as many processes as are worth it and this machine has use for, if that is more than one."""
        most = THREADS + 1 if self._cluster is None else 2 * THREADS  # as they wait now and then
        count = min(worth, most)
        if count > 1:
            processes = Processes(self._services, count, self._cluster, force=self._force)
            self._processes = self._stack.enter_context(closing(processes))

    def _bar_hidden(self) -> AbstractContextManager[None]:
        return nullcontext() if self._bar is None else self._bar.hidden()


def complain_of(image: Image, listing: LayerListing) -> None:
    """Say what is wrong with layers of an image that cannot be used, and what was passed over."""
    for problem in listing.problems:
        complain(problem)
    for warning in listing.warnings:
        complain(f"{image.name}: warning: {warning}")


def build_layers(services: Services, layers: Sequence[Layer]) -> tuple[list[Catalog], int]:
    """Catalogs of the layers that can be built, and how many others were complained about."""
    return finished(layers, [partial(_built, services, layer, force=False) for layer in layers])


def finished(
    layers: Sequence[Layer],
    builds: Sequence[Callable[[], Result]],
    saying: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> tuple[list[Result], int]:
    """What came of the builds of some layers, and how many failed; what is wrong is said within `saying`."""
    results: list[Result] = []
    errors = 0
    for layer, wait in zip(layers, builds, strict=True):
        try:
            result = wait()
        except EngineFailed:
            raise
        except RoiServiceError as error:
            with saying():
                # It names a file of the catalog, and no layer.
                is_bare = isinstance(error, NotWritten)
                complain(f"{layer.image.name} {layer.name}: {error}" if is_bare else error)
            errors += 1
            continue
        results.append(result)
        warnings = [*result.meta["warnings"], *_refused(result)]
        if warnings:
            with saying():
                for warning in warnings:
                    complain(f"{layer.image.name} {layer.name}: warning: {warning}")
    return results, errors


def _refused(result: Described) -> list[str]:
    """Rows of a table that could not be used, in one line with the first reason."""
    refused = result.meta.get("refused", {"rows": 0})
    if not refused["rows"]:
        return []
    rows = "1 row" if refused["rows"] == 1 else f"{refused['rows']} rows"
    return [f"{rows} refused: {refused['reasons'][0]}" + (", ..." if refused["rows"] > 1 else "")]


def _built(services: Services, layer: Layer, *, force: bool) -> Catalog:
    pixels = services.layers.opened(layer).pixels
    status = services.layers.status(layer)
    if status.state == BUILDING and status.fraction != 1.0:  # a process that is done may take a while to end
        complain(f"{layer.image.name} {layer.name}: another process is building it, and is waited for")
    with progress(f"{layer.image.name} {layer.name}", pixels) as advance, compiled_code() as step:

        def advance_a_step(more: int, features: int) -> None:
            step()
            advance(more, features)

        return services.layers.build(layer, force=force, progress=advance_a_step)
