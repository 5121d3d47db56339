"""Version tokens: what has changed, told without reading any chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from roiservice.errors import SourceDamaged
from roiservice.sources.groups import read_group
from roiservice.sources.layer import LABEL_IMAGE, LayerSource
from roiservice.sources.limits import Limits
from roiservice.sources.ngff import multiscale_of
from roiservice.sources.parents import parent_documents
from roiservice.sources.paths import join
from roiservice.sources.roots import open_store
from roiservice.sources.tables.layers import table_stamps, value_stamps
from roiservice.sources.tables.spatialdata import raster_documents


def source_token(source: LayerSource, limits: Limits) -> str:
    """Hex digest over path, size and mtime (ns) of all files that a layer's planes and frame depend on.

    These are the files of its level-0 array, its metadata and its image's metadata, or those of its table;
    and those of tables whose values are joined to it. It changes whenever one of them is written, added or
    removed. Raises SourceError if the layer's own metadata cannot be used.
    """
    digest = hashlib.sha256(f"{source.path}\0{source.asked}".encode())
    stamps = table_stamps(source, limits) if source.kind != LABEL_IMAGE else _label_stamps(source, limits)
    for name, size, modified in (*stamps, *value_stamps(source, limits)):
        digest.update(f"\0{name}\0{size}\0{modified}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _label_stamps(source: LayerSource, limits: Limits) -> Iterator[tuple[str, int, int]]:
    store = open_store(source.location, limits)
    group = read_group(store, source.path)
    multiscale = None if group is None else multiscale_of(store, group)
    if group is None or multiscale is None:
        raise SourceDamaged(source.location, source.path, "has no multiscales, so it is no label image")
    documents = [join(source.path, name) for name in ("zarr.json", ".zgroup", ".zattrs")]
    documents.extend(parent_documents(store, source, group))
    for document in documents:
        yield store.stamp(document) or (document, -1, -1)
    if source.own_store:
        image = open_store(source.image.location, limits)
        for document in raster_documents(image, source.image.path):
            yield image.stamp(document) or (document, -1, -1)
    yield from store.files(join(source.path, multiscale.levels[0].path))
