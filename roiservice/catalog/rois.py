"""ROIs of a catalog by number or label, and the rows that they have."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.reader import Catalog
from roiservice.geometry.grouping import members, rows_among

Places = NDArray[np.int64]


def rows_of_rois(catalog: Catalog, places: NDArray[Any]) -> NDArray[Any]:
    """All rows of the ROIs at these places of the ROI table, ROI by ROI, each by plane."""
    return np.asarray(catalog.roi_rows[members(catalog.roi_first, places)[0]])


def places_of_numbers(catalog: Catalog, numbers: NDArray[np.int64]) -> Places:
    """Places in the ROI table of ROIs with these numbers, sorted; those that are not there are left out."""
    column, numbers = catalog.rois["roi"], np.unique(numbers)
    places = np.searchsorted(column, numbers)
    inside = places < len(column)
    places, numbers = places[inside], numbers[inside]
    return np.asarray(places[column[places] == numbers])


def places_of_labels(catalog: Catalog, labels: NDArray[Any]) -> Places:
    """Places in the ROI table, sorted, of ROIs with these few labels, which are of the layer's own type."""
    numbers, column = catalog.rois["roi"], catalog.rois["label"]
    if np.shares_memory(numbers, column):  # the label of each is its number
        return places_of_numbers(catalog, labels.astype(np.int64))
    return rows_among(column, labels)
