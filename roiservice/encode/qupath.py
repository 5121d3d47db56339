"""GeoJSON as QuPath imports it.

QuPath reads the plane from inside the geometry, takes `id` only as a UUID, and gives up the whole file for
one feature it cannot read: a null member, a class without a colour, an unknown key in `plane`, an invalid
polygon. So each feature has exactly the members below. An object on every z or t is put on the first, as
QuPath has no plane "all".
"""

from __future__ import annotations

import hashlib
import math
import uuid
from collections import Counter

import numpy as np
import orjson
from numpy.typing import NDArray

from roiservice.encode.geojson import geometry_texts, geometry_types
from roiservice.encode.properties import json_members
from roiservice.encode.rows import Piece, Texts, by_value, rows
from roiservice.encode.text import integers
from roiservice.geometry.features import Features
from roiservice.geometry.kinds import ELLIPSE

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://qupath.github.io/objects/roiservice")
_CLASS_COLOR = (255, 255, 0)
_HEXADECIMAL = np.frombuffer(bytes(range(256)).hex().encode(), np.uint8).reshape(256, 2)
_DIGITS = [place for place, char in enumerate(str(uuid.NAMESPACE_URL)) if char != "-"]
_MEASURES = ("Area px^2", "Perimeter px")


def features_json(features: Features) -> list[bytes]:
    """One detection per feature, named by its label and classified by its layer; measures as measurements."""
    # The separator of derived classes in QuPath.
    classification = {"name": features.layer.replace(":", " "), "color": _CLASS_COLOR}
    measurements, metadata = _own(features)
    written = rows(
        len(features),
        [
            *(b'{"type":"Feature","id":"', _identifiers(features)),
            *(b'","geometry":{"type":"', geometry_types(features)),
            *(b'","coordinates":', geometry_texts(features)),
            *(b',"plane":{"c":', integers(features.c)),
            *(b',"z":', integers(np.maximum(features.z, 0))),
            *(b',"t":', integers(np.maximum(features.t, 0))),
            by_value(features.kind, lambda kind: b'},"isEllipse":true' if kind == ELLIPSE else b"}"),
            b'},"properties":{"objectType":"detection","name":"',
            Texts.of([b"%d" % label for label in features.label.tolist()]),
            b'","classification":' + orjson.dumps(classification),
            *_colors(features),
            *(b',"measurements":{"Area px^2":', _numbers(features.area)),
            *(b',"Perimeter px":', _numbers(features.perimeter)),
            *(*measurements, b"}", *metadata, b"}}"),
        ],
    )
    return list(written)


def _identifiers(features: Features) -> Texts:
    """UUIDs, the same for the same object on the same plane, so that importing again replaces it.

    Where several planes of a layer fall on one of the image, an object comes more than once: then they are
    counted.
    """
    axes = (features.label, features.t, features.c, features.z)
    begin = f"{features.image_name}/{features.layer}"
    places = [f"{begin}/{a}/{b}/{c}/{d}" for a, b, c, d in zip(*(x.tolist() for x in axes), strict=True)]
    if len(set(places)) < len(places):
        times: Counter[str] = Counter()
        for i, place in enumerate(places):
            times[place] += 1
            if times[place] > 1:
                places[i] = f"{place}/{times[place]}"
    return _uuids([place.encode() for place in places])


def _uuids(names: list[bytes]) -> Texts:
    """What `uuid.uuid5` gives for each name, which takes four times as long one by one."""
    space = _NAMESPACE.bytes
    digests = b"".join([hashlib.sha1(space + name, usedforsecurity=False).digest() for name in names])
    fields = np.frombuffer(digests, np.uint8).reshape(len(names), 20)[:, :16].copy()
    fields[:, 6] = fields[:, 6] & 0x0F | 0x50  # RFC 9562, 5.5: version 5
    fields[:, 8] = fields[:, 8] & 0x3F | 0x80
    text = np.full((len(names), 36), ord("-"), np.uint8)
    text[:, _DIGITS] = _HEXADECIMAL[fields].reshape(len(names), 32)
    return Texts(text.reshape(-1), np.arange(len(names)) * 36, np.full(len(names), 36))


def _colors(features: Features) -> list[Piece]:
    if not any(features.color):
        return []
    return [
        Texts.of([b"" if color is None else b',"color":[%d,%d,%d]' % color[:3] for color in features.color])
    ]


def _numbers(values: NDArray[np.float64]) -> Texts:
    """Numbers as orjson writes them, with a decimal point."""
    return Texts.of(orjson.dumps(values.tolist())[1:-1].split(b",") if len(values) else [])


def _own(features: Features) -> tuple[list[Piece], list[Piece]]:
    """The objects' own properties: numbers as further measurements, all else as metadata."""
    if not features.properties:
        return [], []
    measurements, metadata = [], []
    for members in json_members(features):
        numbers, others = {}, {}
        for name, value in orjson.loads(b"{%b}" % members).items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                numbers[name] = value
            elif value is not None:
                others[name] = value if isinstance(value, str) else orjson.dumps(value).decode()
        for taken in _MEASURES:
            numbers.pop(taken, None)
        measurements.append(b"," + orjson.dumps(numbers)[1:-1] if numbers else b"")
        metadata.append(b',"metadata":' + orjson.dumps(others) if others else b"")
    return [Texts.of(measurements)], [Texts.of(metadata)]
