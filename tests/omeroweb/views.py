"""The pages of a stand-in for OMERO.web, as functions of what its user may read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.omeroweb.images import (
    Json,
    OmeroImage,
    image_document,
    on_planes,
    page_data,
    shape_counts,
    viewer_document,
    webgateway_shapes,
)

MASK = bytes.fromhex(  # a transparent PNG of one pixel
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)
HTML = "text/html; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """What a request gets; bodies that are not bytes are sent as JSON."""

    status: int
    body: Any
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Call:
    """A request of a user: the images that the user may read, and limits of pages.

    `base` is the address of the JSON API.
    """

    images: Mapping[int, OmeroImage]
    query: Mapping[str, list[str]]
    base: str
    limit: int
    max_limit: int

    @property
    def rois(self) -> Iterator[tuple[OmeroImage, Json]]:
        """All ROIs that the user may read."""
        return ((image, roi) for _, image in sorted(self.images.items()) for roi in image.rois)

    def number(self, name: str, default: int) -> int:
        return int(self.query.get(name, [str(default)])[0])


def _list_rois(call: Call, rois: list[Json]) -> Answer:
    """A page of ROIs as the JSON API gives it."""
    try:
        limit, offset = call.number("limit", call.limit), call.number("offset", 0)
        rois = [roi for roi in rois if _is_of(roi, call.number("owner", -1), call.number("group", -1))]
    except ValueError as error:
        return Answer(400, {"message": str(error)})
    limit = min(call.limit if limit < 0 else limit, call.max_limit)
    offset = max(offset, 0)
    meta = {"offset": offset, "limit": limit, "maxLimit": call.max_limit, "totalCount": len(rois)}
    page = [roi | {"url:roi": f"{call.base}/m/rois/{roi['@id']}/"} for roi in rois[offset : offset + limit]]
    return Answer(200, {"meta": meta, "data": page})


def _is_of(roi: Json, owner: int, group: int) -> bool:
    """Whether a ROI is that owner's and in that group; -1 is all of them."""
    details = roi["omero:details"]
    return owner in (-1, details["owner"]["@id"]) and group in (-1, details["group"]["@id"])


def _rois(call: Call) -> Answer:
    if "image" not in call.query:
        return _list_rois(call, [roi for _, roi in call.rois])
    try:
        image = call.images.get(call.number("image", 0))
    except ValueError as error:
        return Answer(400, {"message": str(error)})
    return _list_rois(call, [] if image is None else image.rois)


def _rois_of_image(call: Call, identifier: str) -> Answer:
    image = call.images.get(int(identifier))
    return _list_rois(call, [] if image is None else image.rois)


def _roi(call: Call, identifier: str) -> Answer:
    for _, roi in call.rois:
        if roi["@id"] == int(identifier):
            return Answer(200, {"data": roi})
    return Answer(404, {"message": f"Roi {identifier} not found", "stacktrace": "Traceback ..."})


def _image(call: Call, identifier: str) -> Answer:
    if int(identifier) >= 2**63:
        return Answer(500, {"message": "long int too large", "stacktrace": "Traceback ..."})
    image = call.images.get(int(identifier))
    if image is None:
        return Answer(404, {"message": f"Image {identifier} not found", "stacktrace": "Traceback ..."})
    return Answer(200, {"data": image_document(image, call.base)})


def _rois_by_plane(call: Call, identifier: str, *planes: str | None) -> Answer:
    image = call.images.get(int(identifier))
    z, t = ([int(at) for at in planes[axis : axis + 2] if at is not None] for axis in (0, 2))
    rois = [] if image is None else on_planes(image.rois, z, t)
    limit, offset = (
        min(call.number("limit", call.max_limit), call.max_limit),
        call.number("offset", 0),
    )
    return Answer(200, {"data": rois[offset : offset + limit], "meta": {"totalCount": len(rois)}})


def _shape_counts(call: Call, identifier: str) -> Answer:
    image = call.images.get(int(identifier))
    return _no_image() if image is None else Answer(200, {"data": shape_counts(image)})


