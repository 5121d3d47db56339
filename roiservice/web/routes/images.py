"""Images and their layers, in the shape of OGC API - Features below each image."""

from __future__ import annotations

from flask import Blueprint, Response, request

from roiservice.images import Image
from roiservice.web import documents, params
from roiservice.web.access import listed_at_once, readable, readable_among
from roiservice.web.links import base, link, link_header, page_links
from roiservice.web.params import check_known
from roiservice.web.responses import json_answer
from roiservice.web.routes import services

blueprint = Blueprint("images", __name__)
_NO_PARAMETERS: frozenset[str] = frozenset()


@blueprint.get("/images")
def images() -> Response:
    """The images, a page at a time; no total.

    A page is so many of the images that are listed, without those that the caller may not read: however few
    these leave, no more are looked at.
    """
    check_known(request.args, frozenset({"limit", "offset"}))
    settings = services().settings
    paging = params.paging(request.args, settings.page_limit, listed_at_once(settings.items_limit_max))
    numbers = services().images.numbers
    listed = numbers[paging.offset : paging.offset + paging.limit]
    places = page_links(f"{base()}/images", (), paging.limit, paging.offset, len(listed), len(numbers))
    shown = services().images.opened(list(readable_among(listed)))
    links = [link(rel, href) for rel, href in places]
    document = {"images": [documents.image_summary(image) for image in shown], "links": links}
    return json_answer(document, {"Link": link_header(links)})


@blueprint.get("/images/<id:image_id>")
def image(image_id: int) -> Response:
    """One image, which is the landing page for OGC clients."""
    found = _image(image_id)
    layers = services().layers
    listing = layers.of(found)
    return json_answer(documents.image_document(found, listing, layers.image_size(listing)))


@blueprint.get("/images/<id:image_id>/conformance")
def conformance(image_id: int) -> Response:
    """What is conformed to."""
    _image(image_id)
    return json_answer({"conformsTo": documents.CONFORMANCE})


@blueprint.get("/images/<id:image_id>/collections")
def collections(image_id: int) -> Response:
    """The layers of an image."""
    found = _image(image_id)
    layers = services().layers
    listing = layers.of(found)
    size = layers.image_size(listing)
    return json_answer(documents.collections_document(found, listing, size, layers.existing))


@blueprint.get("/images/<id:image_id>/collections/<layer>")
def collection(image_id: int, layer: str) -> Response:
    """One layer."""
    found = _image(image_id)
    layers = services().layers
    named = layers.named(found, layer)
    size = layers.image_size(layers.of(found))
    return json_answer(documents.collection_document(named, size, layers.existing(named)))


@blueprint.get("/images/<id:image_id>/collections/<layer>/queryables")
def queryables(image_id: int, layer: str) -> Response:
    """What the features of a layer can be selected by, beside the parameters of every layer."""
    named = services().layers.named(_image(image_id), layer)
    document = documents.queryables_document(named, services().layers.catalog(named), base())
    return json_answer(document, media_type="application/schema+json")


def _image(image_id: int) -> Image:
    """The image of a request that takes no parameters."""
    check_known(request.args, _NO_PARAMETERS)
    return readable(image_id)
