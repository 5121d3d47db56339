"""OMERO's own ROIs in front of ours, and OMERO.web's answers for what is not known here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec
from urllib.parse import urlencode

import numpy as np
from flask import Response, request
from numpy.typing import NDArray

from roiservice.catalog.registry import FIRST_IMAGE
from roiservice.errors import NotFound, OmeroWebFailed
from roiservice.omeroweb.rois import OmeroRois, RoiList, RoiSlice
from roiservice.records import dataclass
from roiservice.web.access import caller_session, identity
from roiservice.web.compress import gzip_whole
from roiservice.web.links import origin
from roiservice.web.negotiate import accepts_gzip
from roiservice.web.params import Paging
from roiservice.web.responses import WORTH_COMPRESSING
from roiservice.web.routes import services

if TYPE_CHECKING:
    from roiservice.omeroweb.client import Answer, OmeroWeb

# What OMERO.web's ROI calls understand. Others are not passed on: `bsession`, `username` and `password` would
# log somebody in.
_PASSED_ON = ("image", "owner", "group", "normalize", "limit", "offset", "ids", "z", "t", "cs")
# Of shapes of OMERO's, of 16 digits at most: gunicorn, which OMERO.web runs in, takes lines of 4094 bytes.
_IDS_AT_ONCE = 200
Arguments = ParamSpec("Arguments")


@dataclass(frozen=True)
class OmerosPart:
    """What OMERO has of a list: some ROIs, the number of all, and why it could not be asked, if so."""

    rois: tuple[bytes, ...] = ()
    total: int = 0
    failure: str | None = None

    @property
    def missing(self) -> tuple[tuple[str, str], ...]:
        """As `Available.missing`."""
        return () if self.failure is None else (("OMERO", self.failure),)

    def rest(self, paging: Paging) -> Paging:
        """The part of a page that is ours: OMERO's ROIs come first in the list of both."""
        last = max(paging.offset + paging.limit - self.total, 0)
        first = max(paging.offset - self.total, 0)
        return replace(paging, offset=first, limit=last - first)


def refuse_own_requests() -> None:
    """OmeroWebFailed for what the service itself asked OMERO.web: the setting names a proxy that leads here.

    The proxy then does as if the service were down, and asks OMERO.web.
    """
    web = services().omero_web
    if web is not None and web.name in request.headers.get("Via", ""):
        raise OmeroWebFailed("ROISERVICE_OMERO_WEB_URL leads back to the service")


def omeros_rois(wanted: RoiList, paging: Paging) -> OmerosPart:
    """OMERO's ROIs of a page. This never fails: without OMERO.web's answer the list is ours alone.

    A page that ends behind OMERO's ROIs still has its place in the list of both, if their number is known:
    pages behind it and places in the list are told by that number as well.
    """
    offset, limit = paging.offset, paging.limit
    part = _asked(wanted.image_id, lambda omero: omero.slice(wanted, caller_session(), offset, limit))
    omero = services().omero_rois
    if part.failure is not None and omero is not None:
        known = omero.known_count(wanted, caller_session())
        if known is not None and known < offset + limit:
            part = replace(part, total=known)
    return replace(part, rois=tuple(map(_with_links_of_here, part.rois)))


def omeros_count(wanted: RoiList) -> OmerosPart:
    """How many ROIs OMERO has in a list. This never fails."""
    return _asked(wanted.image_id, lambda omero: RoiSlice((), omero.count(wanted, caller_session())))


def omeros_shape_counts(image_id: int) -> tuple[NDArray[np.int64], tuple[tuple[str, str], ...]]:
    """OMERO's shapes on each plane, (z, t), and as `Available.missing` why they are not known, if so."""
    omero = services().omero_rois
    if omero is not None and image_id < FIRST_IMAGE:
        try:
            return omero.shape_counts(image_id, caller_session()), ()
        except OmeroWebFailed as error:
            return np.zeros((1, 1), np.int64), OmerosPart(failure=str(error)).missing
    return np.zeros((1, 1), np.int64), ()


