"""From geometries of rows to the shapes that features are drawn as, and from those to a table of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from roiservice.errors import TooManyVertices
from roiservice.geometry.compiled import compiled
from roiservice.geometry.features import EVERY_INDEX
from roiservice.geometry.kinds import (
    ELLIPSE,
    ELLIPSE_VERTICES,
    LINE,
    POINT,
    POLYGON,
    POLYLINE,
    ellipse_outlines,
)
from roiservice.geometry.polygons import Polygons
from roiservice.records import dataclass
from roiservice.sources.limits import Limits
from roiservice.sources.tables.repair import repaired_polygons
from roiservice.sources.tables.table import MOST_REASONS, NO_COLOR, Int32, Int64, Refusals, ShapeTable

Float64 = NDArray[np.float64]

FARTHEST = 2.0**40  # of a coordinate from 0: areas stay finite, and so does what is written of them
_ROWS_AT_ONCE = 100_000  # bounds the copies of coordinates that checks make


class Reasons:
    """What was wrong with the rows of one table: refusals and repairs, in the order they were found.

    Rows count from 1, as users count rows of data. `location` and `part` name the table in errors about all
    of it.
    """

    def __init__(self, location: str = "", part: str = "") -> None:
        self.location = location
        self.part = part
        self._refused: set[int] = set()
        self._reasons: list[tuple[int, str]] = []
        self._repaired: set[int] = set()
        self._warnings: list[str] = []

    def refuse(self, row: int, column: str, reason: str) -> None:
        """The row cannot be used; a row is counted once, by its first reason."""
        if row in self._refused:
            return
        self._refused.add(row)
        if len(self._reasons) < MOST_REASONS:
            where = f"row {row}, column {column!r}" if column else f"row {row}"
            self._reasons.append((row, f"{where}: {reason}"))

    def refuse_all(self, rows: Int64, column: str, reason: str) -> None:
        """Refuse rows given by their index, which counts from 0."""
        for row in rows.tolist():
            self.refuse(row + 1, column, reason)

    def repaired(self, row: int) -> None:
        """The row's geometry was invalid and is used as mended."""
        self._repaired.add(row)

    def warn(self, warning: str) -> None:
        """Something about the whole table that its user should know."""
        self._warnings.append(warning)

    def refusals(self) -> Refusals:
        """Refused rows; those of the reasons kept in ascending order."""
        return Refusals(len(self._refused), tuple(reason for _, reason in sorted(self._reasons)))

    def warnings(self) -> tuple[str, ...]:
        """Warnings about the table, then one about repairs if there were any."""
        mended = self._repaired - self._refused
        if not mended:
            return tuple(self._warnings)
        count = "1 invalid polygon was" if len(mended) == 1 else f"{len(mended)} invalid polygons were"
        return (*self._warnings, f"{count} repaired, first in row {min(mended)}")


@dataclass(frozen=True)
class Shapes:
    """n features made from r rows: `kind` (n,), and the index `row` (n,) of each one's row, ascending.

    `polygons` float64, as `roiservice.geometry.kinds` says; in the unit and frame of the geometries.
    """

    polygons: Polygons
    kind: NDArray[np.uint8]
    row: Int64


