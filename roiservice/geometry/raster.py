"""Which pixels a shape covers: exact masks on the image's pixel grid.

Pixel (row i, column j) belongs to an outline if its centre (j + 0.5, i + 0.5) lies inside. Outlines are
half-open: of two that share a border, one has a centre that lies on it. So an outline along pixel edges gives
exactly the mask that it was traced from.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled
from roiservice.geometry.kinds import ELLIPSE, POINT, is_open
from roiservice.geometry.polygons import Polygons
from roiservice.records import dataclass

_FARTHEST = 2.0**53  # boxes of shapes beyond are cut there, where neighbouring pixels can still be told apart


class PixelBox(NamedTuple):
    """Columns [x0, x1) and rows [y0, y1)."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        """Columns."""
        return max(self.x1 - self.x0, 0)

    @property
    def height(self) -> int:
        """Rows."""
        return max(self.y1 - self.y0, 0)

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height

    def cut_to(self, other: PixelBox) -> PixelBox:
        """What both boxes hold; without pixels where they do not meet."""
        return PixelBox(
            max(self.x0, other.x0), max(self.y0, other.y0), min(self.x1, other.x1), min(self.y1, other.y1)
        )


@dataclass(frozen=True, eq=False)
class Shape:
    """One part of a feature.

    `kind` is one of `roiservice.geometry.kinds`; `xy` (v, 2) float64 at pixel edges, ring r being
    `xy[rings[r]:rings[r + 1]]`, unclosed, exterior first; `box` holds all of its pixels.
    """

    kind: int
    xy: NDArray[np.float64]
    rings: NDArray[np.int64]
    box: PixelBox


def part_boxes(polygons: Polygons, kind: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(p, 4) pixel boxes (x0, y0, x1, y1) of all parts, half-open and at least one pixel wide and high.

    `kind` (f,) is that of the features. Outlines reach from pixel edge to pixel edge; points and lines to the
    pixel that holds their last coordinate.
    """
    if len(polygons.ring_offsets) == 1:
        return np.empty((0, 4), np.int64)
    first = polygons.vertex_offsets[polygons.ring_offsets[:-1]]
    low = np.floor(np.clip(np.minimum.reduceat(polygons.xy, first, axis=0), -_FARTHEST, _FARTHEST))
    high = np.clip(np.maximum.reduceat(polygons.xy, first, axis=0), -_FARTHEST, _FARTHEST)
    of_part = np.repeat(kind, np.diff(polygons.part_offsets))
    high = np.where(is_open(of_part)[:, None], np.floor(high) + 1, np.maximum(np.ceil(high), low + 1))
    return np.concatenate([low, high], axis=1).astype(np.int64)


def shapes_of(polygons: Polygons, kind: NDArray[np.uint8]) -> list[Shape]:
    """Every part as a shape; `kind` (f,) is that of the features."""
    boxes = part_boxes(polygons, kind).tolist()
    kinds = np.repeat(kind, np.diff(polygons.part_offsets)).tolist()
    xy = np.ascontiguousarray(polygons.xy, np.float64)
    shapes = []
    for part, box in enumerate(boxes):
        rings = polygons.vertex_offsets[polygons.ring_offsets[part] : polygons.ring_offsets[part + 1] + 1]
        shapes.append(Shape(kinds[part], xy[rings[0] : rings[-1]], rings - rings[0], PixelBox(*box)))
    return shapes


def mask_of(shape: Shape, box: PixelBox) -> NDArray[np.bool_]:
    """(box.height, box.width) bool: which pixels of `box` the shape covers.

    Of an outline those whose centre is inside by the even-odd rule; of an ellipse those whose centre fits its
    equation; of a point the pixel that holds it; of a line one pixel per column, or per row where it is
    steep, from the pixel of its first end to that of its last. Needs no memory beyond the mask.
    """
    mask = np.zeros((box.height, box.width), np.bool_)
    if not box.pixels:
        return mask
    if shape.kind == ELLIPSE:
        _fill_ellipse(shape, box, mask)
    elif shape.kind >= POINT:
        _draw(shape.xy, shape.rings, box.x0, box.y0, mask)
    else:
        _fill(shape.xy, shape.rings, box.x0, box.y0, mask)
    return mask


