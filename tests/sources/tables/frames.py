"""AnnData groups for tests, written with plain zarr calls as the encodings define them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import VLenUTF8
from zarr.core.dtype import VariableLengthUTF8

ENCODINGS = (
    "array",
    "string-array",
    "fixed-length",
    "categorical",
    "categorical-0.1",
    "nullable",
    "nullable-string-array",
)
Column = tuple[str, Sequence[Any]]


def write_anndata(
    path: Path,
    obs: Mapping[str, Column],
    *,
    zarr_format: int = 3,
    index: Sequence[str] | None = None,
    index_name: str = "_index",
    x: np.ndarray[Any, Any] | None = None,
    variables: Sequence[str] = (),
    uns: Mapping[str, str | Sequence[str]] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Path:
    """An AnnData group; `obs`: name -> (encoding, values); `uns` are the entries of `spatialdata_attrs`."""
    root = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0", **(attributes or {})})
    rows = len(next(iter(obs.values()))[1]) if obs else 0 if x is None else len(x)
    names = [str(row) for row in range(rows)] if index is None else index
    write_frame(root, "obs", obs, names, index_name)
    write_frame(root, "var", {}, variables)
    if x is not None:
        write_array(root, "X", x)
    if uns is not None:
        inner = root.create_group("uns/spatialdata_attrs")
        for key, value in uns.items():
            write_texts(inner, key, np.array(value) if isinstance(value, str) else list(value))
    return path


def write_frame(
    root: zarr.Group,
    name: str,
    columns: Mapping[str, Column],
    index: Sequence[str],
    index_name: str = "_index",
) -> zarr.Group:
    group = root.create_group(name)
    old = any(encoding == "categorical-0.1" for encoding, _ in columns.values())
    version = "0.1.0" if old else "0.2.0"
    group.attrs.update({"_index": index_name, "column-order": list(columns), "encoding-version": version})
    group.attrs["encoding-type"] = "dataframe"
    write_texts(group, index_name, index)
    for column, (encoding, values) in columns.items():
        write_column(group, column, encoding, values)
    return group


def write_column(group: zarr.Group, name: str, encoding: str, values: Sequence[Any]) -> None:
    if encoding == "array":
        write_array(group, name, np.asarray(values))
    elif encoding == "string-array":
        write_texts(group, name, values)
    elif encoding == "fixed-length":
        write_array(group, name, np.asarray(values, "U8"))
    elif encoding == "nullable":
        inner = group.create_group(name)
        fill = next((value for value in values if value is not None), 0)
        filled = np.array([fill if value is None else value for value in values])
        kind = "nullable-boolean" if filled.dtype == bool else "nullable-integer"
        inner.attrs.update({"encoding-type": kind, "encoding-version": "0.1.0"})
        write_array(inner, "values", filled)
        write_array(inner, "mask", np.array([value is None for value in values], bool))
    elif encoding == "nullable-string-array":
        inner = group.create_group(name)
        inner.attrs.update({"encoding-type": encoding, "encoding-version": "0.1.0"})
        write_texts(inner, "values", ["" if value is None else value for value in values])
        write_array(inner, "mask", np.array([value is None for value in values], bool))
    else:
        _write_categorical(group, name, encoding, values)


def _write_categorical(group: zarr.Group, name: str, encoding: str, values: Sequence[Any]) -> None:
    categories = sorted({value for value in values if value is not None})
    codes = np.array([-1 if value is None else categories.index(value) for value in values], np.int8)
    if encoding == "categorical":
        inner = group.create_group(name)
        inner.attrs.update({"encoding-type": encoding, "encoding-version": "0.2.0", "ordered": False})
        write_array(inner, "codes", codes)
        place, path = inner, "categories"
    else:
        write_array(group, name, codes).attrs["categories"] = f"__categories/{name}"
        place, path = group.require_group("__categories"), name
    if all(isinstance(category, str) for category in categories):
        write_texts(place, path, categories)
    else:
        write_array(place, path, np.array(categories))


def write_array(group: zarr.Group, name: str, values: np.ndarray[Any, Any]) -> zarr.Array[Any]:
    array = group.create_array(name, data=values, chunks=tuple(max(1, size) for size in values.shape))
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return array


def write_texts(group: zarr.Group, name: str, values: Any) -> zarr.Array[Any]:
    texts = np.asarray(values, dtype=object)
    array = group.create_array(
        name,
        shape=texts.shape,
        dtype=VariableLengthUTF8(),
        chunks=tuple(max(1, size) for size in texts.shape),
        filters=[VLenUTF8()] if group.metadata.zarr_format == 2 else "auto",
        fill_value="",
    )
    array[...] = texts if texts.ndim else texts.item()
    array.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    return array


def write_sparse(path: Path, matrix: Any, form: str) -> None:
    group = zarr.open_group(str(path), mode="a").create_group("X")
    group.attrs.update({"encoding-type": f"{form}_matrix", "shape": list(matrix.shape)})
    for name in ("data", "indices", "indptr"):
        write_array(group, name, getattr(matrix, name))
