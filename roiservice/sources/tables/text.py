"""Delimited text as columns: fast where all rows are sound, else row by row: a bad one costs no other."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.sources.limits import Limits
from roiservice.sources.tables.geometries import Reasons
from roiservice.sources.tables.table import TableFile

_BOM = codecs.BOM_UTF8
_DELIMITERS = (",", ";", "\t")
_MOST_COLUMNS = 10_000
_MOST_CELL = 2**31 - 1
_BLOCK_BYTES = 2**22
_MOST_OPEN_QUOTES = 100


def read_text(file: TableFile, limits: Limits, reasons: Reasons, texts: Collection[str]) -> pa.Table:
    """The rows of a file whose first line names the columns; each column of one type, "" as null.

    The delimiter is what the first line has most of: comma, semicolon or tab. Columns called like one of
    `texts`, in any case, are large strings whatever they hold; dates stay text. Rows with too few or too many
    cells are refused and null throughout; empty lines are no rows. What is not UTF-8 is taken for Latin-1,
    with a warning. Raises SourceDamaged for what is no such text, SourceRefused above the limits.
    """
    data = _utf8(file, reasons)
    if data.count(b"\n") > limits.table_rows + 1:
        raise SourceRefused(file.location, file.part, f"has more than {limits.table_rows} rows")
    delimiter, names = _header(data)
    if len(names) > _MOST_COLUMNS:
        reason = f"has {len(names)} columns; {_MOST_COLUMNS} are allowed"
        raise SourceRefused(file.location, file.part, reason)
    types = {name: pa.large_string() for name in names if name.strip().casefold() in texts}
    try:
        if _ends_quoted(data):
            raise pa.ArrowInvalid("a quote is not closed")
        table = _parsed(data, delimiter, types)
    except pa.ArrowException:
        table = _mended(file, data, delimiter, types, reasons)
    return table.rename_columns([name.strip() for name in table.column_names])


def _utf8(file: TableFile, reasons: Reasons) -> bytes:
    """The text in UTF-8, without a mark at its beginning."""
    data = file.data.removeprefix(_BOM)
    data = data.lstrip(b"\r\n")
    if not data.strip():
        raise SourceDamaged(file.location, file.part, "is empty")
    if b"\0" in data[: 2**10].splitlines()[0]:  # UTF-16, or no text at all
        raise SourceDamaged(file.location, file.part, "is no text in UTF-8")
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(data), _BLOCK_BYTES):
            decoder.decode(data[start : start + _BLOCK_BYTES], final=start + _BLOCK_BYTES >= len(data))
    except UnicodeDecodeError:
        reasons.warn("read as Latin-1, since it is no UTF-8")
        data = data.decode("latin-1").encode()
    return data if b"\n" in data else data.replace(b"\r", b"\n")


def _header(data: bytes) -> tuple[str, list[str]]:
    """The delimiter, and the names in the first line."""
    found = re.search(rb"[^\r\n]+", data)
    line = found[0].decode() if found else ""
    rows = {delimiter: _cells(line, delimiter) for delimiter in _DELIMITERS}
    best = max(_DELIMITERS, key=lambda delimiter: len(rows[delimiter]))
    return best, rows[best]


def _cells(line: str, delimiter: str) -> list[str]:
    csv.field_size_limit(_MOST_CELL)
    return next(csv.reader([line], delimiter=delimiter), [])


def _ends_quoted(data: bytes) -> bool:
    """Whether a cell's quote is never closed: quotes within cells are written twice."""
    return data.count(b'"') % 2 == 1


def _parsed(data: bytes, delimiter: str, types: dict[str, Any]) -> pa.Table:
    """Columns of sound text."""
    table = _arrow(data, delimiter, types)
    dates = [field.name for field in table.schema if pa.types.is_temporal(field.type)]
    if dates:  # arrow would write them in another way than the file does
        table = _arrow(data, delimiter, {**types, **dict.fromkeys(dates, pa.string())})
    columns = [_without_empty(column) for column in table.columns]
    return pa.Table.from_arrays(columns, names=table.column_names)


def _without_empty(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)


def _arrow(data: bytes, delimiter: str, types: dict[str, Any]) -> pa.Table:
    parse = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    convert = pa.csv.ConvertOptions(column_types=types)
    for size in (_BLOCK_BYTES, min(len(data) + 1, _MOST_CELL)):
        try:
            return pa.csv.read_csv(pa.BufferReader(data), pa.csv.ReadOptions(block_size=size), parse, convert)
        except pa.ArrowInvalid as error:
            if "straddling" not in str(error) or size > _BLOCK_BYTES:
                raise
    raise pa.ArrowInvalid("a row is too large")


def _mended(
    file: TableFile, data: bytes, delimiter: str, types: dict[str, Any], reasons: Reasons
) -> pa.Table:
    """Columns of text whose unsound rows are replaced by empty ones."""
    out = io.BytesIO()
    text = io.TextIOWrapper(out, "utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    records = _records(data, delimiter)
    names = next(records)
    writer.writerow(names)
    for row, cells in enumerate(records, 1):
        if isinstance(cells, list) and len(cells) == len(names):
            writer.writerow(cells)
        else:
            reason = f"has {len(cells)} cells instead of {len(names)}" if isinstance(cells, list) else cells
            reasons.refuse(row, "", reason)
            writer.writerow([""] * len(names))
    text.flush()
    try:
        return _parsed(out.getvalue(), ",", types)
    except pa.ArrowException as error:
        reason = f"cannot be read: {str(error).splitlines()[0][:200]}"
        raise SourceDamaged(file.location, file.part, reason) from None


def _records(data: bytes, delimiter: str) -> Iterator[list[str] | str]:
    """Cells of each record, or what is wrong with it; after such a one, reading goes on in the next line."""
    lines = _Lines(data)
    for strict in [True] * _MOST_OPEN_QUOTES + [False]:
        reader = csv.reader(lines, delimiter=delimiter, strict=strict)
        begin = lines.at
        try:
            for cells in reader:
                begin = lines.at
                if cells:
                    yield cells
        except csv.Error as error:
            yield f"cannot be read: {error}"
            lines.at = begin
            next(lines)
        else:
            return


class _Lines:
    """The lines of a text from the byte `at`, which moves with them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        begin = self.at
        if begin >= len(self._data):
            raise StopIteration
        self.at = self._data.find(b"\n", begin) + 1 or len(self._data)
        return self._data[begin : self.at].decode()
