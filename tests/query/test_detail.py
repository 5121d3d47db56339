"""Features with less geometry than they have, straight from catalogs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from roiservice.catalog.indexes import RoiColumns
from roiservice.catalog.reader import Catalog, open_catalog
from roiservice.catalog.writer import CatalogWriter
from roiservice.errors import BadParameter
from roiservice.geometry.features import Features
from roiservice.geometry.frames import Frame
from roiservice.geometry.kinds import LINE, POINT, POLYGON, POLYLINE, geometries
from roiservice.geometry.polygons import Polygons, from_shapely, to_shapely
from roiservice.geometry.simplify import simplified
from roiservice.query import detail
from roiservice.query.columns import read_features
from roiservice.query.detail import BBOX, CENTROID, NONE, Detail, read_detailed
from roiservice.query.neighbours import neighbours
from roiservice.query.pages import feature_page
from roiservice.query.select import RoiQuery
from tests.catalog.support import write_catalog
from tests.query.support import random_catalog, tessellation

SIDE = 500
CELLS = 900


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Two planes full of touching cells, one of them with background."""
    folder = tmp_path_factory.mktemp("cells")
    planes = [
        ([(0, 0, z)], tessellation(SIDE, CELLS, background, seed=z))
        for z, background in enumerate((0.0, 0.2))
    ]
    return write_catalog(folder / "2", planes, size=(1, 1, 2, SIDE, SIDE))


def whole_plane(catalog: Catalog, z: int, tolerance: float) -> dict[int, shapely.Polygon]:
    rows = feature_page(catalog, RoiQuery(z=(z, z)), 0, 10**6).rows
    return drawn_shapes(read_detailed(catalog, rows, Detail(simplify=tolerance)))


def drawn_shapes(features: Features) -> dict[int, shapely.Polygon]:
    shapes = to_shapely(features.polygons)
    return dict(zip(features.feature_id.tolist(), shapes, strict=True))


@pytest.mark.parametrize("z", [0, 1])
@pytest.mark.parametrize("tolerance", [1.0, 4.0])
def test_pages_put_together_fit(cells: Catalog, z: int, tolerance: float) -> None:
    """Pages by limit and offset, and windows: each simplified alone."""
    together: dict[int, shapely.Polygon] = {}
    for offset in range(0, CELLS, 70):
        rows = feature_page(cells, RoiQuery(z=(z, z)), offset, 70).rows
        together |= drawn_shapes(read_detailed(cells, rows, Detail(simplify=tolerance)))
    windows: dict[int, shapely.Polygon] = {}
    for x in range(0, SIDE, 125):
        for y in range(0, SIDE, 100):
            query = RoiQuery(z=(z, z), bbox=(float(x), float(y), x + 125.0, y + 100.0))
            rows = feature_page(cells, query, 0, 10**6).rows
            for number, shape in drawn_shapes(read_detailed(cells, rows, Detail(simplify=tolerance))).items():
                assert shapely.equals_exact(windows.setdefault(number, shape), shape)
    assert together.keys() == windows.keys()
    assert all(shapely.equals_exact(shape, windows[number]) for number, shape in together.items())
    shapes = np.array(list(together.values()))
    exact = read_features(cells, feature_page(cells, RoiQuery(z=(z, z)), 0, 10**6).rows)
    assert shapely.is_valid(shapes).all()
    assert shapely.coverage_is_valid(shapes)
    assert abs(shapely.area(shapes).sum() - exact.area.sum()) < 0.01 * exact.area.sum()
    if tolerance == 4.0:
        assert 5 * (shapely.get_num_coordinates(shapes).sum() - len(shapes)) <= len(exact.polygons.xy)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 11), tolerance=st.sampled_from([0.5, 1.0, 2.0, 5.0]), data=st.data())
def test_any_page_shows_the_same_outlines(
    tmp_path_factory: pytest.TempPathFactory, seed: int, tolerance: float, data: st.DataObject
) -> None:
    """Rows of several planes, in any order, of noise."""
    catalog = random_catalog(tmp_path_factory.mktemp("noise") / "2", seed)
    count = catalog.meta["counts"]["features"]
    if not count:
        return
    rows = np.array(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=20, unique=True)))
    everything = drawn_shapes(read_detailed(catalog, np.arange(count), Detail(simplify=tolerance)))
    some = read_detailed(catalog, rows, Detail(simplify=tolerance))
    assert some.feature_id.tolist() == read_features(catalog, rows).feature_id.tolist()
    for number, shape in drawn_shapes(some).items():
        assert shapely.equals_exact(shape, everything[number])


