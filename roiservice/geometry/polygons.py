"""Polygons of many features as ragged arrays, and what can be measured on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled
from roiservice.geometry.grouping import members
from roiservice.records import dataclass

if TYPE_CHECKING:
    from roiservice.geometry.frames import Frame

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Polygons:
    """The (multi)polygons of f features.

    `xy` (v, 2) int32 lattice points or float64, (x, y) at pixel edges, y down, rings unclosed. Ring r is
    `xy[vertex_offsets[r]:vertex_offsets[r + 1]]`; part p has the rings `ring_offsets[p]` to
    `ring_offsets[p + 1]`, exterior first (positive signed area in the numbers as given), then holes
    (negative); feature i has the parts `part_offsets[i]` to `part_offsets[i + 1]`. All offsets int64.
    """

    xy: NDArray[Any]
    vertex_offsets: Int64
    ring_offsets: Int64
    part_offsets: Int64

    @staticmethod
    def empty() -> Polygons:
        """No features."""
        nothing = np.zeros(1, np.int64)
        return Polygons(np.empty((0, 2), np.int32), nothing, nothing, nothing)

    @staticmethod
    def joined(pieces: Sequence[Polygons]) -> Polygons:
        """The features of all pieces, one after another; at least one piece, vertices of one dtype."""

        def running(offsets: Iterable[Int64]) -> Int64:
            return np.asarray(np.r_[0, np.cumsum(np.concatenate([np.diff(each) for each in offsets]))])

        return Polygons(
            np.concatenate([each.xy for each in pieces]),
            running(each.vertex_offsets for each in pieces),
            running(each.ring_offsets for each in pieces),
            running(each.part_offsets for each in pieces),
        )

    def __len__(self) -> int:
        return len(self.part_offsets) - 1

    def take(self, features: Int64) -> Polygons:
        """The features of these numbers, in that order; arrays are copied."""
        features = np.asarray(features, np.int64)
        parts, part_offsets = members(self.part_offsets, features)
        rings, ring_offsets = members(self.ring_offsets, parts)
        vertices, vertex_offsets = members(self.vertex_offsets, rings)
        return Polygons(self.xy[vertices], vertex_offsets, ring_offsets, part_offsets)

    def alike(self, others: Polygons) -> NDArray[np.bool_]:
        """(f,) whether each feature is made of the same numbers as that of `others`, of as many features."""
        own = (self.xy, self.vertex_offsets, self.ring_offsets, self.part_offsets)
        theirs = (others.xy, others.vertex_offsets, others.ring_offsets, others.part_offsets)
        return np.asarray(_alike(*own, *theirs))

    def in_raster_order(self, features: NDArray[np.bool_]) -> Polygons:
        """With the parts of the chosen `features` (f,), and each part's holes, sorted by their first vertex.

        By y, then x: where rings start at their topmost, then leftmost vertex, equal shapes are equal arrays.
        """
        if len(self.ring_offsets) == len(self.part_offsets) == len(self.vertex_offsets):
            return self  # a ring each
        first = self.xy[self.vertex_offsets[:-1]]
        of_part = np.repeat(np.arange(len(self.ring_offsets) - 1), np.diff(self.ring_offsets))
        of_feature = np.repeat(np.arange(len(self)), np.diff(self.part_offsets))
        exterior = first[self.ring_offsets[:-1]] * features[of_feature, None]
        parts = np.lexsort((exterior[:, 0], exterior[:, 1], of_feature))
        rank = np.empty(len(parts), np.int64)
        rank[parts] = np.arange(len(parts))
        hole = np.ones(len(first), bool)
        hole[self.ring_offsets[:-1]] = False
        rings = np.lexsort((first[:, 0], first[:, 1], hole, rank[of_part]))
        vertices, vertex_offsets = members(self.vertex_offsets, rings)
        ring_offsets = np.r_[0, np.cumsum(np.diff(self.ring_offsets)[parts])]
        return Polygons(self.xy[vertices], vertex_offsets, ring_offsets, self.part_offsets)

    def in_image(self, frame: Frame) -> Polygons:
        """The same polygons, mapped from the layer's frame to the image's."""
        if frame.is_identity:
            return self
        return Polygons(frame.to_image(self.xy), self.vertex_offsets, self.ring_offsets, self.part_offsets)


@dataclass(frozen=True)
class Measures:
    """Per feature: box (f, 4) as (x0, y0, x1, y1), area, centroid (f, 2), perimeter (holes included)."""

    boxes: Float64
    area: Float64
    centroid: Float64
    perimeter: Float64


def measure(polygons: Polygons) -> Measures:
    """Measures in the unit and frame of the coordinates; exact for lattice points below 2**26."""
    rings_of = polygons.ring_offsets[polygons.part_offsets]
    return Measures(*_measure(polygons.xy, polygons.vertex_offsets, rings_of))


def to_shapely(polygons: Polygons) -> NDArray[Any]:
    """(f,) array of shapely Polygons, MultiPolygons where a feature has several parts."""
    import shapely

    xy, vertex_offsets = closed(polygons)
    offsets = (vertex_offsets, polygons.ring_offsets, polygons.part_offsets)
    shapes = shapely.from_ragged_array(shapely.GeometryType.MULTIPOLYGON, xy.astype(np.float64), offsets)
    single = np.flatnonzero(np.diff(polygons.part_offsets) == 1)
    shapes[single] = shapely.get_geometry(shapes[single], 0)
    return np.asarray(shapes)


def from_shapely(shapes: NDArray[Any]) -> Polygons:
    """Polygons of a (f,) array of shapely Polygons and MultiPolygons; rings turned as `Polygons` says."""
    import shapely

    shapes = shapely.orient_polygons(shapes)
    parts, of_feature = shapely.get_parts(shapes, return_index=True)
    part_offsets = np.r_[0, np.cumsum(np.bincount(of_feature, minlength=len(shapes)))]
    rings, of_part = shapely.get_rings(parts, return_index=True)
    ring_offsets = np.r_[0, np.cumsum(np.bincount(of_part, minlength=len(parts)))]
    xy, of_ring = shapely.get_coordinates(rings, return_index=True)
    last = (
        np.r_[np.flatnonzero(np.diff(of_ring)), len(of_ring) - 1] if len(of_ring) else np.empty(0, np.int64)
    )
    counts = np.bincount(of_ring, minlength=len(rings)) - 1
    return Polygons(np.delete(xy, last, axis=0), np.r_[0, np.cumsum(counts)], ring_offsets, part_offsets)


def closed(polygons: Polygons) -> tuple[NDArray[Any], Int64]:
    """Vertices and offsets of all rings, each ring ending with its first vertex."""
    counts = np.diff(polygons.vertex_offsets)
    offsets = polygons.vertex_offsets + np.arange(len(polygons.vertex_offsets))
    index = np.arange(int(offsets[-1])) - np.repeat(np.arange(len(counts)), counts + 1)
    index[offsets[1:] - 1] = polygons.vertex_offsets[:-1]
    return polygons.xy[index], offsets


@compiled
def _measure(xy: Any, vertex_offsets: Any, rings_of: Any) -> Any:
    n = rings_of.size - 1
    boxes = np.empty((n, 4))
    areas = np.zeros(n)
    centroid = np.empty((n, 2))
    perimeter = np.zeros(n)
    for i in range(n):
        first, last = vertex_offsets[rings_of[i]], vertex_offsets[rings_of[i + 1]]
        # Sums are taken relative to the feature's first vertex: small numbers, exact in float64.
        ox, oy = float(xy[first, 0]), float(xy[first, 1])
        x0, y0, x1, y1 = ox, oy, ox, oy
        twice, mx, my = 0.0, 0.0, 0.0
        for r in range(rings_of[i], rings_of[i + 1]):
            lo, hi = vertex_offsets[r], vertex_offsets[r + 1]
            px, py = xy[hi - 1, 0] - ox, xy[hi - 1, 1] - oy
            for v in range(lo, hi):
                x, y = xy[v, 0] - ox, xy[v, 1] - oy
                cross = px * y - x * py
                twice += cross
                mx += cross * (px + x)
                my += cross * (py + y)
                perimeter[i] += abs(x - px) + abs(y - py) if x == px or y == py else np.hypot(x - px, y - py)
                px, py = x, y
        for v in range(first, last):
            x0, y0 = min(x0, xy[v, 0]), min(y0, xy[v, 1])
            x1, y1 = max(x1, xy[v, 0]), max(y1, xy[v, 1])
        boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3] = x0, y0, x1, y1
        areas[i] = twice / 2
        centroid[i, 0] = ox + (mx / (3 * twice) if twice != 0 else 0.0)
        centroid[i, 1] = oy + (my / (3 * twice) if twice != 0 else 0.0)
    return boxes, areas, centroid, perimeter


@compiled
def _alike(
    xy: Any,
    vertex: Any,
    ring: Any,
    part: Any,
    others_xy: Any,
    others_vertex: Any,
    others_ring: Any,
    others_part: Any,
) -> Any:
    alike = np.zeros(len(part) - 1, np.bool_)
    for feature in range(len(alike)):
        parts = part[feature + 1] - part[feature]
        equal = others_part[feature + 1] - others_part[feature] == parts
        # Rings of a feature follow one another, so do their vertices: ends count from where it begins.
        ring_at, other_ring_at = ring[part[feature]], others_ring[others_part[feature]]
        for i in range(1, parts + 1 if equal else 0):
            equal &= (
                ring[part[feature] + i] - ring_at == others_ring[others_part[feature] + i] - other_ring_at
            )
        rings = ring[part[feature + 1]] - ring_at
        vertex_at, other_at = vertex[ring_at], others_vertex[other_ring_at]
        for i in range(1, rings + 1 if equal else 0):
            equal &= vertex[ring_at + i] - vertex_at == others_vertex[other_ring_at + i] - other_at
        for i in range(vertex[ring_at + rings] - vertex_at if equal else 0):
            equal &= xy[vertex_at + i, 0] == others_xy[other_at + i, 0]
            equal &= xy[vertex_at + i, 1] == others_xy[other_at + i, 1]
        alike[feature] = equal
    return alike