def from_geometries(
    geometries: NDArray[Any],
    radius: Float64 | None = None,
    ellipse: NDArray[np.bool_] | None = None,
    reasons: Reasons | None = None,
    *,
    column: str = "geometry",
    most_vertices: int = Limits.table_vertices,
) -> Shapes:
    """Features of (r,) shapely geometries of any type, or None; coordinates other than x and y are dropped.

    Polygons, LineStrings and Points become POLYGON, LINE or POLYLINE, and POINT; of multi-geometries and
    collections, one feature per kind with several parts. A point with a `radius` (r,) above 0 is a circle,
    an ELLIPSE; so is a polygon where `ellipse` (r,) is true: the one that touches its box. Several ellipses
    of one row are features each. Exteriors have positive area in the numbers as given, and rings begin at
    their topmost, then leftmost vertex.

    Refused, as of column `column`, are rows without a geometry, with an empty one, with coordinates that are
    not finite or beyond 2**40, or with a radius below 0; rows with an invalid polygon if it cannot be
    repaired. Raises TooManyVertices for more than `most_vertices`.
    """
    reasons = Reasons() if reasons is None else reasons
    rows = _usable(geometries, radius, reasons, column)
    atoms, of_row = _atoms(geometries[rows], rows)
    dimension = shapely.get_dimensions(atoms)
    areas, lines, points = (np.flatnonzero(dimension == d) for d in (2, 1, 0))
    boxed = areas[ellipse[of_row[areas]]] if ellipse is not None else areas[:0]
    areas = np.setdiff1d(areas, boxed, assume_unique=True) if len(boxed) else areas
    round_ = points[np.nan_to_num(radius[of_row[points]]) > 0] if radius is not None else points[:0]
    points = np.setdiff1d(points, round_, assume_unique=True) if len(round_) else points
    total = int(shapely.get_num_coordinates(atoms).sum()) + ELLIPSE_VERTICES * (len(boxed) + len(round_))
    if total > most_vertices:
        reason = f"its shapes have more than the {most_vertices} vertices allowed"
        raise TooManyVertices(reasons.location, reasons.part, reason)
    groups = [
        _polygons(atoms[areas], of_row[areas], reasons, column),
        _boxed_ellipses(atoms[boxed], of_row[boxed], reasons, column),
        _lines(atoms[lines], of_row[lines]),
        _circles(atoms[round_], of_row[round_], radius),
        _points(atoms[points], of_row[points]),
    ]
    return _merged([group for group in groups if len(group.row)])


