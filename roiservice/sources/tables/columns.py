"""Columns of properties in the few types that catalogs keep, and the one that names the labels."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from roiservice.records import dataclass
from roiservice.sources.tables.table import Int64

LABEL_NAMES = ("label", "label_value", "label-value", "object", "roi", "shape")

_INT64_MAX = 2**63 - 1
_WHOLE = r"^-?[0-9]{1,18}$"  # as many digits as fit int64 whatever they are
_LONG = r"^-?[0-9]{19,}$"
_DIGITS = r"^-?[0-9]+$"


@dataclass(frozen=True)
class LabelColumn:
    """The column that names the labels: (n,) values, and which rows have one (elsewhere the value is 0)."""

    name: str
    values: Int64
    known: NDArray[np.bool_]


def typed_columns(
    table: pa.Table | Mapping[str, Sequence[Any] | pa.Array], leave_out: Collection[str]
) -> dict[str, pa.Array]:
    """Every column but `leave_out` as bool, int64, float64 or string, with nulls.

    Dictionaries are decoded and narrower numbers widened; integers beyond int64, decimals, dates and times
    become strings; lists and structs JSON text, and so does every value of a column that mixes types. NaN
    becomes null, and so do lists and structs with a value that Python has not. Binary columns are left out.
    Of columns with one name, later ones get `_2`, `_3`, ....
    """
    names = table.column_names if isinstance(table, pa.Table) else list(table)
    out: dict[str, pa.Array] = {}
    for index, name in enumerate(names):
        if name in leave_out:
            continue
        column = table.column(index) if isinstance(table, pa.Table) else table[name]
        typed = _typed(column if isinstance(column, pa.Array | pa.ChunkedArray) else _array(column))
        if typed is not None:
            out[_unused(encodable(name), out)] = typed
    return out


def label_column(columns: Mapping[str, pa.Array]) -> LabelColumn | None:
    """The column among typed ones that names the labels; None if there is none.

    The first of LABEL_NAMES, whatever its case, of whose values more than half are whole numbers, as numbers
    or text; nulls do not count.
    """
    by_name: dict[str, str] = {}
    for name in columns:
        by_name.setdefault(name.casefold(), name)
    for wanted in LABEL_NAMES:
        if wanted in by_name:
            column = columns[by_name[wanted]]
            values, known = some_whole_numbers(column)
            if not len(column) or 2 * int(known.sum()) > len(column) - column.null_count:
                return LabelColumn(by_name[wanted], values, known)
    return None


def whole_numbers(column: pa.Array) -> tuple[Int64, NDArray[np.bool_]] | None:
    """Values (n,) of a typed column, 0 for null, and which are not null; None if one is no whole number."""
    values, known = some_whole_numbers(column)
    return (values, known) if int(known.sum()) == len(column) - column.null_count else None


def some_whole_numbers(column: pa.Array) -> tuple[Int64, NDArray[np.bool_]]:
    """Values (n,) of a typed column, and which of them are whole numbers within int64; 0 for the others."""
    if pa.types.is_string(column.type):
        text = pc.replace_substring_regex(pc.utf8_trim_whitespace(column), r"^\+", "")
        if pc.any(pc.match_substring_regex(text, _LONG)).as_py():  # rare, and some may be beyond int64
            text = pa.array([_within_int64(value) for value in text.to_pylist()], pa.string())
            column = pc.if_else(pc.match_substring_regex(text, _DIGITS), text, None).cast(pa.int64())
        else:
            whole = pc.match_substring_regex(text, _WHOLE)
            column = pc.if_else(whole, text, pa.scalar(None, pa.string())).cast(pa.int64())
    if pa.types.is_int64(column.type):
        known = np.asarray(column.is_valid().to_numpy(zero_copy_only=False))
        return np.asarray(column.fill_null(0).to_numpy()), known
    if pa.types.is_float64(column.type):
        numbers = np.asarray(column.fill_null(np.nan).to_numpy())
        known = (np.abs(numbers) < 2.0**63) & (numbers == np.rint(numbers))
        return np.where(known, numbers, 0).astype(np.int64), known
    return np.zeros(len(column), np.int64), np.zeros(len(column), np.bool_)


def _within_int64(text: str | None) -> str | None:
    """The text, unless it is of digits alone and beyond int64; of few enough to be compared as a number."""
    if text is None or not re.fullmatch(_DIGITS, text):
        return text
    return text if len(text) < 64 and -(2**63) <= int(text) < 2**63 else None


def is_text(kind: pa.DataType) -> bool:
    """Whether values are strings, however they are laid out in memory."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values are bytes of any number, however they are laid out in memory."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def json_text(value: Any) -> str | None:
    """A value as JSON; a string as it is, None for None and for what cannot be written."""
    if value is None or isinstance(value, str):
        return value
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError):  # integers beyond 64 bits, surrogates, depth
        pass
    try:
        return json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        return None


def _array(values: Sequence[Any]) -> pa.Array:
    """Python values as an array; mixed ones as text."""
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        texts = [json_text(value) for value in values]
        return pa.array([None if text is None else encodable(text) for text in texts], pa.string())


def encodable(text: str) -> str:
    """`text` with lone surrogates replaced, which JSON may state but UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def _typed(column: pa.Array | pa.ChunkedArray) -> pa.Array | None:
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(column, pa.ChunkedArray):  # of older versions, where there is one chunk or none
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_boolean(kind):
        return column
    if pa.types.is_string(kind):
        return _valid_text(column)
    if pa.types.is_floating(kind):
        numbers = column.cast(pa.float64())
        return pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    if pa.types.is_integer(kind):
        return _integers(column)
    if pa.types.is_nested(kind):
        return pa.array([json_text(value) for value in _python_values(column)], pa.string())
    if pa.types.is_fixed_size_binary(kind) or is_bytes(kind):
        return None
    return _text(column)


def _valid_text(column: pa.Array) -> pa.Array:
    """A column of strings, with bytes replaced that are no UTF-8: files do not always keep to it."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return pa.array(
            [value and value.decode("utf-8", "replace") for value in column.cast(pa.binary()).to_pylist()],
            pa.string(),
        )
    return column


def _python_values(column: pa.Array) -> list[Any]:
    """Values as Python has them; None for those that it cannot have, such as dates after the year 9999."""
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [_python_value(value) for value in column]


def _python_value(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        return None


def _integers(column: pa.Array) -> pa.Array:
    largest = pc.max(column).as_py() if pa.types.is_uint64(column.type) else None
    return column.cast(pa.string() if largest is not None and largest > _INT64_MAX else pa.int64())


def _text(column: pa.Array) -> pa.Array | None:
    try:
        return _valid_text(column.cast(pa.string()))
    except pa.ArrowException:
        return None


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"
