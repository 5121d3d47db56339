"""Points elements of SpatialData: transcripts and other places, by the million."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.geometry.features import EVERY_INDEX
from roiservice.geometry.kinds import POINT
from roiservice.geometry.polygons import Polygons
from roiservice.sources.groups import Group, read_group
from roiservice.sources.limits import Limits
from roiservice.sources.paths import join
from roiservice.sources.store import Store
from roiservice.sources.tables.affine import Affine
from roiservice.sources.tables.columns import typed_columns
from roiservice.sources.tables.geometries import FARTHEST, Reasons
from roiservice.sources.tables.parquet import _checked_schema, _read
from roiservice.sources.tables.spatialdata import Element
from roiservice.sources.tables.spatialshapes import pandas_index
from roiservice.sources.tables.table import NO_COLOR, ShapeTable

_FOLDER = "points.parquet"
_MOST_PARTS = 10_000  # that are looked for one by one
_FILES_TOGETHER = 4  # all parts may have so many times the bytes that one file may have


def read_points(store: Store, element: Element, affine: Affine, limits: Limits) -> ShapeTable:
    """The points of an element, mapped by `affine` to pixels of the image; each is an object.

    Their labels are the rows' numbers from 1; all columns but x and y are properties, z among them in its own
    unit. Raises SourceDamaged and SourceRefused; points whose x or y is missing, not finite or out of reach
    are refused in the result.
    """
    group = read_group(store, element.path)
    if group is None:
        raise SourceDamaged(store.location, element.path, "there is no such group")
    reasons = Reasons(store.location, element.path)
    columns = _columns(store, element.path, limits, reasons)
    _check_keys(group, columns, reasons)
    xy = affine.apply(np.stack([_coordinates(columns, name, reasons) for name in "xy"], axis=1))
    sound = np.asarray((np.abs(xy) <= FARTHEST).all(axis=1))  # not so for NaN
    rows = np.flatnonzero(sound)
    if len(rows) < len(sound):
        reason = "a coordinate is missing, not finite, or too far away to lie in an image"
        reasons.refuse_all(np.flatnonzero(~sound), "x, y", reason)
        xy = xy[rows]
        columns = {name: values.take(pa.array(rows)) for name, values in columns.items()}
    n = len(rows)
    every = np.full(n, EVERY_INDEX, np.int32)
    each = np.arange(n + 1)
    return ShapeTable(
        polygons=Polygons(xy + 0.0, each, each, each),  # no zero has a sign
        kind=np.full(n, POINT, np.uint8),
        t=every,
        c=every,
        z=every,
        object=each[:-1],
        label=rows + 1,
        key=None,
        color=np.full(n, NO_COLOR, np.int64),
        columns=columns,
        refused=reasons.refusals(),
        warnings=reasons.warnings(),
    )


def _columns(store: Store, path: str, limits: Limits, reasons: Reasons) -> dict[str, pa.Array]:
    """Typed columns of all parts, x and y among them, and the index where it has a name."""
    folder = join(path, _FOLDER)
    parts = list(_parts(store, folder, limits))
    if not parts:
        raise SourceDamaged(store.location, folder, "there is no such file, nor a folder with such files")
    schema = _checked_schema(parts, store.location, folder, limits)
    table, index = _read(parts, schema, store.location, folder, limits, reasons)
    columns = typed_columns(table, ())
    name = pandas_index(schema)
    if index is not None and isinstance(name, str) and not name.startswith("__"):
        columns.setdefault(name, index)
    return columns


def _parts(store: Store, folder: str, limits: Limits) -> Iterator[bytes]:
    """The file, or those in a folder of this name in the order of their numbers, as dask writes it."""
    left = _FILES_TOGETHER * limits.table_bytes
    paths = [folder] if store.file_exists(folder) else _part_paths(store, folder)
    for path in paths:
        data = store.read(path, limits.table_bytes)
        if data is None:
            raise SourceDamaged(store.location, path, "there is no such file")
        left -= len(data)
        if left < 0:
            reason = f"its files have more than {_FILES_TOGETHER * limits.table_bytes} bytes"
            raise SourceRefused(store.location, folder, reason)
        yield data


def _part_paths(store: Store, folder: str) -> list[str]:
    found = [path for path, _, _ in store.files(folder) if path.rpartition("/")[0] == folder]
    paths = [path for path in found if re.search(r"/[^/._][^/]*\.parquet$", path)]
    if paths:
        return sorted(paths, key=_natural)
    # A zip, or a server that lists nothing.
    names = (join(folder, f"part.{number}.parquet") for number in range(_MOST_PARTS + 1))
    paths = list(takewhile(store.file_exists, names))
    if len(paths) > _MOST_PARTS:
        raise SourceRefused(store.location, folder, f"has more than {_MOST_PARTS} parts")
    return paths


def _natural(path: str) -> list[tuple[int, str]]:
    """Key to sort by numbers in names as numbers: part.2 comes before part.10."""
    return [(int(text), "") if i % 2 else (0, text) for i, text in enumerate(re.split("([0-9]+)", path))]


def _coordinates(columns: dict[str, pa.Array], name: str, reasons: Reasons) -> NDArray[np.float64]:
    """A column of numbers, taken out of `columns`; NaN where there is none."""
    values = columns.pop(name, None)
    if values is None:
        raise SourceDamaged(reasons.location, reasons.part, f"has no column {name!r}")
    if not (pa.types.is_float64(values.type) or pa.types.is_int64(values.type)):
        raise SourceDamaged(reasons.location, reasons.part, f"column {name!r} must hold numbers")
    return np.asarray(values.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy())


def _check_keys(group: Group, columns: dict[str, pa.Array], reasons: Reasons) -> None:
    attributes: Any = group.raw.get("spatialdata_attrs")
    for key in ("feature_key", "instance_key") if isinstance(attributes, dict) else ():
        name = attributes.get(key)
        if isinstance(name, str) and name not in columns:
            reasons.warn(f"there is no column {name!r}, which {key} names")
