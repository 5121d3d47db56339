"""As many features as have so many vertices together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roiservice.catalog.reader import Catalog
from roiservice.errors import BadParameter
from roiservice.geometry.polygons import Polygons
from roiservice.query import budget
from roiservice.query.budget import affordable
from roiservice.query.detail import Detail, read_detailed
from tests.catalog.support import write_catalog
from tests.query.support import tessellation

SIDE = 300


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Cells on two planes, one of them with background."""
    planes = [([(0, 0, z)], tessellation(SIDE, 200, share, seed=z)) for z, share in enumerate((0.0, 0.3))]
    return write_catalog(tmp_path_factory.mktemp("cells") / "2", planes, size=(1, 1, 2, SIDE, SIDE))


def vertices_of(polygons: Polygons) -> list[int]:
    """Vertices of each feature, one by one."""
    features = (polygons.take(np.array([number])) for number in range(len(polygons)))
    return [len(each.xy) for each in features]


def chosen(catalog: Catalog, rows: list[int], vertices: int, detail: Detail) -> list[int]:
    """One feature after the other, as each is drawn among all."""
    drawn = read_detailed(catalog, np.array(rows, np.int64), detail)
    counts = dict(zip(rows, vertices_of(drawn.polygons), strict=True))
    found, left = [], vertices
    for row in sorted(rows, key=lambda row: (-catalog.features["area"][row], row)):
        if counts[row] > vertices:
            continue
        if counts[row] > left:
            break
        found.append(row)
        left -= counts[row]
    return sorted(found)


@settings(max_examples=60, deadline=None)
@given(
    st.data(), st.integers(1, 4000), st.sampled_from([0.0, 0.5, 2.0, 20.0]), st.sampled_from([1, 50, 2**14])
)
def test_the_largest_that_have_so_many_vertices(
    cells: Catalog, data: st.DataObject, vertices: int, tolerance: float, fewest: int
) -> None:
    count = len(cells.features["area"])
    some = data.draw(st.sets(st.integers(0, count - 1), min_size=1) | st.just(set(range(count))))
    rows, detail = sorted(some), Detail(simplify=tolerance)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "_FEWEST", fewest)
        found = affordable(cells, np.array(rows, np.int64), vertices, detail)
    assert found.tolist() == chosen(cells, rows, vertices, detail)


def test_more_are_drawn_for_as_many_vertices_where_they_are_simplified(cells: Catalog) -> None:
    every = np.arange(len(cells.features["area"]))
    exact, simple = (affordable(cells, every, 1000, Detail(simplify=each)) for each in (0.0, 4.0))
    assert len(simple) > 5 * len(exact)


def test_none_of_nothing(cells: Catalog) -> None:
    for tolerance in (0.0, 4.0):
        assert affordable(cells, np.empty(0, np.int64), 9, Detail(simplify=tolerance)).tolist() == []


def test_what_is_too_much_to_be_simplified_is_refused(
    cells: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "SIMPLIFIED_IN_ALL", 500)
    every = np.arange(len(cells.features["area"]))
    with pytest.raises(BadParameter, match="500 are allowed at once"):
        affordable(cells, every, 10**9, Detail(simplify=4.0))
    assert len(affordable(cells, every, 10**9, Detail())) == len(every)


def test_a_layer_without_features(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "2", [([(0, 0, 0)], np.zeros((9, 9), np.uint8))], size=(1, 1, 1, 9, 9))
    assert affordable(catalog, np.empty(0, np.int64), 9, Detail(simplify=1.0)).tolist() == []
