"""Tables in FlatGeobuf, read by GDAL."""

from __future__ import annotations

import io

import pyarrow as pa

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.sources.limits import Limits
from roiservice.sources.tables import wellknown
from roiservice.sources.tables.columns import typed_columns
from roiservice.sources.tables.geometries import Reasons
from roiservice.sources.tables.rows import shape_table
from roiservice.sources.tables.table import ShapeTable, TableFile

_MAGIC = b"fgb\x03fgb"


def read_flatgeobuf(file: TableFile, limits: Limits) -> ShapeTable:
    """The shapes of a FlatGeobuf file of version 3; labels, planes and layers as in other tables.

    Raises SourceDamaged for other content, SourceRefused above the limits and where pyogrio is not installed.
    """
    try:
        import pyogrio.raw
    except ImportError:
        reason = "FlatGeobuf is read by pyogrio: install roiservice[gdal]"
        raise SourceRefused(file.location, file.part, reason) from None
    if not file.data.startswith(_MAGIC):
        raise SourceDamaged(file.location, file.part, "is no FlatGeobuf file of version 3")
    reasons = Reasons(file.location, file.part)
    try:
        metadata, table = pyogrio.raw.read_arrow(io.BytesIO(file.data), max_features=limits.table_rows + 1)
        table.validate(full=True)  # of damaged files GDAL makes tables whose use could end the process
    except Exception as error:  # noqa: BLE001 - of whatever kind, the file is at fault
        raise SourceDamaged(file.location, file.part, f"GDAL cannot read it: {_first_line(error)}") from None
    if table.num_rows > limits.table_rows:
        raise SourceRefused(file.location, file.part, f"has more than {limits.table_rows} rows")
    return _shapes(table, metadata["geometry_name"] or "wkb_geometry", reasons, limits)


def _shapes(table: pa.Table, name: str, reasons: Reasons, limits: Limits) -> ShapeTable:
    geometries = wellknown.from_bytes(table.column(name), reasons, "geometry")
    return shape_table(geometries, typed_columns(table.drop_columns([name]), ()), reasons, limits)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
