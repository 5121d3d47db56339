"""How outlines are drawn: exactly along pixel edges, or simplified, or smooth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled
from roiservice.geometry.polygons import Polygons, from_shapely, to_shapely
from roiservice.records import dataclass


@dataclass(frozen=True)
class Outline:
    """Options of outlines: all off is exact.

    `min_area` in image pixels per feature; `simplify` a tolerance in layer pixels; `smooth` for sub-pixel
    contours. `simplify` and `smooth` exclude each other.
    """

    min_area: float = 0.0
    simplify: float = 0.0
    smooth: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether outlines are drawn along pixel edges."""
        return not (self.simplify or self.smooth)

    def key(self) -> str:
        """Text that is equal for equal options, part of what names a catalog version."""
        return f"min_area={self.min_area!r},simplify={self.simplify!r},smooth={self.smooth!r}"


def redraw(polygons: Polygons, outline: Outline) -> Polygons:
    """Exact lattice polygons, simplified or smoothed as `outline` says; as many features, all valid."""
    if not len(polygons):
        return polygons
    if outline.smooth:
        return _smooth(polygons)
    if outline.simplify:
        return _simplify(polygons, outline.simplify)
    return polygons


def _simplify(polygons: Polygons, tolerance: float) -> Polygons:
    """Simplify shared borders once, so that touching objects neither part nor overlap.

    `shapely.coverage_simplify` needs a vertex wherever a neighbour's border begins, hence unit edges. Its
    tolerance is the square root of the area of the triangles it takes away (Visvalingam-Whyatt).
    """
    import shapely

    unit = _on_lattice(shapely.segmentize(to_shapely(polygons), 1.0))
    return from_shapely(_areal(shapely.coverage_simplify(unit, tolerance), unit))


def _on_lattice(shapes: NDArray[Any]) -> NDArray[Any]:
    """Shapes whose vertices are put back on the lattice they were interpolated from."""
    import shapely

    return np.asarray(shapely.transform(shapes, np.round))


def _areal(shapes: NDArray[Any], fallback: NDArray[Any]) -> NDArray[Any]:
    """Valid polygons or multipolygons; where nothing with an area is left, the shape of `fallback`."""
    import shapely

    shapes, invalid = shapes.copy(), ~shapely.is_valid(shapes)
    # Without the lines that parts of some areas shrink to.
    shapes[invalid] = shapely.make_valid(shapes[invalid], method="structure", keep_collapsed=False)
    lost = shapely.is_empty(shapes)
    shapes[lost] = fallback[lost]
    return shapes


def _smooth(polygons: Polygons) -> Polygons:
    """Sub-pixel contours at half height of each feature's own mask, as marching squares draws them.

    That joins the middles of unit edges (Lorensen and Cline 1987, in two dimensions): a straight edge stays
    where it was, corners are cut. Of a straight edge the first and the last middle are enough. Rings that
    touch at a corner part there, each to its own side, so all stays valid.
    """
    end = polygons.xy[_following(polygons.vertex_offsets)].astype(np.float64)
    step = end - polygons.xy
    length = np.abs(step).sum(axis=1)
    half = step / (2 * length)[:, None]
    middles = np.stack([polygons.xy + half, end - half], axis=1)
    kept = np.stack([np.ones(len(length), bool), length > 1], axis=1)  # a unit edge has one middle
    before = np.r_[0, np.cumsum(kept.sum(axis=1))]
    return replace(polygons, xy=middles[kept], vertex_offsets=before[polygons.vertex_offsets])


def _following(vertex_offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row of the vertex that follows each one in its ring."""
    following = np.arange(1, vertex_offsets[-1] + 1)
    following[vertex_offsets[1:] - 1] = vertex_offsets[:-1]
    return following


@compiled
def fill_rings(xy: Any, offsets: Any, x0: int, y0: int, mask: Any) -> None:
    """Set the pixels of `mask` (h, w), its corner at (x0, y0), that lattice rings fill by the even-odd rule.

    Each vertical unit edge toggles the row from its column on; all rings must lie inside the mask.
    """
    for r in range(offsets.size - 1):
        lo, hi = offsets[r], offsets[r + 1]
        px, py = xy[hi - 1, 0], xy[hi - 1, 1]
        for v in range(lo, hi):
            x, y = xy[v, 0], xy[v, 1]
            if x == px:
                for row in range(min(y, py), max(y, py)):
                    mask[row - y0, x - x0] ^= 1
            px, py = x, y
    for row in range(mask.shape[0]):
        for column in range(1, mask.shape[1]):
            mask[row, column] ^= mask[row, column - 1]
