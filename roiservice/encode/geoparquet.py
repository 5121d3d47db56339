"""GeoParquet 1.1 with WKB, one row per feature: what geopandas, GDAL and DuckDB read.

https://geoparquet.org/releases/v1.1.0/. Written batch by batch, so that a layer need not fit into memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from roiservice.geometry.features import Features
from roiservice.geometry.kinds import NAMES, geometries

# No geometry types: the list may be empty where they are not known. `crs` null: not on the Earth.
_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {"geometry": {"encoding": "WKB", "geometry_types": [], "crs": None, "edges": "planar"}},
}


def write_geoparquet(file: IO[bytes], layers: Sequence[Iterable[Features]]) -> None:
    """Write all batches of all layers; columns of properties are those of the first batch of each.

    Columns beside `geometry` are those of GeoJSON: `id`, `label`, `layer`, `z`, `t`, `c`, `area`, `color` as
    #rrggbbaa, `drawn_as`, then the objects' own properties: where layers do not agree about a type,
    as floats if all are numbers, else as text.
    """
    begun = [_begun(iter(batches)) for batches in layers]
    firsts = [first for first, _ in begun if first is not None]
    schema = pa.schema([*_FIELDS, *_own_types(firsts).items()], metadata={"geo": json.dumps(_GEO)})
    if firsts and all(first.label.dtype == np.uint64 for first in firsts):
        schema = schema.set(schema.get_field_index("label"), pa.field("label", pa.uint64()))
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in chain.from_iterable(batches for _, batches in begun):
            writer.write_table(_table(batch, schema))


def _begun(batches: Iterator[Features]) -> tuple[Features | None, Iterator[Features]]:
    """The first batch, and all of them."""
    first = next(batches, None)
    return first, batches if first is None else chain([first], batches)


_FIELDS = [
    pa.field("geometry", pa.binary()),
    pa.field("id", pa.int64()),
    pa.field("label", pa.int64()),
    pa.field("layer", pa.string()),
    *(pa.field(axis, pa.int32()) for axis in ("z", "t", "c")),
    pa.field("area", pa.float64()),
    pa.field("color", pa.string()),
    pa.field("drawn_as", pa.string()),
]


_TAKEN = frozenset(field.name for field in _FIELDS)


def _column(name: str) -> str:
    """A property's column; told apart from the columns above."""
    return f"property:{name}" if name in _TAKEN else name


def _own_types(firsts: Sequence[Features]) -> dict[str, pa.DataType]:
    """Types of the properties of all layers, from a batch of each; JSON is text here."""
    types: dict[str, pa.DataType] = {}
    for name, column in (item for first in firsts for item in first.properties.items()):
        kind = pa.string() if pa.types.is_large_binary(column.type) else column.type
        known = types.setdefault(_column(name), kind)
        if known != kind:
            are_numbers = {known, kind} == {pa.int64(), pa.float64()}
            types[_column(name)] = pa.float64() if are_numbers else pa.string()
    return types


def _table(features: Features, schema: pa.Schema) -> pa.Table:
    wkb = shapely.to_wkb(geometries(features.polygons, features.kind))
    columns = {
        "geometry": pa.array(wkb.tolist(), pa.binary()),
        "id": features.feature_id,
        "label": _labels(features.label, schema.field("label").type),
        "layer": [features.layer] * len(features),
        "z": _index(features.z),
        "t": _index(features.t),
        "c": _index(features.c),
        "area": features.area,
        "color": [None if color is None else f"#{bytes(color).hex()}" for color in features.color],
        "drawn_as": [NAMES[kind] if kind else None for kind in features.kind.tolist()],
    }
    own = {_column(name): column for name, column in features.properties.items()}
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else _property(own.get(field.name), len(features), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _labels(labels: NDArray[np.int64] | NDArray[np.uint64], kind: pa.DataType) -> pa.Array:
    """Labels as `kind`; those beyond int64 are null where other layers may have negative ones."""
    if kind == pa.uint64():
        return pa.array(labels)
    beyond = labels > np.uint64(2**63 - 1) if labels.dtype == np.uint64 else np.zeros(len(labels), bool)
    return pa.array(labels.astype(np.int64), mask=beyond)


def _index(index: NDArray[np.int32]) -> pa.Array:
    """An index; null for an object that lies on every one."""
    return pa.array(index, mask=index < 0)


def _property(column: pa.Array | None, count: int, kind: pa.DataType) -> pa.Array:
    if column is None:
        return pa.nulls(count, kind)
    return column.cast(kind, safe=False)  # a float may hold no more than the first 53 bits of a whole number
