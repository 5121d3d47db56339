"""GeoJSON as QuPath imports it.

QuPath reads the plane from inside the geometry, takes `id` only as a UUID, and gives up the whole file for
one feature it cannot read: a null member, a class without a colour, an unknown key in `plane`, an invalid
polygon. So each feature has exactly the members below. An object on every z or t is put on the first, as
QuPath has no plane "all".
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from roiservice.encode.geojson import geometry_texts, geometry_types
from roiservice.encode.properties import json_members
from roiservice.encode.rows import Piece, Texts, by_value, rows
from roiservice.encode.text import integers
from roiservice.geometry.features import Features
from roiservice.geometry.kinds import ELLIPSE

_CLASS_COLOR = (255, 255, 0)
_HEXADECIMAL = np.frombuffer(bytes(range(256)).hex().encode(), np.uint8).reshape(256, 2)
_DIGITS = [place for place in range(36) if place not in (8, 13, 18, 23)]
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
            integers(features.label),
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
    name = hashlib.sha256(f"{features.image_name}/{features.layer}".encode()).digest()
    axes = [features.label, features.t, features.c, features.z]
    hashes = _hashes(name, axes)
    if len(np.unique(hashes[:, 0])) < len(features):
        times: Counter[int] = Counter()
        counts = np.zeros(len(features), np.int64)
        for i, each in enumerate(hashes[:, 0].tolist()):
            counts[i] = times[each]
            times[each] += 1
        hashes = np.where((counts > 0)[:, None], _hashes(name, [*axes, counts]), hashes)
    return _uuids(hashes)


def _hashes(name: bytes, values: list[NDArray[Any]]) -> NDArray[np.uint64]:
    """128 bits, (n, 2), for each row of some columns of integers (n,), and 16 bytes.

    In each half every value in turn is mixed in by the steps of SplitMix64 (Steele, Lea, Flood: Fast
    Splittable Pseudorandom Number Generators, 2014), which lose nothing: rows that differ in one value alone
    never have the same hash.
    """
    mixed = np.tile(np.frombuffer(name[:16], "<u8"), (len(values[0]), 1)).astype(np.uint64)
    for column in values:
        mixed = (mixed ^ column.astype(np.int64).view(np.uint64)[:, None]) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def _uuids(hashes: NDArray[np.uint64]) -> Texts:
    """UUIDs of version 8, whose bits are for their maker to choose (RFC 9562, 5.8), as text."""
    fields = hashes.astype(">u8").view(np.uint8)
    fields[:, 6] = fields[:, 6] & 0x0F | 0x80
    fields[:, 8] = fields[:, 8] & 0x3F | 0x80
    text = np.full((len(fields), 36), ord("-"), np.uint8)
    text[:, _DIGITS] = _HEXADECIMAL[fields].reshape(len(fields), 32)
    return Texts(text.reshape(-1), np.arange(len(fields)) * 36, np.full(len(fields), 36))


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
