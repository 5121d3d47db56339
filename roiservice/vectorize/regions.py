"""Basic measures of regions by scikit-image, on the mask that an exact outline fills."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.polygons import Polygons, measure
from roiservice.vectorize.outlines import fill_rings

# Of `skimage.measure.regionprops` what is one number and needs no image, in pixels of the layer.
MEASURES = (
    "area_bbox",
    "area_convex",
    "area_filled",
    "axis_major_length",
    "axis_minor_length",
    "eccentricity",
    "equivalent_diameter_area",
    "euler_number",
    "extent",
    "feret_diameter_max",
    "orientation",
    "perimeter",
    "perimeter_crofton",
    "solidity",
)
LARGEST_BOX = 2**26  # pixels of the mask of one region


def region_measures(polygons: Polygons, names: tuple[str, ...]) -> NDArray[np.float64]:
    """(f, names) measures of exact lattice polygons; NaN where a box is too large to be filled.

    Parts of a feature are measured together, as scikit-image does with all pixels of one label.
    """
    from skimage.measure import regionprops

    out = np.full((len(polygons), len(names)), np.nan)
    boxes = measure(polygons).boxes.astype(np.int64)
    rings_of = polygons.ring_offsets[polygons.part_offsets]
    for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        if (y1 - y0) * (x1 - x0) > LARGEST_BOX:
            continue
        # One column more than the box: rows are filled from an edge to the next.
        mask = np.zeros((y1 - y0, x1 - x0 + 1), np.uint8)
        fill_rings(polygons.xy, polygons.vertex_offsets[rings_of[i] : rings_of[i + 1] + 1], x0, y0, mask)
        (region,) = regionprops(mask)
        out[i] = [getattr(region, name) for name in names]
    return out
