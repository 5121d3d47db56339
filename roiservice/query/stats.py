"""Statistics of an image's pixels under shapes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.reader import Catalog
from roiservice.errors import BadParameter
from roiservice.geometry.features import EVERY_INDEX
from roiservice.geometry.raster import PixelBox, Shape, mask_of, shapes_of
from roiservice.query.columns import read_polygons
from roiservice.query.moments import Moments, moments
from roiservice.query.pages import rows_of_shapes
from roiservice.records import dataclass

# Most that one request may cause: pixels of all shapes' boxes in all channels, times that a shape meets a
# tile that is read, and decoded bytes of chunks.
BOX_PIXELS = 2**29
VISITS = 2**18
READ_BYTES = 2**33
_TILE_PIXELS = 2**22  # read at once, on all planes of their chunks; a chunk may be more

_Block = tuple[slice, slice, slice, slice, slice]


class Pixels(Protocol):
    """An image: `sizes` and `chunks` are (t, c, z, y, x), `read` gives a block of these axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Integers, bools or floats."""

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """Pixels along each axis."""

    @property
    def chunks(self) -> tuple[int, int, int, int, int]:
        """Pixels that are decoded together."""

    def read(self, block: _Block) -> NDArray[Any]:
        """The pixels of a block within `sizes`."""


@dataclass(frozen=True, eq=False)
class PlacedShape:
    """A shape on a plane of the image."""

    shape: Shape
    z: int
    t: int


def placed_shapes(catalog: Catalog, ids: Sequence[int], z: int, t: int) -> dict[int, PlacedShape]:
    """The shapes of a catalog by id, in image pixels; ids that are none of its are left out.

    Shapes that lie on every z or t are put on the one given.
    """
    numbers = np.array(ids, np.int64) - catalog.first_shape_id
    numbers = np.unique(numbers[(numbers >= 0) & (numbers < catalog.meta["counts"]["shapes"])])
    features = catalog.features
    rows = rows_of_shapes(catalog, numbers)
    parts = features["part_first"][rows] + numbers - features["shape_first"][rows]
    polygons = read_polygons(catalog, parts, np.ones(len(parts), np.int64))
    on_z, on_t = (
        np.where(features[axis][rows] == EVERY_INDEX, index, features[axis][rows]).tolist()
        for axis, index in (("z", z), ("t", t))
    )
    placed = map(PlacedShape, shapes_of(polygons, features["kind"][rows]), on_z, on_t)
    return dict(zip((numbers + catalog.first_shape_id).tolist(), placed, strict=True))


def shape_stats(
    pixels: Pixels, shapes: Sequence[PlacedShape], channels: Sequence[int]
) -> list[list[Moments] | None]:
    """Moments of the pixels under each shape, in each of the channels.

    Pixels outside the image do not count. A chunk is read once, however many shapes lie on it. None for the
    largest shapes where the boxes of all are more than one request may cause: among the objects of a page
    there may be a region that is as large as the image. BadParameter for channels that the image does not
    have, and for more work than one request may cause otherwise.
    """
    size_t, size_c, size_z, height, width = pixels.sizes
    if any(not 0 <= channel < size_c for channel in channels):
        raise BadParameter("cs", f"the image has {size_c} channels, counted from 0")
    image = PixelBox(0, 0, width, height)
    boxes = [each.shape.box.cut_to(image) for each in shapes]
    inside = [
        number
        for number, each in enumerate(shapes)
        if boxes[number].pixels and 0 <= each.z < size_z and 0 <= each.t < size_t
    ]
    measured = _affordable({number: boxes[number].pixels * len(channels) for number in inside})
    visits = [
        _Visit(number, column, (shapes[number].t, channel, shapes[number].z))
        for number in measured
        for column, channel in enumerate(channels)
    ]
    found = [[Moments()] * len(channels) for _ in shapes]
    for reading in _readings(pixels, visits, boxes):
        for visit, values in _values(pixels, reading, shapes):
            known = found[visit.shape][visit.column]
            found[visit.shape][visit.column] = known.with_more(moments(values))
    too_large = set(inside).difference(measured)
    return [None if number in too_large else each for number, each in enumerate(found)]


def _affordable(sizes: Mapping[int, int]) -> list[int]:
    """As many shapes, by their numbers and the pixels of their boxes, as one request may cause work for.

    BadParameter if there are shapes and even the smallest is too large.
    """
    smallest_first = sorted(sizes, key=sizes.__getitem__)
    sums = accumulate(sizes[number] for number in smallest_first)
    allowed = [number for number, so_far in zip(smallest_first, sums, strict=True) if so_far <= BOX_PIXELS]
    if sizes and not allowed:
        _check("box pixels", sum(sizes.values()), BOX_PIXELS)
    return sorted(allowed)


@dataclass(frozen=True)
class _Visit:
    """A shape in one channel: `column` is the channel's place among those asked for, `plane` is (t, c, z)."""

    shape: int
    column: int
    plane: tuple[int, int, int]


