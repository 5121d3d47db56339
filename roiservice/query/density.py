"""How features lie over an image: counts and areas on a grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.reader import Catalog, some_rows
from roiservice.query.select import RoiQuery, selected


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
    counts, areas = np.zeros(shape[0] * shape[1], np.int64), np.zeros(shape[0] * shape[1])
    outside = 0
    for rows in selected(catalog, query).batches():
        x, y = some_rows(catalog.features["centroid"], rows).T
        inside = (x >= 0) & (y >= 0) & (x <= width) & (y <= height)
        # Without the side of a cell, which may be rounded: what lies on a border would fall left of it.
        column = np.minimum(x[inside] * cells / longer, shape[1] - 1).astype(np.int64)
        row = np.minimum(y[inside] * cells / longer, shape[0] - 1).astype(np.int64)
        cell = row * shape[1] + column
        counts += np.bincount(cell, minlength=len(counts))
        areas += np.bincount(cell, catalog.features["area"][rows][inside], len(areas))
        outside += int(len(inside) - inside.sum())
    return Density(longer / cells, counts.reshape(shape), areas.reshape(shape), outside)
