"""OMERO JSON, as OMERO.web's JSON API gives ROIs (OME 2016-06 model, omero-marshal).

An object is one ROI with one shape per part on every plane, mostly Polygons. OMERO's Polygon is a single
ring: holes are joined to it by keyholes. TheZ, TheT and TheC are left out where the object lies on every
index of that axis.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import orjson
from numpy.typing import NDArray

from roiservice.encode.keyhole import keyhole_rings
from roiservice.encode.rows import Piece, Texts, by_value, rows
from roiservice.encode.text import integers, point_lists
from roiservice.geometry.features import Features
from roiservice.geometry.kinds import LINE, POINT, POLYGON, POLYLINE, RECTANGLE
from roiservice.geometry.polygons import Polygons
from roiservice.geometry.raster import part_boxes

_SCHEMA = b"http://www.openmicroscopy.org/Schemas/OME/2016-06#"
# The viewer does not draw a shape without permissions, and offers to edit or delete one that does not forbid
# it.
_SHAPE_END = (
    b',"StrokeWidth":{"@type":"TBD#LengthI","Unit":"PIXEL","Symbol":"pixel","Value":1.0},"omero:details":{"permissions":'
    b'{"canDelete":false,"canAnnotate":false,"canLink":false,"canEdit":false}}}'
)
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
    polygons = features.polygons
    parts = np.diff(polygons.part_offsets)
    feature = np.repeat(np.arange(len(features)), parts)  # of each shape
    shape_id = np.repeat(features.feature_id - polygons.part_offsets[:-1], parts) + np.arange(len(feature))
    roi_id = features.roi_id[feature]
    first = np.r_[True, roi_id[1:] != roi_id[:-1]]
    last = np.r_[first[1:], True]
    stroke, fill = _colors(features)
    shapes = rows(
        len(feature),
        [
            *_roi_head(features, feature, first),
            *(b'{"@id":', integers(shape_id)),
            *(b',"@type":"' + _SCHEMA, *_forms(features, masks), b","),
            *(by_value(index, _index(axis)).take(feature) for axis, index in _axes(features)),
            *(b'"StrokeColor":', stroke.take(feature), b',"FillColor":', fill.take(feature)),
            *(b',"Text":', Texts.of(shape_texts(features)).take(feature)),
            _SHAPE_END,
            by_value(last, lambda ends: b"]}" if ends else b""),
        ],
    )
    # Shapes lie one after the other, so those of a ROI are one text.
    ends = np.append(shapes.starts, len(shapes.buffer))[np.append(np.flatnonzero(first), len(feature))]
    return list(Texts.between(shapes.buffer, ends))


def _roi_head(features: Features, feature: NDArray[np.int64], first: NDArray[np.bool_]) -> list[Piece]:
    """What stands before a shape: its ROI's members before the first one, else a comma.

    The name is of layer and label, so that those of several layers can be told apart in one list.
    """
    name = b'ROI","Name":' + orjson.dumps(features.layer)[:-1] + b" "
    return [
        by_value(first, lambda begins: b'{"@id":' if begins else b","),
        integers(features.roi_id[feature]).where(first),
        by_value(first, lambda begins: b',"@type":"' + _SCHEMA + name if begins else b""),
        integers(features.label).take(feature).where(first),
        by_value(first, lambda begins: b'","shapes":[' if begins else b""),
    ]


def _axes(features: Features) -> list[tuple[bytes, NDArray[np.int32]]]:
    return [(b'"TheZ":%d,', features.z), (b'"TheT":%d,', features.t), (b'"TheC":%d,', features.c)]


def _index(member: bytes) -> Callable[[int], bytes]:
    """How an index is written; not at all for an object on every index."""
    return lambda index: member % index if index >= 0 else b""


def _forms(features: Features, masks: bool) -> list[Piece]:
    """Type and place of every shape, one per part."""
    polygons = features.polygons
    if not features.kind.any():
        return _outlined(polygons, masks)
    forms: list[bytes] = [b""] * int(polygons.part_offsets[-1])
    outlined = np.flatnonzero(features.kind == POLYGON)
    written = polygons.take(outlined)
    outlines = iter(rows(int(written.part_offsets[-1]), _outlined(written, masks)))
    for i in range(len(features)):
        for part in range(polygons.part_offsets[i], polygons.part_offsets[i + 1]):
            forms[part] = next(outlines) if features.kind[i] == POLYGON else _form(features, i, part)
    return [Texts.of(forms)]


def _outlined(polygons: Polygons, masks: bool) -> list[Piece]:
    """Polygons, or masks but for parts whose picture would be too large."""
    if not masks:
        return [b'Polygon","Points":"', point_lists(*keyhole_rings(polygons)), b'"']
    boxes = part_boxes(polygons, np.zeros(len(polygons), np.uint8))
    sizes = boxes[:, 2:] - boxes[:, :2]
    drawn = [_MASK % tuple(each) for each in np.hstack([boxes[:, :2], sizes]).tolist()]
    pictured = sizes[:, 0] <= LARGEST_MASK // sizes[:, 1]  # their product may be beyond int64
    if not pictured.all():
        outlines = list(rows(len(drawn), _outlined(polygons, masks=False)))
        drawn = [drawn[part] if may else outlines[part] for part, may in enumerate(pictured.tolist())]
    return [Texts.of(drawn)]


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


def _colors(features: Features) -> tuple[Texts, Texts]:
    """Stroke and fill as the signed 32-bit numbers, RGBA, that OMERO stores."""
    stroke = shape_colors(features)
    fill = stroke.copy()
    stroke[:, 3] = 255
    fill[:, 3] //= FILL_SHARE
    return integers(stroke.view(">i4").ravel()), integers(fill.view(">i4").ravel())
