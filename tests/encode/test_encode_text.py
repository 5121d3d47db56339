"""The compiled writer of numbers, against json."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from roiservice.encode import text
from roiservice.encode.text import coordinate_texts, point_lists, wkt_texts
from roiservice.geometry.frames import Frame
from roiservice.geometry.polygons import Polygons
from roiservice.vectorize.plane import trace_plane
from tests.strategies import patterns
from tests.vectorize.support import rings_of

extremes = st.sampled_from(
    [0, 1, -1, 9, 10, -10, 99, 100, 2**31 - 1, -(2**31), -(2**31) + 1, 10**9, -(10**9)]
)
some = settings(max_examples=150, deadline=None)


@st.composite
def ragged(draw: st.DrawFn) -> Polygons:
    """Rings of any numbers at all, in any grouping."""
    counts = draw(
        st.lists(
            st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=3), max_size=4
        )
    )
    rings = [count for feature in counts for part in feature for count in part]
    parts = [len(part) for feature in counts for part in feature]
    xy = draw(
        hnp.arrays(np.int32, (sum(rings), 2), elements=st.one_of(extremes, st.integers(-(2**31), 2**31 - 1)))
    )

    def offsets(sizes: list[int]) -> NDArray[np.int64]:
        return np.array([0, *np.cumsum(sizes).tolist()], np.int64)

    return Polygons(xy, offsets(rings), offsets(parts), offsets([len(feature) for feature in counts]))


def by_json(polygons: Polygons) -> list[Any]:
    out = []
    for parts in rings_of(polygons):
        nested = [[[list(point) for point in (*ring, ring[0])] for ring in rings] for rings in parts]
        out.append(nested[0] if len(nested) == 1 else nested)
    return out


@some
@given(ragged())
@example(Polygons(np.full((1, 2), -(2**31), np.int32), np.array([0, 1]), np.array([0, 1]), np.array([0, 1])))
@example(Polygons.empty())
def test_coordinates_of_any_integers(polygons: Polygons) -> None:
    texts = [bytes(text).decode() for text in coordinate_texts(polygons)]
    assert texts == [json.dumps(nested, separators=(",", ":")) for nested in by_json(polygons)]


@some
@given(ragged())
def test_points_of_any_integers(polygons: Polygons) -> None:
    rings = [ring for parts in rings_of(polygons) for part in parts for ring in part]
    texts = [bytes(text).decode() for text in point_lists(polygons.xy, polygons.vertex_offsets)]
    assert texts == [" ".join(f"{x},{y}" for x, y in ring) for ring in rings]


@some
@given(patterns, st.sampled_from([1.306, 0.1, 1 / 3, 1e-9, 1e9]), st.floats(-1e6, 1e6))
def test_floats_read_back_as_the_same_doubles(pattern: NDArray[Any], scale: float, shift: float) -> None:
    _, polygons = trace_plane([np.ascontiguousarray(pattern)])
    polygons = polygons.in_image(Frame(scale, 1.0, shift, 0.5))
    assert [json.loads(bytes(text)) for text in coordinate_texts(polygons)] == by_json(polygons)
    points = [bytes(text).decode() for text in point_lists(polygons.xy, polygons.vertex_offsets)]
    numbers = [[tuple(map(float, point.split(","))) for point in text.split(" ")] for text in points]
    assert numbers == [ring for parts in rings_of(polygons) for part in parts for ring in part]


@pytest.mark.parametrize("dtype", [np.int32, np.float64])
def test_nothing_is_written_as_nothing(dtype: Any) -> None:
    zero = np.zeros(1, np.int64)
    nothing = Polygons(np.empty((0, 2), dtype), zero, zero, zero)
    assert list(coordinate_texts(nothing)) == []
    assert list(point_lists(nothing.xy, zero)) == []


@given(st.lists(st.integers(-(2**63), 2**63 - 1)) | st.lists(st.integers(0, 2**64 - 1)))
@example([10**18, 10**19 - 1, 2**64 - 1])
@example([10**18, 10**18 - 1, 2**63 - 1, -(2**63)])
def test_integers(numbers: list[int]) -> None:
    dtype = np.uint64 if max(numbers, default=0) >= 2**63 else np.int64
    assert list(text.integers(np.array(numbers, dtype))) == [b"%d" % number for number in numbers]


@pytest.mark.parametrize("number", [-(2**31), 2**31 - 1, -9, 0])
def test_there_is_room_for_the_longest_numbers(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops do not look out for the end."""
    given, room = [], text._room
    monkeypatch.setattr(text, "_room", lambda *of: given.append(room(*of)) or given[-1])
    each = np.array([0, 1])
    polygons = Polygons(np.full((1000, 2), number, np.int32), 1000 * each, each, each)
    texts = [*coordinate_texts(polygons), *wkt_texts(polygons), *point_lists(polygons.xy, 1000 * each)]
    assert all(len(written) <= size for written, size in zip(texts, given, strict=True))
