"""Statistics of shapes: which pixels are read, how often, and when it is too much."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roiservice.errors import BadParameter
from roiservice.geometry.polygons import Polygons
from roiservice.geometry.raster import shapes_of
from roiservice.query import stats
from roiservice.query.stats import PlacedShape, shape_stats


@dataclass
class Pixels:
    """An array in memory that remembers what was read."""

    array: np.ndarray
    chunks: tuple[int, int, int, int, int]
    reads: list = field(default_factory=list)

    @property
    def dtype(self):
        return self.array.dtype

    @property
    def sizes(self):
        return self.array.shape

    def read(self, block):
        self.reads.append(block)
        return self.array[block]

    def decoded(self):
        """Chunks in the order of decoding."""
        return [
            chunk
            for block in self.reads
            for chunk in np.ndindex(
                *(
                    -(-part.stop // size) - part.start // size
                    for part, size in zip(block, self.chunks, strict=True)
                )
            )
            for chunk in (
                tuple(
                    index + part.start // size
                    for index, part, size in zip(chunk, block, self.chunks, strict=True)
                ),
            )
        ]


def box(x0, y0, x1, y1, z=0, t=0):
    each = np.array([0, 1])
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)
    polygons = Polygons(corners, np.array([0, 4]), each, each)
    return PlacedShape(shapes_of(polygons, np.zeros(1, np.uint8))[0], z, t)


@given(data=st.data())
def test_statistics_are_those_of_the_pixels_and_no_chunk_is_read_twice(data):
    shape = tuple(data.draw(st.integers(1, most)) for most in (3, 3, 4, 40, 40))
    chunks = tuple(data.draw(st.integers(1, size)) for size in shape)
    array = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 2**16, shape, np.uint16)
    pixels = Pixels(array, chunks)
    corner = st.integers(-5, 45)
    boxes = data.draw(st.lists(st.tuples(corner, corner, corner, corner), min_size=1, max_size=12))
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]
    z = [data.draw(st.integers(0, shape[2])) for _ in boxes]  # one more than there are
    t = [data.draw(st.integers(0, shape[0])) for _ in boxes]
    channels = data.draw(st.lists(st.integers(0, shape[1] - 1), unique=True, max_size=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "_TILE_PIXELS", data.draw(st.sampled_from([1, 50, 400, 2**22])))
        placed = [box(*each, z=at_z, t=at_t) for each, at_z, at_t in zip(boxes, z, t, strict=True)]
        found = shape_stats(pixels, placed, channels)
    for (x0, y0, x1, y1), at_z, at_t, of_shape in zip(boxes, z, t, found, strict=True):
        there = at_z < shape[2] and at_t < shape[0]
        for channel, got in zip(channels, of_shape, strict=True):
            values = np.empty(0)
            if there:
                values = array[at_t, channel, at_z, max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)].ravel()
            assert got.count == len(values)
            if len(values):
                expected = (values.min(), values.max(), values.sum(dtype=object))
                assert (got.least, got.greatest, got.total) == expected
                assert got.mean == pytest.approx(values.mean(), rel=1e-12)
                assert got.deviation == pytest.approx(values.std(), rel=1e-12)
    decoded = pixels.decoded()
    assert len(decoded) == len(set(decoded))


def test_many_shapes_on_planes_of_one_chunk_read_it_once():
    pixels = Pixels(np.ones((1, 2, 8, 64, 64), np.uint8), (1, 2, 8, 64, 64))
    shapes = [box(x, x, x + 4, x + 4, z=x % 8) for x in range(60)]
    found = shape_stats(pixels, shapes, [0, 1])
    assert len(pixels.reads) == 1
    assert all(each.count == 16 for of_shape in found for each in of_shape)


def test_no_more_is_read_than_boxes_reach():
    pixels = Pixels(np.ones((1, 1, 1, 100, 100), np.uint8), (1, 1, 1, 100, 100))
    shape_stats(pixels, [box(3, 4, 6, 9), box(10, 2, 12, 5)], [0])
    assert pixels.reads == [(slice(0, 1), slice(0, 1), slice(0, 1), slice(2, 9), slice(3, 12))]


@pytest.mark.parametrize(
    ("limit", "most", "said"),
    [
        ("BOX_PIXELS", 399, "800 box pixels"),
        ("VISITS", 3, "4 tiles"),
        ("READ_BYTES", 19_999, "20000 bytes of chunks"),
    ],
)
def test_too_much_work_is_refused_before_anything_is_read(monkeypatch, limit, most, said):
    pixels = Pixels(np.ones((1, 2, 1, 100, 100), np.uint8), (1, 1, 1, 100, 100))
    shapes = [box(0, 0, 20, 10), box(50, 50, 70, 60)]
    monkeypatch.setattr(stats, limit, most)
    with pytest.raises(BadParameter, match=said):
        shape_stats(pixels, shapes, [0, 1])
    assert pixels.reads == []
    monkeypatch.setattr(stats, limit, most + 1)
    assert len(shape_stats(pixels, shapes, [0, 1])) == 2


def test_a_channel_that_is_not_there_is_refused():
    with pytest.raises(BadParameter, match="2 channels"):
        shape_stats(Pixels(np.ones((1, 2, 1, 4, 4), np.uint8), (1, 1, 1, 4, 4)), [], [2])


def test_shapes_too_large_to_be_measured_with_the_others_are_left_out(monkeypatch):
    pixels = Pixels(np.ones((1, 2, 1, 100, 100), np.uint8), (1, 1, 1, 10, 10))
    shapes = [box(0, 0, 100, 100), box(50, 50, 70, 60), box(200, 0, 900, 900), box(1, 1, 5, 5)]
    monkeypatch.setattr(stats, "BOX_PIXELS", 432)
    found = shape_stats(pixels, shapes, [0, 1])
    assert found[0] is None
    assert [[each.count for each in of_shape] for of_shape in found[1:]] == [[200] * 2, [0] * 2, [16] * 2]
    monkeypatch.setattr(stats, "BOX_PIXELS", 431)
    assert [of_shape is None for of_shape in shape_stats(pixels, shapes, [0, 1])] == [
        True,
        True,
        False,
        False,
    ]
