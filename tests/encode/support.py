"""Features for encoders, made from label planes without a catalog."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.properties import stated_columns
from roiservice.encode.formats import FORMATS
from roiservice.geometry.features import Features
from roiservice.geometry.frames import Frame
from roiservice.geometry.polygons import measure
from roiservice.vectorize.plane import trace_plane

FIRST = 10**15
Color = tuple[int, int, int, int]


def features_of(
    plane: NDArray[Any],
    *,
    frame: Frame | None = None,
    place: tuple[int, int, int] = (0, -1, 0),
    properties: Mapping[int, Mapping[str, Any]] | None = None,
    colors: Mapping[int, Color] | None = None,
    layer: str = "cells",
    labels: Sequence[int] | None = None,
) -> Features:
    """The features of one plane, by label; `labels` replaces the plane's labels, in their order."""
    found, polygons = trace_plane([np.ascontiguousarray(plane)])
    along = np.argsort(found)
    found, polygons = found[along], polygons.take(along).in_image(frame or Frame())
    if labels is not None:
        found = np.array(labels, np.uint64 if max(labels) >= 2**63 else np.int64)
    measured = measure(polygons)
    n = len(found)
    t, c, z = (np.full(n, index, np.int32) for index in place)
    return Features(
        layer=layer,
        image_name="image.zarr",
        version=1,
        feature_id=FIRST + 2**32 + polygons.part_offsets[:-1],
        roi_id=FIRST + np.arange(n, dtype=np.int64),
        label=found.astype(np.int64) if found.dtype != np.uint64 else found,
        kind=np.zeros(n, np.uint8),
        t=t,
        c=c,
        z=z,
        area=measured.area,
        perimeter=measured.perimeter,
        centroid=measured.centroid,
        boxes=measured.boxes,
        polygons=polygons,
        color=[(colors or {}).get(int(label)) for label in found.tolist()],
        properties=stated_columns(properties or {}, found),
    )


def whole(name: str, features: Features) -> bytes:
    """A whole file of a format."""
    form = FORMATS[name]
    return form.begin(tuple(features.properties)) + form.separator.join(form.encode(features)) + form.end


def strict(text: bytes) -> Any:
    """JSON as the strictest reader takes it: UTF-8, no NaN, no key twice in one object."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), f"a key twice: {keys}"
        return dict(pairs)

    def refused(constant: str) -> Any:
        raise AssertionError(constant)

    return json.loads(text.decode(), object_pairs_hook=once, parse_constant=refused)


ODD_PROPERTIES: dict[str, Any] = {
    "class": "Épithélium 細胞 \U0001f52c",
    'quote" \\ \n\t,;': 'a "b"\r\n, c\u2028\u0000d',
    "score": 0.1,
    "count": 12,
    "huge": 2**63 - 1,
    "tiny": 5e-324,
    "large": 1.5e300,
    "nothing": None,
    "yes": True,
    "missing": float("nan"),
    "endless": float("inf"),
    "nested": {"a": [1, {"b": None}], "type": "x"},
    "list": [1, 2.5, "x", None],
    "": "no name",
    "label": "reserved",
    "area": -1,
    "type": "Annotation",
    "children": [{"type": "Feature", "geometry": None}],
    "childObjects": [1],
    "objectType": "root",
    "name": None,
    "id": None,
    "classification": {"name": "x"},
    "measurements": {"a": "not a number"},
    "metadata": 5,
    "plane": {"q": 1},
    "isLocked": "x",
    "geometry": None,
    "nucleusGeometry": None,
}