def omeros_stats(ids: Sequence[int]) -> dict[str, Any]:
    """OMERO's statistics of its own shapes, for the planes and channels of this request.

    Raises OmeroWebFailed; of what OMERO.web says itself to be wrong, its words.
    """
    web = services().omero_web
    if web is None:
        raise OmeroWebFailed("there is no OMERO.web to ask")
    asked = {name: request.args[name] for name in ("z", "t", "cs") if name in request.args}
    found: dict[str, Any] = {}
    with web.patience() as until:
        for first in range(0, len(ids), _IDS_AT_ONCE):
            some = ",".join(map(str, ids[first : first + _IDS_AT_ONCE]))
            query = urlencode({"ids": some, **asked}, safe=",")
            document = web.get("/iviewer/shape_stats/", query, caller_session(), until).json()
            if not isinstance(document, dict) or "error" in document:
                raise OmeroWebFailed("OMERO.web cannot measure its own shapes")
            found |= document
    return found


def omeros_drawings(image_id: int) -> tuple[list[Any], tuple[tuple[str, str], ...]]:
    """OMERO's ROIs for SVG, and as `Available.missing` why they are not known, if so."""
    web = services().omero_web
    if web is None or image_id >= FIRST_IMAGE:
        return [], ()
    try:
        answer = web.get(f"/webgateway/get_rois_json/{image_id}", session=caller_session())
        drawings = [] if answer.says_none else answer.json()
        if not isinstance(drawings, list):
            raise OmeroWebFailed("OMERO.web's list of ROIs is not as its API promises")
    except OmeroWebFailed as error:
        return [], OmerosPart(failure=str(error)).missing
    return drawings, ()


def or_omero_web(route: Callable[Arguments, Response]) -> Callable[Arguments, Response]:
    """A route that leaves to OMERO.web, if the settings name one, what is not known here.

    A bad token is refused whatever is asked for: the cookie beside it does not count instead.
    """

    @wraps(route)
    def answered(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Response:
        identity()
        try:
            return route(*args, **kwargs)
        except NotFound:
            web = services().omero_web
            ours = any(isinstance(value, int) and value >= FIRST_IMAGE for value in kwargs.values())
            if web is None or ours or not services().settings.pass_unknown:
                raise
            return as_it_is(ask_omero_web(web))

    return answered


def ask_omero_web(web: OmeroWeb) -> Answer:
    """OMERO.web's answer to this very request. Raises OmeroWebFailed."""
    passed = [(name, value) for name, value in request.args.items(multi=True) if name in _PASSED_ON]
    with web.patience() as until:
        return web.get(request.path, urlencode(passed), caller_session(), until)


def as_it_is(answer: Answer) -> Response:
    """An answer of OMERO.web, its body untouched; it is for this caller alone, as all answers here."""
    kept = [each for each in answer.headers if not each[0].lower().startswith("access-control-")]
    response = Response(answer.body, status=answer.status, headers=kept)
    response.headers["Cache-Control"] = "private, no-cache"
    response.vary.update(("Accept", "Accept-Encoding", "Authorization", "Cookie", "Origin"))
    if len(answer.body) >= WORTH_COMPRESSING and accepts_gzip(request.headers.get("Accept-Encoding", "")):
        response.set_data(gzip_whole(answer.body))
        response.headers["Content-Encoding"] = "gzip"
    return response


def _with_links_of_here(roi: bytes) -> bytes:
    """A ROI of OMERO's whose links lead to where the caller asked, not to where we find OMERO.web."""
    web = services().omero_web
    return roi if web is None else roi.replace(b'"%b/' % web.origin.encode(), b'"%b/' % origin().encode())


def _asked(image_id: int, ask: Callable[[OmeroRois], RoiSlice]) -> OmerosPart:
    omero = services().omero_rois
    if omero is None or image_id >= FIRST_IMAGE:  # a number that was made up here is none of OMERO's
        return OmerosPart()
    try:
        found = ask(omero)
    except OmeroWebFailed as error:
        return OmerosPart(failure=str(error))
    return OmerosPart(found.rois, found.total)
