"""Hypothesis strategies: label planes of every kind that breaks tracers, and ways to cut them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

Plane = NDArray[Any]

INTEGERS = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def spiral(side: int) -> Plane:
    """One label winding to the middle, one pixel wide, one pixel of background between its turns."""
    plane = np.zeros((side, side), np.int64)
    row, column, step = 0, 0, (0, 1)
    plane[0, 0] = 1

    def free(r: int, c: int, ahead: tuple[int, int]) -> bool:
        if not (0 <= r < side and 0 <= c < side) or plane[r, c]:
            return False
        r, c = r + ahead[0], c + ahead[1]
        return not (0 <= r < side and 0 <= c < side and plane[r, c])

    for _ in range(2 * side * side):
        if not free(row + step[0], column + step[1], step):
            step = (step[1], -step[0])
            if not free(row + step[0], column + step[1], step):
                break
        row, column = row + step[0], column + step[1]
        plane[row, column] = 1
    return plane


def snake(height: int, width: int) -> Plane:
    """One label going down and up again through every second column: it crosses rows many times."""
    plane = np.zeros((height, width), np.int64)
    plane[:, ::2] = 1
    for turn, column in enumerate(range(1, width - 1, 2)):
        plane[0 if turn % 2 else height - 1, column] = 1
    return plane


def rings_in_rings(side: int) -> Plane:
    """Square rings in one another, 1, background, 2, 1, background, 2, ...: some of them touch."""
    depth = np.minimum.outer(np.arange(side), np.arange(side))
    depth = np.minimum(depth, depth[::-1, ::-1])
    depth = np.minimum(depth, np.minimum.outer(np.arange(side), np.arange(side)[::-1]))
    depth = np.minimum(depth, np.minimum.outer(np.arange(side)[::-1], np.arange(side)))
    return np.array([1, 0, 2])[depth % 3]


def checkerboard(height: int, width: int) -> Plane:
    """Pixels of one label that touch at corners only."""
    return np.indices((height, width)).sum(axis=0) % 2


def diamonds(height: int, width: int) -> Plane:
    """A label full of holes that touch one another, and the plane's border, at corners."""
    rows, columns = np.indices((height, width))
    return 1 - ((rows + columns) % 2) * ((rows % 4 < 2) | (columns % 3 == 0))


_sides = st.integers(1, 24)


@st.composite
def _pasted(draw: st.DrawFn) -> Plane:
    """Rectangles over rectangles: touching, nested, cut in two, over the border."""
    height, width = draw(_sides), draw(_sides)
    plane = np.full((height, width), draw(st.integers(0, 1)), np.int64)
    for _ in range(draw(st.integers(0, 8))):
        row, column = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        rows, columns = draw(st.integers(1, height)), draw(st.integers(1, width))
        plane[row : row + rows, column : column + columns] = draw(st.integers(0, 4))
    return plane


@st.composite
def _noise(draw: st.DrawFn) -> Plane:
    """Every pixel by chance, with few labels, so that corner touches, islands and holes abound."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    labels = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**32 - 1))
    background = draw(st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.95]))
    chance = np.random.default_rng(seed)
    plane = chance.integers(1, labels + 1, (height, width))
    plane[chance.random((height, width)) < background] = 0
    return plane


def _shaped(make: Callable[..., Plane], arguments: int) -> st.SearchStrategy[Plane]:
    return st.tuples(*[st.integers(1, 24)] * arguments).map(lambda sizes: make(*sizes))


_small = hnp.arrays(
    np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 3)
)
_thin = hnp.arrays(
    np.int64,
    st.one_of(st.tuples(st.just(1), st.integers(1, 90)), st.tuples(st.integers(1, 90), st.just(1))),
    elements=st.integers(0, 2),
)

patterns: st.SearchStrategy[Plane] = st.one_of(
    _small,
    _pasted(),
    _noise(),
    _thin,
    _shaped(spiral, 1),
    _shaped(snake, 2),
    _shaped(rings_in_rings, 1),
    _shaped(checkerboard, 2),
    _shaped(diamonds, 2),
)
"""Planes of the numbers 0 (background) to 4, as int64."""


def label_values(dtype: Any) -> st.SearchStrategy[int]:
    """Labels that a dtype can hold but 0; often its extremes and those of other types."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return st.just(1)
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    notable = [1, 2, -1, 2**31 - 1, 2**31, -(2**31), 2**53 - 1, 2**53, 2**53 + 1, 2**63, low, high]
    return st.one_of(
        st.sampled_from([value for value in notable if value and low <= value <= high]),
        st.integers(low, high).filter(bool),
    )


@st.composite
def label_planes(draw: st.DrawFn, dtypes: st.SearchStrategy[str] | None = None) -> Plane:
    """A label plane, C-contiguous, of any pattern and any integer dtype or bool, with labels of all sizes."""
    pattern = draw(patterns)
    dtype = np.dtype(draw(st.sampled_from(INTEGERS) if dtypes is None else dtypes))
    if dtype.kind == "b":
        return np.ascontiguousarray(pattern > 0)
    values = draw(st.lists(label_values(dtype), min_size=4, max_size=4, unique=True))
    return np.ascontiguousarray(np.array([0, *values], dtype)[pattern])


def strips_of(plane: Plane, heights: list[int]) -> list[Plane]:
    """The plane cut from the top into strips of these heights; the rest is the last strip."""
    bounds = [0, *np.cumsum(heights).tolist(), len(plane)]
    bounds = [min(bound, len(plane)) for bound in bounds]
    return [plane[first:last] for first, last in itertools.pairwise(bounds) if last > first]


cuts: st.SearchStrategy[list[int]] = st.one_of(
    st.just([1] * 100), st.just([]), st.lists(st.integers(1, 9), max_size=40)
)
"""Heights of strips, for `strips_of`."""
