"""A layer at a glance: where its features lie, and what they are like."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
from flask import Blueprint, Response, request

from roiservice.cache import Page
from roiservice.catalog.reader import Catalog
from roiservice.query.density import density
from roiservice.query.select import RoiQuery
from roiservice.query.summary import summary
from roiservice.web import params
from roiservice.web.access import readable
from roiservice.web.compress import pack
from roiservice.web.conditions import with_properties
from roiservice.web.links import (
    PIXEL_CRS,
    base,
    collection_path,
    link,
    link_header,
    pixel_crs,
    whole_link,
)
from roiservice.web.pages import Lane, cached
from roiservice.web.responses import JSON, digest, not_modified, page_answer
from roiservice.web.routes import services

blueprint = Blueprint("overview", __name__)
# All features of a layer are looked at, some tens of megabytes at once. Half of a worker's threads may wait.
_one_at_a_time = Lane(threading.Lock(), threading.BoundedSemaphore(16))
_VERSION = 4  # raise whenever the bytes below change for the same catalog


@blueprint.get("/images/<id:image_id>/collections/<layer>/density")
def density_grid(image_id: int, layer: str) -> Response:
    """Features on a grid over the image."""
    asked, cells = params.density(request.query_string, base() + PIXEL_CRS)
    return _answer(
        image_id, layer, "density", asked, params.DENSITY, (("cells", str(cells)),), partial(_grid, cells)
    )


@blueprint.get("/images/<id:image_id>/collections/<layer>/summary")
def summary_of(image_id: int, layer: str) -> Response:
    """Counts, measures and properties of features, taken together."""
    asked = params.selection(request.query_string, base() + PIXEL_CRS)
    return _answer(image_id, layer, "summary", asked, params.FILTERS, (), summary)


def _grid(cells: int, catalog: Catalog, query: RoiQuery) -> dict[str, Any]:
    grid = density(catalog, query, cells)
    rows, columns = grid.counts.shape
    return {
        "origin": [0, 0],
        "cell": grid.side,
        "columns": columns,
        "rows": rows,
        "features": int(grid.counts.sum()) + grid.outside,
        "outside": grid.outside,
        "counts": grid.counts.tolist(),
        "areas": grid.areas.tolist(),
    }


def _answer(
    image_id: int,
    layer: str,
    name: str,
    asked: params.Selection,
    known: frozenset[str],
    own: params.Pairs,
    make: Callable[[Catalog, RoiQuery], dict[str, Any]],
) -> Response:
    """The document that `make` gives of what is asked for, cached as pages are."""
    service = services()
    found = service.layers.named(readable(image_id), layer)
    catalog = service.layers.catalog(found)
    query = with_properties(asked, catalog.properties, known)
    key = digest(service.registry.uuid, catalog.version, name, _VERSION, query, own)
    path = collection_path(image_id, found.collection)
    links = [link("self", whole_link(f"{path}/{name}", (*asked.filters, *own))), link("collection", path)]
    tag = digest(key, links)
    unchanged = not_modified(tag)
    if unchanged is not None:
        return unchanged

    def page() -> Page:
        document = make(catalog, query)
        return pack(orjson.dumps(document), document["features"], 1)

    made = cached(service.cache, key, page, _one_at_a_time)
    headers = {"Content-Crs": f"<{pixel_crs()}>", "Link": link_header(links)}
    return page_answer((b"", b"", headers), made, partial(service.cache.unpacked, key, made), JSON, tag)
