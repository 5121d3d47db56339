"""How errors become answers: the only place that writes problem documents (RFC 9457).

OMERO's own paths get OMERO.web's shape, `{"message": ...}`, with the same status.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from roiservice.errors import (
    BadParameter,
    Building,
    Busy,
    CatalogDamaged,
    CursorExpired,
    ForeignOrigin,
    Gone,
    InsufficientScope,
    InvalidRequest,
    LoginRequired,
    NotFound,
    NotWritten,
    OmeroWebFailed,
    RegistryFailed,
    RoiServiceError,
    SessionExpired,
    SettingsError,
    SharedStoreFailed,
    SourceDamaged,
    SourceError,
    SourceRefused,
    TokenExpired,
    TokenInvalid,
    TooManyObjects,
    Unauthorized,
    Unavailable,
)
from roiservice.records import dataclass
from roiservice.web.links import build_path, with_ticket

_log = logging.getLogger(__name__)
OMERO_PATHS = ("/api/", "/iviewer/", "/webgateway/")


@dataclass(frozen=True)
class Kind:
    """One kind of problem: status, the name that ends its type URI, and what it means."""

    status: int
    name: str
    title: str


INTERNAL = Kind(500, "internal-error", "The service failed; its log says more")
KINDS: dict[type[Exception], Kind] = {
    BadParameter: Kind(400, "bad-parameter", "A parameter is unknown or has no usable value"),
    NotFound: Kind(404, "not-found", "There is no such image, layer or feature"),
    Gone: Kind(410, "gone", "The id belonged to a version of the layer that has been replaced"),
    CursorExpired: Kind(410, "cursor-expired", "The layer was replaced during the walk: begin again"),
    SourceRefused: Kind(422, "source-refused", "The layer cannot be served because of a limit or a rule"),
    TooManyObjects: Kind(422, "too-many-objects", "The layer has more than a limit allows"),
    SourceDamaged: Kind(502, "source-damaged", "The store, or a part of it, cannot be read"),
    SourceError: Kind(502, "source-damaged", "The store, or a part of it, cannot be read"),
    CatalogDamaged: Kind(500, "catalog-damaged", "The layer's catalog is damaged; building it again helps"),
    NotWritten: Kind(503, "not-written", "The service could not write a file of its own"),
    Building: Kind(503, "building", "The layer is being built; try again later"),
    Busy: Kind(503, "busy", "Too many such requests wait already; try again later"),
    InvalidRequest: Kind(400, "invalid-request", "The credentials contradict each other"),
    LoginRequired: Kind(401, "login-required", "Only those may read this who are known"),
    SessionExpired: Kind(401, "session-expired", "The session has ended"),
    TokenInvalid: Kind(401, "invalid-token", "The token is not valid"),
    TokenExpired: Kind(401, "token-expired", "The token has expired"),
    InsufficientScope: Kind(403, "insufficient-scope", "The token is not for this"),
    ForeignOrigin: Kind(403, "foreign-origin", "The request came from another site"),
    Unavailable: Kind(503, "unavailable", "What decides on access does not answer"),
    SharedStoreFailed: Kind(503, "unavailable", "What decides on access does not answer"),
    OmeroWebFailed: Kind(503, "omero-web-failed", "OMERO.web does not answer as it should"),
    RegistryFailed: Kind(503, "registry-failed", "The registry of lasting ids does not answer"),
    RoiServiceError: INTERNAL,
}


def register(app: Flask) -> None:
    """Answer every error of `app` with a problem document, or in OMERO.web's shape."""
    app.register_error_handler(RoiServiceError, _answer_own)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_unexpected)


def kind_of(error: RoiServiceError) -> Kind:
    """The kind of the most specific class of `error` that has one."""
    return next(KINDS[base] for base in type(error).__mro__ if base in KINDS)


def reason_of(error: RoiServiceError) -> str:
    """The message for clients: as `str(error)`, but of a store only its name, not its place on disk.

    What in names of files is no Unicode is `?`.
    """
    return _reason_of(error).encode(errors="replace").decode()


def _reason_of(error: RoiServiceError) -> str:
    if isinstance(error, SourceError):
        name = Path(error.store).name
        part = Path(error.part).name if error.part.startswith("/") else error.part
        where = f"{name} [{part}]" if part else name
        return f"{where}: {error.reason.replace(error.store, name)}"
    if isinstance(error, (CatalogDamaged, NotWritten, SettingsError)):
        return kind_of(error).title
    return str(error)


def _answer_own(error: RoiServiceError) -> Response:
    kind = kind_of(error)
    extra = {"parameter": error.parameter} if isinstance(error, BadParameter) else {}
    progress = _progress_href() if isinstance(error, Building) else None
    if progress is not None:
        extra = {"progress": progress}
    response = _problem(kind, reason_of(error), extra)
    if progress is not None:
        response.headers["Link"] = f'<{progress}>; rel="monitor"; type="application/json"'
    if isinstance(error, (Building, Busy, NotWritten, RegistryFailed, Unavailable)):
        response.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, (Unauthorized, InsufficientScope, InvalidRequest)):
        response.headers["WWW-Authenticate"] = error.challenge
    is_ours = kind.status == INTERNAL.status or isinstance(error, NotWritten)
    level = logging.ERROR if is_ours else logging.INFO
    reason = error.reason if isinstance(error, TokenInvalid) else str(error)
    _log.log(level, "%s: %d, %r", _asked(), kind.status, reason)
    return response


def _progress_href() -> str | None:
    """Where to see how far the build of the layer asked for is, as a relative reference."""
    asked = request.view_args or {}
    if "image_id" not in asked or "layer" not in asked:
        return None
    return quote(request.script_root) + with_ticket(build_path(asked["image_id"], asked["layer"]))


def _answer_http(error: HTTPException) -> Any:
    """Answers of the routing itself: 404, 405, and redirects, which stay what they are."""
    if error.code is None or error.code < 400:
        return error
    response = _problem(Kind(error.code, "", error.name), error.description or "", {})
    for name, value in error.get_headers():
        if name.lower() != "content-type":
            response.headers[name] = value
    _log.info("%s: %d", _asked(), error.code)
    return response


def _answer_unexpected(error: Exception) -> Response:
    _log.error("%s: 500", _asked(), exc_info=error)
    return _problem(INTERNAL, "The service met an error that it did not expect.", {})


def _problem(kind: Kind, detail: str, extra: dict[str, str]) -> Response:
    if request.path.startswith(OMERO_PATHS):
        document: dict[str, Any] = {"message": detail or kind.title}
        media_type = "application/json"
    else:
        document = {
            "type": f"{request.script_root}/docs#{kind.name}" if kind.name else "about:blank",
            "title": kind.title,
            "status": kind.status,
            "detail": detail,
            "instance": request.script_root + request.path,
            **extra,
        }
        media_type = "application/problem+json"
    response = Response(orjson.dumps(document), status=kind.status, content_type=media_type)
    response.headers["Cache-Control"] = "no-store"
    return response


def _asked() -> str:
    """Method and path for the log, in one line whatever the path holds."""
    return f"{request.method} {request.path!r}"
