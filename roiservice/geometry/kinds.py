"""What a feature is drawn as: most are polygons; tables also have the other shapes of the field."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.polygons import Measures, Polygons, measure, to_shapely

# A feature's kind, and how its vertices are kept in `Polygons`. Every kind has an outline or a line there, so
# that boxes, search and formats that know polygons and lines alone need no other account of it.
POLYGON = 0  # any number of parts, each an exterior and its holes
RECTANGLE = 1  # one part of four vertices, sides parallel to the axes: its box says all
ELLIPSE = 2  # one part, an outline that touches its box where the ellipse does: its box says all
POINT = 3  # one or more parts of one ring of one vertex
LINE = 4  # one part of one ring of two vertices, not closed
POLYLINE = 5  # one or more parts of one ring of two or more vertices, not closed

NAMES = ("Polygon", "Rectangle", "Ellipse", "Point", "Line", "Polyline")

ELLIPSE_VERTICES = 64  # of an ellipse's outline; a multiple of 4, so that it touches its box


def is_open(kind: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which features of these kinds have no interior: points and lines."""
    return np.asarray(kind >= POINT)


def ellipse_outlines(
    centers: NDArray[Any], radii: NDArray[Any], vertices: int = ELLIPSE_VERTICES
) -> NDArray[np.float64]:
    """(n, vertices, 2) outlines of ellipses with `centers` (n, 2) and `radii` (n, 2), as (x, y).

    Unclosed, of positive signed area with y down, and starting at the top; the box of each is exactly
    centre +- radius.
    """
    angle = 2 * np.pi * np.arange(vertices) / vertices
    direction = np.stack([np.sin(angle), -np.cos(angle)], axis=1)
    direction[:: vertices // 4] = np.rint(direction[:: vertices // 4])  # sin(pi) is not quite 0
    outlines: NDArray[np.float64] = centers[:, None, :] + radii[:, None, :] * direction
    return outlines


def measure_kinds(polygons: Polygons, kind: NDArray[np.uint8]) -> Measures:
    """Measures of shapes of these kinds, in the unit of the coordinates.

    An ellipse's area and perimeter are its own, not those of its outline (the perimeter by Ramanujan's second
    approximation). Points and lines have no area, their centroid is the mean of their vertices, and the
    perimeter of a line is its length.
    """
    measures = measure(polygons)
    ellipses = np.flatnonzero(kind == ELLIPSE)
    opened = np.flatnonzero(is_open(kind))
    if len(ellipses):
        box = measures.boxes[ellipses]
        a, b = (box[:, 2] - box[:, 0]) / 2, (box[:, 3] - box[:, 1]) / 2
        h = ((a - b) / np.maximum(a + b, np.finfo(float).tiny)) ** 2
        measures.area[ellipses] = np.pi * a * b
        measures.perimeter[ellipses] = np.pi * (a + b) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h)))
        measures.centroid[ellipses] = (box[:, :2] + box[:, 2:]) / 2
    if len(opened):
        _measure_open(polygons.take(opened), opened, measures)
    return measures


def _measure_open(lines: Polygons, features: NDArray[np.int64], measures: Measures) -> None:
    xy = lines.xy.astype(np.float64)  # differences of integers may be too large for their type
    steps = np.hypot(*np.diff(xy, axis=0, prepend=xy[:1]).T)
    steps[lines.vertex_offsets[:-1]] = 0  # from one line to the next there is no step
    first = lines.vertex_offsets[lines.ring_offsets[lines.part_offsets[:-1]]]
    count = np.diff(np.append(first, len(xy)))
    measures.area[features] = 0
    measures.perimeter[features] = np.add.reduceat(steps, first)
    measures.centroid[features] = np.add.reduceat(xy, first, axis=0) / count[:, None]


def geometries(polygons: Polygons, kind: NDArray[np.uint8]) -> NDArray[Any]:
    """(f,) shapely geometries of features of these kinds: an ellipse is its outline."""
    opened = np.flatnonzero(is_open(kind))
    if not len(opened):
        return to_shapely(polygons)
    out = np.empty(len(kind), object)
    outlined = np.flatnonzero(~is_open(kind))
    out[outlined] = to_shapely(polygons.take(outlined))
    for number in opened.tolist():
        out[number] = _open_geometry(polygons, number, bool(kind[number] == POINT))
    return out


def open_parts(polygons: Polygons, feature: int) -> list[NDArray[Any]]:
    """Vertices, (v, 2), of each part of a feature of points or lines, whose parts have one ring."""
    rings = polygons.ring_offsets[polygons.part_offsets[feature] : polygons.part_offsets[feature + 1] + 1]
    return [polygons.xy[a:b] for a, b in pairwise(polygons.vertex_offsets[rings].tolist())]


def _open_geometry(polygons: Polygons, feature: int, points: bool) -> Any:
    import shapely

    parts = open_parts(polygons, feature)
    if points:
        return shapely.multipoints(np.concatenate(parts)) if len(parts) > 1 else shapely.points(parts[0][0])
    lines = [shapely.linestrings(part) for part in parts]
    return shapely.multilinestrings(lines) if len(lines) > 1 else lines[0]
