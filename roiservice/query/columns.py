"""Columns of chosen rows, gathered from the mapped catalog."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roiservice.catalog.columns import to_arrow
from roiservice.catalog.reader import Catalog
from roiservice.geometry.compiled import compiled
from roiservice.geometry.features import Features
from roiservice.geometry.polygons import Polygons
from roiservice.query.subsets import Rows


def read_features(
    catalog: Catalog, rows: Rows, drawn: tuple[Polygons, NDArray[np.uint8]] | None = None
) -> Features:
    """The features of these rows, in that order; only their own part of the catalog is touched.

    `drawn`: what stands for them, in image pixels, and of which kinds; None for their own outlines.
    """
    columns = {name: column[rows] for name, column in catalog.features.items()}
    if drawn is None:
        outlines = read_polygons(catalog, columns["part_first"], columns["part_count"])
        drawn = outlines, columns["kind"]
    places = columns["place"]
    return Features(
        layer=catalog.name,
        image_name=catalog.meta["image_name"],
        version=catalog.version,
        feature_id=columns["shape_first"] + catalog.first_shape_id,
        roi_id=catalog.rois["roi"][places] + catalog.first_roi_id,
        label=columns["label"],
        kind=drawn[1],
        t=columns["t"],
        c=columns["c"],
        z=columns["z"],
        area=columns["area"],
        perimeter=columns["perimeter"],
        centroid=columns["centroid"],
        boxes=columns["box"],
        polygons=drawn[0],
        color=_colors(catalog.rois["color"][places]),
        properties={name: taken(column, places) for name, column in catalog.properties.items()},
        text=catalog.meta.get("text", ""),
    )


def read_polygons(catalog: Catalog, part_first: NDArray[np.int64], part_count: NDArray[Any]) -> Polygons:
    """Polygons with these parts, in image pixels."""
    return _polygons(catalog, part_first, part_count).in_image(catalog.frame)


def gathered(catalog: Catalog, rows: Rows) -> Polygons:
    """The outlines of these rows on the layer's own grid."""
    return _polygons(catalog, catalog.features["part_first"][rows], catalog.features["part_count"][rows])


def vertex_counts(catalog: Catalog, rows: Rows) -> NDArray[np.int64]:
    """Vertices of the outlines of these rows, each."""
    first = catalog.features["part_first"][rows]
    last = first + catalog.features["part_count"][rows]
    offsets, rings = catalog.ring_vertices, catalog.part_rings
    return np.asarray(offsets[rings[last]] - offsets[rings[first]])


def _polygons(catalog: Catalog, part_first: NDArray[np.int64], part_count: NDArray[Any]) -> Polygons:
    return Polygons(
        *_gather(
            catalog.xy, catalog.ring_vertices, catalog.part_rings, part_first, part_count.astype(np.int64)
        )
    )


def taken(column: pa.Array, rows: NDArray[Any] | slice) -> pa.Array:
    """These rows of a column."""
    if isinstance(rows, slice):
        return column.slice(rows.start, rows.stop - rows.start)
    return column.take(to_arrow(rows))


def _colors(packed: NDArray[np.int64]) -> list[tuple[int, int, int, int] | None]:
    if (packed < 0).all():
        return [None] * len(packed)
    return [_rgba(color) for color in packed.tolist()]


def _rgba(packed: int) -> tuple[int, int, int, int] | None:
    if packed < 0:
        return None
    red, green, blue, alpha = packed.to_bytes(4, "big")
    return red, green, blue, alpha


@compiled
def _gather(xy: Any, vertex_first: Any, ring_first: Any, part_first: Any, part_count: Any) -> Any:
    """Ragged arrays of the chosen features: vertices, and offsets of rings, parts and features."""
    n = part_first.size
    parts = np.zeros(n + 1, np.int64)
    rings_in, vertices_in = 0, 0
    for i in range(n):
        parts[i + 1] = parts[i] + part_count[i]
        first, last = ring_first[part_first[i]], ring_first[part_first[i] + part_count[i]]
        rings_in += last - first
        vertices_in += vertex_first[last] - vertex_first[first]
    rings = np.zeros(parts[n] + 1, np.int64)
    vertices = np.zeros(rings_in + 1, np.int64)
    out = np.empty((vertices_in, 2), xy.dtype)
    part, ring, filled = 0, 0, 0
    for i in range(n):
        for p in range(part_first[i], part_first[i] + part_count[i]):
            for r in range(ring_first[p], ring_first[p + 1]):
                for v in range(vertex_first[r], vertex_first[r + 1]):
                    out[filled, 0], out[filled, 1] = xy[v, 0], xy[v, 1]
                    filled += 1
                ring += 1
                vertices[ring] = filled
            part += 1
            rings[part] = ring
    return out, vertices, rings, parts
