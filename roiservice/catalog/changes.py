"""Which pixels of a label layer may have changed since a catalog was built: those of changed chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.columns import read_arrays, text_to_arrow
from roiservice.errors import CatalogDamaged
from roiservice.sources.layer import BY_COMPONENT
from roiservice.sources.planes import LabelLayer
from roiservice.sources.tokens import ChunkState
from roiservice.vectorize.outlines import Outline

MOST_CHUNKS = 64  # that changed; where more did, tracing all takes less time

Boxes = NDArray[np.int64]  # (k, 4) as (x0, y0, x1, y1), pixel edges of the layer's own grid


@dataclass(frozen=True)
class Changes:
    """The boxes of changed chunks on each layer plane, by its (t, c, z) index; other planes are unchanged."""

    boxes: dict[tuple[int, int, int], Boxes]


def can_be_mended(layer: LabelLayer, outline: Outline) -> bool:
    """Whether a feature depends on its label's own pixels alone, and the catalog has all features.

    Not so where outlines are simplified or smoothed, small features left out, parts told apart by where they
    are, regions measured, or planes shown several times.
    """
    by_own_pixels = layer.source.objects != BY_COMPONENT and not layer.source.measures
    shown_once = all(len(plane.keys) == 1 for plane in layer.planes)
    return by_own_pixels and shown_once and outline == Outline()


def columns_of(state: ChunkState) -> dict[str, Any]:
    """What a catalog keeps of the chunks that it was made from."""
    return {
        "name": text_to_arrow(state.names),
        "size": np.array(state.sizes, np.int64),
        "mark": np.array(state.marks, np.int64),
    }


def changes_since(directory: Path, layer: LabelLayer, state: ChunkState) -> Changes | None:
    """What changed since the catalog in `directory` was built; None where anything may have.

    A chunk has changed if its file is new or gone, or of another size or mark. A link to a folder of chunks
    counts as one file, of which it cannot be told where it is.
    """
    try:
        columns = read_arrays(directory / "chunks.arrow")
    except CatalogDamaged:
        return None
    names, sizes, marks = (columns[name].to_pylist() for name in ("name", "size", "mark"))
    before = dict(zip(names, zip(sizes, marks, strict=True), strict=True))
    now = dict(zip(state.names, zip(state.sizes, state.marks, strict=True), strict=True))
    changed = {name for name, _ in before.items() ^ now.items()}
    if len(changed) > MOST_CHUNKS:
        return None
    boxes: dict[tuple[int, int, int], list[tuple[int, int, int, int]]] = {}
    for name in sorted(changed):
        try:
            ranges = layer.chunk_ranges(name)
        except ValueError:
            return None
        for index, box in _boxes(ranges):
            boxes.setdefault(index, []).append(box)
    return Changes({index: np.array(each, np.int64) for index, each in boxes.items()})


def _boxes(
    ranges: dict[str, range] | None,
) -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int, int]]]:
    """Where a chunk's pixels are: layer plane and box. None: outside the array's grid, nowhere."""
    if ranges is None:
        return
    x, y = ranges["x"], ranges["y"]
    for t in ranges["t"]:
        for c in ranges["c"]:
            for z in ranges["z"]:
                yield (t, c, z), (x.start, y.start, x.stop, y.stop)
