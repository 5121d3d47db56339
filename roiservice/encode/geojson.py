"""GeoJSON features in pixel coordinates.

RFC 7946 section 4 allows another reference system by prior arrangement: coordinates are pixels of the full
resolution image, corner of pixel (0, 0) at (0, 0), y down. Exterior rings have positive area in the numbers
as given (the right-hand rule of section 3.1.6 as its numbers go; on a screen with y down they run clockwise).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from roiservice.encode.properties import json_members
from roiservice.encode.rows import Piece, Texts, by_value, rows
from roiservice.encode.text import coordinate_texts, integers
from roiservice.geometry.features import SAFE_INTEGER, Features
from roiservice.geometry.kinds import ELLIPSE, NAMES, POINT, RECTANGLE, is_open, open_parts

_POLYGONS, _POINTS, _LINES = ((name, b"Multi" + name) for name in (b"Polygon", b"Point", b"LineString"))
_TYPES = (_POLYGONS, _POLYGONS, _POLYGONS, _POINTS, _LINES, _LINES)
_DRAWN_AS = {kind: b',"drawn_as":"%b"' % NAMES[kind].encode() for kind in (RECTANGLE, ELLIPSE)}


def features_json(features: Features) -> list[bytes]:
    """One Feature per feature: label, layer, z, t, c, area, color when known, then its own properties.

    GeoJSON has neither rectangles nor ellipses: `drawn_as` says what an outline stands for.
    """
    written = rows(
        len(features),
        [
            *(b'{"type":"Feature","id":', integers(features.feature_id)),
            *(b',"geometry":', *_geometry(features)),
            *(b',"properties":{"label":', label_json(features.label)),
            b',"layer":' + orjson.dumps(features.layer),
            *(b',"z":', by_value(features.z, index_json)),
            *(b',"t":', by_value(features.t, index_json)),
            *(b',"c":', by_value(features.c, index_json)),
            *(b',"area":', numbers_json(features.area)),
            *_colors(features),
            by_value(features.kind, lambda kind: _DRAWN_AS.get(kind, b"")),
            *own_members(features),
            b"}}",
        ],
    )
    return list(written)


def _geometry(features: Features) -> list[Piece]:
    """Geometry objects; null where features come without their geometry."""
    if not features.polygons.part_offsets[-1]:
        return [b"null"]
    types, texts = geometry_types(features), geometry_texts(features)
    return [b'{"type":"', types, b'","coordinates":', texts, b"}"]


def geometry_types(features: Features) -> Texts:
    """The GeoJSON geometry type of each feature."""
    several = np.diff(features.polygons.part_offsets) > 1
    return by_value(features.kind * 2 + several, lambda both: _TYPES[both // 2][both % 2])


def geometry_texts(features: Features) -> Texts:
    """The coordinates of each feature, nested as its geometry type asks."""
    polygons = features.polygons
    single = len(polygons.xy) == len(polygons) and (np.diff(polygons.part_offsets) == 1).all()
    if single and (features.kind == POINT).all():  # centroids, mostly
        x, y = (numbers_json(axis) for axis in polygons.xy.astype(np.float64).T)
        return rows(len(features), [b"[", x, b",", y, b"]"])
    texts = coordinate_texts(polygons)
    others = np.flatnonzero(is_open(features.kind)).tolist()
    if not others:
        return texts
    mixed = list(texts)
    for i in others:
        mixed[i] = _open_text(open_parts(polygons, i), features.kind[i] == POINT)
    return Texts.of(mixed)


def _colors(features: Features) -> list[Piece]:
    if not any(features.color):
        return []
    return [
        Texts.of([b"" if color is None else b',"color":[%d,%d,%d,%d]' % color for color in features.color])
    ]


def own_members(features: Features) -> list[Piece]:
    """The objects' own properties as JSON members, with a comma before each."""
    if not features.properties:
        return []
    return [Texts.of([own and b"," + own for own in json_members(features)])]


def _open_text(parts: list[NDArray[Any]], points: bool) -> bytes:
    """Coordinates of a feature of points, or of lines."""
    texts = [b"[%b]" % b",".join(_position(x, y) for x, y in part.tolist()) for part in parts]
    if points:
        texts = [text[1:-1] for text in texts]
    return texts[0] if len(texts) == 1 else b"[%b]" % b",".join(texts)


def _position(x: float, y: float) -> bytes:
    return b"[%b,%b]" % (number_json(float(x)), number_json(float(y)))


def label_json(labels: NDArray[Any]) -> Texts:
    """Labels as numbers, or as strings where many JSON readers would lose digits."""
    if not len(labels) or (int(labels.min()) >= -SAFE_INTEGER and int(labels.max()) <= SAFE_INTEGER):
        return integers(labels)
    safe = range(-SAFE_INTEGER, SAFE_INTEGER + 1)
    return Texts.of([b"%d" % label if label in safe else b'"%d"' % label for label in labels.tolist()])


def index_json(index: int) -> bytes:
    """An index of t, c or z; null for an object that lies on every index."""
    return b"%d" % index if index >= 0 else b"null"


def numbers_json(values: NDArray[np.float64]) -> Texts:
    """Measures without needless decimals."""
    if (np.abs(values) <= SAFE_INTEGER).all() and (values == np.rint(values)).all():
        return integers(values)
    return Texts.of([number_json(value) for value in values.tolist()])


def number_json(value: float) -> bytes:
    """A measure without needless decimals."""
    return b"%d" % value if value.is_integer() else repr(value).encode()
