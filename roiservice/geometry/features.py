"""Columns of some features: the plain value that queries hand to encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.polygons import Polygons
from roiservice.records import dataclass

if TYPE_CHECKING:
    import pyarrow as pa

EVERY_INDEX = -1  # in t, c, z: the object lies on every index of that axis
SAFE_INTEGER = 2**53 - 1  # beyond it, JavaScript and many JSON readers lose digits


@dataclass(frozen=True)
class Features:
    """f features of one layer, all in image pixels (edges, (x, y), level 0).

    `feature_id` and `roi_id` (f,) int64; the shapes of feature i, one per part, have the ids
    `feature_id[i]`, `feature_id[i] + 1`, .... `label` (f,) int64 or uint64. `t`, `c`, `z` (f,) int32,
    `EVERY_INDEX` where the object lies on every index. `area` and `perimeter` (f,), `centroid` (f, 2) and
    `boxes` (f, 4) as (x0, y0, x1, y1) float64. `polygons` int32 where the layer's grid is its image's and
    outlines are exact, else float64; `kind` (f,) uint8 says what they are drawn as (see
    `roiservice.geometry.kinds`). `color`: RGBA 0..255 or None. `properties`: by name, a value or null for
    each feature: bool, int64, float64, string, or JSON as binary. `text` names the property that stands for
    an object where a format shows one text; "": the label does.
    """

    layer: str
    image_name: str
    version: int
    feature_id: NDArray[np.int64]
    roi_id: NDArray[np.int64]
    label: NDArray[np.int64] | NDArray[np.uint64]
    kind: NDArray[np.uint8]
    t: NDArray[np.int32]
    c: NDArray[np.int32]
    z: NDArray[np.int32]
    area: NDArray[np.float64]
    perimeter: NDArray[np.float64]
    centroid: NDArray[np.float64]
    boxes: NDArray[np.float64]
    polygons: Polygons
    color: list[tuple[int, int, int, int] | None]
    properties: Mapping[str, pa.Array]
    text: str = ""

    def __len__(self) -> int:
        return len(self.feature_id)
