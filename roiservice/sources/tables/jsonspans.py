"""Where the features of a large GeoJSON document lie in its bytes, so that not all are parsed at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from roiservice.geometry.compiled import compiled
from roiservice.sources.tables.table import Int64

_MOST_LEVELS = 32  # of arrays around features

_BOM = b"\xef\xbb\xbf"
_FEATURES = np.frombuffer(b"features", np.uint8)
_QUOTE, _COLON, _COMMA, _BACKSLASH = ord('"'), ord(":"), ord(","), ord("\\")
_OPEN, _CLOSE, _BEGIN, _END = ord("["), ord("]"), ord("{"), ord("}")
_SPACE, _RECORD = 0x20, 0x1E  # all up to a space counts as one, so does the separator of RFC 7464


class CutShort(ValueError):
    """The document ends within a value, or is no JSON at all; `at` is the byte where that shows."""

    def __init__(self, at: int) -> None:
        super().__init__(f"byte {at}")
        self.at = at


def feature_spans(data: bytes) -> tuple[Int64, Int64]:
    """First byte of each feature of a document, and the byte after its last.

    The document is one value or several, with or without separators between them; of arrays and of objects
    with an array `features`, their elements count. Elements are not checked here. Raises CutShort.
    """
    document = np.frombuffer(data, np.uint8)
    starts, ends = _checked(_elements(document, len(_BOM) if data.startswith(_BOM) else 0, len(data), True))
    for _ in range(_MOST_LEVELS):
        inner = _inner_arrays(document, starts, ends)
        within = np.flatnonzero(inner >= 0)
        if not len(within):
            break
        pieces_of_starts = np.split(starts, within)
        pieces_of_ends = np.split(ends, within)
        # Each piece but the first begins with the value that its elements stand for.
        out_starts, out_ends = [pieces_of_starts[0]], [pieces_of_ends[0]]
        for number, piece in enumerate(pieces_of_starts[1:]):
            first, end = int(inner[within[number]]), int(pieces_of_ends[number + 1][0])
            some_starts, some_ends = _checked(_elements(document, first + 1, end, False))
            out_starts += [some_starts, piece[1:]]
            out_ends += [some_ends, pieces_of_ends[number + 1][1:]]
        starts, ends = np.concatenate(out_starts), np.concatenate(out_ends)
    return starts, ends


def _checked(found: tuple[Int64, Int64, int]) -> tuple[Int64, Int64]:
    starts, ends, broken = found
    if broken >= 0:
        raise CutShort(broken)
    return starts, ends


@compiled
def _after_space(data: Any, at: int, end: int) -> int:
    while at < end and (data[at] <= _SPACE or data[at] == _RECORD):
        at += 1
    return at


@compiled
def _after_string(data: Any, at: int, end: int) -> int:
    """The byte after the string that begins at `at`; -1 if it does not end."""
    at += 1
    while at < end:
        if data[at] == _BACKSLASH:
            at += 2
        elif data[at] == _QUOTE:
            return at + 1
        else:
            at += 1
    return -1


@compiled
def _after_value(data: Any, at: int, end: int) -> int:
    """The byte after the value that begins at `at`; -1 if it does not end."""
    depth = 0
    while at < end:
        byte = data[at]
        if byte == _QUOTE:
            at = _after_string(data, at, end)
            if at < 0 or depth == 0:
                return at
            continue
        if byte in (_OPEN, _BEGIN):
            depth += 1
        elif byte in (_CLOSE, _END):
            depth -= 1
            if depth <= 0:
                return at + 1 if depth == 0 else at
        elif depth == 0 and (byte <= _SPACE or byte in (_COMMA, _RECORD)):
            return at
        at += 1
    return at if depth == 0 else -1


@compiled
def _elements(data: Any, at: int, end: int, outermost: bool) -> Any:
    """Spans of the values from `at` to a closing bracket or `end`; -1, or the byte where they break off."""
    starts, ends = np.empty(64, np.int64), np.empty(64, np.int64)
    count = 0
    while True:
        at = _after_space(data, at, end)
        if at < end and data[at] == _COMMA:
            at = _after_space(data, at + 1, end)
        if at >= end or data[at] == _CLOSE:
            return starts[:count], ends[:count], at if outermost and at < end else -1
        if count == starts.size:
            starts, ends = _twice(starts), _twice(ends)
        starts[count] = at
        after = _after_value(data, at, end)
        if after <= at:
            return starts[:0], ends[:0], at
        ends[count] = at = after
        count += 1


@compiled
def _twice(values: Any) -> Any:
    out = np.empty(2 * values.size, np.int64)
    out[: values.size] = values
    return out


@compiled
def _inner_arrays(data: Any, starts: Any, ends: Any) -> Any:
    """Where the array lies that each value is, or has as its member `features`; -1 for none."""
    out = np.full(starts.size, -1, np.int64)
    for i in range(starts.size):
        if data[starts[i]] == _OPEN:
            out[i] = starts[i]
        elif data[starts[i]] == _BEGIN:
            out[i] = _member(data, starts[i] + 1, ends[i])
    return out


@compiled
def _member(data: Any, at: int, end: int) -> int:
    """Where the array begins that the object whose members begin at `at` calls `features`; -1 for none."""
    while True:
        at = _after_space(data, at, end)
        if at < end and data[at] == _COMMA:
            at = _after_space(data, at + 1, end)
        if at >= end or data[at] != _QUOTE:
            return -1
        after = _after_string(data, at, end)
        if after < 0:
            return -1
        found = after - at - 2 == _FEATURES.size
        for k in range(_FEATURES.size if found else 0):
            found = found and data[at + 1 + k] == _FEATURES[k]
        at = _after_space(data, after, end)
        if at >= end or data[at] != _COLON:
            return -1
        at = _after_space(data, at + 1, end)
        if found and at < end and data[at] == _OPEN:
            return at
        at = _after_value(data, at, end)
        if at < 0:
            return -1
