"""Tables in Apache Parquet: GeoParquet, geometries as WKT or WKB, or values of labels alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from numpy.typing import NDArray

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.records import dataclass
from roiservice.sources.limits import Limits
from roiservice.sources.tables import geoarrow, wellknown
from roiservice.sources.tables.columns import is_bytes, is_text, typed_columns
from roiservice.sources.tables.footer import Footer, FooterDamaged, read_footer
from roiservice.sources.tables.geometries import Reasons
from roiservice.sources.tables.rows import is_own, shape_table, value_table
from roiservice.sources.tables.table import ShapeTable, TableFile, ValueTable

# What tables without metadata call their geometries, best first.
GEOMETRY_NAMES = (
    "wkt",
    "geometry",
    "geometry_wkt",
    "geom",
    "the_geom",
    "wkb",
    "geometry_wkb",
    "wkb_geometry",
)

_TABLES_TOGETHER = 4  # all columns of a table may have so many times the bytes that one may have
_BATCH_BYTES = 2**27
_BATCH_ROWS = 65536
_PLAIN_INDEX = "__index_level_0__"  # what pandas calls an index without a name
_WKB_TYPES = ("geoarrow.wkb", "ogc.wkb")
_WKT_TYPES = ("geoarrow.wkt", "ogc.wkt")


@dataclass(frozen=True)
class _Geometry:
    """The column of geometries, how it is encoded, and the columns that only serve it."""

    name: str
    encoding: str
    helpers: frozenset[str] = frozenset()


def read_parquet(file: TableFile, limits: Limits) -> ShapeTable | ValueTable:
    """The shapes of a file with geometries; else its values of labels.

    Geometries are found by GeoParquet's metadata (encodings WKB and native), else by the column's type or
    usual name. The index that pandas wrote gives labels or keys where no column does. Raises SourceDamaged
    for a file that is no Parquet, SourceRefused above the limits and without geometries or labels.
    """
    parts = [file.data]
    schema = _checked_schema(parts, file.location, file.part, limits)
    reasons = Reasons(file.location, file.part)
    if _geometry_of(schema) is None:
        table, index = _read(parts, schema, file.location, file.part, limits, reasons)
        values = value_table(typed_columns(table, ()), index, reasons.warnings())
        if values is None:
            names = ", ".join(schema.names[:20]) or "none"
            reason = f"has neither a column of geometries nor one of labels; its columns are: {names}"
            raise SourceRefused(file.location, file.part, reason)
        return values
    geometries, table, index = read_geoparquet(parts, file.location, file.part, limits, reasons)
    column = _geometry_of(schema)
    return shape_table(
        geometries,
        typed_columns(table, ("id",) if is_own(table.column_names) else ()),  # ids are made anew
        reasons,
        limits,
        column="geometry" if column is None else column.name,
        index=index,
    )


def read_geoparquet(
    data: bytes | Sequence[bytes],
    location: str,
    part: str,
    limits: Limits,
    reasons: Reasons | None = None,
) -> tuple[NDArray[Any], pa.Table, pa.Array | None]:
    """Geometries (n,), the other columns, and the index that pandas wrote, of one file or several parts.

    Geometries are shapely's, in the file's own unit, None where refused in `reasons`. The index, of any type,
    is no column of the table; None where there is none but a count of rows. Raises SourceDamaged without
    geometries, else as `read_parquet`.
    """
    parts = [data] if isinstance(data, bytes) else list(data)
    reasons = Reasons(location, part) if reasons is None else reasons
    schema = _checked_schema(parts, location, part, limits)
    geometry = _geometry_of(schema)
    if geometry is None:
        raise SourceDamaged(location, part, "has no column of geometries")
    table, index = _read(parts, schema, location, part, limits, reasons)
    if geometry.name not in table.column_names:
        raise SourceDamaged(location, part, f"has no column {geometry.name!r}, which its metadata names")
    try:
        geometries = _geometries(table.column(geometry.name), geometry, reasons)
    except Exception as error:  # noqa: BLE001 - of whatever kind, the file is at fault
        reason = f"column {geometry.name!r} cannot be read: {_first_line(error)}"
        raise SourceDamaged(location, part, reason) from None
    others = [n for n in table.column_names if n != geometry.name and n not in geometry.helpers]
    return geometries, table.select(others), index


def _geometries(column: pa.ChunkedArray, geometry: _Geometry, reasons: Reasons) -> NDArray[Any]:
    if geometry.encoding == "WKB":
        return wellknown.from_bytes(column, reasons, geometry.name)
    if geometry.encoding == "WKT":
        return wellknown.from_text(column, reasons, geometry.name)
    return geoarrow.from_arrow(column, geometry.encoding, reasons, geometry.name)


def _geometry_of(schema: pa.Schema) -> _Geometry | None:
    stated = _json(schema, b"geo")
    columns = stated.get("columns")
    name = stated.get("primary_column")
    if isinstance(columns, dict) and isinstance(name, str) and name in columns:
        return _stated(name, columns)
    for field in schema:
        extension = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode("utf-8", "replace")
        if extension in _WKB_TYPES or extension in _WKT_TYPES:
            return _Geometry(field.name, "WKB" if extension in _WKB_TYPES else "WKT")
        if extension.removeprefix("geoarrow.") in geoarrow.ENCODINGS:
            return _Geometry(field.name, extension.removeprefix("geoarrow."))
    by_name = {name.casefold(): name for name in reversed(schema.names)}
    for wanted in GEOMETRY_NAMES:
        if wanted in by_name:
            encoding = _encoding(schema.field(by_name[wanted]).type)
            if encoding is not None:
                return _Geometry(by_name[wanted], encoding)
    return None


def _stated(name: str, columns: dict[str, Any]) -> _Geometry:
    """What GeoParquet's metadata (1.1) says of the primary column; other geometries are left out."""
    own = columns[name] if isinstance(columns[name], dict) else {}
    helpers = set(columns)
    covering = own.get("covering")
    box = covering.get("bbox") if isinstance(covering, dict) else None
    for path in box.values() if isinstance(box, dict) else ():
        if isinstance(path, list) and path and isinstance(path[0], str):
            helpers.add(path[0])
    encoding = own.get("encoding")
    return _Geometry(name, encoding if isinstance(encoding, str) else "WKB", frozenset(helpers - {name}))


