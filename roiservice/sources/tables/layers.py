"""Table layers: which file or group a layer is read from, and into the pixels of which image.

What reads a kind of table is imported for it: most layers are label images, and need none of these.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from roiservice.errors import SourceDamaged, SourceError
from roiservice.records import dataclass
from roiservice.sources.grids import Grid
from roiservice.sources.groups import read_group
from roiservice.sources.layer import BOXES, OME_XML, SPATIALDATA, TABLE_FILE, LayerSource, ValueSource
from roiservice.sources.limits import Limits
from roiservice.sources.parents import grid_at
from roiservice.sources.paths import join
from roiservice.sources.roots import open_parent, open_store
from roiservice.sources.tables import files, ngiolisting, spatialdata
from roiservice.sources.tables.affine import Affine
from roiservice.sources.tables.table import ShapeTable, TableFile, ValueTable

Stamp = tuple[str, int, int]
Size = tuple[int, int, int, int, int]

ANNDATA = "AnnData table"
_MEMBERS = (
    "zarr.json",
    ".zattrs",
    "shapes.parquet",
    "points.parquet",
    "points.parquet/part.0.parquet",
    "table.csv",
    "table.parquet",
)


@dataclass(frozen=True)
class TableLayer:
    """A table that can be opened: `image_size` is (t, c, z, y, x) of its image, None without image.

    `size` counts the bytes of its files, as far as they can be told without reading.
    """

    source: LayerSource
    image_size: Size | None
    size: int
    warnings: tuple[str, ...]
    limits: Limits

    def read(self) -> ShapeTable:
        """All shapes, in pixels of the image. Raises SourceError if the table cannot be used at all."""
        return _READERS[self.source.kind](self.source, self.limits)

    @property
    def pixels(self) -> int:
        """What it costs to build, beside label images: reading a byte is about as much work as a pixel."""
        return self.size


def open_table(source: LayerSource, limits: Limits) -> TableLayer:
    """Open a table layer without reading it. Raises SourceError if it is not there."""
    warnings: list[str] = []
    grid = _image_grid(source, limits, warnings)
    size = sum(size for _, size, _ in table_stamps(source, limits) if size > 0)
    return TableLayer(source, None if grid is None else grid.sizes, size, tuple(warnings), limits)


def table_stamps(source: LayerSource, limits: Limits) -> Iterator[Stamp]:
    """(path, size, mtime_ns) of all files that a table layer depends on; -1 for those that do not exist."""
    if source.kind == TABLE_FILE:
        store, name = open_parent(source.path, limits)
        stamp = store.stamp(name)
        if stamp is None:
            raise SourceDamaged(source.path, "", "there is no such file")
        yield stamp
        if source.image.location == source.path:
            return
    store = open_store(source.image.location, limits)
    image: str | None = source.image.path
    if source.kind == SPATIALDATA:
        image = spatialdata.reference_raster(store, source.image.path)
    for document in spatialdata.raster_documents(store, image) if image is not None else ():
        yield store.stamp(document) or (document, -1, -1)
    if source.kind == OME_XML:
        yield store.stamp(source.path) or (source.path, -1, -1)
    elif source.kind != TABLE_FILE:
        yield from store.files(source.path)
        # Files that no zarr metadata know of, named here as well for stores that list nothing.
        for name in _MEMBERS:
            yield store.stamp(join(source.path, name)) or (name, -1, -1)


def value_stamps(source: LayerSource, limits: Limits) -> Iterator[Stamp]:
    """As `table_stamps`, of the tables whose columns are joined to a layer."""
    for values in source.values:
        if values.kind == TABLE_FILE:
            store, name = open_parent(values.path, limits)
            yield store.stamp(name) or (name, -1, -1)
        else:
            yield from open_store(source.image.location, limits).files(values.path)


def read_values(source: LayerSource, values: ValueSource, limits: Limits) -> ValueTable:
    """The table of values; raises SourceError if it cannot be used."""
    if values.kind == TABLE_FILE:
        table = read_table_file(values.path, limits)
        if isinstance(table, ShapeTable):
            raise SourceDamaged(values.path, "", "now holds shapes, not values of labels")
        return table
    store = open_store(source.image.location, limits)
    if values.kind == BOXES:
        from roiservice.sources.tables import ngio

        for entry in ngiolisting.find_tables(store, source.image.path).entries:
            if entry.path == values.path:
                return ngio.read_values(store, entry, limits)
        raise SourceDamaged(source.image.location, values.path, "is no table any more")
    from roiservice.sources.tables.anndata import read_anndata, values_of

    for table in values_of(read_anndata(store, values.path, limits)):  # SpatialData joins by name
        if values.region in table.layers:
            return table
    raise SourceDamaged(source.image.location, values.path, f"has no rows for {values.region!r} any more")


def read_table_file(location: str, limits: Limits) -> ShapeTable | ValueTable:
    """A table file, wherever it lies. Raises SourceError."""
    store, name = open_parent(location, limits)
    data = store.read(name, limits.table_bytes)
    if data is None:
        raise SourceDamaged(location, "", "there is no such file")
    return files.read_table(TableFile(store.location, name, data), limits)


def _from_file(source: LayerSource, limits: Limits) -> ShapeTable:
    table = read_table_file(source.path, limits)
    if isinstance(table, ValueTable):
        raise SourceDamaged(source.path, "", "holds values of labels, but no shapes")
    return table


def _from_omexml(source: LayerSource, limits: Limits) -> ShapeTable:
    from roiservice.sources.tables import omexml

    store = open_store(source.image.location, limits)
    data = store.read(source.path, limits.table_bytes)
    if data is None:
        raise SourceDamaged(source.image.location, source.path, "there is no such file")
    name = os.path.basename(source.image.path)
    index = int(name) if name.isdigit() else None
    return omexml.read_omexml(TableFile(store.location, source.path, data), limits, index)


def _from_spatialdata(source: LayerSource, limits: Limits) -> ShapeTable:
    from roiservice.sources.tables.spatialpoints import read_points
    from roiservice.sources.tables.spatialshapes import read_shapes

    store = open_store(source.image.location, limits)
    raster = spatialdata.reference_raster(store, source.image.path)
    for element in spatialdata.find_elements(store, source.image.path):
        if element.path == source.path:
            affine = Affine() if raster is None else spatialdata.element_affine(store, element, raster)
            read = read_points if element.kind == spatialdata.POINTS else read_shapes
            return read(store, element, affine, limits)
    raise SourceDamaged(source.image.location, source.path, "is no element any more")


def _from_boxes(source: LayerSource, limits: Limits) -> ShapeTable:
    from roiservice.sources.tables import ngio

    store = open_store(source.image.location, limits)
    grid = grid_at(store, source.image.path, [])
    if grid is None:
        raise SourceDamaged(source.image.location, source.path, "its image has no pixel size to go by")
    for entry in ngiolisting.find_tables(store, source.image.path).entries:
        if entry.path == source.path:
            seconds = grid.seconds("t") if grid.size("t") > 1 else None
            return ngio.read_boxes(store, entry, limits, _pixel_size(source, grid), grid.sizes, seconds)
    raise SourceDamaged(source.image.location, source.path, "is no table any more")


def _pixel_size(source: LayerSource, grid: Grid) -> tuple[float, float, float]:
    """Micrometres along z, y, x; boxes mean nothing without those of y and x."""
    z, y, x = (grid.micrometres(axis) for axis in "zyx")
    if y is None or x is None:
        reason = "is in micrometres, but its image states no pixel size in a unit of length"
        raise SourceDamaged(source.image.location, source.path, reason)
    return z or 1.0, y, x


def _image_grid(source: LayerSource, limits: Limits, warnings: list[str]) -> Grid | None:
    """Level-0 grid of the layer's image; None for a table apart from any."""
    if source.image.location == source.path:
        return None
    store = open_store(source.image.location, limits)
    path: str | None = source.image.path
    try:
        group = read_group(store, source.image.path)
        if group is not None and spatialdata.is_root(store, group):
            path = spatialdata.reference_raster(store, source.image.path)
    except SourceError as error:
        warnings.append(f"{error.part}: {error.reason}")
    return None if path is None else grid_at(store, path, warnings)


_READERS = {
    TABLE_FILE: _from_file,
    OME_XML: _from_omexml,
    SPATIALDATA: _from_spatialdata,
    BOXES: _from_boxes,
}
