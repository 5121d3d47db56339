"""OMERO JSON, as OMERO.web's JSON API gives ROIs (OME 2016-06 model, omero-marshal).

An object is one ROI with one Polygon per part on every plane. OMERO's Polygon is a single ring: holes are
joined to it by keyholes. TheZ, TheT and TheC are left out where the object lies on every index of that axis.
"""

from __future__ import annotations

import numpy as np
import orjson

from roiservice.encode.keyhole import keyhole_rings
from roiservice.encode.text import point_lists
from roiservice.geometry.features import Features

_SCHEMA = b"http://www.openmicroscopy.org/Schemas/OME/2016-06#"
_SHAPE = b'{"@id":%d,"@type":"' + _SCHEMA + b'Polygon","Points":"%b",%b'
# The viewer does not draw a shape without permissions, and offers to edit or delete one that does not forbid
# it.
_SHAPE_END = (
    b'"StrokeWidth":{"@type":"TBD#LengthI","Unit":"PIXEL","Symbol":"pixel","Value":1.0},"omero:details":{"permissions":'
    b'{"canDelete":false,"canAnnotate":false,"canLink":false,"canEdit":false}}}'
)
_ROI = b'{"@id":%d,"@type":"' + _SCHEMA + b'ROI",%b"shapes":[%b]}'
FILL_SHARE = 4  # fills keep this part of a label colour's opacity, so that the image stays visible below


def rois(features: Features) -> list[bytes]:
    """One JSON object per ROI; the features of a ROI follow one another."""
    if not len(features):
        return []
    xy, offsets = keyhole_rings(features.polygons)
    points = point_lists(xy, offsets)
    first_parts = features.polygons.part_offsets.tolist()
    shapes: list[list[bytes]] = []
    for i, (feature_id, common) in enumerate(
        zip(features.feature_id.tolist(), _common(features), strict=True)
    ):
        first = first_parts[i]
        shapes.append(
            [_SHAPE % (feature_id + p - first, points[p], common) for p in range(first, first_parts[i + 1])]
        )
    roi_ids = features.roi_id
    starts = np.flatnonzero(np.r_[True, roi_ids[1:] != roi_ids[:-1]]).tolist()
    out = []
    for start, stop in zip(starts, [*starts[1:], len(features)], strict=True):
        own = [shape for feature in shapes[start:stop] for shape in feature]
        name = (
            b'"Name":%b,' % orjson.dumps(f"{features.layer} {features.label[start]}") if len(own) > 1 else b""
        )
        out.append(_ROI % (int(roi_ids[start]), name, b",".join(own)))
    return out


def _common(features: Features) -> list[bytes]:
    """Members that all shapes of a feature share, one text per feature."""
    axes = zip(features.t.tolist(), features.c.tolist(), features.z.tolist(), strict=True)
    out = []
    for (t, c, z), label, color in zip(axes, features.label.tolist(), features.color, strict=True):
        place = (b'"TheZ":%d,' % z if z >= 0 else b"") + (b'"TheT":%d,' % t if t >= 0 else b"")
        place += b'"TheC":%d,' % c if c >= 0 else b""
        out.append(b'%b%b"Text":"%d",%b' % (place, _colors(color), label, _SHAPE_END))
    return out


def _colors(color: tuple[int, int, int, int] | None) -> bytes:
    if color is None:
        return b""
    red, green, blue, alpha = color
    stroke, fill = _signed(red, green, blue, 255), _signed(red, green, blue, alpha // FILL_SHARE)
    return b'"StrokeColor":%d,"FillColor":%d,' % (stroke, fill)


def _signed(red: int, green: int, blue: int, alpha: int) -> int:
    """RGBA as the signed 32-bit number that OMERO stores."""
    return int.from_bytes(bytes((red, green, blue, alpha)), "big", signed=True)
