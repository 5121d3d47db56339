"""Which format and which content encoding a client gets."""

from __future__ import annotations

from functools import lru_cache

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from roiservice.encode.formats import FORMATS
from roiservice.errors import BadParameter

# Media types that mean one format; QuPath's GeoJSON and OMERO's JSON have none of their own.
BY_MEDIA_TYPE = {
    "application/geo+json": "geojson",
    "application/json": "geojson",
    "application/x-ndjson": "ndjson",
    "text/csv": "wkt",
}


def format_name(asked: str | None, accept: str) -> str:
    """The format of `f` if it was given, else the best one for the Accept header, else GeoJSON."""
    if asked is None:
        return _accepted_format(accept)
    if asked not in FORMATS:
        raise BadParameter("f", f"is one of {', '.join(FORMATS)}")
    return asked


@lru_cache(256)
def accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding header allows gzip; no header means identity, as scripts expect it."""
    return parse_accept_header(header).quality("gzip") > 0


@lru_cache(256)
def prefers_html(accept: str) -> bool:
    """Whether an Accept header asks for HTML rather than JSON, as browsers do."""
    best = parse_accept_header(accept, MIMEAccept).best_match(["application/json", "text/html"])
    return best == "text/html"


@lru_cache(256)
def _accepted_format(accept: str) -> str:
    best = parse_accept_header(accept, MIMEAccept).best_match(list(BY_MEDIA_TYPE))
    return BY_MEDIA_TYPE.get(best or "", "geojson")
