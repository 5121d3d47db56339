"""What reads and traces the blocks of a layer: the threads of this process, or those of a cluster.

A block is traced without the row of pixels above it, so that none has to wait for another: all but the first
of a plane begin with their second row, and what lies between two blocks is traced when they are joined.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from roiservice.errors import TooManyObjects
from roiservice.records import dataclass
from roiservice.sources.planes import LabelLayer
from roiservice.vectorize.blocks import Block, trace_block

BYTES_AT_WORK = 2**29  # pixels of all batches at work, but always one batch
BATCH_PIXELS = 2**20  # of small planes that are traced in one go
SHARED_BYTES = 2**27  # decoded at once for several planes that share chunks
Index = tuple[int, int, int]  # t, c, z
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Strip:
    """Rows `row0` to `row1` of the plane `index` (t, c, z) of a layer; with `last` they end the plane."""

    index: Index
    row0: int
    row1: int
    last: bool

    @property
    def name(self) -> str:
        """A name that no other block of the layer has."""
        return "-".join(map(str, (*self.index, self.row0)))


Batch = Sequence[Strip]


@dataclass(frozen=True)
class Tracer:
    """Traces the `batches` of a layer: `crew` is to call `trace`, for no more than `at_once` at a time."""

    crew: ThreadPoolExecutor
    at_once: int
    batches: Iterator[Batch]
    trace: Callable[[Batch], Iterator[Block]]


class Engine(Protocol):
    """Where layers are traced. `threads` is how many of this process are to be at work."""

    threads: int

    def tracer(
        self, layer: LabelLayer, rows: int, max_vertices: int | None, crew: ThreadPoolExecutor
    ) -> AbstractContextManager[Tracer]:
        """What traces the layer in blocks of so many rows; when this ends, so does what is at work.

        `crew` are the threads of this process. Blocks of more than `max_vertices` raise TooManyObjects.
        """


class Threads:
    """The threads of this process. Decompression and compiled loops run without the interpreter's lock."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = THREADS if threads is None else threads

    @contextmanager
    def tracer(
        self, layer: LabelLayer, rows: int, max_vertices: int | None, crew: ThreadPoolExecutor
    ) -> Iterator[Tracer]:
        """See `Engine`."""
        at_once = BYTES_AT_WORK // (_most_pixels(layer, rows) * layer.dtype.itemsize)
        yield Tracer(
            crew,
            max(1, min(at_once, self.threads + 1)),
            batches(layer, rows, BATCH_PIXELS),
            lambda batch: trace_batch(layer, batch, max_vertices),
        )


def shared_pixels(layer: LabelLayer) -> int:
    """Most pixels that are decoded at once for several planes."""
    return SHARED_BYTES // layer.dtype.itemsize


def cut_rows(layer: LabelLayer, rows: int) -> list[tuple[int, int]]:
    """First and last row of the blocks of a plane; only a plane of one row has a block of one row."""
    starts = list(range(0, layer.height, max(rows, 2)))
    if len(starts) > 1 and layer.height - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], layer.height], strict=True))


def batches(layer: LabelLayer, rows: int, pixels: int) -> Iterator[Batch]:
    """All blocks; rows of planes that share chunks together, else as many as have up to so many `pixels`."""
    batch: list[Strip] = []
    filled = 0
    for group in _groups(layer, rows):
        size = sum((each.row1 - each.row0) * layer.width for each in group)
        if batch and filled + size > pixels:
            yield batch
            batch, filled = [], 0
        batch += group
        filled += size
    if batch:
        yield batch


def _groups(layer: LabelLayer, rows: int) -> Iterator[Batch]:
    """All blocks; those together that are decoded at once: the same rows of planes that share chunks."""
    slabs: dict[Index, list[Index]] = {}
    for plane in layer.planes:
        slabs.setdefault(_slab(layer, plane.index), []).append(plane.index)
    for planes in slabs.values():
        for row0, row1 in cut_rows(layer, rows):
            most = shared_pixels(layer) // ((row1 - row0) * layer.width)
            for some in _within(planes, most):
                yield [Strip(index, row0, row1, row1 == layer.height) for index in some]


def _within(planes: Sequence[Index], most: int) -> Iterator[Sequence[Index]]:
    """As many of the planes at a time as lie within a box of no more than `most`, but always one."""
    some: list[Index] = []
    low = high = planes[0]
    for index in planes:
        low, high = _each(min, low, index), _each(max, high, index)
        if some and math.prod(last - first + 1 for first, last in zip(low, high, strict=True)) > most:
            yield some
            some = []
            low = high = index
        some.append(index)
    yield some


def _each(choose: Callable[[int, int], int], one: Index, other: Index) -> Index:
    t, c, z = map(choose, one, other)
    return t, c, z


def _slab(layer: LabelLayer, index: Index) -> Index:
    """What planes have in common whose pixels lie in the same chunks."""
    return _each(int.__floordiv__, index, layer.chunk_depth)


def _most_pixels(layer: LabelLayer, rows: int) -> int:
    """Most pixels of a batch that are in working memory at once."""
    block = rows * layer.width
    return max(block, min(block * math.prod(layer.chunk_depth), shared_pixels(layer)))


def trace_batch(layer: LabelLayer, batch: Batch, max_vertices: int | None) -> Iterator[Block]:
    """The blocks of a batch, one after the other. Raises SourceDamaged, and TooManyObjects."""
    for _, group in groupby(batch, lambda strip: (_slab(layer, strip.index), strip.row0)):
        together = list(group)
        for strip, pixels in zip(together, _pixels(layer, together), strict=True):
            yield trace_strip(pixels, strip, max_vertices)


def _pixels(layer: LabelLayer, together: Batch) -> Iterator[NDArray[Any]]:
    """The pixels of the same rows of planes that share chunks."""
    row0, row1 = together[0].row0, together[0].row1
    if len(together) == 1:
        yield layer.read(together[0].index, row0, row1)
    else:
        yield from layer.read_planes([strip.index for strip in together], row0, row1)


def trace_strip(pixels: NDArray[Any], strip: Strip, max_vertices: int | None) -> Block:
    """One block, from its pixels; without its first row, unless it is the plane's. Raises TooManyObjects."""
    above, first = np.zeros_like(pixels[0]), strip.row0
    if first:
        above, pixels, first = pixels[0], pixels[1:], first + 1
    with plane_named(strip.index):
        return trace_block(above, pixels, first, last=strip.last, max_vertices=max_vertices)


@contextmanager
def plane_named(index: Index) -> Iterator[None]:
    """Have TooManyObjects say in which plane: blocks of several are traced in one go."""
    try:
        yield
    except TooManyObjects as error:
        raise TooManyObjects(f"plane {index}: {error}") from error