def test_on_another_grid_the_tolerance_is_in_image_pixels(tmp_path: Path) -> None:
    frame = Frame(3.0, 3.0, 10.0, 20.0)
    plane = tessellation(100, 30, 0.1)
    catalog = write_catalog(tmp_path / "2", [([(0, 0, 0)], plane)], frame=frame, size=(1, 1, 1, 320, 320))
    alike = write_catalog(tmp_path / "3", [([(0, 0, 0)], plane)], size=(1, 1, 1, 100, 100))
    drawn = whole_plane(catalog, 0, 6.0)
    shapes = np.array(list(drawn.values()))
    assert shapely.coverage_is_valid(shapes)
    expected = np.array(list(whole_plane(alike, 0, 2.0).values()))
    assert shapely.equals_exact(shapes, shapely.transform(expected, lambda xy: xy * 3 + (10, 20))).all()


def test_what_winds_round_everything_has_few_neighbours(tmp_path: Path) -> None:
    plane = np.zeros((400, 400), np.int64)
    for label, (row, column) in enumerate(np.ndindex(30, 30), start=1):
        plane[40 + 10 * row : 46 + 10 * row, 40 + 10 * column : 46 + 10 * column] = label
    plane[:, :4] = plane[:, -4:] = plane[:4] = plane[-4:] = 5000
    plane[200, 4:40] = 6000  # touches the frame
    catalog = write_catalog(tmp_path / "2", [([(0, 0, 0)], plane)], size=(1, 1, 1, 400, 400))
    labels = catalog.features["label"]
    (row,) = np.flatnonzero(labels == 5000)
    found = neighbours(
        catalog, np.array([row]), read_features(catalog, np.array([row])).polygons, (0, len(labels)), 4.0
    )
    assert labels[found].tolist() == [6000]


def test_what_lies_beside_a_slanted_edge_is_no_neighbour(tmp_path: Path) -> None:
    plane = np.zeros((400, 400), np.int64)
    for label, (row, column) in enumerate(np.ndindex(40, 40), start=1):
        plane[10 * row : 10 * row + 6, 10 * column : 10 * column + 6] = label
    catalog = write_catalog(tmp_path / "2", [([(0, 0, 0)], plane)], size=(1, 1, 1, 400, 400))
    boxes = shapely.box(*catalog.features["box"].T)
    for corners in (
        [(0, 0), (400, 390), (390, 400)],
        [(400, 0), (10, 400), (0, 390)],
        [(0, 7), (400, 8), (400, 9)],
    ):
        drawn = from_shapely(np.array([shapely.Polygon([*corners, corners[0]])]))
        found = neighbours(catalog, np.empty(0, np.int64), drawn, (0, len(boxes)), 1.0)
        apart = shapely.distance(boxes, shapely.LinearRing(corners))
        assert set(np.flatnonzero(apart <= 1.0)) <= set(found)
        assert (apart[found] <= 1.0 + 16 * 2**0.5).all()  # the diagonal of a tile


