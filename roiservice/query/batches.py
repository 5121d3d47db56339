"""Features of a catalog, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from roiservice.catalog.reader import Catalog
from roiservice.catalog.rois import rows_of_rois
from roiservice.query.select import RoiQuery, selected
from roiservice.query.subsets import Rows


def roi_batches(catalog: Catalog, most: int) -> Iterator[Rows]:
    """Rows of whole ROIs in the order of their ids, at most `most` at a time, or one ROI if it has more."""
    begins, rois, rows = catalog.roi_first, len(catalog.rois["roi"]), len(catalog.roi_rows)
    first = 0
    while first < rois:
        full = int(begins[first]) + most
        # ROIs begin where those before them end.
        last = (
            rois if full >= rows else int(np.searchsorted(begins, begins.dtype.type(full), side="right")) - 1
        )
        last = max(first + 1, last)
        yield rows_of_rois(catalog, np.arange(first, last))
        first = last


def page_batches(catalog: Catalog, query: RoiQuery, offset: int, size: int) -> Iterator[Rows]:
    """The rows that match from `offset` on, `size` at a time; they are looked up at once, not later."""
    chosen = selected(catalog, query)
    return (chosen.page(first, size) for first in range(offset, len(chosen), size))
