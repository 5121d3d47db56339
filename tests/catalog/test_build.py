"""Building: numbers of ROIs, properties, limits, and labels of every size, from real stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from roiservice.catalog import engine, tracing
from roiservice.catalog.build import build_catalog, roi_numbers
from roiservice.catalog.properties import merged, stated_columns
from roiservice.catalog.reader import open_catalog
from roiservice.catalog.registry import FIRST_EXTRA_ROI, Registry
from roiservice.catalog.versions import LayerVersion
from roiservice.errors import SourceError, SourceRefused, TooManyObjects
from roiservice.query.columns import read_features
from roiservice.sources.limits import Limits
from roiservice.sources.planes import LabelLayer, open_layer
from roiservice.vectorize.outlines import Outline
from tests.catalog.support import keeper_at, layer_key, roi_column, squares
from tests.stores import write_image


def all_features(catalog: Any) -> Any:
    return read_features(catalog, np.arange(len(roi_column(catalog))))


def test_ordinary_labels_are_their_own_roi_numbers(tmp_path: Path) -> None:
    labels = np.array([1, 5, 2**31 - 1])
    assert roi_numbers(Registry(tmp_path), 1, labels).tolist() == labels.tolist()


@pytest.mark.parametrize(
    "labels",
    [
        np.array([-(2**63), -1, 1, 2**31 - 1, 2**31, 2**63 - 1], np.int64),
        np.array([1, 2**31, 2**53 + 1, 2**63, 2**64 - 1], np.uint64),
    ],
)
def test_other_labels_get_numbers_that_last(tmp_path: Path, labels: NDArray[Any]) -> None:
    numbers = roi_numbers(Registry(tmp_path), 1, labels)
    ordinary = (labels >= 1) & (labels < 2**31)
    assert numbers[ordinary].tolist() == labels[ordinary].tolist()
    assert sorted(numbers[~ordinary].tolist()) == [FIRST_EXTRA_ROI + n for n in range(int((~ordinary).sum()))]
    assert roi_numbers(Registry(tmp_path), 1, labels[::-1]).tolist() == numbers[::-1].tolist()


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("uint64", [2**64 - 1, 2**63, 2**53 + 1, 3]),
        ("int64", [-(2**63), 2**63 - 1, -1, 3]),
        ("int32", [-(2**31), 2**31 - 1, -1, 3]),
        ("uint32", [2**32 - 1, 2**31, 2**31 - 1, 3]),
        ("int8", [-128, 127, -1, 3]),
        ("bool", [1]),
    ],
)
def test_labels_of_any_size_come_through_a_store(tmp_path: Path, dtype: str, values: list[int]) -> None:
    plane = np.zeros((4, 10), dtype)
    plane[1:3, 1 : 2 * len(values) : 2] = values
    store = write_image(tmp_path / "1.zarr", labels={"cells": plane})
    keeper = keeper_at(tmp_path)
    catalog = keeper.catalog(layer_key(Registry(tmp_path / "state"), store))
    features = all_features(catalog)
    assert sorted(features.label.tolist()) == sorted(values)
    assert len(set(features.roi_id.tolist())) == len(values)
    assert features.area.tolist() == [2] * len(values)
    for label, roi in zip(
        features.label.tolist(), (features.roi_id - catalog.first_roi_id).tolist(), strict=True
    ):
        assert (roi == label) if 1 <= label < 2**31 else roi >= FIRST_EXTRA_ROI


def test_properties_of_labels_beyond_int64_are_found(tmp_path: Path) -> None:
    plane = np.zeros((4, 4), np.uint64)
    plane[1, 1] = 2**64 - 1
    image_label = {
        "colors": [{"label-value": 2**64 - 1, "rgba": [9, 8, 7, 6]}],
        "properties": [{"label-value": 2**64 - 1, "kind": "huge"}],
    }
    store = write_image(tmp_path / "1.zarr", labels={"cells": plane}, image_label=image_label)
    features = all_features(keeper_at(tmp_path).catalog(layer_key(Registry(tmp_path / "state"), store)))
    assert features.color == [(9, 8, 7, 6)]
    assert features.properties["kind"].to_pylist() == ["huge"]


def rows_of(columns: dict[str, pa.Array], count: int) -> list[dict[str, Any]]:
    """The columns as rows, null left out, JSON parsed."""
    out: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, column in columns.items():
        for row, value in zip(out, column.to_pylist(), strict=True):
            if value is not None:
                row[name] = orjson.loads(value) if isinstance(value, bytes) else value
    return out


def test_properties_become_columns_in_the_order_of_their_names() -> None:
    rows = {1: {"a": 1, 'ü "x"': [1, {"b": None}]}, 2: {"z": "moved", "c2": float("nan")}, 3: {}}
    columns = stated_columns(rows, np.array([1, 2, 3, 4]))
    assert list(columns) == ["a", 'ü "x"', "property:z"]
    assert rows_of(columns, 4) == [rows[1], {"property:z": "moved"}, {}, {}]


@given(
    st.lists(
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"])),
        min_size=1,
    )
)
def test_a_column_keeps_every_value_whatever_its_types(values: list[Any]) -> None:
    rows = {label: {"value": value} for label, value in enumerate(values)}
    columns = stated_columns(rows, np.arange(len(values)))
    back = [row.get("value") for row in rows_of(columns, len(values))]
    beyond = [isinstance(value, int) and not -(2**63) <= value < 2**64 for value in values]
    assert back == [str(value) if huge else value for value, huge in zip(values, beyond, strict=True)]


def test_whole_numbers_that_a_float_does_not_hold_stay_what_they_are_beside_fractions() -> None:
    large, fractions = pa.array([2**53 + 1, None], pa.int64()), pa.array([None, 0.5])
    (column,) = merged([{"code": large}, {"code": fractions}]).values()
    assert column.to_pylist() == [str(2**53 + 1), "0.5"]
    (column,) = merged([{"code": pa.array([2, None], pa.int64())}, {"code": fractions}]).values()
    assert column.to_pylist() == [2.0, 0.5]


@pytest.mark.parametrize("name", ["label", "layer", "z", "t", "c", "area", "color", "drawn_as"])
def test_a_property_named_like_a_feature_s_own_is_told_apart(name: str) -> None:
    assert rows_of(stated_columns({1: {name: 5}}, np.array([1])), 1) == [{f"property:{name}": 5}]


def test_a_reserved_name_and_its_replacement_both_survive() -> None:
    (row,) = rows_of(stated_columns({1: {"label": 1, "property:label": 2}}, np.array([1])), 1)
    assert sorted(row.values()) == [1, 2]


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**40, "\ud800", ["\udfff"], {"\ud800": 1}])
def test_values_that_json_writers_choke_on_do_not_cost_the_layer(tmp_path: Path, value: Any) -> None:
    image_label = {"properties": [{"label-value": 1, "odd": value, "good": "kept"}]}
    plane = np.zeros((4, 4), np.uint8)
    plane[1, 1] = 1
    store = write_image(tmp_path / "1.zarr", labels={"cells": plane}, image_label=image_label)
    features = all_features(keeper_at(tmp_path).catalog(layer_key(Registry(tmp_path / "state"), store)))
    assert features.properties["good"].to_pylist() == ["kept"]


def test_deep_nesting_in_properties_does_not_cost_the_layer(tmp_path: Path) -> None:
    nested: Any = 1
    for _ in range(50):
        nested = [nested]
    image_label = {"properties": [{"label-value": 1, "deep": nested}]}
    store = write_image(tmp_path / "1.zarr", labels={"cells": squares(20, 20)}, image_label=image_label)
    features = all_features(keeper_at(tmp_path).catalog(layer_key(Registry(tmp_path / "state"), store)))
    deep = features.properties["deep"].to_pylist()[features.label.tolist().index(1)]
    assert orjson.loads(deep) == nested


def test_small_features_are_left_out_by_area_in_image_pixels(tmp_path: Path) -> None:
    plane = np.zeros((20, 20), np.uint8)
    plane[1:3, 1:3], plane[10:14, 10:14] = 1, 2  # 4 and 16 layer pixels, 16 and 64 image pixels
    store = write_image(
        tmp_path / "1.zarr",
        labels={"cells": plane},
        image_shape=(40, 40),
        scale=[1.0, 1.0],
        label_scale=[2.0, 2.0],
    )
    registry = Registry(tmp_path / "state")
    for min_area, expected in ((16, [1, 2]), (17, [2]), (65, [])):
        keeper = keeper_at(tmp_path, outline=Outline(min_area=min_area))
        features = all_features(keeper.catalog(layer_key(registry, store)))
        assert sorted(features.label.tolist()) == expected


def test_measures_are_those_in_the_image(tmp_path: Path) -> None:
    plane = np.zeros((20, 20), np.uint8)
    plane[10:14, 5:7] = 1
    store = write_image(
        tmp_path / "1.zarr",
        labels={"cells": plane},
        image_shape=(40, 60),
        scale=[1.0, 1.0],
        label_scale=[2.0, 3.0],
        label_translation=[0.5, 1.0],
    )
    catalog = keeper_at(tmp_path).catalog(layer_key(Registry(tmp_path / "state"), store))
    found = {name: catalog.features[name][0].tolist() for name in ("box", "centroid", "area", "perimeter")}
    assert found == {"box": [15, 20, 21, 28], "centroid": [18, 24], "area": 48, "perimeter": 28}
    assert catalog.extent == (15, 20, 21, 28)


def test_a_redrawn_layer_has_the_areas_of_what_is_drawn(tmp_path: Path) -> None:
    plane = np.zeros((30, 30), np.uint8)
    rows, columns = np.indices((30, 30))
    plane[(rows - 15) ** 2 + (columns - 15) ** 2 < 100] = 1
    store = write_image(tmp_path / "1.zarr", labels={"cells": plane})
    for outline in (Outline(simplify=1.5), Outline(smooth=True)):
        catalog = keeper_at(tmp_path, outline=outline).catalog(layer_key(Registry(tmp_path / "state"), store))
        features = all_features(catalog)
        assert catalog.base.xy.dtype == np.float64
        assert features.area[0] == pytest.approx(plane.sum(), rel=0.1)
        assert features.area[0] != plane.sum()
        assert catalog.features["pixel_count"].tolist() == [plane.sum()]


def noisy(*shape: int) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, 2, shape, np.uint8)


def version_of(layer: Any) -> LayerVersion:
    return LayerVersion(1, 2, "token", Outline())


@pytest.mark.parametrize("block_pixels", [2**22, 64 * 4])
def test_too_many_vertices_of_one_plane_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_pixels: int
) -> None:
    """Whether one block of it has too many or only all together, and though planes are traced in one go."""
    monkeypatch.setattr(tracing, "BLOCK_PIXELS", block_pixels)
    planes = squares(3, 64, 64)
    planes[2] = noisy(64, 64)
    store = write_image(tmp_path / "1.zarr", labels={"cells": planes}, axes="zyx", chunks=(1, 4, 64))
    registry = Registry(tmp_path / "state")
    layer = open_layer(layer_key(registry, store).source, Limits())
    with pytest.raises(SourceRefused, match=r"labels/cells\]: plane \(0, 0, 2\): .*1000 vertices"):
        build_catalog(layer, version_of(layer), tmp_path / "2", registry, max_vertices=1000)
    assert not list(tmp_path.glob("2*"))


def pixels_before_the_stop(layer: LabelLayer, directory: Path, registry: Registry, vertices: int) -> int:
    """How much of a layer is read until its vertices are found to be too many."""
    read: list[int] = []
    with pytest.raises(TooManyObjects):
        build_catalog(
            layer,
            version_of(layer),
            directory,
            registry,
            max_vertices=None,
            stop_at_vertices=vertices,
            progress=lambda pixels, _: read.append(pixels),
        )
    return sum(read)


def test_too_many_vertices_of_all_planes_stop_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_image(
        tmp_path / "1.zarr", labels={"cells": noisy(9, 32, 32)}, axes="zyx", chunks=(1, 32, 32)
    )
    monkeypatch.setattr(engine, "BATCH_PIXELS", 32 * 32)
    registry = Registry(tmp_path / "state")
    layer = open_layer(layer_key(registry, store).source, Limits())
    read = pixels_before_the_stop(layer, tmp_path / "2", registry, 5000)
    assert 32 * 32 < read < 9 * 32 * 32
    assert not list(tmp_path.glob("2*"))


def test_the_limit_for_requests_holds_inside_a_plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plane of noise must not be traced to its end before anybody looks at how large it has become."""
    store = write_image(tmp_path / "1.zarr", labels={"cells": noisy(4096, 256)}, chunks=(64, 256))
    registry = Registry(tmp_path / "state")
    layer = open_layer(layer_key(registry, store).source, Limits())
    monkeypatch.setattr(tracing, "BLOCK_PIXELS", 64 * 256)
    read = pixels_before_the_stop(layer, tmp_path / "2", registry, 1000)
    assert read < layer.pixels / 2


