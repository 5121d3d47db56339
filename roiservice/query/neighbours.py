"""Features that touch those of a page."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.indexes import BLOCK_ROWS
from roiservice.catalog.reader import Catalog, some_rows
from roiservice.geometry.compiled import compiled
from roiservice.geometry.kinds import POLYGON
from roiservice.geometry.polygons import Polygons
from roiservice.query.subsets import Rows, Span

_TILES = 1024  # along a side, at most
_TILE = 16.0  # image pixels, at least
_ROUNDED = 1e-6  # of a tile: more than what rounding may change
_BLOCKS = 64  # of a catalog that are looked at together


def neighbours(catalog: Catalog, rows: Rows, polygons: Polygons, plane: Span, reach: float) -> Rows:
    """Rows, beside `rows` themselves, of all polygons that come within `reach` of their outlines; sorted.

    `polygons` are those of `rows` in image pixels, all on the plane with the rows from `plane[0]` up to, not
    including, `plane[1]`. Features whose box is that close are among them even if their outline is not. Work
    grows with the page, and with the blocks of the catalog that it meets, not with the boxes of its features:
    one that winds round a whole slide has few neighbours.
    """
    tiles = _Tiles(polygons)
    first, last = plane
    blocks = np.arange(first // BLOCK_ROWS, (last - 1) // BLOCK_ROWS + 1)
    met = blocks[tiles.met_by(catalog.blocks[blocks], reach)] * BLOCK_ROWS
    near = [np.empty(0, np.int64)]
    for begin in range(0, len(met), _BLOCKS):  # what is in memory at once does not grow with the plane
        some = (met[begin : begin + _BLOCKS, None] + np.arange(BLOCK_ROWS)).ravel()
        some = some[(some >= first) & (some < last)]
        some = some[tiles.met_by(some_rows(catalog.features["box"], some), reach)]
        near.append(some[catalog.features["kind"][some] == POLYGON])
    return np.setdiff1d(np.concatenate(near), rows, assume_unique=True)


class _Tiles:
    """Squares of a grid that edges of polygons pass, counted from its upper left corner on."""

    def __init__(self, polygons: Polygons) -> None:
        self._origin = polygons.xy.min(axis=0).astype(np.float64)
        extents = polygons.xy.max(axis=0) - self._origin
        self._side = max(_TILE, float(extents.max()) / _TILES)
        width, height = (int(extent / self._side) + 1 for extent in extents)
        passed = np.zeros((height + 1, width + 1), np.int32)
        _mark(polygons.xy, polygons.vertex_offsets, self._origin, self._side, passed)
        self._sums = passed.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)

    def met_by(self, boxes: NDArray[np.float64], reach: float) -> NDArray[np.bool_]:
        """Which of the (n, 4) boxes, made larger by `reach`, meet a marked tile."""
        height, width = self._sums.shape
        low = np.floor((boxes[:, :2] - reach - self._origin) / self._side)
        high = np.floor((boxes[:, 2:] + reach - self._origin) / self._side) + 1
        x0, y0 = np.clip(low, 0, (width - 1, height - 1)).astype(np.int64).T
        x1, y1 = np.clip(high, 0, (width - 1, height - 1)).astype(np.int64).T
        x1, y1 = np.maximum(x0, x1), np.maximum(y0, y1)
        sums = self._sums
        return np.asarray(sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0] > 0)


@compiled
def _mark(xy: Any, offsets: Any, origin: Any, side: float, tiles: Any) -> None:
    """Mark the tiles that any edge passes, row by row of them; those of the first row and column are none."""
    columns = tiles.shape[1] - 1
    for r in range(offsets.size - 1):
        before = offsets[r + 1] - 1
        for v in range(offsets[r], offsets[r + 1]):
            upper, lower = (before, v) if xy[before, 1] < xy[v, 1] else (v, before)
            ax, ay = (xy[upper, 0] - origin[0]) / side, (xy[upper, 1] - origin[1]) / side
            bx, by = (xy[lower, 0] - origin[0]) / side, (xy[lower, 1] - origin[1]) / side
            for row in range(int(ay), int(by) + 1):
                # Where the edge comes into this row of tiles, and where it goes out.
                enters = ax if row <= ay else ax + (bx - ax) * ((row - ay) / (by - ay))
                leaves = bx if row + 1 > by else ax + (bx - ax) * ((row + 1 - ay) / (by - ay))
                first = max(int(min(enters, leaves) - _ROUNDED), 0)
                last = min(int(max(enters, leaves) + _ROUNDED), columns - 1)
                tiles[row + 1, first + 1 : last + 2] = 1
            before = v
