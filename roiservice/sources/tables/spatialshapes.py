"""Shapes elements of SpatialData: polygons, multipolygons and circles.

Version 0.1 keeps ragged arrays in the element's group, 0.2 and 0.3 a GeoParquet file beside its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from roiservice.errors import SourceDamaged, SourceRefused, TooManyVertices
from roiservice.geometry.kinds import ELLIPSE_VERTICES, ellipse_outlines
from roiservice.geometry.polygons import Polygons
from roiservice.records import dataclass
from roiservice.sources.groups import read_group
from roiservice.sources.limits import Limits
from roiservice.sources.paths import join
from roiservice.sources.store import Store
from roiservice.sources.tables.affine import Affine
from roiservice.sources.tables.columns import label_column, typed_columns
from roiservice.sources.tables.geometries import Reasons, from_geometries, table_of
from roiservice.sources.tables.hierarchy import Hierarchy
from roiservice.sources.tables.parquet import read_geoparquet
from roiservice.sources.tables.spatialdata import Element
from roiservice.sources.tables.table import Int64, ShapeTable

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
Geometries = NDArray[Any]

_FILE = "shapes.parquet"
_RADIUS = "radius"
_INDEX = "index"  # what an index without a name is called as a property
_RAGGED = "0.1"
_OFFSETS = {"POINT": 0, "POLYGON": 2, "MULTIPOLYGON": 3}  # arrays of offsets per type of geometry


@dataclass(frozen=True)
class _Rows:
    """r shapes in the element's own coordinates, and their typed columns, a radius for circles among them."""

    geometries: Geometries
    columns: dict[str, pa.Array]
    index: pa.Array | None
    index_name: str = _INDEX


def read_shapes(store: Store, element: Element, affine: Affine, limits: Limits) -> ShapeTable:
    """The shapes of an element, mapped by `affine` to pixels of the image.

    An index of integers gives the labels. One of texts gives the keys, and is a property too; then a column
    may give the labels. Points with a radius are circles: ellipses in the image, or outlines of such where
    `affine` tilts their axes. z coordinates are left out. Raises SourceDamaged and SourceRefused; single rows
    that cannot be used are refused in the result.
    """
    group = read_group(store, element.path)
    if group is None:
        raise SourceDamaged(store.location, element.path, "there is no such group")
    reasons = Reasons(store.location, element.path)
    attributes = group.raw.get("spatialdata_attrs")
    if isinstance(attributes, dict) and attributes.get("version") == _RAGGED:
        source = Hierarchy(store, group.zarr_format, limits)
        rows = _ragged_rows(source, element.path, attributes, reasons)
    else:
        rows = _parquet_rows(store, element.path, limits, reasons)
    return _table(rows, affine, limits, reasons)


def _table(rows: _Rows, affine: Affine, limits: Limits, reasons: Reasons) -> ShapeTable:
    columns = dict(rows.columns)
    geometries, radius, ellipse = rows.geometries, None, None
    points = shapely.get_type_id(geometries) == shapely.GeometryType.POINT
    if _RADIUS in columns and points.any():
        radius = _radius(columns.pop(_RADIUS), reasons)
        geometries, radius, ellipse = _circles(geometries, radius, affine, reasons, limits)
    else:
        geometries = _mapped(geometries, affine)
    shapes = from_geometries(geometries, radius, ellipse, reasons, most_vertices=limits.table_vertices)
    label, key = _names(rows, columns)
    return table_of(
        shapes, len(geometries), label=label, key=key, color=None, columns=columns, reasons=reasons
    )


def _names(rows: _Rows, columns: dict[str, pa.Array]) -> tuple[Int64 | None, pa.Array | None]:
    """Labels and keys of the rows; a column that gives either is taken from `columns` or added to them."""
    index = rows.index
    if index is not None and pa.types.is_int64(index.type) and not index.null_count:
        return np.asarray(index.to_numpy()), None
    key = None
    if index is not None and pa.types.is_string(index.type) and not index.null_count:
        key = index
        columns.setdefault(rows.index_name, index)
    found = label_column(columns)
    if found is None or not found.known.all():
        return None, key
    del columns[found.name]
    return found.values, key


