"""Build the catalog of one layer version: store -> planes -> rings -> columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.properties import stated_columns
from roiservice.catalog.registry import FIRST_EXTRA_ROI, Registry
from roiservice.catalog.writer import CatalogWriter, PlaneIndex, RoiColumns
from roiservice.errors import SourceRefused, TooManyObjects
from roiservice.geometry.features import EVERY_INDEX
from roiservice.geometry.polygons import Polygons, measure
from roiservice.sources.objects import packed
from roiservice.sources.planes import LabelLayer, PlaneKey
from roiservice.sources.tables.table import NO_COLOR
from roiservice.vectorize.outlines import Outline, redraw
from roiservice.vectorize.plane import trace_plane

# Pixels that are read at once. While one strip is traced the next one is read, so two are in memory.
STRIP_PIXELS = 2**24

Progress = Callable[[int, int], None]  # pixels since the last call, features so far


@dataclass(frozen=True)
class LayerVersion:
    """What names a catalog: numbers of layer and version, state of the source, outline options."""

    layer_number: int
    number: int
    token: str
    outline: Outline


def build_catalog(
    layer: LabelLayer,
    version: LayerVersion,
    directory: Path,
    registry: Registry,
    *,
    max_vertices: int | None,
    stop_at_vertices: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Trace all planes of `layer` and write its catalog to `directory`; nothing is left behind on failure.

    Raises SourceError naming the part at fault; SourceRefused if a plane has more than `max_vertices`
    outline vertices; TooManyObjects once the whole layer has more than `stop_at_vertices`.
    """
    labels = np.uint64 if layer.dtype == np.uint64 else np.int64
    exact = not (version.outline.simplify or version.outline.smooth)
    writer = CatalogWriter(directory, layer.frame, labels, np.int32 if exact else np.float64)
    limits = (max_vertices, stop_at_vertices)
    try:
        for keys, plane_labels, polygons in _traced(layer, limits, progress, writer):
            pixel_count = measure(polygons).area.astype(np.int64)
            kept = np.flatnonzero(pixel_count * layer.frame.pixel_area >= version.outline.min_area)
            if len(kept) < len(polygons):
                plane_labels, polygons, pixel_count = (
                    plane_labels[kept],
                    polygons.take(kept),
                    pixel_count[kept],
                )
            drawn = redraw(polygons, version.outline)
            planes = [_indices(key) for key in keys]
            writer.add_plane(planes, plane_labels.astype(labels), drawn, pixel_count, exact=exact)
        writer.finish(partial(_describe, layer, registry, version.layer_number), _meta(layer, version))
    except BaseException:
        writer.discard()
        raise


def _traced(
    layer: LabelLayer, limits: tuple[int | None, int | None], progress: Progress | None, writer: CatalogWriter
) -> Iterator[tuple[tuple[PlaneKey, ...], NDArray[Any], Polygons]]:
    """Labels and polygons of each plane in order; a second thread reads one strip ahead.

    `limits` are vertices per plane (past it, SourceRefused) and of all planes (past it, TooManyObjects).
    """
    rows = layer.strip_rows(STRIP_PIXELS)
    starts = range(0, layer.height, rows)
    tasks = [(plane.index, row, min(row + rows, layer.height)) for plane in layer.planes for row in starts]
    of_plane, left = limits
    with ThreadPoolExecutor(1, "read-ahead") as reader:
        strips = _read_ahead(reader, layer, tasks)
        for plane in layer.planes:
            in_all = left is not None and (of_plane is None or left < of_plane)
            own = _counted(strips, len(starts), progress, writer)
            try:
                labels, polygons = trace_plane(own, left if in_all else of_plane)
            except TooManyObjects as error:
                if in_all:
                    raise
                source = layer.source
                raise SourceRefused(
                    source.image.location, source.path, f"plane {plane.index}: {error}"
                ) from error
            if left is not None:
                left -= len(polygons.xy)
            yield plane.keys, labels, polygons


def _read_ahead(
    reader: ThreadPoolExecutor, layer: LabelLayer, tasks: list[tuple[tuple[int, int, int], int, int]]
) -> Iterator[NDArray[Any]]:
    following: Future[NDArray[Any]] | None = None
    for task in tasks:
        waiting, following = following, reader.submit(layer.read, *task)
        if waiting is not None:
            yield waiting.result()
            waiting = None
    if following is not None:
        yield following.result()


def _counted(
    strips: Iterator[NDArray[Any]], count: int, progress: Progress | None, writer: CatalogWriter
) -> Iterator[NDArray[Any]]:
    """The next `count` strips, reported as they go."""
    for _ in range(count):
        strip = next(strips)
        yield strip
        if progress is not None:
            progress(strip.size, writer.features)


def _indices(key: PlaneKey) -> PlaneIndex:
    t, c, z = (EVERY_INDEX if index is None else index for index in (key.t, key.c, key.z))
    return t, c, z


def roi_numbers(registry: Registry, layer_number: int, labels: NDArray[Any]) -> NDArray[np.int64]:
    """ROI numbers of distinct labels: labels from 1 to 2**31 - 1 themselves, else lasting ones."""
    outside = (labels < 1) | (labels >= FIRST_EXTRA_ROI)
    numbers = np.where(outside, 0, labels).astype(np.int64)
    if outside.any():
        keys = [str(label) for label in labels[outside].tolist()]
        numbers[outside] = registry.extra_roi_numbers(layer_number, keys)
    return numbers


def _describe(
    layer: LabelLayer, registry: Registry, layer_number: int, objects: NDArray[Any], labels: NDArray[Any]
) -> RoiColumns:
    """ROI numbers, colors and properties of the objects of a label layer."""
    del objects
    colors = layer.objects.colors
    color = np.full(len(labels), NO_COLOR, np.int64)
    if colors:
        color[:] = [packed(colors[label]) if label in colors else NO_COLOR for label in labels.tolist()]
    return RoiColumns(
        roi_numbers(registry, layer_number, labels),
        color,
        stated_columns(layer.objects.properties, labels),
    )


def _meta(layer: LabelLayer, version: LayerVersion) -> dict[str, Any]:
    frame = asdict(layer.frame)
    return {
        "version": version.number,
        "layer_number": version.layer_number,
        "token": version.token,
        "outline": version.outline.key(),
        # The image group itself has no path below labels/ to be named by.
        "name": layer.source.image.name if layer.source.name == "." else layer.source.name,
        "collection": layer.source.collection,
        "image_name": layer.source.image.name,
        "dtype": str(layer.dtype),
        "layer_size": [layer.height, layer.width],
        "image_size": list(layer.image_size),
        "frame": [frame["scale_x"], frame["scale_y"], frame["offset_x"], frame["offset_y"]],
        "warnings": list(layer.warnings),
    }
