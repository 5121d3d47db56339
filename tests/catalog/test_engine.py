"""How layers are cut into blocks, and that it does not matter how."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from roiservice.catalog import engine, tracing
from roiservice.catalog.engine import Threads, batches, cut_rows
from roiservice.catalog.tracing import VertexLimits, block_rows, traced_features
from roiservice.geometry.polygons import Polygons
from roiservice.sources.planes import LabelLayer, LayerPlane, PlaneKey
from roiservice.vectorize.plane import trace_plane
from tests.strategies import Plane, label_planes, rings_in_rings, snake, spiral


@dataclass(frozen=True)
class Layer:
    """As much of a layer as is asked for: planes (z, y, x) in memory, so many rows to a block."""

    array: NDArray[Any]
    rows: int = 1
    depth: int = 1

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def height(self) -> int:
        return self.array.shape[1]

    @property
    def width(self) -> int:
        return self.array.shape[2]

    @property
    def planes(self) -> list[LayerPlane]:
        return [LayerPlane((0, 0, z), (PlaneKey(0, 0, z),)) for z in range(len(self.array))]

    @property
    def chunk_depth(self) -> tuple[int, int, int]:
        return 1, 1, self.depth

    def strip_rows(self, _max_pixels: int) -> int:
        return min(self.rows, self.height)

    def read(self, index: tuple[int, int, int], row0: int, row1: int) -> NDArray[Any]:
        return np.ascontiguousarray(self.array[index[2], row0:row1])

    def read_planes(
        self, indices: list[tuple[int, int, int]], row0: int, row1: int
    ) -> Iterator[NDArray[Any]]:
        assert len({index[2] // self.depth for index in indices}) == 1
        for index in indices:
            yield self.read(index, row0, row1)

    @property
    def as_layer(self) -> LabelLayer:
        return cast(LabelLayer, self)


def features(plane: LayerPlane, labels: NDArray[Any], polygons: Polygons) -> Any:
    return plane, labels, polygons


@settings(max_examples=200, deadline=None)
@given(label_planes(), st.integers(1, 40), st.integers(1, 3), st.integers(1, 2))
@example(spiral(23), 1, 2, 2)
@example(snake(40, 21), 3, 1, 1)
@example(rings_in_rings(24), 23, 2, 1)
@example(np.ones((1, 5), np.uint8), 1, 1, 1)
def test_blocks_of_any_height_are_the_plane(plane: Plane, rows: int, copies: int, depth: int) -> None:
    layer = Layer(np.stack([plane] * copies), rows, depth).as_layer
    limits = VertexLimits(None, None)
    labels, polygons = trace_plane([plane])
    found = list(traced_features(layer, Threads(2), limits, None, lambda *_: None, features, whole=True))
    assert [each.index[2] for each, _, _ in found] == list(range(copies))
    for _, of_plane, outlines in found:
        assert of_plane.tobytes() == labels.tobytes()
        for name in ("xy", "vertex_offsets", "ring_offsets", "part_offsets"):
            assert getattr(outlines, name).tobytes() == getattr(polygons, name).tobytes()


def test_features_of_a_plane_do_not_wait_for_blocks_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BATCH_PIXELS", 1)
    came = Event()

    class Slow(Layer):
        def read(self, index: tuple[int, int, int], row0: int, row1: int) -> NDArray[Any]:
            if index[2]:
                assert came.wait(10), "the only thread is at the second plane until the first one has come"
            return super().read(index, row0, row1)

    layer, limits = Slow(np.ones((2, 4, 4), np.uint8), 2).as_layer, VertexLimits(None, None)
    traced = traced_features(layer, Threads(1), limits, None, lambda *_: None, features, whole=True)
    for plane, labels, _ in traced:
        assert labels.tolist() == [1], plane
        came.set()


@pytest.mark.parametrize("rows", [2, 4])
def test_planes_that_are_done_are_not_held_while_others_are_traced(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(engine, "BATCH_PIXELS", 1)
    came, depth = Event(), 8

    class Slow(Layer):
        def read_planes(
            self, indices: list[tuple[int, int, int]], row0: int, row1: int
        ) -> Iterator[NDArray[Any]]:
            if indices[0][2]:
                assert came.wait(10), (
                    "the only thread is at the second slab until planes of the first have come"
                )
            return super().read_planes(indices, row0, row1)

    planes = np.random.default_rng(1).integers(1, 9, (2 * depth, 4, 4), np.uint8)
    layer, limits = Slow(planes, rows, depth).as_layer, VertexLimits(None, None)
    traced = traced_features(layer, Threads(1), limits, None, lambda *_: None, features, whole=True)
    of_planes: list[weakref.ref[NDArray[Any]]] = []
    for plane, labels, _ in traced:
        of_planes.append(weakref.ref(labels.base))
        if plane.index[2] == depth - 3:
            assert sum(each() is not None for each in of_planes) < 4
            came.set()
        del labels


@pytest.mark.parametrize(
    ("height", "rows", "expected"),
    [
        (1, 1, [(0, 1)]),
        (9, 9, [(0, 9)]),
        (10, 9, [(0, 10)]),
        (11, 9, [(0, 9), (9, 11)]),
        (5, 1, [(0, 2), (2, 5)]),
        (6, 1, [(0, 2), (2, 4), (4, 6)]),
    ],
)
def test_no_block_but_a_whole_plane_has_one_row(
    height: int, rows: int, expected: list[tuple[int, int]]
) -> None:
    assert cut_rows(Layer(np.zeros((1, height, 3), np.uint8)).as_layer, rows) == expected


def planes_of(layer: Layer, rows: int, pixels: int) -> list[list[int]]:
    return [[each.index[2] for each in batch] for batch in batches(layer.as_layer, rows, pixels)]


def test_small_planes_are_traced_in_one_go() -> None:
    layer = Layer(np.zeros((7, 10, 10), np.uint16))
    assert planes_of(layer, 10, 100) == [[0], [1], [2], [3], [4], [5], [6]]
    assert planes_of(layer, 10, 399) == [[0, 1, 2], [3, 4, 5], [6]]
    assert planes_of(layer, 5, 50) == [[z] for z in range(7) for _ in range(2)]


def test_planes_that_share_chunks_are_traced_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each chunk would be decoded for each of them."""
    array = np.zeros((7, 10, 10), np.uint16)
    assert planes_of(Layer(array, depth=3), 10, 100) == [[0, 1, 2], [3, 4, 5], [6]]
    assert planes_of(Layer(array, depth=2), 10, 450) == [[0, 1, 2, 3], [4, 5, 6]]
    assert planes_of(Layer(array, depth=4), 5, 100) == [[0, 1, 2, 3]] * 2 + [[4, 5, 6]] * 2
    monkeypatch.setattr(engine, "SHARED_BYTES", 400)
    assert planes_of(Layer(array, depth=7), 10, 100) == [[0, 1], [2, 3], [4, 5], [6]]


