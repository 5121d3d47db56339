"""What is written is what is read: columns, order, indexes; nothing half is ever in place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from roiservice.catalog.columns import read_columns, to_arrow, to_numpy, write_columns
from roiservice.catalog.indexes import BLOCK_ROWS, FORMAT
from roiservice.catalog.reader import Catalog, open_catalog
from roiservice.catalog.registry import FIRST_EXTRA_ROI, FIRST_ID, ROIS
from roiservice.catalog.writer import CatalogWriter
from roiservice.errors import CatalogDamaged
from roiservice.geometry.frames import Frame
from roiservice.query.columns import read_features, read_polygons
from roiservice.vectorize.plane import trace_plane
from tests.catalog.support import roi_column, squares, write_catalog
from tests.vectorize.support import rings_of

FILES = [
    "features",
    "rows",
    "parts",
    "rings",
    "vertices",
    "planes",
    "blocks",
    "rois",
    "roi_rows",
    "roi_first",
    "page_rows",
    "properties",
]


def noise(
    seed: int, labels: int = 40, shape: tuple[int, int] = (50, 60), dtype: str = "int32"
) -> NDArray[Any]:
    chance = np.random.default_rng(seed)
    small = chance.integers(0, labels, (-(-shape[0] // 4), -(-shape[1] // 4)))
    return small.repeat(4, 0).repeat(4, 1)[: shape[0], : shape[1]].astype(dtype)


TWO_PLANES = [([(0, 0, 0)], noise(4)), ([(0, 0, 1)], noise(1))]


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    planes = [([(0, -1, 0)], noise(1)), ([(0, -1, 1), (0, -1, 2)], noise(2)), ([(1, -1, 0)], noise(3) * 0)]
    return write_catalog(tmp_path / "2", planes, colors={3: (1, 2, 3, 4)}, properties={5: {"class": "a"}})


def test_features_are_those_of_the_planes(catalog: Catalog) -> None:
    row = 0
    for plane, keys in ((noise(1), [(0, 0)]), (noise(2), [(0, 1), (0, 2)])):
        labels, polygons = trace_plane([plane])
        for t, z in keys:
            rows = np.arange(row, row + len(labels))
            features = read_features(catalog, rows)
            assert features.label.tolist() == labels.tolist()
            assert rings_of(features.polygons) == rings_of(polygons)
            assert set(features.t.tolist()) == {t}
            assert set(features.z.tolist()) == {z}
            assert features.area.tolist() == [(plane == label).sum() for label in labels]
            assert catalog.features["pixel_count"][rows].tolist() == features.area.tolist()
            row += len(labels)
    assert row == len(roi_column(catalog)) == catalog.meta["counts"]["features"]


def test_shapes_are_numbered_through_without_gaps(catalog: Catalog) -> None:
    first, count = catalog.features["shape_first"], catalog.features["part_count"]
    assert first[0] == 0
    assert (first[1:] == (first + count)[:-1]).all()
    assert catalog.meta["counts"]["shapes"] == first[-1] + count[-1]


def test_planes_say_where_their_rows_are(catalog: Catalog) -> None:
    assert catalog.planes["t"].tolist() == [0, 0, 0, 1]
    assert catalog.planes["z"].tolist() == [0, 1, 2, 0]
    assert catalog.planes["c"].tolist() == [-1] * 4
    ends = catalog.planes["first"] + catalog.planes["count"]
    assert catalog.planes["first"].tolist() == [0, *ends[:-1].tolist()]
    assert catalog.planes["count"][3] == 0


def test_rois_know_all_their_rows(catalog: Catalog) -> None:
    rois = catalog.rois
    assert (np.diff(rois["roi"]) > 0).all()
    for roi, label, first, last in zip(
        rois["roi"], rois["label"], catalog.roi_first, catalog.roi_first[1:], strict=False
    ):
        rows = catalog.roi_rows[first:last]
        assert rows.tolist() == np.flatnonzero(roi_column(catalog) == roi).tolist()
        assert set(catalog.features["label"][rows].tolist()) == {label}
    assert sorted(catalog.roi_rows.tolist()) == list(range(len(roi_column(catalog))))


def test_page_order_is_by_roi_within_each_plane(catalog: Catalog) -> None:
    for first, count in zip(catalog.planes["first"], catalog.planes["count"], strict=True):
        rows = catalog.page_rows[first : first + count]
        assert sorted(rows.tolist()) == list(range(first, first + count))
        assert (np.diff(roi_column(catalog)[rows]) > 0).all()


def test_colours_and_properties_go_to_their_label(catalog: Catalog) -> None:
    features = read_features(catalog, np.arange(len(roi_column(catalog))))
    classes = features.properties["class"].to_pylist()
    for label, color, own in zip(features.label.tolist(), features.color, classes, strict=True):
        assert color == ((1, 2, 3, 4) if label == 3 else None)
        assert own == ("a" if label == 5 else None)
    assert tuple(features.properties) == ("class",)


def test_blocks_cover_their_rows(tmp_path: Path) -> None:
    catalog = write_catalog(
        tmp_path / "2", [([(0, 0, 0)], squares(300, 300, side=2)), ([(0, 0, 1)], squares(40, 40))]
    )
    boxes = catalog.features["box"]
    assert len(catalog.blocks) == -(-len(boxes) // BLOCK_ROWS) > 3
    for number, block in enumerate(catalog.blocks):
        own = boxes[number * BLOCK_ROWS : (number + 1) * BLOCK_ROWS]
        assert block.tolist() == [*own[:, :2].min(axis=0), *own[:, 2:].max(axis=0)]


def test_measures_are_in_image_pixels(tmp_path: Path) -> None:
    frame = Frame(2.0, 1.5, 10.0, -3.0)
    plane = np.zeros((9, 9), np.uint8)
    plane[2:4, 5:8] = 1
    catalog = write_catalog(tmp_path / "2", [([(0, 0, 0)], plane)], frame=frame)
    features = read_features(catalog, np.array([0]))
    assert features.boxes.tolist() == [[20, 0, 26, 3]]
    assert features.area.tolist() == [18]
    assert features.perimeter.tolist() == [18]
    assert features.centroid.tolist() == [[23, 1.5]]
    assert features.polygons.xy.tolist() == [[20, 0], [26, 0], [26, 3], [20, 3]]
    assert catalog.features["pixel_count"].tolist() == [6]
    assert catalog.extent == (20, 0, 26, 3)
    assert catalog.base.xy.dtype == np.int32


def test_ids_follow_from_the_numbers(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "x", [([(0, 0, 0)], squares(20, 20))], version=9, layer_number=4)
    features = read_features(catalog, np.arange(3))
    assert features.feature_id.tolist() == [FIRST_ID + 9 * ROIS + n for n in range(3)]
    assert features.roi_id.tolist() == [FIRST_ID + 4 * ROIS + label for label in features.label.tolist()]
    assert (features.version, features.layer, features.image_name) == (9, "cells", "image")


def test_a_layer_without_objects(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "2", [([(0, 0, 0)], np.zeros((5, 5), int))])
    assert catalog.extent is None
    assert catalog.meta["counts"] == {"features": 0, "rois": 0, "shapes": 0, "vertices": 0}
    assert len(read_features(catalog, np.empty(0, np.int64))) == 0


def test_a_layer_without_planes(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "2", [])
    assert len(catalog.planes["t"]) == 0
    assert catalog.extent is None


def test_rows_come_in_the_order_asked_for(catalog: Catalog) -> None:
    rows = np.array([7, 3, 3, 0])
    features = read_features(catalog, rows)
    assert features.label.tolist() == catalog.features["label"][rows].tolist()
    polygons = read_polygons(
        catalog, catalog.features["part_first"][rows], catalog.features["part_count"][rows]
    )
    assert rings_of(polygons)[1] == rings_of(polygons)[2]


def test_the_same_planes_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a/2", "b/2"):
        write_catalog(tmp_path / name, TWO_PLANES, properties={1: {"x": 1.5}})
    files = sorted(path.name for path in (tmp_path / "a/2").iterdir())
    assert files == sorted([*(f"{name}.arrow" for name in FILES), "layer.json"])
    for name in files:
        assert (tmp_path / "a/2" / name).read_bytes() == (tmp_path / "b/2" / name).read_bytes(), name


def test_no_catalog_opens_before_it_is_finished(tmp_path: Path) -> None:
    writer = CatalogWriter(tmp_path / "2", Frame(), np.int64, np.int32)
    labels, polygons = trace_plane([noise(1)])
    writer.add_plane(
        [(0, 0, 0)], labels.astype(np.int64), polygons, np.ones(len(labels), np.int64), exact=True
    )
    with pytest.raises(CatalogDamaged):
        open_catalog(tmp_path / "2")
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "left.raw").write_bytes(b"left over")
    catalog = write_catalog(tmp_path / "2", [([(0, 0, 0)], squares(20, 20))])
    assert catalog.meta["counts"]["features"] == 9
    assert not list((tmp_path / "2").glob("*.raw"))


@pytest.mark.parametrize("name", [*(f"{name}.arrow" for name in FILES), "layer.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "zeros"])
def test_a_damaged_file_is_noticed(tmp_path: Path, name: str, damage: str) -> None:
    write_catalog(tmp_path / "2", TWO_PLANES, properties={1: {"x": 1.5}})
    path = tmp_path / "2" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(
            {"empty": b"", "cut": content[: len(content) * 2 // 3], "zeros": bytes(len(content))}[damage]
        )
    with pytest.raises(CatalogDamaged, match=re.escape(str(tmp_path / "2"))):
        open_catalog(tmp_path / "2")


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"format": 1}', '{"format": 999}', '"x"', "\xff"])
def test_a_wrong_layer_json_is_noticed(tmp_path: Path, text: str) -> None:
    write_catalog(tmp_path / "2", [([(0, 0, 0)], noise(1))])
    (tmp_path / "2" / "layer.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CatalogDamaged):
        open_catalog(tmp_path / "2")


def test_a_catalog_of_another_format_is_not_read(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "2", [([(0, 0, 0)], noise(1))])
    meta = {**catalog.meta, "format": FORMAT - 1}
    (catalog.directory / "layer.json").write_text(json.dumps(meta))
    with pytest.raises(CatalogDamaged, match=f"format {FORMAT - 1}, not {FORMAT}"):
        open_catalog(catalog.directory)


def test_columns_of_every_kind_go_round(tmp_path: Path) -> None:
    columns = {
        "a": np.arange(5),
        "b": np.arange(10.0).reshape(5, 2),
        "c": np.arange(5, dtype=np.uint64) + 2**63,
    }
    write_columns(tmp_path / "x.arrow", columns)
    read = read_columns(tmp_path / "x.arrow")
    assert list(read) == list(columns)
    for name, values in columns.items():
        assert np.array_equal(read[name], values)
        assert read[name].dtype == values.dtype


def test_labels_of_any_size_stay_what_they_are(tmp_path: Path) -> None:
    plane = np.zeros((3, 9), np.uint64)
    plane[1, 1::2] = [2**64 - 1, 2**63, 2**53 + 1, 7]
    order = {7: 7, 2**53 + 1: FIRST_EXTRA_ROI, 2**63: FIRST_EXTRA_ROI + 1, 2**64 - 1: FIRST_EXTRA_ROI + 2}
    catalog = write_catalog(
        tmp_path / "2",
        [([(0, 0, 0)], plane)],
        roi_numbers=lambda labels: np.array([order[n] for n in labels.tolist()]),
    )
    features = read_features(catalog, np.arange(4))
    assert (
        dict(zip(features.label.tolist(), (features.roi_id - catalog.first_roi_id).tolist(), strict=True))
        == order
    )


@pytest.mark.parametrize("part", [slice(0, 20), slice(4, 17), slice(5, 5)])
def test_columns_as_arrays_are_those_of_pyarrow(part: slice) -> None:
    numbers = np.arange(20)
    for values in (numbers, numbers.astype(np.uint8), numbers / 3, numbers % 3 == 0):
        column = pa.array(values)[part]
        assert to_numpy(column).tolist() == column.to_pylist()
        assert to_numpy(column).dtype == values.dtype
        if values.dtype != bool:
            assert to_arrow(values[part]).equals(column)
    boxes = to_arrow(numbers.reshape(-1, 4))[1:3]
    assert to_numpy(boxes).tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert to_numpy(boxes[:0]).shape == (0, 4)
