"""AnnData tables: every encoding of columns, X dense and sparse, and what their rows are about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from roiservice.sources.limits import Limits
from roiservice.sources.roots import open_store
from roiservice.sources.tables.anndata import MOST_VARIABLES, AnnDataTable, read_anndata, rows_of, values_of
from tests.sources.support import LIMITS
from tests.sources.tables.frames import (
    ENCODINGS,
    Column,
    write_anndata,
    write_array,
    write_sparse,
    write_texts,
)
from tests.stores import zip_store

FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])
REGIONS = {"region": "cells", "region_key": "region", "instance_key": "instance_id"}

VALUES: dict[str, list[list[Any]]] = {
    "array": [[1, -2, 3], [0.5, float("nan"), 2.0], [True, False, True]],
    "string-array": [["a", "", "ü\u4e2d"]],
    "fixed-length": [["a", "", "ü\u4e2d"]],
    "categorical": [["b", None, "a"], [7, 7, None], [0.5, 1.5, 0.5]],
    "categorical-0.1": [["b", None, "a"], [7, 7, None]],
    "nullable": [[1, None, 3], [True, None, False]],
    "nullable-string-array": [["a", None, ""]],
}


def table_at(path: Path, limits: Limits = LIMITS) -> AnnDataTable:
    return read_anndata(open_store(path.parent, limits), path.name, limits)


@FORMATS
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.filterwarnings("ignore:The data type")  # zarr v3 has yet to specify texts of fixed length
def test_columns_of_every_encoding(tmp_path: Path, encoding: str, zarr_format: int) -> None:
    columns = {f"c{number}": (encoding, values) for number, values in enumerate(VALUES[encoding])}
    table = table_at(write_anndata(tmp_path / "a", columns, zarr_format=zarr_format))
    expected = {
        f"c{number}": [None if value != value else value for value in values]  # NaN is null
        for number, values in enumerate(VALUES[encoding])
    }
    assert {name: values.to_pylist() for name, values in table.obs.items()} == expected
    assert {str(values.type) for values in table.obs.values()} <= {"bool", "int64", "double", "string"}
    assert table.warnings == ()


_INTS = st.integers(-(2**31), 2**31 - 1)
_TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=8)


@st.composite
def frames(draw: st.DrawFn) -> dict[str, Column]:
    rows = draw(st.integers(0, 12))
    kinds = {
        "array": st.one_of(st.lists(_INTS, min_size=rows, max_size=rows), _lists(st.booleans(), rows)),
        "string-array": _lists(_TEXTS, rows),
        "fixed-length": _lists(_TEXTS, rows),
        "categorical": _lists(st.one_of(st.none(), _TEXTS), rows),
        "nullable": _lists(st.one_of(st.none(), _INTS), rows),
        "nullable-string-array": _lists(st.one_of(st.none(), _TEXTS), rows),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=4))
    return {f"c{number}": (kind, draw(kinds[kind])) for number, kind in enumerate(chosen)}


def _lists(values: st.SearchStrategy[Any], rows: int) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=rows, max_size=rows)


@pytest.mark.filterwarnings("ignore:The data type")
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns=frames(), zarr_format=st.sampled_from([2, 3]))
def test_columns_come_back_as_they_were(tmp_path: Path, columns: dict[str, Column], zarr_format: int) -> None:
    table = table_at(write_anndata(tmp_path / "a", columns, zarr_format=zarr_format))
    assert {name: values.to_pylist() for name, values in table.obs.items()} == {
        name: list(values) for name, (_, values) in columns.items()
    }
    assert len(table.index) == len(next(iter(columns.values()))[1])


@FORMATS
def test_an_index_has_its_own_name_or_none(tmp_path: Path, zarr_format: int) -> None:
    columns: dict[str, Column] = {"area": ("array", [1.0, 2.0])}
    path = write_anndata(tmp_path / "a", columns, index=["x", "y"], zarr_format=zarr_format)
    named = write_anndata(
        tmp_path / "b", columns, index=["7", "8"], index_name="label", zarr_format=zarr_format
    )
    assert table_at(path).index_name is None
    assert table_at(path).index.to_pylist() == ["x", "y"]
    assert table_at(named).index_name == "label"
    assert list(table_at(named).obs) == ["area"]


def test_columns_without_a_stated_order_are_found(tmp_path: Path) -> None:
    path = write_anndata(
        tmp_path / "a", {"b": ("array", [1]), "a": ("categorical-0.1", ["x"])}, zarr_format=2
    )
    attributes = json.loads((path / "obs/.zattrs").read_text())
    del attributes["column-order"]
    (path / "obs/.zattrs").write_text(json.dumps(attributes))
    assert list(table_at(path).obs) == ["a", "b"]


@FORMATS
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "bool", ">f8"])
def test_x_is_named_by_the_index_of_var(tmp_path: Path, dtype: str, zarr_format: int) -> None:
    x = np.array([[0, 1], [2, 0], [1, 1]]).astype(dtype)
    path = write_anndata(
        tmp_path / "a", {}, index=list("abc"), x=x, variables=["p", "q"], zarr_format=zarr_format
    )
    columns = table_at(path).x
    assert {str(values.type) for values in columns.values()} == {"bool" if dtype == "bool" else "double"}
    assert {name: values.to_pylist() for name, values in columns.items()} == {
        "p": x[:, 0].tolist(),
        "q": x[:, 1].tolist(),
    }


@FORMATS
@pytest.mark.parametrize("form", ["csr", "csc"])
def test_sparse_x_is_as_dense_x(tmp_path: Path, form: str, zarr_format: int) -> None:
    dense = np.random.default_rng(0).poisson(0.4, (7, 4)).astype(np.float32)
    path = write_anndata(
        tmp_path / "a", {}, index=list("abcdefg"), variables=list("wxyz"), zarr_format=zarr_format
    )
    write_sparse(path, getattr(sparse, f"{form}_matrix")(dense), form)
    columns = table_at(path).x
    np.testing.assert_array_equal(np.column_stack([columns[name].to_numpy() for name in "wxyz"]), dense)


def test_entries_stated_twice_are_added_up(tmp_path: Path) -> None:
    twice = sparse.csr_matrix((np.array([1.0, 2.0, 4.0]), np.array([1, 1, 0]), np.array([0, 2, 3])), (2, 2))
    path = write_anndata(tmp_path / "a", {}, index=list("ab"), variables=["p", "q"])
    write_sparse(path, twice, "csr")
    columns = table_at(path).x
    assert [columns[name].to_pylist() for name in "pq"] == twice.toarray().T.tolist()


@pytest.mark.parametrize(
    ("name", "values"), [("indices", [0, 9]), ("indptr", [0, 2]), ("indptr", [0, 5, 2]), ("data", [1.0])]
)
def test_a_sparse_x_that_does_not_fit_is_left_out(tmp_path: Path, name: str, values: list[float]) -> None:
    path = write_anndata(tmp_path / "a", {}, index=list("ab"), variables=["p", "q"])
    write_sparse(path, sparse.csr_matrix(np.eye(2)), "csr")
    group = zarr.open_group(str(path), mode="a")
    del group[f"X/{name}"]
    write_array(group["X"], name, np.array(values))
    table = table_at(path)
    assert table.x == {}
    assert "do not fit" in table.warnings[0]


def test_x_of_many_variables_is_left_out_with_a_warning(tmp_path: Path) -> None:
    count = MOST_VARIABLES + 1
    names = [f"gene{number}" for number in range(count)]
    path = write_anndata(tmp_path / "a", {}, index=list("ab"), x=np.zeros((2, count)), variables=names)
    table = table_at(path)
    assert table.x == {}
    assert f"has {count} variables; {MOST_VARIABLES} are allowed" in table.warnings[0]


def test_no_x_is_no_fault(tmp_path: Path) -> None:
    path = write_anndata(tmp_path / "a", {"a": ("array", [1])})
    assert (table_at(path).x, table_at(path).warnings) == ({}, ())
    array = zarr.open_group(str(path), mode="a").create_array("X", shape=(), dtype="bool")
    array.attrs["encoding-type"] = "null"
    assert (table_at(path).x, table_at(path).warnings) == ({}, ())


def test_obs_wins_over_variables_of_the_same_name(tmp_path: Path) -> None:
    path = write_anndata(
        tmp_path / "a", {"a": ("array", [1])}, x=np.array([[2.0, 3.0]]), variables=["a", "b"]
    )
    table = table_at(path)
    assert {name: values.to_pylist() for name, values in table.columns.items()} == {"a": [1], "b": [3.0]}
    assert "left out: a" in table.warnings[0]


@FORMATS
def test_a_table_in_a_zip(tmp_path: Path, zarr_format: int) -> None:
    columns: dict[str, Column] = {"c": ("categorical", ["x", None]), "i": ("nullable", [None, 2])}
    path = write_anndata(tmp_path / "a.zarr", columns, zarr_format=zarr_format)
    table = read_anndata(open_store(zip_store(path, ".zip", inside="t/"), LIMITS), "t", LIMITS)
    assert {name: values.to_pylist() for name, values in table.obs.items()} == {
        "c": ["x", None],
        "i": [None, 2],
    }


@FORMATS
@pytest.mark.parametrize("place", ["uns", "attributes"])
def test_what_a_table_annotates(tmp_path: Path, place: str, zarr_format: int) -> None:
    stated = {"region": ["cells", "nuclei"], "region_key": "region", "instance_key": "id"}
    columns: dict[str, Column] = {
        "region": ("categorical", ["nuclei", "cells", "cells", None]),
        "id": ("array", [3, 2, 9, 1]),
        "area": ("array", [0.5, 1.5, 2.5, 3.5]),
    }
    path = write_anndata(tmp_path / "a", columns, zarr_format=zarr_format, **{place: stated})
    table = table_at(path)
    assert (table.regions, table.region_key, table.instance_key) == (("cells", "nuclei"), "region", "id")
    assert [(name, rows.tolist()) for name, rows in rows_of(table)] == [("cells", [1, 2]), ("nuclei", [0])]
    cells, nuclei = values_of(table)
    assert (cells.layers, cells.label.tolist()) == (("cells",), [2, 9])
    assert (nuclei.layers, nuclei.label.tolist()) == (("nuclei",), [3])
    assert {name: values.to_pylist() for name, values in cells.columns.items()} == {"area": [1.5, 2.5]}


def test_values_need_labels_of_their_own(tmp_path: Path) -> None:
    columns: dict[str, Column] = {
        "region": ("categorical", ["cells"] * 5),
        "instance_id": ("string-array", ["4", "x", "5.0", "4", "0"]),
        "area": ("array", [1, 2, 3, 4, 5]),
    }
    (values,) = values_of(table_at(write_anndata(tmp_path / "a", columns, uns=REGIONS)))
    assert values.label.tolist() == [5, 4, 0]
    assert values.columns["area"].to_pylist() == [3, 4, 5]
    assert values.warnings == (
        "1 row left out, first row 2: the label is no whole number",
        "1 row left out, first row 1: a later row has the same label",
    )


def test_names_of_observations_are_values_unless_they_are_numbers(tmp_path: Path) -> None:
    columns: dict[str, Column] = {"region": ("categorical", ["cells"] * 2), "instance_id": ("array", [1, 2])}
    numbered = write_anndata(tmp_path / "a", columns, uns=REGIONS)
    named = write_anndata(tmp_path / "b", columns, uns=REGIONS, index=["AAC-1", "AAG-1"])
    assert values_of(table_at(numbered))[0].columns == {}
    assert values_of(table_at(named))[0].columns["index"].to_pylist() == ["AAC-1", "AAG-1"]


def test_a_table_about_nothing_has_no_values(tmp_path: Path) -> None:
    table = table_at(write_anndata(tmp_path / "a", {"a": ("array", [1])}))
    assert values_of(table) == []
    assert [(name, rows.tolist()) for name, rows in rows_of(table)] == [(None, [0])]


def test_a_key_without_its_column_is_a_warning(tmp_path: Path) -> None:
    table = table_at(write_anndata(tmp_path / "a", {"region": ("array", [1])}, uns=REGIONS))
    assert values_of(table) == []
    assert "no column 'instance_id'" in table.warnings[0]


def test_scalars_may_have_a_fixed_length(tmp_path: Path) -> None:
    path = write_anndata(tmp_path / "a", {"region": ("array", [1])}, zarr_format=2)
    group = zarr.open_group(str(path), mode="a").create_group("uns/spatialdata_attrs")
    group.create_array("region", data=np.array("cells"))
    write_texts(group, "instance_key", np.array("region"))
    table = table_at(path)
    assert (table.regions, table.instance_key) == (("cells",), "region")