def _no_image() -> Answer:
    return Answer(404, {"error": "Image not found"})


def _image_data(call: Call, identifier: str) -> Answer:
    image = call.images.get(int(identifier))
    return _no_image() if image is None else Answer(200, viewer_document(image))


def _find(call: Call, kind: str, identifier: str) -> tuple[OmeroImage, Json, Json | None] | None:
    for image, roi in call.rois:
        if kind == "roi" and roi["@id"] == int(identifier):
            return image, roi, None
        for shape in roi["shapes"] if kind == "shape" else ():
            if shape["@id"] == int(identifier):
                return image, roi, shape
    return None


def _page_data(call: Call, kind: str, identifier: str) -> Answer:
    found = _find(call, kind, identifier)
    return no_page() if found is None else Answer(200, page_data(*found))


def no_page() -> Answer:
    return Answer(404, b"<html>Page not found</html>", HTML)


def _image_data_of(call: Call, kind: str, identifier: str) -> Answer:
    found = _find(call, kind, identifier)
    return no_page() if found is None else Answer(200, viewer_document(found[0]))


def _shape_stats(call: Call) -> Answer:
    if not {"ids", "z", "t"} <= set(call.query):
        return Answer(200, {"error": "Parameters ids, z and t are mandatory"})
    known = {shape["@id"] for _, roi in call.rois for shape in roi["shapes"]}
    try:
        ids = [int(text.rpartition(":")[2]) for text in call.query["ids"][0].split(",") if text]
    except ValueError:
        return Answer(200, {"error": "Invalid Parameter types"})
    if not known.issuperset(ids):
        return Answer(200, {"error": "No such shape"})
    values = {"index": 0, "points": 49, "min": 0, "max": 9, "sum": 98, "mean": 2.0, "std_dev": 1.5}
    return Answer(200, {str(identifier): [values] for identifier in ids})


def _mask(call: Call, identifier: str) -> Answer:
    return no_page() if _find(call, "shape", identifier) is None else Answer(200, MASK, "image/png")


def _rois_json(call: Call, identifier: str) -> Answer:
    image = call.images.get(int(identifier))
    return no_page() if image is None else Answer(200, [webgateway_shapes(roi) for roi in image.rois])


def _persist(call: Call) -> Answer:
    return Answer(200, {"ids": {}})


def _page(call: Call) -> Answer:
    """Any other page; OMERO.web sets the cookie against forged requests on these."""
    cookie = {"Set-Cookie": "csrftoken=made-up; Path=/; SameSite=Lax"}
    return Answer(200, b"<html>OMERO.web</html>", HTML, cookie)


ROUTES: list[tuple[str, Callable[..., Answer]]] = [
    (r"/api/v0/m/rois/", _rois),
    (r"/api/v0/m/rois/([0-9]+)/", _roi),
    (r"/api/v0/m/images/([0-9]+)/", _image),
    (r"/api/v0/m/images/([0-9]+)/rois/", _rois_of_image),
    (r"/iviewer/rois_by_plane/([0-9]+)/([0-9]+)(?:-([0-9]+))?/([0-9]+)(?:-([0-9]+))?/", _rois_by_plane),
    (r"/iviewer/plane_shape_counts/([0-9]+)/", _shape_counts),
    (r"/iviewer/image_data/([0-9]+)/", _image_data),
    (r"/iviewer/(roi|shape)/([0-9]+)/page_data/", _page_data),
    (r"/iviewer/(roi|shape)/([0-9]+)/image_data/", _image_data_of),
    (r"/iviewer/shape_stats/?", _shape_stats),
    (r"/iviewer/persist_rois/?", _persist),
    (r"/webgateway/render_shape_mask/([0-9]+)/", _mask),
    (r"/webgateway/get_rois_json/([0-9]+)", _rois_json),
    (r"/iviewer/", _page),
    (r"/webclient/.*", _page),
]
