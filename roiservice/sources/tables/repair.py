"""Invalid polygons made valid, as far as that takes no more than its share of time and memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled

# Edges make new vertices where they cross, up to the square of their number; a thousand edges that all cross
# each other keep GEOS busy for seconds. Drawn or traced outlines are far below these bounds.
_CROSSINGS_PER_EDGE = 10
_CROSSINGS = 10_000
_STEPS_PER_CROSSING = 100
_AT_ONCE = 1000

TANGLED = "the polygon crosses itself too often to be repaired"
NO_AREA = "the polygon has no area"


def repaired_polygons(polygons: NDArray[Any], most_vertices: int) -> tuple[NDArray[Any], list[str | None]]:
    """(n,) valid Polygons and MultiPolygons of the same areas, and None or the reason why there is none.

    By GEOS's "structure": rings are made valid each, then exteriors are united and holes cut out. Lines and
    points that remain of collapsed parts are dropped. Once the results have more than `most_vertices`, the
    rest is not repaired.
    """
    out = np.full(len(polygons), None, object)
    failures: list[str | None] = [NO_AREA] * len(polygons)
    tangled = _tangled(polygons)
    for index in np.flatnonzero(tangled).tolist():
        failures[index] = TANGLED
    sane = np.flatnonzero(~tangled)
    for start in range(0, len(sane), _AT_ONCE):
        some = sane[start : start + _AT_ONCE]
        if most_vertices < 0:
            for index in some.tolist():
                failures[index] = "repaired polygons would have too many vertices"
            continue
        mended = _made_valid(polygons[some])
        good = np.flatnonzero(shapely.area(mended) > 0)
        out[some[good]] = mended[good]
        for index in some[good].tolist():
            failures[index] = None
        most_vertices -= int(shapely.get_num_coordinates(mended).sum())
    return out, failures


def _made_valid(polygons: NDArray[Any]) -> NDArray[Any]:
    try:
        return np.asarray(_areas_of(shapely.make_valid(polygons, method="structure", keep_collapsed=False)))
    except shapely.errors.GEOSException:
        if len(polygons) == 1:
            return np.full(1, None, object)
        return np.concatenate([_made_valid(polygons[i : i + 1]) for i in range(len(polygons))])


def _areas_of(geometries: NDArray[Any]) -> NDArray[Any]:
    """Polygons as they are; of collections, their polygons.

    GEOS leaves two parts with a common edge where a ring goes along its own diagonal twice: they are united.
    """
    for index in np.flatnonzero(shapely.get_type_id(geometries) == shapely.GeometryType.GEOMETRYCOLLECTION):
        parts = shapely.get_parts(geometries[index])
        geometries[index] = shapely.union_all(parts[shapely.get_dimensions(parts) == 2])
    for index in np.flatnonzero(~shapely.is_valid(geometries)):
        united = shapely.union_all(shapely.get_parts(geometries[index]))
        geometries[index] = united if united.is_valid else shapely.Polygon()
    return geometries


def _tangled(polygons: NDArray[Any]) -> NDArray[np.bool_]:
    """Which polygons have so many edges with overlapping boxes that repairing them might take very long."""
    parts, of_polygon = shapely.get_parts(polygons, return_index=True)
    rings, of_part = shapely.get_rings(parts, return_index=True)
    xy, of_ring = shapely.get_coordinates(rings, return_index=True)
    edge = of_ring[1:] == of_ring[:-1]
    boxes = np.concatenate([np.minimum(xy[1:], xy[:-1]), np.maximum(xy[1:], xy[:-1])], axis=1)[edge]
    number = of_polygon[of_part[of_ring[1:][edge]]]
    order = np.lexsort((boxes[:, 0], number))
    offsets = np.searchsorted(number, np.arange(len(polygons) + 1))
    return np.asarray(_overlap_often(boxes[order], offsets))


@compiled
def _overlap_often(boxes: Any, offsets: Any) -> Any:
    """Whether the boxes (x0, y0, x1, y1) of each group, ascending in x0, overlap more often than allowed."""
    often = np.zeros(offsets.size - 1, np.bool_)
    for group in range(offsets.size - 1):
        first, end = offsets[group], offsets[group + 1]
        allowed = _CROSSINGS + _CROSSINGS_PER_EDGE * (end - first)
        steps = _STEPS_PER_CROSSING * allowed
        for i in range(first, end):
            j = i + 1
            while j < end and boxes[j, 0] <= boxes[i, 2] and not often[group]:
                if boxes[j, 1] <= boxes[i, 3] and boxes[i, 1] <= boxes[j, 3]:
                    allowed -= 1
                steps -= 1
                often[group] = allowed < 0 or steps < 0
                j += 1
            if often[group]:
                break
    return often
