"""What a feature is drawn as: most are polygons; tables also have the other shapes of the field."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
