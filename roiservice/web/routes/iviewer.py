"""What OMERO.iviewer asks for: ROIs by plane, counts per plane, and where in the list a ROI or shape is.

The rule that decides on which plane a ROI is must be one and the same for pages and for places in them, or
the viewer loads a page on which the ROI it was told to show is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from flask import Blueprint, Response, request

from roiservice.catalog.reader import Catalog
from roiservice.catalog.registry import FIRST_ID, Place
from roiservice.errors import NotFound, RoiServiceError
from roiservice.omeroweb.places import member
from roiservice.omeroweb.rois import RoiList, roi_count_of, with_roi_count
from roiservice.query.pages import plane_shape_counts, roi_count, roi_index, shape_row
from roiservice.query.select import RoiQuery, Span
from roiservice.records import dataclass
from roiservice.web.access import caller_session, located
from roiservice.web.beside import as_it_is, ask_omero_web, omeros_count, omeros_shape_counts, or_omero_web
from roiservice.web.pages import Available, available
from roiservice.web.responses import json_answer
from roiservice.web.routes import services
from roiservice.web.routes.omero import roi_list

if TYPE_CHECKING:
    from roiservice.omeroweb.client import Answer

blueprint = Blueprint("iviewer", __name__, url_prefix="/iviewer")


@blueprint.get("/rois_by_plane/<id:image_id>/<indices:z>/<indices:t>/")
@or_omero_web
def rois_by_plane(image_id: int, z: Span, t: Span) -> Response:
    """ROIs with any shape on these planes, each with all its shapes; by default a page as long as may be."""
    return roi_list(image_id, RoiQuery(z=z, t=t), limit=services().settings.page_limit_max)


@blueprint.get("/plane_shape_counts/<id:image_id>/")
@or_omero_web
def shape_counts(image_id: int) -> Response:
    """Shapes on each plane, a list over T for each Z."""
    there = available(image_id)
    size_z, size_t = there.planes
    omero, missing = omeros_shape_counts(image_id)
    counts = np.zeros((max(size_z, omero.shape[0]), max(size_t, omero.shape[1])), np.int64)
    counts[: omero.shape[0], : omero.shape[1]] = omero
    for catalog in there.catalogs:
        counts += plane_shape_counts(catalog, *counts.shape)
    return json_answer({"data": counts.tolist()}, there.but(missing).headers)


@blueprint.get('/<any("roi", "shape"):kind>/<id:identifier>/page_data/')
@or_omero_web
def page_data(kind: str, identifier: int) -> Response:
    """Where a ROI is in the list of all, or a shape's ROI in the list of those on the shape's own plane."""
    place = located(kind, identifier)
    there = available(place.image_id)
    target = _target(kind, identifier, place, there)
    omero = omeros_count(_list_of_both(place.image_id, target.query, there))
    there = there.but(omero.missing)
    document: dict[str, Any] = {
        "image": {"id": place.image_id},
        "roi": {"id": target.roi_id},
        "roi_index": omero.total + _index(target, there.catalogs),
        "roi_count": omero.total + _count(there, target.query),
    }
    return json_answer(document | target.plane, there.headers)


@blueprint.get('/<any("roi", "shape"):kind>/<id:identifier>/image_data/')
@or_omero_web
def image_data_of(kind: str, identifier: int) -> Response:
    """The image of a ROI or shape; the answer for images is another one.

    Of those of OMERO's only OMERO.web knows the image, which may be one that is known here.
    """
    web = services().omero_web
    if web is not None and identifier < FIRST_ID:
        return _with_ours_counted(ask_omero_web(web))
    place = located(kind, identifier)
    _target(kind, identifier, place, available(place.image_id))
    # Relative, so that it holds below any prefix; a path without a final slash is one level less deep.
    above = "../../.." if request.path.endswith("/") else "../.."
    return Response(status=302, headers={"Location": f"{above}/image_data/{place.image_id}/"})


@blueprint.get("/image_data/<id:image_id>/")
@or_omero_web
def image_data(image_id: int) -> Response:
    """OMERO.web's description of an image, with our ROIs counted as well: the viewer pages by that number."""
    there = available(image_id)
    web = services().omero_web
    if web is None:
        raise NotFound("only OMERO.web describes images to the viewer")
    answer = ask_omero_web(web)
    return as_it_is(answer) if answer.status != 200 else _counted(answer, image_id, there)


def _with_ours_counted(answer: Answer) -> Response:
    """OMERO.web's description of some image; as it is where that is no description, or of none of ours."""
    try:
        image_id = member(answer.json(), "id")
        if type(image_id) is int:
            return _counted(answer, image_id, available(image_id))
    except RoiServiceError:  # the caller has what OMERO.web gives, whatever is here
        pass
    return as_it_is(answer)


def _counted(answer: Answer, image_id: int, there: Available) -> Response:
    omero = services().omero_rois
    theirs = roi_count_of(answer.body)
    if theirs is not None and omero is not None:
        omero.learn(image_id, caller_session(), theirs)
    body = with_roi_count(answer.body, _count(there, RoiQuery()))
    return as_it_is(replace(answer, body=body, headers=(*answer.headers, *there.headers.items())))


@dataclass(frozen=True)
class _Target:
    """The ROI to find, in which list, and the plane that the viewer should go to, if any.

    `roi_id` is None for a shape of a layer that cannot be served now.
    """

    roi_id: int | None
    query: RoiQuery
    plane: dict[str, int | None]


def _target(kind: str, identifier: int, place: Place, there: Available) -> _Target:
    """What to look for; NotFound for ids the layer does not have, Gone for those of a replaced version."""
    catalog = next((each for each in there.catalogs if each.meta["collection"] == place.collection), None)
    if catalog is None:
        if not there.missing:
            raise NotFound(f"there is no {kind} {identifier}")
        return _Target(identifier if kind == "roi" else None, RoiQuery(), {})
    if kind == "roi":
        if roi_index(catalog, RoiQuery(), identifier) is None:
            raise NotFound(f"there is no ROI {identifier}")
        return _Target(identifier, RoiQuery(), {})
    row = shape_row(catalog, identifier)
    roi, t, z = (int(catalog.features[column][row]) for column in ("place", "t", "z"))
    on_plane = RoiQuery(t=(t, t) if t >= 0 else None, z=(z, z) if z >= 0 else None)
    plane = {"theZ": z if z >= 0 else None, "theT": t if t >= 0 else None}
    return _Target(catalog.first_roi_id + int(catalog.rois["roi"][roi]), on_plane, plane)


def _index(target: _Target, catalogs: Sequence[Catalog]) -> int:
    """Place of the ROI in the list of all layers; of one that is not there now, where it would be."""
    index = 0
    for catalog in catalogs:
        if target.roi_id is None or catalog.first_roi_id > target.roi_id:
            break
        within = roi_index(catalog, target.query, target.roi_id)
        if within is not None:
            return index + within
        index += roi_count(catalog, target.query)
    return index


def _count(there: Available, query: RoiQuery) -> int:
    return sum(roi_count(catalog, query) for catalog in there.catalogs)


def _list_of_both(image_id: int, query: RoiQuery, there: Available) -> RoiList:
    """The list of OMERO's that goes with ours: a list by plane names planes of both axes."""
    if query.z is None and query.t is None:
        return RoiList(image_id)
    size_z, size_t = there.planes
    return RoiList(image_id, query.z or (0, size_z - 1), query.t or (0, size_t - 1))
