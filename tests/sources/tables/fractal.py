"""Fractal's tables for tests, in all their backends, and shorthand to read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from roiservice.sources.limits import Limits
from roiservice.sources.roots import open_store
from roiservice.sources.tables.ngio import read_boxes, read_values
from roiservice.sources.tables.ngiolisting import TableEntry, find_tables
from roiservice.sources.tables.table import ShapeTable, ValueTable
from tests.sources.support import LIMITS
from tests.sources.tables.frames import write_anndata
from tests.stores import write_group

BACKENDS = ("anndata", "csv", "json", "parquet")
Data = Mapping[str, Sequence[Any]]
SCALE = (2.0, 0.325, 0.65)  # z, y, x
SIZES = (1, 1, 10, 100, 200)


def box_columns(boxes: Sequence[Sequence[float | None]]) -> dict[str, list[float | None]]:
    """Boxes as x, y, z, length along x, y, z."""
    names = ["x_micrometer", "y_micrometer", "z_micrometer"]
    names += [f"len_{name}" for name in names]
    return {name: [box[number] for box in boxes] for number, name in enumerate(names)}


def write_table(
    image: Path, name: str, data: Data, backend: str = "csv", version: str = "0.4", **attributes: Any
) -> Path:
    """A table of an image, listed or not, in one of the backends; the index of AnnData is `index_key`."""
    path = image / "tables" / name
    stated = {"backend": backend, "table_version": "1", **attributes}
    kind = backend.removesuffix("_v1").removeprefix("experimental_")
    if kind == "anndata":
        _write_anndata(path, data, version, stated)
        return path
    write_group(path, version, **split(version, stated))
    if kind == "json":
        write_group(path / "table", version, data)
        if version >= "0.5":
            (path / "table/zarr.json").write_text(
                json.dumps({"zarr_format": 3, "node_type": "group", "attributes": data})
            )
    elif kind == "csv":
        csv.write_csv(pa.table(dict(data)), path / "table.csv")
    elif kind == "parquet":
        parquet.write_table(pa.table(dict(data)), path / "table.parquet")
    return path


def split(version: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes go beside `ome` in v3, where `write_group` takes them as keywords."""
    return {"attributes": {}, **attributes} if version >= "0.5" else {"attributes": attributes}


def _write_anndata(path: Path, data: Data, version: str, stated: Mapping[str, Any]) -> None:
    """As ngio splits it: floats to X, the rest to obs, the key of the rows to its index, as text."""
    key = stated.get("index_key", "_index")
    rows = len(next(iter(data.values())))
    floats = {name: values for name, values in data.items() if any(isinstance(v, float) for v in values)}
    others = {name: values for name, values in data.items() if name not in floats and name != key}
    write_anndata(
        path,
        {
            name: ("string-array" if isinstance(values[0], str) else "array", values)
            for name, values in others.items()
        },
        zarr_format=3 if version >= "0.5" else 2,
        index=[str(value) for value in data.get(key, range(rows))],
        index_name=key,
        x=np.array([[np.nan if v is None else v for v in values] for values in floats.values()], float).T,
        variables=list(floats),
        attributes=stated,
    )


def write_tables(image: Path, names: Sequence[str], version: str = "0.4") -> None:
    write_group(image / "tables", version, **split(version, {"tables": list(names)}))


def entries_of(image: Path, path: str = "") -> dict[str, TableEntry]:
    listing = find_tables(open_store(image, LIMITS), path)
    assert listing.problems == ()
    return {entry.name: entry for entry in listing.entries}


def boxes_of(image: Path, name: str = "boxes", limits: Limits = LIMITS, **options: Any) -> ShapeTable:
    options = {"pixel_size": SCALE, "image_size": SIZES, **options}
    return read_boxes(open_store(image, limits), entries_of(image)[name], limits, **options)


def values_of(image: Path, name: str = "values") -> ValueTable:
    return read_values(open_store(image, LIMITS), entries_of(image)[name], LIMITS)


def lists(columns: Mapping[str, pa.Array]) -> dict[str, list[Any]]:
    return {name: values.to_pylist() for name, values in columns.items()}