def _encoding(kind: pa.DataType) -> str | None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if is_text(kind):
        return "WKT"
    return "WKB" if is_bytes(kind) else None


def _json(schema: pa.Schema, key: bytes) -> dict[str, Any]:
    try:
        stated = orjson.loads((schema.metadata or {}).get(key, b"{}"))
    except orjson.JSONDecodeError:
        return {}
    return stated if isinstance(stated, dict) else {}


def _index_name(schema: pa.Schema) -> str | None:
    """The one column that pandas used as index; None for a count of rows or an index of several columns."""
    stated = _json(schema, b"pandas").get("index_columns")
    if isinstance(stated, list) and len(stated) == 1 and isinstance(stated[0], str):
        return stated[0] if stated[0] in schema.names else None
    return _PLAIN_INDEX if _PLAIN_INDEX in schema.names else None


def _checked_schema(parts: Sequence[bytes], location: str, part: str, limits: Limits) -> pa.Schema:
    """The schema of the first part; the footers of all are held against the limits before any reading."""
    rows, sizes = 0, Counter[str]()
    for data in parts:
        footer = _footer(data, location, part)
        rows += footer.rows
        for chunk in footer.chunks:
            sizes[".".join(chunk.path)] += chunk.least_bytes
    for name, size in sizes.items():
        if size > limits.table_bytes:
            reason = f"column {name!r} has {size} bytes; {limits.table_bytes} are allowed"
            raise SourceRefused(location, part, reason)
    if rows > limits.table_rows:
        raise SourceRefused(location, part, f"has {rows} rows; {limits.table_rows} are allowed")
    if sizes.total() > _TABLES_TOGETHER * limits.table_bytes:
        reason = (
            f"its columns have {sizes.total()} bytes; {_TABLES_TOGETHER * limits.table_bytes} are allowed"
        )
        raise SourceRefused(location, part, reason)
    if not parts:
        raise SourceDamaged(location, part, "has no file of rows")
    return _opened(parts[0], location, part).schema_arrow


def _footer(data: bytes, location: str, part: str) -> Footer:
    try:
        return read_footer(data)
    except FooterDamaged as error:
        raise SourceDamaged(location, part, f"is no Parquet file that can be read: {error}") from None


def _opened(data: bytes, location: str, part: str, **options: Any) -> Any:
    try:
        return pa.parquet.ParquetFile(pa.BufferReader(data), **options)
    except Exception as error:  # noqa: BLE001 - of whatever kind, the file is at fault
        reason = f"is no Parquet file that can be read: {_first_line(error)}"
        raise SourceDamaged(location, part, reason) from None


