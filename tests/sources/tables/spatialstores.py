"""SpatialData stores for tests: containers 0.1 (zarr v2) and 0.2 (zarr v3)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
import zarr

from tests.stores import TYPES, edit_attributes, write_group, write_multiscale

FORMATS = ("0.1", "0.2")
_RASTERS = {"0.1": "0.4-dev-spatialdata", "0.2": "0.5-dev-spatialdata"}
_ELEMENTS = {"0.1": {"shapes": "0.2", "points": "0.1"}, "0.2": {"shapes": "0.3", "points": "0.2"}}


def system(axes: str, name: str | None = None) -> dict[str, Any]:
    """A coordinate system as SpatialData writes it."""
    return {"name": name or axes, "axes": [{"name": axis, "type": TYPES[axis]} for axis in axes]}


def transform(
    kind: str, value: Any = None, axes: str = "xy", to: str = "global", out: str | None = None
) -> dict[str, Any]:
    """One transformation as SpatialData writes it; `out` are the axes of the target, if others."""
    key = "transformations" if kind == "sequence" else kind
    stated = {} if value is None else {key: value}
    return {"type": kind, **stated, "input": system(axes), "output": system(out or axes, to)}


def write_root(path: Path, version: str = "0.2") -> Path:
    """A root without elements."""
    return write_group(path, zarr_version(version), {}, spatialdata_attrs={"version": version})


def write_raster(
    root: Path,
    name: str,
    array: np.ndarray,
    *transforms: Mapping[str, Any],
    axes: str = "yx",
    folder: str = "labels",
    version: str = "0.2",
) -> Path:
    """`<folder>/<name>`; without transforms the identity to "global"."""
    ngff = _RASTERS[version]
    write_group(root / folder, zarr_version(version), {folder: [name]})
    path = write_multiscale(root / folder / name, array, axes, ngff)
    stated = list(transforms) or [transform("identity", axes=axes)]
    entry = multiscale_of(path) | {"coordinateTransformations": stated}
    edit_attributes(path, multiscales=[entry])
    return path


def multiscale_of(path: Path) -> dict[str, Any]:
    """The only entry of `multiscales` of a written raster."""
    file = path / "zarr.json"
    if file.exists():
        return dict(json.loads(file.read_text())["attributes"]["ome"]["multiscales"][0])
    return dict(json.loads((path / ".zattrs").read_text())["multiscales"][0])


def write_element(
    root: Path,
    name: str,
    *transforms: Mapping[str, Any],
    kind: str = "shapes",
    axes: str = "xy",
    version: str = "0.2",
    element_version: str | None = None,
    **attributes: Any,
) -> Path:
    """Group of a shapes or points element without its file; `attributes` go into `spatialdata_attrs`."""
    write_group(root / kind, zarr_version(version), {})
    stated = list(transforms) or [transform("identity", axes=axes)]
    own = {"version": element_version or _ELEMENTS[version][kind], **attributes}
    return write_group(
        root / kind / name,
        zarr_version(version),
        {},
        **{"encoding-type": f"ngff:{kind}", "axes": list(axes)},
        coordinateTransformations=stated,
        spatialdata_attrs=own,
    )


def write_shapes(path: Path, shapes: gpd.GeoDataFrame, encoding: str = "WKB", **options: Any) -> Path:
    """A store with `shapes/s`: GeoParquet in an encoding of its, or ragged arrays (version 0.1)."""
    root = write_root(path / "a.zarr", "0.1" if encoding == "ragged" else "0.2")
    if encoding == "ragged":
        return write_ragged(root, np.asarray(shapes.geometry), shapes.index, shapes.get("radius"))
    element = write_element(root, "s", **options)
    shapes.to_parquet(element / "shapes.parquet", geometry_encoding=encoding)
    return root


def write_ragged(root: Path, geometries: Any, index: Any, radius: Any = None) -> Path:
    """`shapes/s` in version 0.1."""
    kind, coords, offsets = shapely.to_ragged_array(geometries)
    geos = {"name": kind.name, "type": kind.value}
    element = write_element(root, "s", version="0.1", element_version="0.1", geos=geos)
    write_values(element / "coords", coords)
    for level, values in enumerate(offsets):
        write_values(element / f"offset{level}", values)
    write_values(element / "Index", np.asarray(index))
    if radius is not None:
        write_values(element / "radius", np.asarray(radius))
    return root


def write_values(path: Path, values: np.ndarray) -> None:
    """One array of zarr v2, of numbers or texts."""
    if values.dtype.kind in "OUT":
        array = zarr.create_array(str(path), shape=values.shape, dtype=str, zarr_format=2, overwrite=True)
        array[...] = values.astype(np.dtypes.StringDType())
    else:
        zarr.create_array(str(path), data=values, zarr_format=2, overwrite=True)


def zarr_version(version: str) -> str:
    """An NGFF version with the zarr format of that container."""
    return "0.4" if version == "0.1" else "0.5"
