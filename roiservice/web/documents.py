"""The JSON documents that describe images and layers, with their links."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from roiservice import __version__
from roiservice.catalog.reader import Catalog
from roiservice.encode.formats import FORMATS
from roiservice.images import Image
from roiservice.layers import Layer, LayerListing
from roiservice.query.select import MEASURES
from roiservice.sources.tables.layers import Size
from roiservice.web.links import GEOJSON, OPENAPI, Link, collection_path, image_path, link, pixel_crs
from roiservice.web.params import IGNORED, ITEMS
from roiservice.web.problems import reason_of

TITLE = "roiservice"
ABOUT = "Objects of OME-Zarr label images as regions of interest (ROIs)."

QUERYABLES = "http://www.opengis.net/def/rel/ogc/1.0/queryables"

# The class `core` of OGC API - Features is not claimed: it demands longitude and latitude.
CONFORMANCE = (
    "http://www.opengis.net/spec/ogcapi-common-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-common-2/1.0/conf/collections",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/oas30",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
)

PIXEL_CRS = {
    "title": "Pixels of the full-resolution image",
    "description": (
        "Coordinates are (x, y) in pixels of the image's level 0. The origin is the outer corner of the "
        "top-left pixel, x runs to the right and y down; pixel (row i, column j) covers [j, j+1] x [i, i+1]. "
        "Exterior rings have positive area in the numbers as given: clockwise on a screen with y down."
    ),
    "axes": [
        {"name": "x", "direction": "right", "unit": "pixel"},
        {"name": "y", "direction": "down", "unit": "pixel"},
    ],
}


def landing() -> dict[str, Any]:
    """The service itself."""
    links = [
        link("self", "/"),
        link("service-desc", "/openapi.json", OPENAPI),
        link("service-desc", "/openapi.yaml", "application/yaml"),
        link("service-doc", "/docs", "text/html"),
        link("images", "/images", title="Images"),
    ]
    return {"title": TITLE, "description": ABOUT, "version": __version__, "links": links}


def image_summary(image: Image) -> dict[str, Any]:
    """An image in the list of images."""
    path = image_path(image.id)
    links = [link("self", path), link("data", f"{path}/collections")]
    return {"id": image.id, "title": image.name, "links": links}


def image_document(image: Image, listing: LayerListing, size: Size | None) -> dict[str, Any]:
    """An image: its size, its layers and their state, its links. The landing page for OGC clients.

    `size` is (t, c, z, y, x); None where no layer tells it.
    """
    path = image_path(image.id)
    return {
        "id": image.id,
        "title": image.name,
        "description": f"ROIs of image {image.id}",
        "size": None if size is None else dict(zip("tczyx", size, strict=True)),
        "layers": [layer.collection for layer in listing.layers],
        "problems": problems_of(listing),
        "warnings": list(listing.warnings),
        "links": [
            link("self", path),
            link("service-desc", "/openapi.json", OPENAPI),
            link("service-doc", "/docs", "text/html"),
            link("conformance", f"{path}/conformance"),
            link("data", f"{path}/collections"),
            link("rois", f"/api/v0/m/images/{image.id}/rois/", title="All ROIs, as OMERO.web gives them"),
        ],
    }


def collections_document(
    image: Image, listing: LayerListing, size: Size | None, built: Callable[[Layer], Catalog | None]
) -> dict[str, Any]:
    """All layers of an image that can be served, and what is wrong with the others.

    `built` gives a layer's catalog if there is one already.
    """
    path = f"{image_path(image.id)}/collections"
    return {
        "links": [link("self", path)],
        "collections": [collection_document(layer, size, built(layer)) for layer in listing.layers],
        "problems": problems_of(listing),
    }


def collection_document(layer: Layer, size: Size | None, catalog: Catalog | None) -> dict[str, Any]:
    """A layer; its extent is that of its image. What its catalog knows is there once it has been built."""
    path = collection_path(layer.image.id, layer.collection)
    crs = pixel_crs()
    document: dict[str, Any] = {
        "id": layer.collection,
        "title": layer.name,
        "description": f"Objects of {layer.name} in image {layer.image.id}",
        "itemType": "feature",
        "source": layer.source.kind,
        "hidden": layer.source.hidden,
        # Without a frame that no library resolves, GDAL takes pixels for degrees and finds nothing.
        "crs": [crs],
        "storageCrs": crs,
        "links": [
            link("self", path),
            *_item_links(f"{path}/items"),
            link(QUERYABLES, f"{path}/queryables", "application/schema+json"),
            link("related", f"{path}/density", title="Where the features lie"),
            link("related", f"{path}/summary", title="What the features are like"),
        ],
    }
    if catalog is not None:
        document["counts"] = catalog.meta["counts"]
        document["warnings"] = catalog.meta["warnings"]
        document["refused"] = catalog.meta.get("refused", {"rows": 0, "reasons": []})
    if size is not None:
        document["extent"] = {"spatial": {"bbox": [[0, 0, size[4], size[3]]], "crs": crs}}
    return document


def queryables_document(layer: Layer, catalog: Catalog, base: str) -> dict[str, Any]:
    """The properties that `items` can be filtered by, as a JSON schema (OGC API - Features - Part 3, 6.2)."""
    path = collection_path(layer.image.id, layer.collection)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{base}{path}/queryables",
        "type": "object",
        "title": layer.name,
        "properties": {
            "geometry": {"format": "geometry-any", "description": "by bbox"},
            "label": {"type": "integer"},
            **{axis: {"type": "integer", "minimum": 0} for axis in ("z", "t", "c")},
            **{name: {"type": "number", "minimum": 0} for name in MEASURES},
            **{name: {"type": kind} for name, kind in _types_of(catalog).items()},
        },
        "additionalProperties": False,
    }


def _types_of(catalog: Catalog) -> dict[str, str]:
    """JSON types of the properties that can be compared, by the names of the parameters that do so."""
    kinds = {
        pa.bool_(): "boolean",
        pa.int64(): "integer",
        pa.float64(): "number",
        pa.string(): "string",
    }
    return {
        f"property:{name}" if name in ITEMS | IGNORED else name: kinds[column.type]
        for name, column in catalog.properties.items()
        if column.type in kinds
    }


def problems_of(listing: LayerListing) -> list[dict[str, str]]:
    """Layers that cannot be served, each with its reason."""
    return [{"layer": problem.part, "reason": reason_of(problem)} for problem in listing.problems]


def _item_links(path: str) -> list[Link]:
    """One link `items` per media type: of several with one type, GDAL takes the last."""
    links = [link("items", path, GEOJSON, "geojson")]
    types = {GEOJSON}
    for name, each in FORMATS.items():
        if name != "geojson":
            rel = "alternate" if each.media_type in types else "items"
            links.append(link(rel, f"{path}?f={name}", each.media_type, name))
            types.add(each.media_type)
    return links
