"""CSV with a WKT column, as GDAL and QGIS read it."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.encode.rows import Piece, Texts, by_value
from roiservice.encode.rows import rows as lines
from roiservice.encode.text import integers, wkt_texts
from roiservice.geometry.features import Features
from roiservice.geometry.kinds import NAMES, geometries, is_open

_LINE_END = b"\r\n"
# More than any double needs that is not written with an exponent; GEOS leaves out what is needless.
_DECIMALS = 30
_QUOTE = '"'
_SPECIAL = re.compile(r'[",\r\n]')
_COLUMNS = ("WKT", "id", "label", "layer", "z", "t", "c", "area", "color", "drawn_as")
_TAKEN = frozenset(name.casefold() for name in _COLUMNS)


def header(property_names: tuple[str, ...]) -> bytes:
    """The first line. All pages have it, of thousands of columns at times, and most names need no quotes."""
    if not _TAKEN.isdisjoint(map(str.casefold, property_names)):
        property_names = tuple(map(_column, property_names))
    names = [*_COLUMNS, *property_names]
    together = "".join(names)
    if any(each in together for each in '",\r\n'):  # several times as fast as `_SPECIAL`
        return b",".join(map(_cell, names)) + _LINE_END
    return ",".join(names).encode() + _LINE_END


def rows(features: Features) -> list[bytes]:
    """One line per feature; columns as in GeoJSON, an empty cell for null."""
    own = [Texts.of([_cell(value) for value in each.to_pylist()]) for each in features.properties.values()]
    written = lines(
        len(features),
        [
            *_geometry(features),
            *(b",", integers(features.feature_id), b",", _texts(features.label)),
            b"," + _cell(features.layer),
            *(
                piece
                for axis in (features.z, features.t, features.c)
                for piece in (b",", by_value(axis, _index))
            ),
            *(b",", _texts(features.area)),
            *(
                b",",
                Texts.of(
                    [b"" if each is None else b"#" + bytes(each).hex().encode() for each in features.color]
                ),
            ),
            *(b",", by_value(features.kind, lambda kind: NAMES[kind].encode() if kind else b"")),
            *(piece for column in own for piece in (b",", column)),
            _LINE_END,
        ],
    )
    return list(written)


def _geometry(features: Features) -> list[Piece]:
    """Cells of WKT; empty where features come without their geometry."""
    polygons = features.polygons
    if not polygons.part_offsets[-1]:
        return []
    if polygons.xy.dtype == np.int32 and not is_open(features.kind).any():
        return [b'"', wkt_texts(polygons), b'"']
    import shapely  # takes a while

    texts = shapely.to_wkt(geometries(polygons, features.kind), rounding_precision=_DECIMALS)
    return [Texts.of([_cell(text) for text in texts.tolist()])]


def _column(name: str) -> str:
    """A property's column; told apart from the columns above, where readers ignore case."""
    return f"property:{name}" if name.casefold() in _TAKEN else name


def _texts(numbers: NDArray[Any]) -> Texts:
    """Cells of numbers, without needless decimals."""
    whole = numbers == np.rint(numbers)
    if whole.all() and (np.abs(numbers.astype(np.float64)) < 2**62).all():
        return integers(numbers)
    return Texts.of([_cell(number) for number in numbers.tolist()])


def _index(index: int) -> bytes:
    """An index of t, c or z; empty for an object that lies on every index."""
    return b"%d" % index if index >= 0 else b""


def _cell(value: object) -> bytes:
    """A value as text, in quotes where a reader would take it for more than one cell (RFC 4180)."""
    if value is None:
        return b""
    if isinstance(value, float):
        if not math.isfinite(value):
            return b""
        value = int(value) if value.is_integer() else value
    text = value.decode() if isinstance(value, bytes) else str(value)  # bytes are JSON
    if isinstance(value, bool):
        text = text.lower()
    return (f'"{text.replace(_QUOTE, 2 * _QUOTE)}"' if _SPECIAL.search(text) else text).encode()
