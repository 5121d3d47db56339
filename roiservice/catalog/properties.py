"""The objects' own properties as typed columns: those that metadata states, and those of joined tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from roiservice.sources.tables.table import ValueTable

# Names that features have anyway; a property of the same name is told apart by this prefix.
RESERVED = frozenset({"label", "layer", "z", "t", "c", "area", "color", "drawn_as"})
RESERVED_PREFIX = "property:"

Columns = dict[str, pa.Array]
Stated = Mapping[int, Mapping[str, Any]]


def stated_columns(rows: Stated, labels: NDArray[Any]) -> Columns:
    """Properties of `labels` (m,), given as rows by label, as columns (m,) in the order names first appear.

    A column is bool, int64, float64 or string if its values are, else JSON as binary. What a row lacks is
    null, as are null and NaN.
    """
    if not rows:
        return {}
    of_labels = [rows.get(label, {}) for label in labels.tolist()]
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return named_columns({_text(name): _typed([row.get(name) for row in of_labels]) for name in names})


def joined_columns(table: ValueTable, labels: NDArray[Any]) -> Columns:
    """The columns of `table` for `labels` (m,); null for labels that it does not have."""
    if not len(table.label):
        return {}
    order = np.argsort(table.label, kind="stable")
    found = np.minimum(np.searchsorted(table.label[order], labels), len(order) - 1)
    rows = order[found]
    indices = pa.array(rows, mask=table.label[rows] != labels)
    return named_columns({name: column.take(indices) for name, column in table.columns.items()})


def merged(all_columns: Iterable[Columns]) -> Columns:
    """Columns of several sources; of equal names the later has the say, where it has a value."""
    out: Columns = {}
    for columns in all_columns:
        for name, column in columns.items():
            known = out.get(name)
            out[name] = column if known is None else _over(column, known)
    return out


def _over(column: pa.Array, known: pa.Array) -> pa.Array:
    if column.type != known.type:
        column, known = _alike(column, known)
    import pyarrow.compute as pc  # takes a while, and most layers have no tables

    return pc.coalesce(column, known)


def _alike(*columns: pa.Array) -> list[pa.Array]:
    """The columns as numbers if they are, else as text; so are whole numbers that a float does not hold."""
    if {each.type for each in columns} <= {pa.int64(), pa.float64()}:
        with suppress(pa.ArrowInvalid):
            return [each.cast(pa.float64()) for each in columns]
    return [each.cast(pa.string()) for each in columns]


def named_columns(columns: Mapping[str, pa.Array]) -> Columns:
    """Columns without those that are null throughout; a prefix for names that are taken."""
    kept = {name: column for name, column in columns.items() if column.null_count < len(column)}
    out: Columns = {}
    for name, column in kept.items():
        free = f"{RESERVED_PREFIX}{name}" if name in RESERVED else name
        while free != name and free in kept:
            free = f"{RESERVED_PREFIX}{free}"
        out[free] = column
    return out


def _typed(values: list[Any]) -> pa.Array:
    types = {type(value) for value in values if value is not None}
    if types == {bool}:
        return pa.array(values, pa.bool_())
    if types == {int} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pa.array(values, pa.int64())
    if types <= {int, float} and all(
        value is None or abs(value) <= 2**53 or value != int(value) for value in values if type(value) is int
    ):
        return pa.array(values, pa.float64(), from_pandas=True)
    if types == {str}:
        return pa.array([None if value is None else _text(value) for value in values], pa.string())
    return pa.array([None if value is None else _json(value) for value in values], pa.large_binary())


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_writable(value))


def _text(text: str) -> str:
    """Without lone surrogates, which no encoding can write."""
    return text.encode("utf-8", "replace").decode()


def _writable(value: Any) -> Any:
    """JSON as Python reads it, without what orjson refuses: integers beyond 64 bits and lone surrogates."""
    if isinstance(value, dict):
        return {_writable(key): _writable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_writable(item) for item in value]
    if isinstance(value, str):
        return _text(value)
    return str(value) if isinstance(value, int) and not -(2**63) <= value < 2**64 else value
