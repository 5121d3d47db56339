"""What one object is: a label, a connected part, or a label at one time."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from roiservice.catalog.reader import Catalog
from roiservice.catalog.registry import Registry
from roiservice.catalog.task import LayerKey
from roiservice.encode import omero
from roiservice.errors import SourceRefused
from roiservice.query.columns import read_features
from roiservice.query.pages import feature_page
from roiservice.query.select import RoiQuery
from tests.catalog.support import keeper_at, layer_key, roi_column
from tests.stores import write_image


def catalog_of(folder: Path, array: np.ndarray, axes: str, objects: str) -> Catalog:
    store = write_image(folder / "1.zarr", labels={"cells": array}, axes=axes)
    key = layer_key(Registry(folder / "state"), store)
    return keeper_at(folder).catalog(LayerKey(key.number, replace(key.source, objects=objects)))


@given(hnp.arrays(np.uint8, (2, 7, 8), elements=st.integers(0, 2)))
def test_every_connected_part_is_a_roi(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    catalog = catalog_of(tmp_path_factory.mktemp("component"), array, "zyx", "component")
    expected: Counter[tuple[int, int, int, int]] = Counter()
    for z, plane in enumerate(array):
        for label in (1, 2):
            parts, count = scipy.ndimage.label(plane == label)
            for part in range(1, count + 1):
                first = int(np.flatnonzero(parts == part)[0]) + z * plane.size + 1
                expected[z, label, int((parts == part).sum()), first] += 1
    features = read_features(catalog, np.arange(len(roi_column(catalog))))
    numbers = features.roi_id - catalog.first_roi_id
    columns = (features.z, features.label, features.area.astype(int), numbers)
    found = Counter(zip(*(column.tolist() for column in columns), strict=True))
    assert found == expected
    assert len(np.unique(features.roi_id)) == len(features)


def test_a_label_is_another_object_at_another_time(tmp_path: Path) -> None:
    array = np.zeros((3, 2, 6, 6), np.uint16)
    array[0, :, 1:3, 1:3] = 5
    array[2, :, 1:3, 1:3] = 5
    array[2, 1, 4, 4] = 9
    catalog = catalog_of(tmp_path, array, "tzyx", "per-t")
    features = read_features(catalog, np.arange(len(roi_column(catalog))))
    by_roi: dict[int, set[tuple[int, int, int]]] = {}
    for roi, t, z, label in zip(
        features.roi_id.tolist(),
        features.t.tolist(),
        features.z.tolist(),
        features.label.tolist(),
        strict=True,
    ):
        by_roi.setdefault(roi - catalog.first_roi_id, set()).add((t, z, label))
    assert by_roi.pop(5) == {(0, 0, 5), (0, 1, 5)}
    assert sorted(map(sorted, by_roi.values())) == [[(2, 0, 5), (2, 1, 5)], [(2, 1, 9)]]
    assert min(by_roi) >= 2**31


def test_ids_last_while_the_first_pixel_does(tmp_path: Path) -> None:
    plane = np.zeros((8, 8), np.uint8)
    plane[1:3, 1:3] = plane[5:7, 5:7] = 1
    first = catalog_of(tmp_path / "a", plane, "yx", "component")
    plane[1:3, 1:3] = 0
    second = catalog_of(tmp_path / "b", plane, "yx", "component")
    assert second.rois["roi"].tolist() == first.rois["roi"].tolist()[1:] == [5 * 8 + 5 + 1]


@pytest.mark.parametrize("objects", ["label", "component", "per-t"])
@pytest.mark.parametrize("beyond", [0, 2**31])
def test_objects_are_found_by_label(tmp_path: Path, objects: str, beyond: int) -> None:
    """Not by their number, which is another one where labels do not tell them apart."""
    array = np.zeros((2, 20, 30), np.int64 if beyond else np.uint16)
    array[0, 0, 0:3] = array[0, 10, 6] = 7
    array[:, 0, 6:8] = 5
    array[0, 15:17, 2] = 9
    if objects != "per-t":
        array[1, 5, 5] = -beyond
    catalog = catalog_of(tmp_path, array, "tyx", objects)
    every = catalog.features["label"].tolist()
    for label in (1, 5, 7, 9, 307, -beyond):
        found = feature_page(catalog, RoiQuery(labels=(label,)), 0, 100)
        assert catalog.features["label"][found.rows].tolist() == [label] * every.count(label)


def test_labels_too_large_to_be_told_apart_by_time_are_refused(tmp_path: Path) -> None:
    array = np.full((2, 4, 4), 2**31, np.uint32)
    with pytest.raises(SourceRefused, match="2147483647"):
        catalog_of(tmp_path, array, "tyx", "per-t")


def test_measures_of_a_roi_are_those_of_its_largest_feature(tmp_path: Path) -> None:
    array = np.zeros((2, 8, 8), np.uint8)
    array[0, 1:3, 1:3] = 4
    array[1, 1:7, 1:4] = 4
    array[1, 0, 6:8] = 7
    store = write_image(tmp_path / "1.zarr", labels={"cells": array}, axes="zyx")
    key = layer_key(Registry(tmp_path / "state"), store)
    asked = replace(key.source, measures=("extent", "area_bbox"))
    catalog = keeper_at(tmp_path).catalog(LayerKey(key.number, asked))
    assert catalog.rois["label"].tolist() == [4, 7]
    assert catalog.properties["area_bbox"].to_pylist() == [18, 2]
    assert catalog.properties["extent"].to_pylist() == [1, 1]


def test_the_text_of_a_shape_is_the_property_chosen(tmp_path: Path) -> None:
    plane = np.zeros((8, 8), np.uint8)
    plane[1:3, 1:3], plane[5:7, 5:7] = 1, 2
    stated = {"properties": [{"label-value": 1, "class": 'a "b"'}]}
    store = write_image(tmp_path / "1.zarr", labels={"cells": plane}, image_label=stated)
    key = layer_key(Registry(tmp_path / "state"), store)
    catalog = keeper_at(tmp_path).catalog(LayerKey(key.number, replace(key.source, text="class")))
    rois = [json.loads(roi) for roi in omero.rois(read_features(catalog, catalog.roi_rows))]
    assert [roi["shapes"][0]["Text"] for roi in rois] == ['a "b"', "2"]
