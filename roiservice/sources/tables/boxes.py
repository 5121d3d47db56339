"""Boxes given by positions and lengths in micrometres and seconds, as rectangles on planes of an image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roiservice.errors import SourceDamaged, SourceRefused, TooManyVertices
from roiservice.geometry.features import EVERY_INDEX
from roiservice.geometry.kinds import RECTANGLE
from roiservice.geometry.polygons import Polygons
from roiservice.sources.limits import Limits
from roiservice.sources.tables.geometries import FARTHEST, Reasons, Shapes, table_of
from roiservice.sources.tables.table import Int64, ShapeTable

Float64 = NDArray[np.float64]

# Decimal or single precision: what lies so near a pixel's edge was meant to lie on it. ngio rounds alike.
_NEAR = 0.01
_POSITIONS = tuple(
    prefix + name
    for name in ("x_micrometer", "y_micrometer", "z_micrometer", "t_second")
    for prefix in ("", "len_")
)


@dataclass(frozen=True)
class ImageGrid:
    """What boxes are measured by; `location` and `part` say in messages which table they are of.

    `pixel_size` along z, y, x in micrometres; `sizes` along t, c, z, y, x; `frame_seconds` from one t to the
    next, None if not known.
    """

    location: str
    part: str
    pixel_size: tuple[float, float, float]
    sizes: tuple[int, int, int, int, int]
    frame_seconds: float | None


@dataclass(frozen=True)
class Planes:
    """A run of planes for each of n boxes: `count` of them from `first` on; or EVERY_INDEX and 1."""

    first: Int64
    count: Int64

    def take(self, chosen: Int64) -> Planes:
        """The runs of these boxes."""
        return Planes(self.first[chosen], self.count[chosen])


@dataclass(frozen=True)
class Boxes:
    """k usable boxes: `rows` (k,) of them, ascending, of the `total` of a table, `corners` (k, 4), planes.

    Corners are (x0, y0, x1, y1) in pixels of the image's level 0, corner of pixel (0, 0) at (0, 0).
    """

    grid: ImageGrid
    total: int
    rows: Int64
    corners: Float64
    z: Planes
    t: Planes
    reasons: Reasons

    def without(self, rows: Int64, column: str, reason: str) -> Boxes:
        """The boxes without those of these rows, which are refused."""
        gone = np.isin(self.rows, rows)
        self.reasons.refuse_all(self.rows[gone], column, reason)
        left = np.flatnonzero(~gone)
        return replace(
            self,
            rows=self.rows[left],
            corners=self.corners[left],
            z=self.z.take(left),
            t=self.t.take(left),
        )

    def shape_table(
        self, labels: Int64 | None, keys: pa.Array | None, columns: Mapping[str, pa.Array], limits: Limits
    ) -> ShapeTable:
        """The boxes as rectangles on each of their planes; `labels`, `keys`, `columns` are of all rows.

        Columns of positions are left out. TooManyVertices above the limit.
        """
        per_box = self.z.count * self.t.count
        total = int(per_box.sum())
        if 4 * total > limits.table_vertices:
            reason = f"its boxes cover {total} planes together; {limits.table_vertices // 4} are allowed"
            raise TooManyVertices(self.grid.location, self.grid.part, reason)
        box = np.repeat(np.arange(len(per_box)), per_box)
        along = np.arange(total) - np.repeat(np.cumsum(per_box) - per_box, per_box)
        z, t = self.z.take(box), self.t.take(box)
        kind = np.full(total, RECTANGLE, np.uint8)
        table = table_of(
            Shapes(_rectangles(self.corners[box]), kind, self.rows[box]),
            self.total,
            label=labels,
            key=keys,
            color=None,
            columns={name: values for name, values in columns.items() if name not in _POSITIONS},
            reasons=self.reasons,
        )
        return replace(
            table,
            t=(t.first + along // z.count).astype(np.int32),
            z=(z.first + along % z.count).astype(np.int32),
        )


def read_extents(columns: Mapping[str, pa.Array], rows: int, grid: ImageGrid) -> Boxes:
    """The boxes of a table of so many rows; rows without usable positions and lengths are refused.

    Raises SourceDamaged where columns of x or y are missing, SourceRefused for unusable pixel sizes.
    """
    for name in ("x_micrometer", "y_micrometer", "len_x_micrometer", "len_y_micrometer"):
        if name not in columns:
            raise SourceDamaged(grid.location, grid.part, f"there is no column {name!r}")
    extents = _Extents(columns, grid, Reasons(grid.location, grid.part), np.ones(rows, np.bool_))
    x0, x1 = extents.along_plane("x", grid.pixel_size[2])
    y0, y1 = extents.along_plane("y", grid.pixel_size[1])
    z = extents.planes("z", "micrometer", grid.pixel_size[0], grid.sizes[2])
    t = extents.planes("t", "second", grid.frame_seconds, grid.sizes[0])
    usable = np.flatnonzero(extents.usable)
    corners = np.stack([x0, y0, x1, y1], axis=1)[usable]
    return Boxes(grid, rows, usable, corners, z.take(usable), t.take(usable), extents.reasons)


@dataclass
class _Extents:
    """Positions of a table's rows in pixels; rows turn unusable as they are found wanting."""

    columns: Mapping[str, pa.Array]
    grid: ImageGrid
    reasons: Reasons
    usable: NDArray[np.bool_]

    def along_plane(self, axis: str, unit: float) -> tuple[Float64, Float64]:
        """Start and end along x or y."""
        self._check_unit(axis, unit)
        name, length_name = f"{axis}_micrometer", f"len_{axis}_micrometer"
        start, length = self._floats(name), self._floats(length_name)
        self._refuse(~np.isfinite(start), name, "is no finite number")
        self._refuse(~(np.isfinite(length) & (length > 0)), length_name, "is no length above 0")
        return self._scaled(start, length, unit, name)

    def planes(self, axis: str, what: str, unit: float | None, count: int) -> Planes:
        """Planes along z or t that the boxes cover; every index where table or image have no such axis."""
        name, length_name = f"{axis}_{what}", f"len_{axis}_{what}"
        every = Planes(np.full(len(self.usable), EVERY_INDEX), np.ones(len(self.usable), np.int64))
        if name not in self.columns or length_name not in self.columns:
            return every
        start, length = self._floats(name), self._floats(length_name)
        open_ended = np.isnan(start) & np.isnan(length)  # stated for no plane: on all of them
        start, length = np.where(open_ended, 0, start), np.where(open_ended, 0, length)
        self._refuse(~np.isfinite(start), name, "is no finite number")
        self._refuse(~(np.isfinite(length) & (length >= 0)), length_name, "is no length of 0 or more")
        if unit is None or count == 1:
            return every
        self._check_unit(axis, unit)
        start, end = self._scaled(start, length, unit, name, steps=2)  # centres of planes count too
        first, stop = _covered(start, end, count)
        whole = open_ended | ((first <= 0) & (stop >= count))
        first, stop = np.maximum(first, 0), np.minimum(stop, count)
        self._refuse((first >= stop) & ~whole, name, f"lies outside of the image's {count} planes")
        return Planes(np.where(whole, EVERY_INDEX, first), np.where(whole, 1, np.maximum(stop - first, 0)))

    def _scaled(
        self, start: Float64, length: Float64, unit: float, name: str, steps: int = 1
    ) -> tuple[Float64, Float64]:
        with np.errstate(over="ignore", invalid="ignore"):
            first, last = _near_steps(start / unit, steps), _near_steps((start + length) / unit, steps)
        near = (np.abs(first) <= FARTHEST) & (np.abs(last) <= FARTHEST)
        self._refuse(~near, name, "is too far away to lie in an image")
        return first, last

    def _refuse(self, bad: NDArray[np.bool_], column: str, reason: str) -> None:
        self.reasons.refuse_all(np.flatnonzero(bad & self.usable), column, reason)
        self.usable &= ~bad

    def _floats(self, name: str) -> Float64:
        """A column as numbers; NaN for nulls and what is none."""
        values = self.columns[name]
        if pa.types.is_string(values.type):
            return np.array([_float(text) for text in values.to_pylist()], np.float64)
        return np.asarray(values.cast(pa.float64()).fill_null(math.nan))

    def _check_unit(self, axis: str, unit: float) -> None:
        if not (math.isfinite(unit) and unit > 0):
            reason = f"needs the image's pixel size along {axis}, which is {unit}"
            raise SourceRefused(self.grid.location, self.grid.part, reason)


