"""Images that only OMERO knows: where their pixels and label images lie, as registered there.

An Image has its place as `externalInfo`; omero-import-zarr writes it, and so does `omero obj ext-info-set`.
`omero label register` (omero-label 0.1) makes a ROI with one Mask of the image's size whose `externalInfo`
names a label image. Both are read through OMERO.web's JSON API (omero-web 5.33 with omero-py 5.22 or newer;
older ones leave them out), in the name of the session that asks.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, TypeVar

from roiservice.errors import OmeroWebFailed, SourceError, SourceRefused, renewed
from roiservice.omeroweb.client import OmeroWeb
from roiservice.omeroweb.places import Roots, member
from roiservice.records import dataclass
from roiservice.sources.elsewhere import label_place
from roiservice.sources.images import ImageSource, only_image, store_name
from roiservice.sources.limits import Limits
from roiservice.sources.tables.files import is_table_alone

_log = logging.getLogger(__name__)

KEPT = 60.0  # seconds for which an answer of OMERO.web holds for the session that it was given to
MISSING_KEPT = 10.0  # the same of an image that OMERO.web does not give it
MOST_KEPT = 10_000
ROIS_AT_ONCE = 200
MOST_ROIS = 2_000  # of an image that are searched for label images
MOST_LABELS = 100
_LONGEST_NAME = 255
_K = TypeVar("_K")
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Registered:
    """What OMERO says of an image: its name, its place and those of label images, all below the roots."""

    name: str
    location: str | None
    labels: tuple[str, ...]


@dataclass(frozen=True)
class _Kept(Generic[_T]):
    value: _T
    until: float


class OmeroImages:
    """The images that OMERO knows the place of. Safe to use from several threads.

    What is found is for the session that asked alone, and for a minute: then OMERO.web is asked again whether
    this session may read the image.
    """

    def __init__(
        self, web: OmeroWeb, roots: Roots, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._web = web
        self._roots = roots
        self._limits = limits
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._answers: OrderedDict[tuple[bytes, int], _Kept[_Registered | None]] = OrderedDict()
        self._sources: OrderedDict[_Registered, _Kept[ImageSource | SourceError]] = OrderedDict()
        self._lock = threading.Lock()
        self._asking = [threading.Lock() for _ in range(64)]

    def find(self, image_id: int, session: str | None) -> ImageSource | None:
        """Where the image lies; None if OMERO does not give it to the session or knows no place below a root.

        Raises OmeroWebFailed, and SourceError if there is nothing usable at the place.
        """
        if not self._roots or not 1 <= image_id < 2**63:
            return None
        key = (self._digest(session), image_id)
        with self._asking[hash(key) % len(self._asking)]:
            known = self._recall(self._answers, key)
            registered = self._ask(key, session) if known is None else known.value
            if registered is None or not (registered.location or registered.labels):
                return None
            opened = self._recall(self._sources, registered)
            source = self._open(registered) if opened is None else opened.value
        if isinstance(source, SourceError):
            raise renewed(source)
        return source

    def _digest(self, session: str | None) -> bytes:
        """A name of the session that does not tell it."""
        text = "" if session is None else f"={session}"
        return hmac.digest(self._secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256)

    def _ask(self, key: tuple[bytes, int], session: str | None) -> _Registered | None:
        image_id = key[1]
        answer = self._web.get(f"/api/v0/m/images/{image_id}/", session=session)
        if answer.status == 403:  # no session yet, or no longer: that may change at any time
            return None
        if answer.status == 404:
            self._remember(self._answers, key, None, MISSING_KEPT)
            return None
        image = member(answer.json(), "data")
        if type(member(image, "@id")) is not int or image["@id"] != image_id:
            raise OmeroWebFailed("OMERO.web describes another image than the one asked for")
        info = member(image, "omero:details", "externalInfo")
        location = self._roots.place(info)
        if location is None and member(info, "Lsid") is not None:
            _log.info("image %d: the place that OMERO names does not lie below ROISERVICE_ROOTS", image_id)
        kept = KEPT
        try:
            labels = self._labels(image_id, session)
        except OmeroWebFailed:
            if location is None:
                raise
            # An image with very many ROIs of its own: its label images are looked for again soon.
            labels, kept = (), MISSING_KEPT
        name = member(image, "Name")
        shown = name[:_LONGEST_NAME] if isinstance(name, str) and name.isprintable() else ""
        registered = _Registered(shown, location, labels)
        self._remember(self._answers, key, registered, kept)
        return registered

    def _labels(self, image_id: int, session: str | None) -> tuple[str, ...]:
        """Places of label images that Masks of the image name, in the order of its ROIs."""
        found: dict[str, None] = {}
        offset, total, until = 0, 1, self._web.deadline()
        while offset < min(total, MOST_ROIS) and len(found) < MOST_LABELS:
            query = f"image={image_id}&limit={ROIS_AT_ONCE}&offset={offset}"
            page = self._web.get("/api/v0/m/rois/", query, session, until).json()
            rois, total = member(page, "data"), member(page, "meta", "totalCount")
            if not isinstance(rois, list) or type(total) is not int:
                raise OmeroWebFailed("OMERO.web's list of ROIs is not as its API promises")
            if not rois:
                break
            places = (self._roots.place(info) for roi in rois for info in _mask_infos(roi))
            found.update((place, None) for place in places if place is not None)
            offset += len(rois)
        return tuple(found)[:MOST_LABELS]

    def _open(self, registered: _Registered) -> ImageSource | SourceError:
        source: ImageSource | SourceError
        try:
            source = self._opened(registered)
        except SourceError as error:
            source = error
        kept = MISSING_KEPT if isinstance(source, SourceError) else KEPT
        self._remember(self._sources, registered, source, kept)
        return source

    def _opened(self, registered: _Registered) -> ImageSource:
        """The image with its label images; without a place, the image that the first of these is in."""
        allow = self._roots.allow
        labels = tuple(label_place(place, self._limits, allow) for place in registered.labels)
        if registered.location is not None:
            if is_table_alone(registered.location):
                raise SourceRefused(registered.location, "", "is no OME-Zarr image")
            source = only_image(registered.location, self._limits)
        else:
            store, path = labels[0]
            alone = ImageSource(store, "", store_name(store), None)
            source = only_image(store, self._limits) if path else alone
        return replace(source, name=registered.name or source.name, labels=labels)

    def _recall(self, kept: OrderedDict[_K, _Kept[_T]], key: _K) -> _Kept[_T] | None:
        with self._lock:
            known = kept.get(key)
        return known if known is not None and self._clock() < known.until else None

    def _remember(self, kept: OrderedDict[_K, _Kept[_T]], key: _K, value: _T, seconds: float) -> None:
        with self._lock:
            kept[key] = _Kept(value, self._clock() + seconds)
            kept.move_to_end(key)
            while len(kept) > MOST_KEPT:
                kept.popitem(last=False)


def _mask_infos(roi: Any) -> list[Any]:
    """`externalInfo` of the Masks of a ROI, as JSON."""
    shapes = member(roi, "shapes")
    return [
        member(shape, "omero:details", "externalInfo")
        for shape in (shapes if isinstance(shapes, list) else [])
        if str(member(shape, "@type")).endswith("#Mask")
    ]
