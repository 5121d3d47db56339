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

    Rows whose label is no whole number are left out; of several rows with one label the first is taken. Both
    are counted in a warning that names the first such row, counted from 1.
    """
    numbers, known = label_numbers(labels)
    rows = np.flatnonzero(known)
    noted = list(warnings)
    if len(rows) < len(labels):
        noted.append(_left_out(np.flatnonzero(~known), labels, "the label is no whole number"))
    _, first = np.unique(numbers[rows], return_index=True)
    first.sort()
    if len(first) < len(rows):
        again = np.ones(len(rows), np.bool_)
        again[first] = False
        noted.append(_left_out(rows[again], labels, "an earlier row has the same label"))
    rows = rows[first]
    taken = dict(columns) if len(rows) == len(labels) else {k: v.take(rows) for k, v in columns.items()}
    return ValueTable(numbers[rows], taken, layers, tuple(noted))


def _left_out(rows: Int64, labels: pa.Array, reason: str) -> str:
    count = "1 row" if len(rows) == 1 else f"{len(rows)} rows"
    value = repr(labels[int(rows[0])].as_py())
    shown = value if len(value) <= 40 else value[:37] + "..."
    return f"{count} left out, first row {rows[0] + 1} ({shown}): {reason}"
