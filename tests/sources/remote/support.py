"""What a location holds, in plain values that can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roiservice.errors import SourceError
from roiservice.sources.images import ImageSource, find_images
from roiservice.sources.layers import find_layers
from roiservice.sources.planes import LabelLayer, open_layer
from roiservice.vectorize.plane import trace_plane
from tests.sources.support import LIMITS


def windows_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What is read of label layers from now on: plane, first and last row, columns unless all."""
    read: list[tuple[Any, ...]] = []
    plain = LabelLayer.read

    def spied(self: LabelLayer, *window: Any) -> Any:
        read.append(window)
        return plain(self, *window)

    monkeypatch.setattr(LabelLayer, "read", spied)
    return read


def described(location: Path | str) -> list[Any]:
    """All that a location holds, down to vertices; its errors and problems without the location itself."""
    told: list[Any] = []
    for image in find_images(location, None, LIMITS):
        if isinstance(image, SourceError):
            told.append((type(image), image.part, image.reason))
        else:
            told.append((image.path, image.name, image.given_id))
            told.extend(_described_layers(image))
    return told


def _described_layers(image: ImageSource) -> Iterator[Any]:
    listing = find_layers(image, LIMITS)
    yield [(type(problem), problem.part, problem.reason) for problem in listing.problems]
    for source in listing.layers:
        layer = open_layer(source, LIMITS)
        yield source.path, source.collection, layer.image_size, layer.frame, layer.planes, layer.warnings
        for plane in layer.planes:
            labels, polygons = trace_plane([layer.read(plane.index, 0, layer.height)])
            yield labels.tolist(), np.asarray(polygons.xy).tolist(), polygons.vertex_offsets.tolist()
