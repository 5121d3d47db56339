"""QuPath gives up a whole file for one feature it cannot read: each rule of its parser, on our output."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import replace
from functools import reduce
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from roiservice.encode import qupath
from roiservice.geometry.features import Features
from roiservice.geometry.frames import Frame
from roiservice.vectorize.outlines import Outline, redraw
from tests.encode.support import ODD_PROPERTIES, features_of, strict, whole
from tests.encode.test_geojson import cells
from tests.strategies import patterns, rings_in_rings

# A property for every name that the parser takes a meaning from, on objects of every shape.
ODD = {1: ODD_PROPERTIES, 2: {"type": "cell", "children": [1]}, 3: {"color": "#ff0000", "score": 1}}


def documents() -> list[Features]:
    return [
        features_of(cells(), properties=ODD, colors={1: (1, 2, 3, 4)}, layer="labels:a:b"),
        features_of(rings_in_rings(25), place=(-1, -1, -1), frame=Frame(1.306, 1.306, 0.153, 0.153)),
        features_of(cells(), place=(4, 2, 9), labels=[1, 2**53 + 1, 2**64 - 1]),
    ]


@pytest.fixture(scope="module")
def everything() -> list[dict[str, Any]]:
    found = [feature for features in documents() for feature in strict(whole("qupath", features))["features"]]
    assert len(found) == 8
    return found


def test_one_document_is_one_collection() -> None:
    """Line-delimited JSON is an error to QuPath; an unknown root gives no objects."""
    for features in documents():
        document = strict(whole("qupath", features))
        assert document["type"] == "FeatureCollection"
        assert len(document["features"]) == len(features)


def test_geometry_is_never_null_or_absent(everything: list[dict[str, Any]]) -> None:
    for feature in everything:
        assert feature["geometry"]["type"] in ("Polygon", "MultiPolygon")
        assert feature["geometry"]["coordinates"]


def test_properties_are_an_object(everything: list[dict[str, Any]]) -> None:
    for feature in everything:
        assert isinstance(feature["properties"], dict)


def test_members_that_are_null_do_not_occur(everything: list[dict[str, Any]]) -> None:
    for feature in everything:
        assert None not in feature.values()
        assert None not in feature["properties"].values()


def test_ids_are_uuids_and_differ(everything: list[dict[str, Any]]) -> None:
    ids = [feature["id"] for feature in everything]
    assert all(str(uuid.UUID(identifier)) == identifier for identifier in ids)
    assert len(set(ids)) == len(ids)


def test_ids_are_of_the_kind_whose_bits_are_free() -> None:
    ids = [uuid.UUID(each["id"]) for each in strict(whole("qupath", features_of(cells())))["features"]]
    assert {(each.version, each.variant) for each in ids} == {(8, uuid.RFC_4122)}


def split_mix(state: int, value: int) -> int:
    """One step of SplitMix64, from the state with a value mixed in."""
    mask = 2**64 - 1
    state = ((state ^ value & mask) + 0x9E3779B97F4A7C15) & mask
    state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ state >> 27) * 0x94D049BB133111EB) & mask
    return state ^ state >> 31


def test_ids_stay_what_they_are() -> None:
    """Who imports again what another release wrote expects to find the same objects."""
    features = features_of(cells(), place=(4, -1, 9))
    name = hashlib.sha256(b"image.zarr/cells").digest()
    expected = []
    for label in features.label.tolist():
        halves = [int.from_bytes(name[start : start + 8], "little") for start in (0, 8)]
        high, low = (reduce(split_mix, (label, 4, -1, 9), half) for half in halves)
        high, low = high & ~0xF000 | 0x8000, low & ~(3 << 62) | 2 << 62
        expected.append(str(uuid.UUID(int=high << 64 | low)))
    assert [each["id"] for each in strict(whole("qupath", features))["features"]] == expected


def test_ids_differ_by_any_value() -> None:
    """Hashes of a million labels and planes, each once."""
    label, plane = (axis.ravel() for axis in np.indices((10_000, 100)))
    mixed = qupath._hashes(bytes(32), [label, plane, plane * 0, plane * 0 - 1])
    assert len(np.unique(mixed[:, 0])) == len(np.unique(mixed[:, 1])) == len(label)
    bits = np.unpackbits(mixed.view(np.uint8)).reshape(len(label), 128)
    np.testing.assert_allclose(bits.mean(axis=0), 0.5, atol=0.005)


def test_ids_last() -> None:
    first, second = (strict(whole("qupath", features_of(cells())))["features"] for _ in range(2))
    assert [feature["id"] for feature in first] == [feature["id"] for feature in second]


def test_the_first_of_several_on_a_plane_keeps_its_id() -> None:
    once = features_of(cells())
    ids = [feature["id"] for feature in strict(whole("qupath", once))["features"]]
    features = replace(features_of(cells()), label=np.array([1, 1, 3]))
    first, second, third = (feature["id"] for feature in strict(whole("qupath", features))["features"])
    assert (first, third) == (ids[0], ids[2])
    assert second not in ids


def test_ids_differ_by_plane() -> None:
    ids = {
        feature["id"]
        for place in ((0, -1, 0), (0, -1, 1), (1, -1, 0), (0, 0, 0), (-1, -1, -1))
        for feature in strict(whole("qupath", features_of(cells(), place=place)))["features"]
    }
    assert len(ids) == 15


def test_names_are_text(everything: list[dict[str, Any]]) -> None:
    for feature in everything:
        assert isinstance(feature["properties"]["name"], str)
        assert feature["properties"]["name"]


def test_a_classification_has_a_name_and_a_colour(everything: list[dict[str, Any]]) -> None:
    for feature in everything:
        classification = feature["properties"]["classification"]
        assert isinstance(classification["name"], str)
        assert classification["name"]
        assert len(classification["color"]) in (3, 4)
        assert all(type(part) is int and 0 <= part <= 255 for part in classification["color"])


def test_a_class_name_is_not_split_at_colons(everything: list[dict[str, Any]]) -> None:
    assert all(":" not in feature["properties"]["classification"]["name"] for feature in everything)


def test_a_colour_is_three_numbers(everything: list[dict[str, Any]]) -> None:
    """A hex string aborts the import; other lengths are ignored."""
    colours = [feature["properties"]["color"] for feature in everything if "color" in feature["properties"]]
    assert colours == [[1, 2, 3]]


def test_measurements_are_numbers(everything: list[dict[str, Any]]) -> None:
    for feature in everything:
        for name, value in feature["properties"]["measurements"].items():
            assert isinstance(name, str)
            assert type(value) in (int, float)


def test_metadata_is_a_map_of_text(everything: list[dict[str, Any]]) -> None:
    """And is there once: QuPath itself writes the key twice, which strict readers refuse."""
    for feature in everything:
        for value in feature["properties"].get("metadata", {"": ""}).values():
            assert isinstance(value, str)
    assert "class" in everything[0]["properties"]["metadata"]


def test_rings_are_closed_and_have_four_points(everything: list[dict[str, Any]]) -> None:
    for feature in everything:
        geometry = feature["geometry"]
        polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        for ring in (ring for polygon in polygons for ring in polygon):
            assert len(ring) >= 4
            assert ring[0] == ring[-1]
            assert all(len(point) == 2 for point in ring)


def test_a_plane_has_c_z_and_t_alone(everything: list[dict[str, Any]]) -> None:
    for feature in everything:
        plane = feature["geometry"]["plane"]
        assert set(plane) <= {"c", "z", "t"}
        assert all(type(index) is int for index in plane.values())
        assert plane["z"] >= 0
        assert plane["t"] >= 0
        assert plane["c"] >= -1


def test_the_plane_is_the_feature_s() -> None:
    place = strict(whole("qupath", features_of(cells(), place=(4, 2, 9))))["features"][0]["geometry"]["plane"]
    assert place == {"c": 2, "z": 9, "t": 4}
    everywhere = strict(whole("qupath", features_of(cells(), place=(-1, -1, -1))))["features"][0]
    assert everywhere["geometry"]["plane"] == {"c": -1, "z": 0, "t": 0}


def test_no_geometry_collection_and_no_ellipse(everything: list[dict[str, Any]]) -> None:
    for feature in everything:
        assert set(feature["geometry"]) == {"type", "coordinates", "plane"}


def on_qupath_s_grid(geometry: dict[str, Any]) -> Any:
    """As QuPath takes coordinates: valid as they are, and reduced to a grid of 0.01."""
    shape = shapely.geometry.shape(geometry)
    assert shapely.is_valid(shape), shapely.is_valid_reason(shape)
    return shapely.set_precision(shape, 0.01)


def test_polygons_are_valid_and_stay_there_on_qupath_s_grid(everything: list[dict[str, Any]]) -> None:
    """Since 0.6.0 one invalid polygon aborts the import of all."""
    for feature in everything:
        reduced = on_qupath_s_grid(feature["geometry"])
        assert reduced.area == pytest.approx(shapely.geometry.shape(feature["geometry"]).area, rel=0.05)


@settings(max_examples=60, deadline=None)
@given(
    patterns,
    st.sampled_from([Outline(), Outline(simplify=1.0), Outline(smooth=True)]),
    st.sampled_from([1.0, 1.306]),
)
def test_polygons_of_any_plane_are_valid(pattern: NDArray[Any], outline: Outline, scale: float) -> None:
    features = features_of(pattern)
    drawn = redraw(features.polygons, outline).in_image(Frame(scale, scale, 0.153, 0.153))
    for feature in strict(whole("qupath", replace(features, polygons=drawn)))["features"]:
        assert not on_qupath_s_grid(feature["geometry"]).is_empty


def test_the_type_of_object_is_given(everything: list[dict[str, Any]]) -> None:
    """Without `objectType`, a property named `type` would be taken for it."""
    for feature in everything:
        assert feature["properties"]["objectType"] == "detection"
        assert "type" not in feature["properties"]


def test_no_children_that_would_be_parsed_as_features(everything: list[dict[str, Any]]) -> None:
    for feature in everything:
        for members in (feature, feature["properties"]):
            assert not {"children", "childObjects", "nucleusGeometry"} & set(members)


def test_own_properties_are_kept_where_they_do_no_harm(everything: list[dict[str, Any]]) -> None:
    own = everything[0]["properties"]
    assert set(own) <= {"objectType", "name", "classification", "color", "measurements", "metadata"}
    assert (own["measurements"]["score"], own["measurements"]["count"]) == (0.1, 12)
    assert own["metadata"]["type"] == "Annotation"
    assert "yes" in own["metadata"]
    assert "missing" not in {**own["measurements"], **own["metadata"]}


def test_an_own_property_does_not_replace_a_measure() -> None:
    features = features_of(
        np.ones((3, 3), int), properties={1: {"Area px^2": 1, "area": 2, "Perimeter px": 3}}
    )
    measurements = strict(whole("qupath", features))["features"][0]["properties"]["measurements"]
    assert measurements["Area px^2"] == 9
    assert measurements["Perimeter px"] == 12
    assert measurements["property:area"] == 2


def test_coordinates_are_image_pixels_from_the_corner() -> None:
    (feature,) = strict(whole("qupath", features_of(np.ones((2, 3), int), frame=Frame(2.0, 2.0))))["features"]
    assert shapely.geometry.shape(feature["geometry"]).bounds == (0, 0, 6, 4)


def test_geopandas_reads_it(tmp_path: Path) -> None:
    for number, features in enumerate(documents()):
        path = tmp_path / f"{number}.geojson"
        path.write_bytes(whole("qupath", features))
        table = geopandas.read_file(path)
        assert len(table) == len(features)
        assert table.geometry.is_valid.all()


if find_spec("qubalab") is not None:

    def test_qubalab_reads_it() -> None:
        from qubalab.objects import ImageFeature
        from qubalab.objects.geojson import geojson_features_from_string

        for features in documents():
            read = geojson_features_from_string(whole("qupath", features).decode())
            found = [ImageFeature.create_from_feature(feature) for feature in read]
            assert [feature.name for feature in found] == [str(label) for label in features.label.tolist()]
            assert all(feature.is_detection for feature in found)
            assert all(feature.classification.names for feature in found)
            assert [feature.measurements["Area px^2"] for feature in found] == features.area.tolist()
