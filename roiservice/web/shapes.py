"""Shapes by their ids: which catalog has them, and what can be told of the pixels below them."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from itertools import groupby

from roiservice.catalog.reader import Catalog
from roiservice.catalog.registry import FIRST_ID, ROIS
from roiservice.errors import (
    BadParameter,
    Gone,
    NotFound,
    RoiServiceError,
    SourceRefused,
    Unauthorized,
    Unavailable,
)
from roiservice.layers import Layer
from roiservice.query.moments import Moments
from roiservice.query.stats import PlacedShape, placed_shapes, shape_stats
from roiservice.records import dataclass
from roiservice.sources.pixels import ImagePixels
from roiservice.web.access import layer_of
from roiservice.web.pages import AT_ONCE
from roiservice.web.routes import services

MOST_LAYERS = 50  # whose shapes are measured in one request
_MEASURED = threading.BoundedSemaphore(AT_ONCE)  # requests whose pixels are in memory
Stats = dict[str, list[dict[str, int | float | None]]]


@dataclass(frozen=True)
class ShapePlace:
    """The layer that a shape belongs to, with the catalog that has it."""

    layer: Layer
    catalog: Catalog


def place_of(shape_id: int) -> ShapePlace:
    """Where a shape is, if the caller may read its image; whether there is such a shape is not looked at.

    Raises NotFound, Gone for shapes of a replaced version, and what keeps a layer from being served.
    """
    layer, place = layer_of("shape", shape_id)
    catalog = services().layers.catalog(layer)
    if catalog.version != place.version:
        raise Gone(f"shape {shape_id} belongs to a version of the layer that has been replaced")
    return ShapePlace(layer, catalog)


def stats_of(
    ids: Sequence[int], z: int, t: int, channels: Sequence[int] | None
) -> tuple[Stats, tuple[int, ...]]:
    """Statistics by shape id, as OMERO.iviewer reads them, of shapes of ours that the caller may read.

    Shapes that lie on every z or t are measured on the one given; `channels` None: all of the image. Shapes
    that are not there, or whose layer cannot be served now, are left out; if that is all, the reason of the
    first is raised. Those that are too large to be measured with the others are left out and named. Raises
    what keeps the image's pixels from being read, and BadParameter for shapes of several images, channels
    that the image does not have, and too much work; Unauthorized and Unavailable.
    """
    shapes: dict[int, PlacedShape] = {}
    places: list[ShapePlace] = []
    failures: list[RoiServiceError] = []
    layers = _by_version(ids)
    if len(layers) > MOST_LAYERS:  # of each it is asked whether the caller may read it
        raise BadParameter("ids", f"are of {len(layers)} layers; {MOST_LAYERS} are allowed in one request")
    for some in layers:
        try:
            place = place_of(some[0])
        except (Unauthorized, Unavailable):
            raise  # will be the same for all others
        except RoiServiceError as error:
            failures.append(error)
            continue
        placed = placed_shapes(place.catalog, some, z, t)
        if placed:
            places.append(place)
            shapes |= placed
    if not shapes:
        raise next(iter(failures), NotFound(f"there is no shape {', '.join(map(str, ids[:5]))}"))
    pixels = _pixels(places)
    asked = range(pixels.sizes[1]) if channels is None else channels
    with _MEASURED:
        found = dict(zip(shapes, shape_stats(pixels, list(shapes.values()), asked), strict=True))
    documents = {
        str(number): [_document(channel, each) for channel, each in zip(asked, measured, strict=True)]
        for number in ids
        if (measured := found.get(number)) is not None
    }
    return documents, tuple(number for number, measured in found.items() if measured is None)


def _by_version(ids: Sequence[int]) -> list[list[int]]:
    """Ids of one catalog version together."""
    return [list(some) for _, some in groupby(sorted(set(ids)), lambda each: (each - FIRST_ID) // ROIS)]


def _pixels(places: Sequence[ShapePlace]) -> ImagePixels:
    """The pixels of the image that all these layers are of."""
    image = places[0].layer.image
    if any(place.layer.image.id != image.id for place in places):
        raise BadParameter("ids", "the shapes are of several images; ask for those of one at a time")
    pixels = services().layers.pixels(image)
    for place in places:
        if place.catalog.image_size != pixels.sizes:
            reason = "lies on pixels other than those of its image"
            raise SourceRefused(image.source.location, place.layer.source.path, reason)
    return pixels


def _document(channel: int, found: Moments) -> dict[str, int | float | None]:
    """As OMERO.iviewer reads it; null for what is no number, and for all but the count of no pixels."""
    values = (found.least, found.greatest, found.total, found.mean, found.deviation)
    names = ("min", "max", "sum", "mean", "std_dev")
    known = values if found.count else (None,) * len(names)
    return {"index": channel, "points": found.count, **dict(zip(names, map(_number, known), strict=True))}


def _number(value: int | float | None) -> int | float | None:
    """The value as JSON has it: null for NaN and infinity, whole numbers beyond 64 bits rounded."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, float) or -(2**63) <= value < 2**64 else float(value)
