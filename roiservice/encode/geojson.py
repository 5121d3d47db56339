"""GeoJSON features in pixel coordinates.

RFC 7946 section 4 allows another reference system by prior arrangement: coordinates are pixels of the full
resolution image, corner of pixel (0, 0) at (0, 0), y down. Exterior rings have positive area in the numbers
as given (the right-hand rule of section 3.1.6 as its numbers go; on a screen with y down they run clockwise).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import orjson

from roiservice.encode.properties import json_members
from roiservice.encode.text import coordinate_texts
from roiservice.geometry.features import SAFE_INTEGER, Features
from roiservice.geometry.kinds import ELLIPSE, NAMES, POINT, RECTANGLE, is_open
from roiservice.geometry.polygons import Polygons

_POLYGONS, _POINTS, _LINES = ((name, b"Multi" + name) for name in (b"Polygon", b"Point", b"LineString"))
_TYPES = (_POLYGONS, _POLYGONS, _POLYGONS, _POINTS, _LINES, _LINES)
_DRAWN_AS = {kind: b',"drawn_as":"%b"' % NAMES[kind].encode() for kind in (RECTANGLE, ELLIPSE)}

_FEATURE = (
    b'{"type":"Feature","id":%d,"geometry":%b,'
    b'"properties":{"label":%b,"layer":%b,"z":%b,"t":%b,"c":%b,"area":%b%b%b%b}}'
)


def features_json(features: Features) -> list[bytes]:
    """One Feature per feature: label, layer, z, t, c, area, color when known, then its own properties.

    GeoJSON has neither rectangles nor ellipses: `drawn_as` says what an outline stands for.
    """
    layer = orjson.dumps(features.layer)
    columns = zip(
        features.feature_id.tolist(),
        _geometries(features),
        features.label.tolist(),
        features.z.tolist(),
        features.t.tolist(),
        features.c.tolist(),
        features.area.tolist(),
        features.color,
        features.kind.tolist(),
        json_members(features),
        strict=True,
    )
    return [
        _FEATURE
        % (
            identifier,
            geometry,
            label_json(label),
            layer,
            index_json(z),
            index_json(t),
            index_json(c),
            number_json(area),
            b"" if color is None else b',"color":[%d,%d,%d,%d]' % color,
            _DRAWN_AS.get(kind, b""),
            b"," + own if own else b"",
        )
        for identifier, geometry, label, z, t, c, area, color, kind, own in columns
    ]


def _geometries(features: Features) -> list[bytes]:
    """Geometry objects; null where features come without their geometry."""
    if not features.polygons.part_offsets[-1]:
        return [b"null"] * len(features)
    pairs = zip(geometry_types(features), geometry_texts(features), strict=True)
    return [b'{"type":"%b","coordinates":%b}' % pair for pair in pairs]


def geometry_types(features: Features) -> list[bytes]:
    """The GeoJSON geometry type of each feature."""
    several = (np.diff(features.polygons.part_offsets) > 1).tolist()
    return [_TYPES[kind][many] for kind, many in zip(features.kind.tolist(), several, strict=True)]


def geometry_texts(features: Features) -> list[bytes]:
    """The coordinates of each feature, nested as its geometry type asks."""
    texts = coordinate_texts(features.polygons)
    for i in np.flatnonzero(is_open(features.kind)).tolist():
        texts[i] = _open_text(features.polygons, i, features.kind[i] == POINT)
    return texts


def _open_text(polygons: Polygons, i: int, points: bool) -> bytes:
    """Coordinates of a feature of points, or of lines: parts of one ring each."""
    rings = polygons.ring_offsets[polygons.part_offsets[i] : polygons.part_offsets[i + 1] + 1]
    parts = [polygons.xy[a:b].tolist() for a, b in pairwise(polygons.vertex_offsets[rings].tolist())]
    texts = [b"[%b]" % b",".join(_position(x, y) for x, y in part) for part in parts]
    if points:
        texts = [text[1:-1] for text in texts]
    return texts[0] if len(texts) == 1 else b"[%b]" % b",".join(texts)


def _position(x: float, y: float) -> bytes:
    return b"[%b,%b]" % (number_json(float(x)), number_json(float(y)))


def label_json(label: int) -> bytes:
    """A label as a number, or as a string where many JSON readers would lose digits."""
    return b"%d" % label if -SAFE_INTEGER <= label <= SAFE_INTEGER else b'"%d"' % label


def index_json(index: int) -> bytes:
    """An index of t, c or z; null for an object that lies on every index."""
    return b"%d" % index if index >= 0 else b"null"


def number_json(value: float) -> bytes:
    """A measure without needless decimals."""
    return b"%d" % value if value.is_integer() else repr(value).encode()
