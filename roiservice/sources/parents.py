"""The image that a layer belongs to."""

from __future__ import annotations

from collections.abc import Iterator

from roiservice.errors import SourceError
from roiservice.sources.arrays import array_document, array_shape
from roiservice.sources.grids import AxesProblem, Grid, grid_of
from roiservice.sources.groups import Group, read_group
from roiservice.sources.layers import LayerSource
from roiservice.sources.ngff import multiscale_of
from roiservice.sources.objects import source_image_of
from roiservice.sources.paths import join, relative_path
from roiservice.sources.store import Store

# NGFF: `image-label.source.image` defaults to the group above `labels/`.
_DEFAULT_SOURCE = "../../"


def parent_paths(source: LayerSource, group: Group) -> Iterator[str]:
    """Groups that may be the layer's image, likeliest first: its `source`, else that of its `labels/`.

    A store that is itself a layer has none but a stated one.
    """
    stated = source_image_of(group)
    seen = {source.path}
    if stated is not None or source.name != ".":
        target = relative_path(source.path, _DEFAULT_SOURCE if stated is None else stated)
        if target is not None and target not in seen:
            seen.add(target)
            yield target
    if source.name != "." and source.image.path not in seen:
        yield source.image.path


def parent_grid(store: Store, source: LayerSource, group: Group, warnings: list[str]) -> Grid | None:
    """Level-0 grid of the layer's image; None, with a warning, if there is none that can be used."""
    reasons: list[str] = []
    for path in parent_paths(source, group):
        try:
            grid = _grid_at(store, path, reasons)
        except SourceError as error:
            reasons.append(f"{error.part}: {error.reason}")
        except AxesProblem as problem:
            reasons.append(f"{path or 'root'}: {problem}")
        else:
            if grid is not None:
                return grid
    if reasons:
        warnings.append(f"no image to relate the layer to, so it has its own grid ({'; '.join(reasons)})")
    return None


def _grid_at(store: Store, path: str, reasons: list[str]) -> Grid | None:
    group = read_group(store, path)
    multiscale = None if group is None else multiscale_of(store, group)
    if group is None or multiscale is None:
        # A SpatialData root relates its elements by other means; there it is no lack.
        if group is None or "spatialdata_attrs" not in group.raw:
            reasons.append(f"{path or 'root'}: no multiscales")
        return None
    shape = array_shape(store, join(path, multiscale.levels[0].path), group.zarr_format)
    return grid_of(multiscale, shape)


def parent_documents(store: Store, source: LayerSource, group: Group) -> Iterator[str]:
    """Files that `parent_grid` depends on, whether or not they exist."""
    for path in parent_paths(source, group):
        yield from (join(path, name) for name in ("zarr.json", ".zgroup", ".zattrs"))
        try:
            parent = read_group(store, path)
            multiscale = None if parent is None else multiscale_of(store, parent)
        except SourceError:
            continue
        if parent is not None and multiscale is not None:
            yield array_document(join(path, multiscale.levels[0].path), parent.zarr_format)
