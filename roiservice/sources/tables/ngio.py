"""Boxes and values in Fractal's tables, as ngio writes them; `ngiolisting` finds these.

The tables: https://biovisioncenter.github.io/ngio/stable/table_specs/overview/
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from roiservice.errors import SourceRefused
from roiservice.sources.limits import Limits
from roiservice.sources.store import Store
from roiservice.sources.tables.boxes import Boxes, ImageGrid, read_extents
from roiservice.sources.tables.ngiobackends import Columns, read_columns
from roiservice.sources.tables.ngiolisting import INDEX_KEYS, LABEL, TableEntry
from roiservice.sources.tables.table import MOST_REASONS, Refusals, ShapeTable, ValueTable
from roiservice.sources.tables.values import label_numbers, value_table


def read_boxes(
    store: Store,
    entry: TableEntry,
    limits: Limits,
    pixel_size: tuple[float, float, float],
    image_size: tuple[int, int, int, int, int],
    frame_seconds: float | None = None,
) -> ShapeTable:
    """The boxes of a `roi_table` or `masking_roi_table` as rectangles.

    `pixel_size` along z, y, x is that of the image's level 0, in micrometres (1 along z where it has none);
    `image_size` are its sizes along t, c, z, y, x. The origin of a table is the image's top left corner. A
    box lies on every plane whose centre it covers, on the plane of its own centre where it covers none, and
    on every index of z where it covers all or states no z. It is so for t too if `frame_seconds`, the time
    from one frame to the next, is known; else a box lies on every t.

    Rows of a masking table are called by their labels; of others by their names, with their `label` where
    each has its own. Rows with one label or name are one object. Rows without a usable position or extent
    are refused one by one.

    Raises SourceDamaged if columns of positions are missing or the table cannot be read, SourceRefused above
    the limits, for other types of tables, and for unusable pixel sizes.
    """
    if not entry.has_boxes:
        raise SourceRefused(store.location, entry.path, f"a {entry.type} holds no boxes")
    table = _read(store, entry, limits)
    grid = ImageGrid(store.location, entry.path, pixel_size, image_size, frame_seconds)
    boxes = read_extents(table.columns, table.rows, grid)
    if entry.type == "masking_roi_table":
        shapes = _boxes_of_labels(store, entry, limits, table, boxes)
    else:
        shapes = _boxes_of_names(entry, limits, table, boxes)
    return replace(
        shapes, refused=_with_skipped(shapes.refused, table), warnings=(*table.warnings, *shapes.warnings)
    )


def read_values(store: Store, entry: TableEntry, limits: Limits) -> ValueTable:
    """The values of labels that a table of features, conditions or anything else holds.

    The label is told by `instance_key`, by `index_key` of a feature or masking table, or by a column or index
    called `label`. `layers` is the label image of the table's region, () where it states none.
    Raises SourceRefused if no column tells labels; else as `read_boxes`.
    """
    table = _read(store, entry, limits)
    name, labels = _label_column(store, entry, table)
    columns = {key: values for key, values in table.columns.items() if key != name}
    layers = () if entry.region is None else (entry.region,)
    return value_table(labels, columns, layers, _notes(table))


def _read(store: Store, entry: TableEntry, limits: Limits) -> Columns:
    table = read_columns(store, entry.path, entry.zarr_format, entry.backend, limits)
    if table.index is None or entry.index_key is None or entry.index_key in table.columns:
        return table
    # An index without a name is the one that the attributes name.
    columns = {entry.index_key: table.index, **table.columns}
    return Columns(table.rows, columns, None, table.skipped, table.warnings)


def _notes(table: Columns) -> tuple[str, ...]:
    if not table.skipped:
        return table.warnings
    count = f"{len(table.skipped)} line{'s' if len(table.skipped) > 1 else ''} left out"
    return (*table.warnings, f"{count}, the first: {table.skipped[0]}")


def _with_skipped(refused: Refusals, table: Columns) -> Refusals:
    """Lines that were no rows of the table are refused too."""
    reasons = (*refused.reasons, *table.skipped)[:MOST_REASONS]
    return Refusals(refused.count + len(table.skipped), reasons)


def _label_column(store: Store, entry: TableEntry, table: Columns) -> tuple[str, pa.Array]:
    index_key = entry.index_key if entry.type in INDEX_KEYS else None
    tried = [name for name in dict.fromkeys((entry.instance_key, index_key, LABEL)) if name is not None]
    for name in tried:
        labels = table.columns.get(name)
        if labels is not None and (not table.rows or label_numbers(labels)[1].any()):
            return name, labels
    reason = f"tells no labels: it has no column {' or '.join(map(repr, tried))} of integers"
    raise SourceRefused(store.location, entry.path, reason)


def _boxes_of_labels(
    store: Store, entry: TableEntry, limits: Limits, table: Columns, boxes: Boxes
) -> ShapeTable:
    name, column = _label_column(store, entry, table)
    labels, known = label_numbers(column)
    boxes = boxes.without(np.flatnonzero(~known), name, "the label is no whole number")
    columns = {key: values for key, values in table.columns.items() if key != name}
    return boxes.shape_table(labels, None, columns, limits)


def _boxes_of_names(entry: TableEntry, limits: Limits, table: Columns, boxes: Boxes) -> ShapeTable:
    columns = dict(table.columns)
    names = columns.get(entry.index_key or "", pa.nulls(table.rows, pa.string()))
    numbered = [f"row {row + 1}" for row in range(table.rows)] if names.null_count else None
    keys = names.cast(pa.string())
    if numbered is not None:
        keys = pc.coalesce(keys, pa.array(numbered, pa.string()))
    labels: np.ndarray[Any, np.dtype[np.int64]] | None = None
    if LABEL in columns:
        numbers, known = label_numbers(columns[LABEL])
        if known.all() and len(np.unique(numbers)) == len(numbers):
            labels = numbers
            del columns[LABEL]
    return boxes.shape_table(labels, keys, columns, limits)
