"""Who asks, and for which image: every route gets its image here, before a cache or a store is touched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit

from flask import g, request

from roiservice.auth.policy import Caller, Identity, PublicPolicy, Trust, may_read
from roiservice.catalog.registry import Place
from roiservice.errors import (
    BadParameter,
    ForeignOrigin,
    InsufficientScope,
    NotFound,
    SettingsError,
    SourceError,
)
from roiservice.images import Image
from roiservice.layers import Layer
from roiservice.web.routes import services

_SESSION = re.compile(r"[A-Za-z0-9._~:+/=-]{1,512}", re.ASCII)
_CHECKED_AT_ONCE = 4  # OMERO.web has few workers
MOST_CHECKED = 500  # images in one request for a list of them
NOBODYS_IMAGE = 2**53 - 1  # OMERO never gets so far


def caller_session() -> str | None:
    """The caller's session of OMERO.web; None without one, and where no OMERO.web is named.

    Two that differ, and characters that no session has, are never sent on: they are no session where
    everything is public, else a BadParameter.
    """
    if services().omero_web is None:
        return None
    name = services().settings.omero_web_cookie
    given = {value for value in request.cookies.getlist(name) if value}
    if len(given) == 1 and all(map(_SESSION.fullmatch, given)):
        return given.pop()
    if given and not isinstance(services().policy, PublicPolicy):
        raise BadParameter("Cookie", f"{name} is given more than once, or holds what no session does")
    return None


def identity() -> Identity:
    """Who sent this request; found out once. Raises what `Policy.identify` does."""
    if "identity" not in g:
        g.identity = services().policy.identify(
            request.headers.get("Authorization"),
            request.args.getlist("ticket"),
            caller_session(),
            request.method,
            request.path,
        )
    known: Identity = g.identity
    return known


def ticket() -> str | None:
    """The ticket that the caller came with, which links of the answer must hold as well."""
    return request.args["ticket"] if identity().caller is Caller.TICKET else None


def readable(image_id: int) -> Image:
    """The image, if the caller may read it.

    NotFound if there is none or the caller may not read it, in the same words; else as `Policy.require`.
    """
    service = services()
    who = identity()
    service.policy.require(who, image_id)
    return service.images.get(image_id, who.session or caller_session())


def check_same_host() -> None:
    """ForeignOrigin for a cookie that does not come with JSON from a page of this very host.

    For requests that change something: browsers send cookies whatever page has them ask.
    """
    if identity().caller is Caller.SESSION and not (request.is_json and _same_host()):
        raise ForeignOrigin


def _same_host() -> bool:
    """Whether a browser says that the request comes from this host; behind a proxy the scheme may differ."""
    origin = request.headers.get("Origin")
    if origin is not None:
        return urlsplit(origin).netloc.lower() == request.host.lower() != ""
    return request.headers.get("Sec-Fetch-Site") == "same-origin"


def located(kind: str, identifier: int) -> Place:
    """Where a ROI or shape is by its id, from the registry alone, if the caller may read its image.

    NotFound, in the same words, for ids that were never given or are of the other kind, and for those of
    images that the caller may not read; else as `Policy.require`. Ids that were never given are asked about
    as if they were of an image that nobody has, and refusals are neither used nor remembered: no answer, and
    no time that it takes, tells them from others, or which of them are of one image.
    """
    unknown = NotFound(f"there is no {kind} {identifier}")
    who, place = identity(), services().registry.locate(identifier)
    known = place is not None and (place.version is None) == (kind == "roi")
    try:
        image_id = place.image_id if known and place else NOBODYS_IMAGE
        services().policy.require(who, image_id, Trust.ALLOWED)
    except (NotFound, InsufficientScope):
        raise unknown from None
    if place is None or not known:
        raise unknown
    with suppress(SourceError, SettingsError):  # is for the route to say
        try:
            readable(place.image_id)
        except NotFound:
            raise unknown from None
    return place


def layer_of(kind: str, identifier: int) -> tuple[Layer, Place]:
    """Layer and place of a ROI or shape by its id; NotFound as `located` says, whatever is missing."""
    place = located(kind, identifier)
    try:
        return services().layers.named(readable(place.image_id), place.collection), place
    except NotFound:
        raise NotFound(f"there is no {kind} {identifier}") from None


def listed_at_once(most: int) -> int:
    """Images of a list that a request may look at: `most`, or fewer where each may have to be asked about."""
    return most if isinstance(services().policy, PublicPolicy) else min(most, MOST_CHECKED)


def readable_among(numbers: Sequence[int]) -> Iterator[int]:
    """Those of the images that the caller may read, in the same order; a few are looked at at once.

    Raises what `Policy.require` does of who is asking, also where there are no images: nobody learns from a
    page beyond the end how many there are.
    """
    policy, who = services().policy, identity()
    if isinstance(policy, PublicPolicy):
        yield from numbers
        return
    numbers = numbers or [NOBODYS_IMAGE]
    with ThreadPoolExecutor(_CHECKED_AT_ONCE) as checkers:
        for first in range(0, len(numbers), _CHECKED_AT_ONCE):
            some = numbers[first : first + _CHECKED_AT_ONCE]
            allowed = checkers.map(partial(may_read, policy, who), some)
            yield from (number for number, may in zip(some, allowed, strict=True) if may)
