"""Tables in GeoJSON, plain and as QuPath writes it."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from roiservice.errors import SourceDamaged, SourceRefused, TooManyVertices
from roiservice.sources.limits import Limits
from roiservice.sources.tables.columns import encodable, typed_columns
from roiservice.sources.tables.geometries import Reasons
from roiservice.sources.tables.jsonspans import CutShort, feature_spans
from roiservice.sources.tables.positions import from_json
from roiservice.sources.tables.qupath import is_ellipse, values_of
from roiservice.sources.tables.rows import shape_table
from roiservice.sources.tables.table import Int64, ShapeTable, TableFile

_BATCH_BYTES = 2**20  # of text that is parsed together: Python needs some ten times as much for it
_BATCH_ROWS = 10_000
_MOST_COLUMNS = 1000


@dataclass
class _Rows:
    """Features read so far, by row; a column ends where the last row had a value for it."""

    reasons: Reasons
    limits: Limits
    count: int = 0
    vertices: int = 0
    geometries: list[NDArray[Any]] = field(default_factory=list)
    ellipse: list[bool] = field(default_factory=list)
    ids: list[str | int | None] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    nuclei: int = 0
    crowded: int = 0


def read_geojson(file: TableFile, limits: Limits) -> ShapeTable:
    """The objects of a GeoJSON document, or of several one after the other, as lines or not.

    A document is a FeatureCollection, a Feature, a geometry, or an array of these, nested or not. Labels,
    planes, layers and colors are found as `roiservice.sources.tables.rows` and `.qupath` say; without labels,
    the features' ids name the objects if they are without repeats. `crs` is not looked at: coordinates are
    pixels. Raises SourceDamaged for bad JSON, SourceRefused above the limits.
    """
    return read_documents(file, [file.data], limits)


def read_documents(file: TableFile, documents: Sequence[bytes], limits: Limits) -> ShapeTable:
    """The objects of several documents of one file as one table; else as `read_geojson`."""
    rows = _Rows(Reasons(file.location, file.part), limits)
    with _no_collection():
        for document in documents:
            _read_document(file, document, rows)
        return _table(rows)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without garbage collection, which would look at millions of lists again and again, and free none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_document(file: TableFile, document: bytes, rows: _Rows) -> None:
    limits = rows.limits
    if not document.strip():
        raise SourceDamaged(file.location, file.part, "bad JSON: it is empty")
    try:
        starts, ends = feature_spans(document)
    except CutShort as error:
        reason = f"bad JSON: cut short, or no value, at byte {error.at}"
        raise SourceDamaged(file.location, file.part, reason) from None
    if rows.count + len(starts) > limits.table_rows:
        raise SourceRefused(file.location, file.part, f"has more than {limits.table_rows} features")
    for first, end in _batches(starts, ends):
        _add(rows, _parsed(document, starts[first:end], ends[first:end], rows))
        if rows.vertices > limits.table_vertices:
            reason = f"its shapes have more than the {limits.table_vertices} vertices allowed"
            raise TooManyVertices(file.location, file.part, reason)


def _table(rows: _Rows) -> ShapeTable:
    if rows.nuclei:
        rows.reasons.warn(f"{rows.nuclei} nuclei of cells left out: an object has one outline")
    if rows.crowded:
        rows.reasons.warn(f"values left out in {rows.crowded} features: only {_MOST_COLUMNS} names are kept")
    for values in rows.columns.values():
        values += [None] * (rows.count - len(values))
    return shape_table(
        np.concatenate([np.empty(0, object), *rows.geometries]),
        typed_columns(rows.columns, ()),
        rows.reasons,
        rows.limits,
        index=_index(rows.ids),
        ellipse=np.array(rows.ellipse, np.bool_),
    )


def _batches(starts: Int64, ends: Int64) -> Iterator[tuple[int, int]]:
    """Ranges of features of bounded number and size."""
    if len(starts):
        bounds = [0]
        sizes = np.cumsum(ends - starts)
        while bounds[-1] < len(starts):
            before = int(sizes[bounds[-1] - 1]) if bounds[-1] else 0
            fitting = int(np.searchsorted(sizes, before + _BATCH_BYTES, side="right"))
            bounds.append(min(max(fitting, bounds[-1] + 1), bounds[-1] + _BATCH_ROWS))
        yield from pairwise(bounds)


def _parsed(document: bytes, starts: Int64, ends: Int64, rows: _Rows) -> list[Any]:
    """These features, parsed; None for those that are too large."""
    most = rows.limits.metadata_bytes
    texts = [
        document[a:b] if b - a <= most else b"null"
        for a, b in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
    rows.reasons.refuse_all(rows.count + np.flatnonzero(ends - starts > most), "", "the feature is too large")
    joined = b"[%b]" % b",".join(texts)
    try:
        parsed: list[Any] = orjson.loads(joined)
    except orjson.JSONDecodeError:
        return [_parsed_alone(text, rows.count + i + 1, rows.reasons) for i, text in enumerate(texts)]
    return parsed


def _parsed_alone(text: bytes, row: int, reasons: Reasons) -> Any:
    """One feature, read by the more patient parser, which knows NaN and integers of any size."""
    try:
        return json.loads(text)
    except RecursionError:
        reasons.refuse(row, "", "the feature is nested too deep")
        return None
    except ValueError as error:
        reason = f"bad JSON in feature {row}: {str(error)[:100]}"
        raise SourceDamaged(reasons.location, reasons.part, reason) from None


def _add(rows: _Rows, features: list[Any]) -> None:
    geometries = []
    for row, feature in enumerate(features, rows.count):
        is_feature = isinstance(feature, dict) and "geometry" in feature
        geometry = feature["geometry"] if is_feature else feature
        geometries.append(geometry)
        rows.ellipse.append(is_ellipse(geometry))
        rows.ids.append(_id(feature) if is_feature else None)
        if isinstance(feature, dict):
            _add_values(rows, row, values_of(feature if is_feature else {"geometry": feature}))
            rows.nuclei += "nucleusGeometry" in feature
    read = from_json(geometries, rows.reasons, rows.count)
    rows.vertices += int(shapely.get_num_coordinates(read).sum())
    rows.geometries.append(read)
    rows.count += len(features)


def _add_values(rows: _Rows, row: int, values: dict[str, Any]) -> None:
    columns = rows.columns
    crowded = False
    for name, value in values.items():
        column = columns.get(name)
        if column is None:
            if len(columns) == _MOST_COLUMNS:
                crowded = True
                continue
            column = columns[name] = []
        if len(column) < row:
            column += [None] * (row - len(column))
        column.append(value)
    rows.crowded += crowded


def _id(feature: dict[str, Any]) -> str | int | None:
    value = feature.get("id")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None


def _index(ids: list[str | int | None]) -> pa.Array | None:
    """Ids as numbers, else as text; None where some feature has none."""
    if None in ids:
        return None
    try:
        return pa.array(ids, pa.int64())
    except (pa.ArrowException, OverflowError, TypeError):
        return pa.array([encodable(str(each)) for each in ids], pa.string())
