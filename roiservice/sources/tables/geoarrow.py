"""Geometries in GeoArrow's native encodings: nested lists of coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from roiservice.sources.tables.geometries import Reasons
from roiservice.sources.tables.table import Int64

_LEAST_OF_RING = 4

# Levels of lists above a coordinate, and how many of those the lowest list has at least.
ENCODINGS = {
    "point": (shapely.GeometryType.POINT, 0, 1),
    "linestring": (shapely.GeometryType.LINESTRING, 1, 2),
    "multipoint": (shapely.GeometryType.MULTIPOINT, 1, 1),
    "polygon": (shapely.GeometryType.POLYGON, 2, _LEAST_OF_RING),
    "multilinestring": (shapely.GeometryType.MULTILINESTRING, 2, 2),
    "multipolygon": (shapely.GeometryType.MULTIPOLYGON, 3, _LEAST_OF_RING),
}


def from_arrow(column: pa.ChunkedArray, encoding: str, reasons: Reasons, name: str) -> NDArray[Any]:
    """(n,) geometries of an array in one of ENCODINGS; None where refused.

    After geoarrow.org/format.html: coordinates are structs of x and y or fixed-size lists that begin with
    them; rings are closed. ValueError for another encoding or an array that is not of it.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"geometries in the encoding {encoding!r} cannot be read")
    kind, levels, least = ENCODINGS[encoding]
    out, first = [np.empty(0, object)], 0
    for chunk in column.chunks:
        storage = chunk.storage if isinstance(chunk.type, pa.BaseExtensionType) else chunk
        out.append(_chunk(storage, kind, levels, least, reasons, name, first))
        first += len(chunk)
    return np.concatenate(out)


def _chunk(
    values: pa.Array, kind: Any, levels: int, least: int, reasons: Reasons, name: str, first: int
) -> NDArray[Any]:
    out = np.full(len(values), None, object)
    present = np.asarray(values.is_valid().to_numpy(zero_copy_only=False))
    reasons.refuse_all(first + np.flatnonzero(~present), name, "there is no geometry")
    rows = np.flatnonzero(present)
    values = values.take(pa.array(rows))
    xy, offsets = _ragged(values, levels)
    short = broken_lines(xy, offsets, least) if levels else np.zeros(len(rows), np.bool_)
    if short.any():
        rings = least == _LEAST_OF_RING
        what = "a ring is not closed, or has less than four points" if rings else "a line has only one point"
        reasons.refuse_all(first + rows[short], name, what)
        rows = rows[~short]
        xy, offsets = _ragged(values.filter(pa.array(~short)), levels)
    out[rows] = from_offsets(kind, xy, offsets)
    return out


def _ragged(values: pa.Array, levels: int) -> tuple[NDArray[np.float64], list[Int64]]:
    """Coordinates (v, 2), and the offsets of each level, outermost first."""
    offsets: list[Int64] = []
    for _ in range(levels):
        if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
            raise ValueError(f"geometries are not lists of coordinates, but {values.type}")
        bounds = np.asarray(values.offsets.to_numpy()).astype(np.int64)
        values = values.values.slice(bounds[0], bounds[-1] - bounds[0])
        offsets.append(bounds - bounds[0])
    if pa.types.is_fixed_size_list(values.type):
        flat = values.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, np.float64).reshape(-1, values.type.list_size)[:, :2].copy(), offsets
    if not pa.types.is_struct(values.type):
        raise ValueError(f"coordinates are neither structs nor fixed-size lists, but {values.type}")
    axes = [values.field(axis).to_numpy(zero_copy_only=False) for axis in ("x", "y")]
    return np.stack(axes, axis=1).astype(np.float64), offsets


def from_offsets(kind: Any, xy: NDArray[np.float64], offsets: list[Int64]) -> NDArray[Any]:
    """(n,) geometries of offsets as `broken_lines` has them, of which it found none broken.

    Parts without rings are left out: GEOS would end the process.
    """
    if not len(xy):  # which shapely cannot build lines of
        return np.full(len(offsets[0]) - 1 if offsets else 0, shapely.GeometryCollection(), object)
    if kind == shapely.GeometryType.MULTIPOLYGON:
        rows, parts, rings = offsets
        kept = np.diff(parts) > 0
        offsets = [np.r_[0, np.cumsum(kept)][rows], np.r_[0, parts[1:][kept]], rings]
    return np.asarray(shapely.from_ragged_array(kind, xy, tuple(reversed(offsets))))


def broken_lines(xy: NDArray[np.float64], offsets: list[Int64], least: int) -> NDArray[np.bool_]:
    """Which rows have a line of less than `least` points, but not of none; or a ring that is not closed.

    Also those with an exterior of no points that has holes. Offsets are those of each level of lists,
    outermost first.
    """
    ends = offsets[-1]
    counts = np.diff(ends)
    bad = (counts > 0) & (counts < least)
    if least == _LEAST_OF_RING:
        whole = np.flatnonzero(counts >= least)
        bad[whole] = (xy[ends[whole]] != xy[ends[whole + 1] - 1]).any(axis=1)
        exteriors = offsets[-2][:-1][np.diff(offsets[-2]) > 1]
        bad[exteriors] |= counts[exteriors] == 0
    for bounds in reversed(offsets[:-1]):
        total = np.r_[0, np.cumsum(bad)]
        bad = total[bounds[1:]] > total[bounds[:-1]]
    return np.asarray(bad, np.bool_)
