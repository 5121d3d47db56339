"""Planes that share chunks: decoded together, once."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

Selection = tuple[int | slice, ...]

SLAB_BYTES = 2**28
"""Most that is kept of one slab; planes of larger ones are read each for itself."""
SLABS = 2
"""How many are kept: threads that read plane after plane are at work on the end of one and the next."""


class _Slab:
    """Blocks of one slab by their rows, read or being read."""

    def __init__(self) -> None:
        self.blocks: dict[tuple[tuple[int, int], ...], Future[NDArray[Any]]] = {}
        self.size = 0


class Slabs:
    """Blocks of the slabs of planes last read from an array; safe to use from several threads.

    Writers like to put many z or t into one chunk. Reading plane by plane would decode each chunk as often.
    Of threads that ask for the same block at once, one reads it.
    """

    def __init__(self, shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int) -> None:
        self._shape = shape
        self._chunks = chunks
        self._itemsize = itemsize
        self._lock = threading.Lock()
        self._slabs: OrderedDict[tuple[int, ...], _Slab] = OrderedDict()

    def read(self, selection: Selection, load: Callable[[Selection], NDArray[Any]]) -> NDArray[Any]:
        """The selection (integers and slices) of what `load` reads; an array of its own."""
        wide = tuple(self._widened(axis, part) for axis, part in enumerate(selection))
        if not self._worth_keeping(selection, wide):
            return load(selection)
        index = tuple(
            part.start for part, asked in zip(wide, selection, strict=True) if isinstance(asked, int)
        )
        block = self._block(index, wide, load)
        inner = (
            part - whole.start if isinstance(part, int) else slice(None)
            for part, whole in zip(selection, wide, strict=True)
        )
        return np.array(block[tuple(inner)], order="C")

    def _block(
        self, index: tuple[int, ...], wide: tuple[slice, ...], load: Callable[[Selection], NDArray[Any]]
    ) -> NDArray[Any]:
        """The block that is kept, or is read now by this thread or another."""
        rows = tuple((part.start, part.stop) for part in wide)
        size = math.prod(stop - start for start, stop in rows) * self._itemsize
        with self._lock:
            slab = self._slabs.setdefault(index, _Slab())
            self._slabs.move_to_end(index)
            if len(self._slabs) > SLABS:
                self._slabs.popitem(last=False)
            block = slab.blocks.get(rows)
            if block is not None and block.done() and block.exception() is not None:
                block = None
            is_ours = block is None
            if block is None:
                if slab.size + size > SLAB_BYTES:
                    slab.blocks, slab.size = {}, 0  # rows were asked for in overlapping ranges
                block = slab.blocks[rows] = Future()
                slab.size += size
        if is_ours:
            try:
                block.set_result(load(wide))
            except BaseException as error:
                block.set_exception(error)
                raise
        return block.result()

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
