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
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from roiservice.sources.planes import LabelLayer
from roiservice.sources.slabs import SLAB_BYTES
from roiservice.vectorize.blocks import Block, trace_block

BYTES_AT_WORK = 2**29  # pixels of all batches at work, but always one batch
BATCH_PIXELS = 2**20  # of small planes that are traced in one go
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Rows:
    """Rows `row0` to `row1` of the plane `index` (t, c, z) of a layer; with `last` they end the plane."""

    index: tuple[int, int, int]
    row0: int
    row1: int
    last: bool

    @property
    def name(self) -> str:
        """A name that no other block of the layer has."""
        return "-".join(map(str, (*self.index, self.row0)))


Batch = Sequence[Rows]


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


def cut_rows(layer: LabelLayer, rows: int) -> list[tuple[int, int]]:
    """First and last row of the blocks of a plane; only a plane of one row has a block of one row."""
    starts = list(range(0, layer.height, max(rows, 2)))
    if len(starts) > 1 and layer.height - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], layer.height], strict=True))


def batches(layer: LabelLayer, rows: int, pixels: int) -> Iterator[Batch]:
    """All blocks in order. Whole planes come together up to so many `pixels`, or if they share chunks."""
    cuts = cut_rows(layer, rows)
    batch: list[Rows] = []
    for plane in layer.planes:
        blocks = [Rows(plane.index, row0, row1, row1 == layer.height) for row0, row1 in cuts]
        if len(blocks) > 1:
            yield from ([each] for each in blocks)
        elif batch and not _belongs(layer, batch, blocks[0], pixels):
            yield batch
            batch = blocks
        else:
            batch = [*batch, *blocks]
    if batch:
        yield batch


def _belongs(layer: LabelLayer, batch: Batch, plane: Rows, pixels: int) -> bool:
    """Whether one more whole plane is to be traced with those of the batch."""
    filled = (len(batch) + 1) * layer.height * layer.width
    if _slab(layer, plane) == _slab(layer, batch[-1]):
        return filled * layer.dtype.itemsize <= SLAB_BYTES
    return filled <= pixels


def _slab(layer: LabelLayer, rows: Rows) -> tuple[int, ...]:
    """What planes have in common whose pixels lie in the same chunks."""
    return tuple(position // size for position, size in zip(rows.index, layer.chunk_depth, strict=True))


def _most_pixels(layer: LabelLayer, rows: int) -> int:
    """Most pixels of a batch that are in working memory at once."""
    block = rows * layer.width
    if rows < layer.height:
        return block
    return max(block, min(block * math.prod(layer.chunk_depth), SLAB_BYTES // layer.dtype.itemsize))


def trace_batch(layer: LabelLayer, batch: Batch, max_vertices: int | None) -> Iterator[Block]:
    """The blocks of a batch, one after the other. Raises SourceDamaged, and TooManyObjects."""
    if len(batch) > 1:
        layer = layer.apart()  # so that batches at work side by side do not push out what others share
    for rows in batch:
        yield trace_rows(layer, rows, max_vertices)


def trace_rows(layer: LabelLayer, rows: Rows, max_vertices: int | None) -> Block:
    """One block, from its pixels; without its first row, unless it is the plane's."""
    pixels = layer.read(rows.index, rows.row0, rows.row1)
    above, first = np.zeros(layer.width, layer.dtype), rows.row0
    if first:
        above, pixels, first = pixels[0], pixels[1:], first + 1
    return trace_block(above, pixels, first, last=rows.last, max_vertices=max_vertices)
