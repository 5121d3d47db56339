"""Density grids, summaries, the largest features, cursors."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roiservice.catalog.outlines import vertex_counts
from roiservice.catalog.reader import Catalog
from roiservice.errors import BadParameter, CursorExpired
from roiservice.query import numbers, pages
from roiservice.query.cursor import START, Walk, walk_of
from roiservice.query.density import density
from roiservice.query.numbers import BINS
from roiservice.query.pages import largest_features
from roiservice.query.select import RoiQuery, selected
from roiservice.query.summary import COMMON, LONGEST, summary, texts
from tests.catalog.support import squares, write_catalog
from tests.query.support import matches, plain, queries, random_catalog

CATALOGS = 8
many = settings(max_examples=150, deadline=None)
drawn = st.integers(0, CATALOGS - 1)


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory: pytest.TempPathFactory) -> list[Catalog]:
    folder = tmp_path_factory.mktemp("catalogs")
    return [random_catalog(folder / str(seed), seed) for seed in range(CATALOGS)]


@many
@given(data=st.data(), number=drawn, cells=st.integers(1, 50))
def test_density(catalogs: list[Catalog], data: st.DataObject, number: int, cells: int) -> None:
    catalog = catalogs[number]
    query = data.draw(queries(catalog))
    grid = density(catalog, query, cells)
    height, width = catalog.image_size[3:]
    assert grid.side == max(width, height) / cells
    longer = max(height, width)
    assert grid.counts.shape == tuple(math.ceil(Fraction(side * cells, longer)) for side in (height, width))
    counts, areas = np.zeros(grid.counts.shape, int), np.zeros(grid.counts.shape)
    for feature in plain(catalog):
        if matches(feature, query):
            x, y = catalog.features["centroid"][feature.row]
            cell = int(y * cells / longer), int(x * cells / longer)
            counts[cell] += 1
            areas[cell] += feature.area
    assert grid.counts.tolist() == counts.tolist()
    assert np.allclose(grid.areas, areas)
    assert grid.outside == 0


def test_what_lies_on_a_border_is_in_the_cell_to_the_right(tmp_path: Path) -> None:
    plane = np.zeros((1, 39), np.int64)
    plane[0, ::2] = 1 + np.arange(20)
    catalog = write_catalog(tmp_path / "2", [([(0, 0, 0)], plane)], size=(1, 1, 1, 1, 39))
    for cells in range(1, 513):
        expected = [Fraction(4 * number + 1, 2) * cells // 39 for number in range(20)]
        columns = density(catalog, RoiQuery(), cells).counts.sum(axis=0)
        assert columns.tolist() == np.bincount(expected, minlength=cells).tolist()


@pytest.mark.parametrize("cells", [1, 61, 77, 122, 512])
def test_a_grid_has_as_many_cells_as_asked_for(tmp_path: Path, cells: int) -> None:
    catalog = write_catalog(tmp_path / "2", [([(0, 0, 0)], squares(20, 20))], size=(1, 1, 1, 10, 20))
    assert density(catalog, RoiQuery(), cells).counts.shape == (-(-cells // 2), cells)


def test_what_lies_outside_the_image_is_counted_apart(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "2", [([(0, 0, 0)], squares(40, 40))], size=(1, 1, 1, 20, 20))
    grid = density(catalog, RoiQuery(), 2)
    assert int(grid.counts.sum()) + grid.outside == catalog.meta["counts"]["features"] == 36
    assert grid.counts.tolist() == [[4, 4], [4, 4]]


@many
@given(data=st.data(), number=drawn, most=st.integers(1, 30))
def test_the_largest(catalogs: list[Catalog], data: st.DataObject, number: int, most: int) -> None:
    catalog = catalogs[number]
    query = data.draw(queries(catalog))
    found = [feature for feature in plain(catalog) if matches(feature, query)]
    ranked = sorted(found, key=lambda feature: (-feature.area, feature.row))[:most]
    for _ in range(2):  # as found, and as remembered
        page = largest_features(catalog, query, most)
        assert page.rows.tolist() == sorted(feature.row for feature in ranked)
        assert page.matched == len(found)


def test_the_largest_are_found_once(catalogs: list[Catalog], monkeypatch: pytest.MonkeyPatch) -> None:
    catalog, query = max(catalogs, key=lambda each: len(each.features["area"])), RoiQuery(min_area=0.5)
    first = largest_features(catalog, query, 9)
    monkeypatch.setattr(pages, "_largest_of", None)
    assert largest_features(catalog, query, 9).rows.tolist() == first.rows.tolist()
    within = largest_features(catalog, query, 9, int(vertex_counts(catalog, first.rows).min()))
    assert set(within.rows.tolist()) < set(first.rows.tolist())


@many
@given(data=st.data(), number=drawn)
def test_summary_counts(catalogs: list[Catalog], data: st.DataObject, number: int) -> None:
    catalog = catalogs[number]
    query = data.draw(queries(catalog))
    found = [feature for feature in plain(catalog) if matches(feature, query)]
    told = summary(catalog, query)
    assert (told["features"], told["rois"]) == (len(found), len({feature.roi for feature in found}))
    area = told["measures"]["area"]
    assert area["count"] == len(found)
    if found:
        assert (area["min"], area["max"]) == (min(f.area for f in found), max(f.area for f in found))
    rows = np.concatenate(
        [np.arange(catalog.meta["counts"]["features"])[part] for part in selected(catalog, query).batches()]
        or [[]]
    )
    assert rows.tolist() == [feature.row for feature in found]


some_floats = st.lists(st.floats(width=64) | st.integers(-5, 5).map(float), max_size=40)


@given(some_floats, st.integers(1, 9), st.sampled_from([1, 4, 2**18]))
def test_numbers(values: list[float], size: int, at_once: int) -> None:
    pieces = [np.array(values[start : start + size], float) for start in range(0, len(values), size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers, "SORTED", at_once)  # beyond it they are counted digit by digit
        told = numbers.numbers(lambda: pieces, len(values))
    finite = sorted(value for value in values if math.isfinite(value))
    assert told["count"] == len(finite)
    if finite:
        assert (told["min"], told["max"]) == (finite[0], finite[-1])
        edges, counts = told["histogram"]["edges"], told["histogram"]["counts"]
        assert (edges[0], edges[-1]) == (told["min"], told["max"])
        if len(counts) == BINS:
            inside = np.searchsorted(edges, finite, side="right") - 1
            assert counts == np.bincount(np.minimum(inside, BINS - 1), minlength=BINS).tolist()
        assert sum(counts) == len(finite)
        assert told["mean"] == pytest.approx(
            float(sum(map(Fraction, finite)) / len(finite)), abs=1e-9 * max(map(abs, finite))
        )
        assert told["quantiles"] == {
            str(share): finite[max(math.ceil(share * len(finite)) - 1, 0)] for share in numbers.QUANTILES
        }


def test_numbers_too_close_to_one_another_have_one_bin() -> None:
    values = np.array([1.0, 1 + 2**-52, 1 + 2**-51])
    assert numbers.numbers(lambda: [values], len(values))["histogram"] == {
        "edges": [1.0, 1 + 2**-51],
        "counts": [3],
    }


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.7), (-1.1, 3.3), (1e6 + 0.1, 1e6 + 0.9), (5e-324, 1e-300)])
def test_numbers_beside_an_edge_are_in_their_bin(low: float, high: float) -> None:
    edges = np.linspace(low, high, BINS + 1)
    values = np.concatenate([edges, np.nextafter(edges[1:], low), np.nextafter(edges[:-1], high)])
    told = numbers.numbers(lambda: [values], len(values))["histogram"]
    assert told["edges"] == edges.tolist()
    inside = np.minimum(np.searchsorted(edges, values, side="right") - 1, BINS - 1)
    assert told["counts"] == np.bincount(inside).tolist()


@many
@given(
    st.lists(st.integers(-3000, 3000), min_size=1, max_size=20),
    st.sampled_from([(1.0, 2**-53), (0.0, 5e-324), (2.0**52, 1.0)]),
)
def test_bins_of_numbers_that_are_close(steps: list[int], scale: tuple[float, float]) -> None:
    values = np.sort(scale[0] + np.array(steps) * scale[1])
    told = numbers.numbers(lambda: [values], len(values))["histogram"]
    if len(told["counts"]) == BINS:
        inside = np.searchsorted(told["edges"], values, side="right") - 1
        assert told["counts"] == np.bincount(np.minimum(inside, BINS - 1), minlength=BINS).tolist()
    assert (told["edges"][0], told["edges"][-1]) == (values[0], values[-1])
    assert sum(told["counts"]) == len(values)


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3), min_size=1, max_size=20),
    st.sampled_from([1, 4, 2**18]),
)
def test_whole_numbers(values: list[int], at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers, "SORTED", at_once)
        told = numbers.numbers(lambda: [np.array(values)], len(values))
    assert (told["min"], told["max"], told["count"]) == (min(values), max(values), len(values))
    ranks = [max(math.ceil(share * len(values)) - 1, 0) for share in numbers.QUANTILES]
    assert list(told["quantiles"].values()) == [sorted(values)[rank] for rank in ranks]


@given(st.lists(st.text(max_size=3), max_size=60))
def test_texts(values: list[str]) -> None:
    told = texts(pa.array(values, pa.string()))
    assert (told["count"], told["distinct"]) == (len(values), len(set(values)))
    ranked = sorted(
        {value: values.count(value) for value in values}.items(), key=lambda pair: (-pair[1], pair[0])
    )
    assert [(each["value"], each["count"]) for each in told["common"]] == ranked[:COMMON]


def test_long_texts_are_cut() -> None:
    (only,) = texts(pa.array(["x" * 1000]))["common"]
    assert only == {"value": "x" * LONGEST, "count": 1}


def test_properties_of_every_type(tmp_path: Path) -> None:
    properties = {
        1: {"n": 2**53 + 1, "b": True, "s": "x", "any": [1]},
        2: {"n": 3, "b": False, "s": "x", "any": "y"},
        3: {"n": 4, "b": True, "f": 0.5},
    }
    catalog = write_catalog(tmp_path / "2", [([(0, 0, 0)], squares(20, 20))], properties=properties)
    told = summary(catalog, RoiQuery())["properties"]
    assert {name: each["type"] for name, each in told.items()} == {
        "n": "integer", "b": "boolean", "s": "string", "any": "any", "f": "number",
    }  # fmt: skip
    assert told["n"]["max"] == 2**53 + 1
    assert told["b"]["common"] == [{"value": True, "count": 2}, {"value": False, "count": 1}]
    assert (told["any"]["count"], told["any"]["missing"]) == (2, 7)
    assert summary(catalog, RoiQuery(labels=(2,)))["properties"]["n"]["max"] == 3
    assert summary(catalog, RoiQuery(labels=()))["properties"]["n"] == {
        "type": "integer",
        "missing": 0,
        "count": 0,
    }


@given(st.integers(0, 2**53), st.integers(0, 2**60), st.binary(min_size=7, max_size=7))
def test_cursors_are_read_back(offset: int, version: int, selection: bytes) -> None:
    walk = Walk(version, selection)
    cursor = walk.cursor(offset)
    assert walk.offset(cursor) == offset
    assert walk.offset(START) == 0
    assert cursor.replace("-", "").replace("_", "").isalnum()
    with pytest.raises(CursorExpired):
        Walk(version + 1, selection).offset(cursor)
    with pytest.raises(BadParameter):
        Walk(version, bytes([selection[0] ^ 1]) + selection[1:]).offset(cursor)


@given(st.text() | st.text("ABCDabcd0123-_=", min_size=31, max_size=33))
def test_what_is_no_cursor(text: str) -> None:
    with pytest.raises((BadParameter, CursorExpired)):
        Walk(3, b"1234567").offset(text)


def test_walks_differ_by_query_and_kind(catalogs: list[Catalog]) -> None:
    walks = {
        walk_of(catalogs[0], query, by_roi=by_roi)
        for query in (RoiQuery(), RoiQuery(z=(0, 0)), RoiQuery(min_area=2.0))
        for by_roi in (False, True)
    }
    assert len(walks) == 6
