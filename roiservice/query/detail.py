"""Features with as much of their geometry as a client wants to draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.outlines import vertex_counts
from roiservice.catalog.reader import Catalog
from roiservice.errors import BadParameter
from roiservice.geometry.features import Features
from roiservice.geometry.kinds import LINE, POINT, POLYGON
from roiservice.geometry.polygons import Polygons
from roiservice.geometry.simplify import simplified
from roiservice.query.columns import gathered, read_features
from roiservice.query.neighbours import neighbours
from roiservice.query.subsets import Rows

SIMPLIFIED_VERTICES = 2**22  # of a page and its neighbours on one plane

Drawn = tuple[Polygons, NDArray[np.uint8]]  # in image pixels, and of what kind each is

EXACT, CENTROID, BBOX, NONE = GEOMETRIES = ("exact", "centroid", "bbox", "none")


@dataclass(frozen=True)
class Detail:
    """One of `GEOMETRIES`; with `EXACT`, a tolerance in image pixels to simplify polygons by, 0 for none."""

    geometry: str = EXACT
    simplify: float = 0.0


FULL = Detail()


def read_detailed(catalog: Catalog, rows: Rows, detail: Detail = FULL) -> Features:
    """The features of these rows, in that order; measures are always those of the exact outlines.

    Of `BBOX` and `CENTROID`, boxes without an area are points or lines. `NONE` leaves features without parts.
    """
    if detail == FULL or not len(rows):
        return read_features(catalog, rows)
    if detail.geometry == EXACT:
        return read_features(catalog, rows, _simplified(catalog, rows, detail.simplify))
    if detail.geometry == CENTROID:
        return read_features(catalog, rows, _centroids(catalog.features["centroid"][rows]))
    if detail.geometry == BBOX:
        return read_features(catalog, rows, _boxes(catalog.features["box"][rows]))
    nothing, kind = np.zeros(1, np.int64), np.full(len(rows), POLYGON, np.uint8)
    none = Polygons(np.empty((0, 2), np.int32), nothing, nothing, np.zeros(len(rows) + 1, np.int64))
    return read_features(catalog, rows, (none, kind))


def _simplified(catalog: Catalog, rows: Rows, tolerance: float) -> Drawn:
    """Polygons simplified plane by plane, each with its neighbours there; other kinds as they are."""
    kind = catalog.features["kind"][rows]
    plane_of = np.searchsorted(catalog.planes["first"], rows, side="right") - 1
    order, pieces = [], []
    others = np.flatnonzero(kind != POLYGON)
    if len(others):
        order.append(others)
        pieces.append(gathered(catalog, rows[others]))
    for plane in np.unique(plane_of).tolist():
        here = np.flatnonzero((plane_of == plane) & (kind == POLYGON))
        if len(here):
            order.append(here)
            pieces.append(_of_plane(catalog, rows[here], plane, tolerance))
    joined = pieces[0] if len(pieces) == 1 else Polygons.joined(pieces)
    return joined.take(np.argsort(np.concatenate(order))).in_image(catalog.frame), kind


def _of_plane(catalog: Catalog, rows: Rows, plane: int, tolerance: float) -> Polygons:
    first = int(catalog.planes["first"][plane])
    span = (first, first + int(catalog.planes["count"][plane]))
    boxes = catalog.features["box"][rows]
    # A new line never leaves the box of its feature: no tolerance makes those beyond it neighbours.
    reach = min(tolerance, float(np.hypot(*(boxes[:, 2:] - boxes[:, :2]).T).max()))
    _check_size(catalog, rows)
    near = neighbours(catalog, rows, gathered(catalog, rows).in_image(catalog.frame), span, reach)
    wanted = np.concatenate((rows, near))
    _check_size(catalog, wanted)
    polygons = gathered(catalog, wanted)
    scale = (catalog.frame.scale_x, catalog.frame.scale_y)
    return simplified(polygons, len(rows), tolerance, scale)


def _check_size(catalog: Catalog, rows: Rows) -> None:
    vertices = int(vertex_counts(catalog, rows).sum())
    if vertices > SIMPLIFIED_VERTICES:
        raise BadParameter(
            "simplify",
            f"the page and its neighbours have {vertices} vertices, more than the {SIMPLIFIED_VERTICES} that"
            " can be simplified at once: ask for fewer features, or a smaller tolerance",
        )


def _centroids(centroids: NDArray[np.float64]) -> Drawn:
    each = np.arange(len(centroids) + 1)
    return Polygons(centroids, each, each, each), np.full(len(centroids), POINT, np.uint8)


def _boxes(boxes: NDArray[np.float64]) -> Drawn:
    """Boxes as polygons of positive signed area."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    flat = (boxes[:, 0] == boxes[:, 2]).astype(np.int64) + (boxes[:, 1] == boxes[:, 3])
    kind = np.array([POLYGON, LINE, POINT], np.uint8)[flat]
    size = np.array([4, 2, 1])[flat]
    corners[flat == 1, 1] = corners[flat == 1, 2]  # the other end
    kept = np.arange(4) < size[:, None]
    each = np.arange(len(boxes) + 1)
    return Polygons(corners[kept], np.r_[0, np.cumsum(size)], each, each), kind
