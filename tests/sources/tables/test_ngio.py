"""Fractal's tables: which there are, and boxes in pixels and on planes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.geometry.kinds import RECTANGLE
from roiservice.geometry.polygons import measure
from roiservice.sources.roots import open_store
from roiservice.sources.tables.ngiolisting import find_tables
from tests.sources.support import LIMITS
from tests.sources.tables.fractal import (
    BACKENDS,
    box_columns,
    boxes_of,
    entries_of,
    lists,
    values_of,
    write_table,
    write_tables,
)
from tests.sources.tables.frames import write_anndata
from tests.stores import write_group


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_tables_are_found_listed_or_not(tmp_path: Path, version: str) -> None:
    write_tables(tmp_path, ["a", "gone"], version)
    region = {"path": "../labels/nuclei"}
    write_table(tmp_path, "a", {"label": [1]}, version=version, type="feature_table", region=region)
    write_table(tmp_path, "b", {"label": [1]}, version=version, type="condition_table", index_key="x")
    write_group(tmp_path / "tables/no_table", version, {})
    a, b = entries_of(tmp_path).values()
    assert (a.name, a.path, a.type, a.version) == ("a", "tables/a", "feature_table", "1")
    assert (a.backend, a.region, a.index_key, a.instance_key) == ("csv", "nuclei", "label", None)
    assert (b.name, b.type, b.region, b.index_key, b.has_boxes) == ("b", "condition_table", None, "x", False)


def test_old_tables_state_no_backend(tmp_path: Path) -> None:
    write_table(tmp_path, "a", {"x": [1.0]}, "anndata", fractal_table_version="1", type="roi_table")
    document = tmp_path / "tables/a/.zattrs"
    stated = json.loads(document.read_text())
    del stated["backend"], stated["table_version"]
    document.write_text(json.dumps(stated))
    entry = entries_of(tmp_path)["a"]
    assert (entry.backend, entry.version, entry.index_key, entry.has_boxes) == (
        "anndata",
        "1",
        "FieldIndex",
        True,
    )


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ({"path": "../labels/nuclei"}, "nuclei"),
        ({"path": "../labels/original/0/"}, "original/0"),
        ({"path": "nuclei"}, "nuclei"),
        ({"path": "../labels"}, "labels"),
        ("../labels/cells", "cells"),
        ({"path": 5}, None),
        ({}, None),
        (["a"], None),
    ],
)
def test_the_region_is_a_label_image(tmp_path: Path, stated: Any, name: str | None) -> None:
    write_table(tmp_path, "values", {"label": [1]}, type="feature_table", region=stated)
    assert entries_of(tmp_path)["values"].region == name
    assert values_of(tmp_path).layers == (() if name is None else (name,))


def test_a_damaged_table_leaves_the_others(tmp_path: Path) -> None:
    write_tables(tmp_path, ["../out", "a"])
    write_table(tmp_path, "a", {"label": [1]}, type="feature_table")
    (tmp_path / "tables/b").mkdir()
    (tmp_path / "tables/b/.zattrs").write_text("{")
    listing = find_tables(open_store(tmp_path, LIMITS), "")
    assert [entry.name for entry in listing.entries] == ["a"]
    assert "tables[0] is not a path" in str(listing.problems[0])
    assert "bad JSON" in str(listing.problems[1])


def test_an_image_without_tables_has_none(tmp_path: Path) -> None:
    assert entries_of(tmp_path) == {}


@pytest.mark.parametrize("backend", [*BACKENDS, "anndata_v1", "experimental_json_v1"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_boxes_of_every_backend(tmp_path: Path, backend: str, version: str) -> None:
    boxes = [(0.65, 0.325, 0.0, 6.5, 3.25, 20.0), (13.0, 0.0, 4.0, 1.3, 1.3, 4.0)]
    data = {"FieldIndex": ["FOV_1", "02"], **box_columns(boxes), "well": ["B", "C"]}
    write_table(tmp_path, "boxes", data, backend, version, type="roi_table", index_key="FieldIndex")
    table = boxes_of(tmp_path)
    assert table.kind.tolist() == [RECTANGLE] * 3
    assert table.polygons.xy[:4].tolist() == [[1, 1], [11, 1], [11, 11], [1, 11]]
    assert measure(table.polygons).boxes[1:].tolist() == [[20, 0, 22, 4]] * 2
    assert (table.z.tolist(), table.t.tolist(), table.c.tolist()) == ([-1, 2, 3], [-1] * 3, [-1] * 3)
    assert (table.object.tolist(), table.label.tolist(), table.key) == ([0, 1, 1], [1, 2], ("FOV_1", "02"))
    assert lists(table.columns) == {"FieldIndex": ["FOV_1", "02"], "well": ["B", "C"]}
    assert (table.refused.count, table.warnings) == (0, ())


@pytest.mark.parametrize("backend", BACKENDS)
def test_boxes_of_labels(tmp_path: Path, backend: str) -> None:
    boxes = [(0.0, 0.0, 0.0, 0.65, 0.325, 20.0), (0.65, 0.325, 0.0, 0.65, 0.325, 20.0)]
    data = {"label": [7, 3], **box_columns(boxes), "area": [1.5, None]}
    write_table(tmp_path, "boxes", data, backend, type="masking_roi_table", index_key="label")
    table = boxes_of(tmp_path)
    assert (table.label.tolist(), table.key) == ([7, 3], None)
    assert measure(table.polygons).boxes.tolist() == [[0, 0, 1, 1], [1, 1, 2, 2]]
    assert lists(table.columns) == {"area": [1.5, None]}


def test_rows_of_one_label_or_name_are_one_object(tmp_path: Path) -> None:
    boxes = [(0.0, 0.0, 2.0 * z, 0.65, 0.325, 2.0) for z in (4, 1, 2)]
    data = {"label": [5, 9, 5], "FieldIndex": ["a", "b", "a"], **box_columns(boxes)}
    write_table(tmp_path, "boxes", data, type="masking_roi_table")
    write_table(tmp_path, "named", data, type="roi_table")
    table, named = boxes_of(tmp_path), boxes_of(tmp_path, "named")
    assert (table.label.tolist(), table.object.tolist()) == ([5, 9], [0, 1, 0])
    assert (named.key, named.label.tolist(), named.object.tolist()) == (("a", "b"), [1, 2], [0, 1, 0])
    assert table.z.tolist() == named.z.tolist() == [4, 1, 2]


def test_labels_of_named_boxes_serve_where_each_has_its_own(tmp_path: Path) -> None:
    boxes = [(0.0, 0.0, 0.0, 1.0, 1.0, 20.0)] * 2
    write_table(tmp_path, "boxes", {"label": [8, 4], **box_columns(boxes)}, type="roi_table")
    write_table(tmp_path, "other", {"label": [8, None], **box_columns(boxes)}, type="roi_table")
    table, other = boxes_of(tmp_path), boxes_of(tmp_path, "other")
    assert (table.label.tolist(), table.key, lists(table.columns)) == ([8, 4], ("row 1", "row 2"), {})
    assert (other.label.tolist(), lists(other.columns)) == ([1, 2], {"label": [8, None]})


def test_rows_without_a_usable_extent_are_refused_one_by_one(tmp_path: Path) -> None:
    good = (1.3, 0.65, 0.0, 1.3, 0.65, 20.0)
    changes: list[tuple[int, float | None]] = [
        (0, None),
        (1, None),
        (3, 0.0),
        (4, -2.0),
        (5, -1.0),
        (2, 30.0),
    ]
    boxes: list[Sequence[float | None]] = [good]
    boxes += [[value if at == n else v for n, v in enumerate(good)] for at, value in changes]
    boxes.append([1e300, *good[1:]])
    names = [f"r{number}" for number in range(1, len(boxes) + 1)]
    write_table(tmp_path, "boxes", {"FieldIndex": names, **box_columns(boxes)}, type="roi_table")
    table = boxes_of(tmp_path)
    assert (table.key, table.refused.count) == (("r1",), 7)
    for row, column, reason in [
        (2, "x_micrometer", "no finite number"),
        (3, "y_micrometer", "no finite number"),
        (4, "len_x_micrometer", "no length above 0"),
        (5, "len_y_micrometer", "no length above 0"),
        (6, "len_z_micrometer", "no length of 0 or more"),
        (7, "z_micrometer", "outside of the image's 10 planes"),
        (8, "x_micrometer", "too far away"),
    ]:
        assert [
            text
            for text in table.refused.reasons
            if f"row {row}, column '{column}'" in text and reason in text
        ]


def test_a_cell_that_is_no_number_costs_its_row_alone(tmp_path: Path) -> None:
    write_group(tmp_path / "tables/boxes", "0.4", {"type": "roi_table", "backend": "csv"})
    (tmp_path / "tables/boxes/table.csv").write_text(
        "FieldIndex,x_micrometer,y_micrometer,len_x_micrometer,len_y_micrometer\n"
        "01,0,0,6.5,3.25\nb,0,0,wide,1\nc,0,0,1\nd,0,0,0.65,0.325\n"
    )
    table = boxes_of(tmp_path)
    assert (table.key, table.refused.count) == (("01", "d"), 2)
    assert "row 2, column 'len_x_micrometer'" in table.refused.reasons[0]
    assert table.refused.reasons[1] == "line 4: 4 fields instead of 5"


def test_boxes_without_z_lie_on_every_plane(tmp_path: Path) -> None:
    data = box_columns([(0.0, 0.0, None, 1.0, 1.0, None), (0.0, 0.0, 2.0, 1.0, 1.0, 2.0)])
    write_table(tmp_path, "boxes", data, type="roi_table")
    flat = {name: values for name, values in data.items() if "z_" not in name}
    write_table(tmp_path, "flat", flat, type="roi_table")
    assert boxes_of(tmp_path).z.tolist() == [-1, 1]
    assert boxes_of(tmp_path, "flat").z.tolist() == [-1, -1]
    assert boxes_of(tmp_path, image_size=(1, 1, 1, 9, 9)).z.tolist() == [-1, -1]


def test_boxes_in_time_need_the_time_between_frames(tmp_path: Path) -> None:
    data = {
        **box_columns([(0.0, 0.0, 2.0, 1.0, 1.0, 4.0)] * 2),
        "t_second": [30.0, 0.0],
        "len_t_second": [60.0, 300.0],
    }
    write_table(tmp_path, "boxes", data, type="roi_table")
    table = boxes_of(tmp_path, image_size=(5, 1, 10, 9, 9), frame_seconds=30.0)
    assert list(zip(table.object.tolist(), table.t.tolist(), table.z.tolist(), strict=True)) == [
        (0, 1, 1), (0, 1, 2), (0, 2, 1), (0, 2, 2), (1, -1, 1), (1, -1, 2),
    ]  # fmt: skip
    assert boxes_of(tmp_path, image_size=(5, 1, 10, 9, 9)).t.tolist() == [-1] * 4


@pytest.mark.parametrize("size", [0.1, 0.1625, 0.325, 2.7, 123.4])
def test_the_plane_of_a_thin_box_whose_centre_lies_on_an_edge(tmp_path: Path, size: float) -> None:
    z, depth = (float(np.float32(eighths * size / 8)) for eighths in (71, 2))
    write_table(tmp_path, "boxes", box_columns([(0.0, 0.0, z, 1.0, 1.0, depth)]), type="roi_table")
    assert boxes_of(tmp_path, pixel_size=(size, 1.0, 1.0)).z.tolist() == [9]


def planes_by_hand(start: float, length: float, size: float, count: int) -> list[int] | None:
    """Planes that a box is on, one by one; [-1] for all, None for none."""
    inside = [k for k in range(count) if start <= (k + 0.5) * size < start + length]
    if len(inside) == count:
        return [-1]
    middle = (start + length / 2) / size
    return inside or ([int(middle)] if 0 <= middle < count else None)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    eighths=st.lists(
        st.tuples(
            *[st.integers(-40, 400)] * 2, st.integers(-16, 90), *[st.integers(1, 300)] * 2, st.integers(0, 90)
        ),
        min_size=1,
        max_size=5,
    ),
    scale=st.tuples(*[st.sampled_from([0.1, 0.1625, 0.325, 1.0, 2.7, 123.4])] * 3),
    single=st.booleans(),
)
def test_boxes_are_where_their_micrometres_are(
    tmp_path: Path, eighths: list[tuple[int, ...]], scale: tuple[float, float, float], single: bool
) -> None:
    """Positions in eighths of pixels; their micrometres are rounded, to single precision too."""
    units = np.array(scale[::-1] * 2) / 8
    boxes = np.array(eighths) * units
    boxes = boxes.astype(np.float32).astype(float) if single else boxes
    write_table(tmp_path, "boxes", box_columns(boxes.tolist()), "parquet", type="roi_table")
    table = boxes_of(tmp_path, pixel_size=scale)
    expected = [
        (row + 1, plane, [x / 8, y / 8, (x + width) / 8, (y + height) / 8])
        for row, (x, y, z, width, height, depth) in enumerate(eighths)
        for plane in planes_by_hand(z / 8, depth / 8, 1.0, 10) or []
    ]
    found = measure(table.polygons).boxes
    assert [(row, z) for row, z, _ in expected] == list(
        zip(table.label[table.object].tolist(), table.z.tolist(), strict=True)
    )
    np.testing.assert_allclose(found, np.array([box for *_, box in expected]).reshape(-1, 4), atol=1e-4)
    whole = np.array([box for *_, box in expected]).reshape(-1, 4) % 1 == 0
    assert (found[whole] % 1 == 0).all()


def test_boxes_need_their_columns_and_a_pixel_size(tmp_path: Path) -> None:
    write_table(tmp_path, "boxes", {"x_micrometer": [1.0]}, type="roi_table")
    write_table(tmp_path, "sound", box_columns([(0.0, 0.0, 0.0, 1.0, 1.0, 1.0)]), type="roi_table")
    write_table(tmp_path, "values", {"label": [1]}, type="feature_table")
    with pytest.raises(SourceDamaged, match="no column 'y_micrometer'"):
        boxes_of(tmp_path)
    with pytest.raises(SourceRefused, match="pixel size along x, which is nan"):
        boxes_of(tmp_path, "sound", pixel_size=(1.0, 1.0, float("nan")))
    with pytest.raises(SourceRefused, match="a feature_table holds no boxes"):
        boxes_of(tmp_path, "values")


def test_a_group_that_another_writer_made_is_read(tmp_path: Path) -> None:
    """The index of old tables has no name, and X is of single precision."""
    x = np.array([[416.0, 351.0, 416.0, 351.0]], np.float32)
    variables = ["x_micrometer", "y_micrometer", "len_x_micrometer", "len_y_micrometer"]
    write_anndata(
        tmp_path / "tables/boxes", {}, zarr_format=2, index=["FOV_2"], x=x, variables=variables,
        attributes={"type": "roi_table", "fractal_table_version": "1"},
    )  # fmt: skip
    table = boxes_of(tmp_path, pixel_size=(1.0, 0.1625, 0.1625))
    assert table.key == ("FOV_2",)
    assert measure(table.polygons).boxes.tolist() == [[2560, 2160, 5120, 4320]]
