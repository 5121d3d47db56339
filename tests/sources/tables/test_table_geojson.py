"""GeoJSON as its many writers put it: every root, QuPath's members, our own exports, and damage."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.geometry.kinds import ELLIPSE, POINT, POLYGON, RECTANGLE
from roiservice.geometry.polygons import to_shapely
from roiservice.sources.limits import Limits
from roiservice.sources.tables.table import NO_COLOR
from tests.encode.support import ODD_PROPERTIES, features_of, whole
from tests.sources.tables.tablefiles import columns_of, drawn, json_of, polygons, read, same_areas, shapes
from tests.strategies import patterns

some = settings(max_examples=50, deadline=None)

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]]]}
TRIANGLE = {"type": "Polygon", "coordinates": [[[5, 5], [7, 5], [7, 7], [5, 5]]]}


def feature(geometry: Any = SQUARE, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def collection(*features: Any, **members: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", **members, "features": list(features)}


@pytest.mark.parametrize(
    "document",
    [
        json_of(collection(feature(), feature(TRIANGLE))),
        json_of(collection(feature(), feature(TRIANGLE), crs={"type": "name"}, name='a "features": [')),
        json.dumps(collection(feature(), feature(TRIANGLE)), indent=2).replace("\n", "\r\n").encode(),
        json_of([feature(), feature(TRIANGLE)]),
        json_of([[feature()], [], [[feature(TRIANGLE)]]]),
        json_of([collection(feature()), collection(), feature(TRIANGLE)]),
        json_of([SQUARE, TRIANGLE]),
        json_of(feature()) + b"\n" + json_of(feature(TRIANGLE)),
        b"\x1e" + json_of(feature()) + b"\n\x1e" + json_of(TRIANGLE) + b"\n",
        b"\xef\xbb\xbf" + json_of(collection(feature(), feature(TRIANGLE))),
        json_of(collection(SQUARE, TRIANGLE)),
    ],
)
def test_every_root_is_read(document: bytes) -> None:
    table = shapes(document, "a.geojson")
    assert table.label.tolist() == [1, 2]
    assert [shapely.area(shape) for shape in drawn(table)] == [4, 2]
    assert (table.z.tolist(), table.t.tolist(), table.c.tolist()) == ([-1, -1], [-1, -1], [-1, -1])
    assert not table.refused.count
    assert not table.warnings


@pytest.mark.parametrize("document", [b"[]", b'{"type":"FeatureCollection","features":[]}', b"[[],[]]"])
def test_no_features_are_no_error(document: bytes) -> None:
    assert len(shapes(document, "a.json").label) == 0


@some
@given(st.lists(polygons, min_size=1, max_size=6), st.integers(0, 2))
def test_polygons_are_what_was_written(written: list[Any], z: int) -> None:
    def position(xy: tuple[float, float]) -> list[float]:
        return [*xy, 7.0, 8.0][: 2 + z]

    def nested(value: Any) -> Any:
        return (
            [nested(v) for v in value] if not isinstance(value[0][0], float) else [position(v) for v in value]
        )

    geometries = [
        {"type": s.geom_type, "coordinates": nested(s.__geo_interface__["coordinates"])} for s in written
    ]
    table = shapes(json_of(geometries), "a.geojson")
    assert same_areas(to_shapely(table.polygons), written)


def test_geometries_of_every_type() -> None:
    members: list[Any] = [
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "MultiPoint", "coordinates": [[1, 2]]},
        {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
        {"type": "MultiLineString", "coordinates": [[[1, 2], [3, 4]], [[5, 6], [7, 8], [9, 9]]]},
        {"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"], TRIANGLE["coordinates"]]},
    ]
    members.append(
        {
            "type": "GeometryCollection",
            "geometries": [members[0], {"type": "GeometryCollection", "geometries": [SQUARE]}],
        }
    )
    table = shapes(json_of(members), "a.geojson")
    assert [str(shape)[:12] for shape in drawn(table)] == [
        "POINT (1 2)",
        "POINT (1 2)",
        "LINESTRING (",
        "MULTILINESTR",
        "MULTIPOLYGON",
        "POLYGON ((0 ",
        "POINT (1 2)",
    ]
    assert table.object.tolist() == [0, 1, 2, 3, 4, 5, 5]


def test_parts_without_rings_are_left_out() -> None:
    part = [[[0, 0], [4, 0], [4, 4], [0, 0]]]
    other = [[[10, 0], [14, 0], [14, 4], [10, 0]]]
    many = ([part, []], [[], part, [], other], [[], []])
    features = [feature({"type": "MultiPolygon", "coordinates": parts}) for parts in many]
    table = shapes(json_of(collection(*features)), "a.geojson")
    assert [shapely.get_num_geometries(shape) for shape in drawn(table)] == [1, 2]
    assert table.refused.count == 1


def test_ids_that_are_no_unicode_are_ids() -> None:
    table = shapes(json_of(collection(feature() | {"id": "\ud800"}, feature() | {"id": "b"})), "a.geojson")
    assert table.key == ("?", "b")


@pytest.mark.parametrize(
    ("geometry", "reason"),
    [
        (None, "there is no geometry"),
        ({}, "the geometry is no GeoJSON object with a type"),
        (7, "the geometry is no GeoJSON object with a type"),
        ({"type": "Circle", "coordinates": [0, 0]}, "geometries of type 'Circle' are not known"),
        ({"type": "Polygon"}, "its coordinates cannot be read"),
        ({"type": "Polygon", "coordinates": []}, "the geometry is empty"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1]]]}, "its coordinates cannot be read: "),
        (
            {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [2, 2]]]},
            "its coordinates cannot be read: ",
        ),
        (
            {"type": "Polygon", "coordinates": [[[0, 0], ["1", 0], [1, 1], [0, 0]]]},
            "its coordinates cannot be read",
        ),
        (
            {"type": "Polygon", "coordinates": [[[0, 0], [True, 0], [1, 1], [0, 0]]]},
            "its coordinates cannot be read",
        ),
        ({"type": "Polygon", "coordinates": [[[0], [1, 0], [1, 1], [0]]]}, "its coordinates cannot be read"),
        ({"type": "Polygon", "coordinates": "abc"}, "its coordinates cannot be read"),
        (
            {"type": "Polygon", "coordinates": [[], [[0, 0], [1, 0], [1, 1], [0, 0]]]},
            "its coordinates cannot be read: ",
        ),
        ({"type": "MultiPolygon", "coordinates": [[]]}, "the geometry is empty"),
        ({"type": "LineString", "coordinates": []}, "the geometry is empty"),
        ({"type": "MultiPoint", "coordinates": []}, "the geometry is empty"),
        ({"type": "MultiLineString", "coordinates": [[]]}, "the geometry is empty"),
        ({"type": "LineString", "coordinates": [[0, 0]]}, "its coordinates cannot be read"),
        ({"type": "Point", "coordinates": []}, "its coordinates cannot be read"),
        ({"type": "Point", "coordinates": [10**400, 1]}, "its coordinates cannot be read"),
        ({"type": "Point", "coordinates": [float("nan"), 1]}, "a coordinate is not finite"),
        ({"type": "GeometryCollection", "geometries": [{"type": "Point"}]}, "its coordinates cannot be read"),
        ({"type": "GeometryCollection"}, "its coordinates cannot be read"),
    ],
)
def test_one_bad_geometry_costs_no_other(geometry: Any, reason: str) -> None:
    good = [feature() for _ in range(5)]
    table = shapes(json_of(collection(*good, feature(geometry), *good)), "a.geojson")
    assert len(table.label) == 10
    assert table.refused.count == 1
    assert table.refused.reasons[0].startswith(f"row 6, column 'geometry': {reason}")


@pytest.mark.parametrize(
    "document",
    [
        b'{"type":"FeatureCollection","features":[{"type":"Feature","geometry":{"type":"Point","coordin',
        b'{"type":"FeatureCollection","features":[{"type":"Feature","geometry":nul}]}',
        b"[1,2,}",
        b"",
        b" \n",
        b"}",
        b'"\xff\xfe"',
        b"<xml/>",
        b"[" * 100_000,
    ],
)
def test_bad_json_is_damage(document: bytes) -> None:
    with pytest.raises(SourceDamaged, match="bad JSON"):
        shapes(document, "a.geojson")


@pytest.mark.parametrize("depth", [500, 2000, 100_000])
def test_nesting_without_end_costs_one_row(depth: int) -> None:
    deep = json_of(feature(x=0)).replace(b'"x": 0', b'"x":' + b"[" * depth + b"]" * depth)
    for bad in (deep, b"[" * depth + b"]" * depth, json_of(feature()).replace(b"[", b"[" * depth, 1)):
        if bad.count(b"[") != bad.count(b"]"):
            bad = bad.replace(b"]", b"]" * depth, 1)
        table = shapes(b"[%b,%b]" % (json_of(feature()), bad), "a.geojson")
        assert (len(table.label), table.refused.count) in {(1, 1), (2, 0)}


def test_limits_hold() -> None:
    many = json_of([feature() for _ in range(4)])
    with pytest.raises(SourceRefused, match="has more than 3 features"):
        shapes(many, "a.geojson", Limits(table_rows=3))
    with pytest.raises(SourceRefused, match="its shapes have more than the 19 vertices allowed"):
        shapes(many, "a.geojson", Limits(table_vertices=19))
    one = shapes(json_of([feature(), feature(x="y" * 1000)]), "a.geojson", Limits(metadata_bytes=500))
    assert one.label.tolist() == [1]
    assert one.refused.reasons == ("row 2: the feature is too large",)


def test_labels_and_planes_are_found_among_the_properties() -> None:
    rows = [
        feature(label=7, z=0, t=1, c=None, score=0.5, kind="a"),
        feature(TRIANGLE, label=7, z=1, t=1, c=None, score=0.5, kind="a"),
        feature(label=9, z=0, t=1, c=2, score=None, kind=None),
    ]
    table = shapes(json_of(collection(*rows)), "a.geojson")
    assert table.label.tolist() == [7, 9]
    assert table.key is None
    assert table.object.tolist() == [0, 0, 1]
    assert (table.z.tolist(), table.t.tolist(), table.c.tolist()) == ([0, 1, 0], [1, 1, 1], [-1, -1, 2])
    assert columns_of(table) == {"score": [0.5, None], "kind": ["a", None]}


def test_several_layers_tell_labels_apart() -> None:
    rows = [
        feature(label=1, layer="cells"),
        feature(label=1, layer="nuclei"),
        feature(label=2, layer="cells"),
    ]
    table = shapes(json_of(rows), "a.geojson")
    assert table.key == ("cells/1", "nuclei/1", "cells/2")
    assert table.label.tolist() == [1, 1, 2]
    assert columns_of(table) == {"layer": ["cells", "nuclei", "cells"]}


def test_ids_name_objects_without_labels() -> None:
    def with_ids(*ids: Any) -> Any:
        return shapes(json_of([{**feature(), "id": each} for each in ids]), "a.geojson")

    assert with_ids("a-b", "c-d").key == ("a-b", "c-d")
    assert with_ids(5, 3).label.tolist() == [5, 3]
    assert with_ids(5, 3).key is None
    assert with_ids(5, "x").key == ("5", "x")
    for ids in (("PathAnnotationObject",) * 2, ("a", None), (3, 3)):
        assert with_ids(*ids).key is None
        assert with_ids(*ids).label.tolist() == [1, 2]


def test_qupath_objects() -> None:
    first = {
        "type": "Feature",
        "id": "6423a977-ffff-48db-affc-cd11632010f0",
        "geometry": {**SQUARE, "plane": {"c": -1, "z": 2, "t": 0}},
        "nucleusGeometry": TRIANGLE,
        "properties": {
            "objectType": "cell",
            "name": "A",
            "color": [1, 2, 3],
            "classification": {"names": ["Tumor", "Positive"], "color": [9, 9, 9]},
            "measurements": {"Area": 4, "Ratio": "NaN", "Odd": None},
            "metadata": {"ANNOTATION": "x"},
            "isLocked": True,
        },
    }
    second = {
        "type": "Feature",
        "id": "f350cce8-f792-44ad-8ec2-dd9e0cc78c4c",
        "geometry": {**SQUARE, "isEllipse": True, "plane": {"z": 1}},
        "properties": {
            "classification": {"name": "Stroma", "colorRGB": -3670016},
            "measurements": [{"name": "Area", "value": 3.5}, {"name": "New", "value": 1}],
        },
    }
    third = feature(classification="Other", color=-16776961)
    table = shapes(json_of([first, second, {**third, "id": "c"}]), "a.geojson")
    assert table.kind.tolist() == [POLYGON, ELLIPSE, POLYGON]
    assert table.key is not None
    assert table.key[0] == first["id"]
    assert (table.z.tolist(), table.t.tolist(), table.c.tolist()) == ([2, 1, -1], [0, 0, -1], [-1, -1, -1])
    assert [hex(color) for color in table.color] == ["0x10203ff", "0xc80000ff", "0xffff"]
    assert columns_of(table) == {
        "objectType": ["cell", None, None],
        "name": ["A", None, None],
        "isLocked": [True, None, None],
        "classification": ["Tumor: Positive", "Stroma", "Other"],
        "Area": [4.0, 3.5, None],
        "Ratio": [None, None, None],
        "Odd": [None, None, None],
        "ANNOTATION": ["x", None, None],
        "New": [None, 1.0, None],
    }
    assert str(table.columns["Area"].type) == "double"
    assert table.warnings == ("1 nuclei of cells left out: an object has one outline",)


def test_a_key_written_twice_counts_as_its_last() -> None:
    text = json_of(feature(metadata={"a": "first"})).replace(
        b'"properties": {', b'"properties": {"metadata": {"a": "zero"}, '
    )
    assert columns_of(shapes(text, "a.geojson")) == {"a": ["first"]}


def test_measurements_do_not_take_the_place_of_properties() -> None:
    table = shapes(json_of(feature(a="own", measurements={"a": 1.0}, metadata={"a": "x"})), "a.geojson")
    assert columns_of(table) == {"a": ["own"]}


def test_values_of_any_kind_are_kept_as_columns() -> None:
    table = shapes(
        json_of([feature(a=1, b="x", c2=[1], d=True), feature(a=2.5, b=3, e={"f": 1})]), "a.geojson"
    )
    assert columns_of(table) == {
        "a": [1.0, 2.5],
        "b": ["x", "3"],
        "c2": ["[1]", None],
        "d": [True, None],
        "e": [None, '{"f":1}'],
    }


def test_names_without_end_are_not_kept() -> None:
    table = shapes(json_of([feature(**{f"p{n}": n for n in range(1001)})]), "a.geojson")
    assert len(table.columns) == 1000
    assert table.warnings == ("values left out in 1 features: only 1000 names are kept",)


def test_planes_that_are_none_stay_properties() -> None:
    table = shapes(json_of([feature(label=1, z=0.5), feature(label=2, z=-7)]), "a.geojson")
    assert columns_of(table) == {"z": [0.5, -7.0]}
    assert len(table.warnings) == 1


@some
@given(patterns, st.sampled_from([(0, -1, 0), (2, 1, -1), (-1, -1, -1)]), st.booleans())
def test_own_exports_are_read_back(pattern: NDArray[Any], place: tuple[int, int, int], odd: bool) -> None:
    labels = np.unique(pattern[pattern != 0]).tolist()
    stated = {label: {**(ODD_PROPERTIES if odd else {}), "n": n} for n, label in enumerate(labels)}
    features = features_of(
        pattern,
        place=place,
        properties=stated,
        colors={label: (label % 256, 2, 3, 4) for label in labels[1:]},
    )
    table = shapes(whole("geojson", features), "a.geojson")
    assert table.label.tolist() == features.label.tolist()
    assert table.key is None
    assert np.array_equal(table.polygons.xy, features.polygons.xy)
    for ours, theirs in (
        (table.polygons.vertex_offsets, features.polygons.vertex_offsets),
        (table.polygons.ring_offsets, features.polygons.ring_offsets),
        (table.polygons.part_offsets, features.polygons.part_offsets),
        (table.t, features.t),
        (table.c, features.c),
        (table.z, features.z),
    ):
        assert np.array_equal(ours, theirs)
    assert [
        None if color == NO_COLOR else tuple(int(color).to_bytes(4, "big")) for color in table.color
    ] == features.color
    if len(features):
        assert columns_of(table)["n"] == features.properties["n"].to_pylist()
        assert not {"layer", "drawn_as"} & set(table.columns)
    again = shapes(whole("qupath", features), "a.geojson")
    assert again.label.tolist() == features.label.tolist()
    assert again.key is None
    assert np.array_equal(again.polygons.xy, features.polygons.xy)
    assert "layer" not in again.columns


def test_own_exports_say_what_an_outline_stands_for() -> None:
    own = {"layer": "a", "z": None, "t": None, "c": None, "area": 4}
    rows = [
        feature(label=1, **own, drawn_as="Rectangle"),
        feature(label=2, **own, drawn_as="Ellipse"),
        feature(TRIANGLE, label=3, **own, drawn_as="Rectangle"),
        feature({"type": "Point", "coordinates": [1, 1]}, label=4, **own),
    ]
    assert shapes(json_of(rows), "a.geojson").kind.tolist() == [RECTANGLE, ELLIPSE, POLYGON, POINT]


@some
@given(st.binary(max_size=60), st.integers(0, 200))
def test_no_damage_raises_anything_else(junk: bytes, at: int) -> None:
    sound = json_of(collection(feature(label=1), feature(TRIANGLE, measurements={"a": 1})))
    for document in (junk, sound[:at], sound[:at] + junk + sound[at:], sound[:at] + sound[at + 1 :]):
        with contextlib.suppress(SourceDamaged, SourceRefused):
            read(document, "a.geojson")
