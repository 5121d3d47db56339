"""Coordinates as text. Integers are written by a compiled loop, other numbers by orjson."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled
from roiservice.geometry.polygons import Polygons, closed

Int64 = NDArray[np.int64]


def coordinate_texts(polygons: Polygons) -> list[bytes]:
    """GeoJSON `coordinates` of each feature: of a Polygon where it has one part, else of a MultiPolygon."""
    if polygons.xy.dtype == np.int32:
        room = _room(polygons.xy, len(polygons.vertex_offsets) + len(polygons.ring_offsets) + len(polygons))
        text, ends = _write_coordinates(
            polygons.xy, polygons.vertex_offsets, polygons.ring_offsets, polygons.part_offsets, room
        )
        return _pieces(text, ends)
    xy, offsets = closed(polygons)
    rings = [_numbers(xy[first:last]) for first, last in _spans(offsets)]
    parts = [b"[" + b",".join(rings[first:last]) + b"]" for first, last in _spans(polygons.ring_offsets)]
    features = [parts[first:last] for first, last in _spans(polygons.part_offsets)]
    return [part[0] if len(part) == 1 else b"[" + b",".join(part) + b"]" for part in features]


def point_lists(xy: NDArray[Any], offsets: Int64) -> list[bytes]:
    """`x,y x,y ...` for each ring of vertices, as OMERO writes the points of a polygon."""
    if xy.dtype == np.int32:
        text, ends = _write_points(xy, offsets, _room(xy, len(offsets)))
        return _pieces(text, ends)
    return [_numbers(xy[first:last])[2:-2].replace(b"],[", b" ") for first, last in _spans(offsets)]


def _numbers(xy: NDArray[Any]) -> bytes:
    """`[[x,y],...]`, each number as the shortest text that reads back as the same double."""
    return orjson.dumps(np.ascontiguousarray(xy), option=orjson.OPT_SERIALIZE_NUMPY)


def _spans(offsets: Int64) -> list[tuple[int, int]]:
    return list(pairwise(offsets.tolist()))


def _pieces(text: NDArray[np.uint8], ends: Int64) -> list[bytes]:
    whole = text[: ends[-1]].tobytes()
    return [whole[first:last] for first, last in _spans(ends)]


def _room(xy: NDArray[np.int32], groups: int) -> int:
    """Bytes that are enough for all vertices, one more per ring, and the brackets around groups of them."""
    farthest = max(int(xy.max()), -int(xy.min()), 1) if len(xy) else 1
    per_vertex = 2 * (len(str(farthest)) + 1) + 4
    return (len(xy) + groups) * per_vertex + 8 * groups


@compiled
def _write_integer(text: Any, at: int, number: int) -> int:
    """Write `number` in decimal at `text[at]`; returns the place after it."""
    value = np.int64(number)  # the lowest int32 has no opposite
    if value < 0:
        text[at] = 45  # -
        at += 1
        value = -value
    digits = 1
    rest = value // 10
    while rest > 0:
        digits += 1
        rest //= 10
    for i in range(digits - 1, -1, -1):
        text[at + i] = 48 + value % 10
        value //= 10
    return at + digits


@compiled
def _write_position(text: Any, at: int, x: int, y: int) -> int:
    text[at] = 91  # [
    at = _write_integer(text, at + 1, x)
    text[at] = 44  # ,
    at = _write_integer(text, at + 1, y)
    text[at] = 93  # ]
    text[at + 1] = 44
    return at + 2


@compiled
def _write_coordinates(xy: Any, vertices: Any, rings: Any, parts: Any, room: int) -> Any:
    """All features' coordinates one after the other, and where each begins."""
    # Every item is written with a comma after it; the bracket that closes a list takes the last one's place.
    text = np.empty(room, np.uint8)
    ends = np.zeros(parts.size, np.int64)
    at = 0
    for i in range(parts.size - 1):
        several = parts[i + 1] - parts[i] > 1
        if several:
            text[at] = 91
            at += 1
        for p in range(parts[i], parts[i + 1]):
            text[at] = 91
            at += 1
            for r in range(rings[p], rings[p + 1]):
                text[at] = 91
                at += 1
                for v in range(vertices[r], vertices[r + 1]):
                    at = _write_position(text, at, xy[v, 0], xy[v, 1])
                at = _write_position(text, at, xy[vertices[r], 0], xy[vertices[r], 1])
                text[at - 1], text[at] = 93, 44
                at += 1
            text[at - 1], text[at] = 93, 44
            at += 1
        if several:
            text[at - 1] = 93
        else:
            at -= 1
        ends[i + 1] = at
    return text, ends


@compiled
def _write_points(xy: Any, offsets: Any, room: int) -> Any:
    text = np.empty(room, np.uint8)
    ends = np.zeros(offsets.size, np.int64)
    at = 0
    for r in range(offsets.size - 1):
        for v in range(offsets[r], offsets[r + 1]):
            if v > offsets[r]:
                text[at] = 32
                at += 1
            at = _write_integer(text, at, xy[v, 0])
            text[at] = 44
            at = _write_integer(text, at + 1, xy[v, 1])
        ends[r + 1] = at
    return text, ends
