"""Oracles for outlines: what other libraries, and plain counting, say about a label plane."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio.features
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from roiservice.geometry.polygons import Polygons, to_shapely
from roiservice.vectorize import plane as plane_module
from roiservice.vectorize.plane import trace_plane

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def strip_size(rows: int, pixels: int = 1) -> Iterator[None]:
    """Let the tracer cut what it gets into strips of so few rows, as it does with wide planes."""
    before = plane_module.TRACE_ROWS, plane_module.TRACE_PIXELS
    plane_module.TRACE_ROWS, plane_module.TRACE_PIXELS = rows, pixels
    try:
        yield
    finally:
        plane_module.TRACE_ROWS, plane_module.TRACE_PIXELS = before


def traced(plane: NDArray[Any]) -> dict[int, Any]:
    """Shapely geometry of each label."""
    labels, polygons = trace_plane([plane])
    assert labels.dtype == plane.dtype
    assert len(labels) == len(set(labels.tolist()))
    return dict(zip(labels.tolist(), to_shapely(polygons), strict=True))


def rings_of(polygons: Polygons) -> list[list[tuple[list[tuple[float, float]], ...]]]:
    """Plain nested lists: features, parts, rings, vertices."""
    vertices, rings, parts = (
        offsets.tolist()
        for offsets in (polygons.vertex_offsets, polygons.ring_offsets, polygons.part_offsets)
    )
    xy = [tuple(point) for point in polygons.xy.tolist()]
    return [
        [
            tuple(xy[vertices[r] : vertices[r + 1]] for r in range(rings[p], rings[p + 1]))
            for p in range(parts[i], parts[i + 1])
        ]
        for i in range(len(parts) - 1)
    ]


def gdal_polygons(mask: NDArray[np.bool_]) -> set[str]:
    """The 4-connected parts of a mask as GDAL draws them, in one spelling."""
    found = rasterio.features.shapes(mask.astype(np.uint8), mask=mask, connectivity=4)
    return {spelled(shapely.geometry.shape(geometry)) for geometry, _ in found}


def spelled(polygon: Any) -> str:
    """One text for all spellings of a polygon, without vertices on straight edges."""
    return str(shapely.to_wkt(shapely.normalize(shapely.simplify(polygon, 0))))


def four_connected_parts(mask: NDArray[np.bool_]) -> int:
    return int(ndimage.label(mask)[1])


def holes(mask: NDArray[np.bool_]) -> int:
    """Hole rings: per part, the 4-connected components of what it encloses."""
    parts, count = ndimage.label(mask)
    total = 0
    for number in range(1, count + 1):
        outside = np.pad(parts != number, 1, constant_values=True)
        components, _ = ndimage.label(outside)
        enclosed = set(np.unique(components[outside]).tolist()) - {int(components[0, 0])}
        total += len(enclosed)
    return total


def filled(shape: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centres a geometry covers."""
    return rasterio.features.rasterize([shape], out_shape=size, dtype=np.uint8).astype(bool)
