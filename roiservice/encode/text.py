"""Numbers as text. Integers are written by compiled loops, other coordinates by orjson."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from roiservice.encode.rows import Texts
from roiservice.geometry.compiled import compiled
from roiservice.geometry.polygons import Polygons, closed

Int64 = NDArray[np.int64]
_NAMES = np.frombuffer(b"MULTIPOLYGON ", np.uint8)  # a polygon's own name is its end


def integers(values: NDArray[Any]) -> Texts:
    """Whole numbers in decimal."""
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and len(values):
        furthest = values.max() if values.dtype.kind == "u" else values.min()
        if not -(2**63) < int(furthest) < 2**63:  # more than the loop can take
            return Texts.of([b"%d" % number for number in values.tolist()])
    return Texts.between(*_write_integers(values.astype(np.int64)))


def coordinate_texts(polygons: Polygons) -> Texts:
    """GeoJSON `coordinates` of each feature: of a Polygon where it has one part, else of a MultiPolygon."""
    if polygons.xy.dtype == np.int32:
        room = _room(polygons.xy, len(polygons.vertex_offsets) + len(polygons.ring_offsets) + len(polygons))
        text, ends = _write_coordinates(
            polygons.xy, polygons.vertex_offsets, polygons.ring_offsets, polygons.part_offsets, room
        )
        return Texts.between(text, ends)
    xy, offsets = closed(polygons)
    rings = [_numbers(xy[first:last]) for first, last in _spans(offsets)]
    parts = [b"[" + b",".join(rings[first:last]) + b"]" for first, last in _spans(polygons.ring_offsets)]
    features = [parts[first:last] for first, last in _spans(polygons.part_offsets)]
    return Texts.of([part[0] if len(part) == 1 else b"[" + b",".join(part) + b"]" for part in features])


def wkt_texts(polygons: Polygons) -> Texts:
    """Polygons on lattice points (int32) as WKT, spelled as GEOS does."""
    groups = len(polygons.vertex_offsets) + len(polygons.ring_offsets) + 3 * len(polygons)
    text, ends = _write_wkt(
        polygons.xy,
        polygons.vertex_offsets,
        polygons.ring_offsets,
        polygons.part_offsets,
        _NAMES,
        _room(polygons.xy, groups),
    )
    return Texts.between(text, ends)


def point_lists(xy: NDArray[Any], offsets: Int64) -> Texts:
    """`x,y x,y ...` for each ring of vertices, as OMERO writes the points of a polygon."""
    if xy.dtype == np.int32:
        text, ends = _write_points(xy, offsets, _room(xy, len(offsets)))
        return Texts.between(text, ends)
    return Texts.of([_numbers(xy[first:last])[2:-2].replace(b"],[", b" ") for first, last in _spans(offsets)])


def _numbers(xy: NDArray[Any]) -> bytes:
    """`[[x,y],...]`, each number as the shortest text that reads back as the same double."""
    return orjson.dumps(np.ascontiguousarray(xy), option=orjson.OPT_SERIALIZE_NUMPY)


def _spans(offsets: Int64) -> list[tuple[int, int]]:
    return list(pairwise(offsets.tolist()))


def _room(xy: NDArray[np.int32], groups: int) -> int:
    """Bytes that are enough for all vertices, one more per ring, and the brackets around groups of them."""
    farthest = max(int(xy.max()), -int(xy.min()), 1) if len(xy) else 1
    per_vertex = 2 * (len(str(farthest)) + 1) + 4
    return (len(xy) + groups) * per_vertex + 8 * groups


# Places in a text are unsigned in the loops: Python's meaning of negative ones would be looked out for at
# each byte, which takes as long as all else. What is added to them is unsigned too, else it becomes a float.
_ONE, _TWO, _TEN, _HUNDRED, _MOST_DIGITS = (np.uint64(number) for number in (1, 2, 10, 100, 19))
_PAIRS = np.frombuffer(b"".join(b"%02d" % number for number in range(100)), np.uint8)
_COMMA, _BLANK, _MINUS, _ZERO, _OPEN, _CLOSE = (np.uint8(char) for char in b", -0[]")
_ROUND_OPEN, _ROUND_CLOSE = (np.uint8(char) for char in b"()")


@compiled
def _write_integer(text: Any, at: Any, number: int) -> Any:
    """Write `number` in decimal at `text[at]`; returns the place after it."""
    value = np.int64(number)  # the lowest int32 has no opposite
    if value < 0:
        at = _put(text, at, _MINUS)
        value = -value
    rest, digits, power = np.uint64(value), _ONE, _TEN
    while rest >= power and digits < _MOST_DIGITS:
        digits += _ONE
        power *= _TEN
    place = at + digits
    while rest >= _HUNDRED:  # two digits at a time, from the last
        quotient = rest // _HUNDRED
        pair = (rest - quotient * _HUNDRED) * _TWO
        place -= _TWO
        text[place], text[place + _ONE] = _PAIRS[pair], _PAIRS[pair + _ONE]
        rest = quotient
    if rest >= _TEN:
        text[at], text[at + _ONE] = _PAIRS[rest * _TWO], _PAIRS[rest * _TWO + _ONE]
    else:
        text[at] = _ZERO + rest
    return at + digits


@compiled
def _put(text: Any, at: Any, char: Any) -> Any:
    """Write one character; returns the place after it."""
    text[at] = char
    return at + _ONE


@compiled
def _write_integers(values: Any) -> Any:
    text = np.empty(20 * values.size, np.uint8)
    ends = np.zeros(values.size + 1, np.int64)
    at = np.uint64(0)
    for i in range(values.size):
        at = _write_integer(text, at, values[i])
        ends[i + 1] = at
    return text, ends


@compiled
def _write_points(xy: Any, offsets: Any, room: int) -> Any:
    text = np.empty(room, np.uint8)
    ends = np.zeros(offsets.size, np.int64)
    at = np.uint64(0)
    for r in range(offsets.size - 1):
        for v in range(offsets[r], offsets[r + 1]):
            if v > offsets[r]:
                at = _put(text, at, _BLANK)
            at = _write_integer(text, at, xy[v, 0])
            at = _write_integer(text, _put(text, at, _COMMA), xy[v, 1])
        ends[r + 1] = at
    return text, ends


@compiled
def _write_coordinates(xy: Any, vertices: Any, rings: Any, parts: Any, room: int) -> Any:
    """All features' coordinates one after the other, and where each begins."""
    # Every item is written with a comma after it; the bracket that closes a list takes the last one's place.
    text = np.empty(room, np.uint8)
    ends = np.zeros(parts.size, np.int64)
    at = np.uint64(0)
    for i in range(parts.size - 1):
        several = parts[i + 1] - parts[i] > 1
        if several:
            at = _put(text, at, _OPEN)
        for p in range(parts[i], parts[i + 1]):
            at = _put(text, at, _OPEN)
            for r in range(rings[p], rings[p + 1]):
                at = _put(text, at, _OPEN)
                for v in range(vertices[r], vertices[r + 1]):
                    at = _write_position(text, at, xy[v, 0], xy[v, 1])
                at = _write_position(text, at, xy[vertices[r], 0], xy[vertices[r], 1])
                at = _put(text, _put(text, at - _ONE, _CLOSE), _COMMA)
            at = _put(text, _put(text, at - _ONE, _CLOSE), _COMMA)
        if several:
            at = _put(text, _put(text, at - _ONE, _CLOSE), _COMMA)
        at -= _ONE
        ends[i + 1] = at
    return text, ends