@dataclass(frozen=True)
class _Reading:
    """What is read at once, and for whom: visits with the part of their box that lies in it."""

    block: _Block
    visits: list[tuple[_Visit, PixelBox]]


def _readings(pixels: Pixels, visits: Sequence[_Visit], boxes: Sequence[PixelBox]) -> list[_Reading]:
    """All that has to be read: of every tile, and all planes that share its chunks, what boxes reach."""
    height, width = _tile_size(pixels)
    tiles = [_tiles_of(box, height, width) for box in boxes]
    _check("tiles", sum(len(tiles[visit.shape][0]) * len(tiles[visit.shape][1]) for visit in visits), VISITS)
    by_tile: dict[tuple[int, ...], list[_Visit]] = {}
    for visit in visits:
        chunk = [index // size for index, size in zip(visit.plane, pixels.chunks[:3], strict=True)]
        rows, columns = tiles[visit.shape]
        for i in rows:
            for j in columns:
                by_tile.setdefault((*chunk, i, j), []).append(visit)
    readings = []
    for (*_, i, j), some in sorted(by_tile.items()):
        tile = PixelBox(j * width, i * height, (j + 1) * width, (i + 1) * height)
        readings.append(_reading([(visit, boxes[visit.shape].cut_to(tile)) for visit in some]))
    _check("bytes of chunks", sum(_decoded(pixels, each.block) for each in readings), READ_BYTES)
    return readings


def _tile_size(pixels: Pixels) -> tuple[int, int]:
    """Height and width of tiles: as many chunks as may be read at once, but at least one."""
    chunks, width = pixels.chunks, pixels.sizes[4]
    most = max(_TILE_PIXELS // math.prod(chunks), 1)
    across = min(most, -(-width // chunks[4]))
    return most // across * chunks[3], across * chunks[4]


def _tiles_of(box: PixelBox, height: int, width: int) -> tuple[range, range]:
    """Rows and columns of the tiles that a box meets."""
    return range(box.y0 // height, -(-box.y1 // height)), range(box.x0 // width, -(-box.x1 // width))


def _reading(visits: list[tuple[_Visit, PixelBox]]) -> _Reading:
    x0, y0, x1, y1 = zip(*(box for _, box in visits), strict=True)
    t, c, z = (
        slice(min(axis), max(axis) + 1) for axis in zip(*(visit.plane for visit, _ in visits), strict=True)
    )
    return _Reading((t, c, z, slice(min(y0), max(y1)), slice(min(x0), max(x1))), visits)


def _decoded(pixels: Pixels, block: _Block) -> int:
    """Bytes of the chunks that a block lies on."""
    size = pixels.dtype.itemsize
    for part, side in zip(block, pixels.chunks, strict=True):
        size *= (-(-part.stop // side) - part.start // side) * side
    return size


def _values(
    pixels: Pixels, reading: _Reading, shapes: Sequence[PlacedShape]
) -> Iterator[tuple[_Visit, NDArray[Any]]]:
    """Each visit with the pixels under its shape."""
    block = pixels.read(reading.block)
    t, c, z, y, x = (part.start for part in reading.block)
    for number, some in groupby(reading.visits, lambda each: each[0].shape):
        mask: NDArray[np.bool_] | None = None
        for visit, box in some:
            if mask is None:  # the same in all channels
                mask = mask_of(shapes[number].shape, box)
            plane = block[visit.plane[0] - t, visit.plane[1] - c, visit.plane[2] - z]
            yield visit, plane[box.y0 - y : box.y1 - y, box.x0 - x : box.x1 - x][mask]


def _check(what: str, has: int, allowed: int) -> None:
    if has > allowed:
        raise BadParameter("ids", f"the shapes need {has} {what}; {allowed} are allowed in one request")
