"""How far the build of a layer is, and builds that are asked for."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Blueprint, Response, request
from werkzeug.exceptions import MethodNotAllowed

from roiservice.catalog.progress import BuildStatus
from roiservice.layers import Layer
from roiservice.web.access import check_same_host, readable
from roiservice.web.params import check_known
from roiservice.web.problems import reason_of
from roiservice.web.responses import JSON, json_answer
from roiservice.web.routes import services

blueprint = Blueprint("builds", __name__)
_PATH = "/images/<id:image_id>/collections/<layer>/build"


@blueprint.get(_PATH)
def build(image_id: int, layer: str) -> Response:
    """How far the build of a layer is."""
    return json_answer(_document(services().layers.status(_layer(image_id, layer))))


@blueprint.post(_PATH)
def start_build(image_id: int, layer: str) -> Response:
    """Have a layer built, or brought up to date, by a process of its own."""
    named = _layer(image_id, layer)
    if not services().settings.build_on_post:
        raise MethodNotAllowed(["GET", "HEAD", "OPTIONS"], "This service starts no builds on request.")
    check_same_host()
    services().layers.start(named)
    body = orjson.dumps(_document(services().layers.status(named)))
    return Response(body, status=202, content_type=JSON, headers={"Cache-Control": "no-store"})


def _layer(image_id: int, layer: str) -> Layer:
    check_known(request.args, frozenset())
    return services().layers.named(readable(image_id), layer)


def _document(status: BuildStatus) -> dict[str, Any]:
    document: dict[str, Any] = {"state": status.state, "fraction": status.fraction}
    for name in ("objects", "pixels_per_second", "seconds_left"):
        value = getattr(status, name)
        if value is not None:
            document[name] = value
    if status.error is not None:
        document["error"] = reason_of(status.error)
    return document
