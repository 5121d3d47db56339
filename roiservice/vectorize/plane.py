"""A label plane, strip by strip, to polygons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.errors import TooManyObjects
from roiservice.geometry.polygons import Polygons
from roiservice.vectorize.assemble import assemble, split_rings
from roiservice.vectorize.seams import Joiner, Rings
from roiservice.vectorize.tracer import new_table, trace_strip

# Strips of about this size keep the vertex table in the processor's cache.
TRACE_PIXELS = 2**19
TRACE_ROWS = 32


def trace_plane(
    strips: Iterable[NDArray[Any]], max_vertices: int | None = None
) -> tuple[NDArray[Any], Polygons]:
    """Labels, (f,) of the plane's dtype, and polygons of a plane given as strips of rows, top to bottom.

    Strips are (rows, width) C-contiguous arrays of one integer or bool dtype and one width; only one is
    held at a time. 0 is background, every other value, negative ones too, is a label. The area of a feature
    equals its pixel count; its parts are 4-connected. Raises TooManyObjects past `max_vertices`.
    """
    joiner = Joiner()
    batches: list[Rings] = []
    table = new_table()
    vertices = 0
    coming = iter(strips)
    ahead = list(islice(coming, 1))  # for its dtype alone
    dtype: np.dtype[Any] = ahead[0].dtype if ahead else np.dtype(np.uint8)
    for above, strip, first_row, last in _fine_strips(chain(iter(ahead), coming)):
        ahead.clear()
        chains, table = trace_strip(above, strip, first_row, last=last, table=table)
        for rings in joiner.join(chains):
            batches.append(split_rings(rings))
            vertices += int(rings.offsets[-1] - rings.offsets[0])
        check_vertices(vertices + joiner.open_vertices, max_vertices)
    return assemble(batches, joiner.parts(), dtype)


def check_vertices(count: int, most: int | None) -> None:
    """Raise TooManyObjects if there are more than `most` vertices."""
    if most is not None and count > most:
        raise TooManyObjects(f"the outlines have more than {most} vertices")


def strip_rows(width: int) -> int:
    """Rows that the tracer takes at once."""
    return max(TRACE_ROWS, TRACE_PIXELS // max(1, width))


def _fine_strips(
    strips: Iterable[NDArray[Any]],
) -> Iterator[tuple[NDArray[Any], NDArray[Any], int, bool]]:
    """Strips cut to the tracer's size, with the row above, the first row, and whether it is the last."""
    above: NDArray[Any] | None = None
    row = 0
    waiting: NDArray[Any] | None = None
    for strip in strips:
        step = strip_rows(strip.shape[1])
        for start in range(0, len(strip), step):
            if waiting is not None:
                yield _edge(above, waiting), waiting, row, False
                above, row = waiting[-1].copy(), row + len(waiting)
            waiting = strip[start : start + step]
        if waiting is not None:
            waiting = waiting.copy()  # lets go of the caller's strip while the next one is read
    if waiting is not None:
        yield _edge(above, waiting), waiting, row, True


def _edge(above: NDArray[Any] | None, strip: NDArray[Any]) -> NDArray[Any]:
    return np.zeros(strip.shape[1], strip.dtype) if above is None else above
