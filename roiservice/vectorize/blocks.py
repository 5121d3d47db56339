"""Blocks of whole rows, traced each for itself, so that many are at work at once, and joined to a plane."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.records import dataclass
from roiservice.vectorize.assemble import Assembly, RingTable, arrange, split_rings, tabulate
from roiservice.vectorize.plane import check_vertices, strip_rows
from roiservice.vectorize.seams import Joiner, OpenOutlines, Rings
from roiservice.vectorize.tracer import new_table, trace_strip


@dataclass(frozen=True)
class Block:
    """What was traced in some rows of a plane: closed rings, and outlines that go on in other blocks.

    Parts of both are numbered from 0 within the block. `above` (width,) is the row of pixels before its first
    one, which it was traced with, and `last_row` (width,) is its last.
    """

    rings: RingTable
    outlines: OpenOutlines
    above: NDArray[Any]
    last_row: NDArray[Any]


def trace_block(
    above: NDArray[Any],
    pixels: NDArray[Any],
    first_row: int,
    *,
    last: bool,
    max_vertices: int | None = None,
) -> Block:
    """Outlines of `pixels`, (rows, width) of any integer or bool dtype, C-contiguous, rows > 0.

    `above` (width,) is the pixel row before the block, zeros for the first block of a plane; `first_row` is
    the plane row of `pixels[0]`; with `last` the block ends the plane. Raises TooManyObjects past
    `max_vertices`.
    """
    joiner = Joiner(inner=True)
    batches: list[Rings] = []
    table = new_table()
    vertices = 0
    for over, strip, row, ends in _strips(above, pixels):
        chains, table = trace_strip(over, strip, first_row + row, last=last and ends, table=table)
        for rings in joiner.join(chains):
            batches.append(split_rings(rings))
            vertices += int(rings.offsets[-1] - rings.offsets[0])
        check_vertices(vertices + joiner.open_vertices, max_vertices)
    outlines, part = joiner.block()
    return Block(tabulate(batches, part), outlines, above.copy(), pixels[-1].copy())


def _strips(
    above: NDArray[Any], pixels: NDArray[Any]
) -> Iterator[tuple[NDArray[Any], NDArray[Any], int, bool]]:
    """Strips of the tracer's size: the row above, the rows, number of the first, whether it is the last."""
    rows, width = pixels.shape
    step = strip_rows(width)
    for row in range(0, rows, step):
        over = pixels[row - 1] if row else above
        yield over, pixels[row : row + step], row, row + step >= rows


class PlaneJoiner:
    """Joins the blocks of one plane, which come in order; only open outlines are held in working memory."""

    def __init__(self, dtype: np.dtype[Any], max_vertices: int | None = None) -> None:
        self._dtype = dtype
        self._max_vertices = max_vertices
        self._joiner = Joiner()
        self._blocks: list[tuple[RingTable, int]] = []
        self._across: list[Rings] = []
        self._closed = 0
        self._last_row: NDArray[Any] | None = None

    @property
    def vertices(self) -> int:
        """Vertices of all outlines so far."""
        return self._closed + self._joiner.open_vertices

    def join(self, block: Block) -> None:
        """Add the next block. Raises TooManyObjects past the limit of vertices."""
        across, first = self._joiner.join_block(block.outlines)
        self._across += map(split_rings, across)
        self._blocks.append((block.rings, first))
        self._closed += len(block.rings.xy) + sum(len(rings.xy) for rings in across)
        self._last_row = block.last_row
        check_vertices(self.vertices, self._max_vertices)

    def join_inner(self, block: Block, row: int) -> None:
        """Add the next block where all but the first were traced without their first row, which is `row`.

        It is `above` such a block and is traced here, between it and the block before. Raises as `join`.
        """
        if self._last_row is not None:
            self.join(trace_block(self._last_row, block.above[np.newaxis], row, last=False))
        self.join(block)

    def assembly(self) -> Assembly:
        """The features of the plane, once all its blocks are there."""
        parts = self._joiner.parts()
        tables = [replace(rings, part=parts[rings.part + first]) for rings, first in self._blocks]
        if self._across:
            tables.append(tabulate(self._across, parts))
        return arrange(tables, self._dtype)