@compiled
def _write_position(text: Any, at: Any, x: int, y: int) -> Any:
    at = _write_integer(text, _put(text, at, _OPEN), x)
    at = _write_integer(text, _put(text, at, _COMMA), y)
    return _put(text, _put(text, at, _CLOSE), _COMMA)


@compiled
def _write_wkt(xy: Any, vertices: Any, rings: Any, parts: Any, names: Any, room: int) -> Any:
    """All features one after the other, and where each begins."""
    # As above; here it is a comma and a blank.
    text = np.empty(room, np.uint8)
    ends = np.zeros(parts.size, np.int64)
    at = np.uint64(0)
    for i in range(parts.size - 1):
        several = parts[i + 1] - parts[i] > 1
        for k in range(0 if several else 5, names.size):
            at = _put(text, at, names[k])
        if several:
            at = _put(text, at, _ROUND_OPEN)
        for p in range(parts[i], parts[i + 1]):
            at = _put(text, at, _ROUND_OPEN)
            for r in range(rings[p], rings[p + 1]):
                at = _put(text, at, _ROUND_OPEN)
                for v in range(vertices[r], vertices[r + 1]):
                    at = _write_pair(text, at, xy[v, 0], xy[v, 1])
                at = _write_pair(text, at, xy[vertices[r], 0], xy[vertices[r], 1])
                at = _close_round(text, at)
            at = _close_round(text, at)
        if several:
            at = _close_round(text, at)
        at -= _TWO
        ends[i + 1] = at
    return text, ends


@compiled
def _write_pair(text: Any, at: Any, x: int, y: int) -> Any:
    at = _write_integer(text, at, x)
    at = _write_integer(text, _put(text, at, _BLANK), y)
    return _put(text, _put(text, at, _COMMA), _BLANK)


@compiled
def _close_round(text: Any, at: Any) -> Any:
    return _put(text, _put(text, _put(text, at - _TWO, _ROUND_CLOSE), _COMMA), _BLANK)