def test_neighbours_are_found_some_blocks_at_a_time(cells: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(200, 230)
    asked = cells, rows, read_features(cells, rows).polygons, (0, len(cells.features["label"])), 3.0
    at_once = neighbours(*asked)
    monkeypatch.setattr("roiservice.query.neighbours._BLOCKS", 1)
    assert neighbours(*asked).tolist() == at_once.tolist() != []


def test_neighbours_are_within_reach_on_every_side(tmp_path: Path) -> None:
    plane = np.zeros((49, 49), np.int64)
    plane[17:32, 17:32] = 1  # of fifteen pixels, so that the next tile begins behind it
    plane[14, 20], plane[34, 20], plane[20, 14], plane[20, 34] = 2, 3, 4, 5
    catalog = write_catalog(tmp_path / "2", [([(0, 0, 0)], plane)], size=(1, 1, 1, 49, 49))
    labels = catalog.features["label"]
    row = np.flatnonzero(labels == 1)
    near = neighbours(catalog, row, read_features(catalog, row).polygons, (0, 5), 2.0)
    assert sorted(labels[near].tolist()) == [2, 3, 4, 5]


def test_points_do_not_keep_outlines_from_being_simplified(tmp_path: Path) -> None:
    corners = [(0, 0), (20, 0), (20, 9), (21, 10.5), (20, 12), (20, 20), (0, 20)]
    polygons = Polygons(np.array([*corners, (20.5, 10.5)]), np.array([0, 7, 8]), np.arange(3), np.arange(3))
    catalog = catalog_of(tmp_path / "2", polygons, np.array([POLYGON, POINT], np.uint8))
    drawn = read_detailed(catalog, np.array([0]), Detail(simplify=2.0))
    assert shapely.equals(to_shapely(drawn.polygons)[0], shapely.box(0, 0, 20, 20))


@pytest.mark.parametrize("tolerance", [1e-300, 50.0, 1e9, 1e300])
def test_tolerances_of_any_size(cells: Catalog, tolerance: float) -> None:
    together: dict[int, shapely.Polygon] = {}
    for offset in range(0, CELLS, 300):
        rows = feature_page(cells, RoiQuery(z=(1, 1)), offset, 300).rows
        together |= drawn_shapes(read_detailed(cells, rows, Detail(simplify=tolerance)))
    shapes = np.array(list(together.values()))
    assert shapely.is_valid(shapes).all()
    assert shapely.coverage_is_valid(shapes)


def test_no_tolerance_makes_the_whole_plane_neighbours(
    cells: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.array([400, 401])
    monkeypatch.setattr(detail, "SIMPLIFIED_VERTICES", 10_000)  # of 50 000 on the plane
    expected = drawn_shapes(read_detailed(cells, rows, Detail(simplify=1000.0)))
    assert drawn_shapes(read_detailed(cells, rows, Detail(simplify=1e9))) == expected
    monkeypatch.setattr(detail, "SIMPLIFIED_VERTICES", 200)
    with pytest.raises(BadParameter, match="simplify"):
        read_detailed(cells, rows, Detail(simplify=1.0))


def test_large_pages_are_simplified_a_run_at_a_time(cells: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in memory at once does not grow with the page, and nothing is drawn otherwise."""
    rows = np.random.default_rng(0).permutation(len(cells.features["label"]))[: CELLS + CELLS // 2]
    at_once = []

    def counted(polygons: Polygons, *others: Any) -> Polygons:
        at_once.append(len(polygons.xy))
        return simplified(polygons, *others)

    monkeypatch.setattr(detail, "simplified", counted)
    drawn = read_detailed(cells, rows, Detail(simplify=3.0))
    assert max(at_once) < 25_000  # of 50 000 on each plane
    assert sum(at_once) < 200_000
    monkeypatch.setattr(detail, "RUN_VERTICES", 10**9)
    whole = read_detailed(cells, rows, Detail(simplify=3.0))
    assert drawn.feature_id.tolist() == whole.feature_id.tolist()
    assert shapely.equals_exact(to_shapely(drawn.polygons), to_shapely(whole.polygons)).all()


def test_a_neighbour_of_all_is_simplified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells in a tissue that is an object too, with a hole for each of them."""
    plane = np.full((200, 200), 5000, np.int64)
    for label, (row, column) in enumerate(np.ndindex(20, 20), start=1):
        plane[10 * row + 2 : 10 * row + 7, 10 * column + 2 : 10 * column + 8] = label
        plane[10 * row + 3, 10 * column + 2] = 5000
    catalog = write_catalog(tmp_path / "2", [([(0, 0, 0)], plane)], size=(1, 1, 1, 200, 200))
    rows = np.flatnonzero(catalog.features["label"] != 5000)
    whole = read_detailed(catalog, rows, Detail(simplify=2.0))
    monkeypatch.setattr(detail, "RUN_VERTICES", 100)
    monkeypatch.setattr(detail, "SIMPLIFIED_VERTICES", 8000)
    monkeypatch.setattr(detail, "SIMPLIFIED_IN_ALL", 16_000)
    drawn = read_detailed(catalog, rows, Detail(simplify=2.0))
    assert shapely.equals_exact(to_shapely(drawn.polygons), to_shapely(whole.polygons)).all()


def test_a_page_whose_neighbours_would_take_too_long_is_refused(
    cells: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = feature_page(cells, RoiQuery(z=(0, 0)), 0, CELLS).rows
    monkeypatch.setattr(detail, "SIMPLIFIED_IN_ALL", 40_000)
    with pytest.raises(BadParameter, match="simplify"):
        read_detailed(cells, rows, Detail(simplify=1.0))


def test_centroids(cells: Catalog) -> None:
    rows = np.array([5, 3, 800])
    features, exact = read_detailed(cells, rows, Detail(CENTROID)), read_features(cells, rows)
    assert features.kind.tolist() == [POINT] * 3
    expected = [shapely.Point(xy) for xy in exact.centroid]
    assert shapely.equals(geometries(features.polygons, features.kind), expected).all()
    assert features.area.tolist() == exact.area.tolist()
    assert features.feature_id.tolist() == exact.feature_id.tolist()


def test_boxes(cells: Catalog) -> None:
    rows = np.array([5, 3, 800])
    features, exact = read_detailed(cells, rows, Detail(BBOX)), read_features(cells, rows)
    shapes = geometries(features.polygons, features.kind)
    assert features.kind.tolist() == [POLYGON] * 3
    assert shapely.equals(shapes, shapely.box(*exact.boxes.T)).all()
    assert shapely.is_ccw(shapely.get_exterior_ring(shapes)).all()


def test_no_geometry(cells: Catalog) -> None:
    features = read_detailed(cells, np.array([5, 3]), Detail(NONE))
    assert features.polygons.part_offsets.tolist() == [0, 0, 0]
    assert len(features) == 2


def catalog_of(folder: Path, polygons: Polygons, kind: NDArray[np.uint8]) -> Catalog:
    """As of a table: the polygons of one plane."""
    count = len(polygons)
    writer = CatalogWriter(folder, Frame(), np.int64, polygons.xy.dtype.type)
    numbers, pixels = np.arange(1, count + 1), np.zeros(count, np.int64)
    writer.add_plane([(0, 0, 0)], numbers, polygons, pixels, exact=False, kind=kind)
    meta = {"version": 2, "layer_number": 1, "name": "x", "image_name": "x", "image_size": [1] * 5,
            "frame": [1, 1, 0, 0]}  # fmt: skip
    writer.finish(lambda objects, _: RoiColumns(objects, np.full(count, -1), {}), meta)
    return open_catalog(folder)


def test_whole_coordinates_may_be_as_far_apart_as_they_can_be(tmp_path: Path) -> None:
    far = 2**31 - 1
    frame = shapely.box(-far, -far, far, far) - shapely.box(10 - far, 10 - far, far - 10, far - 10)
    exact = from_shapely(np.array([frame, shapely.box(10 - far, 10 - far, 12 - far, 14 - far)]))
    whole = Polygons(exact.xy.astype(np.int32), *list(vars(exact).values())[1:])
    catalog = catalog_of(tmp_path / "2", whole, np.zeros(2, np.uint8))
    assert neighbours(catalog, np.array([0]), whole.take(np.array([0])), (0, 2), 1.0).tolist() == [1]
    drawn = read_detailed(catalog, np.array([0]), Detail(simplify=4.0))
    assert shapely.equals(to_shapely(drawn.polygons)[0], frame)


def test_boxes_without_width_or_height_are_lines(tmp_path: Path) -> None:
    xy, each = np.array([[1.5, 2], [7, 2], [4, 1], [4, 9], [3, 3], [3, 3]]), np.arange(4)
    catalog = catalog_of(tmp_path / "2", Polygons(xy, 2 * each, each, each), np.full(3, LINE, np.uint8))
    boxed = read_detailed(catalog, np.arange(3), Detail(BBOX))
    assert boxed.kind.tolist() == [LINE, LINE, POINT]
    assert sorted(boxed.polygons.xy.tolist()) == sorted(xy[:5].tolist())


def test_points_and_lines(tmp_path: Path) -> None:
    """They have boxes without an area, and are left as they are where polygons are simplified."""
    xy = np.array([[1.5, 2], [0, 5], [9, 5], [1, 1], [3, 1.2], [5, 1], [0, 0], [9, 0], [9, 9]], float)
    ends = np.arange(5)
    polygons = Polygons(xy, np.array([0, 1, 3, 6, 9]), ends, ends)
    kind = np.array([POINT, LINE, POLYLINE, POLYGON], np.uint8)
    catalog = catalog_of(tmp_path / "2", polygons, kind)
    rows = np.array([2, 0, 3, 1])
    exact = read_features(catalog, rows)
    drawn = read_detailed(catalog, rows, Detail(simplify=4.0))
    assert drawn.kind.tolist() == exact.kind.tolist()
    assert drawn.polygons.xy.tolist() == exact.polygons.xy.tolist()
    boxed = read_detailed(catalog, rows, Detail(BBOX))
    shapes = geometries(boxed.polygons, boxed.kind)
    assert [shape.bounds for shape in shapes] == [tuple(box) for box in exact.boxes.tolist()]
    assert {shape.geom_type for shape in shapes} == {"Point", "LineString", "Polygon"}
