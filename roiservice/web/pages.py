"""Encoded pages: from the cache, else made once and kept."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import field, replace
from itertools import chain
from typing import TypeVar

import numpy as np
from flask import Response

from roiservice.cache import Page, PageCache
from roiservice.catalog.reader import Catalog
from roiservice.encode.formats import ENCODER_VERSION, Format
from roiservice.errors import (
    BadParameter,
    Busy,
    NotWritten,
    RegistryFailed,
    RoiServiceError,
    SettingsError,
    SourceError,
)
from roiservice.query.batches import page_batches
from roiservice.query.columns import read_features
from roiservice.query.detail import FULL, Detail, read_detailed
from roiservice.query.pages import feature_page, largest_features, roi_count, roi_page
from roiservice.query.select import RoiQuery
from roiservice.query.subsets import Rows
from roiservice.records import dataclass
from roiservice.web.access import readable
from roiservice.web.compress import pack
from roiservice.web.problems import reason_of
from roiservice.web.responses import digest
from roiservice.web.routes import services

Chunk = TypeVar("Chunk")

STREAM_BATCH = 1000  # features that are in memory at once while a whole layer is streamed
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lane:
    """Where pages are made, as many at once as `turn` lets through; no lane waits for another.

    Requests that find all `places` taken are refused, so that some threads are left to others; None: none is.
    Before that a few wait for so many seconds.
    """

    turn: AbstractContextManager[object]
    places: threading.BoundedSemaphore | None = None
    patience: float = 0.0
    waiting: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(4))
    making: tuple[threading.Lock, ...] = field(
        default_factory=lambda: tuple(threading.Lock() for _ in range(64))
    )

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place while a page is waited for and made; Busy if there is none."""
        if self.places is None:
            yield
        elif self.places.acquire(blocking=False) or self._waited(self.places):
            try:
                yield
            finally:
                self.places.release()
        else:
            raise Busy("too many requests like this one wait already; try again in a second")

    def _waited(self, places: threading.BoundedSemaphore) -> bool:
        """Whether one came free while there was patience."""
        if not self.waiting.acquire(blocking=False):
            return False
        try:
            return places.acquire(timeout=self.patience)
        finally:
            self.waiting.release()


# As many at once as there are processors: more would take more memory, and no less time.
AT_ONCE = max(os.cpu_count() or 1, 2)
PAGES = Lane(threading.BoundedSemaphore(AT_ONCE))
LARGEST = Lane(threading.BoundedSemaphore(AT_ONCE))  # of the largest features, found among all of a layer
# Each holds a thread until it is sent, however slow its client; of 32, `density` and `summary` may hold 16.
STREAMS = Lane(threading.BoundedSemaphore(AT_ONCE), threading.BoundedSemaphore(8))
OMERO_STREAMS = replace(STREAMS, patience=5.0)  # for clients that do not ask again


def cached(cache: PageCache, key: str, make: Callable[[], Page], lane: Lane = PAGES) -> Page:
    """The page of that key; of several requests that miss it at once, one makes it and the others wait.

    What takes long has a lane of its own, so that pages need not wait for it; Busy where that is full.
    """
    page = cache.get(key)
    if page is not None:
        return page
    with lane.place(), lane.making[hash(key) % len(lane.making)]:
        page = cache.get(key)
        if page is None:
            with lane.turn:
                page = make()
            cache.put(key, page)
    return page


@dataclass(frozen=True)
class PageRequest:
    """Which entries are wanted on a page, of whatever layers and format.

    ROIs that have more than `max_shapes` shapes together come with those on the planes asked for alone.
    """

    query: RoiQuery
    offset: int
    limit: int
    max_shapes: int


@dataclass(frozen=True)
class ItemsRequest(PageRequest):
    """The same of one layer; offset and limit count ROIs in formats that are by ROI, else features.

    With `largest` not the first are wanted but the largest features, of no more than `vertices` in all.
    """

    detail: Detail
    largest: bool
    vertices: int | None


def page_key(registry: str, versions: Sequence[int], form: Format, asked: PageRequest) -> str:
    """The name of a page's bytes: all that they depend on, and nothing about who asks.

    What is asked for is spelled with the names of its class and fields: no two kinds of pages share a key.
    """
    return digest(registry, versions, ENCODER_VERSION, form.name, asked)


def items_page(catalog: Catalog, form: Format, asked: ItemsRequest) -> Page:
    """One page of a layer."""
    query, limit = asked.query, asked.limit
    if form.by_roi:
        chosen = roi_page(catalog, query, asked.offset, limit, asked.max_shapes)
    elif asked.largest:
        chosen = largest_features(catalog, query, limit, asked.vertices)
    else:
        chosen = feature_page(catalog, query, asked.offset, limit)
    encoded = form.encode(read_detailed(catalog, chosen.rows, asked.detail))
    return pack(form.separator.join(encoded), chosen.matched, len(encoded))


