"""Blocks that are traced each for itself and joined afterwards are the plane traced at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from roiservice.errors import TooManyObjects
from roiservice.geometry.polygons import Polygons
from roiservice.vectorize.assemble import Assembly
from roiservice.vectorize.blocks import Block, PlaneJoiner, trace_block
from roiservice.vectorize.plane import trace_plane
from tests.strategies import Plane, cuts, label_planes, rings_in_rings, snake, spiral, strips_of
from tests.vectorize.support import strip_size


def blocks_of(plane: Plane, heights: list[int]) -> list[Block]:
    """Each block traced without the others, the last one first."""
    pieces = strips_of(plane, heights)
    first = [0, *np.cumsum([len(piece) for piece in pieces]).tolist()]
    nothing = np.zeros(plane.shape[1], plane.dtype)
    return [
        trace_block(pieces[i - 1][-1] if i else nothing, pieces[i], first[i], last=i == len(pieces) - 1)
        for i in reversed(range(len(pieces)))
    ][::-1]


def joined(blocks: list[Block], dtype: np.dtype[Any]) -> Assembly:
    joiner = PlaneJoiner(dtype)
    for block in blocks:
        joiner.join(block)
    return joiner.assembly()


def same(one: tuple[NDArray[Any], Polygons], other: tuple[NDArray[Any], Polygons]) -> bool:
    names = ("xy", "vertex_offsets", "ring_offsets", "part_offsets")
    return one[0].tobytes() == other[0].tobytes() and all(
        getattr(one[1], name).tobytes() == getattr(other[1], name).tobytes() for name in names
    )


@settings(max_examples=300, deadline=None)
@given(label_planes(), cuts, st.sampled_from([1, 2, 3, 32]))
@example(spiral(23), [1] * 30, 1)
@example(snake(40, 21), [5] * 8, 2)
@example(snake(40, 21).T.copy(), [7, 1, 1, 9], 1)
@example(rings_in_rings(24), [3] * 8, 1)
def test_blocks_joined_are_the_plane(plane: Plane, heights: list[int], rows: int) -> None:
    with strip_size(rows):
        assembly = joined(blocks_of(plane, heights), plane.dtype)
    whole = assembly.polygons(0, len(assembly.labels))
    assert assembly.labels.dtype == plane.dtype
    assert same((assembly.labels, whole), trace_plane([plane]))


@settings(max_examples=50, deadline=None)
@given(label_planes(), st.integers(1, 60))
def test_runs_of_features_are_the_features_in_turn(plane: Plane, most: int) -> None:
    assembly = joined(blocks_of(plane, [3] * 20), plane.dtype)
    whole = assembly.polygons(0, len(assembly.labels))
    runs = list(assembly.runs(most))
    assert [first for first, _ in runs] == [0, *[last for _, last in runs[:-1]]]
    assert runs[-1][1] == len(assembly.labels)
    for first, last in runs:
        piece = assembly.polygons(first, last)
        assert same((np.empty(0), piece), (np.empty(0), whole.take(np.arange(first, last))))
        assert len(piece.xy) <= most or last - first == 1
        assert last == len(assembly.labels) or len(assembly.polygons(first, last + 1).xy) > most
    assert list(assembly.runs(None)) == [(0, len(assembly.labels))]


def test_the_limit_of_vertices_holds_in_a_block_and_across_blocks() -> None:
    plane = np.random.default_rng(0).integers(0, 3, (64, 64), np.uint8)
    vertices = len(trace_plane([plane])[1].xy)
    with pytest.raises(TooManyObjects, match="100 vertices"):
        trace_block(plane[0] * 0, plane, 0, last=True, max_vertices=100)
    stripes = ((np.arange(64) + np.arange(64)[:, None] % 2) // 8).astype(np.uint8)  # all go on below
    with pytest.raises(TooManyObjects, match="200 vertices"):
        trace_block(plane[0] * 0, stripes, 0, last=False, max_vertices=200)
    for most in (vertices, vertices - 1):
        joiner = PlaneJoiner(plane.dtype, most)
        blocks = blocks_of(plane, [16] * 4)
        for block in blocks[:-1]:
            joiner.join(block)
        if most == vertices:
            joiner.join(blocks[-1])
            assert joiner.vertices == vertices
        else:
            with pytest.raises(TooManyObjects):
                joiner.join(blocks[-1])


def test_blocks_that_share_no_row_are_refused() -> None:
    plane = np.ones((4, 6), np.uint8)
    joiner = PlaneJoiner(plane.dtype)
    joiner.join(trace_block(plane[0] * 0, plane[:2], 0, last=False))
    with pytest.raises(ValueError, match="share"):
        joiner.join(trace_block(plane[0] * 0, plane[2:], 2, last=True))
    with pytest.raises(ValueError, match="above"):
        PlaneJoiner(plane.dtype).join(trace_block(plane[0], plane[2:], 2, last=True))


@pytest.mark.parametrize(
    ("most", "runs"),
    [
        (None, [(0, 3)]),
        (12, [(0, 3)]),
        (8, [(0, 2), (2, 3)]),
        (7, [(0, 1), (1, 2), (2, 3)]),
        (1, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_runs_are_as_long_as_their_vertices_allow(most: int | None, runs: list[tuple[int, int]]) -> None:
    plane = np.array([[1, 0, 2, 0, 3]])
    assert list(joined(blocks_of(plane, []), plane.dtype).runs(most)) == runs
