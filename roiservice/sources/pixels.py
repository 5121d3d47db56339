"""The image's own pixels, which statistics of shapes are made of."""

from __future__ import annotations

from dataclasses import field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.records import dataclass
from roiservice.sources.arrays import LabelArray, open_array
from roiservice.sources.grids import AxesProblem, grid_of
from roiservice.sources.groups import read_group
from roiservice.sources.images import ImageSource
from roiservice.sources.limits import Limits
from roiservice.sources.ngff import has_multiscales, multiscale_of
from roiservice.sources.paths import join
from roiservice.sources.roots import open_store
from roiservice.sources.slabs import Selection
from roiservice.sources.store import Store
from roiservice.sources.tables.files import is_table_alone
from roiservice.sources.tables.spatialdata import is_root, reference_raster

AXES = "tczyx"
Block = tuple[slice, slice, slice, slice, slice]


@dataclass(frozen=True, eq=False)
class ImagePixels:
    """Level 0 of an image; may be read from several threads.

    `sizes` and `chunks` are (t, c, z, y, x), 1 where the image has no such axis; chunks are inner ones where
    they are sharded. `dtype` is a native-endian integer, bool or float.
    """

    dtype: np.dtype[Any]
    sizes: tuple[int, int, int, int, int]
    chunks: tuple[int, int, int, int, int]
    _array: LabelArray = field(repr=False)
    _axes: dict[str, int] = field(repr=False)

    def read(self, block: Block) -> NDArray[Any]:
        """Pixels of `block`, slices within `sizes`, as (t, c, z, y, x) of `dtype`.

        Nothing is kept: who needs several planes of one chunk asks for them at once. Chunks that do not exist
        hold the fill value; those that cannot be decoded raise SourceDamaged naming the array and the chunk.
        """
        wanted = dict(zip(AXES, block, strict=True))
        names = {index: name for name, index in self._axes.items()}
        selection: Selection = tuple(
            wanted[names[index]] if index in names else 0 for index in range(len(self._array.shape))
        )
        there = [names[index] for index in sorted(names)]
        pixels = self._array.load(selection).transpose([there.index(name) for name in AXES if name in there])
        return pixels.reshape([part.stop - part.start for part in block]).astype(self.dtype, copy=False)


def open_pixels(source: ImageSource, limits: Limits) -> ImagePixels:
    """Open level 0 of an image without reading it; of a SpatialData store, that of its reference raster.

    Raises SourceRefused where there are no pixels of numbers or a limit forbids them, SourceDamaged where
    metadata do not fit.
    """
    if is_table_alone(source.location):
        raise SourceRefused(source.location, "", "is a table, not an image: it has no pixels")
    store = open_store(source.location, limits)
    path = _image_path(store, source.path)
    group = read_group(store, path)
    multiscale = None if group is None else multiscale_of(store, group)
    if group is None or multiscale is None:
        raise SourceRefused(store.location, path, "has no pixels: there is no image beside the layers")
    array = open_array(store, join(path, multiscale.levels[0].path), group.zarr_format, floats=True)
    try:
        grid = grid_of(multiscale, array.shape)
    except AxesProblem as problem:
        kind = SourceRefused if problem.refused else SourceDamaged
        raise kind(store.location, path, str(problem)) from None
    t, c, z, y, x = (array.chunks[grid.axes[name]] if name in grid.axes else 1 for name in AXES)
    return ImagePixels(array.dtype, grid.sizes, (t, c, z, y, x), array, grid.axes)


def _image_path(store: Store, path: str) -> str:
    group = read_group(store, path)
    if group is not None and not has_multiscales(group) and is_root(store, group):
        return reference_raster(store, path) or path
    return path
