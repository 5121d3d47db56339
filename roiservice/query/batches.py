"""All features of a catalog, ROI by ROI, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from roiservice.catalog.reader import Catalog
from roiservice.query.select import Rows, rows_of_rois


def roi_batches(catalog: Catalog, most: int) -> Iterator[Rows]:
    """Rows of whole ROIs in the order of their ids, at most `most` at a time, or one ROI if it has more."""
    ends = np.cumsum(catalog.rois["row_count"], dtype=np.int64)
    first = before = 0
    while first < len(ends):
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield rows_of_rois(catalog, np.arange(first, last))
        first, before = last, int(ends[last - 1])