def _float(text: str | None) -> float:
    try:
        return math.nan if text is None else float(text)
    except ValueError:
        return math.nan


def _near_steps(positions: Float64, steps: int) -> Float64:
    """Positions in pixels; on a step, of which a pixel has so many, if they lie near it."""
    near = np.rint(positions * steps) / steps
    return np.asarray(np.where(np.abs(positions - near) < _NEAR, near, positions))


def _covered(start: Float64, end: Float64, count: int) -> tuple[Int64, Int64]:
    """First plane and the one after the last of those whose centres lie in [start, end).

    Plane k is [k, k + 1]. Where there is none, the plane that the middle lies in.
    """
    start, end = (np.nan_to_num(np.clip(at, -2, count + 2)) for at in (start, end))
    first, stop = np.ceil(start - 0.5), np.ceil(end - 0.5)
    thin = first >= stop
    own = np.floor(_near_steps((start + end) / 2, 1))
    first, stop = np.where(thin, own, first), np.where(thin, own + 1, stop)
    return first.astype(np.int64), stop.astype(np.int64)


def _rectangles(corners: Float64) -> Polygons:
    """One part of four vertices each, from the top left corner on, of positive signed area with y down."""
    n = len(corners)
    each = np.arange(n + 1)
    return Polygons(corners[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(4 * n, 2), 4 * each, each, each)
