"""Answers with the headers that all of them share: entity tags, encodings, freshness."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson
from flask import Response, request

from roiservice import __version__
from roiservice.cache import Page
from roiservice.web.compress import gzip_stream, gzip_whole, splice
from roiservice.web.negotiate import accepts_gzip

Envelope = tuple[bytes, bytes, Mapping[str, str]]  # what comes before and after a page, and its own headers
JSON = "application/json"
HTML = "text/html; charset=utf-8"
PNG = "image/png"
WORTH_COMPRESSING = 1000  # bytes; shorter answers fit into one packet anyway

_COMMON = [
    ("Vary", "Accept, Accept-Encoding, Authorization, Cookie, Origin"),
    # Caches may keep an answer, but ask with its tag whether it still holds, as sources change.
    ("Cache-Control", "private, no-cache"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
]


def digest(*parts: object) -> str:
    """A short name for what these parts spell, the same in every process of one release."""
    return hashlib.blake2b(repr((__version__, parts)).encode(), digest_size=16).hexdigest()


def json_answer(document: Any, headers: Mapping[str, str] | None = None, media_type: str = JSON) -> Response:
    """A short document; the entity tag is made from its bytes."""
    return body_answer(orjson.dumps(document), media_type, headers)


def body_answer(
    body: bytes, media_type: str, headers: Mapping[str, str] | None = None, tag: str | None = None
) -> Response:
    """Whole bytes, named by `tag`, else by their digest; compressed if worth it: pictures are already."""
    tag = tag or hashlib.blake2b(body, digest_size=16).hexdigest()
    unchanged = not_modified(tag)
    if unchanged is not None:
        return unchanged
    gzipped = media_type != PNG and len(body) >= WORTH_COMPRESSING and _gzip_wanted()
    return _answer(gzip_whole(body) if gzipped else body, media_type, tag, gzipped, headers)


def page_answer(
    envelope: Envelope, page: Page, unpacked: Callable[[], bytes], media_type: str, tag: str
) -> Response:
    """A page in its envelope; `unpacked` gives its encoded features to clients that refuse gzip."""
    head, tail, headers = envelope
    gzipped = _gzip_wanted()
    body = splice(head, page, tail) if gzipped else b"".join((head, unpacked(), tail))
    return _answer(body, media_type, tag, gzipped, headers)


def stream_answer(
    chunks: Iterator[bytes], media_type: str, tag: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Bytes that are made while they are sent, which no proxy is to put on its disk before they go on."""
    gzipped = _gzip_wanted()
    headers = {**(headers or {}), "X-Accel-Buffering": "no"}  # nginx would read on only once that was read
    return _answer(gzip_stream(chunks) if gzipped else chunks, media_type, tag, gzipped, headers)


def not_modified(tag: str) -> Response | None:
    """304 if the client already has what `tag` names, in any encoding; decided before anything is made.

    RFC 9110, 13.1.2: If-None-Match is compared weakly, as proxies that compress weaken the tags they pass on.
    """
    if "HTTP_IF_NONE_MATCH" not in request.environ:
        return None
    given = request.if_none_match
    for variant in (tag, f"{tag}-gzip"):
        if given.contains_weak(variant):
            return Response(status=304, headers=[*_COMMON, ("ETag", f'"{variant}"')])
    return None


def add_common_headers(response: Response) -> Response:
    """Give answers that were made elsewhere (problems, redirects) the headers they lack."""
    for name, value in _COMMON:
        response.headers.setdefault(name, value)
    return response


def _answer(
    body: bytes | Iterator[bytes], media_type: str, tag: str, gzipped: bool, headers: Mapping[str, str] | None
) -> Response:
    own = [*_COMMON, ("ETag", f'"{tag}-gzip"' if gzipped else f'"{tag}"'), *(headers or {}).items()]
    if gzipped:
        own.append(("Content-Encoding", "gzip"))
    return Response(body, content_type=media_type, headers=own)


def _gzip_wanted() -> bool:
    return accepts_gzip(request.headers.get("Accept-Encoding", ""))
