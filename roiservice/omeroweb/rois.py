"""OMERO's own ROIs of an image, as OMERO.web lists and counts them for one session.

Counts are remembered per session and list, so that a page that lies behind OMERO's ROIs asks nothing. Where
OMERO.web fails, that is remembered too, for a shorter time: the viewer goes on from page to page, and each
must not wait as long as the first.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlencode

import numpy as np
import orjson
from numpy.typing import NDArray

from roiservice.errors import OmeroWebFailed, SharedStoreFailed
from roiservice.records import dataclass

if TYPE_CHECKING:
    from roiservice.omeroweb.client import OmeroWeb

COUNT_KEPT = 60  # seconds
# The same where there is none: a page asks for no ROI then, and so would not show the first one for so long.
NONE_KEPT = 10
FAILURE_KEPT = 5.0
MOST_FAILURES = 10_000
MOST_PLANES = 1_000_000
PLANES_KEPT = 10_000
MOST_PAGES = 100  # of OMERO's that make up one of ours
_LARGEST_OFFSET = 2**31 - 1
_COUNT = re.compile(rb"[0-9]{1,18}")
Span = tuple[int, int]
Answered = TypeVar("Answered")
# No text in JSON holds this: there, the quotation marks have backslashes before them.
_ROI_COUNT = re.compile(rb'("roi_count"\s*:\s*)([0-9]{1,18})(?=\s*[,}])')


@dataclass(frozen=True)
class RoiList:
    """One list of OMERO's ROIs: all of an image, or those on the planes `z` and `t`, ends included.

    `filters` are what else OMERO's JSON API may be asked of all of an image, such as ("owner", 4).
    """

    image_id: int
    z: Span | None = None
    t: Span | None = None
    filters: tuple[tuple[str, int], ...] = ()

    def at(self, offset: int, limit: int) -> tuple[str, str]:
        """Path and query of a page."""
        page = f"limit={limit}&offset={offset}"
        if self.z is None or self.t is None:
            return "/api/v0/m/rois/", urlencode((("image", self.image_id), *self.filters)) + f"&{page}"
        z, t = ("-".join(map(str, sorted(set(span)))) for span in (self.z, self.t))
        return f"/iviewer/rois_by_plane/{self.image_id}/{z}/{t}/", page


@dataclass(frozen=True)
class RoiSlice:
    """Some ROIs of a list, each as JSON, and how many the whole list has."""

    rois: tuple[bytes, ...]
    total: int


class Counts(Protocol):
    """What all processes of the service remember together. Both methods raise SharedStoreFailed."""

    def get(self, key: str) -> bytes | None:
        """The value of the key; None if there is none."""

    def put(self, key: str, value: bytes, ttl: int) -> None:
        """Keep a value for `ttl` seconds."""


class OmeroRois:
    """OMERO's lists of ROIs, through OMERO.web. Safe to use from several threads.

    `counts` is shared between processes: the pages of a list come from any of them and must agree.
    """

    def __init__(self, web: OmeroWeb, counts: Counts, clock: Callable[[], float] = time.monotonic) -> None:
        self._web = web
        self._counts = counts
        self._clock = clock
        self._failures: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def slice(self, wanted: RoiList, session: str | None, offset: int, limit: int) -> RoiSlice:
        """ROIs `offset` to `offset + limit` of OMERO's list; behind its end, mostly without asking.

        Raises OmeroWebFailed. OMERO.web may give fewer ROIs at once than asked for; it is then asked again.
        An image that OMERO does not know has none.
        """
        key = self._name("rois", wanted, session)
        known = self._recalled(key)
        if known is not None and (limit == 0 or offset >= known):
            return RoiSlice((), known)
        found = self._tried(key, lambda: self._ask(wanted, session, offset, limit))
        self._remember_count(key, found.total)
        return found

    def known_count(self, wanted: RoiList, session: str | None) -> int | None:
        """How many ROIs the list has, as far as that is remembered; None if it is not. This asks nobody."""
        return self._recalled(self._name("rois", wanted, session))

    def count(self, wanted: RoiList, session: str | None) -> int:
        """How many ROIs the list has. Raises OmeroWebFailed."""
        return self.slice(wanted, session, 0, 0).total

    def learn(self, image_id: int, session: str | None, total: int) -> None:
        """What OMERO.web has just said elsewhere of the number of ROIs of an image."""
        self._remember_count(_key("rois", RoiList(image_id), session), total)

    def shape_counts(self, image_id: int, session: str | None) -> NDArray[np.int64]:
        """OMERO's shapes on each plane, (z, t). Raises OmeroWebFailed."""
        key = self._name("planes", RoiList(image_id), session)
        known = self._recall(key)
        if known is not None:
            with suppress(ValueError, OmeroWebFailed):  # something else lies in the store
                return _table(orjson.loads(known))
        rows = self._tried(key, lambda: self._ask_planes(image_id, session))
        counts = _table(rows)
        if counts.size <= PLANES_KEPT:
            self._remember(key, orjson.dumps(rows))
        return counts

    def _ask_planes(self, image_id: int, session: str | None) -> Any:
        answer = self._web.get(f"/iviewer/plane_shape_counts/{image_id}/", session=session)
        return [[0]] if answer.says_none else _member(answer.json(), "data")

    def _ask(self, wanted: RoiList, session: str | None, offset: int, limit: int) -> RoiSlice:
        rois: list[bytes] = []
        until = self._web.deadline()
        for _ in range(MOST_PAGES):
            # A page of one, where none is asked for: what a limit of 0 means differs between the paths.
            first, number = min(offset + len(rois), _LARGEST_OFFSET), max(limit - len(rois), 1)
            answer = self._web.get(*wanted.at(first, number), session, until)
            if answer.says_none:
                return RoiSlice((), 0)
            data, total = _page(answer.json())
            left = min(limit, total - offset) - len(rois)
            rois += (_dumped(roi) for roi in data[: max(left, 0)])
            if left <= len(data):
                return RoiSlice(tuple(rois), total)
            if not data:
                raise OmeroWebFailed("OMERO.web gives fewer ROIs than it counts")
        raise OmeroWebFailed("OMERO.web gives its ROIs in too small portions")

    def _tried(self, key: str, ask: Callable[[], Answered]) -> Answered:
        """What `ask` gives; why it failed is remembered, and not found out again for a while."""
        with self._lock:
            reason, until = self._failures.get(key, ("", 0.0))
        if self._clock() < until:
            raise OmeroWebFailed(reason)
        try:
            return ask()
        except OmeroWebFailed as error:
            with self._lock:
                self._failures[key] = str(error), self._clock() + FAILURE_KEPT
                self._failures.move_to_end(key)
                while len(self._failures) > MOST_FAILURES:
                    self._failures.popitem(last=False)
            raise

    def _name(self, kind: str, wanted: RoiList, session: str | None) -> str:
        """What is remembered of a list goes by this name.

        It holds the number of all ROIs of the image, so that lists by plane are asked for anew once that
        changes, as it does when a user saves one and opens the image again.
        """
        whole = RoiList(wanted.image_id)
        if kind == "rois" and wanted == whole:
            return _key(kind, wanted, session)
        return _key(f"{kind}:{self._recalled(_key('rois', whole, session))}", wanted, session)

    def _recalled(self, key: str) -> int | None:
        known = self._recall(key)
        return int(known) if known is not None and _COUNT.fullmatch(known) else None

    def _remember_count(self, key: str, count: int) -> None:
        self._remember(key, str(count).encode(), COUNT_KEPT if count else NONE_KEPT)

    def _recall(self, key: str) -> bytes | None:
        try:
            return self._counts.get(key)
        except SharedStoreFailed:
            return None

    def _remember(self, key: str, value: bytes, seconds: int = COUNT_KEPT) -> None:
        with suppress(SharedStoreFailed):
            self._counts.put(key, value, seconds)


