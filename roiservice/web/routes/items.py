"""Features of a layer, in every format: pages, streams, and one by its id."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial

import numpy as np
import orjson
from flask import Blueprint, Response, request

from roiservice.catalog.reader import Catalog
from roiservice.encode.formats import ENCODER_VERSION, FORMATS, Format
from roiservice.errors import BadParameter, NotFound
from roiservice.layers import Layer
from roiservice.query.columns import read_features
from roiservice.query.cursor import Walk, walk_of
from roiservice.query.detail import EXACT
from roiservice.query.pages import feature_row
from roiservice.query.select import RoiQuery
from roiservice.records import dataclass
from roiservice.web import pages, params
from roiservice.web.access import readable, ticket
from roiservice.web.conditions import with_properties
from roiservice.web.links import (
    PIXEL_CRS,
    Link,
    base,
    collection_path,
    cursor_links,
    link,
    link_header,
    page_links,
    pixel_crs,
    whole_link,
)
from roiservice.web.negotiate import format_name
from roiservice.web.pages import (
    LARGEST,
    PAGES,
    ItemsRequest,
    cached,
    items_page,
    items_stream,
    page_key,
    streamed,
)
from roiservice.web.params import check_known
from roiservice.web.responses import Envelope, body_answer, digest, not_modified, page_answer, stream_answer
from roiservice.web.routes import services

blueprint = Blueprint("items", __name__)
_WITHOUT_OUTLINES = ("geojson", "ndjson", "wkt")  # formats that may show points, boxes, or nothing instead
_HEAD = b'{"type":"FeatureCollection","numberMatched":%d,"numberReturned":%d,"links":%b,"features":['


@blueprint.get("/images/<id:image_id>/collections/<layer>/items")
def items(image_id: int, layer: str) -> Response:
    """Features of a layer: a page of them, or all as a stream of lines."""
    service, here = services(), base()
    asked = params.items(request.query_string, f"{here}{PIXEL_CRS}", service.settings.items_limit_max)
    form = _format(asked.f)
    refusal = _refusal(form, asked)
    if refusal is not None:
        raise refusal
    found = service.layers.named(readable(image_id), layer)
    catalog = service.layers.catalog(found)
    is_streamed = form.name == "ndjson" and asked.is_whole
    query = with_properties(asked, catalog.properties)
    walk = None if asked.cursor is None else walk_of(catalog, query, by_roi=form.by_roi)
    offset = asked.offset if asked.cursor is None or walk is None else walk.offset(asked.cursor)
    wanted = _wanted(asked, query, offset)
    key = page_key(service.registry.uuid, (catalog.version,), form, wanted)
    tag = digest(key, is_streamed, here, asked.f, asked.filters, asked.cursor, ticket())
    unchanged = not_modified(tag)
    if unchanged is not None:
        return unchanged
    if is_streamed:
        make = partial(items_stream, catalog, form, query, offset, asked.detail)
        return streamed(lambda: stream_answer(make(), form.media_type, tag, _crs_header()), pages.STREAMS)
    lane = PAGES if asked.largest is None else LARGEST
    page = cached(service.cache, key, partial(items_page, catalog, form, wanted), lane)
    place = _Place(here, image_id, found.collection, form.name, ticket(), walk)
    span = _Span(wanted.limit, offset, page.returned, page.matched)
    # As with what was parsed: links of long query strings would fill the memory.
    linked = _linked if len(request.query_string) <= params.LONGEST_KEPT else _linked.__wrapped__
    envelope = _envelope(form, catalog, span, *linked(place, asked, span))
    return page_answer(envelope, page, partial(service.cache.unpacked, key, page), form.media_type, tag)


@blueprint.get("/images/<id:image_id>/collections/<layer>/items/<id:feature_id>")
def item(image_id: int, layer: str, feature_id: int) -> Response:
    """One feature by its id."""
    check_known(request.args, frozenset({"f"}))
    form = _format(request.args.get("f"))
    found = services().layers.named(readable(image_id), layer)
    catalog = services().layers.catalog(found)
    _check_owner(feature_id, found)
    row = feature_row(catalog, feature_id)
    bytes_of = (services().registry.uuid, catalog.version, ENCODER_VERSION, form.name, feature_id)
    tag = digest(bytes_of, base(), request.args.get("f"), ticket())
    unchanged = not_modified(tag)
    if unchanged is not None:
        return unchanged
    path = collection_path(image_id, found.collection)
    links = [link("self", f"{path}/items/{feature_id}", form.media_type), link("collection", path)]
    encoded = form.separator.join(form.encode(read_features(catalog, np.array([row], np.int64))))
    if form.name == "geojson":
        body = b'%b,"links":%b}' % (encoded[:-1], orjson.dumps(links))
    else:
        body = form.begin(tuple(catalog.properties)) + encoded + form.end
    return body_answer(body, form.media_type, {**_crs_header(), "Link": link_header(links)}, tag)


@dataclass(frozen=True)
class _Place:
    """Where a page was asked for, and in which format."""

    base: str
    image_id: int
    collection: str
    format: str
    ticket: str | None  # in all links
    walk: Walk | None  # where a cursor tells where the page begins


@dataclass(frozen=True)
class _Span:
    """Which entries a page was to hold, how many it holds, and how many there are in all."""

    limit: int
    offset: int
    returned: int
    matched: int


def _envelope(
    form: Format, catalog: Catalog, span: _Span, links: bytes, headers: Mapping[str, str]
) -> Envelope:
    """What goes around a page's features, with the links in GeoJSON."""
    if form.name == "geojson":
        return _HEAD % (span.matched, span.returned, links), b"]}", headers
    head = form.begin(tuple(catalog.properties))
    # Lines end where there are any; an empty page of lines is no bytes at all.
    return head, form.end if head or span.returned else b"", headers


