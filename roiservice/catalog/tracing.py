"""Trace all planes of a label layer on all cores: blocks of rows are read, decoded and traced at once.

A bounded number of blocks is at work. They are joined in order, so that the outcome is the same whatever the
number of threads; decompression and compiled loops run without the interpreter's lock.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.spill import BlockFiles
from roiservice.errors import SourceRefused, TooManyObjects
from roiservice.geometry.polygons import Polygons
from roiservice.sources.planes import LabelLayer, LayerPlane
from roiservice.vectorize.assemble import Assembly
from roiservice.vectorize.blocks import Block, PlaneJoiner, trace_block

BLOCK_PIXELS = 2**22  # of a block; more where a row of chunks has more
BYTES_AT_WORK = 2**29  # pixels of all blocks at work, but always one block
RUN_VERTICES = 2**21  # of features that are in working memory at once
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class VertexLimits:
    """Most vertices: of one plane (more is refused), and of all planes (more is TooManyObjects)."""

    of_plane: int | None
    of_layer: int | None

    @property
    def lowest(self) -> int | None:
        """The lower one of both."""
        return min((most for most in (self.of_plane, self.of_layer) if most is not None), default=None)


@contextmanager
def _crew() -> Iterator[ThreadPoolExecutor]:
    """Threads for one build; what has not begun when it ends is dropped."""
    pool = ThreadPoolExecutor(THREADS, "build")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Task], Result], tasks: Iterable[Task], at_once: int
) -> Iterator[Result]:
    """Results of all tasks in their order; no more than `at_once` are at work or wait to be taken."""
    waiting: deque[Future[Result]] = deque()
    for task in tasks:
        first = waiting.popleft().result() if len(waiting) == at_once else None
        waiting.append(pool.submit(work, task))
        if first is not None:
            yield first
    while waiting:
        yield waiting.popleft().result()


def block_rows(layer: LabelLayer) -> int:
    """Rows of a block of a layer: whole rows of chunks."""
    return layer.strip_rows(BLOCK_PIXELS)


def traced_features(
    layer: LabelLayer,
    limits: VertexLimits,
    files: BlockFiles | None,
    advance: Callable[[int], None],
    prepare: Callable[[LayerPlane, NDArray[Any], Polygons], Result],
    *,
    whole: bool,
) -> Generator[Result]:
    """What `prepare` makes of the labels and polygons of all features, plane by plane in order.

    It is given some features at a time, with `whole` all of a plane, a plane without features once; and it
    is called from several threads. Blocks lie in `files`; without, they stay in working memory. `advance` is
    told of pixels that are done. Raises SourceRefused naming a plane that has too many vertices. To be
    closed: it has threads.
    """
    with _crew() as pool:
        for plane, assembly in _traced(pool, layer, limits, files, advance):
            yield from _features(pool, assembly, files, partial(prepare, plane), whole=whole)
            del assembly  # before the next plane is joined


def _traced(
    pool: ThreadPoolExecutor,
    layer: LabelLayer,
    limits: VertexLimits,
    files: BlockFiles | None,
    advance: Callable[[int], None],
) -> Iterator[tuple[LayerPlane, Assembly]]:
    """All planes in order."""
    rows = block_rows(layer)
    at_once = BYTES_AT_WORK // (rows * layer.width * layer.dtype.itemsize)
    blocks = _in_order(
        pool,
        lambda task: _block(layer, task, limits.lowest, files),
        _tasks(layer, rows),
        max(1, min(at_once, THREADS + 1)),
    )
    left = limits.of_layer
    for plane in layer.planes:
        is_last_straw = left is not None and (limits.of_plane is None or left < limits.of_plane)
        joiner = PlaneJoiner(layer.dtype, left if is_last_straw else limits.of_plane)
        try:
            for row in range(0, layer.height, rows):
                joiner.join(next(blocks))
                advance((min(row + rows, layer.height) - row) * layer.width)
        except TooManyObjects as error:
            if is_last_straw:
                raise
            reason = f"plane {plane.index}: {error}"
            raise SourceRefused(layer.source.image.location, layer.source.path, reason) from error
        if left is not None:
            left -= joiner.vertices
        yield plane, joiner.assembly()


def _features(
    pool: ThreadPoolExecutor,
    assembly: Assembly,
    files: BlockFiles | None,
    prepare: Callable[[NDArray[Any], Polygons], Result],
    *,
    whole: bool,
) -> Iterator[Result]:
    """What is made of a plane's features, in their order."""

    def prepared(run: tuple[int, int]) -> Result:
        polygons = assembly.polygons(*run)
        if files is not None:
            files.release()
        return prepare(assembly.labels[slice(*run)], polygons)

    return _in_order(pool, prepared, assembly.runs(None if whole else RUN_VERTICES), THREADS)


@dataclass(frozen=True)
class _Task:
    """Rows of a plane, and the rows of pixels before them and at their end, once they are known."""

    index: tuple[int, int, int]
    row0: int
    row1: int
    above: Future[NDArray[Any]]
    last: Future[NDArray[Any]]


def _tasks(layer: LabelLayer, rows: int) -> Iterator[_Task]:
    nothing: Future[NDArray[Any]] = Future()
    nothing.set_result(np.zeros(layer.width, layer.dtype))
    for plane in layer.planes:
        above = nothing
        for row in range(0, layer.height, rows):
            last: Future[NDArray[Any]] = Future()
            yield _Task(plane.index, row, min(row + rows, layer.height), above, last)
            above = last


def _block(layer: LabelLayer, task: _Task, max_vertices: int | None, files: BlockFiles | None) -> Block:
    """One block, from its file or its pixels.

    It waits for the last row of the block above. That one was begun before, by another thread, and tells its
    last row, or what went wrong, before it waits itself.
    """
    name = "-".join(map(str, (*task.index, task.row0)))
    try:
        block = None if files is None else files.find(name)
        if block is not None:
            task.last.set_result(block.last_row)
            return block
        pixels = layer.read(task.index, task.row0, task.row1)
    except BaseException as error:
        task.last.set_exception(error)
        raise
    task.last.set_result(pixels[-1].copy())
    end = task.row1 == layer.height
    block = trace_block(task.above.result(), pixels, task.row0, last=end, max_vertices=max_vertices)
    return block if files is None else files.keep(name, block)
