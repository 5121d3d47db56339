"""NGFF metadata: groups, multiscales of all versions, label objects; and that only SourceError comes out."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from roiservice.errors import SourceDamaged, SourceError
from roiservice.sources.groups import Group, read_group
from roiservice.sources.limits import Limits
from roiservice.sources.ngff import Multiscale, multiscale_of
from roiservice.sources.objects import has_image_label, label_objects_of, source_image_of
from roiservice.sources.roots import open_store
from tests.sources.support import LIMITS, blobs
from tests.stores import multiscale_metadata, write_group, write_multiscale


def multiscale_at(path: Path) -> Multiscale | None:
    store = open_store(path, LIMITS)
    group = read_group(store, "")
    assert group is not None
    return multiscale_of(store, group)


def parsed(tmp_path: Path, attributes: dict[str, Any], version: str = "0.4") -> Multiscale | None:
    return multiscale_at(write_group(tmp_path, version, attributes))


def with_transforms(*transforms: Any, **entry: Any) -> dict[str, Any]:
    dataset = {"path": "0", "coordinateTransformations": list(transforms)}
    axes = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    return {"multiscales": [{"version": "0.4", "axes": axes, "datasets": [dataset], **entry}]}


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6"])
def test_all_versions(tmp_path: Path, version: str) -> None:
    write_multiscale(tmp_path, blobs(2, 8, 8), "zyx", version, scale=(2, 0.5, 0.25), translation=(1, 2, 3))
    multiscale = multiscale_at(tmp_path)
    assert multiscale is not None
    assert multiscale.version == version
    assert multiscale.levels[0].path == "0"
    assert multiscale.name == "image"
    assert multiscale.axes == (None if version < "0.3" else ("z", "y", "x"))
    assert multiscale.space == ((0, 1, 2) if version >= "0.4" else ())
    assert multiscale.levels[0].scale == ((2, 0.5, 0.25) if version >= "0.4" else None)
    assert multiscale.levels[0].translation == ((1, 2, 3) if version >= "0.4" else None)
    assert bool(multiscale.warnings) == (version == "0.6")


@pytest.mark.parametrize(
    ("stated", "version", "warns"),
    [
        ("0.5-dev-spatialdata", "0.5-dev-spatialdata", False),
        ("0.6.dev2", "0.6.dev2", True),
        (0.4, "0.4", False),
        ("7.1", "7.1", True),
        (None, "", True),
        (True, "", True),
    ],
)
def test_versions_as_writers_state_them(tmp_path: Path, stated: Any, version: str, warns: bool) -> None:
    multiscale = parsed(tmp_path, {"multiscales": [multiscale_metadata("yx", "0.4") | {"version": stated}]})
    assert multiscale is not None
    assert multiscale.version == version
    assert bool(multiscale.warnings) == warns


def test_groups(tmp_path: Path) -> None:
    store = open_store(tmp_path, LIMITS)
    assert read_group(store, "") is None
    (tmp_path / ".zgroup").write_text('{"zarr_format": 2}')
    assert read_group(store, "") == Group("", {}, 2, {})
    write_group(tmp_path / "old", "0.4", {"a": 1})
    assert read_group(store, "old") == Group("old", {"a": 1}, 2, {"a": 1})
    write_group(tmp_path / "old", "0.5", {"a": 2}, extra=3)  # v3 wins where both are written
    attributes = {"version": "0.5", "a": 2}
    assert read_group(store, "old") == Group("old", attributes, 3, {"ome": attributes, "extra": 3})
    for version in ("0.4", "0.5"):
        write_multiscale(tmp_path / version, blobs(4, 4), version=version)
        assert read_group(store, f"{version}/0") is None


@pytest.mark.parametrize("attributes", [[], "text", {"ome": []}])
def test_groups_whose_attributes_are_no_object(tmp_path: Path, attributes: Any) -> None:
    content = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (tmp_path / "zarr.json").write_text(json.dumps(content))
    with pytest.raises(SourceDamaged, match=r"\[zarr.json\]: attributes"):
        read_group(open_store(tmp_path, LIMITS), "")


@pytest.mark.parametrize("attributes", [{}, {"multiscales": None}, {"multiscales": []}])
def test_no_multiscales(tmp_path: Path, attributes: dict[str, Any]) -> None:
    assert parsed(tmp_path, attributes) is None


@pytest.mark.parametrize(
    "entry",
    [
        {"datasets": []},
        {"datasets": [{"path": "../0"}]},
        {"datasets": [{"path": "/0"}]},
        {"datasets": [{"path": 0}]},
        {"datasets": ["0"]},
        {"axes": "yx"},
        {"axes": []},
        {"axes": ["y", 1]},
        {"axes": [{"name": "y"}, {"type": "space"}]},
        {"axes": ["y", "y"]},
    ],
)
def test_multiscales_that_cannot_be_used(tmp_path: Path, entry: dict[str, Any]) -> None:
    with pytest.raises(SourceDamaged, match=r"\[.zattrs\]"):
        parsed(tmp_path, with_transforms(**entry))


def test_only_the_first_dataset_has_to_be_sound(tmp_path: Path) -> None:
    multiscale = parsed(
        tmp_path, with_transforms(datasets=[{"path": "s0/"}, {"path": "../s1"}, {"path": "s2"}])
    )
    assert multiscale is not None
    assert [level.path for level in multiscale.levels] == ["s0"]
    assert "datasets[1]" in multiscale.warnings[0]


def test_dataset_and_multiscale_transforms_combine(tmp_path: Path) -> None:
    outer = [{"type": "scale", "scale": [10, 20]}, {"type": "translation", "translation": [1, 1]}]
    inner = [{"type": "scale", "scale": [2, 3]}, {"type": "translation", "translation": [5, 7]}]
    multiscale = parsed(tmp_path, with_transforms(*inner, coordinateTransformations=outer))
    assert multiscale is not None
    assert multiscale.levels[0].scale == (20, 60)
    assert multiscale.levels[0].translation == (51, 141)


def test_transforms_between_coordinate_systems_are_ignored(tmp_path: Path) -> None:
    outer = [{"type": "affine", "input": {"name": "yx"}, "output": {"name": "global"}, "affine": [[1]]}]
    multiscale = parsed(
        tmp_path, with_transforms({"type": "scale", "scale": [2, 2]}, coordinateTransformations=outer)
    )
    assert multiscale is not None
    assert multiscale.levels[0].scale == (2, 2)
    assert not multiscale.warnings


@pytest.mark.parametrize(
    "transform",
    [
        {"type": "scale", "scale": [0.0, 1.0]},
        {"type": "scale", "scale": [-1.0, 1.0]},
        {"type": "scale", "scale": [math.nan, 1.0]},
        {"type": "scale", "scale": [math.inf, 1.0]},
        {"type": "scale", "scale": [1.0, 1.0, 1.0]},
        {"type": "scale", "scale": [10**400, 1]},
        {"type": "scale", "scale": ["1", "1"]},
        {"type": "scale", "scale": [True, True]},
        {"type": "scale", "path": "elsewhere"},
        {"type": "affine", "affine": [[1, 0, 0], [0, 1, 0]]},
        {"type": "sequence"},
        {"type": []},
        "scale",
    ],
)
def test_unusable_transforms_give_a_warning(tmp_path: Path, transform: Any) -> None:
    multiscale = parsed(tmp_path, with_transforms(transform, {"type": "translation", "translation": [1, 1]}))
    assert multiscale is not None
    assert multiscale.levels[0].scale is None
    assert multiscale.levels[0].translation is None
    assert "transform of 0 ignored" in multiscale.warnings[0]


def test_axes_of_06_are_those_the_transform_leads_to(tmp_path: Path) -> None:
    entry = multiscale_metadata("yx", "0.6")
    entry["coordinateSystems"].insert(0, {"name": "other", "axes": [{"name": "a"}, {"name": "b"}]})
    multiscale = parsed(tmp_path, {"multiscales": [entry]}, "0.6")
    assert multiscale is not None
    assert multiscale.axes == ("y", "x")


def objects_of(image_label: Any) -> Any:
    return label_objects_of(Group("labels/a", {"image-label": image_label}, 2, {}))


def test_label_objects() -> None:
    objects = objects_of(
        {
            "colors": [
                {"label-value": 0, "rgba": [1, 1, 1, 1]},
                {"label-value": 1, "rgba": [1, 2, 3, 4]},
                {"label-value": 1, "rgba": [255, 0, 0, 128]},
                {"label-value": 2},
                {"label-value": 3.0, "rgba": [0, 0, 0, 255]},
            ],
            "properties": [
                {"label-value": 0, "a": 1},
                {"label-value": 1, "area": 2.5, "class": "A"},
                {"label-value": 2, "nested": {"x": [1]}},
            ],
        }
    )
    assert objects.colors == {1: (255, 0, 0, 128), 3: (0, 0, 0, 255)}
    assert objects.properties == {1: {"area": 2.5, "class": "A"}, 2: {"nested": {"x": [1]}}}
    assert objects.warnings == ()


@pytest.mark.parametrize(
    "row",
    [
        {"label-value": 1, "rgba": [255, 0, 0]},
        {"label-value": 1, "rgba": [0.5, 0.2, 0.1, 1.0]},
        {"label-value": 1, "rgba": ["ff", 0, 0, 255]},
        {"label-value": 1, "rgba": [300, -1, 0, 255]},
        {"label-value": 1, "rgba": [True, 0, 0, 0]},
        {"label-value": "1", "rgba": [1, 2, 3, 4]},
        {"label-value": True, "rgba": [1, 2, 3, 4]},
        {"label-value": math.nan, "rgba": [1, 2, 3, 4]},
        {"rgba": [1, 2, 3, 4]},
        None,
    ],
)
def test_bad_colors_give_one_warning_and_leave_the_others(row: Any) -> None:
    objects = objects_of({"colors": [{"label-value": 5, "rgba": [1, 2, 3, 4]}, row, row]})
    assert objects.colors == {5: (1, 2, 3, 4)}
    assert len(objects.warnings) == 1
    assert "colors[1] and 1 more" in objects.warnings[0]


@pytest.mark.parametrize("stated", [[], 1, {"colors": {}}, {"properties": "x"}, {"properties": [[]]}])
def test_image_label_of_unexpected_kind_gives_a_warning(stated: Any) -> None:
    objects = objects_of(stated)
    assert not objects.colors
    assert not objects.properties
    assert len(objects.warnings) == 1


def test_without_image_label() -> None:
    group = Group("a", {}, 2, {})
    objects = label_objects_of(group)
    assert not has_image_label(group)
    assert source_image_of(group) is None
    assert (objects.colors, objects.properties, objects.warnings) == ({}, {}, ())


KEYS = st.sampled_from(
    [
        "multiscales",
        "axes",
        "datasets",
        "path",
        "coordinateTransformations",
        "type",
        "scale",
        "translation",
        "version",
        "name",
        "coordinateSystems",
        "output",
        "input",
        "transformations",
        "image-label",
        "colors",
        "properties",
        "label-value",
        "rgba",
        "source",
        "image",
        "space",
        "sequence",
        "y",
        "x",
        "0",
        "0.4",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | KEYS | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)
TRANSFORMS = st.fixed_dictionaries(
    {}, optional={"type": KEYS, "scale": VALUES, "translation": VALUES, "transformations": st.lists(VALUES)}
)
DATASETS = st.fixed_dictionaries(
    {}, optional={"path": KEYS | VALUES, "coordinateTransformations": st.lists(TRANSFORMS | VALUES) | VALUES}
)
ENTRIES = st.fixed_dictionaries(
    {"datasets": st.lists(DATASETS | VALUES, min_size=1) | VALUES},
    optional={
        "axes": st.lists(st.fixed_dictionaries({"name": VALUES}, optional={"type": VALUES}) | KEYS) | VALUES,
        "coordinateSystems": st.lists(st.dictionaries(KEYS, VALUES, max_size=3)) | VALUES,
        "coordinateTransformations": st.lists(TRANSFORMS | VALUES) | VALUES,
        "version": VALUES,
    },
)
ROWS = st.fixed_dictionaries({}, optional={"label-value": VALUES, "rgba": VALUES, "name": VALUES}) | VALUES
LABELS = st.fixed_dictionaries(
    {}, optional={"colors": st.lists(ROWS) | VALUES, "properties": st.lists(ROWS) | VALUES, "source": VALUES}
)
ATTRIBUTES = st.fixed_dictionaries(
    {"multiscales": st.lists(ENTRIES | VALUES, min_size=1) | VALUES},
    optional={"image-label": LABELS | VALUES},
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(attributes=ATTRIBUTES, version=st.sampled_from([2, 3]))
@example(attributes={"multiscales": [{"datasets": [{"path": "0"}], "axes": []}]}, version=2)
def test_only_source_errors_come_out_of_any_metadata(
    tmp_path: Path, attributes: dict[str, Any], version: int
) -> None:
    group = Group("a", attributes, version, attributes)
    store = open_store(tmp_path, Limits())
    with suppress(SourceError):
        multiscale_of(store, group)
    label_objects_of(group)
    has_image_label(group)
    source_image_of(group)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=40) | st.text(alphabet='{}[]",:0123456789\\ud8e.-nulltrue', max_size=40))
def test_only_source_errors_come_out_of_any_document(tmp_path: Path, content: bytes | str) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "zarr.json").write_bytes(data)
    with suppress(SourceError):
        read_group(open_store(tmp_path, LIMITS), "")
