"""OMERO JSON, as OMERO.web's JSON API gives ROIs (OME 2016-06 model, omero-marshal).

An object is one ROI with one shape per part on every plane, mostly Polygons. OMERO's Polygon is a single
ring: holes are joined to it by keyholes. TheZ, TheT and TheC are left out where the object lies on every
index of that axis.
"""

from __future__ import annotations

import numpy as np
import orjson
from numpy.typing import NDArray

from roiservice.encode.keyhole import keyhole_rings
from roiservice.encode.text import point_lists
from roiservice.geometry.features import Features
from roiservice.geometry.kinds import LINE, POINT, POLYGON, POLYLINE, RECTANGLE
from roiservice.geometry.polygons import Polygons
from roiservice.geometry.raster import part_boxes

_SCHEMA = b"http://www.openmicroscopy.org/Schemas/OME/2016-06#"
_SHAPE = b'{"@id":%d,"@type":"' + _SCHEMA + b"%b,%b"
# The viewer does not draw a shape without permissions, and offers to edit or delete one that does not forbid
# it.
_SHAPE_END = (
    b'"StrokeWidth":{"@type":"TBD#LengthI","Unit":"PIXEL","Symbol":"pixel","Value":1.0},"omero:details":{"permissions":'
    b'{"canDelete":false,"canAnnotate":false,"canLink":false,"canEdit":false}}}'
)
_ROI = b'{"@id":%d,"@type":"' + _SCHEMA + b'ROI",%b"shapes":[%b]}'
_ROI_OF_ONE = _ROI.replace(b"[%b]", b"[" + _SHAPE + b"]")
_POLYGON = b'Polygon","Points":"%b"'
_MASK = b'Mask","X":%d,"Y":%d,"Width":%d,"Height":%d'
_RECTANGLE = b'Rectangle","X":%r,"Y":%r,"Width":%r,"Height":%r'
_ELLIPSE = b'Ellipse","X":%r,"Y":%r,"RadiusX":%r,"RadiusY":%r'
_POINT = b'Point","X":%r,"Y":%r'
_LINE = b'Line","X1":%r,"Y1":%r,"X2":%r,"Y2":%r'
_POLYLINE = b'Polyline","Points":"%b"'
LARGEST_MASK = 2**26  # pixels of the picture of a mask
FILL_SHARE = 4  # fills keep this part of a label colour's opacity, so that the image stays visible below


def rois(features: Features, masks: bool = False) -> list[bytes]:
    """One JSON object per ROI; the features of a ROI follow one another.

    With `masks`, shapes that would be Polygons are Masks, whose pixels come as a picture of their own.
    """
    if not len(features):
        return []
    forms = _forms(features, masks)
    first_parts = features.polygons.part_offsets.tolist()
    common, names = _common(features), _names(features)
    feature_ids, roi_ids = features.feature_id.tolist(), features.roi_id.tolist()
    starts = np.flatnonzero(np.r_[True, features.roi_id[1:] != features.roi_id[:-1]]).tolist()
    out = []
    for start, stop in zip(starts, [*starts[1:], len(features)], strict=True):
        if first_parts[stop] - first_parts[start] == 1:  # most objects: written in one go
            only = forms[first_parts[start]]
            one = (roi_ids[start], names[start], feature_ids[start], only, common[start])
            out.append(_ROI_OF_ONE % one)
            continue
        shapes = [
            _SHAPE % (feature_ids[i] + p - first_parts[i], forms[p], common[i])
            for i in range(start, stop)
            for p in range(first_parts[i], first_parts[i + 1])
        ]
        out.append(_ROI % (roi_ids[start], names[start], b",".join(shapes)))
    return out


def _forms(features: Features, masks: bool) -> list[bytes]:
    """Type and place of every shape, one per part."""
    polygons = features.polygons
    if not features.kind.any():
        return _outlined(polygons, masks)
    forms: list[bytes] = [b""] * int(polygons.part_offsets[-1])
    parts = np.diff(polygons.part_offsets)
    outlined = np.flatnonzero(features.kind == POLYGON)
    outlines = iter(_outlined(polygons.take(outlined), masks))
    for i in np.flatnonzero(parts).tolist():
        first, last = polygons.part_offsets[i], polygons.part_offsets[i + 1]
        for part in range(first, last):
            if features.kind[i] == POLYGON:
                forms[part] = next(outlines)
            else:
                forms[part] = _form(features, i, part)
    return forms


