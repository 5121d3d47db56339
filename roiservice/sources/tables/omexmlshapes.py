"""Shapes of OME-XML as geometries in pixels: all eight kinds, with their transforms.

The schema: https://www.openmicroscopy.org/Schemas/Documentation/Generated/OME-2016-06/ome.html
"""

from __future__ import annotations

import base64
import binascii
import bz2
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from roiservice.errors import TooManyObjects
from roiservice.geometry.kinds import (
    ELLIPSE,
    LINE,
    POINT,
    POLYGON,
    POLYLINE,
    RECTANGLE,
    ellipse_outlines,
)
from roiservice.geometry.polygons import to_shapely
from roiservice.sources.limits import Limits
from roiservice.sources.tables.affine import Affine
from roiservice.vectorize.plane import trace_plane

Float64 = NDArray[np.float64]

_IDENTITY = Affine()
_UNIT_SQUARE = np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
_MOST_SIDE = 2**22  # pixels of a mask along x or y
_STRIP_PIXELS = 2**20


class BadShape(Exception):
    """Why a shape cannot be used: the attribute or element at fault, and the reason."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")


@dataclass(frozen=True, slots=True)
class Outline:
    """What a shape is drawn as.

    `kind` as in `roiservice.geometry.kinds`. `vertices` (n, 2) are those of a polygon or line, the point, or
    the corners of the box of a rectangle or ellipse; `mask` is a traced mask's geometry instead.
    """

    kind: int
    vertices: Float64
    mask: Any = None

    @property
    def count(self) -> int:
        """Its vertices."""
        return len(self.vertices) if self.mask is None else int(shapely.get_num_coordinates(self.mask))


@dataclass
class ShapeReader:
    """Reads shapes of one document; what is left of the pixels that its masks may have together."""

    limits: Limits
    mask_pixels: int

    def read(
        self,
        kind: str,
        attributes: Mapping[str, str],
        transform: Mapping[str, str] | None,
        mask: tuple[str, str] | None,
    ) -> Outline:
        """The outline of a shape of this kind (its element's local name). BadShape if it cannot be used.

        `transform` are the attributes of its Transform; `mask` is compression and text of its BinData.
        """
        affine = _IDENTITY if transform is None else _affine(transform)
        if kind == "Mask":
            return self._mask(attributes, affine, mask)
        return _READERS[kind](attributes, affine)

    def _mask(self, attributes: Mapping[str, str], affine: Affine, data: tuple[str, str] | None) -> Outline:
        """A mask: one bit per pixel, rows one after the other, the first pixel in the highest bit.

        The schema has it so, but not its own example of before 2021, nor all writers: as many bytes as there
        are pixels are one byte per pixel, set where it is not 0.
        """
        x, y, width, height = _numbers(attributes, ("X", "Y", "Width", "Height"))
        _check_positive(Width=width, Height=height)
        if data is None:
            raise BadShape("BinData", "is missing")
        columns, rows = max(1, round(width)), max(1, round(height))
        if max(columns, rows) > _MOST_SIDE or columns * rows > self.mask_pixels:
            raise BadShape("Mask", f"{columns} x {rows} pixels are more than allowed")
        self.mask_pixels -= columns * rows
        pixels = _unpacked(*data, columns * rows, self.limits.table_bytes)
        try:
            labels, polygons = trace_plane(_strips(pixels, columns, rows), self.limits.made_vertices)
        except TooManyObjects as error:
            raise BadShape("Mask", str(error)) from None
        if not len(labels):
            raise BadShape("BinData", "has no pixel set")
        placed = Affine(width / columns, 0, x, 0, height / rows, y).then(affine)
        return Outline(POLYGON, np.empty((0, 2)), _mapped(to_shapely(polygons)[0], placed))


def geometries(outlines: list[Outline]) -> NDArray[Any]:
    """(n,) shapely geometries of the outlines; boxes of rectangles and ellipses as polygons."""
    kind = np.array([outline.kind for outline in outlines], np.uint8)
    masked = np.array([outline.mask is not None for outline in outlines], np.bool_)
    out = np.empty(len(outlines), object)
    for chosen, build in (
        (kind == POINT, shapely.points),
        ((kind == LINE) | (kind == POLYLINE), shapely.linestrings),
        ((kind <= ELLIPSE) & ~masked, _polygons),
    ):
        rows = np.flatnonzero(chosen)
        if len(rows):
            vertices = [outlines[row].vertices for row in rows.tolist()]
            of = np.repeat(np.arange(len(rows)), [len(each) for each in vertices])
            out[rows] = build(np.concatenate(vertices), indices=of)
    for row in np.flatnonzero(masked).tolist():
        out[row] = outlines[row].mask
    return out


def _polygons(vertices: Float64, indices: NDArray[np.int64]) -> Any:
    return shapely.polygons(shapely.linearrings(vertices, indices=indices))


def _rectangle(attributes: Mapping[str, str], affine: Affine) -> Outline:
    x, y, width, height = _numbers(attributes, ("X", "Y", "Width", "Height"))
    _check_positive(Width=width, Height=height)
    placed = Affine(width, 0, x, 0, height, y).then(affine)
    corners = placed.apply(_UNIT_SQUARE)
    turned = Affine(placed.xy, placed.xx, 0, placed.yy, placed.yx, 0)
    if placed.is_translation_scale or turned.is_translation_scale:
        return Outline(RECTANGLE, _box(corners.min(axis=0), corners.max(axis=0)))
    return Outline(POLYGON, corners)


def _ellipse(attributes: Mapping[str, str], affine: Affine) -> Outline:
    x, y, radius_x, radius_y = _numbers(attributes, ("X", "Y", "RadiusX", "RadiusY"))
    _check_positive(RadiusX=radius_x, RadiusY=radius_y)
    placed = Affine(radius_x, 0, x, 0, radius_y, y).then(affine)
    radii = placed.circle_radii()
    if radii is None:
        unit = ellipse_outlines(np.zeros((1, 2)), np.ones((1, 2)))[0]
        return Outline(POLYGON, placed.apply(unit))
    center = np.array((placed.x0, placed.y0))
    return Outline(ELLIPSE, _box(center - radii, center + radii))


def _point(attributes: Mapping[str, str], affine: Affine) -> Outline:
    return Outline(POINT, _moved(np.array([_numbers(attributes, ("X", "Y"))]), affine))


def _line(attributes: Mapping[str, str], affine: Affine) -> Outline:
    ends = np.array(_numbers(attributes, ("X1", "Y1", "X2", "Y2"))).reshape(2, 2)
    return Outline(LINE, _moved(ends, affine))


def _polyline(attributes: Mapping[str, str], affine: Affine) -> Outline:
    return Outline(POLYLINE, _moved(_points(attributes, 2), affine))


def _polygon(attributes: Mapping[str, str], affine: Affine) -> Outline:
    return Outline(POLYGON, _moved(_points(attributes, 3), affine))


_READERS: dict[str, Callable[[Mapping[str, str], Affine], Outline]] = {
    "Rectangle": _rectangle,
    "Ellipse": _ellipse,
    "Point": _point,
    "Label": _point,  # a text at a point
    "Line": _line,
    "Polyline": _polyline,
    "Polygon": _polygon,
}
KINDS = frozenset((*_READERS, "Mask"))


def _numbers(attributes: Mapping[str, str], names: tuple[str, ...]) -> list[float]:
    return [_number(attributes.get(name), name) for name in names]


def _number(text: str | None, name: str) -> float:
    if text is None:
        raise BadShape(name, "is missing")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadShape(name, f"{text[:40]!r} is no finite number")
    return value


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise BadShape(name, f"{value:g} is not above 0")


def _points(attributes: Mapping[str, str], least: int) -> Float64:
    """Vertices of "x1,y1 x2,y2"; writers also put commas between the pairs."""
    text = attributes.get("Points")
    if text is None:
        raise BadShape("Points", "is missing")
    try:
        values = np.array(list(map(float, text.replace(",", " ").split())), np.float64)
    except ValueError:
        raise BadShape("Points", "must be pairs of numbers such as 0,0 1,2") from None
    if len(values) % 2 or len(values) < 2 * least:
        raise BadShape("Points", f"has {len(values)} numbers; there must be {least} pairs or more")
    if not np.isfinite(values).all():
        raise BadShape("Points", "has a number that is not finite")
    return values.reshape(-1, 2)


def _affine(transform: Mapping[str, str]) -> Affine:
    """The matrix A00 A01 A02, A10 A11 A12."""
    affine = Affine(*_numbers(transform, ("A00", "A01", "A02", "A10", "A11", "A12")))
    if affine.is_singular:
        raise BadShape("Transform", "collapses the shape into a line or a point")
    return affine


def _moved(vertices: Float64, affine: Affine) -> Float64:
    return vertices if affine is _IDENTITY else affine.apply(vertices)


def _box(low: Float64, high: Float64) -> Float64:
    return np.array([low, (high[0], low[1]), high, (low[0], high[1])])


def _mapped(geometry: Any, affine: Affine) -> Any:
    return shapely.transform(geometry, affine.apply)


def _unpacked(compression: str, text: str, count: int, allowed: int) -> memoryview:
    """The bytes of a BinData element, with a bit or a byte for each of so many pixels."""
    most = min(count, allowed) + 1
    try:
        data = base64.b64decode(text)
        if compression == "zlib":
            data = zlib.decompressobj().decompress(data, most)
        elif compression == "bzip2":
            data = bz2.BZ2Decompressor().decompress(data, most)
        elif compression != "none":
            raise BadShape("BinData", f"Compression {compression[:40]!r} is not none, zlib or bzip2")
    except (binascii.Error, zlib.error, OSError, ValueError) as error:
        raise BadShape("BinData", f"cannot be read: {error}") from None
    bits = -(-count // 8)
    if len(data) not in (bits, count):
        raise BadShape("BinData", f"holds {len(data)} bytes or more; one bit for each pixel are {bits}")
    return memoryview(data)


def _strips(pixels: memoryview, columns: int, rows: int) -> Iterator[NDArray[np.bool_]]:
    """The mask in strips of rows; their number is a multiple of 8, so that each starts with a whole byte."""
    in_bits = len(pixels) < columns * rows or len(pixels) == 1
    step = max(8, _STRIP_PIXELS // columns // 8 * 8)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        shape = (stop - start, columns)
        if in_bits:
            inside = np.frombuffer(pixels[start * columns // 8 : -(-stop * columns // 8)], np.uint8)
            yield np.unpackbits(inside, count=shape[0] * columns).astype(np.bool_).reshape(shape)
        else:
            inside = np.frombuffer(pixels[start * columns : stop * columns], np.uint8)
            yield (inside != 0).reshape(shape)
