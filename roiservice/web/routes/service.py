"""What the service says about itself: landing page, API description, health, metrics."""

from __future__ import annotations

import logging
from itertools import islice

from flask import Blueprint, Response, render_template, request

from roiservice.errors import RoiServiceError
from roiservice.metrics import MEDIA_TYPE as METRICS
from roiservice.web import documents
from roiservice.web.access import MOST_CHECKED, readable_among
from roiservice.web.description import openapi_json, openapi_yaml, operations
from roiservice.web.links import OPENAPI, base
from roiservice.web.negotiate import prefers_html
from roiservice.web.params import check_known
from roiservice.web.problems import KINDS
from roiservice.web.responses import HTML, body_answer, json_answer
from roiservice.web.routes import services

blueprint = Blueprint("service", __name__)
_log = logging.getLogger(__name__)
_NO_PARAMETERS: frozenset[str] = frozenset()
_IMAGES_ON_LANDING = 50
# Pages of ours hold text and their own style, nothing else; names in them come from stores.
_HTML_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


@blueprint.get("/")
def landing() -> Response:
    """The service and where its images are; HTML for browsers."""
    check_known(request.args, _NO_PARAMETERS)
    document = documents.landing()
    if not prefers_html(request.headers.get("Accept", "")):
        return json_answer(document)
    numbers = services().images.numbers
    found = list(islice(readable_among(numbers[:MOST_CHECKED]), _IMAGES_ON_LANDING + 1))
    images = services().images.opened(found[:_IMAGES_ON_LANDING])
    more = len(found) > _IMAGES_ON_LANDING or len(numbers) > MOST_CHECKED
    page = render_template("landing.html", about=document, base=base(), images=images, more=more)
    return body_answer(page.encode(), HTML, _HTML_HEADERS)


@blueprint.get("/def/crs/pixel")
def pixel_frame() -> Response:
    """What the coordinates mean."""
    check_known(request.args, _NO_PARAMETERS)
    return json_answer(documents.PIXEL_CRS)


@blueprint.get("/openapi.yaml")
def described_in_yaml() -> Response:
    """The OpenAPI document as it is written."""
    check_known(request.args, _NO_PARAMETERS)
    return body_answer(openapi_yaml(request.script_root), "application/yaml")


@blueprint.get("/openapi.json")
def described_in_json() -> Response:
    """The same document as JSON, which is what OWSLib and GDAL read."""
    check_known(request.args, _NO_PARAMETERS)
    return body_answer(openapi_json(request.script_root), OPENAPI)


@blueprint.get("/docs")
def docs() -> Response:
    """The OpenAPI document as a page to read."""
    check_known(request.args, _NO_PARAMETERS)
    kinds = {kind.name: kind for kind in KINDS.values()}
    info, groups = operations()
    page = render_template("docs.html", info=info, groups=groups, kinds=kinds.values(), base=base())
    return body_answer(page.encode(), HTML, _HTML_HEADERS)


@blueprint.get("/healthz")
def healthz() -> Response:
    """The process answers."""
    check_known(request.args, _NO_PARAMETERS)
    return json_answer({"status": "ok"})


@blueprint.get("/metrics")
def metrics() -> Response:
    """Counts over all processes of the service, for Prometheus."""
    check_known(request.args, _NO_PARAMETERS)
    return body_answer(services().metrics.text().encode(), METRICS)


@blueprint.get("/readyz")
def readyz() -> Response:
    """The parts that requests need answer. Redis may be away: pages are then made again."""
    check_known(request.args, _NO_PARAMETERS)
    parts = services().cache.ping()
    parts["registry"] = {"status": "unreachable"}
    try:
        services().registry.check()
        parts["registry"] = {"status": "ok"}
        parts["images"] = {"status": "ok", "count": services().images.total()}
        ready = True
    except RoiServiceError as error:
        _log.warning("not ready: %s", error)
        ready = False
    except Exception:  # noqa: BLE001 - whatever it is, the answer is "not ready"
        _log.exception("not ready")
        ready = False
    response = json_answer({"status": "ok" if ready else "unavailable", "parts": parts})
    if not ready:
        response.status_code = 503
    return response
