"""Which pixels of a label layer may have changed since a catalog was built: those of changed chunks.

A catalog keeps size and mtime of the files that it was made from, and digests of the chunks in those that are
shards. No digest may tell of anything but the pixels that were traced. So they are made before any pixel is
read, and those of a file are kept only if it is the same one when all are traced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.columns import bytes_to_arrow, read_arrays, text_to_arrow
from roiservice.catalog.engine import THREADS
from roiservice.errors import CatalogDamaged
from roiservice.records import dataclass
from roiservice.sources.chunks import DIGEST_BYTES
from roiservice.sources.layer import BY_COMPONENT
from roiservice.sources.planes import LabelLayer
from roiservice.sources.tokens import ChunkState
from roiservice.vectorize.outlines import Outline

MOST_CHUNKS = 64  # that changed; where more did, tracing all takes less time
MOST_BOXES = 2**16  # on all planes that these are on

Index = tuple[int, int, int]  # t, c, z
File = tuple[str, int, int]  # name, size and mark
Piece = tuple[str, int | None]  # name of a file, number of a chunk in it or all of it
Boxes = NDArray[np.int64]  # (k, 4) as (x0, y0, x1, y1), pixel edges of the layer's own grid


@dataclass(frozen=True)
class Changes:
    """The boxes of changed chunks on each layer plane, by its (t, c, z) index; other planes are unchanged.

    `digests` are those of each file of chunks that there is now, see `chunk_digests`.
    """

    boxes: dict[Index, Boxes]
    digests: Sequence[bytes]


def can_be_mended(layer: LabelLayer, outline: Outline) -> bool:
    """Whether a feature depends on its label's own pixels alone, and the catalog has all features.

    Not so where outlines are simplified or smoothed, small features left out, parts told apart by where they
    are, regions measured, or planes shown several times.
    """
    by_own_pixels = layer.source.objects != BY_COMPONENT and not layer.source.measures
    shown_once = all(len(plane.keys) == 1 for plane in layer.planes)
    return by_own_pixels and shown_once and outline == Outline()


def columns_of(layer: LabelLayer, state: ChunkState, digests: Sequence[bytes]) -> dict[str, Any]:
    """What a catalog keeps of the chunks that it was made from, once all is traced."""
    now = layer.stamps() if any(digests) else {}
    files = zip(_files(state), digests, strict=True)
    digests = [digest if now.get(name) == (size, mark) else b"" for (name, size, mark), digest in files]
    return {
        "name": text_to_arrow(state.names),
        "size": np.array(state.sizes, np.int64),
        "mark": np.array(state.marks, np.int64),
        "digests": bytes_to_arrow(digests),
    }


def chunk_digests(
    layer: LabelLayer, outline: Outline, state: ChunkState, tick: Callable[[], None]
) -> list[bytes]:
    """What tells the chunks in each file from others, see `LabelLayer.digests`; empty where of no use.

    `tick` is called after each file that was read, and may raise.
    """
    if not can_be_mended(layer, outline):
        return [b""] * len(state.names)
    return list(_digests(layer, _files(state), tick))


def changes_since(
    directory: Path, layer: LabelLayer, state: ChunkState, tick: Callable[[], None]
) -> Changes | None:
    """What changed since the catalog in `directory` was built; None where anything may have.

    A file of chunks has changed if it is new or gone, or of another size or mark; of a shard, where that can
    be told, only those chunks that are other ones. A link to a folder of chunks counts as one file, of which
    it cannot be told where it is. `tick` is as of `chunk_digests`.
    """
    try:
        columns = read_arrays(directory / "chunks.arrow")
    except CatalogDamaged:
        return None
    kept = [columns[name].to_pylist() for name in ("name", "size", "mark", "digests")]
    before = {name: ((size, mark), digests) for name, size, mark, digests in zip(*kept, strict=True)}
    now = {name: (size, mark) for name, size, mark in _files(state)}
    changed = [name for name, stamp in now.items() if name not in before or before[name][0] != stamp]
    pieces: list[Piece] = [(name, None) for name in before if name not in now]
    files = len(pieces) + len(changed)
    digests = {name: before[name][1] for name in now if name in before}
    found_now = _digests(layer, [(name, *now[name]) for name in changed], tick)
    for name, found in zip(changed, found_now, strict=True):
        pieces += [(name, inner) for inner in _others(digests.get(name, b""), found)]
        digests[name] = found
        if min(len(pieces), files) > MOST_CHUNKS:
            break  # and read no more of them
    if min(len(pieces), files) > MOST_CHUNKS:
        return None
    if len(pieces) > MOST_CHUNKS:
        pieces = [(name, None) for name in dict(pieces)]
    boxes = _boxes_of(layer, pieces)
    return None if boxes is None else Changes(boxes, [digests[name] for name in state.names])


def _files(state: ChunkState) -> list[File]:
    return list(zip(state.names, state.sizes, state.marks, strict=True))


def _digests(layer: LabelLayer, files: Sequence[File], tick: Callable[[], None]) -> Iterator[bytes]:
    if not layer.has_digests:
        yield from repeat(b"", len(files))
        return
    pool = ThreadPoolExecutor(THREADS)
    try:
        for digests in pool.map(lambda file: layer.digests(*file), files):
            tick()
            yield digests
    finally:
        pool.shutdown(cancel_futures=True)


def _others(before: bytes, now: bytes) -> list[int] | list[None]:
    """Numbers of the chunks in a shard that are other ones; None for all of it where that cannot be told."""
    if not before or len(before) != len(now):
        return [None]
    one, other = (np.frombuffer(digests, f"u{DIGEST_BYTES}") for digests in (before, now))
    changed: list[int] = np.flatnonzero(one != other).tolist()
    return changed


def _boxes_of(layer: LabelLayer, pieces: Sequence[Piece]) -> dict[Index, Boxes] | None:
    """The boxes of chunks on each layer plane; None where there is one that is no chunk, or are too many."""
    try:
        ranges = [each for piece in sorted(pieces) if (each := layer.chunk_ranges(*piece)) is not None]
    except ValueError:
        return None
    if sum(math.prod(len(each[name]) for name in "tcz") for each in ranges) > MOST_BOXES:
        return None
    boxes: dict[Index, list[tuple[int, int, int, int]]] = {}
    for each in ranges:
        x, y = each["x"], each["y"]
        for index in product(each["t"], each["c"], each["z"]):
            boxes.setdefault(index, []).append((x.start, y.start, x.stop, y.stop))
    return {index: np.array(each, np.int64) for index, each in boxes.items()}
