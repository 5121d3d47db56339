"""Planes that share chunks: decoded together, once."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Selection = tuple[int | slice, ...]

SLAB_BYTES = 2**28
"""Most that is kept of one slab; planes of larger ones are read each for itself."""


class Slabs:
    """Blocks of the slab of planes last read from an array; safe to use from several threads.

    Writers like to put many z or t into one chunk. Reading plane by plane would decode each chunk as often.
    """

    def __init__(self, shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int) -> None:
        self._shape = shape
        self._chunks = chunks
        self._itemsize = itemsize
        self._lock = threading.Lock()
        self._index: tuple[int, ...] = ()
        self._blocks: dict[tuple[tuple[int, int], ...], NDArray[Any]] = {}

    def read(self, selection: Selection, load: Callable[[Selection], NDArray[Any]]) -> NDArray[Any]:
        """The selection (integers and slices) of what `load` reads; an array of its own."""
        wide = tuple(self._widened(axis, part) for axis, part in enumerate(selection))
        if not self._worth_keeping(selection, wide):
            return load(selection)
        index = tuple(
            part.start for part, asked in zip(wide, selection, strict=True) if isinstance(asked, int)
        )
        rows = tuple((part.start, part.stop) for part in wide)
        with self._lock:
            if index != self._index:
                self._index, self._blocks = index, {}
            block = self._blocks.get(rows)
        if block is None:
            block = load(wide)
            with self._lock:
                if index == self._index:
                    if sum(kept.nbytes for kept in self._blocks.values()) + block.nbytes > SLAB_BYTES:
                        self._blocks = {}  # rows were asked for in overlapping ranges
                    self._blocks[rows] = block
        inner = (
            part - whole.start if isinstance(part, int) else slice(None)
            for part, whole in zip(selection, wide, strict=True)
        )
        return np.array(block[tuple(inner)], order="C")

    def _widened(self, axis: int, part: int | slice) -> slice:
        """All of the chunk that an index lies in, as far as the array goes."""
        if isinstance(part, slice):
            return part
        size = self._chunks[axis]
        start = part // size * size
        return slice(start, min(start + size, self._shape[axis]))

    def _worth_keeping(self, selection: Selection, wide: tuple[slice, ...]) -> bool:
        """Whether several planes share chunks and, at their full extent, fit the memory meant for them."""
        depth: int = math.prod(
            part.stop - part.start
            for part, asked in zip(wide, selection, strict=True)
            if isinstance(asked, int)
        )
        plane: int = math.prod(
            size for size, asked in zip(self._shape, selection, strict=True) if isinstance(asked, slice)
        )
        return depth > 1 and depth * plane * self._itemsize <= SLAB_BYTES
