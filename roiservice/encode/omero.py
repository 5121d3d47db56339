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
_ROI_OF_ONE = _ROI.replace(b"%b", b"", 1).replace(b"%b", _SHAPE)
FILL_SHARE = 4  # fills keep this part of a label colour's opacity, so that the image stays visible below


def rois(features: Features) -> list[bytes]:
    """One JSON object per ROI; the features of a ROI follow one another."""
    if not len(features):
        return []
    points = point_lists(*keyhole_rings(features.polygons))
    first_parts = features.polygons.part_offsets.tolist()
    common = _common(features)
    feature_ids, roi_ids = features.feature_id.tolist(), features.roi_id.tolist()
    starts = np.flatnonzero(np.r_[True, features.roi_id[1:] != features.roi_id[:-1]]).tolist()
    out = []
    for start, stop in zip(starts, [*starts[1:], len(features)], strict=True):
        if first_parts[stop] - first_parts[start] == 1:  # most objects: written in one go
            only = points[first_parts[start]]
            out.append(_ROI_OF_ONE % (roi_ids[start], feature_ids[start], only, common[start]))
            continue
        shapes = [
            _SHAPE % (feature_ids[i] + p - first_parts[i], points[p], common[i])
            for i in range(start, stop)
            for p in range(first_parts[i], first_parts[i + 1])
        ]
        name = b'"Name":%b,' % orjson.dumps(f"{features.layer} {features.label[start]}")
        out.append(_ROI % (roi_ids[start], name, b",".join(shapes)))
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
