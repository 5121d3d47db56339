"""From a column of labels and other columns to the values of labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from roiservice.sources.tables.table import Int64, ValueTable

# A cast of more digits could overflow; no label has as many.
_WHOLE = r"^\s*[+-]?[0-9]{1,18}(\.0*)?\s*$"


def label_numbers(values: pa.Array) -> tuple[Int64, NDArray[np.bool_]]:
    """(n,) int64 values of a column of ints, floats or strings, and which of them are whole numbers.

    Text such as "7" or "7.0" counts as the number 7; bools, nulls, fractions and all else as none.
    """
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        whole = pc.match_substring_regex(values, _WHOLE)
        digits = pc.replace_substring_regex(pc.utf8_trim_whitespace(values), r"^\+|\.0*$", "")
        values = pc.if_else(whole, digits, None).cast(pa.int64())
    if pa.types.is_integer(values.type):
        known = values.is_valid().to_numpy(zero_copy_only=False)
        if pa.types.is_uint64(values.type):
            known &= pc.less(values, 2**63).fill_null(False).to_numpy(zero_copy_only=False)
        return values.fill_null(0).to_numpy().astype(np.int64), known
    if pa.types.is_floating(values.type):
        floats = values.cast(pa.float64()).fill_null(np.nan).to_numpy()
        known = np.abs(floats) < 2**63  # not so for NaN
        numbers = np.where(known, floats, 0).astype(np.int64)
        return numbers, known & (numbers == floats)
    return np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)


def value_table(
    labels: pa.Array,
    columns: Mapping[str, pa.Array],
    layers: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
) -> ValueTable:
    """Values of the labels in a column `labels` (n,), which need not be clean; `columns` (n,) are typed.

    As `values_of_labels`.
    """
    return values_of_labels(*label_numbers(labels), columns, layers, warnings)


def values_of_labels(
    numbers: Int64,
    known: NDArray[np.bool_],
    columns: Mapping[str, pa.Array],
    layers: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
) -> ValueTable:
    """Values of the labels `numbers` (n,), where they are `known` (n,); `columns` (n,) are typed.

    Rows whose label is not known are left out; of several rows with one label the last counts. Both are
    counted in a warning that names the first such row, counted from 1.
    """
    rows = np.flatnonzero(known)
    noted = [*warnings, *_left_out(np.flatnonzero(~known), "the label is no whole number")]
    _, last = np.unique(numbers[rows][::-1], return_index=True)
    kept = rows[np.sort(len(rows) - 1 - last)]
    noted += _left_out(np.setdiff1d(rows, kept, assume_unique=True), "a later row has the same label")
    taken = dict(columns) if len(kept) == len(known) else {k: v.take(kept) for k, v in columns.items()}
    return ValueTable(numbers[kept], taken, layers, tuple(noted))


def _left_out(rows: Int64, reason: str) -> list[str]:
    if not len(rows):
        return []
    count = "1 row" if len(rows) == 1 else f"{len(rows)} rows"
    return [f"{count} left out, first row {rows[0] + 1}: {reason}"]