def _fill_ellipse(shape: Shape, box: PixelBox, mask: NDArray[np.bool_]) -> None:
    """Its outline touches the box of the ellipse, which says all of it."""
    (x0, y0), (x1, y1) = shape.xy.min(axis=0), shape.xy.max(axis=0)
    radius_x, radius_y = (x1 - x0) / 2, (y1 - y0) / 2
    if radius_x <= 0 or radius_y <= 0:
        return
    rows = (np.arange(box.y0, box.y1) + 0.5 - (y0 + y1) / 2) / radius_y
    columns = np.abs(np.arange(box.x0, box.x1) + 0.5 - (x0 + x1) / 2)
    inside = np.abs(rows) <= 1
    reach = radius_x * np.sqrt(1 - rows[inside] ** 2)
    mask[inside] = columns <= reach[:, None]


@compiled
def _fill(xy: Any, rings: Any, x0: int, y0: int, mask: Any) -> None:
    """Toggle, in every row, the first pixel whose centre is right of an edge; then sum up from the left."""
    height, width = mask.shape
    for r in range(rings.size - 1):
        ax, ay = xy[rings[r + 1] - 1, 0], xy[rings[r + 1] - 1, 1]
        for v in range(rings[r], rings[r + 1]):
            bx, by = xy[v, 0], xy[v, 1]
            # From the upper end, whichever way it runs: neighbours' common border crosses rows in one place.
            tx, ty, lx, ly = (ax, ay, bx, by) if ay < by else (bx, by, ax, ay)
            ax, ay = bx, by
            first = max(math.ceil(max(ty - 0.5, -_FARTHEST)), y0)
            last = min(math.ceil(min(ly - 0.5, _FARTHEST)), y0 + height)
            for i in range(first, last):
                x = tx + (i + 0.5 - ty) * ((lx - tx) / (ly - ty))
                if x - 0.5 <= x0 + width - 1:
                    j = max(math.ceil(max(x - 0.5, -_FARTHEST)) - x0, 0)
                    mask[i - y0, j] = not mask[i - y0, j]
    for i in range(height):
        inside = False
        for j in range(width):
            inside = inside != mask[i, j]
            mask[i, j] = inside


@compiled
def _draw(xy: Any, rings: Any, x0: int, y0: int, mask: Any) -> None:
    """The pixels of points and lines."""
    for r in range(rings.size - 1):
        for v in range(rings[r], rings[r + 1]):
            u = v - 1 if v > rings[r] else v  # a line's first vertex, or a point: a step to itself
            ux, uy, vx, vy = np.floor(xy[u, 0]), np.floor(xy[u, 1]), np.floor(xy[v, 0]), np.floor(xy[v, 1])
            flat = abs(vx - ux) >= abs(vy - uy)
            start, other, end, far = (ux, uy, vx, vy) if flat else (uy, ux, vy, vx)
            if start > end:
                start, other, end, far = end, far, start, other
            slope = (far - other) / (end - start) if end > start else 0.0
            origin, room = (x0, mask.shape[1]) if flat else (y0, mask.shape[0])
            first = math.floor(max(start, float(origin)))
            last = math.floor(min(end, float(origin + room - 1)))
            for k in range(first, last + 1):
                across = min(max(np.floor(other + (k - start) * slope + 0.5), -_FARTHEST), _FARTHEST)
                i, j = (int(across) - y0, k - x0) if flat else (k - y0, int(across) - x0)
                if 0 <= i < mask.shape[0] and 0 <= j < mask.shape[1]:
                    mask[i, j] = True
