"""The indexes of a catalog: made once all its features are known, whether these were traced or taken over.

| file | one row per | columns |
|---|---|---|
| rows | feature, by plane (t, z, c), then Hilbert key | place, first shape; where it is stored |
| blocks | 1024 rows | box |
| planes | plane | t, c, z, first, count |
| rois | ROI, sorted by number | roi; label, if that is another number; color, if any ROI has one |
| properties | ROI, in that order | the objects' own properties, typed |
| roi_rows | row, sorted by (ROI, plane) | row |
| roi_first | ROI (and one more) | its first place in `roi_rows` |
| page_rows | row, sorted by (plane, ROI) | row; no such file where there is one plane |

Rows and shapes are numbered in 32 bits where these suffice, else in 64. `place` is a row's ROI, by its place
in `rois`. `stored` is there only if `roiservice.catalog.splice` made the catalog; else features are stored in
the order of the rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.columns import columns_written
from roiservice.geometry.grouping import grouped, index_dtype
from roiservice.records import dataclass

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 7  # raise whenever the bytes of a catalog change for the same source
BLOCK_ROWS = 1024
BLOCKS_AT_ONCE = 64
PLANE_COLUMNS = ("t", "c", "z", "first", "count")


@dataclass(frozen=True)
class RoiColumns:
    """Of m objects: ROI numbers, distinct; colors as RGBA packed into 32 bits, -1 for none; properties."""

    number: NDArray[np.int64]
    color: NDArray[np.int64]
    properties: Mapping[str, pa.Array]

    def taken(self, order: NDArray[np.int64]) -> RoiColumns:
        """These objects, in that order."""
        properties = {name: column.take(order) for name, column in self.properties.items()}
        return RoiColumns(self.number[order], self.color[order], properties)


@dataclass(frozen=True)
class CatalogRows:
    """All rows of a catalog, and its ROIs.

    `place` and `part_count` (n,); `blocks` (b, 4), the boxes of the rows of each block; `planes` (p, 5), a
    column for each of `PLANE_COLUMNS`; `labels` (m,) those of `rois`, sorted by number. `vertices` is how
    many the outlines have. `stored` (n,) is where each feature is stored, None for its own row.
    """

    place: NDArray[np.int32]
    part_count: NDArray[np.int32]
    blocks: NDArray[np.float64]
    planes: NDArray[np.int64]
    labels: NDArray[Any]
    rois: RoiColumns
    vertices: int
    stored: NDArray[Any] | None = None


def write_indexes(
    folder: Path,
    rows: CatalogRows,
    meta: Mapping[str, Any],
    chunks: Mapping[str, Any] | None,
    release: Callable[[], None] | None = None,
) -> None:
    """Write all files but those of the features themselves.

    `chunks` are columns that tell what the catalog was made from, None where that cannot be told. `release`
    lets go of mapped memory.
    """
    with columns_written(folder, 2, release) as write:  # what is next is made while they write
        shapes = int(rows.part_count.sum(dtype=np.int64))
        shape_first = np.cumsum(rows.part_count, dtype=index_dtype(shapes))
        shape_first -= rows.part_count
        stored = {} if rows.stored is None else {"stored": rows.stored}
        write("rows", {"place": rows.place, "shape_first": shape_first, **stored})
        write("blocks", {"box": rows.blocks})
        write("planes", dict(zip(PLANE_COLUMNS, rows.planes.T, strict=True)))
        write("rois", _roi_columns(rows.rois, rows.labels))
        by_roi, roi_first = grouped(rows.place, len(rows.labels))
        write("roi_rows", {"row": by_roi})
        write("roi_first", {"first": roi_first})
        if len(rows.planes) > 1:
            plane_of = np.repeat(np.arange(len(rows.planes), dtype=np.int32), rows.planes[:, 4])
            write("page_rows", {"row": by_roi[grouped(plane_of[by_roi], len(rows.planes))[0]]})
        if rows.rois.properties:
            write("properties", rows.rois.properties)
        if chunks is not None:
            write("chunks", chunks)
    counts = {
        "features": len(rows.place),
        "rois": len(rows.labels),
        "shapes": shapes,
        "vertices": rows.vertices,
    }
    extent, names = extent_of(rows.blocks), list(rows.rois.properties)
    write_meta(
        folder, {"format": FORMAT, **meta, "counts": counts, "extent": extent, "property_names": names}
    )


def _roi_columns(rois: RoiColumns, labels: NDArray[Any]) -> dict[str, NDArray[Any]]:
    columns = {"roi": rois.number}
    if not np.array_equal(rois.number, labels):
        columns["label"] = labels
    if (rois.color >= 0).any():
        columns["color"] = rois.color
    return columns


def extent_of(boxes: NDArray[np.float64]) -> list[float] | None:
    """Box around all of (n, 4) boxes; None without any."""
    if not len(boxes):
        return None
    return [*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]


def block_boxes(boxes: Any, first_row: int = 0, end: int | None = None) -> NDArray[np.float64]:
    """(b, 4) boxes around each `BLOCK_ROWS` of (n, 4) boxes, of which some rows are taken at a time.

    With `first_row` and `end` of those rows alone; None: of all that follow.
    """
    pieces = [np.empty((0, 4))]
    end = len(boxes) if end is None else min(end, len(boxes))
    for start in range(first_row, end, BLOCK_ROWS * BLOCKS_AT_ONCE):
        some = boxes[start : min(start + BLOCK_ROWS * BLOCKS_AT_ONCE, end)]
        first = np.arange(0, len(some), BLOCK_ROWS)
        low, high = np.minimum.reduceat(some[:, :2], first), np.maximum.reduceat(some[:, 2:], first)
        pieces.append(np.hstack((low, high)))
    return np.concatenate(pieces)


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write `layer.json`."""
    text = json.dumps(meta, indent=1, sort_keys=True)
    (folder / "layer.json").write_text(text, encoding="utf-8")


def renumber_catalog(folder: Path, version: int) -> None:
    """Give a catalog that is not in service yet another version number; only `layer.json` holds it."""
    meta = json.loads((folder / "layer.json").read_text(encoding="utf-8"))
    write_meta(folder, {**meta, "version": version})