def test_what_lies_between_planes_of_a_batch_is_little() -> None:
    """The last planes of one time and the first of the next have all of both times between them."""
    planes = [(t, 0, z) for t in range(2) for z in range(5)]
    assert [[z for _, _, z in some] for some in engine._within(planes, 3)] == [[0, 1, 2], [3, 4]] * 2
    assert [len(some) for some in engine._within(planes, 9)] == [5, 5]
    assert [len(some) for some in engine._within(planes, 10)] == [10]
    assert [len(some) for some in engine._within(planes, 0)] == [1] * 10


def test_blocks_are_so_few_rows_that_shared_chunks_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer(np.zeros((8, 40, 10), np.uint16), rows=5)
    asked: list[int] = []
    monkeypatch.setattr(Layer, "strip_rows", lambda _, pixels: asked.append(pixels) or 5)
    monkeypatch.setattr(engine, "SHARED_BYTES", 1600)
    for depth in (1, 2, 8):
        block_rows(Layer(layer.array, depth=depth).as_layer)
    assert asked == [800, 400, 100]


def test_fewer_batches_are_at_work_where_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.zeros((40, 10, 10), np.uint16)
    monkeypatch.setattr(engine, "BYTES_AT_WORK", 2000 * 3)
    for rows, depth, expected in ((10, 10, 3), (5, 10, 6), (10, 1, 9), (10, 40, 1)):
        layer = Layer(array, depth=depth).as_layer
        with ThreadPoolExecutor(1) as crew, Threads(8).tracer(layer, rows, None, crew) as tracer:
            assert tracer.at_once == expected


@pytest.mark.parametrize(
    ("of_plane", "of_layer", "lowest"), [(None, None, None), (9, None, 9), (None, 9, 9), (9, 5, 5), (5, 9, 5)]
)
def test_blocks_may_have_no_more_vertices_than_either_limit(
    of_plane: int | None, of_layer: int | None, lowest: int | None
) -> None:
    assert VertexLimits(of_plane, of_layer).lowest == lowest


@pytest.mark.parametrize("most", [1, 2**21])
def test_of_large_planes_one_is_prepared_at_a_time(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """What is made of the whole of one, as to simplify it, takes many times the memory of its outlines."""
    monkeypatch.setattr(engine, "BATCH_PIXELS", 1)
    monkeypatch.setattr(tracing, "RUN_VERTICES", most)
    at_work: list[int] = []
    together: list[int] = []

    def slow(plane: LayerPlane, labels: NDArray[Any], polygons: Polygons) -> Any:
        at_work.append(plane.index[2])
        time.sleep(0.05)
        together.append(len(at_work))
        at_work.remove(plane.index[2])
        return features(plane, labels, polygons)

    layer, limits = Layer(np.ones((8, 4, 4), np.uint8), 4).as_layer, VertexLimits(None, None)
    traced = traced_features(layer, Threads(4), limits, None, lambda *_: None, slow, whole=True)
    assert [plane.index[2] for plane, _, _ in traced] == list(range(8))
    assert (max(together) == 1) == (most == 1)
