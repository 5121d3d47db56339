"""From a column of labels and other columns to the values of labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from roiservice.sources.tables.columns import some_whole_numbers, typed_columns
from roiservice.sources.tables.table import Int64, ValueTable


def label_numbers(values: pa.Array) -> tuple[Int64, NDArray[np.bool_]]:
    """(n,) int64 values of a column of any type, and which of them are whole numbers.

    As `some_whole_numbers`; text such as "7.0", of tables that went through floats, counts as 7 as well.
    """
    typed = typed_columns({"label": values}, ()).get("label")
    if typed is None:  # of a type that properties do not have
        return np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)
    if pa.types.is_string(typed.type):
        typed = pc.replace_substring_regex(typed, r"\.0*\s*$", "")
    return some_whole_numbers(typed)


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
