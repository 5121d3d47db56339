"""Columns of a Fractal table, whichever way it is stored: AnnData, CSV, JSON or Parquet.

The backends: https://biovisioncenter.github.io/ngio/stable/table_specs/backend/
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.records import dataclass
from roiservice.sources.documents import read_json
from roiservice.sources.limits import Limits
from roiservice.sources.paths import join
from roiservice.sources.store import Store
from roiservice.sources.tables.anndata import read_anndata
from roiservice.sources.tables.columns import typed_columns
from roiservice.sources.tables.dataframes import decoded_bytes
from roiservice.sources.tables.ngiolisting import BACKENDS


@dataclass(frozen=True)
class Columns:
    """A table of n rows: typed columns by name, (n,) each, and warnings about what was left out.

    `index` (n,) are names of the rows that no column holds; None if there are none. `skipped` are texts of
    lines that were no rows of the table.
    """

    rows: int
    columns: dict[str, pa.Array]
    index: pa.Array | None = None
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_columns(store: Store, path: str, zarr_format: int, backend: str, limits: Limits) -> Columns:
    """The columns of the table at `path`, a group of that zarr format.

    Raises SourceDamaged where the file is missing or not sound, SourceRefused above the limits and for
    unknown backends.
    """
    if backend == "anndata":
        return _anndata_columns(store, path, limits)
    if backend == "json":
        return _json_columns(store, path, zarr_format, limits)
    if backend not in BACKENDS:
        raise SourceRefused(store.location, path, f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
    part = join(path, f"table.{backend}")
    data = store.read(part, limits.table_bytes)
    if data is None:
        raise SourceDamaged(store.location, part, "there is no such file")
    read = _csv_columns if backend == "csv" else _parquet_columns
    try:
        return read(data, store, part, limits)
    except SourceError:
        raise
    except Exception as error:  # Arrow raises its own errors, OSError, UnicodeDecodeError and others
        reason = f"is no readable {backend} file: {str(error).splitlines()[0][:300]}"
        raise SourceDamaged(store.location, part, reason) from error


def _anndata_columns(store: Store, path: str, limits: Limits) -> Columns:
    """Floats lie in X, texts and integers in `obs`; what names the rows is the index of `obs`, as text."""
    table = read_anndata(store, path, limits)
    columns = table.columns
    index: pa.Array | None = table.index
    if table.index_name is not None:
        columns, index = {table.index_name: table.index, **columns}, None
    return Columns(len(table.index), columns, index, warnings=table.warnings)


def _json_columns(store: Store, path: str, zarr_format: int, limits: Limits) -> Columns:
    """Lists by name in the attributes of the subgroup `table`; or, as pandas also has it, objects by row."""
    part = join(path, "table", ".zattrs" if zarr_format == 2 else "zarr.json")
    document = read_json(store, part)
    stated = document if document is None or zarr_format == 2 else document.get("attributes", {})
    if not isinstance(stated, dict):
        raise SourceDamaged(store.location, part, "there is no such table")
    lists = {name: list(v.values()) if isinstance(v, dict) else v for name, v in stated.items()}
    if not all(isinstance(values, list) for values in lists.values()):
        raise SourceDamaged(store.location, part, "each column must be a list")
    lengths = {len(values) for values in lists.values()}
    if len(lengths) > 1:
        raise SourceDamaged(store.location, part, "its columns differ in length")
    rows = lengths.pop() if lengths else 0
    _check_rows(store, part, rows, limits)
    return Columns(rows, typed_columns(lists, ()))


def _csv_columns(data: bytes, store: Store, part: str, limits: Limits) -> Columns:
    import pyarrow.csv as csv

    data.decode()  # raises where it is no text: the function below would be called with bytes that are none
    skipped: list[str] = []

    def skip(row: csv.InvalidRow) -> str:
        where = "" if row.number is None else f"line {row.number}: "
        skipped.append(f"{where}{row.actual_columns} fields instead of {row.expected_columns}")
        return "skip"

    table = csv.read_csv(
        pa.BufferReader(data),
        # One block, since types are inferred from the first one alone; one thread, for the numbers of lines.
        csv.ReadOptions(use_threads=False, block_size=min(len(data) + 1, 2**31 - 1)),
        csv.ParseOptions(invalid_row_handler=skip, newlines_in_values=True),
        csv.ConvertOptions(column_types=dict.fromkeys(_TEXT_COLUMNS, pa.string())),
    )
    return _table_columns(table, store, part, limits, skipped)


# Names that may look like numbers: the column "03" of a plate is not 3.
_TEXT_COLUMNS = ("FieldIndex", "plate_name", "row", "column", "path_in_well", "path_in_plate")


def _parquet_columns(data: bytes, store: Store, part: str, limits: Limits) -> Columns:
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(pa.BufferReader(data))
    flat = [field for field in file.schema_arrow if _is_flat(field.type)]
    _check_rows(store, part, file.metadata.num_rows, limits)
    _check_bytes(store, part, 8 * file.metadata.num_rows * len(flat), limits)
    _check_bytes(store, part, sum(_stated_sizes(file.metadata)), limits)
    # A short file can stand for very many equal texts: they are counted before they are written out.
    texts = [field.name for field in flat if _holds_texts(field.type)]
    file = parquet.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
    table = file.read([field.name for field in flat])
    for name in texts:
        _check_bytes(store, part, _decoded(table[name]), limits)
    left_out = [field.name for field in file.schema_arrow if not _is_flat(field.type)]
    warnings = [f"{part}: column {name!r} left out: it holds no single values" for name in left_out]
    return _table_columns(table, store, part, limits, (), warnings)


def _stated_sizes(metadata: Any) -> Iterable[int]:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        yield from (group.column(column).total_uncompressed_size for column in range(group.num_columns))


def _is_flat(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    binary = pa.types.is_binary(value) or pa.types.is_large_binary(value) or pa.types.is_binary_view(value)
    return not (binary or pa.types.is_nested(value) or pa.types.is_fixed_size_binary(value))


def _holds_texts(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)
    return any(test(kind) for test in tests)


def _decoded(column: pa.ChunkedArray) -> int:
    size = 0
    for chunk in column.chunks:
        if pa.types.is_dictionary(chunk.type):
            codes = chunk.indices.fill_null(-1).to_numpy().astype(np.int64)
            size += decoded_bytes(codes, chunk.dictionary)
    return size


def _table_columns(
    table: pa.Table,
    store: Store,
    part: str,
    limits: Limits,
    skipped: Iterable[str],
    warnings: Iterable[str] = (),
) -> Columns:
    _check_rows(store, part, table.num_rows, limits)
    columns = typed_columns(table, ())
    index = columns.pop(_PANDAS_INDEX, None)
    return Columns(table.num_rows, columns, index, tuple(skipped), tuple(warnings))


_PANDAS_INDEX = "__index_level_0__"  # what pandas calls an index without a name


def _check_rows(store: Store, part: str, rows: int, limits: Limits) -> None:
    if rows > limits.table_rows:
        raise SourceRefused(store.location, part, f"has {rows} rows; {limits.table_rows} are allowed")


def _check_bytes(store: Store, part: str, size: int, limits: Limits) -> None:
    if size > limits.table_bytes:
        raise SourceRefused(
            store.location, part, f"decodes to {size} bytes; {limits.table_bytes} are allowed"
        )
