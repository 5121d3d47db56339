"""Conditions on the objects' own properties: parameters whose names and types only the layer knows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import pyarrow as pa

from roiservice.errors import BadParameter
from roiservice.query.select import MEASURES, PropertyFilter, RoiQuery, Value
from roiservice.web.params import ITEMS, Selection, finite

NAMED = 20  # properties, where a name is not known


def with_properties(
    asked: Selection, columns: Mapping[str, pa.Array], known: frozenset[str] = ITEMS
) -> RoiQuery:
    """The query with its conditions on properties: `name=5`, or `name=2..7` with one end left out or none.

    `property:name` says the same, for names that other parameters have. BadParameter for what is no property
    of the layer, or no value of it.
    """
    conditions = []
    for name, text in asked.properties:
        column = name if name in columns or name in MEASURES else name.removeprefix("property:")
        if column not in columns and column not in MEASURES:
            raise BadParameter(
                name, f"there is no such parameter here; known are: {_choices(columns, known)}"
            )
        kind = columns[column].type if column in columns else pa.float64()
        try:
            conditions.append(PropertyFilter(column, *_bounds(text, kind)))
        except ValueError as error:
            raise BadParameter(name, str(error)) from None
    return replace(asked.query, properties=tuple(conditions))


def _choices(columns: Mapping[str, pa.Array], known: frozenset[str]) -> str:
    """Names that there are, but not thousands of them: some tables have a column for each gene."""
    names = [*sorted({*known, *MEASURES}), *sorted(columns)[:NAMED]]
    more = len(columns) - NAMED
    return ", ".join(names) + (f", and {more} properties more" if more > 0 else "")


def _bounds(text: str, kind: pa.DataType) -> tuple[Value | None, Value | None]:
    if pa.types.is_string(kind):
        return text, text
    if pa.types.is_boolean(kind):
        if text not in ("true", "false"):
            raise ValueError("is true or false")
        return text == "true", text == "true"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise ValueError("has values of several kinds, which cannot be compared")
    low, dots, high = text.partition("..")
    try:
        first, last = (finite(part) if part else None for part in (low, high if dots else low))
    except ValueError:
        first = last = None
    if first is None and last is None:
        raise ValueError("is a number, or a range such as 2..7, 2.. or ..7")
    if first is not None and last is not None and first > last:
        raise ValueError("the range ends before it starts")
    return _whole(low, high if dots else low) if pa.types.is_integer(kind) else (first, last)


def _whole(low: str, high: str) -> tuple[int | None, int | None]:
    """The whole numbers of a range, within int64: a float would round those of more than 53 bits."""
    first = max(math.ceil(Decimal(low)), -(2**63)) if low else None
    last = min(math.floor(Decimal(high)), 2**63 - 1) if high else None
    if (first or 0) >= 2**63 or (last or 0) < -(2**63):
        return 1, 0  # nothing is beyond
    return first, last
