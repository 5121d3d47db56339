"""OMERO JSON: every field that clients need, and rings whose area is exact."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import shapely
import shapely.affinity
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse.csgraph import minimum_spanning_tree

from roiservice.encode import keyhole
from roiservice.encode.keyhole import keyhole_rings
from roiservice.encode.omero import rois
from roiservice.geometry.features import Features
from roiservice.geometry.frames import Frame
from roiservice.geometry.polygons import Polygons, from_shapely, to_shapely
from roiservice.query.columns import read_features
from roiservice.query.pages import roi_page
from roiservice.query.select import RoiQuery
from tests.catalog.support import squares, write_catalog
from tests.encode.support import features_of, strict, whole
from tests.encode.test_geojson import cells
from tests.strategies import diamonds, patterns, rings_in_rings

SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06#"
some = settings(max_examples=100, deadline=None)


def objects(features: Features) -> list[dict[str, Any]]:
    return [strict(text) for text in rois(features)]


def ring_of(points: str) -> NDArray[np.float64]:
    """As the viewer reads points: split at single blanks, then at the comma."""
    pairs = [point.split(",") for point in points.split(" ")]
    assert all(len(pair) == 2 for pair in pairs)
    return np.array(pairs, float)


def signed_area(ring: NDArray[np.float64]) -> float:
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def even_odd(ring: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centres a ring fills by the even-odd rule, edge by edge."""
    rows, columns = np.indices(size) + 0.5
    inside = np.zeros(size, bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        crosses = (y0 > rows) != (y1 > rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (columns < (x1 - x0) * (rows - y0) / (y1 - y0) + x0)
    return inside


def winding(ring: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The same by the non-zero rule."""
    rows, columns = np.indices(size) + 0.5
    turns = np.zeros(size, int)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        crosses = (y0 > rows) != (y1 > rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            left = crosses & (columns < (x1 - x0) * (rows - y0) / (y1 - y0) + x0)
        turns += left * (1 if y1 > y0 else -1)
    return turns != 0


def test_a_roi_has_what_clients_need() -> None:
    features = features_of(cells(), place=(3, -1, 7), colors={2: (255, 128, 0, 200)})
    for roi, identifier in zip(objects(features), features.roi_id.tolist(), strict=True):
        assert roi["@id"] == identifier
        assert roi["@type"] == SCHEMA + "ROI"
        assert roi["shapes"]
        for shape in roi["shapes"]:
            assert shape["@type"] == SCHEMA + "Polygon"
            assert isinstance(shape["@id"], int)
            assert 0 < shape["@id"] < 2**53
            assert (shape["TheT"], shape["TheZ"]) == (3, 7)
            assert "TheC" not in shape
            permissions = shape["omero:details"]["permissions"]
            assert [permissions[name] for name in ("canEdit", "canDelete", "canAnnotate", "canLink")] == [
                False
            ] * 4
            width = shape["StrokeWidth"]
            assert width == {"@type": "TBD#LengthI", "Unit": "PIXEL", "Symbol": "pixel", "Value": 1.0}
            assert isinstance(shape["Text"], str)


def test_an_object_on_every_index_names_none() -> None:
    (roi,) = objects(features_of(np.ones((3, 3), int), place=(-1, -1, -1)))
    assert not {"TheZ", "TheT", "TheC"} & set(roi["shapes"][0])
    (roi,) = objects(features_of(np.ones((3, 3), int), place=(0, 2, 0)))
    assert [roi["shapes"][0][name] for name in ("TheT", "TheC", "TheZ")] == [0, 2, 0]


def test_colours_are_signed_rgba() -> None:
    colors = {1: (255, 255, 255, 255), 2: (0, 0, 255, 0), 3: (128, 1, 2, 40)}
    by_label = {
        roi["shapes"][0]["Text"]: roi["shapes"][0] for roi in objects(features_of(cells(), colors=colors))
    }
    for label, (red, green, blue, alpha) in colors.items():
        shape = by_label[str(label)]
        for name in ("StrokeColor", "FillColor"):
            assert -(2**31) <= shape[name] < 2**31
        stroke, fill = (shape[name].to_bytes(4, "big", signed=True) for name in ("StrokeColor", "FillColor"))
        assert tuple(stroke) == (red, green, blue, 255)
        assert tuple(fill[:3]) == (red, green, blue)
        assert fill[3] <= alpha


def test_objects_without_a_colour_get_one_that_lasts() -> None:
    def strokes(place: tuple[int, int, int]) -> dict[int, int]:
        found = objects(features_of(cells(), place=place))
        return {roi["@id"]: roi["shapes"][0]["StrokeColor"] for roi in found}

    first = strokes((0, -1, 0))
    assert len(set(first.values())) == len(first)
    assert strokes((3, -1, 5)) == first


def test_made_colours_can_be_seen_and_told_apart() -> None:
    plane = np.arange(1, 2001).reshape(40, 50)
    found = objects(features_of(plane))
    colors = np.array(
        [tuple(roi["shapes"][0]["StrokeColor"].to_bytes(4, "big", signed=True)) for roi in found]
    )
    assert (colors[:, 3] == 255).all()
    assert (colors[:, :3].max(axis=1) >= 200).all()
    following = np.abs(np.diff(colors[:, :3], axis=0)).max(axis=1)
    assert following.min() > 40
    assert len(np.unique(colors, axis=0)) > 1950


def test_shape_ids_count_on_from_the_feature_s_id() -> None:
    features = features_of(cells())
    shapes = [shape["@id"] for roi in objects(features) for shape in roi["shapes"]]
    assert shapes == list(range(int(features.feature_id[0]), int(features.feature_id[0]) + 4))


def test_rois_are_named_by_layer_and_label() -> None:
    named = {
        roi["shapes"][0]["Text"]: roi.get("Name") for roi in objects(features_of(cells(), layer='my "cells"'))
    }
    assert named["2"] == 'my "cells" 2'
    assert named["1"] == 'my "cells" 1'


def test_a_roi_on_several_planes_is_one_object(tmp_path: Any) -> None:
    catalog = write_catalog(
        tmp_path / "2", [([(t, -1, z)], squares(20, 20)) for t in range(2) for z in range(3)]
    )
    found = objects(read_features(catalog, roi_page(catalog, RoiQuery(), 0, 100).rows))
    assert len(found) == 9
    for roi in found:
        assert [(shape["TheT"], shape["TheZ"]) for shape in roi["shapes"]] == [
            (t, z) for t in range(2) for z in range(3)
        ]
    assert len({shape["@id"] for roi in found for shape in roi["shapes"]}) == 54


@pytest.mark.parametrize("label", [2**64 - 1, -(2**63), 2**53 + 1])
def test_labels_are_text(label: int) -> None:
    (roi,) = objects(features_of(np.ones((2, 2), int), labels=[label]))
    assert roi["shapes"][0]["Text"] == str(label)


@some
@given(patterns, st.sampled_from([Frame(), Frame(0.5, 2.0, 8.0, -4.0)]))
@example(rings_in_rings(20), Frame())
@example(diamonds(12, 12), Frame())
def test_every_part_is_one_ring_of_exact_area_turned_the_same_way(
    pattern: NDArray[Any], frame: Frame
) -> None:
    features = features_of(pattern, frame=frame)
    parts = [shapely.get_parts(shape) for shape in to_shapely(features.polygons)]
    for roi, polygons in zip(objects(features), parts, strict=True):
        assert len(roi["shapes"]) == len(polygons)
        for shape, polygon in zip(roi["shapes"], polygons, strict=True):
            ring = ring_of(shape["Points"])
            assert signed_area(ring) == polygon.area
            assert {tuple(p) for p in ring.tolist()} >= {
                tuple(p) for p in shapely.get_coordinates(polygon).tolist()
            }
            assert_simple_but_for_shortest_bridges(ring, polygon)


def assert_simple_but_for_shortest_bridges(ring: NDArray[np.float64], polygon: shapely.Polygon) -> None:
    """Edges of the ring are those of the polygon, once, and bridges, there and back, that cross nothing."""
    pieces = [
        tuple(map(tuple, edge)) for edge in np.stack([ring, np.roll(ring, -1, axis=0)], axis=1).tolist()
    ]
    pieces = [edge for edge in pieces if edge[0] != edge[1]]
    there = Counter(frozenset(edge) for edge in pieces)
    assert set(there.values()) <= {1, 2}
    bridges = shapely.linestrings(
        [sorted(edge) for edge, times in there.items() if times == 2] or np.empty((0, 2, 2))
    )
    border = shapely.linestrings([sorted(edge) for edge, times in there.items() if times == 1])
    assert shapely.equals(shapely.union_all(border), polygon.boundary)
    assert shapely.covers(polygon, bridges).all()
    assert not shapely.crosses(bridges[:, None], bridges).any()
    assert shapely.length(bridges).sum() == pytest.approx(shortest(polygon))


def shortest(polygon: shapely.Polygon) -> float:
    """Length of the shortest bridges that join all rings."""
    rings = np.array([polygon.exterior, *polygon.interiors])
    distances = shapely.distance(rings[:, None], rings)
    # 1 more for each, as the sparse tree takes 0 for no edge at all.
    return float(minimum_spanning_tree(distances + 1).sum()) - (len(rings) - 1)


@some
@given(patterns)
@example(rings_in_rings(20))
@example(diamonds(12, 12))
def test_rings_fill_their_mask_by_either_rule(pattern: NDArray[Any]) -> None:
    features = features_of(pattern)
    for roi, label in zip(objects(features), features.label.tolist(), strict=True):
        drawn = np.zeros(pattern.shape, bool)
        for shape in roi["shapes"]:
            ring = ring_of(shape["Points"])
            filled_by_rule = even_odd(ring, pattern.shape)
            assert np.array_equal(filled_by_rule, winding(ring, pattern.shape))
            drawn |= filled_by_rule
        assert np.array_equal(drawn, pattern == label)


@some
@given(patterns)
@example(rings_in_rings(20))
@example(diamonds(12, 12))
def test_clients_that_mend_and_unite_rings_get_the_polygon_back(pattern: NDArray[Any]) -> None:
    """QuPath reads each ring as a polygon, mends it as JTS does, and unites those of one object."""
    features = features_of(pattern)
    for roi, shape in zip(objects(features), to_shapely(features.polygons), strict=True):
        rings = [shapely.Polygon(ring_of(each["Points"])) for each in roi["shapes"]]
        for mended in (shapely.buffer(rings, 0), shapely.make_valid(rings), mended_by_structure(rings)):
            united = shapely.union_all(mended)
            assert united.is_valid
            assert shapely.symmetric_difference(united, shape).area == 0


def mended_by_structure(rings: list[shapely.Polygon]) -> NDArray[Any]:
    return np.asarray(shapely.make_valid(rings, method="structure", keep_collapsed=False))


def test_a_ring_of_many_holes_without_search_is_as_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = np.ones((60, 60), int)
    plane[1:-1:2, 1:-1:2] = 0
    features = features_of(plane)
    monkeypatch.setattr(keyhole, "SEARCH", 0)
    xy, offsets = keyhole_rings(features.polygons)
    assert len(offsets) == 2
    assert signed_area(xy.astype(float)) == (plane == 1).sum()
    assert len(xy) == len(features.polygons.xy) + 2 * 29 * 29


def test_a_bridge_goes_straight_to_the_nearest_edge() -> None:
    plane = np.ones((40, 40), int)
    plane[2:4, 10:30] = plane[35:38, 20:25] = 0
    (roi,) = objects(features_of(plane))
    assert roi["shapes"][0]["Points"] == (
        "0,0 10,0 10,2 10,4 30,4 30,2 10,2 10,0 40,0 40,40 20,40 20,38 25,38 25,35 20,35 20,38 20,40 0,40"
    )


def test_whole_coordinates_may_be_as_far_apart_as_they_can_be() -> None:
    far = 2**31 - 1
    exact = from_shapely(np.array([shapely.box(-far, -far, far, far) - shapely.box(-5, -5, 5, 5)]))
    whole = Polygons(exact.xy.astype(np.int32), *list(vars(exact).values())[1:])
    ring, _ = keyhole_rings(whole)
    assert ring.dtype == np.int32
    steps = np.abs(np.diff(np.vstack([ring, ring[:1]]).astype(np.int64), axis=0))
    assert (steps.min(axis=1) == 0).all(), "a bridge is slanted"


def test_bridges_of_many_round_holes_are_the_shortest() -> None:
    rows, columns = np.indices((400, 400))
    plane = (np.hypot(rows % 20 - 9.5, columns % 20 - 9.5) > 7).astype(int)
    features = features_of(plane)
    ring, _ = keyhole_rings(features.polygons)
    (polygon,) = to_shapely(features.polygons)
    assert len(polygon.interiors) == 400
    assert_simple_but_for_shortest_bridges(ring.astype(float), polygon)


@some
@given(patterns, st.floats(0.5, 3))
@example(rings_in_rings(20), 1.0)
def test_sloping_edges_are_bridged_as_well(pattern: NDArray[Any], tolerance: float) -> None:
    turned = shapely.affinity.rotate(
        shapely.GeometryCollection(to_shapely(features_of(pattern).polygons)), 20
    )
    for polygon in shapely.get_parts(shapely.simplify(shapely.get_parts(turned), tolerance)):
        if polygon.is_valid and polygon.interiors:
            ring, _ = keyhole_rings(from_shapely(np.array([polygon])))
            assert signed_area(ring) == pytest.approx(polygon.area)
            bridged = shapely.Polygon(ring).length - polygon.length
            assert bridged == pytest.approx(2 * shortest(polygon), abs=1e-6)


@pytest.mark.parametrize(
    ("side", "kind"), [(1.0, "Mask"), (2.0**12, "Mask"), (2.0**12.001, "Polygon"), (2.0**31, "Polygon")]
)
def test_masks_are_given_where_their_picture_is_not_too_large(side: float, kind: str) -> None:
    features = features_of(np.array([[1, 0], [0, 0]]).repeat(2, 0).repeat(2, 1), frame=Frame(side, side))
    ((shape,),) = (strict(text)["shapes"] for text in rois(features, masks=True))
    assert shape["@type"] == f"{SCHEMA}{kind}"
    if kind == "Mask":
        assert [shape[name] for name in ("X", "Y", "Width", "Height")] == [0, 0, 2 * side, 2 * side]


def test_rings_without_holes_are_left_alone() -> None:
    features = features_of(squares(20, 20))
    xy, offsets = keyhole_rings(features.polygons)
    assert xy is features.polygons.xy
    assert offsets is features.polygons.vertex_offsets
    empty, none = keyhole_rings(Polygons.empty())
    assert (len(empty), none.tolist()) == (0, [0])


def test_points_hold_plain_numbers_only() -> None:
    for frame in (Frame(), Frame(1.306, 1.306, 0.153, -2000.5), Frame(1e-7, 1e7)):
        text = whole("omero", features_of(cells(), frame=frame)).decode()
        assert "NaN" not in text
        assert "Infinity" not in text
        for roi in strict(text.encode())["data"]:
            for shape in roi["shapes"]:
                assert np.isfinite(ring_of(shape["Points"])).all()