def _outlined(polygons: Polygons, masks: bool) -> list[bytes]:
    """Polygons, or masks but for parts whose picture would be too large."""
    boxes = part_boxes(polygons, np.zeros(len(polygons), np.uint8)) if masks else np.empty((0, 4), np.int64)
    sizes = boxes[:, 2:] - boxes[:, :2]
    pictured = sizes.prod(axis=1) <= LARGEST_MASK
    outlines: list[bytes] = []
    if not masks or not pictured.all():
        outlines = [_POLYGON % points for points in point_lists(*keyhole_rings(polygons))]
    if not masks:
        return outlines
    drawn = [_MASK % tuple(each) for each in np.hstack([boxes[:, :2], sizes]).tolist()]
    return [drawn[part] if may else outlines[part] for part, may in enumerate(pictured.tolist())]


def _form(features: Features, i: int, part: int) -> bytes:
    """A shape that is no polygon."""
    ring = features.polygons.ring_offsets[part]
    first, last = features.polygons.vertex_offsets[ring : ring + 2]
    xy = features.polygons.xy[first:last].astype(np.float64).ravel().tolist()
    kind = features.kind[i]
    if kind == POINT:
        return _POINT % tuple(xy)
    if kind == LINE:
        return _LINE % tuple(xy)
    if kind == POLYLINE:
        return _POLYLINE % b" ".join(b"%r,%r" % pair for pair in zip(xy[::2], xy[1::2], strict=True))
    x0, y0, x1, y1 = features.boxes[i].tolist()
    if kind == RECTANGLE:
        return _RECTANGLE % (x0, y0, x1 - x0, y1 - y0)
    return _ELLIPSE % ((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2)


def _common(features: Features) -> list[bytes]:
    """Members that all shapes of a feature share, one text per feature."""
    axes = zip(features.t.tolist(), features.c.tolist(), features.z.tolist(), strict=True)
    out = []
    for (t, c, z), text, colors in zip(axes, shape_texts(features), _colors(features), strict=True):
        place = (b'"TheZ":%d,' % z if z >= 0 else b"") + (b'"TheT":%d,' % t if t >= 0 else b"")
        place += b'"TheC":%d,' % c if c >= 0 else b""
        out.append(b'%b%b"Text":%b,%b' % (place, colors, text, _SHAPE_END))
    return out


def _names(features: Features) -> list[bytes]:
    """Layer and label of each object, so that those of several layers can be told apart in one list."""
    layer = orjson.dumps(features.layer)[:-1]
    return [b'"Name":%b %d",' % (layer, label) for label in features.label.tolist()]


def shape_texts(features: Features) -> list[bytes]:
    """What each object is called, as JSON: the property chosen for that, else the label."""
    labels = [b'"%d"' % label for label in features.label.tolist()]
    column = features.properties.get(features.text)
    if column is None:
        return labels
    return [
        label if value is None else orjson.dumps(_plain(value))
        for label, value in zip(labels, column.to_pylist(), strict=True)
    ]


def _plain(value: object) -> str:
    """A value as a person would write it."""
    if isinstance(value, bytes):  # JSON
        return value.decode()
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def shape_colors(features: Features) -> NDArray[np.uint8]:
    """The objects' own colours, RGBA, (n, 4); where they have none, one that can be told from others.

    Made from the ROI's number, so that an object has the same colour on every plane, today and tomorrow. Two
    sequences whose steps are powers of the inverse plastic number (Roberts 2018, "R2") spread hue and
    lightness evenly, whichever numbers are there.
    """
    number = (features.roi_id % 2**32).astype(np.float64)
    hue, depth = number * 0.7548776662466927 % 1, 0.55 + 0.45 * (number * 0.5698402909980532 % 1)
    # The share of red, green and blue in a fully saturated hue.
    wheel = np.abs((hue[:, None] + (0, 2 / 3, 1 / 3)) % 1 * 6 - 3) - 1
    shares = 1 - depth[:, None] * (1 - np.clip(wheel, 0, 1))
    rgba = np.full((len(number), 4), 255, np.uint8)
    rgba[:, :3] = np.rint(shares * 255)
    for i, own in enumerate(features.color):
        if own is not None:
            rgba[i] = own
    return rgba


def _colors(features: Features) -> list[bytes]:
    """Stroke and fill as the signed 32-bit numbers, RGBA, that OMERO stores."""
    stroke = shape_colors(features)
    fill = stroke.copy()
    stroke[:, 3] = 255
    fill[:, 3] //= FILL_SHARE
    both = zip(*(each.view(">i4").ravel().tolist() for each in (stroke, fill)), strict=True)
    return [b'"StrokeColor":%d,"FillColor":%d,' % pair for pair in both]