def table_of(
    shapes: Shapes,
    rows: int,
    *,
    label: Int64 | None,
    key: Sequence[str] | pa.Array | None,
    color: Int64 | None,
    columns: Mapping[str, pa.Array],
    t: Int32 | None = None,
    c: Int32 | None = None,
    z: Int32 | None = None,
    reasons: Reasons,
) -> ShapeTable:
    """The table of objects that the features of `rows` rows make; all arguments but `shapes` are per row.

    Rows with one key, or without keys with one label, are one object: its label, color and columns are those
    of the first of its rows that has a feature; a warning tells of columns that differ between its rows.
    Rows without a feature make no object. `label`, `key`: None where the source has none, then every row is
    an object called by its number from 1. `t`, `c`, `z`: None for -1, every index.
    """
    identity = _identity(rows, label, key)[shapes.row]
    _, first, which = np.unique(identity, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    order = np.argsort(first)
    rank[order] = np.arange(len(first))
    first_row = shapes.row[first[order]]
    of_feature = rank[which.ravel()]
    warnings = _differing(columns, shapes.row, first_row[of_feature])
    chosen = None if len(first_row) == rows else pa.array(first_row)
    every = np.full(rows, EVERY_INDEX, np.int32)
    return ShapeTable(
        polygons=shapes.polygons,
        kind=shapes.kind,
        t=(every if t is None else t)[shapes.row].astype(np.int32),
        c=(every if c is None else c)[shapes.row].astype(np.int32),
        z=(every if z is None else z)[shapes.row].astype(np.int32),
        object=of_feature,
        label=first_row + 1 if label is None else label[first_row].astype(np.int64),
        key=None if key is None else tuple(pa.array(key).take(pa.array(first_row)).to_pylist()),
        color=np.full(len(first_row), NO_COLOR, np.int64) if color is None else color[first_row],
        columns={name: v if chosen is None else v.take(chosen) for name, v in columns.items()},
        refused=reasons.refusals(),
        warnings=(*reasons.warnings(), *warnings),
    )


def _identity(rows: int, label: Int64 | None, key: Sequence[str] | pa.Array | None) -> Int64:
    """(rows,) numbers that are equal for rows of one object."""
    if key is not None:
        codes = pa.array(key, pa.string()).dictionary_encode().indices
        return np.asarray(codes.to_numpy(zero_copy_only=False)).astype(np.int64)
    return np.arange(rows) if label is None else label


def _differing(columns: Mapping[str, pa.Array], row: Int64, first_row: Int64) -> tuple[str, ...]:
    """A warning of columns whose values in `row` are not those in `first_row`, the row of their object."""
    again = np.flatnonzero(row != first_row)
    if not len(again):
        return ()
    here, there = pa.array(row[again]), pa.array(first_row[again])
    names = [name for name, values in columns.items() if not values.take(here).equals(values.take(there))]
    if not names:
        return ()
    shown = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (f"values of {shown} differ between rows of one object; those of its first row are kept",)


def _usable(geometries: NDArray[Any], radius: Float64 | None, reasons: Reasons, column: str) -> Int64:
    """Indices of the rows whose geometry can be used; the others are refused."""
    present = shapely.is_geometry(geometries)
    empty = shapely.is_empty(geometries) & present
    reasons.refuse_all(np.flatnonzero(~present), column, "there is no geometry")
    reasons.refuse_all(np.flatnonzero(empty), column, "the geometry is empty")
    rows = np.flatnonzero(present & ~empty)
    bad = np.zeros(len(rows), np.bool_)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = geometries[rows[start : start + _ROWS_AT_ONCE]]
        xy, of = shapely.get_coordinates(some, return_index=True)
        # Written so that NaN fails too.
        bad[start + of[~(np.abs(xy) <= FARTHEST).all(axis=1)]] = True
    reasons.refuse_all(rows[bad], column, "a coordinate is not finite, or too far away to lie in an image")
    rows = rows[~bad]
    if radius is not None:
        bad = (radius[rows] < 0) | (radius[rows] > FARTHEST)
        reasons.refuse_all(rows[bad], "radius", "a radius must be finite and not below 0")
        rows = rows[~bad]
    return rows


def _atoms(geometries: NDArray[Any], rows: Int64) -> tuple[NDArray[Any], Int64]:
    """The points, lines and polygons, none empty, that geometries are made of, and the row of each."""
    while (shapely.get_type_id(geometries) >= shapely.GeometryType.MULTIPOINT).any():
        geometries, of = shapely.get_parts(geometries, return_index=True)
        rows = rows[of]
    kept = ~shapely.is_empty(geometries)
    return geometries[kept], rows[kept]


def _polygons(atoms: NDArray[Any], of_row: Int64, reasons: Reasons, column: str) -> Shapes:
    rows, part_offsets = _groups(of_row)
    several = np.flatnonzero(np.diff(part_offsets) > 1)
    whole = atoms[part_offsets[:-1]]
    if len(several):
        number = np.repeat(np.arange(len(rows)), np.diff(part_offsets))
        whole[several] = shapely.multipolygons(atoms, indices=number)[several]
    invalid = np.flatnonzero(~shapely.is_valid(whole))
    if len(invalid):
        whole[invalid], failures = repaired_polygons(whole[invalid], Limits.made_vertices)
        for index, failure in zip(invalid.tolist(), failures, strict=True):
            if failure is None:
                reasons.repaired(int(rows[index]) + 1)
            else:
                reasons.refuse(int(rows[index]) + 1, column, failure)
        kept = shapely.is_geometry(whole)
        whole, rows = whole[kept], rows[kept]
        atoms, of_row = shapely.get_parts(whole, return_index=True)
        part_offsets = _groups(of_row)[1]
    return Shapes(_rings(atoms, part_offsets), np.full(len(rows), POLYGON, np.uint8), rows)


def _rings(parts: NDArray[Any], part_offsets: Int64) -> Polygons:
    """Parts as arrays: rings unclosed, turned as `Polygons` says, beginning at the top."""
    counts = shapely.get_num_coordinates(parts)
    rings = 1 + shapely.get_num_interior_rings(parts)
    lengths = np.repeat(counts, rings)
    holed = np.flatnonzero(rings > 1)
    if len(holed):
        lengths[np.repeat(rings > 1, rings)] = shapely.get_num_coordinates(shapely.get_rings(parts[holed]))
        of_part = np.repeat(np.arange(len(parts)), rings)[lengths > 0]  # a hole may be empty
        rings, lengths = np.bincount(of_part, minlength=len(parts)), lengths[lengths > 0]
    ring_offsets = _offsets(rings)
    xy, vertex_offsets = shapely.get_coordinates(parts), _offsets(lengths)
    hole = np.ones(len(lengths), np.bool_)
    hole[ring_offsets[:-1]] = False
    xy = _turned(xy, vertex_offsets, hole)
    return Polygons(xy, vertex_offsets - np.arange(len(vertex_offsets)), ring_offsets, part_offsets)


def _boxed_ellipses(atoms: NDArray[Any], of_row: Int64, reasons: Reasons, column: str) -> Shapes:
    boxes = shapely.bounds(atoms).reshape(-1, 4)
    radii = (boxes[:, 2:] - boxes[:, :2]) / 2
    flat = (radii <= 0).any(axis=1)
    reasons.refuse_all(of_row[flat], column, "the ellipse has no area")
    return _ellipses((boxes[~flat, :2] + boxes[~flat, 2:]) / 2, radii[~flat], of_row[~flat])


def _circles(atoms: NDArray[Any], of_row: Int64, radius: Float64 | None) -> Shapes:
    radii = np.empty((0, 1)) if radius is None else radius[of_row][:, None]
    return _ellipses(shapely.get_coordinates(atoms), np.repeat(radii, 2, axis=1), of_row)


def _ellipses(centers: Float64, radii: Float64, rows: Int64) -> Shapes:
    xy = ellipse_outlines(centers, radii).reshape(-1, 2)
    each = np.arange(len(rows) + 1)
    return Shapes(
        Polygons(xy, each * ELLIPSE_VERTICES, each, each), np.full(len(rows), ELLIPSE, np.uint8), rows
    )


def _lines(atoms: NDArray[Any], of_row: Int64) -> Shapes:
    rows, part_offsets = _groups(of_row)
    counts = shapely.get_num_coordinates(atoms)
    each = np.arange(len(atoms) + 1)
    polygons = Polygons(shapely.get_coordinates(atoms) + 0.0, _offsets(counts), each, part_offsets)
    single = (np.diff(part_offsets) == 1) & (counts[part_offsets[:-1]] == 2)
    return Shapes(polygons, np.where(single, LINE, POLYLINE).astype(np.uint8), rows)


def _points(atoms: NDArray[Any], of_row: Int64) -> Shapes:
    rows, part_offsets = _groups(of_row)
    each = np.arange(len(atoms) + 1)
    polygons = Polygons(shapely.get_coordinates(atoms) + 0.0, each, each, part_offsets)
    return Shapes(polygons, np.full(len(rows), POINT, np.uint8), rows)


def _groups(of_row: Int64) -> tuple[Int64, Int64]:
    """Rows that occur in an ascending array, and the offsets of their members in it."""
    rows, counts = np.unique(of_row, return_counts=True)
    return rows, _offsets(counts)


def _offsets(counts: NDArray[Any]) -> Int64:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _merged(groups: list[Shapes]) -> Shapes:
    """All features in the order of their rows."""
    if not groups:
        nothing = Polygons(np.empty((0, 2)), *([np.zeros(1, np.int64)] * 3))
        return Shapes(nothing, np.empty(0, np.uint8), np.empty(0, np.int64))
    if len(groups) == 1:
        return groups[0]
    polygons = [group.polygons for group in groups]
    together = Polygons(
        np.concatenate([each.xy for each in polygons]),
        _offsets(np.concatenate([np.diff(each.vertex_offsets) for each in polygons])),
        _offsets(np.concatenate([np.diff(each.ring_offsets) for each in polygons])),
        _offsets(np.concatenate([np.diff(each.part_offsets) for each in polygons])),
    )
    rows = np.concatenate([group.row for group in groups])
    order = np.argsort(rows, kind="stable")
    kinds = np.concatenate([group.kind for group in groups])
    return Shapes(together.take(order), kinds[order], rows[order])


@compiled
def _turned(xy: Any, offsets: Any, hole: Any) -> Any:
    """Vertices of closed rings as unclosed ones that begin at their topmost, then leftmost vertex.

    Holes have negative signed area, the others positive. No zero has a sign.
    """
    out = np.empty((xy.shape[0] - hole.size, 2))
    at = 0
    for ring in range(hole.size):
        first, end = offsets[ring], offsets[ring + 1] - 1
        top, twice = first, 0.0
        for v in range(first, end):
            if xy[v, 1] < xy[top, 1] or (xy[v, 1] == xy[top, 1] and xy[v, 0] < xy[top, 0]):
                top = v
            twice += (xy[v, 0] - xy[first, 0]) * (xy[v + 1, 1] - xy[first, 1])
            twice -= (xy[v + 1, 0] - xy[first, 0]) * (xy[v, 1] - xy[first, 1])
        step = -1 if (twice < 0) != hole[ring] else 1
        v = top
        for _ in range(first, end):
            out[at, 0] = xy[v, 0] + 0.0
            out[at, 1] = xy[v, 1] + 0.0
            at += 1
            v += step
            if v == end:
                v = first
            elif v < first:
                v = end - 1
    return out
