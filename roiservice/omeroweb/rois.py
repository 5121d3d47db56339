"""OMERO's own ROIs of an image, as OMERO.web lists and counts them for one session.

Counts are remembered per session and list, so that a page that lies behind OMERO's ROIs asks nothing. Where
OMERO.web fails, that is remembered too, for a shorter time: the viewer goes on from page to page, and each
must not wait as long as the first.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from roiservice.errors import OmeroWebFailed
from roiservice.omeroweb.client import OmeroWeb

COUNT_KEPT = 60.0  # seconds
FAILURE_KEPT = 5.0
MOST_COUNTS = 10_000
MOST_PLANES = 1_000_000
MOST_PAGES = 20  # of OMERO's that make up one of ours
_LARGEST_OFFSET = 2**31 - 1
Span = tuple[int, int]
# No text in JSON holds this: there, the quotation marks have backslashes before them.
_ROI_COUNT = re.compile(rb'("roi_count"\s*:\s*)([0-9]{1,18})(?=\s*[,}])')


@dataclass(frozen=True)
class RoiList:
    """One list of OMERO's ROIs: all of an image, or those on the planes `z` and `t`, ends included."""

    image_id: int
    z: Span | None = None
    t: Span | None = None

    def at(self, offset: int, limit: int) -> tuple[str, str]:
        """Path and query of a page."""
        page = f"limit={limit}&offset={offset}"
        if self.z is None or self.t is None:
            return "/api/v0/m/rois/", f"image={self.image_id}&{page}"
        z, t = ("-".join(map(str, sorted(set(span)))) for span in (self.z, self.t))
        return f"/iviewer/rois_by_plane/{self.image_id}/{z}/{t}/", page


@dataclass(frozen=True)
class RoiSlice:
    """Some ROIs of a list, each as JSON, and how many the whole list has."""

    rois: tuple[bytes, ...]
    total: int


@dataclass(frozen=True)
class _Known:
    """What a list had when last asked: `total`, or why that could not be found out; until `until`."""

    total: int
    failure: str | None
    until: float


class OmeroRois:
    """OMERO's lists of ROIs, through OMERO.web. Safe to use from several threads."""

    def __init__(self, web: OmeroWeb, clock: Callable[[], float] = time.monotonic) -> None:
        self._web = web
        self._clock = clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._lock = threading.Lock()

    def slice(self, wanted: RoiList, session: str | None, offset: int, limit: int) -> RoiSlice:
        """ROIs `offset` to `offset + limit` of OMERO's list; behind its end, mostly without asking.

        Raises OmeroWebFailed. OMERO.web may give fewer ROIs at once than asked for; it is then asked again.
        An image that OMERO does not know has none.
        """
        key = _key(wanted, session)
        known = self._recall(key)
        if known is not None and known.failure is not None:
            raise OmeroWebFailed(known.failure)
        if known is not None and (limit == 0 or offset >= known.total):
            return RoiSlice((), known.total)
        try:
            found = self._ask(wanted, session, offset, limit)
        except OmeroWebFailed as error:
            self._remember(key, _Known(0, str(error), self._clock() + FAILURE_KEPT))
            raise
        self._remember(key, _Known(found.total, None, self._clock() + COUNT_KEPT))
        return found

    def count(self, wanted: RoiList, session: str | None) -> int:
        """How many ROIs the list has. Raises OmeroWebFailed."""
        return self.slice(wanted, session, 0, 0).total

    def shape_counts(self, image_id: int, session: str | None) -> NDArray[np.int64]:
        """OMERO's shapes on each plane, (z, t). Raises OmeroWebFailed."""
        answer = self._web.get(f"/iviewer/plane_shape_counts/{image_id}/", session=session)
        if answer.says_none:
            return np.zeros((1, 1), np.int64)
        rows = _member(answer.json(), "data")
        try:
            counts = np.array(rows, np.int64)
        except (ValueError, TypeError, OverflowError):
            counts = np.empty(0, np.int64)
        if counts.ndim != 2 or counts.size > MOST_PLANES:
            raise OmeroWebFailed("OMERO.web's counts of shapes are no table of planes")
        return counts

    def _ask(self, wanted: RoiList, session: str | None, offset: int, limit: int) -> RoiSlice:
        rois: list[bytes] = []
        for _ in range(MOST_PAGES):
            # A page of one, where none is asked for: what a limit of 0 means differs between the paths.
            first, number = min(offset + len(rois), _LARGEST_OFFSET), max(limit - len(rois), 1)
            answer = self._web.get(*wanted.at(first, number), session)
            if answer.says_none:
                return RoiSlice((), 0)
            page = answer.json()
            data, total = _member(page, "data"), _member(_member(page, "meta"), "totalCount")
            if not isinstance(data, list) or type(total) is not int or total < 0:
                raise OmeroWebFailed("OMERO.web's list of ROIs is not as its API promises")
            rois += (orjson.dumps(roi) for roi in data[: limit - len(rois)])
            if not data or len(rois) >= min(limit, total - offset):
                return RoiSlice(tuple(rois), total)
        raise OmeroWebFailed("OMERO.web gives its ROIs in too small portions")

    def _recall(self, key: bytes) -> _Known | None:
        with self._lock:
            known = self._known.get(key)
        return known if known is not None and self._clock() < known.until else None

    def _remember(self, key: bytes, known: _Known) -> None:
        with self._lock:
            self._known[key] = known
            self._known.move_to_end(key)
            while len(self._known) > MOST_COUNTS:
                self._known.popitem(last=False)


def with_roi_count(body: bytes, ours: int) -> bytes:
    """OMERO.web's description of an image with our ROIs added to its `roi_count`, every other byte as it was.

    Where it states no such count, or several, it stays as it is.
    """
    found = _ROI_COUNT.findall(body)
    if len(found) != 1:
        return body
    return _ROI_COUNT.sub(lambda match: match[1] + str(int(match[2]) + ours).encode(), body)


def _member(document: Any, name: str) -> Any:
    if not isinstance(document, dict) or name not in document:
        raise OmeroWebFailed(f"OMERO.web's answer has no {name}")
    return document[name]


def _key(wanted: RoiList, session: str | None) -> bytes:
    """A name of the list that does not hold the session itself."""
    return hashlib.blake2b(repr((wanted, session)).encode(), digest_size=16).digest()
