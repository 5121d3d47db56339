"""ROIs as OMERO.web's JSON API gives them, all layers of an image in one list."""

from __future__ import annotations

from functools import partial

import orjson
from flask import Blueprint, Response, request

from roiservice.encode.formats import FORMATS, OMERO_MASKS, Format
from roiservice.errors import NotFound
from roiservice.omeroweb.rois import RoiList
from roiservice.query.columns import read_features
from roiservice.query.pages import roi_page
from roiservice.query.select import RoiQuery
from roiservice.web import params
from roiservice.web.access import layer_of
from roiservice.web.beside import omeros_rois, or_omero_web
from roiservice.web.pages import PageRequest, available, cached, page_key, roi_list_page
from roiservice.web.responses import JSON, body_answer, digest, not_modified, page_answer
from roiservice.web.routes import services

blueprint = Blueprint("omero", __name__)


@blueprint.get("/api/v0/m/rois/")
@or_omero_web
def rois() -> Response:
    """ROIs of `?image=`; OMERO.web would list those of all images, which nobody pages through."""
    image_id = params.image_id(request.args)
    return roi_list(image_id, RoiQuery(), params.omeros_filters(request.args))


@blueprint.get("/api/v0/m/images/<id:image_id>/rois/")
@or_omero_web
def rois_of_image(image_id: int) -> Response:
    """ROIs of an image."""
    return roi_list(image_id, RoiQuery(), params.omeros_filters(request.args))


@blueprint.get("/api/v0/m/rois/<id:roi_id>/")
@or_omero_web
def roi(roi_id: int) -> Response:
    """One ROI with all its shapes."""
    layer, _ = layer_of("roi", roi_id)
    catalog = services().layers.catalog(layer)
    chosen = roi_page(catalog, RoiQuery(rois=(roi_id,)), 0, 1, services().settings.shapes_per_page)
    if not chosen.matched:
        raise NotFound(f"there is no ROI {roi_id}")
    encoded = _form().encode(read_features(catalog, chosen.rows))
    return body_answer(b'{"data":%b}' % encoded[0], JSON)


def roi_list(
    image_id: int, query: RoiQuery, filters: params.Filters = (), limit: int | None = None
) -> Response:
    """One page of the ROIs of an image, OMERO's own first, whatever the state of OMERO.web and of layers.

    `filters` are for OMERO's ROIs alone; `limit` is that of a request without one, None as settings say.
    """
    service = services()
    settings = service.settings
    limit = settings.page_limit if limit is None else limit
    paging = params.lenient_paging(request.args, limit, settings.page_limit_max)
    there = available(image_id)
    omero = omeros_rois(RoiList(image_id, query.z, query.t, filters), paging)
    there = there.but(omero.missing)
    ours = omero.rest(paging)
    form = _form()
    asked = PageRequest(query, ours.offset, ours.limit, settings.shapes_per_page)
    key = page_key(service.registry.uuid, there.versions, form, asked)
    tag = digest(key, there.missing, settings.page_limit_max, omero)
    unchanged = not_modified(tag)
    if unchanged is not None:
        return unchanged
    page = cached(service.cache, key, partial(roi_list_page, there.catalogs, form, asked))
    meta = {
        "totalCount": omero.total + page.matched,
        "limit": paging.limit,
        "offset": paging.offset,
        "maxLimit": settings.page_limit_max,
    }
    head = b'{"data":[' + b",".join(omero.rois) + (b"," if omero.rois and page.returned else b"")
    envelope = head, b'],"meta":%b}' % orjson.dumps(meta), there.headers
    return page_answer(envelope, page, partial(service.cache.unpacked, key, page), JSON, tag)


def _form() -> Format:
    """Polygons, or masks where the site prefers them."""
    return OMERO_MASKS if services().settings.masks else FORMATS["omero"]