def _read(
    parts: Sequence[bytes],
    schema: pa.Schema,
    location: str,
    part: str,
    limits: Limits,
    reasons: Reasons,
) -> tuple[pa.Table, pa.Array | None]:
    """All columns of all parts, and the index apart."""
    try:
        tables = [_read_part(data, location, part, limits, reasons) for data in parts]
        table = pa.concat_tables(tables, promote_options="default")
    except SourceRefused:
        raise
    except Exception as error:  # noqa: BLE001 - of whatever kind, the file is at fault
        raise SourceDamaged(location, part, f"cannot be read: {_first_line(error)}") from None
    name = _index_name(schema)
    if name is None or name not in table.column_names:
        return table, None
    index = typed_columns(table.select([name]), ()).get(name)
    return table.drop_columns([name]), index


def _read_part(data: bytes, location: str, part: str, limits: Limits, reasons: Reasons) -> pa.Table:
    """One part, its texts decoded after they were found to be within the limits."""
    often, prefixed, nested = _swelling(_footer(data, location, part), limits)
    opened = _opened(data, location, part, read_dictionary=sorted(often))
    for name in sorted(nested):
        reasons.warn(f"column {name!r} is left out: its lists of texts may be too large")
    names = [n for n in opened.schema_arrow.names if n not in prefixed and n not in nested]
    table = opened.read(columns=names)
    for index, name in enumerate(names):
        if name in often:
            table = table.set_column(index, name, _decoded(table.column(index), name, location, part, limits))
    for name in sorted(prefixed):
        batches = _in_batches(opened, name, prefixed[name], location, part, limits)
        table = table.append_column(name, batches)
    return table.replace_schema_metadata(opened.schema_arrow.metadata)


def _swelling(footer: Footer, limits: Limits) -> tuple[set[str], dict[str, int], set[str]]:
    """Columns of texts that may have more bytes than the footer tells: stored once and used by many rows.

    Those of dictionaries; those where each text states only how it differs from the one before, with the
    bytes of the largest chunk; and, by the name of the whole column, texts within lists or structs.
    """
    often: set[str] = set()
    prefixed: dict[str, int] = {}
    nested: set[str] = set()
    for chunk in footer.chunks:
        name = chunk.path[0]
        if not chunk.is_text or chunk.encoded_bytes * chunk.values <= limits.table_bytes:
            continue
        if len(chunk.path) > 1:
            nested.add(name)
        elif chunk.has_prefixes:
            prefixed[name] = max(chunk.encoded_bytes, prefixed.get(name, 0))
        elif chunk.has_dictionary:
            often.add(name)
    return often - prefixed.keys(), prefixed, nested


def _decoded(column: pa.ChunkedArray, name: str, location: str, part: str, limits: Limits) -> pa.ChunkedArray:
    size = 0
    for chunk in column.chunks:
        if not pa.types.is_dictionary(chunk.type):
            return column
        lengths = pc.binary_length(chunk.dictionary).fill_null(0).to_numpy().astype(np.int64)
        codes = chunk.indices.drop_null().to_numpy()
        size += int(lengths[codes].sum()) if len(codes) else 0
    _check(size, name, location, part, limits)
    wide = pa.large_binary() if _encoding(column.type) == "WKB" else pa.large_string()
    chunks = [chunk.dictionary.cast(wide).take(chunk.indices) for chunk in column.chunks]
    return pa.chunked_array(chunks, wide)


def _in_batches(
    opened: Any, name: str, largest: int, location: str, part: str, limits: Limits
) -> pa.ChunkedArray:
    """A column of texts, read by so few rows at a time that even the longest texts would do no harm."""
    rows = min(_BATCH_ROWS, max(1, _BATCH_BYTES // largest))
    chunks, size = [], 0
    for batch in opened.iter_batches(batch_size=rows, columns=[name]):
        size += batch.nbytes
        _check(size, name, location, part, limits)
        chunks.append(batch.column(0))
    return pa.chunked_array(chunks, opened.schema_arrow.field(name).type)


def _check(size: int, name: str, location: str, part: str, limits: Limits) -> None:
    if size > limits.table_bytes:
        reason = f"column {name!r} decodes to {size} bytes; {limits.table_bytes} are allowed"
        raise SourceRefused(location, part, reason)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
