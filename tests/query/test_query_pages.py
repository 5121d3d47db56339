"""Queries against a plain Python answer, on random catalogs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roiservice.catalog.reader import Catalog
from roiservice.catalog.registry import ROIS
from roiservice.errors import Gone, NotFound
from roiservice.query import remembered, select
from roiservice.query.pages import (
    feature_page,
    feature_row,
    plane_shape_counts,
    roi_count,
    roi_index,
    roi_page,
    shape_row,
)
from roiservice.query.select import PropertyFilter, RoiQuery, selected
from tests.catalog.support import roi_column, squares, write_catalog
from tests.query.support import EVERY, matches, on_planes, plain, queries, random_catalog

CATALOGS = 12
many = settings(max_examples=300, deadline=None)


@pytest.fixture(scope="session")
def catalogs(tmp_path_factory: pytest.TempPathFactory) -> list[Catalog]:
    folder = tmp_path_factory.mktemp("catalogs")
    found = [random_catalog(folder / str(seed), seed) for seed in range(CATALOGS)]
    assert sum(catalog.meta["counts"]["features"] > 0 for catalog in found) > CATALOGS / 2
    return found


drawn = st.integers(0, CATALOGS - 1)


@many
@given(data=st.data(), number=drawn, offset=st.integers(0, 60), limit=st.integers(0, 60))
def test_a_page_of_features(
    catalogs: list[Catalog], data: st.DataObject, number: int, offset: int, limit: int
) -> None:
    catalog = catalogs[number]
    query = data.draw(queries(catalog))
    expected = [feature.row for feature in plain(catalog) if matches(feature, query)]
    assert selected(catalog, query).page(0, 10**9).tolist() == expected
    page = feature_page(catalog, query, offset, limit)
    assert page.rows.tolist() == expected[offset : offset + limit]
    assert page.matched == len(expected)


@many
@given(
    data=st.data(),
    number=drawn,
    offset=st.integers(0, 30),
    limit=st.integers(0, 30),
    max_shapes=st.sampled_from([0, 10, 5000]),
)
def test_a_page_of_rois(
    catalogs: list[Catalog], data: st.DataObject, number: int, offset: int, limit: int, max_shapes: int
) -> None:
    catalog = catalogs[number]
    query = data.draw(queries(catalog))
    features = plain(catalog)
    rois = sorted({feature.roi for feature in features if matches(feature, query)})
    chosen = rois[offset : offset + limit]
    expected = [f for roi in chosen for f in features if f.roi == roi]
    if sum(feature.shapes for feature in expected) > max_shapes:
        expected = [feature for feature in expected if on_planes(feature, query)]
    page = roi_page(catalog, query, offset, limit, max_shapes)
    assert page.matched == len(rois) == roi_count(catalog, query)
    assert page.rows.tolist() == [feature.row for feature in expected]


@many
@given(data=st.data(), number=drawn)
def test_a_roi_s_index_is_its_place_in_the_pages(
    catalogs: list[Catalog], data: st.DataObject, number: int
) -> None:
    catalog = catalogs[number]
    query = data.draw(queries(catalog))
    rows = roi_page(catalog, query, 0, 10**9).rows
    listed = list(dict.fromkeys((roi_column(catalog)[rows] + catalog.first_roi_id).tolist()))
    for number_ in catalog.rois["roi"].tolist():
        roi = number_ + catalog.first_roi_id
        assert roi_index(catalog, query, roi) == (listed.index(roi) if roi in listed else None)
    for unknown in (0, 1, catalog.first_roi_id - 1, catalog.first_roi_id + ROIS, 2**53):
        assert roi_index(catalog, query, unknown) is None


def test_what_is_on_other_planes_only_has_no_place_among_those_of_one(tmp_path: Path) -> None:
    planes = [([(0, 0, z)], np.array([row])) for z, row in enumerate([[1, 3, 5], [2, 3, 4]])]
    catalog = write_catalog(tmp_path / "2", planes, size=(1, 1, 2, 1, 3))
    rois = (catalog.rois["roi"] + catalog.first_roi_id).tolist()
    places = [[roi_index(catalog, RoiQuery(z=(z, z)), roi) for roi in rois] for z in (0, 1)]
    assert places == [[0, None, 1, None, 2], [None, 0, 1, 2, None]]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), number=drawn, size=st.integers(1, 7))
def test_walking_all_pages_meets_each_once(
    catalogs: list[Catalog], data: st.DataObject, number: int, size: int
) -> None:
    catalog = catalogs[number]
    query = data.draw(queries(catalog))
    rows: list[int] = []
    rois: list[int] = []
    for offset in range(0, feature_page(catalog, query, 0, 0).matched, size):
        rows += feature_page(catalog, query, offset, size).rows.tolist()
    for offset in range(0, roi_count(catalog, query), size):
        page = roi_page(catalog, query, offset, size)
        rois += dict.fromkeys(roi_column(catalog)[page.rows].tolist())
    wanted = [feature for feature in plain(catalog) if matches(feature, query)]
    assert rows == [feature.row for feature in wanted]
    assert len(rois) == len(set(rois))
    assert {roi + catalog.first_roi_id for roi in rois} == {feature.roi for feature in wanted}


@pytest.mark.parametrize("number", range(CATALOGS))
def test_shapes_per_plane(catalogs: list[Catalog], number: int) -> None:
    catalog = catalogs[number]
    size_t, _, size_z, _, _ = catalog.image_size
    for z_planes, t_planes in ((size_z, size_t), (size_z + 2, size_t + 3), (1, 1)):
        expected = np.zeros((z_planes, t_planes), int)
        for feature in plain(catalog):
            for z in range(z_planes):
                for t in range(t_planes):
                    expected[z, t] += feature.shapes * (feature.z in (EVERY, z)) * (feature.t in (EVERY, t))
        assert plane_shape_counts(catalog, z_planes, t_planes).tolist() == expected.tolist()


@pytest.mark.parametrize("number", range(CATALOGS))
def test_every_shape_and_feature_is_found_by_its_id(catalogs: list[Catalog], number: int) -> None:
    catalog = catalogs[number]
    last = catalog.first_shape_id
    for feature in plain(catalog):
        assert feature_row(catalog, feature.first_shape) == feature.row
        for shape in range(feature.first_shape, feature.first_shape + feature.shapes):
            assert shape_row(catalog, shape) == feature.row
            last = shape + 1
            if shape > feature.first_shape:
                with pytest.raises(NotFound):
                    feature_row(catalog, shape)
    for find in (shape_row, feature_row):
        with pytest.raises(NotFound):
            find(catalog, last)
        with pytest.raises(NotFound):
            find(catalog, catalog.first_shape_id + ROIS - 1)
        for other in (catalog.first_shape_id - 1, catalog.first_shape_id + ROIS, 1, 0, -5):
            with pytest.raises(Gone):
                find(catalog, other)


def test_borders_of_a_box_count(tmp_path: Path) -> None:
    plane = np.zeros((20, 20), np.uint8)
    plane[5:10, 5:10] = 1
    catalog = write_catalog(tmp_path / "2", [([(0, 0, 0)], plane)])
    for bbox, hits in (
        ((0.0, 0.0, 5.0, 5.0), 1),
        ((10.0, 10.0, 12.0, 12.0), 1),
        ((7.0, 7.0, 7.0, 7.0), 1),
        ((0.0, 0.0, 4.9, 20.0), 0),
        ((10.1, 0.0, 20.0, 20.0), 0),
        ((float("-inf"), float("-inf"), float("inf"), float("inf")), 1),
    ):
        assert feature_page(catalog, RoiQuery(bbox=bbox), 0, 9).matched == hits


def test_boxes_over_many_blocks(tmp_path: Path) -> None:
    planes = [([(0, 0, z)], squares(200, 200, side=2)) for z in range(2)]
    catalog = write_catalog(tmp_path / "2", planes)
    features = plain(catalog)
    assert len(catalog.blocks) > 4
    chance = np.random.default_rng(0)
    for _ in range(40):
        x, y = chance.uniform(-10, 210, 2)
        width, height = chance.uniform(0, 60, 2)
        for z in (None, (0, 0), (1, 1), (1, 5), (2, 2)):
            query = RoiQuery(z=z, bbox=(x, y, x + width, y + height))
            rows = selected(catalog, query).page(0, 10**9).tolist()
            assert rows == [f.row for f in features if matches(f, query)]


def test_a_page_with_too_many_shapes_carries_those_of_its_planes_alone(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "2", [([(0, 0, z)], squares(20, 20)) for z in range(10)])
    query = RoiQuery(z=(3, 4))
    everything, cut = roi_page(catalog, query, 0, 9, 90), roi_page(catalog, query, 0, 9, 89)
    assert (len(everything.rows), len(cut.rows)) == (90, 18)
    assert set(catalog.features["z"][cut.rows].tolist()) == {3, 4}
    assert everything.matched == cut.matched == 9


def test_what_is_remembered_of_queries_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "REMEMBERED_BYTES", 5000)
    catalogs = [
        write_catalog(tmp_path / str(number), [([(0, 0, z)], squares(40, 40)) for z in range(6)])
        for number in range(2)
    ]
    for z in range(5):
        for area in range(30):
            for catalog in catalogs:
                query = RoiQuery(z=(z, z + 1), min_area=float(area))
                assert roi_count(catalog, query) == (36 if area <= 16 else 0)
    kept = [found for catalog in catalogs for found in catalog.remembered.values()]
    assert 0 < len(kept) < 10  # of both together; those that match nothing take their place as well
    assert sum(found.nbytes for found in kept) <= 5000
    latest = RoiQuery(z=(4, 5), min_area=29.0)
    selected(catalogs[1], latest)
    found = selected(catalogs[1], latest)
    for area in range(40):  # what is used again and again stays
        selected(catalogs[0], RoiQuery(min_area=float(area) + 0.5))
        assert selected(catalogs[1], latest) is found
    name = next(name for name, known in catalogs[1].remembered.items() if known is found)
    remembered._keep(catalogs[1].remembered, name, found)  # as where two threads find it at once
    assert remembered._bytes == sum(size for _, size in remembered._kept.values())


@pytest.mark.parametrize("few", [0, 10**9])  # as if features were always many, as if never
def test_conditions_on_properties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    own = {
        label: {"score": label / 4, "even": label % 2 == 0, "name": f"n{label % 3}", "n": label}
        for label in range(1, 40, 3)
    }
    planes = [([(0, 0, z)], squares(60, 60)) for z in range(3)]
    catalog = write_catalog(tmp_path / "2", planes, properties=own)
    monkeypatch.setattr(select, "_FEW", few)
    labels = catalog.features["label"].tolist()
    for conditions, holds in (
        ((PropertyFilter("score", 2.0, 5.5),), lambda has: 2 <= has["score"] <= 5.5),
        ((PropertyFilter("score", None, 5.5),), lambda has: has["score"] <= 5.5),
        ((PropertyFilter("n", 7.5, None),), lambda has: has["n"] >= 7.5),
        ((PropertyFilter("even", True, True),), lambda has: has["even"]),
        ((PropertyFilter("name", "n1", "n1"),), lambda has: has["name"] == "n1"),
        ((PropertyFilter("area", 17.0, None), PropertyFilter("n", None, 20.0)), lambda _: False),
        ((PropertyFilter("perimeter", 0.0, 99.0), PropertyFilter("n", 4.0, 4.0)), lambda has: has["n"] == 4),
    ):
        for bbox in (None, (0.0, 0.0, 25.0, 25.0)):
            query = RoiQuery(bbox=bbox, properties=conditions, z=(1, 2))
            plane = [
                feature.row for feature in plain(catalog) if matches(feature, replace(query, properties=()))
            ]
            expected = [row for row in plane if labels[row] in own and holds(own[labels[row]])]
            assert selected(catalog, query).page(0, 10**9).tolist() == expected


def test_labels_that_the_layer_s_dtype_cannot_hold_match_nothing(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "2", [([(0, 0, 0)], squares(20, 20))])
    assert feature_page(catalog, RoiQuery(labels=(2**63, -(2**63) - 1, 10**30)), 0, 5).matched == 0
    assert feature_page(catalog, RoiQuery(labels=(2**63, 1, 1)), 0, 5).matched == 1
    assert feature_page(catalog, RoiQuery(labels=()), 0, 5).matched == 0
    assert feature_page(catalog, RoiQuery(rois=()), 0, 5).matched == 0


def test_a_catalog_without_features_answers_everything_with_nothing(tmp_path: Path) -> None:
    for planes in ([], [([(0, 0, 0)], np.zeros((5, 5), np.uint8))]):
        catalog = write_catalog(tmp_path / str(len(planes)), planes)
        for query in (
            RoiQuery(),
            RoiQuery(z=(0, 0)),
            RoiQuery(bbox=(0, 0, 9, 9)),
            RoiQuery(labels=(1,)),
            RoiQuery(z=(7, 9)),
        ):
            assert feature_page(catalog, query, 0, 5).matched == 0
            page = roi_page(catalog, query, 0, 5)
            assert (page.rows.tolist(), page.matched) == ([], 0)
            assert roi_index(catalog, query, catalog.first_roi_id + 1) is None
        assert plane_shape_counts(catalog, 2, 3).tolist() == [[0] * 3] * 2
        with pytest.raises(NotFound):
            shape_row(catalog, catalog.first_shape_id)
