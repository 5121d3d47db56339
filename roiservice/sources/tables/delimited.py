"""Tables as text with a delimiter: shapes as WKT, as boxes or as points, or values of labels alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from roiservice.errors import SourceRefused
from roiservice.sources.limits import Limits
from roiservice.sources.tables import wellknown
from roiservice.sources.tables.columns import label_column, typed_columns
from roiservice.sources.tables.geometries import Reasons
from roiservice.sources.tables.parquet import GEOMETRY_NAMES
from roiservice.sources.tables.rows import is_own, named, shape_table, value_table
from roiservice.sources.tables.table import ShapeTable, TableFile, ValueTable
from roiservice.sources.tables.text import read_text

_CORNER_AND_SIZE = ("x", "y", "width", "height")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_delimited(file: TableFile, limits: Limits) -> ShapeTable | ValueTable:
    """The shapes of a CSV or TSV file with a column of WKT, or of boxes or points; else its values of labels.

    The delimiter is what the first line, the names of the columns, has most of: comma, semicolon or tab.
    Empty cells are null. Boxes are columns x, y (the corner), width and height, or xmin, ymin, xmax and ymax;
    circles x, y and radius; x and y alone are points, but values where there is a column of labels too. Rows
    with too few or too many cells are refused.

    Raises SourceDamaged for a file that cannot be read as such, SourceRefused above the limits and without
    shapes or labels.
    """
    reasons = Reasons(file.location, file.part)
    table = read_text(file, limits, reasons, GEOMETRY_NAMES)
    index = None
    if table.num_columns and table.column_names[0] == "":  # where pandas and R put the names of rows
        index = typed_columns({"": table.column(0)}, ()).get("")
        table = table.remove_column(0)
    column = _geometry_column(table)
    if column is not None:
        geometries = wellknown.from_text(table.column(column), reasons, column)
        # Of this service's own exports the ids are those of features, which are made anew.
        columns = typed_columns(table, (column, "id") if is_own(table.column_names) else (column,))
        return shape_table(geometries, columns, reasons, limits, column=column, index=index)
    columns = typed_columns(table, ())
    located = _located(columns, reasons)
    if located is None:
        values = value_table(columns, index, _as_warnings(reasons))
        if values is None:
            names = ", ".join(map(repr, list(columns)[:20])) or "none"
            reason = f"has no column of geometries, positions or labels; its columns are: {names}"
            raise SourceRefused(file.location, file.part, reason)
        return values
    used, geometries = located
    columns = {name: values for name, values in columns.items() if name not in used}
    boxes = np.full(table.num_rows, len(used) == len(_CORNERS))
    return shape_table(
        geometries, columns, reasons, limits, column=", ".join(used), index=index, rectangle=boxes
    )


def _as_warnings(reasons: Reasons) -> tuple[str, ...]:
    """Refusals, for tables that have no place of their own for them."""
    refused = reasons.refusals()
    if not refused.count:
        return reasons.warnings()
    more = f" and {refused.count - 1} more rows" if refused.count > 1 else ""
    return (*reasons.warnings(), f"refused {refused.reasons[0]}{more}")


def _geometry_column(table: pa.Table) -> str | None:
    for wanted in GEOMETRY_NAMES:
        name = named(wanted, table.column_names)
        if name is not None and table.column_names.count(name) == 1:
            return name
    return None


def _located(columns: dict[str, pa.Array], reasons: Reasons) -> tuple[tuple[str, ...], NDArray[Any]] | None:
    """Boxes or points, and the columns that state them; None where there are none."""
    for wanted in (_CORNERS, _CORNER_AND_SIZE):
        names = _numeric(columns, wanted)
        if names is not None:
            x0, y0, x1, y1 = (_floats(columns[name]) for name in names)
            if wanted == _CORNER_AND_SIZE:
                x1, y1 = x0 + x1, y0 + y1
            reasons.refuse_all(np.flatnonzero(~((x0 < x1) & (y0 < y1))), ", ".join(names), "there is no box")
            return names, shapely.box(x0, y0, x1, y1)
    names = _numeric(columns, ("x", "y"))
    if names is None or (label_column(columns) is not None and _numeric(columns, ("radius",)) is None):
        return None
    x, y = (_floats(columns[name]) for name in names)
    reasons.refuse_all(np.flatnonzero(np.isnan(x + y)), ", ".join(names), "there is no position")
    return names, shapely.points(x, y)


def _numeric(columns: dict[str, pa.Array], wanted: tuple[str, ...]) -> tuple[str, ...] | None:
    names = tuple(name for name in (named(each, columns) for each in wanted) if name is not None)
    types = [columns[name].type for name in names]
    numeric = all(pa.types.is_int64(kind) or pa.types.is_float64(kind) for kind in types)
    return names if len(names) == len(wanted) and numeric else None


def _floats(column: pa.Array) -> NDArray[np.float64]:
    return np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy())
