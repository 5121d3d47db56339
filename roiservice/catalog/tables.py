"""The catalog of a table of shapes: rows are sorted as those of a label image, vertices kept as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.indexes import RoiColumns
from roiservice.catalog.properties import named_columns
from roiservice.catalog.registry import Registry, roi_numbers
from roiservice.catalog.writer import CatalogWriter, PlaneIndex
from roiservice.geometry.frames import Frame
from roiservice.geometry.hilbert import hilbert_keys
from roiservice.geometry.kinds import is_open, measure_kinds
from roiservice.geometry.polygons import Polygons
from roiservice.sources.tables.table import ShapeTable

Rows = NDArray[np.int64]


def write_table(table: ShapeTable, directory: Path, min_area: float) -> CatalogWriter:
    """A writer that has all features of `table`, to be finished; areas below `min_area` are left out.

    Points and lines have no area and stay. Nothing is left behind on failure.
    """
    polygons = _narrow(table.polygons.in_raster_order(~is_open(table.kind)))
    vertices = np.int32 if polygons.xy.dtype == np.int32 else np.float64
    measures = measure_kinds(table.polygons, table.kind)
    kept = np.flatnonzero(is_open(table.kind) | (measures.area >= min_area))
    writer = CatalogWriter(directory, Frame(), np.int64, vertices)
    try:
        for plane, rows in _planes(table, kept, measures.boxes):
            objects = table.object[rows]
            writer.add_plane(
                [plane],
                table.label[objects],
                polygons.take(rows),
                np.rint(measures.area[rows]).astype(np.int64),
                exact=False,
                kind=table.kind[rows],
                objects=objects,
            )
    except BaseException:
        writer.discard()
        raise
    return writer


def describe_objects(
    table: ShapeTable, registry: Registry, layer_number: int, objects: Rows, labels: NDArray[Any]
) -> RoiColumns:
    """ROI numbers, colors and properties of the objects, which are numbers of the table's own rows."""
    if table.key is None:
        numbers = roi_numbers(registry, layer_number, labels)
    else:
        keys = [table.key[i] for i in objects.tolist()]
        numbers = np.array(registry.extra_roi_numbers(layer_number, keys), np.int64)
    columns = {name: column.take(objects) for name, column in table.columns.items()}
    return RoiColumns(numbers, table.color[objects], named_columns(columns))


def extent_size(table: ShapeTable) -> tuple[int, int, int, int, int]:
    """Size (t, c, z, y, x) of the smallest image, beginning at 0, that holds all features."""
    t, c, z = (int(axis.max(initial=0)) + 1 for axis in (table.t, table.c, table.z))
    if not len(table.polygons.xy):
        return t, c, z, 1, 1
    x, y = np.ceil(table.polygons.xy.max(axis=0)).astype(np.int64).tolist()
    return t, c, z, max(1, y), max(1, x)


def _planes(table: ShapeTable, kept: Rows, boxes: NDArray[np.float64]) -> Iterator[tuple[PlaneIndex, Rows]]:
    """The features of each plane, in the order of a catalog's rows."""
    if not len(kept):
        return
    keys = np.stack([table.t, table.z, table.c], axis=1)[kept]
    planes, which = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(which.ravel(), minlength=len(planes)))
    for (t, z, c), last, first in zip(planes.tolist(), ends, np.r_[0, ends[:-1]], strict=True):
        rows = kept[order[first:last]]
        labels = table.label[table.object[rows]].view(np.uint64)  # the order that the tracer gives them
        along = np.lexsort((labels, hilbert_keys(boxes[rows])))
        yield (t, c, z), rows[along]


def _narrow(polygons: Polygons) -> Polygons:
    """With int32 vertices if all coordinates are such integers, as outlines along pixel edges have."""
    xy = polygons.xy
    whole = np.rint(xy)
    if not np.array_equal(whole, xy) or (len(xy) and np.abs(xy).max() >= 2**31):
        return polygons
    return Polygons(
        whole.astype(np.int32), polygons.vertex_offsets, polygons.ring_offsets, polygons.part_offsets
    )