def _radius(column: pa.Array, reasons: Reasons) -> Float64:
    if not (pa.types.is_float64(column.type) or pa.types.is_int64(column.type)):
        raise SourceDamaged(reasons.location, reasons.part, "the column 'radius' must hold numbers")
    return np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy())


def _mapped(geometries: Geometries, affine: Affine) -> Geometries:
    """The geometries mapped, without z. Those with coordinates that are not finite stay as they are."""
    if affine == Affine():
        return np.asarray(shapely.force_2d(geometries))
    xy, of = shapely.get_coordinates(geometries, return_index=True)
    sound = np.ones(len(geometries), np.bool_)
    sound[of[~np.isfinite(xy).all(axis=1)]] = False  # GEOS might refuse to build them, and with them all
    mapped = geometries.copy()
    mapped[sound] = shapely.transform(geometries[sound], affine.apply)
    return mapped


def _circles(
    geometries: Geometries, radius: Float64, affine: Affine, reasons: Reasons, limits: Limits
) -> tuple[Geometries, Float64, Bool]:
    """Geometries mapped, radii in pixels where circles stay circles, and which are the box of an ellipse.

    spatialdata 0.7 keeps circles as such whatever the map; with unequal scales it gives them a mean radius.
    """
    round_ = (shapely.get_type_id(geometries) == shapely.GeometryType.POINT) & ~shapely.is_empty(geometries)
    round_ &= np.isfinite(radius) & (radius > 0)
    mapped = _mapped(geometries, affine)
    boxed = np.zeros(len(geometries), np.bool_)
    radii = affine.circle_radii()
    if radii is not None and affine.is_uniform:
        return mapped, radius * radii[0], boxed
    if radii is not None:
        boxed = round_
        center, half = shapely.get_coordinates(mapped[round_]), radius[round_, None] * radii
        mapped[round_] = shapely.box(*(center - half).T, *(center + half).T)
        return mapped, radius, boxed
    count = ELLIPSE_VERTICES * int(round_.sum())
    if count > limits.table_vertices:
        reason = f"its tilted circles have {count} vertices; {limits.table_vertices} are allowed"
        raise TooManyVertices(reasons.location, reasons.part, reason)
    both = np.repeat(radius[round_, None], 2, axis=1)
    outlines = ellipse_outlines(shapely.get_coordinates(geometries[round_]), both)
    mapped[round_] = shapely.polygons(affine.apply(outlines.reshape(-1, 2)).reshape(outlines.shape))
    return mapped, radius, boxed


def _parquet_rows(store: Store, path: str, limits: Limits, reasons: Reasons) -> _Rows:
    """Versions 0.2 and 0.3: a file that is no member of the zarr hierarchy, as GeoPandas writes it."""
    part = join(path, _FILE)
    data = store.read(part, limits.table_bytes)
    if data is None:
        raise SourceDamaged(store.location, part, "there is no such file")
    geometries, table, index = read_geoparquet(data, store.location, part, limits, reasons)
    stated = pandas_index(table.schema)
    if index is None and isinstance(stated, dict):
        index = _counted(stated, len(geometries))
    named = isinstance(stated, str) and not stated.startswith("__")
    return _Rows(geometries, typed_columns(table, ()), index, str(stated) if named else _INDEX)


def pandas_index(schema: pa.Schema) -> Any:
    """What pandas' metadata say of the index: the name of its column, or an object that tells how to count.

    https://pandas.pydata.org/docs/development/developer.html
    """
    try:
        stated = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    except (ValueError, RecursionError):
        return None
    indices = stated.get("index_columns") if isinstance(stated, dict) else None
    return indices[0] if isinstance(indices, list) and len(indices) == 1 else None


def _counted(stated: Mapping[str, Any], rows: int) -> pa.Array | None:
    """An index that was not written, since it counts rows: tables join to its numbers nevertheless."""
    start, step = stated.get("start"), stated.get("step")
    if type(start) is not int or type(step) is not int or step == 0:
        return None
    if max(abs(start), abs(start + step * rows)) >= 2**63:
        return None
    return pa.array(start + step * np.arange(rows, dtype=np.int64))


