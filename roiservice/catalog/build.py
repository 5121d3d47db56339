"""Build the catalog of one layer version: store -> planes -> rings -> columns."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roiservice.catalog.changes import Changes, can_be_mended, changes_since, chunk_digests, columns_of
from roiservice.catalog.engine import Engine, Threads
from roiservice.catalog.indexes import RoiColumns
from roiservice.catalog.prepared import PreparedFeatures, objects_of, prepared
from roiservice.catalog.progress import Progress
from roiservice.catalog.properties import joined_columns, merged, named_columns, stated_columns
from roiservice.catalog.reader import Catalog, open_catalog
from roiservice.catalog.registry import Registry, roi_numbers
from roiservice.catalog.retrace import TooMuch, retraced
from roiservice.catalog.spill import BlockFiles
from roiservice.catalog.splice import Splice, spliced, write_splice
from roiservice.catalog.tables import describe_objects, extent_size, write_table
from roiservice.catalog.tracing import VertexLimits, block_rows, blocks_are_planes, traced_features
from roiservice.catalog.versions import LayerVersion, blocks_folder
from roiservice.catalog.writer import CatalogWriter
from roiservice.errors import (
    CatalogDamaged,
    EngineFailed,
    RegistryFailed,
    SourceError,
    TooManyObjects,
    TooManyVertices,
)
from roiservice.records import dataclass
from roiservice.sources.layer import BY_LABEL, LayerSource
from roiservice.sources.objects import packed
from roiservice.sources.planes import LabelLayer
from roiservice.sources.tables.layers import Size, TableLayer, read_values
from roiservice.sources.tables.table import NO_COLOR, ShapeTable, ValueTable
from roiservice.vectorize.regions import region_measures

# Blocks of layers with more pixels on all planes are kept in files: to save memory, and for builds that are
# killed. Where blocks are whole planes memory needs no files, and they cost a third of the time.
SPILL_PIXELS = 2**22
SPILL_PIXELS_OF_PLANES = 2**28

Describe = Callable[[NDArray[Any], NDArray[Any]], RoiColumns]  # of distinct objects, and their labels


def build_catalog(
    layer: LabelLayer | TableLayer,
    version: LayerVersion,
    directory: Path,
    registry: Registry,
    *,
    max_vertices: int | None,
    stop_at_vertices: int | None = None,
    progress: Progress | None = None,
    settled: Callable[[], None] | None = None,
    before: Path | None = None,
    engine: Engine | None = None,
) -> bool:
    """Write the catalog of `layer` to `directory`, tracing all planes of a label image.

    Returns whether its features are known to be those of the catalog in `before`.

    Where chunks tell what changed since the catalog in `before` was built, of another state of the same
    source with the same options, only the surroundings of these are traced; the outcome is the same. Its
    files are shared: nobody may put another catalog there meanwhile. `settled` is called once all that is
    traced lies on the disk, before the catalog is written from that, and may raise.
    Nothing is left behind on failure. What a build has traced when it is interrupted or killed lies in the
    `blocks_folder` of `directory`, unless it was over soon, and the next build of the same version goes on
    from there. Tables of values that cannot be used cost a warning. `engine` None: the threads of this
    process. Raises SourceError naming the part at fault; SourceRefused if a plane of labels has more than
    `max_vertices` outline vertices; TooManyObjects once the whole layer has more than `stop_at_vertices`;
    EngineFailed.
    """
    if isinstance(layer, TableLayer):
        _build_table(layer, version, directory, registry, stop_at_vertices)
        return False
    build = _Build(layer, version, directory, registry, progress)
    mended = None if before is None else _mended(build, before, max_vertices, stop_at_vertices)
    if mended is not None:
        return not len(mended.come.gone) + len(mended.come.places)
    folder = blocks_folder(directory)
    try:
        limits = VertexLimits(max_vertices, stop_at_vertices)
        _trace(build, folder, limits, engine or Threads(), settled or (lambda: None))
    except (EngineFailed, RegistryFailed):
        raise  # the blocks are sound
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    return False


@dataclass(frozen=True)
class _Build:
    """A catalog of a label layer that is being written."""

    layer: LabelLayer
    version: LayerVersion
    directory: Path
    registry: Registry
    progress: Progress | None

    @contextmanager
    def writer(self) -> Iterator[CatalogWriter]:
        """What features are added to; it leaves nothing behind on failure."""
        labels = np.uint64 if self.layer.dtype == np.uint64 else np.int64
        vertices = np.int32 if self.version.outline.is_exact else np.float64
        writer = CatalogWriter(self.directory, self.layer.frame, labels, vertices)
        try:
            yield writer
        except BaseException:
            writer.discard()
            raise

    def tick(self) -> None:
        """Tell that the build is at work, though no pixels are done."""
        if self.progress is not None:
            self.progress(0, 0)

    def described(
        self, regions: _Regions, digests: Sequence[bytes]
    ) -> tuple[Describe, dict[str, Any], dict[str, Any] | None]:
        """What is told of the ROIs, of the layer, and of the chunks that it is made from, with `digests`."""
        joined, warnings = _joined(self.layer)
        describe = partial(_describe, self.layer, joined, regions, self.registry, self.version.layer_number)
        meta = _meta(self.layer, self.version, [*self.layer.warnings, *warnings])
        state = self.version.chunks
        if state is None:
            return describe, meta, None
        return describe, {**meta, "rest": state.rest}, columns_of(self.layer, state, digests)


def _trace(
    build: _Build, folder: Path, limits: VertexLimits, engine: Engine, settled: Callable[[], None]
) -> None:
    """Trace all planes; blocks of large layers lie in `folder`. `settled` is as of `build_catalog`."""
    layer, outline, chunks = build.layer, build.version.outline, build.version.chunks
    digests = [] if chunks is None else chunk_digests(layer, outline, chunks, build.tick)
    files = None
    if layer.pixels > (SPILL_PIXELS_OF_PLANES if blocks_are_planes(layer) else SPILL_PIXELS):
        state = "" if chunks is None else chunks.token
        key = f"{build.version.token} {state} {block_rows(layer)}"
        files = BlockFiles(folder, key, held=layer.pixels <= SPILL_PIXELS_OF_PLANES)
    regions = _Regions(layer.source.measures)
    with build.writer() as writer:
        found = 0

        def advance(pixels: int, parts: int) -> None:
            nonlocal found
            found += parts
            if build.progress is not None:
                build.progress(pixels, max(found, writer.features))

        prepare = partial(prepared, layer, outline)
        whole = bool(outline.simplify)  # shared borders need all who share them
        with closing(traced_features(layer, engine, limits, files, advance, prepare, whole=whole)) as traced:
            for features in traced:
                regions.add(features)
                features.write(writer, exact=outline.is_exact)
                advance(0, 0)
        writer.settle()
        settled()
        writer.finish(*build.described(regions, digests))


def _mended(
    build: _Build, before: Path, max_vertices: int | None, stop_at_vertices: int | None
) -> Splice | None:
    """Make the catalog from the one in `before`, if that is of any use: what became of its features."""
    with suppress(CatalogDamaged, TooMuch):
        catalog = open_catalog(before)  # one opened earlier might not be what lies there now
        changes = _changes(build, catalog, stop_at_vertices)
        if changes is not None:
            return _mend(build, catalog, changes, max_vertices)
    return None


def _changes(build: _Build, before: Catalog, stop_at_vertices: int | None) -> Changes | None:
    """What changed since a catalog was built, if only that need be traced."""
    layer, state = build.layer, build.version.chunks
    if state is None or state.rest != before.meta.get("rest"):
        return None
    if not can_be_mended(layer, build.version.outline):
        return None
    if stop_at_vertices is not None and before.meta["counts"]["vertices"] > stop_at_vertices:
        return None
    meta = _meta(layer, build.version, ())
    if any(meta[name] != before.meta[name] for name in ("dtype", "layer_size", "frame", "image_size")):
        return None
    return changes_since(before.directory, layer, state, build.tick)


def _mend(build: _Build, before: Catalog, changes: Changes, max_vertices: int | None) -> Splice:
    """Trace what changed, and take all else from the catalog before. Raises TooMuch if that is no use."""
    advance = build.progress or (lambda *_: None)
    replaced = []
    for each in retraced(build.layer, before, changes, max_vertices):
        features = prepared(build.layer, build.version.outline, each.plane, each.labels, each.polygons)
        replaced.append(features.in_place_of(each.number, each.gone, each.places, build.layer.frame))
        advance(0, before.meta["counts"]["features"])
    splice = spliced(before, replaced)
    count = splice.rows.total
    advance(build.layer.pixels, count)
    objects, about = objects_of(build.layer, before), build.described(_Regions(()), changes.digests)
    write_splice(build.directory, splice, objects, *about, lambda: advance(0, count))
    return splice


def _build_table(
    layer: TableLayer,
    version: LayerVersion,
    directory: Path,
    registry: Registry,
    stop_at_vertices: int | None,
) -> None:
    table = _read_table(layer, stop_at_vertices)
    size = layer.image_size or extent_size(table)
    warnings = [*layer.warnings, *table.warnings]
    writer = write_table(table, directory, version.outline.min_area)
    try:
        meta = {
            **common_meta(layer.source, version, size, warnings),
            "frame": [1.0, 1.0, 0.0, 0.0],
            "refused": {"rows": table.refused.count, "reasons": list(table.refused.reasons)},
        }
        writer.finish(partial(describe_objects, table, registry, version.layer_number), meta)
    except BaseException:
        writer.discard()
        raise


def _read_table(layer: TableLayer, stop_at_vertices: int | None) -> ShapeTable:
    """The table; TooManyObjects where the other limit is the lower one, and it has more vertices."""
    allowed = layer.limits.table_vertices
    if stop_at_vertices is None or stop_at_vertices >= allowed:
        return layer.read()
    try:
        return replace(layer, limits=replace(layer.limits, table_vertices=stop_at_vertices)).read()
    except TooManyVertices as error:
        raise TooManyObjects(str(error)) from error


def _joined(layer: LabelLayer) -> tuple[list[ValueTable], list[str]]:
    """The tables of values that are about the layer, and what is wrong with them or others."""
    tables, warnings = [], []
    for values in layer.source.values:
        try:
            tables.append(read_values(layer.source, values, layer.limits))
        except SourceError as error:
            warnings.append(str(error))
        else:
            name = values.path.rpartition("/")[2]
            warnings += [f"{name}: {warning}" for warning in tables[-1].warnings]
    return tables, warnings


class _Regions:
    """Measures of regions, plane by plane; those of a ROI are of its largest feature."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._objects: list[NDArray[np.int64]] = []
        self._pixels: list[NDArray[np.int64]] = []
        self._values: list[NDArray[np.float64]] = []

    def add(self, features: PreparedFeatures) -> None:
        """Measure some features of a plane, if anything is to be measured."""
        if self._names:
            objects = features.labels if features.objects is None else features.objects
            self._objects.append(objects.astype(np.int64))
            self._pixels.append(features.pixel_count)
            self._values.append(region_measures(features.polygons, self._names))

    def columns(self, objects: NDArray[np.int64]) -> dict[str, pa.Array]:
        """A column for each measure, for the distinct `objects`, sorted."""
        if not self._objects:
            return {}
        of_feature = np.concatenate(self._objects)
        order = np.lexsort((np.concatenate(self._pixels), of_feature))
        largest = order[np.searchsorted(of_feature[order], objects, side="right") - 1]
        values = np.concatenate(self._values)[largest]
        columns = zip(self._names, values.T, strict=True)
        return named_columns({name: pa.array(column, from_pandas=True) for name, column in columns})