@lru_cache(512)
def _linked(place: _Place, asked: params.ItemsParams, span: _Span) -> tuple[bytes, Mapping[str, str]]:
    """The links of a page as JSON, where its body has a place for them, and its headers.

    Remembered, as they cost more than all else of a warm page; so names of properties have no place here.
    """
    links = _links(place, asked, span)
    in_body = place.format == "geojson"
    in_header = link_header(links, needed="" if in_body else "next")  # some bodies have no place for it
    return orjson.dumps(links) if in_body else b"", {**_crs_header(), "Link": in_header}


def _links(place: _Place, asked: params.ItemsParams, span: _Span) -> list[Link]:
    """This page and its neighbours in this format, the same page in the others, and the layer.

    Where one format counts features and the other ROIs, only the first pages are the same.
    """
    path = collection_path(place.image_id, place.collection)
    href = f"{place.base}{path}/items"
    own = asked.filters if asked.f is None else (*asked.filters, ("f", asked.f))
    links = [
        link(rel, to, FORMATS[place.format].media_type) for rel, to in _near(place, asked, span, href, own)
    ]
    for name, other in FORMATS.items():
        same = span.offset == 0 or other.by_roi == FORMATS[place.format].by_roi
        if name != place.format and same and _refusal(other, asked) is None:
            (_, to), *_ = _near(place, asked, span, href, (*asked.filters, ("f", name)))
            links.append(link("alternate", to, other.media_type, name))
    return [*links, link("collection", path)]


def _near(
    place: _Place, asked: params.ItemsParams, span: _Span, href: str, given: params.Pairs
) -> list[tuple[str, str]]:
    """The page itself first, then those before and after it."""
    if asked.largest is not None:
        return [("self", whole_link(href, given))]
    if asked.cursor is None or place.walk is None:
        return page_links(href, given, span.limit, span.offset, span.returned, span.matched)
    end = span.offset + span.returned
    following = place.walk.cursor(end) if span.returned and end < span.matched else None
    return cursor_links(href, given, span.limit, asked.cursor, following)


def _wanted(asked: params.ItemsParams, query: RoiQuery, offset: int) -> ItemsRequest:
    """What the page is to hold, with the limit of a request that states none."""
    settings = services().settings
    return ItemsRequest(
        query=query,
        offset=offset,
        limit=asked.largest or asked.limit or min(settings.page_limit, settings.items_limit_max),
        max_shapes=settings.shapes_per_page,
        detail=asked.detail,
        largest=asked.largest is not None,
        vertices=asked.vertices,
    )


def _format(asked: str | None) -> Format:
    return FORMATS[format_name(asked, request.headers.get("Accept", ""))]


def _refusal(form: Format, asked: params.ItemsParams) -> BadParameter | None:
    """What this format cannot give of what is asked for."""
    if asked.detail.geometry != EXACT and form.name not in _WITHOUT_OUTLINES:
        return BadParameter("geometry", f"f={form.name} takes {EXACT} only")
    if asked.largest is not None and form.by_roi:
        name = "max-features" if asked.vertices is None else "max-vertices"
        return BadParameter(name, f"f={form.name} goes by ROI, and takes limit and offset only")
    return None


def _crs_header() -> dict[str, str]:
    return {"Content-Crs": f"<{pixel_crs()}>"}


def _check_owner(feature_id: int, layer: Layer) -> None:
    """NotFound for an id that no feature of this layer ever had; it may still be of an old version."""
    place = services().registry.locate(feature_id)
    owner = None if place is None or place.version is None else (place.image_id, place.collection)
    if owner != (layer.image.id, layer.collection):
        raise NotFound(f"there is no feature {feature_id} in {layer.collection}")