def items_stream(
    catalog: Catalog, form: Format, query: RoiQuery, offset: int, detail: Detail = FULL
) -> Iterator[bytes]:
    """All features from `offset` on, a batch at a time; the first is made at once, and raises what it does.

    So that is an answer of its own, not the end of one that has begun.
    """
    batches = page_batches(catalog, query, offset, STREAM_BATCH)
    chunks = in_turn(chunk for rows in batches for chunk in _encoded(catalog, form, rows, detail))
    first = next(chunks, b"")
    return chain([first], chunks)


def streamed(make: Callable[[], Response], lane: Lane) -> Response:
    """The streamed answer that `make` gives; its place is held until it is sent, or its client has gone.

    Busy if there is none.
    """
    with ExitStack() as stack:
        stack.enter_context(lane.place())
        answer = make()
        answer.call_on_close(stack.pop_all().close)
    return answer


def in_turn(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """These parts of a streamed answer, each made when it is its turn: of all streams few are at once."""
    while True:
        with STREAMS.turn:
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


def _encoded(catalog: Catalog, form: Format, rows: Rows, detail: Detail) -> Iterator[bytes]:
    """The features of these rows; a piece at a time where they are too large to be simplified at once."""
    try:
        yield form.separator.join(form.encode(read_detailed(catalog, rows, detail))) + form.end
    except BadParameter:
        if len(rows) == 1:
            raise
        for some in np.array_split(rows, 2):
            yield from _encoded(catalog, form, some, detail)


def roi_list_page(catalogs: Sequence[Catalog], form: Format, asked: PageRequest) -> Page:
    """One page of the ROIs of several layers, one after the other; limit 0 counts only."""
    encoded: list[bytes] = []
    matched = 0
    for catalog in catalogs:
        wanted = asked.limit - len(encoded)
        if wanted > 0:
            before = max(asked.offset - matched, 0)
            chosen = roi_page(catalog, asked.query, before, wanted, asked.max_shapes)
            encoded += form.encode(read_features(catalog, chosen.rows))
            matched += chosen.matched
        else:
            matched += roi_count(catalog, asked.query)
    return pack(form.separator.join(encoded), matched, len(encoded))


@dataclass(frozen=True)
class Available:
    """The layers of an image that can be served now, in order of their numbers, and why the others cannot."""

    catalogs: tuple[Catalog, ...]
    missing: tuple[tuple[str, str], ...]
    size: tuple[int, int, int, int, int] = (1, 1, 1, 1, 1)  # t, c, z, y, x of the image, as its layers tell

    @property
    def versions(self) -> tuple[int, ...]:
        """The catalogs' versions, which say all about what they hold."""
        return tuple(catalog.version for catalog in self.catalogs)

    @property
    def planes(self) -> tuple[int, int]:
        """Numbers of z and t planes of the image."""
        sizes = [catalog.image_size for catalog in self.catalogs] or [self.size]
        return max(size[2] for size in sizes), max(size[0] for size in sizes)

    def but(self, missing: tuple[tuple[str, str], ...]) -> Available:
        """The same, with more that is missing."""
        return replace(self, missing=(*missing, *self.missing))

    @property
    def headers(self) -> dict[str, str]:
        """As `incomplete` says of what is missing."""
        return incomplete(self.missing)


def incomplete(missing: Sequence[tuple[str, str]]) -> dict[str, str]:
    """`X-Roiservice-Incomplete` with what is missing and the reasons, in ASCII; nothing if nothing is."""
    if not missing:
        return {}
    named = "; ".join(f"{_ascii(name, 100)} ({_ascii(reason, 200)})" for name, reason in missing)
    return {"X-Roiservice-Incomplete": named[:2000]}


def available(image_id: int) -> Available:
    """What can be served of an image, whatever the state of its store and layers, if the caller may read it.

    Fails only for images that are not there for the caller: NotFound, and what else `readable` says. The
    viewer shows "Loading Regions..." for ever after one error, so a layer that is being built or is
    damaged must not keep the sound ones from it.
    """
    catalogs: list[Catalog] = []
    missing: list[tuple[str, str]] = []
    layers = services().layers
    name = f"image {image_id}"
    try:
        image = readable(image_id)
        listing = layers.of(image)
    except (NotWritten, RegistryFailed, SourceError, SettingsError) as error:
        return Available((), ((name, reason_of(error)),))
    for layer in listing.layers:
        if layer.source.hidden:
            continue
        try:
            catalogs.append(layers.catalog(layer))
        except RoiServiceError as error:
            missing.append((layer.collection, reason_of(error)))
        except Exception:  # noqa: BLE001 - see above: one layer's failure must not be the others'
            _log.exception("layer %s of image %s", layer.collection, image.id)
            missing.append((layer.collection, "the service failed; its log says more"))
    missing += ((problem.part or name, reason_of(problem)) for problem in listing.problems)
    # Catalogs know it; to find it out without any takes a look into the store.
    size = None if catalogs else layers.image_size(listing)
    return Available(tuple(catalogs), tuple(missing), size or Available.size)


def _ascii(text: str, longest: int) -> str:
    """Printable ASCII, for a header: anything else is escaped."""
    escaped = text.encode("ascii", "backslashreplace").decode("ascii")
    return "".join(char if char.isprintable() else "?" for char in escaped)[:longest]
