"""Features with as much of their geometry as a client wants to draw."""

from __future__ import annotations

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
from roiservice.query.subsets import Rows, Span
from roiservice.records import dataclass

SIMPLIFIED_VERTICES = 2**22  # of features and their neighbours that are in memory at once
SIMPLIFIED_IN_ALL = 2 * SIMPLIFIED_VERTICES  # of a page and its neighbours on one plane
RUN_VERTICES = 2**13  # of the features of a page that are simplified together

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
    order = np.argsort(rows)  # along the Hilbert curve
    groups = _groups(catalog, rows[order], span, tolerance)
    scale = (catalog.frame.scale_x, catalog.frame.scale_y)
    pieces = [simplified(gathered(catalog, group), count, tolerance, scale) for group, count in groups]
    joined = pieces[0] if len(pieces) == 1 else Polygons.joined(pieces)
    return joined.take(np.argsort(order))


def _groups(catalog: Catalog, rows: Rows, plane: Span, tolerance: float) -> list[tuple[Rows, int]]:
    """Rows of features that are simplified together, the page's own first, and how many these are.

    Each piece of a border is simplified in the same way whatever else is, so what is in memory at once need
    not grow with the page. Features of one run lie close together: fewer are taken for neighbours by mistake.
    """
    own = vertex_counts(catalog, rows)
    run = (np.cumsum(own) - own) // RUN_VERTICES
    runs = np.split(rows, np.flatnonzero(np.diff(run)) + 1)
    groups = [(_with_neighbours(catalog, some, plane, tolerance), len(some)) for some in runs]
    every = np.concatenate([group for group, _ in groups])
    total = int(vertex_counts(catalog, every).sum())
    if len(runs) > 1:
        whole = np.concatenate((rows, np.setdiff1d(every, rows)))
        vertices = int(vertex_counts(catalog, whole).sum())
        if 2 * vertices < total and vertices <= SIMPLIFIED_VERTICES:  # one that is large adjoins all
            return [(whole, len(rows))]
    _check_size(total, SIMPLIFIED_IN_ALL)
    return groups


def _with_neighbours(catalog: Catalog, rows: Rows, plane: Span, tolerance: float) -> Rows:
    """The rows, then their neighbours."""
    boxes = catalog.features["box"][rows]
    # A new line never leaves the box of its feature: no tolerance makes those beyond it neighbours.
    reach = min(tolerance, float(np.hypot(*(boxes[:, 2:] - boxes[:, :2]).T).max()))
    _check_size(int(vertex_counts(catalog, rows).sum()), SIMPLIFIED_VERTICES)
    near = neighbours(catalog, rows, gathered(catalog, rows).in_image(catalog.frame), plane, reach)
    group = np.concatenate((rows, near))
    _check_size(int(vertex_counts(catalog, group).sum()), SIMPLIFIED_VERTICES)
    return group


def _check_size(vertices: int, allowed: int) -> None:
    if vertices > allowed:
        raise BadParameter(
            "simplify",
            f"the page and its neighbours have {vertices} vertices or more; {allowed} are allowed at once:"
            " ask for fewer features, or a smaller tolerance",
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
