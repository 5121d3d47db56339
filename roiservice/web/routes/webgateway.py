"""What OMERO.webgateway and the viewer ask about shapes: statistics, pictures of masks, drawings for SVG."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import orjson
from flask import Blueprint, Response, request

from roiservice.cache import Page
from roiservice.catalog.reader import Catalog
from roiservice.catalog.registry import FIRST_ID
from roiservice.encode.formats import ENCODER_VERSION
from roiservice.encode.omero import LARGEST_MASK
from roiservice.encode.png import mask_color, mask_png
from roiservice.encode.webgateway import rois
from roiservice.errors import (
    BadParameter,
    NotFound,
    OmeroWebFailed,
    RoiServiceError,
    SourceRefused,
    Unauthorized,
)
from roiservice.geometry.raster import mask_of
from roiservice.query.batches import roi_batches
from roiservice.query.columns import read_features
from roiservice.query.pages import shape_row
from roiservice.query.stats import placed_shapes
from roiservice.web import pages
from roiservice.web.access import identity
from roiservice.web.beside import omeros_drawings, omeros_stats, or_omero_web
from roiservice.web.compress import pack
from roiservice.web.pages import STREAM_BATCH, available, cached, in_turn, incomplete, streamed
from roiservice.web.problems import reason_of
from roiservice.web.responses import JSON, PNG, body_answer, digest, json_answer, not_modified, stream_answer
from roiservice.web.routes import services
from roiservice.web.shapes import ShapePlace, place_of, stats_of

blueprint = Blueprint("webgateway", __name__)

MOST_IDS = 10_000  # of one request for statistics
_ID = re.compile(r"(?:[0-9]{1,19}:)?([0-9]{1,16})", re.ASCII)
_INDEX = re.compile(r"([0-9]{1,9})", re.ASCII)
_log = logging.getLogger(__name__)


@blueprint.get("/iviewer/shape_stats/")
@or_omero_web
def shape_stats() -> Response:
    """Statistics of the pixels under shapes; as in OMERO.iviewer, a failure is an answer like others.

    Those of OMERO's shapes alone are for OMERO.web to give.
    """
    identity()
    web = services().omero_web
    try:
        ids = _numbers("ids", _ID)
        if not ids:
            raise BadParameter("ids", "name the shapes, as in ids=1,2")
        if web is None or max(ids) >= FIRST_ID:
            return _stats(ids)
    except Unauthorized:
        raise
    except RoiServiceError as error:
        return json_answer({"error": reason_of(error)})
    except Exception:  # noqa: BLE001 - the viewer's path never fails
        _log.exception("statistics of shapes")
        return json_answer({"error": "the service failed; its log says more"})
    raise NotFound("there are only shapes of OMERO's")


def _stats(ids: Sequence[int]) -> Response:
    """Statistics of shapes of ours and, beside OMERO.web, of OMERO's, whose ids are below all of ours."""
    if len(ids) > MOST_IDS:
        raise BadParameter("ids", f"are {len(ids)}; {MOST_IDS} are allowed in one request")
    z, t = (next(iter(_numbers(name, _INDEX)), 0) for name in "zt")
    first = FIRST_ID if services().omero_web is not None else 0
    ours, theirs = ([number for number in ids if (number >= first) == own] for own in (True, False))
    found, too_large = stats_of(ours, z, t, _numbers("cs", _INDEX) or None)
    missing = [(f"shape {number}", "is too large to be measured with the others") for number in too_large]
    omeros: dict[str, Any] = {}
    try:
        omeros = omeros_stats(theirs) if theirs else {}
    except OmeroWebFailed as error:
        missing.append(("OMERO", str(error)))
    return json_answer(omeros | found, incomplete(missing))


@blueprint.get("/webgateway/render_shape_mask/<id:shape_id>/")
@or_omero_web
def render_shape_mask(shape_id: int) -> Response:
    """The pixels that a shape covers, as a picture of its box."""
    place = place_of(shape_id)
    row = shape_row(place.catalog, shape_id)
    key = digest(services().registry.uuid, "mask", ENCODER_VERSION, place.catalog.version, shape_id)
    unchanged = not_modified(key)
    if unchanged is not None:
        return unchanged
    page = cached(services().cache, key, partial(_mask, place, shape_id, row))
    return body_answer(services().cache.unpacked(key, page), PNG, tag=key)


@blueprint.get("/webgateway/get_rois_json/<id:image_id>/")
@or_omero_web
def get_rois_json(image_id: int) -> Response:
    """All ROIs of an image, as they are read from the catalogs, whatever the state of some of its layers."""
    there = available(image_id)
    omeros, missing = omeros_drawings(image_id)
    there = there.but(missing)
    tag = digest(services().registry.uuid, "svg", ENCODER_VERSION, there.versions, there.missing, omeros)
    unchanged = not_modified(tag)
    if unchanged is not None:
        return unchanged
    drawings = _list(omeros, there.catalogs)
    return streamed(lambda: stream_answer(drawings, JSON, tag, there.headers), pages.OMERO_STREAMS)


def _numbers(name: str, pattern: re.Pattern[str]) -> list[int]:
    """Whole numbers with commas between them, without repeats; BadParameter for anything else."""
    texts = [text for text in request.args.get(name, "").split(",") if text]
    matches = [pattern.fullmatch(text) for text in texts]
    found = [int(match[1]) for match in matches if match is not None]
    if len(found) < len(texts):
        raise BadParameter(name, "is one whole number or several with commas between them")
    return list(dict.fromkeys(found))


def _mask(place: ShapePlace, shape_id: int, row: int) -> Page:
    (placed,) = placed_shapes(place.catalog, [shape_id], 0, 0).values()
    box = placed.shape.box
    if box.pixels > LARGEST_MASK:
        reason = (
            f"the box of shape {shape_id} has {box.pixels} pixels; {LARGEST_MASK} are allowed in a picture"
        )
        raise SourceRefused(place.layer.image.source.location, place.layer.source.path, reason)
    color = mask_color(read_features(place.catalog, np.array([row])))
    return pack(mask_png(mask_of(placed.shape, box), color), 1, 1)


def _list(omeros: Sequence[Any], catalogs: Sequence[Catalog]) -> Iterator[bytes]:
    """The JSON of all ROIs, OMERO's own first, then ours in the order of their ids, some at a time."""
    ours = (
        rois(read_features(catalog, rows))
        for catalog in catalogs
        for rows in roi_batches(catalog, STREAM_BATCH)
    )
    batches = chain([[orjson.dumps(roi) for roi in omeros]] if omeros else [], in_turn(ours))
    separator = b"["
    for encoded in batches:
        yield separator + b",".join(encoded)
        separator = b","
    yield b"]" if separator == b"," else b"[]"
