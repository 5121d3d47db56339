"""ROIs as OMERO.webgateway's `get_rois_json` gives them, for clients that draw SVG.

Field names and the spelling of points, colours and types are those of `shapeMarshal` in OMERO.web's
`webgateway/marshal.py`. Holes are joined to their ring by keyholes, as in OMERO JSON.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roiservice.encode.keyhole import keyhole_rings
from roiservice.encode.omero import FILL_SHARE, shape_colors, shape_texts
from roiservice.encode.text import point_lists
from roiservice.geometry.features import Features
from roiservice.geometry.kinds import ELLIPSE, LINE, POINT, POLYLINE, RECTANGLE

_ROI = b'{"id":%d,"shapes":[%b]}'
_SHAPE = b'{"id":%d,%b%b}'
_POLYGON = b'"type":"Polygon","points":"M %b z",'
_POLYLINE = b'"type":"PolyLine","points":"M %b",'
_RECTANGLE = b'"type":"Rectangle","x":%r,"y":%r,"width":%r,"height":%r,'
_ELLIPSE = b'"type":"Ellipse","x":%r,"y":%r,"radiusX":%r,"radiusY":%r,'
_LINE = b'"type":"Line","x1":%r,"y1":%r,"x2":%r,"y2":%r,'
_POINT = b'"type":"Point","x":%r,"y":%r,'
_COMMON = (
    b'%b"textValue":%b,"strokeColor":"%b","strokeAlpha":1.0,"fillColor":"%b","fillAlpha":%r,"strokeWidth":1.0'
)


def rois(features: Features) -> list[bytes]:
    """One JSON object per ROI; the features of a ROI follow one another.

    Shapes of a ROI are in the order of z, then t; those on every index come first.
    """
    if not len(features):
        return []
    order = np.lexsort((features.t, features.z, np.cumsum(_begins(features))))
    starts = np.flatnonzero(_begins(features)).tolist()
    forms, common = _forms(features), _common(features)
    first_parts, ids = features.polygons.part_offsets.tolist(), features.feature_id.tolist()
    out = []
    for start, stop in zip(starts, [*starts[1:], len(features)], strict=True):
        shapes = [
            _SHAPE % (ids[i] + part - first_parts[i], forms[part], common[i])
            for i in order[start:stop].tolist()
            for part in range(first_parts[i], first_parts[i + 1])
        ]
        out.append(_ROI % (features.roi_id[start], b",".join(shapes)))
    return out


def _begins(features: Features) -> NDArray[np.bool_]:
    """Which features are the first of their ROI."""
    return np.asarray(np.r_[True, features.roi_id[1:] != features.roi_id[:-1]])


def _forms(features: Features) -> list[bytes]:
    """Type and place of every shape, one per part."""
    points = [
        text.replace(b" ", b" L ").replace(b",", b" ")
        for text in point_lists(*keyhole_rings(features.polygons))
    ]
    kinds = np.repeat(features.kind, np.diff(features.polygons.part_offsets)).tolist()
    boxes = np.repeat(features.boxes, np.diff(features.polygons.part_offsets), axis=0).tolist()
    return [_form(*each) for each in zip(kinds, points, boxes, strict=True)]


def _form(kind: int, points: bytes, box: list[float]) -> bytes:
    """A shape whose points are spelled as in SVG; ellipses and rectangles are their box."""
    x0, y0, x1, y1 = box
    if kind == RECTANGLE:
        return _RECTANGLE % (x0, y0, x1 - x0, y1 - y0)
    if kind == ELLIPSE:
        return _ELLIPSE % ((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2)
    if kind in (POINT, LINE):
        numbers = tuple(float(number) for number in points.replace(b"L", b"").split())
        return (_POINT if kind == POINT else _LINE) % numbers
    return (_POLYLINE if kind == POLYLINE else _POLYGON) % points


def _common(features: Features) -> list[bytes]:
    """Members that all shapes of a feature share."""
    planes = zip(features.t.tolist(), features.z.tolist(), strict=True)
    out = []
    colors = shape_colors(features).tolist()
    for (t, z), text, color in zip(planes, shape_texts(features), colors, strict=True):
        place = (b'"theT":%d,' % t if t >= 0 else b"") + (b'"theZ":%d,' % z if z >= 0 else b"")
        css = b"#%02x%02x%02x" % tuple(color[:3])
        out.append(_COMMON % (place, text, css, css, color[3] // FILL_SHARE / 255))
    return out
