"""Absolute links: they depend on host and prefix, so they are made per request and never cached."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import quote, urlencode

from flask import request
from werkzeug.exceptions import BadRequest

from roiservice.web.access import ticket
from roiservice.web.params import Pairs
from roiservice.web.responses import JSON

GEOJSON = "application/geo+json"
# OWSLib and GDAL look for exactly this type, with no blank and no other version.
OPENAPI = "application/vnd.oai.openapi+json;version=3.0"

PIXEL_CRS = "/def/crs/pixel"

Link = dict[str, str]
LONGEST_LINKS = 3000  # bytes of a Link header, but for links that are needed
_SAFE = ":/,"  # needs no escape in a query, and is easier to read so
_HOST = re.compile(r"[A-Za-z0-9.\-_~:\[\]]+", re.ASCII)


def base() -> str:
    """Scheme, host and prefix of the service as this request reached it, without a final slash."""
    return _base(request.scheme, request.host, request.script_root)


def origin() -> str:
    """Scheme and host by which this request reached the service."""
    return _base(request.scheme, request.host, "")


def pixel_crs() -> str:
    """The URI of the only coordinate frame: pixel edges of the image's full resolution, y down."""
    return base() + PIXEL_CRS


def link(rel: str, href: str, media_type: str = JSON, title: str | None = None) -> Link:
    """One link object; `href` starts with / and is put below the base, or is absolute.

    Who came with a ticket needs it again to follow the link.
    """
    href = with_ticket(base() + href if href.startswith("/") else href)
    made = {"rel": rel, "href": href, "type": media_type}
    return made if title is None else made | {"title": title}


def with_ticket(href: str) -> str:
    """`href` with the ticket that the caller came with, if so."""
    pass_on = ticket()
    return href if pass_on is None else f"{href}{'&' if '?' in href else '?'}ticket={pass_on}"


def image_path(image_id: int) -> str:
    """Path of an image."""
    return f"/images/{image_id}"


def collection_path(image_id: int, collection: str) -> str:
    """Path of a layer."""
    return f"/images/{image_id}/collections/{quote(collection, safe=':')}"


def build_path(image_id: int, collection: str) -> str:
    """Path of how far the build of a layer is."""
    return f"{collection_path(image_id, collection)}/build"


def page_links(
    href: str, given: Pairs, limit: int, offset: int, shown: int, matched: int
) -> list[tuple[str, str]]:
    """`self`, `next` and `prev` as (rel, href), each with all parameters in `given` besides its own paging.

    Walking `next` from the first page on visits everything once, and `prev` leads back the same way.
    """
    fixed = urlencode(given, safe=_SAFE) + "&" if given else ""
    out = [("self", f"{href}?{fixed}limit={limit}&offset={offset}")]
    if shown and offset + shown < matched:
        out.append(("next", f"{href}?{fixed}limit={limit}&offset={offset + shown}"))
    if offset > 0:
        before = min(limit, offset)
        out.append(("prev", f"{href}?{fixed}limit={before}&offset={offset - before}"))
    return out


def whole_link(href: str, given: Pairs) -> str:
    """A selection that is not paged."""
    return f"{href}?{urlencode(given, safe=_SAFE)}" if given else href


def cursor_links(
    href: str, given: Pairs, limit: int, cursor: str, following: str | None
) -> list[tuple[str, str]]:
    """`self` and `next` of a page that was asked for by a cursor; there is no way back."""
    fixed = urlencode(given, safe=_SAFE) + "&" if given else ""
    places = [("self", cursor)] if following is None else [("self", cursor), ("next", following)]
    return [(rel, f"{href}?{fixed}limit={limit}&cursor={quote(place)}") for rel, place in places]


def link_header(links: Sequence[Link], needed: str = "") -> str:
    """The links as a Link header (RFC 8288), for bodies that have no place for them.

    Proxies allow all headers of an answer a few kilobytes, and clients each of them some tens. So alternates
    are left out, and of links that repeat thousands of labels all but those of the relation `needed`.
    """
    shown: list[str] = []
    left = LONGEST_LINKS
    for each in sorted(links, key=lambda each: each["rel"] != "next"):
        text = f'<{each["href"]}>; rel="{each["rel"]}"; type="{each["type"]}"'
        if each["rel"] == needed:
            shown.append(text)
        elif each["rel"] != "alternate" and len(text) <= left:
            shown.append(text)
            left -= len(text) + 2
    return ", ".join(shown)


@lru_cache(256)
def _base(scheme: str, host: str, root: str) -> str:
    if not _HOST.fullmatch(host):
        raise BadRequest("The Host header is no host name.")
    return f"{scheme}://{host}{quote(root)}"
