"""Fractal's tables: values of labels, damaged files, limits."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.sources.limits import Limits
from roiservice.sources.roots import open_store
from roiservice.sources.tables.ngio import read_values
from roiservice.sources.tables.ngiolisting import find_tables
from tests.sources.support import LIMITS
from tests.sources.tables.fractal import (
    BACKENDS,
    box_columns,
    boxes_of,
    lists,
    values_of,
    write_table,
)
from tests.stores import write_group, zip_store


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_of_every_backend(tmp_path: Path, backend: str) -> None:
    data = {"label": [3, 1, 2], "area": [1.5, None, 2.5], "count": [4, 5, 6], "class": ["a", "b", "ü"]}
    region = {"path": "../labels/nuclei"}
    write_table(tmp_path, "values", data, backend, type="feature_table", index_key="label", region=region)
    values = values_of(tmp_path)
    assert (values.label.tolist(), values.layers, values.warnings) == ([3, 1, 2], ("nuclei",), ())
    assert lists(values.columns) == {name: list(data[name]) for name in values.columns}
    assert set(values.columns) == {"area", "count", "class"}


def test_an_instance_key_tells_the_labels(tmp_path: Path) -> None:
    data = {"cell": [4, 5], "label": [1, 2]}
    write_table(tmp_path, "values", data, type="generic_table", instance_key="cell")
    assert values_of(tmp_path).label.tolist() == [4, 5]


@pytest.mark.parametrize("kind", ["generic_table", "condition_table", "something else"])
def test_a_table_of_no_labels_is_refused(tmp_path: Path, kind: str) -> None:
    data = {"condition": [1, 2], "drug": ["A", "B"]}
    write_table(tmp_path, "values", data, type=kind, index_key="condition")
    write_table(tmp_path, "named", {"label": ["x", "y"]}, type=kind)
    for name in ("values", "named"):
        with pytest.raises(SourceRefused, match="tells no labels: it has no column 'label' of integers"):
            values_of(tmp_path, name)


def test_an_empty_table_has_no_values(tmp_path: Path) -> None:
    empty = {"label": pa.array([], pa.int64()), "area": pa.array([], pa.float64())}
    write_table(tmp_path, "values", empty, "parquet", type="feature_table")
    assert (len(values_of(tmp_path).label), set(values_of(tmp_path).columns)) == (0, {"area"})


def test_a_label_has_the_values_of_its_last_row(tmp_path: Path) -> None:
    write_table(
        tmp_path, "values", {"label": [1, 1, 2, 1], "area": [1.0, 2.0, 3.0, 4.0]}, type="feature_table"
    )
    table = values_of(tmp_path)
    assert (table.label.tolist(), lists(table.columns)["area"]) == ([2, 1], [3, 4])
    assert "2 rows left out" in table.warnings[0]


def test_tables_in_a_zip(tmp_path: Path) -> None:
    image = tmp_path / "a.zarr"
    write_table(image, "values", {"label": [2], "area": [1.0]}, "parquet", type="feature_table")
    store = open_store(zip_store(image, ".zip", inside="a/"), LIMITS)
    (entry,) = find_tables(store, "a").entries
    assert read_values(store, entry, LIMITS).label.tolist() == [2]


@pytest.mark.parametrize(
    ("backend", "content", "reason"),
    [
        ("csv", b"", "no readable csv file"),
        ("csv", b"label\n\xff\xfe\n", "no readable csv file"),
        ("parquet", b"PAR1 and no more", "no readable parquet file"),
        ("csv", None, "no such file"),
        ("hdf5", b"", "backend 'hdf5' is not one of anndata, csv, json, parquet"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, backend: str, content: bytes | None, reason: str) -> None:
    path = write_group(tmp_path / "tables/values", "0.4", {"type": "feature_table", "backend": backend})
    if content is not None:
        (path / f"table.{backend}").write_bytes(content)
    with pytest.raises(SourceError, match=reason):
        values_of(tmp_path)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"label": [1], "a": [1, 2]}, "differ in length"),
        ({"label": 5}, "must be a list"),
    ],
)
def test_damaged_json_is_named(tmp_path: Path, table: dict[str, Any], reason: str) -> None:
    write_table(tmp_path, "values", table, "json", type="feature_table")
    with pytest.raises(SourceDamaged, match=reason):
        values_of(tmp_path)


def test_json_may_hold_objects_by_row_and_mixed_types(tmp_path: Path) -> None:
    table = {"label": {"0": 1, "1": 2}, "mixed": [1, "a"], "nan": [float("nan"), 1]}
    write_table(tmp_path, "values", table, "json", type="feature_table")
    values = values_of(tmp_path)
    assert values.label.tolist() == [1, 2]
    assert lists(values.columns) == {"mixed": ["1", "a"], "nan": [None, 1.0]}


@pytest.mark.parametrize("backend", BACKENDS)
def test_limits_of_rows_hold(tmp_path: Path, backend: str) -> None:
    data = {"label": list(range(1, 12)), "area": [0.5] * 11}
    write_table(tmp_path, "values", data, backend, type="feature_table", index_key="label")
    (entry,) = find_tables(open_store(tmp_path, LIMITS), "").entries
    with pytest.raises(SourceRefused, match="has 11 rows; 10 are allowed"):
        read_values(open_store(tmp_path, LIMITS), entry, Limits(table_rows=10))


def test_limits_of_vertices_hold(tmp_path: Path) -> None:
    write_table(tmp_path, "boxes", box_columns([(0.0, 0.0, 0.0, 1.0, 1.0, 18.0)]), type="roi_table")
    with pytest.raises(SourceRefused, match="cover 9 planes together; 8 are allowed"):
        boxes_of(tmp_path, limits=Limits(table_vertices=35))


def test_a_short_file_of_many_long_texts_is_refused(tmp_path: Path) -> None:
    data = {"label": list(range(1000)), "text": ["x" * 10_000] * 1000}
    path = write_table(tmp_path, "values", data, "parquet", type="feature_table") / "table.parquet"
    assert path.stat().st_size < 100_000
    (entry,) = find_tables(open_store(tmp_path, LIMITS), "").entries
    with pytest.raises(SourceRefused, match="decodes to 10000000 bytes"):
        read_values(open_store(tmp_path, LIMITS), entry, Limits(table_bytes=1_000_000))


def test_columns_of_lists_and_bytes_are_left_out(tmp_path: Path) -> None:
    data = {"label": [1], "list": [[1, 2]], "bytes": [b"a"]}
    write_table(tmp_path, "values", data, "parquet", type="feature_table")
    values = values_of(tmp_path)
    assert values.columns == {}
    assert len(values.warnings) == 2


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60), backend=st.sampled_from(["csv", "parquet"]), cut=st.integers(0, 400))
def test_only_source_errors_come_out_of_any_file(tmp_path: Path, data: bytes, backend: str, cut: int) -> None:
    sound = {"label": [1, 2], **box_columns([(0.0, 0.0, 0.0, 1.0, 1.0, 1.0)] * 2)}
    path = write_table(tmp_path, "boxes", sound, backend, type="masking_roi_table")
    file = path / f"table.{backend}"
    content = file.read_bytes()
    file.write_bytes(content[:cut] + data + content[cut + len(data) :])
    with suppress(SourceError):
        boxes_of(tmp_path)