def test_progress_counts_every_pixel(tmp_path: Path) -> None:
    store = write_image(
        tmp_path / "1.zarr", labels={"cells": squares(2, 3, 40, 50)}, axes="tzyx", chunks=(1, 1, 16, 50)
    )
    registry = Registry(tmp_path / "state")
    layer = open_layer(layer_key(registry, store).source, Limits())
    steps: list[tuple[int, int]] = []
    build_catalog(
        layer,
        version_of(layer),
        tmp_path / "2",
        registry,
        max_vertices=None,
        progress=lambda *step: steps.append(step),
    )
    assert sum(step[0] for step in steps) == layer.pixels
    found = [step[1] for step in steps]
    assert found == sorted(found)
    assert found[-1] <= open_catalog(tmp_path / "2").meta["counts"]["features"]


@pytest.mark.parametrize("strip_pixels", [1, 1000, 2**24])
def test_strips_of_any_size_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strip_pixels: int
) -> None:
    plane = np.random.default_rng(7).integers(0, 4, (3, 75, 90)).astype(np.uint16)
    store = write_image(tmp_path / "1.zarr", labels={"cells": plane}, axes="zyx", chunks=(1, 10, 30))
    registry = Registry(tmp_path / "state")
    layer = open_layer(layer_key(registry, store).source, Limits())
    build_catalog(layer, version_of(layer), tmp_path / "whole", registry, max_vertices=None)
    monkeypatch.setattr(tracing, "BLOCK_PIXELS", strip_pixels)
    build_catalog(layer, version_of(layer), tmp_path / "cut", registry, max_vertices=None)
    for path in sorted((tmp_path / "whole").iterdir()):
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 4, 4)])
def test_layers_without_pixels_have_no_objects_or_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    store = write_image(
        tmp_path / "1.zarr",
        labels={"cells": np.zeros(shape, np.uint8)},
        axes="zyx"[-len(shape) :],
        chunks=(4,) * len(shape),
    )
    try:
        catalog = keeper_at(tmp_path).catalog(layer_key(Registry(tmp_path / "state"), store))
    except SourceError as error:
        assert "cells" in str(error)  # noqa: PT017 - either answer is right, and each is looked at
    else:
        assert catalog.meta["counts"]["features"] == 0


def test_rows_are_sorted_by_plane_when_a_layer_plane_shows_on_several(tmp_path: Path) -> None:
    """Two channels, each plane of which lies on two z planes of the image."""
    array = np.stack([squares(2, 20, 20), squares(2, 20, 20)])  # c, z, y, x
    store = write_image(
        tmp_path / "1.zarr",
        labels={"cells": array},
        axes="czyx",
        image_shape=(2, 4, 20, 20),
        scale=[1.0, 1.0, 1.0, 1.0],
        label_scale=[1.0, 2.0, 1.0, 1.0],
    )
    catalog = keeper_at(tmp_path).catalog(layer_key(Registry(tmp_path / "state"), store))
    planes = list(zip(*(catalog.planes[axis].tolist() for axis in "tzc"), strict=True))
    assert len(planes) == 8
    assert planes == sorted(planes)