def _ragged_rows(source: Hierarchy, path: str, attributes: Mapping[str, Any], reasons: Reasons) -> _Rows:
    """Version 0.1: arrays as shapely's `to_ragged_array` gives them, an index, and a radius for points."""
    stated = attributes.get("geos")
    kind = stated.get("name") if isinstance(stated, dict) else None
    if not isinstance(kind, str) or kind not in _OFFSETS:
        reason = f"geos.name is {kind!r}; it may be {', '.join(_OFFSETS)}"
        raise SourceRefused(source.store.location, path, reason)
    # There are more vertices than rows.
    wide = replace(source, limits=replace(source.limits, table_rows=source.limits.table_vertices))
    try:
        coords = wide.numbers(join(path, "coords"), axes=2)
    except SourceRefused as refused:
        raise TooManyVertices(refused.store, refused.part, refused.reason) from None
    if coords.shape[1] not in (2, 3):
        reason = f"has {coords.shape[1]} columns; points have 2 or 3 coordinates"
        raise SourceDamaged(source.store.location, join(path, "coords"), reason)
    xy = np.ascontiguousarray(coords[:, :2], np.float64)
    columns: dict[str, pa.Array] = {}
    if kind == "POINT":
        geometries = shapely.points(xy)
        columns = typed_columns({_RADIUS: source.column(join(path, _RADIUS))}, ())
    else:
        offsets: list[Int64] = []
        below = len(xy)
        for level in range(_OFFSETS[kind]):
            offsets.append(_offsets(wide, join(path, f"offset{level}"), below))
            below = len(offsets[-1]) - 1
        geometries = _polygons(xy, offsets, reasons)
    (index,) = typed_columns({_INDEX: source.column(join(path, "Index"))}, ()).values()
    for name, values in (("Index", index), *columns.items()):
        if len(values) != len(geometries):
            reason = f"has {len(values)} entries for {len(geometries)} shapes"
            raise SourceDamaged(source.store.location, join(path, name), reason)
    return _Rows(geometries, columns, index)


def _offsets(source: Hierarchy, path: str, below: int) -> Int64:
    """Offsets into `below` entries of the level below, ascending."""
    offsets = source.numbers(path)
    if offsets.dtype.kind not in "iu" or not len(offsets):
        raise SourceDamaged(source.store.location, path, "must hold integers, at least one")
    offsets = offsets.astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != below or (np.diff(offsets) < 0).any():
        raise SourceDamaged(source.store.location, path, f"must ascend from 0 to {below}")
    return offsets


def _polygons(xy: Float64, offsets: list[Int64], reasons: Reasons) -> Geometries:
    """Geometries of ragged arrays. Rows that would keep all from being built are refused, and None."""
    if len(offsets) == 2:  # polygons: each has one part
        offsets = [*offsets, np.arange(len(offsets[-1]))]
    vertices, rings, parts = offsets
    short = np.diff(vertices) < 3
    wild = _sums(np.asarray(~np.isfinite(xy).all(axis=1)), vertices) > 0
    hollow = np.diff(rings) == 0
    empty = (np.diff(parts) == 0) | (_sums(hollow, parts) > 0)
    of_row = rings[parts]
    bad = {
        "the geometry, or a part of it, is empty": empty,
        "a coordinate is not finite": _sums(wild, of_row) > 0,
        "a ring has fewer than three vertices": _sums(short, of_row) > 0,
    }
    good = np.ones(len(parts) - 1, np.bool_)
    for reason, rows in bad.items():
        reasons.refuse_all(np.flatnonzero(rows), "coords", reason)
        good &= ~rows
    geometries = np.full(len(good), None, object)
    kept = Polygons(xy, vertices, rings, parts).take(np.flatnonzero(good))
    arrays = (kept.vertex_offsets, kept.ring_offsets, kept.part_offsets)
    geometries[good] = shapely.from_ragged_array(shapely.GeometryType.MULTIPOLYGON, kept.xy, arrays)
    return geometries


def _sums(values: Bool, offsets: Int64) -> Int64:
    """How many `values` are true in each group."""
    total = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=total[1:])
    return total[offsets[1:]] - total[offsets[:-1]]
