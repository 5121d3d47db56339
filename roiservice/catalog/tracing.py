"""Trace all planes of a label layer on all cores: blocks of rows are read, decoded and traced at once.

A bounded number of blocks is at work. They are joined in order, so that the outcome is the same whatever the
number of threads, and wherever they were traced.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.engine import Batch, Engine, Strip, Tracer, cut_rows, plane_named, shared_pixels
from roiservice.catalog.spill import BlockFiles
from roiservice.errors import SourceRefused, TooManyObjects
from roiservice.geometry.polygons import Polygons
from roiservice.records import dataclass
from roiservice.sources.planes import LabelLayer, LayerPlane
from roiservice.vectorize.assemble import Assembly
from roiservice.vectorize.blocks import Block, PlaneJoiner

BLOCK_PIXELS = 2**22  # of a block; more where a row of chunks has more
RUN_VERTICES = 2**21  # of features that are in working memory at once
AHEAD = 16  # batches that are traced while planes before them are joined, and lie in files
TICK = 0.2  # seconds
WRITTEN_SHARE = 4  # the part of the time, about, that features of a large plane take once it is traced

Found = Callable[[int, int], None]  # pixels that are done and parts that were found, both since the last call
Run = tuple[int, int]  # first and last feature, of those of a plane
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
def _crew(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for one build; what has not begun when it ends is dropped."""
    pool = ThreadPoolExecutor(threads, "build")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ThreadPoolExecutor,
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    at_once: int,
    tick: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Results of all tasks in their order; no more than `at_once` are at work or wait to be taken.

    `tick` is called now and then while a result is waited for. None: this thread does itself what no other
    has begun by then, as those of the pool may have other work before it.
    """
    waiting: deque[tuple[list[Callable[[], Result]], Future[Result]]] = deque()

    def next_result() -> Result:
        own, future = waiting.popleft()
        if tick is None and future.cancel():
            return _done(own)
        while tick is not None and not future.done():
            with suppress(TimeoutError):  # it is not done yet
                future.exception(TICK)
                break
            tick()
        return future.result()

    for task in tasks:
        results = [next_result()] if len(waiting) == at_once else []
        # Empty once it is done: the pool keeps what was cancelled until its turn comes.
        own: list[Callable[[], Result]] = [partial(work, task)]
        waiting.append((own, pool.submit(_done, own)))
        yield from results
    while waiting:
        yield next_result()


def _done(own: list[Callable[[], Result]]) -> Result:
    return own.pop()()


def block_rows(layer: LabelLayer) -> int:
    """Rows of a block of a layer: whole rows of chunks, fewer where many planes share them."""
    return layer.strip_rows(min(BLOCK_PIXELS, shared_pixels(layer) // math.prod(layer.chunk_depth)))


def blocks_are_planes(layer: LabelLayer) -> bool:
    """Whether no plane of a layer is cut into several blocks."""
    return block_rows(layer) >= layer.height


def traced_features(
    layer: LabelLayer,
    engine: Engine,
    limits: VertexLimits,
    files: BlockFiles | None,
    advance: Found,
    prepare: Callable[[LayerPlane, NDArray[Any], Polygons], Result],
    *,
    whole: bool,
) -> Generator[Result]:
    """What `prepare` makes of the labels and polygons of all features, plane by plane in order.

    It is given some features at a time, with `whole` all of a plane, a plane without features once; and it
    is called from several threads. Blocks lie in `files`; without, they stay in working memory, as those do
    that are whole planes, of which no more than are traced at once wait to be joined. `advance` is told of
    pixels that are done: most of a plane's when they are traced, the rest with the last that is asked for
    after its features. Raises SourceRefused naming a plane that has too many vertices. To be closed: it has
    threads.
    """
    rows = block_rows(layer)
    of_planes = blocks_are_planes(layer)
    with _crew(engine.threads) as pool, engine.tracer(layer, rows, limits.lowest, pool) as tracer:
        at_once = tracer.at_once
        if files is not None and not of_planes and at_once >= engine.threads:
            at_once += AHEAD  # as many as threads are in working memory
        joined = _joined(layer, _blocks(layer, tracer, rows, files, at_once, advance), rows, limits)
        # Planes that are a block each are put in order and prepared side by side, the others' features are.
        # The whole of one, as to simplify it, takes many times the memory of its outlines.
        most = RUN_VERTICES // (engine.threads if whole else 1) if of_planes else 0
        begin = partial(_begun, files, prepare, whole=whole, most=most)
        planes = _in_order(pool, begin, joined, engine.threads) if of_planes else map(begin, joined)
        rest = _written_pixels(layer)
        for made, runs, make in planes:
            count = len(made) + len(runs)
            pieces = itertools.chain(made, _in_order(pool, make, runs, engine.threads))
            for number, piece in enumerate(pieces):
                yield piece
                del piece
                advance(_share(rest, number, number + 1, count), 0)
            del made, make, pieces  # before the next plane is joined


def _written_pixels(layer: LabelLayer) -> int:
    """Pixels of a plane that are not done before its features are written."""
    return layer.height * layer.width // WRITTEN_SHARE


def _share(pixels: int, first: int, last: int, count: int) -> int:
    """Of so many pixels the share of some of `count` pieces; those of all pieces are all pixels."""
    return pixels * last // count - pixels * first // count


def _blocks(
    layer: LabelLayer,
    tracer: Tracer,
    rows: int,
    files: BlockFiles | None,
    at_once: int,
    advance: Found,
) -> Iterator[Block]:
    """All blocks plane by plane, from their files or their pixels."""
    pixels = layer.height * layer.width - _written_pixels(layer)

    def trace(batch: Batch) -> dict[Strip, Callable[[], Block]]:
        """What gives each block; of those in files only when it is its turn, as there may be very many."""
        if files is None:
            blocks = zip(batch, tracer.trace(batch), strict=True)
            return {each: partial(_same, block) for each, block in blocks}
        missing = [each for each in batch if not files.has(each.name)]
        given: dict[Strip, Callable[[], Block]] = {each: partial(files.load, each.name) for each in batch}
        for each, block in zip(missing, tracer.trace(missing) if missing else (), strict=True):
            files.keep(each.name, block)
            if blocks_are_planes(layer):
                given[each] = partial(_same, block)
        return given

    traced: dict[Strip, Callable[[], Block]] = {}
    batches = _in_order(tracer.crew, trace, tracer.batches, at_once, lambda: advance(0, 0))
    for plane, (row0, row1) in itertools.product(layer.planes, cut_rows(layer, rows)):
        block = Strip(plane.index, row0, row1, row1 == layer.height)
        while block not in traced:  # batches go through all planes that share chunks, strip by strip
            more = next(batches)
            traced |= more
            advance(sum(_share(pixels, each.row0, each.row1, layer.height) for each in more), 0)
        found = traced.pop(block)()
        advance(0, int(np.count_nonzero(found.rings.exterior)))
        yield found


def _same(block: Block) -> Block:
    return block


def _begun(
    files: BlockFiles | None,
    prepare: Callable[[LayerPlane, NDArray[Any], Polygons], Result],
    joined: tuple[LayerPlane, PlaneJoiner],
    *,
    whole: bool,
    most: int,
) -> tuple[list[Result], list[Run], Callable[[Run], Result]]:
    """Put a plane in order: what is made of its first features, if these have at most so many vertices.

    And which other features there are, and how the same is made of those.
    """
    plane, joiner = joined
    assembly = joiner.assembly()
    runs = list(assembly.runs(None if whole else RUN_VERTICES))
    make = partial(_made, assembly, files, partial(prepare, plane))
    is_small = assembly.vertices(*runs[0]) <= most
    return [make(runs.pop(0))] if is_small else [], runs, make


def _made(
    assembly: Assembly,
    files: BlockFiles | None,
    prepare: Callable[[NDArray[Any], Polygons], Result],
    run: Run,
) -> Result:
    polygons = assembly.polygons(*run)
    if files is not None:
        files.release()
    return prepare(assembly.labels[slice(*run)], polygons)


def _joined(
    layer: LabelLayer,
    blocks: Iterator[Block],
    rows: int,
    limits: VertexLimits,
) -> Iterator[tuple[LayerPlane, PlaneJoiner]]:
    """All planes in order, once all their blocks are joined."""
    cuts = cut_rows(layer, rows)
    left = limits.of_layer
    for plane in layer.planes:
        is_last_straw = left is not None and (limits.of_plane is None or left < limits.of_plane)
        joiner = PlaneJoiner(layer.dtype, left if is_last_straw else limits.of_plane)
        try:
            for row0, _ in cuts:
                block = next(blocks)
                with plane_named(plane.index):
                    joiner.join_inner(block, row0)
        except TooManyObjects as error:
            if is_last_straw:
                raise
            raise SourceRefused(layer.source.image.location, layer.source.path, str(error)) from error
        if left is not None:
            left -= joiner.vertices
        yield plane, joiner
