"""GeoJSON as QuPath imports it.

QuPath reads the plane from inside the geometry, takes `id` only as a UUID, and gives up the whole file for
one feature it cannot read: a null member, a class without a colour, an unknown key in `plane`, an invalid
polygon. So each feature has exactly the members below. An object on every z or t is put on the first, as
QuPath has no plane "all".
"""

from __future__ import annotations

import math
import uuid
from collections import Counter
from typing import Any

import orjson

from roiservice.encode.geojson import geometry_texts, geometry_types
from roiservice.encode.properties import json_members
from roiservice.geometry.features import Features
from roiservice.geometry.kinds import ELLIPSE

_FEATURE = (
    b'{"type":"Feature","id":"%b","geometry":{"type":"%b","coordinates":%b,"plane":{"c":%d,"z":%d,"t":%d}%b},'
    b'"properties":%b}'
)
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://qupath.github.io/objects/roiservice")
_CLASS_COLOR = (255, 255, 0)


def features_json(features: Features) -> list[bytes]:
    """One detection per feature, named by its label and classified by its layer; measures as measurements."""
    types, coordinates = geometry_types(features), geometry_texts(features)
    members = json_members(features)
    # The separator of derived classes in QuPath.
    classification = {"name": features.layer.replace(":", " "), "color": _CLASS_COLOR}
    identifiers = _identifiers(features)
    return [
        _FEATURE
        % (
            identifiers[i],
            types[i],
            coordinates[i],
            features.c[i],
            max(0, features.z[i]),
            max(0, features.t[i]),
            b',"isEllipse":true' if features.kind[i] == ELLIPSE else b"",
            orjson.dumps(_properties(features, i, classification, orjson.loads(b"{%b}" % members[i]))),
        )
        for i in range(len(features))
    ]


def _identifiers(features: Features) -> list[bytes]:
    """UUIDs, the same for the same object on the same plane, so that importing again replaces it.

    Where several planes of a layer fall on one of the image, an object comes more than once: then they are
    counted.
    """
    times: Counter[str] = Counter()
    out = []
    axes = zip(
        features.label.tolist(), features.t.tolist(), features.c.tolist(), features.z.tolist(), strict=True
    )
    for label, t, c, z in axes:
        place = f"{features.image_name}/{features.layer}/{label}/{t}/{c}/{z}"
        times[place] += 1
        again = f"/{times[place]}" if times[place] > 1 else ""
        out.append(str(uuid.uuid5(_NAMESPACE, place + again)).encode())
    return out


def _properties(
    features: Features, i: int, classification: dict[str, Any], own: dict[str, Any]
) -> dict[str, Any]:
    measurements = {"Area px^2": float(features.area[i]), "Perimeter px": float(features.perimeter[i])}
    metadata = {}
    for name, value in own.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            measurements.setdefault(name, value)
        elif value is not None:
            metadata[name] = value if isinstance(value, str) else orjson.dumps(value).decode()
    out: dict[str, Any] = {
        "objectType": "detection",
        "name": str(features.label[i]),
        "classification": classification,
    }
    color = features.color[i]
    if color is not None:
        out["color"] = color[:3]
    out["measurements"] = measurements
    if metadata:
        out["metadata"] = metadata
    return out
