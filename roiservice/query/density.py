"""How features lie over an image: counts and areas on a grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.reader import Catalog, some_rows
from roiservice.geometry.compiled import compiled
from roiservice.query.select import RoiQuery, selected
from roiservice.records import dataclass


@dataclass(frozen=True, eq=False)
class Density:
    """A grid of square cells over an image, from its upper left corner on.

    `side` of a cell in image pixels; cells of the last row and column may reach beyond the image. `counts`
    and `areas` (rows, columns): features whose centroid lies in a cell (its left and upper border included),
    and the sum of their areas in image pixels. `outside`: features whose centroid is not on the image.
    """

    side: float
    counts: NDArray[np.int64]
    areas: NDArray[np.float64]
    outside: int


def density(catalog: Catalog, query: RoiQuery, cells: int) -> Density:
    """The features that match, on a grid with `cells` cells along the image's longer side."""
    height, width = catalog.image_size[3:]
    longer = max(width, height)
    # In whole numbers: a quotient that was rounded up would be one cell more.
    shape = (-(-height * cells // longer), -(-width * cells // longer))
    counts, areas = np.zeros(shape, np.int64), np.zeros(shape)
    outside = 0
    for rows in selected(catalog, query).batches():
        centroids, area = some_rows(catalog.features["centroid"], rows), catalog.features["area"][rows]
        centroids.flags.writeable = area.flags.writeable = False  # for others the loop is compiled anew
        outside += _count(centroids, area, width, height, cells, counts, areas)
    return Density(longer / cells, counts, areas, outside)


@compiled
def _count(centroids: Any, area: Any, width: int, height: int, cells: int, counts: Any, areas: Any) -> int:
    """Add features to the cells that they lie in; returns how many lie in none."""
    longer, outside = max(width, height), 0
    last_row, last_column = counts.shape[0] - 1, counts.shape[1] - 1
    for i in range(area.size):
        x, y = centroids[i, 0], centroids[i, 1]
        if x >= 0 and y >= 0 and x <= width and y <= height:
            # Without the side of a cell, which may be rounded: what lies on a border would fall left of it.
            row, column = min(int(y * cells / longer), last_row), min(int(x * cells / longer), last_column)
            counts[row, column] += 1
            areas[row, column] += area[i]
        else:
            outside += 1
    return outside
