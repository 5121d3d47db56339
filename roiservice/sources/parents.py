"""The image that a layer belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from roiservice.errors import SourceError
from roiservice.geometry.frames import Frame
from roiservice.records import dataclass
from roiservice.sources.arrays import array_shape
from roiservice.sources.grids import AxesProblem, Grid, frame_of, grid_of
from roiservice.sources.groups import Group, read_group
from roiservice.sources.layer import LayerSource
from roiservice.sources.limits import Limits
from roiservice.sources.ngff import multiscale_of
from roiservice.sources.objects import source_image_of
from roiservice.sources.paths import join, relative_path
from roiservice.sources.roots import open_store
from roiservice.sources.store import Store
from roiservice.sources.tables.spatialdata import (
    is_root,
    raster_documents,
    raster_frame,
    reference_raster,
)

# NGFF: `image-label.source.image` defaults to the group above `labels/`.
_DEFAULT_SOURCE = "../../"


@dataclass(frozen=True)
class Parent:
    """The image of a layer: its level-0 grid, and the frame of the layer's grid in it."""

    grid: Grid
    frame: Frame


def parent_paths(source: LayerSource, group: Group) -> Iterator[str]:
    """Groups that may be the layer's image, likeliest first: its `source`, else that of its `labels/`.

    All are in the layer's own store. A store that is itself a layer has none but a stated one.
    """
    stated = source_image_of(group)
    seen = {source.path}
    if stated is not None or source.name != ".":
        target = relative_path(source.path, _DEFAULT_SOURCE if stated is None else stated)
        if target is not None and target not in seen:
            seen.add(target)
            yield target
    if source.name != "." and not source.own_store and source.image.path not in seen:
        yield source.image.path


def parent_of(
    store: Store, source: LayerSource, group: Group, layer: Grid, warnings: list[str]
) -> Parent | None:
    """The image that the layer, a grid of its own, lies in; None if there is none that can be used.

    That is the image that NGFF relates it to, else the reference raster of a SpatialData store; for a label
    image in another store than its image, else that image. What keeps one from being used is a warning.
    """
    reasons: list[str] = []
    for path in parent_paths(source, group):
        grid = grid_at(store, path, reasons)
        if grid is not None:
            return Parent(grid, frame_of(layer, grid, warnings))
    if source.own_store:
        parent = _elsewhere(store.limits, source, layer, reasons, warnings)
    else:
        parent = _spatial_parent(store, source, layer, reasons)
    if parent is None and reasons:
        warnings.append(f"no image to relate the layer to, so it has its own grid ({'; '.join(reasons)})")
    return parent


def _elsewhere(
    limits: Limits, source: LayerSource, layer: Grid, reasons: list[str], warnings: list[str]
) -> Parent | None:
    """The layer's image where that lies in another store."""
    try:
        store = open_store(source.image.location, limits)
    except SourceError as error:
        reasons.append(str(error))
        return None
    grid = grid_at(store, source.image.path, reasons)
    return None if grid is None else Parent(grid, frame_of(layer, grid, warnings))


def _spatial_parent(store: Store, source: LayerSource, layer: Grid, reasons: list[str]) -> Parent | None:
    try:
        path = _spatial_reference(store, source)
        grid = None if path is None else grid_at(store, path, reasons)
        if path is None or grid is None:
            return None
        frame = raster_frame(store, source.path, path, (layer.size("z"), grid.size("z")))
    except SourceError as error:
        reasons.append(f"{error.part}: {error.reason}")
        return None
    # Scales of `datasets` mean nothing there: planes are paired by their index.
    return Parent(replace(grid, scale=None, translation=None), frame)


def _spatial_reference(store: Store, source: LayerSource) -> str | None:
    """The raster whose pixels are the image of a SpatialData store; None elsewhere, or if it is the layer."""
    root = read_group(store, source.image.path)
    if root is None or not is_root(store, root):
        return None
    path = reference_raster(store, source.image.path)
    return None if path == source.path else path


def grid_at(store: Store, path: str, reasons: list[str]) -> Grid | None:
    """Level-0 grid of the image at `path`; None, with a reason, if it cannot be used."""
    try:
        group = read_group(store, path)
        multiscale = None if group is None else multiscale_of(store, group)
        if group is None or multiscale is None:
            if group is None or not is_root(store, group):  # such a root relates its elements by other means
                reasons.append(f"{path or 'root'}: no multiscales")
            return None
        shape = array_shape(store, join(path, multiscale.levels[0].path), group.zarr_format)
        return grid_of(multiscale, shape)
    except SourceError as error:
        reasons.append(f"{error.part}: {error.reason}")
    except AxesProblem as problem:
        reasons.append(f"{path or 'root'}: {problem}")
    return None


def parent_documents(store: Store, source: LayerSource, group: Group) -> Iterator[str]:
    """Files that `parent_of` depends on, whether or not they exist."""
    for path in parent_paths(source, group):
        yield from raster_documents(store, path)
    if source.own_store:
        return
    try:
        reference = _spatial_reference(store, source)
    except SourceError:
        return
    if reference is not None:
        yield from raster_documents(store, reference)
