"""Features of a catalog, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from roiservice.catalog.reader import Catalog
from roiservice.query.select import (
    RoiQuery,
    Rows,
    matching_planes,
    matching_rows,
    plane_spans,
    rows_of_rois,
)

_BATCH = 2**18  # rows


def roi_batches(catalog: Catalog, most: int) -> Iterator[Rows]:
    """Rows of whole ROIs in the order of their ids, at most `most` at a time, or one ROI if it has more."""
    ends = np.cumsum(catalog.rois["row_count"], dtype=np.int64)
    first = before = 0
    while first < len(ends):
        last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield rows_of_rois(catalog, np.arange(first, last))
        first, before = last, int(ends[last - 1])


def row_batches(catalog: Catalog, query: RoiQuery) -> Iterator[Rows | slice]:
    """The rows that match, in row order; slices, which cost nothing, where whole planes are asked for."""
    if query.by_plane_only:
        for first, last in plane_spans(catalog, matching_planes(catalog, query)):
            for start in range(first, last, _BATCH):
                yield slice(start, min(start + _BATCH, last))
        return
    rows = matching_rows(catalog, query)
    for start in range(0, len(rows), _BATCH):
        yield rows[start : start + _BATCH]
