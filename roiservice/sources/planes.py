"""Label layers: their planes, where these lie in the image, and their pixels in strips."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import field
from functools import total_ordering
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.geometry.frames import Frame
from roiservice.records import dataclass
from roiservice.sources.arrays import LabelArray, open_array
from roiservice.sources.chunks import chunk_numbers
from roiservice.sources.encoding import chunks_per_file
from roiservice.sources.grids import AxesProblem, Grid, grid_of, shown_on
from roiservice.sources.groups import Group, read_group
from roiservice.sources.layer import LayerSource
from roiservice.sources.limits import Limits
from roiservice.sources.ngff import Multiscale, multiscale_of
from roiservice.sources.objects import LabelObjects, label_objects_of
from roiservice.sources.parents import parent_of
from roiservice.sources.paths import join
from roiservice.sources.roots import open_store
from roiservice.sources.slabs import Selection
from roiservice.sources.store import Store

__all__ = ["LabelLayer", "LayerPlane", "PlaneKey", "open_layer"]

STRIP_BYTES = 2**30  # of pixels at most: rows of chunks with more are cut, and decoded for each strip


@total_ordering
@dataclass(frozen=True)
class PlaneKey:
    """A plane of the image; None: on every index of that axis. Sorts by t, z, c, None first."""

    t: int | None
    c: int | None
    z: int | None

    @property
    def order(self) -> tuple[int, ...]:
        """Sort key: t, z, c, None as -1."""
        return tuple(-1 if index is None else index for index in (self.t, self.z, self.c))

    def __lt__(self, other: PlaneKey) -> bool:
        return self.order < other.order


@dataclass(frozen=True)
class LayerPlane:
    """A plane of a layer: its (t, c, z) array indices, 0 where the axis is absent, and where it appears."""

    index: tuple[int, int, int]
    keys: tuple[PlaneKey, ...]


@dataclass(frozen=True, eq=False)
class LabelLayer:
    """An open label layer; may be read from several threads.

    `dtype` is a native-endian integer or bool. `height` and `width` are those of the layer's own grid, which
    `frame` relates to its image. `image_size` is (t, c, z, y, x) of that image's level 0; without an image,
    the layer's own. `planes` are sorted by their first key; `pixels` counts all planes of the array.
    """

    source: LayerSource
    dtype: np.dtype[Any]
    height: int
    width: int
    frame: Frame
    image_size: tuple[int, int, int, int, int]
    planes: tuple[LayerPlane, ...]
    objects: LabelObjects
    pixels: int
    warnings: tuple[str, ...]
    limits: Limits
    _array: LabelArray = field(repr=False)
    _axes: dict[str, int] = field(repr=False)

    def pixels_before(self, plane: LayerPlane) -> int:
        """Pixels of the planes that come before `plane` by (t, c, z)."""
        t, c, z = plane.index
        size_c, size_z = (self._array.shape[self._axes[name]] if name in self._axes else 1 for name in "cz")
        return ((t * size_c + c) * size_z + z) * self.height * self.width

    def strip_rows(self, max_pixels: int) -> int:
        """Rows per strip: as many whole chunk rows as hold at most `max_pixels`, but at least one chunk row.

        Never more than the height, nor than fit into STRIP_BYTES: chunks may be as high as the plane. Where
        chunks are sharded, rows of inner chunks count.
        """
        chunk_rows = min(self._array.chunks[self._axes["y"]], self.height)
        most = max(1, STRIP_BYTES // (self.width * self.dtype.itemsize))
        if chunk_rows > most:
            return -(-chunk_rows // -(-chunk_rows // most))  # strips of one chunk row are about equal
        whole = max(1, max_pixels // (chunk_rows * self.width))
        return min(whole * chunk_rows, self.height)

    @property
    def chunk_depth(self) -> tuple[int, int, int]:
        """How many indices of t, c and z lie in one chunk."""
        return self._depth("t"), self._depth("c"), self._depth("z")

    def _depth(self, name: str) -> int:
        axis = self._axes.get(name)
        return 1 if axis is None else min(self._array.chunks[axis], self._array.shape[axis])

    def read(
        self, index: tuple[int, int, int], row0: int, row1: int, columns: tuple[int, int] | None = None
    ) -> NDArray[Any]:
        """Rows [row0, row1) of plane `index`, C-contiguous (row1 - row0, columns) of `dtype`.

        `columns` are the first and the end of those that are wanted, None for all, `width` of them. Chunks
        that do not exist hold the fill value; those that cannot be decoded raise SourceDamaged naming the
        array and the chunk.
        ValueError if the rows, the columns or the index are not of this layer.
        """
        return self._plane(
            self._array.read(self._selection(index, row0, row1, *(columns or (0, self.width))))
        )

    def read_planes(
        self, indices: Sequence[tuple[int, int, int]], row0: int, row1: int
    ) -> Iterator[NDArray[Any]]:
        """As `read`, for several planes that share chunks, which are decoded once; one after the other.

        All that lies between the planes is in working memory meanwhile.
        """
        selections = [self._selection(index, row0, row1, 0, self.width) for index in indices]
        spans = [_span(parts) for parts in zip(*selections, strict=True)]
        block = self._array.load(tuple(spans))
        for selection in selections:
            inner = (
                slice(None) if isinstance(part, slice) else part - span.start
                for part, span in zip(selection, spans, strict=True)
            )
            yield self._plane(block[tuple(inner)])

    def _plane(self, block: NDArray[Any]) -> NDArray[Any]:
        if self._axes["x"] < self._axes["y"]:
            block = block.T
        return np.ascontiguousarray(block, dtype=self.dtype)

    def chunk_ranges(self, name: str, inner: int | None = None) -> dict[str, range] | None:
        """Array indices along t, c, z, y and x of the chunk in file `name`, a path below the array.

        `inner` is the number, in C order, of a chunk in a shard; None: all of the file. An axis that the
        array has not is range(1). None if the array has no such chunk. ValueError if the name is not that of
        a chunk.
        """
        numbers, sizes = chunk_numbers(name), self._array.shards
        if len(numbers) != len(self._array.shape):
            raise ValueError(f"{name} is not a chunk of this layer")
        if inner is not None:
            grid = chunks_per_file(sizes, self._array.chunks)
            within = np.unravel_index(inner, grid)
            numbers = tuple(
                number * per + int(at) for number, per, at in zip(numbers, grid, within, strict=True)
            )
            sizes = self._array.chunks
        ranges = dict.fromkeys("tczyx", range(1))
        for axis, position in self._axes.items():
            size, whole = sizes[position], self._array.shape[position]
            ranges[axis] = range(whole)[numbers[position] * size : (numbers[position] + 1) * size]
        return ranges if all(ranges.values()) else None

    @property
    def has_digests(self) -> bool:
        """Whether `digests` tells anything."""
        return self._array.own is not None and self._array.own.has_digests

    def digests(self, name: str, size: int, mark: int) -> bytes:
        """What tells the chunks in a shard from what they were or will be: see `Chunks.digests`.

        Empty where that cannot be told, and where chunks are not sharded.
        """
        return b"" if self._array.own is None else self._array.own.digests(name, size, mark)

    def stamps(self) -> dict[str, tuple[int, int]]:
        """Size and mtime of the files that may have `digests`: see `Chunks.stamps`."""
        return {} if self._array.own is None else self._array.own.stamps()

    def has_file(self, name: str) -> bool:
        """Whether there is a file `name`, a path below the array, such as that of a chunk."""
        return self._array.store.file_exists(join(self._array.path, name))

    def _selection(
        self, index: tuple[int, int, int], row0: int, row1: int, column0: int, column1: int
    ) -> Selection:
        for what, first, end, size in (
            ("rows", row0, row1, self.height),
            ("columns", column0, column1, self.width),
        ):
            if not 0 <= first < end <= size:
                raise ValueError(f"{what} {first} to {end} are not within 0 to {size}")
        selection: list[int | slice] = [0] * len(self._array.shape)
        for name, position in zip("tcz", index, strict=True):
            size = self._array.shape[self._axes[name]] if name in self._axes else 1
            if not 0 <= position < size:
                raise ValueError(f"plane {index} is not one of this layer")
            if name in self._axes:
                selection[self._axes[name]] = position
        selection[self._axes["y"]] = slice(row0, row1)
        selection[self._axes["x"]] = slice(column0, column1)
        return tuple(selection)


def _span(parts: Sequence[int | slice]) -> slice:
    """What holds all of these indices of an axis, or all of these slices, which are equal."""
    indices = [part for part in parts if isinstance(part, int)]
    if indices:
        return slice(min(indices), max(indices) + 1)
    return next(part for part in parts if isinstance(part, slice))


def open_layer(source: LayerSource, limits: Limits) -> LabelLayer:
    """Open a layer's level 0 and work out where it lies in its image; no pixel is read.

    Raises SourceDamaged or SourceRefused, naming the part, if metadata, axes, data type, codecs or sizes do
    not allow it.
    """
    store = open_store(source.location, limits)
    group, multiscale = _metadata(store, source)
    array = open_array(store, join(source.path, multiscale.levels[0].path), group.zarr_format)
    grid = _grid(store, source, multiscale, array)
    _check_planes(store, array, grid)
    warnings = [*multiscale.warnings, *grid.warnings]
    parent = parent_of(store, source, group, grid, warnings)
    image = grid if parent is None else parent.grid
    objects = label_objects_of(group)
    return LabelLayer(
        source=source,
        dtype=array.dtype,
        height=grid.size("y"),
        width=grid.size("x"),
        frame=Frame() if parent is None else parent.frame,
        image_size=image.sizes,
        planes=_planes(store, source, grid, image, warnings),
        objects=objects,
        pixels=int(np.prod(array.shape, dtype=object)),
        warnings=(*warnings, *objects.warnings),
        limits=limits,
        _array=array,
        _axes=grid.axes,
    )


def _metadata(store: Store, source: LayerSource) -> tuple[Group, Multiscale]:
    group = read_group(store, source.path)
    if group is None:
        raise SourceDamaged(source.location, source.path, "there is no such group")
    multiscale = multiscale_of(store, group)
    if multiscale is None:
        raise SourceDamaged(source.location, source.path, "has no multiscales, so it is no label image")
    return group, multiscale


def _grid(store: Store, source: LayerSource, multiscale: Multiscale, array: LabelArray) -> Grid:
    try:
        return grid_of(multiscale, array.shape)
    except AxesProblem as problem:
        kind = SourceRefused if problem.refused else SourceDamaged
        raise kind(store.location, source.path, str(problem)) from None


def _check_planes(store: Store, array: LabelArray, grid: Grid) -> None:
    limits = store.limits
    pixels = grid.size("y") * grid.size("x")
    count = grid.size("t") * grid.size("c") * grid.size("z")
    for what, has, allowed in (
        ("pixels in one plane", pixels, limits.plane_pixels),
        ("planes", count, limits.planes),
    ):
        if has > allowed:
            raise SourceRefused(store.location, array.path, f"has {has} {what}; {allowed} are allowed")


def _planes(
    store: Store, source: LayerSource, grid: Grid, image: Grid, warnings: list[str]
) -> tuple[LayerPlane, ...]:
    """The layer's planes with the image planes they appear on; those that appear on none are left out."""
    t_keys, c_keys, z_keys = (_keys(grid, image, name) for name in "tcz")
    shown = sum(map(len, t_keys)) * len(c_keys) * sum(map(len, z_keys))
    if shown > store.limits.planes:
        reason = f"appears on {shown} planes of its image; {store.limits.planes} are allowed"
        raise SourceRefused(store.location, source.path, reason)
    planes: list[LayerPlane] = []
    for index in itertools.product(*(range(len(keys)) for keys in (t_keys, c_keys, z_keys))):
        t, c, z = index
        keys = [PlaneKey(*key) for key in itertools.product(t_keys[t], c_keys[c], z_keys[z])]
        if keys:
            planes.append(LayerPlane((t, c, z), tuple(sorted(keys, key=_order))))
    for name, keys_of_axis in (("t", t_keys), ("z", z_keys)):
        counts = Counter(itertools.chain.from_iterable(keys_of_axis))
        if shared := sum(count > 1 for count in counts.values()):
            reason = "several of the layer: objects that are on several of them have a feature for each"
            warnings.append(f"on {shared} planes of its image along {name} lie {reason}")
    missing = len(t_keys) * len(c_keys) * len(z_keys) - len(planes)
    if missing:
        warnings.append(f"{missing} planes of the layer lie outside its image and are left out")
    return tuple(sorted(planes, key=lambda plane: _order(plane.keys[0])))


def _order(key: PlaneKey) -> tuple[int, ...]:
    return key.order


def _keys(grid: Grid, image: Grid, name: str) -> Sequence[Sequence[int | None]]:
    """For each index of the layer's axis, the image's indices. Size 1 (NGFF: broadcast) is one entry."""
    if grid.size(name) == 1:
        return [(None,)] if name == "c" or image.size(name) > 1 else [(0,)]
    if name == "c":
        return [range(c, c + 1) for c in range(grid.size("c"))]
    return shown_on(grid, image, name)
