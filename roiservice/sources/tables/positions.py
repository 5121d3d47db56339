"""Geometries of GeoJSON: nested lists of positions, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from roiservice.sources.tables.geoarrow import ENCODINGS, broken_lines, from_offsets
from roiservice.sources.tables.geometries import Reasons
from roiservice.sources.tables.table import MOST_REASONS, Int64

_MOST_LEVELS = 32  # of collections
_TYPES = {
    "Point": ENCODINGS["point"],
    "LineString": ENCODINGS["linestring"],
    "MultiPoint": ENCODINGS["multipoint"],
    "Polygon": ENCODINGS["polygon"],
    "MultiLineString": ENCODINGS["multilinestring"],
    "MultiPolygon": ENCODINGS["multipolygon"],
}
_UNREADABLE = "its coordinates cannot be read"


def from_json(objects: Sequence[Any], reasons: Reasons, first: int) -> NDArray[Any]:
    """(n,) geometries of GeoJSON geometry objects, parsed; None where refused, as rows from index `first`.

    Only the first two numbers of a position count. Polygons must be closed.
    """
    out = np.full(len(objects), None, object)
    by_type: dict[str, list[int]] = {}
    for number, value in enumerate(objects):
        kind = value.get("type") if isinstance(value, dict) else None
        by_type.setdefault(kind if isinstance(kind, str) else "", []).append(number)
    for kind, numbers in by_type.items():
        if kind in _TYPES:
            rows = np.array(numbers)
            out[rows] = _of_type(kind, [objects[n].get("coordinates") for n in numbers])
        elif kind == "GeometryCollection":
            for number in numbers:
                out[number] = _collection(objects[number], _MOST_LEVELS)
    _refuse(objects, np.flatnonzero(~shapely.is_geometry(out)), reasons, first)
    return out


def _refuse(objects: Sequence[Any], bad: Int64, reasons: Reasons, first: int) -> None:
    for number in bad[:MOST_REASONS].tolist():
        reasons.refuse(first + number + 1, "geometry", _complaint(objects[number]))
    reasons.refuse_all(first + bad[MOST_REASONS:], "geometry", _UNREADABLE)


def _of_type(kind: str, coordinates: list[Any]) -> NDArray[Any]:
    """Geometries of one type; if they cannot be read together, each half by itself."""
    try:
        return _read(kind, coordinates)
    except (ValueError, TypeError, OverflowError, KeyError, shapely.errors.GEOSException):
        if len(coordinates) == 1:
            return np.full(1, None, object)
    half = len(coordinates) // 2
    return np.concatenate([_of_type(kind, coordinates[:half]), _of_type(kind, coordinates[half:])])


def _read(kind: str, coordinates: list[Any]) -> NDArray[Any]:
    number, levels, least = _TYPES[kind]
    offsets: list[Int64] = []
    for _ in range(levels):
        counts = _lengths(coordinates)
        offsets.append(np.r_[0, np.cumsum(counts)])
        coordinates = list(chain.from_iterable(coordinates))
    widths = _lengths(coordinates)
    if len(widths) and widths.min() < 2:
        raise ValueError("a position needs two numbers")
    if len(widths) and widths.max() > 2:
        coordinates = [position[:2] for position in coordinates]
    flat = list(chain.from_iterable(coordinates))
    if not set(map(type, flat)) <= {int, float}:
        raise TypeError("coordinates must be numbers")
    xy = np.array(flat, np.float64).reshape(-1, 2)
    if levels and broken_lines(xy, offsets, least).any():
        raise ValueError("a line is too short, or a ring not closed")
    return from_offsets(number, xy, offsets)


def _lengths(lists: list[Any]) -> Int64:
    if not set(map(type, lists)) <= {list}:
        raise TypeError("coordinates must be lists")
    return np.fromiter(map(len, lists), np.int64, len(lists))


def _collection(value: Any, levels: int) -> Any:
    """A GeometryCollection; None if one of its members cannot be read."""
    members = value.get("geometries") if isinstance(value, dict) else None
    if not isinstance(members, list) or levels == 0:
        return None
    read = []
    for member in members:
        kind = str(member.get("type")) if isinstance(member, dict) else ""
        if kind == "GeometryCollection":
            read.append(_collection(member, levels - 1))
        else:
            read.append(_of_type(kind, [member.get("coordinates")])[0] if kind in _TYPES else None)
    return None if any(each is None for each in read) else shapely.geometrycollections(read)


def _complaint(value: Any) -> str:
    """What is wrong with a geometry, in the words of the geojson library where it finds it."""
    if value is None:
        return "there is no geometry"
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return "the geometry is no GeoJSON object with a type"
    if value["type"] not in _TYPES and value["type"] != "GeometryCollection":
        return f"geometries of type {value['type'][:40]!r} are not known"
    try:
        import geojson

        errors = geojson.GeoJSON.to_instance(value).errors()
    except Exception:  # noqa: BLE001 - whatever it stumbles over, the geometry is at fault
        return _UNREADABLE
    while isinstance(errors, list) and errors:
        errors = next((error for error in errors if error), None)
    return f"{_UNREADABLE}: {errors[:100]}" if isinstance(errors, str) else _UNREADABLE