def roi_count_of(body: bytes) -> int | None:
    """What OMERO.web's description of an image says of the number of its ROIs; None if it says nothing."""
    found = _ROI_COUNT.findall(body)
    return int(found[0][1]) if len(found) == 1 else None


def with_roi_count(body: bytes, ours: int) -> bytes:
    """OMERO.web's description of an image with our ROIs added to its `roi_count`, every other byte as it was.

    Where it states no such count, or several, it stays as it is.
    """
    if roi_count_of(body) is None:
        return body
    return _ROI_COUNT.sub(lambda match: match[1] + str(int(match[2]) + ours).encode(), body)


def _page(document: Any) -> tuple[list[Any], int]:
    """ROIs of a page, and how many there are in all."""
    data, total = _member(document, "data"), _member(_member(document, "meta"), "totalCount")
    if not isinstance(data, list) or not all(isinstance(roi, dict) for roi in data):
        raise OmeroWebFailed("OMERO.web's list of ROIs is not as its API promises")
    if type(total) is not int or total < 0:
        raise OmeroWebFailed("OMERO.web does not say how many ROIs there are")
    return data, total


def _dumped(roi: Any) -> bytes:
    try:
        return orjson.dumps(roi)
    except (TypeError, ValueError):  # half of a pair of characters, which JSON can spell
        return json.dumps(roi, separators=(",", ":")).encode()


def _table(rows: Any) -> NDArray[np.int64]:
    """Counts of shapes, a list over t for each z, as (z, t)."""
    planes = [count for row in rows for count in row] if _is_table(rows) else []
    if not planes or any(type(count) is not int or not 0 <= count < 2**31 for count in planes):
        raise OmeroWebFailed("OMERO.web's counts of shapes are no table of planes")
    return np.array(planes, np.int64).reshape(len(rows), -1)


def _is_table(rows: Any) -> bool:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        return False
    return len({len(row) for row in rows}) == 1 and len(rows) * len(rows[0]) <= MOST_PLANES


def _member(document: Any, name: str) -> Any:
    if not isinstance(document, dict) or name not in document:
        raise OmeroWebFailed(f"OMERO.web's answer has no {name}")
    return document[name]


def _key(kind: str, wanted: RoiList, session: str | None) -> str:
    """A name of the list that does not hold the session itself."""
    return f"{kind}:{hashlib.blake2b(repr((wanted, session)).encode(), digest_size=16).hexdigest()}"