def _describe(
    layer: LabelLayer,
    joined: Sequence[ValueTable],
    regions: _Regions,
    registry: Registry,
    layer_number: int,
    objects: NDArray[Any],
    labels: NDArray[Any],
) -> RoiColumns:
    """ROI numbers, colors and properties of the objects of a label layer."""
    colors = layer.objects.colors
    color = np.broadcast_to(np.int64(NO_COLOR), len(labels))
    if colors:
        own = (packed(colors[label]) if label in colors else NO_COLOR for label in labels.tolist())
        color = np.fromiter(own, np.int64, len(labels))
    stated = stated_columns(layer.objects.properties, labels)
    return RoiColumns(
        roi_numbers(registry, layer_number, labels if layer.source.objects == BY_LABEL else objects),
        color,
        merged([regions.columns(objects), stated, *(joined_columns(table, labels) for table in joined)]),
    )


def _meta(layer: LabelLayer, version: LayerVersion, warnings: Sequence[str]) -> dict[str, Any]:
    frame = asdict(layer.frame)
    return {
        **common_meta(layer.source, version, layer.image_size, warnings),
        "dtype": str(layer.dtype),
        "layer_size": [layer.height, layer.width],
        "frame": [frame["scale_x"], frame["scale_y"], frame["offset_x"], frame["offset_y"]],
    }


def common_meta(
    source: LayerSource, version: LayerVersion, image_size: Size, warnings: Sequence[str]
) -> dict[str, Any]:
    """What is kept of any layer beside its features."""
    return {
        "version": version.number,
        "layer_number": version.layer_number,
        "token": version.token,
        "outline": version.outline.key(),
        "name": source.shown_name,
        "collection": source.collection,
        "image_name": source.image.name,
        "image_size": list(image_size),
        "text": source.text,
        "warnings": list(warnings),
    }
