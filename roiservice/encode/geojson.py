"""GeoJSON features in pixel coordinates.

RFC 7946 section 4 allows another reference system by prior arrangement: coordinates are pixels of the full
resolution image, corner of pixel (0, 0) at (0, 0), y down. Exterior rings have positive area in the numbers
as given (the right-hand rule of section 3.1.6 as its numbers go; on a screen with y down they run clockwise).
"""

from __future__ import annotations

import orjson

from roiservice.encode.text import coordinate_texts
from roiservice.geometry.features import SAFE_INTEGER, Features

_FEATURE = (
    b'{"type":"Feature","id":%d,"geometry":{"type":"%b","coordinates":%b},'
    b'"properties":{"label":%b,"layer":%b,"z":%b,"t":%b,"c":%b,"area":%b%b%b}}'
)
GEOMETRY_TYPES = (b"Polygon", b"MultiPolygon")


def features_json(features: Features) -> list[bytes]:
    """One Feature per feature: label, layer, z, t, c, area, color when known, then its own properties."""
    layer = orjson.dumps(features.layer)
    counts = (features.polygons.part_offsets[1:] - features.polygons.part_offsets[:-1]).tolist()
    columns = zip(
        features.feature_id.tolist(),
        counts,
        coordinate_texts(features.polygons),
        features.label.tolist(),
        features.z.tolist(),
        features.t.tolist(),
        features.c.tolist(),
        features.area.tolist(),
        features.color,
        features.properties,
        strict=True,
    )
    return [
        _FEATURE
        % (
            identifier,
            GEOMETRY_TYPES[parts > 1],
            coordinates,
            label_json(label),
            layer,
            index_json(z),
            index_json(t),
            index_json(c),
            number_json(area),
            b"" if color is None else b',"color":[%d,%d,%d,%d]' % color,
            b"," + own if own else b"",
        )
        for identifier, parts, coordinates, label, z, t, c, area, color, own in columns
    ]


def label_json(label: int) -> bytes:
    """A label as a number, or as a string where many JSON readers would lose digits."""
    return b"%d" % label if -SAFE_INTEGER <= label <= SAFE_INTEGER else b'"%d"' % label


def index_json(index: int) -> bytes:
    """An index of t, c or z; null for an object that lies on every index."""
    return b"%d" % index if index >= 0 else b"null"


def number_json(value: float) -> bytes:
    """A measure without needless decimals."""
    return b"%d" % value if value.is_integer() else repr(value).encode()
