"""Geometries of WKT and WKB, as text and bytes that nobody has checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled
from roiservice.sources.tables.geometries import Reasons
from roiservice.sources.tables.table import MOST_REASONS

# GEOS reads collections by recursion; some ten thousand levels exhaust the stack, which ends the process.
_MOST_LEVELS = 32

_PREFIX = r"(?i)^\s*srid\s*=\s*-?\d+\s*;"  # of EWKT
_NOTHING = r"(?i)^\s*(nan|null|none|<na>)?\s*$"
_CURVE = r"(?i)\b(circularstring|compoundcurve|curvepolygon|multicurve|multisurface)\b"
_COLLECTION = r"(?i)geometrycollection"
_HEX = r"^\s*(\\x)?0[01]([0-9a-fA-F]{2}){4,}\s*$"  # with the prefix that PostgreSQL puts before bytes

_NO_GEOMETRY = "there is no geometry"
_CURVES = "curves are not read, only straight lines"
_TOO_DEEP = "collections are nested too deep"

_DEEP, _CURVED = 1, 2  # what is the matter with WKB that its parser must not see
_Z, _M, _SRID = 0x80000000, 0x40000000, 0x20000000  # flags of EWKB


def from_text(texts: pa.Array | pa.ChunkedArray, reasons: Reasons, column: str) -> NDArray[Any]:
    """(n,) geometries of strings: WKT or EWKT in any case, or WKB in hexadecimal digits; None if refused."""
    return _by_chunk(texts, pa.large_string(), _texts, reasons, column)


def from_bytes(values: pa.Array | pa.ChunkedArray, reasons: Reasons, column: str) -> NDArray[Any]:
    """(n,) geometries of WKB or EWKB; None if refused."""
    return _by_chunk(values, pa.large_binary(), _bytes, reasons, column)


def _by_chunk(values: Any, kind: Any, read: Any, reasons: Reasons, column: str) -> NDArray[Any]:
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    out, first = [np.empty(0, object)], 0
    for chunk in chunks:
        out.append(read(chunk.cast(kind), reasons, column, first))
        first += len(chunk)
    return np.concatenate(out)


def _texts(texts: pa.Array, reasons: Reasons, column: str, first: int) -> NDArray[Any]:
    out = np.full(len(texts), None, object)
    texts = pc.replace_substring_regex(texts.fill_null(""), _PREFIX, "")
    nothing = _mask(pc.match_substring_regex(texts, _NOTHING))
    curve = _mask(pc.match_substring_regex(texts, _CURVE)) & ~nothing
    deep = _mask(pc.greater(pc.count_substring_regex(texts, _COLLECTION), _MOST_LEVELS))
    hexadecimal = _mask(pc.match_substring_regex(texts, _HEX))
    reasons.refuse_all(first + np.flatnonzero(nothing), column, _NO_GEOMETRY)
    reasons.refuse_all(first + np.flatnonzero(curve), column, _CURVES)
    reasons.refuse_all(first + np.flatnonzero(deep), column, _TOO_DEEP)
    plain = np.flatnonzero(~(nothing | curve | deep | hexadecimal))
    out[plain] = _parsed(shapely.from_wkt, texts, plain, reasons, column, first)
    rows = np.flatnonzero(hexadecimal)
    if len(rows):
        digits = pc.replace_substring(pc.utf8_trim_whitespace(texts.take(pa.array(rows))), "\\x", "")
        decoded = pa.array([bytes.fromhex(each) for each in digits.to_pylist()], pa.large_binary())
        numbered = _Numbered(reasons, first + rows)
        out[rows] = _bytes(decoded, numbered, column, 0)
    return out


def _bytes(values: pa.Array, reasons: Reasons, column: str, first: int) -> NDArray[Any]:
    out = np.full(len(values), None, object)
    if not len(values):
        return out
    values = values.fill_null(b"")
    offsets = np.frombuffer(values.buffers()[1], np.int64)[values.offset : values.offset + len(values) + 1]
    empty = np.diff(offsets) == 0
    buffer = values.buffers()[2]
    data = np.frombuffer(buffer, np.uint8) if buffer is not None else np.empty(0, np.uint8)
    trouble = _troubles(data, offsets, _MOST_LEVELS)
    reasons.refuse_all(first + np.flatnonzero(empty), column, _NO_GEOMETRY)
    reasons.refuse_all(first + np.flatnonzero(trouble == _DEEP), column, _TOO_DEEP)
    reasons.refuse_all(first + np.flatnonzero(trouble == _CURVED), column, _CURVES)
    rows = np.flatnonzero(~empty & (trouble == 0))
    out[rows] = _parsed(shapely.from_wkb, values, rows, reasons, column, first)
    return out


class _Numbered(Reasons):
    """Hands on refusals of rows that go by other numbers in the table."""

    def __init__(self, reasons: Reasons, rows: NDArray[np.int64]) -> None:
        super().__init__()
        self._reasons_of_table = reasons
        self._rows = rows

    def refuse(self, row: int, column: str, reason: str) -> None:
        self._reasons_of_table.refuse(int(self._rows[row - 1]) + 1, column, reason)


def _parsed(
    parse: Any, values: pa.Array, rows: NDArray[np.int64], reasons: Reasons, column: str, first: int
) -> NDArray[Any]:
    """Geometries of these rows; where one cannot be read, the parser says why."""
    chosen = values if len(rows) == len(values) else values.take(pa.array(rows))
    given = np.asarray(chosen.to_numpy(zero_copy_only=False))
    out = _each(parse, given)
    bad = np.flatnonzero(~shapely.is_geometry(out))
    for index in bad[:MOST_REASONS].tolist():
        reasons.refuse(first + int(rows[index]) + 1, column, _complaint(parse, given[index]))
    reasons.refuse_all(first + rows[bad[MOST_REASONS:]], column, "the geometry cannot be read")
    return out


def _each(parse: Any, given: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(all="ignore"):  # numbers beyond double precision are refused later
        try:
            return np.asarray(parse(given, on_invalid="ignore"), dtype=object)
        except Exception:  # noqa: BLE001 - whatever one value brings about must not cost the others
            if len(given) <= 1:
                return np.full(len(given), None, object)
    half = len(given) // 2
    return np.concatenate([_each(parse, given[:half]), _each(parse, given[half:])])


def _complaint(parse: Any, value: Any) -> str:
    try:
        parse(value)
    except Exception as error:  # noqa: BLE001 - its text is what is asked for
        text = str(error).partition(": ")[2].strip() or str(error)
        return f"the geometry cannot be read: {text[:100]}"
    return "the geometry cannot be read"


def _mask(values: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(values.to_numpy(zero_copy_only=False), np.bool_)


@compiled
def _number(data: Any, at: int, little: bool) -> Any:
    a, b, c, d = (
        np.int64(data[at]),
        np.int64(data[at + 1]),
        np.int64(data[at + 2]),
        np.int64(data[at + 3]),
    )
    return a | b << 8 | c << 16 | d << 24 if little else d | c << 8 | b << 16 | a << 24


@compiled
def _header(code: int) -> Any:
    """Kind of a geometry, bytes of one of its coordinates, and bytes up to its content, by its type code."""
    thousands = (code & 0xFFFF) // 1000
    values = 2
    if code & _Z or thousands == 1 or thousands == 3:
        values += 1
    if code & _M or thousands == 2 or thousands == 3:
        values += 1
    return (code & 0xFFFF) % 1000, 8 * values, 9 if code & _SRID else 5


@compiled
def _troubles(data: Any, offsets: Any, most: int) -> Any:
    """Which WKB geometries have curves, or are nested deeper than `most` levels; found without recursion.

    Layout: OGC 06-103r4, 8.2; flags for Z, M and SRID as in EWKB. Damaged ones are followed as far as a
    reader could get.
    """
    out = np.zeros(offsets.size - 1, np.uint8)
    left = np.zeros(most + 1, np.int64)  # geometries still to come, per level
    for i in range(out.size):
        at, end = offsets[i], offsets[i + 1]
        depth = 0
        left[0] = 1
        while True:
            while depth >= 0 and left[depth] == 0:
                depth -= 1
            if depth < 0 or at + 9 > end:
                break
            left[depth] -= 1
            little = data[at] == 1
            kind, size, length = _header(_number(data, at + 1, little))
            at += length
            if kind == 1:
                at += size
                continue
            if kind > 7 or depth == most:
                out[i] = _CURVED if kind > 7 else _DEEP
                break
            if at + 4 > end:
                break
            count = _number(data, at, little)
            at += 4
            if kind == 2:
                at += count * size
            elif kind == 3:
                while count > 0 and at + 4 <= end:
                    at += 4 + _number(data, at, little) * size
                    count -= 1
            else:
                depth += 1
                left[depth] = count
    return out
