"""Shorthand for the tests of `roiservice.sources`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from roiservice.errors import SourceError
from roiservice.sources.images import ImageSource, find_images
from roiservice.sources.layer import Listing
from roiservice.sources.layers import find_layers, layer_named
from roiservice.sources.limits import Limits
from roiservice.sources.planes import LabelLayer, open_layer

LIMITS = Limits()


def found(location: Path, limits: Limits = LIMITS) -> list[ImageSource | SourceError]:
    return list(find_images(location, None, limits))


def image_at(location: Path, limits: Limits = LIMITS) -> ImageSource:
    (image,) = found(location, limits)
    assert isinstance(image, ImageSource)
    return image


def listing_of(location: Path, limits: Limits = LIMITS) -> Listing:
    return find_layers(image_at(location), limits)


def layer_at(location: Path, name: str = "cells", limits: Limits = LIMITS) -> LabelLayer:
    return open_layer(layer_named(image_at(location), name, limits), limits)


def whole(layer: LabelLayer, index: tuple[int, int, int] = (0, 0, 0), rows: int = 7) -> np.ndarray[Any, Any]:
    """A plane put together from strips."""
    strips = [layer.read(index, row, min(row + rows, layer.height)) for row in range(0, layer.height, rows)]
    return np.concatenate(strips)


def blobs(*shape: int, dtype: str = "uint16", seed: int = 0) -> np.ndarray[Any, Any]:
    """Labels in blocks, different on each plane."""
    small = np.random.default_rng(seed).integers(0, 6, [*shape[:-2], -(-shape[-2] // 3), -(-shape[-1] // 4)])
    return small.repeat(3, -2).repeat(4, -1)[..., : shape[-2], : shape[-1]].astype(dtype)


def edit_array(path: Path, **changes: Any) -> None:
    document = path / (".zarray" if (path / ".zarray").exists() else "zarr.json")
    document.write_text(json.dumps(json.loads(document.read_text()) | changes))
