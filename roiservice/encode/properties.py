"""The objects' own properties as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pyarrow as pa

if TYPE_CHECKING:
    from roiservice.geometry.features import Features


def json_members(features: Features) -> list[bytes]:
    """Of each feature the properties that it has, as JSON members without braces; b"" for none."""
    if not features.properties:
        return [b""] * len(features)
    columns = [_members(name, column) for name, column in features.properties.items()]
    return [b",".join(filter(None, row)) for row in zip(*columns, strict=True)]


def _members(name: str, column: pa.Array) -> list[bytes]:
    """`"name":value` for each row, b"" for null."""
    if not len(column):
        return []
    key = orjson.dumps(name) + b":"
    if pa.types.is_large_binary(column.type):  # JSON already
        return [b"" if value is None else key + value for value in column.to_pylist()]
    if pa.types.is_string(column.type):
        return [b"" if value is None else key + orjson.dumps(value) for value in column.to_pylist()]
    texts = orjson.dumps(column.to_pylist())[1:-1].split(b",")  # numbers and bools have no comma inside
    return [b"" if text == b"null" else key + text for text in texts]
