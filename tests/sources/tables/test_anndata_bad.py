"""AnnData tables that are damaged, hostile or too large: what is sound of them is read."""

from __future__ import annotations

import json
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.sources.limits import Limits
from roiservice.sources.roots import open_store
from roiservice.sources.tables.anndata import AnnDataTable, read_anndata, values_of
from tests.sources.support import LIMITS
from tests.sources.tables.frames import (
    Column,
    write_anndata,
    write_array,
)

REGIONS = {"region": "cells", "region_key": "region", "instance_key": "instance_id"}


def table_at(path: Path, limits: Limits = LIMITS) -> AnnDataTable:
    return read_anndata(open_store(path.parent, limits), path.name, limits)


def test_columns_that_cannot_be_used_are_left_out(tmp_path: Path) -> None:
    columns: dict[str, Column] = {
        "good": ("array", [1, 2]),
        "codes": ("categorical", ["x", "y"]),
        "mask": ("nullable", [1, None]),
        "gone": ("array", [1, 2]),
        "text": ("string-array", ["a", "b"]),
    }
    path = write_anndata(tmp_path / "a", columns)
    obs = zarr.open_group(str(path), mode="a")["obs"]
    obs["codes/codes"][...] = 5
    del obs["mask/mask"]
    write_array(obs["mask"], "mask", np.array([True]))
    del obs["gone"]
    chunk = path / "obs/text/c/0"
    chunk.write_bytes(chunk.read_bytes()[:-4])
    write_array(obs, "long", np.arange(3))
    write_array(obs, "flat", np.zeros((2, 2)))
    write_array(obs, "complex", np.zeros(2, complex))
    obs.create_group("deep").create_group("deeper")
    order = [*obs.attrs["column-order"], "long", "flat", "complex", "deep", "../../../etc"]
    obs.attrs["column-order"] = order
    table = table_at(path)
    assert list(table.obs) == ["good"]
    for name, reason in {
        "codes": "codes without a category",
        "mask": "one bool for each value",
        "gone": "no such array or group",
        "text": "cannot be read",
        "long": "has 3 rows, but the index has 2",
        "flat": "has 2 axes instead of 1",
        "complex": "neither numbers nor texts",
        "deep": "no column of values",
        "../../../etc": "cannot be the path",
    }.items():
        assert [True for text in table.warnings if f"column {name!r} left out" in text and reason in text]


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    path = write_anndata(tmp_path / "a", {"good": ("array", [1]), "bad": ("array", [1])}, zarr_format=2)
    document = path / "obs/bad/.zarray"
    changed = {"dtype": "|O", "filters": [{"id": "pickle"}], "compressor": None, "fill_value": None}
    document.write_text(json.dumps(json.loads(document.read_text()) | changed))
    (path / "obs/bad/0").write_bytes(pickle.dumps(Evil()))
    table = table_at(path)
    assert list(table.obs) == ["good"]
    assert "can run code" in table.warnings[0]
    assert not marker.exists()


def test_what_is_no_table_is_damage(tmp_path: Path) -> None:
    store = open_store(tmp_path, LIMITS)
    with pytest.raises(SourceDamaged, match="no such group"):
        read_anndata(store, "nothing", LIMITS)
    zarr.open_group(str(tmp_path / "empty"), mode="w")
    with pytest.raises(SourceDamaged, match="no such group"):
        read_anndata(store, "empty", LIMITS)


def test_structured_arrays_of_old_are_refused(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "a"), mode="w", zarr_format=2)
    group.create_array("obs", data=np.zeros(2, "i4"))
    with pytest.raises(SourceRefused, match=r"before 0\.7"):
        table_at(tmp_path / "a")


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(table_rows=2), "has 3 rows; 2 are allowed"),
        (Limits(table_bytes=8), "bytes; 8 are allowed"),
        (Limits(chunk_bytes=8), "chunks of"),
    ],
)
def test_limits_hold_before_anything_is_read(tmp_path: Path, limits: Limits, reason: str) -> None:
    path = write_anndata(tmp_path / "a", {"a": ("array", [1, 2, 3])})
    with pytest.raises(SourceRefused, match=reason):
        table_at(path, limits)


def test_huge_arrays_without_chunks_are_not_made(tmp_path: Path) -> None:
    path = write_anndata(tmp_path / "a", {"a": ("array", [1, 2])}, zarr_format=2)
    document = path / "obs/a/.zarray"
    document.write_text(json.dumps(json.loads(document.read_text()) | {"shape": [10**12]}))
    assert "are allowed" in table_at(path).warnings[0]


def test_long_categories_are_counted_before_they_are_written_out(tmp_path: Path) -> None:
    path = write_anndata(tmp_path / "a", {"c": ("categorical", ["x" * 1000] * 100)})
    table = table_at(path, Limits(table_bytes=10_000))
    assert table.obs == {}
    assert "decodes to 100000 bytes; 10000 are allowed" in table.warnings[0]


def test_texts_are_counted_as_they_come(tmp_path: Path) -> None:
    path = write_anndata(tmp_path / "a", {"c": ("string-array", ["x" * 1000] * 100)})
    assert "texts of more than 10000 bytes" in table_at(path, Limits(table_bytes=10_000)).warnings[0]


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 10**12), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=4,
)


@pytest.mark.filterwarnings("ignore:Found an empty list")
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    document=st.sampled_from(
        ["obs/.zattrs", "obs/_index/.zarray", "obs/c/.zattrs", "obs/c/codes/.zarray",
         "obs/c/categories/.zarray", "X/.zarray", "X/.zattrs", "var/.zattrs",
         "uns/spatialdata_attrs/region/.zarray"]
    ),
    key=st.sampled_from(
        ["_index", "column-order", "encoding-type", "shape", "chunks", "dtype", "compressor", "filters",
         "fill_value", "order", "zarr_format", "categories"]
    ),
    value=JUNK,
)  # fmt: skip
def test_only_source_errors_come_out_of_any_metadata(
    tmp_path: Path, document: str, key: str, value: Any
) -> None:
    path = tmp_path / "a"
    columns: dict[str, Column] = {"c": ("categorical", ["x", "y"]), "region": ("array", [1, 2])}
    write_anndata(path, columns, zarr_format=2, x=np.eye(2), variables=["p", "q"], uns=REGIONS)
    content = json.loads((path / document).read_text()) if (path / document).exists() else {}
    (path / document).write_text(json.dumps(content | {key: value}))
    with suppress(SourceError):
        values_of(table_at(path, Limits(table_bytes=2**20, chunk_bytes=2**20)))
