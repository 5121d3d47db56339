"""Which tables an image has: in its store where conventions put them, and files that were given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache

from roiservice.errors import SourceError
from roiservice.sources.groups import Group, read_group
from roiservice.sources.images import ImageSource
from roiservice.sources.layer import (
    BOXES,
    LABEL_IMAGE,
    OME_XML,
    SPATIALDATA,
    TABLE_FILE,
    LayerSource,
    ValueSource,
)
from roiservice.sources.limits import Limits
from roiservice.sources.paths import join
from roiservice.sources.roots import open_parent
from roiservice.sources.store import Store
from roiservice.sources.tables import ngiolisting, spatialdata
from roiservice.sources.tables.files import stem
from roiservice.sources.tables.layers import ANNDATA, read_table_file
from roiservice.sources.tables.table import ValueTable

_OME_XML = "OME/METADATA.ome.xml"
# What Fractal's converters write for every image: where the camera was, not what is there to see.
_FIELDS_OF_VIEW = frozenset({"FOV_ROI_table", "well_ROI_table", "image_ROI_table"})


@dataclass
class Tables:
    """Layers found, tables of values with the label images they are about (() if unsaid), what is wrong."""

    layers: list[LayerSource] = field(default_factory=list)
    values: list[tuple[ValueSource, tuple[str, ...]]] = field(default_factory=list)
    problems: list[SourceError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Have what is wrong with one part leave the others usable."""
        try:
            yield
        except SourceError as error:
            self.problems.append(error)


def find_tables(store: Store, image: ImageSource, given: Sequence[str]) -> Tables:
    """Tables in an image's store, and the files `given` for it; no table in the store is read for this."""
    found = Tables()
    with found.noting():
        root = read_group(store, image.path)
        if root is not None and spatialdata.is_root(store, root):
            _add_spatialdata(found, store, image)
        elif root is not None:
            _add_ngio(found, store, image)
    _add_omexml(found, store, image)
    for location in given:
        add_file(found, image, location, store.limits)
    return found


def file_layer(image: ImageSource, location: str) -> LayerSource:
    """The layer of a file that holds shapes."""
    name = stem(location)
    return LayerSource(image, location, f"tables:{name}", name, TABLE_FILE)


def add_file(found: Tables, image: ImageSource, location: str, limits: Limits) -> None:
    """Add a table file as a layer of the image, or as values of its labels."""
    try:
        store, name = open_parent(location, limits)
        stamp = store.stamp(name)
        layers = None if stamp is None else _labels_of(location, stamp, limits)
    except SourceError as error:
        found.problems.append(error)
        return
    if layers is None:
        found.layers.append(file_layer(image, location))
    else:
        found.values.append((ValueSource(TABLE_FILE, location), layers))


def join_values(layers: Sequence[LayerSource], found: Tables) -> list[LayerSource]:
    """The layers, label images among them with the tables of values that are about them."""
    labels = {layer.name: layer for layer in layers if layer.kind == LABEL_IMAGE}
    values: dict[str, tuple[ValueSource, ...]] = {}
    for source, names in found.values:
        about = [name for name in names or _meant(source, labels) if name in labels]
        if not about:
            named = f" called {' or '.join(names)}" if names else ""
            missing = f"values of labels, but of no label image of this image{named}"
            found.warnings.append(f"{source.path}: {missing}")
        for name in about:
            values[name] = (*values.get(name, ()), replace(source, region=name))
    return [
        replace(layer, values=values[layer.name])
        if layer.kind == LABEL_IMAGE and layer.name in values
        else layer
        for layer in layers
    ]


def _meant(source: ValueSource, labels: dict[str, LayerSource]) -> tuple[str, ...]:
    """The label image of the file's own name, else the only one there is."""
    name = stem(source.path)
    if name in labels:
        return (name,)
    return tuple(labels) if len(labels) == 1 else ()


@lru_cache(256)
def _labels_of(location: str, stamp: tuple[str, int, int], limits: Limits) -> tuple[str, ...] | None:
    """Names of the label images a file of values is about; None if it holds shapes. Read once per state."""
    del stamp
    table = read_table_file(location, limits)
    return table.layers if isinstance(table, ValueTable) else None


def _add_spatialdata(found: Tables, store: Store, image: ImageSource) -> None:
    with found.noting():
        for element in spatialdata.find_elements(store, image.path):
            collection = f"{element.kind}:{element.name}"
            found.layers.append(LayerSource(image, element.path, collection, element.name, SPATIALDATA))
    for name in store.children(join(image.path, "tables")):
        path = join(image.path, "tables", name)
        with found.noting():
            group = read_group(store, path)
            if group is not None:
                found.values += [(ValueSource(ANNDATA, path), (region,)) for region in _regions(group)]


def _regions(group: Group) -> list[str]:
    """Names of the elements that a table annotates, as SpatialData repeats them in the attributes."""
    stated = group.raw.get("region")
    regions = stated if isinstance(stated, list) else [stated]
    return [region for region in regions if isinstance(region, str)]


def _add_ngio(found: Tables, store: Store, image: ImageSource) -> None:
    listing = ngiolisting.find_tables(store, image.path)
    found.problems += listing.problems
    for entry in listing.entries:
        if entry.has_boxes:
            collection = f"tables:{entry.name.replace('/', ':')}"
            hidden = entry.name in _FIELDS_OF_VIEW
            layer = LayerSource(image, entry.path, collection, entry.name, BOXES, hidden=hidden)
            found.layers.append(layer)
        else:
            region = () if entry.region is None else (entry.region,)
            found.values.append((ValueSource(BOXES, entry.path), region))


def _add_omexml(found: Tables, store: Store, image: ImageSource) -> None:
    """OME-XML of a bioformats2raw layout lies beside its images, in the group above them."""
    parent = image.path.rpartition("/")[0]
    for folder in dict.fromkeys((image.path, parent)):
        path = join(folder, _OME_XML)
        with found.noting():
            if not store.file_exists(path):
                continue
            data = store.read(path, store.limits.table_bytes)
            if data is not None and (b"<ROI " in data or b":ROI " in data):
                found.layers.append(LayerSource(image, path, "OME", "OME", OME_XML))
            return
