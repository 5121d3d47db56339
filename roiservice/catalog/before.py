"""One plane of the catalog before: its features, and where others come among them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.indexes import BLOCK_ROWS
from roiservice.catalog.outlines import outlines
from roiservice.catalog.reader import Catalog, some_rows
from roiservice.catalog.rois import places_of_labels, rows_of_rois
from roiservice.geometry.hilbert import ORDER, hilbert_keys, shift_of
from roiservice.geometry.polygons import Polygons
from roiservice.records import dataclass

Rows = NDArray[np.int64]  # of a plane, counted from 0


@dataclass(frozen=True)
class PlaneBefore:
    """The features of one plane, rows `first` to `last` of the catalog before. Boxes are on its own grid."""

    catalog: Catalog
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def labels(self, rows: Rows) -> NDArray[Any]:
        """(k,) labels of these rows."""
        return np.asarray(self.catalog.features["label"][rows + self.first])

    def boxes(self, rows: Rows) -> NDArray[np.float64]:
        """(k, 4) boxes of these rows: whole numbers."""
        frame = self.catalog.frame
        boxes = some_rows(self.catalog.features["box"], rows + self.first)
        if not frame.is_identity:
            boxes = np.rint(np.stack(frame.box_to_layer(tuple(boxes.T)), axis=1))
        return np.asarray(boxes)

    def outlines(self, rows: Rows) -> Polygons:
        """Outlines of these rows."""
        first, count = (
            self.catalog.features[name][rows + self.first] for name in ("part_first", "part_count")
        )
        return outlines(self.catalog, first, count)

    def meeting(self, box: NDArray[np.int64]) -> Rows:
        """Rows whose boxes have pixels in common with `box`."""
        (x0, y0, x1, y1) = self.catalog.frame.to_image(box.reshape(2, 2)).reshape(4)
        blocks = self.catalog.blocks[self.first // BLOCK_ROWS : -(-self.last // BLOCK_ROWS)]
        hit = (blocks[:, 0] <= x1) & (blocks[:, 2] >= x0) & (blocks[:, 1] <= y1) & (blocks[:, 3] >= y0)
        block = np.flatnonzero(hit) + self.first // BLOCK_ROWS
        rows = (block[:, None] * BLOCK_ROWS + np.arange(BLOCK_ROWS)).ravel() - self.first
        rows = rows[(rows >= 0) & (rows < len(self))]
        return rows[meet(self.boxes(rows), box)]

    def among(self, labels: NDArray[Any]) -> Rows:
        """Rows of these labels, which are few, sorted."""
        rows = rows_of_rois(self.catalog, places_of_labels(self.catalog, labels))
        return np.sort(rows[(rows >= self.first) & (rows < self.last)]).astype(np.int64) - self.first

    def shift(self, gone: Rows, boxes: NDArray[np.float64], size: int) -> int | None:
        """The shift of the plane's Hilbert keys; None if it is another where rows `gone` go and `boxes` come.

        `size` is the larger side of the plane.
        """
        if size <= 2**ORDER:
            return 0
        own = self.boxes(np.arange(len(self)))
        shift = shift_of(own)
        return shift if shift_of(np.delete(own, gone, axis=0), boxes) == shift else None

    def places(
        self, labels: NDArray[Any], boxes: NDArray[np.float64], shift: int
    ) -> tuple[NDArray[np.int64], Rows]:
        """The order of k features that come, and for each in that order the row before which it does.

        All are sorted by Hilbert key, then label, as `roiservice.vectorize.assemble` does.
        """
        keys, names = hilbert_keys(boxes, shift), _names(labels)
        order = np.lexsort((names, keys))
        keys, names = keys[order], names[order]
        low, high = np.zeros(len(keys), np.int64), np.full(len(keys), len(self))
        while len(searched := np.flatnonzero(low < high)):  # all at once, with a few rows' keys for each step
            middle = (low[searched] + high[searched]) // 2
            own, others = hilbert_keys(self.boxes(middle), shift), keys[searched]
            before = (own < others) | ((own == others) & (_names(self.labels(middle)) < names[searched]))
            low[searched[before]] = middle[before] + 1
            high[searched[~before]] = middle[~before]
        return order, low


def _names(labels: NDArray[Any]) -> NDArray[np.uint64]:
    """Labels as the tracer orders them: negative ones last."""
    return labels.astype(np.int64 if labels.dtype.kind == "i" else np.uint64).view(np.uint64)


def meet(boxes: NDArray[Any], box: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of (n, 4) boxes have pixels in common with one."""
    x0, y0, x1, y1 = box.tolist()
    return np.asarray((boxes[:, 0] < x1) & (boxes[:, 2] > x0) & (boxes[:, 1] < y1) & (boxes[:, 3] > y0))
