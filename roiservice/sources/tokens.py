"""Version tokens: what has changed, told without reading any chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from roiservice.errors import SourceDamaged
from roiservice.sources.groups import Group, read_group
from roiservice.sources.layers import LayerSource
from roiservice.sources.limits import Limits
from roiservice.sources.ngff import multiscale_of
from roiservice.sources.parents import parent_documents
from roiservice.sources.paths import join
from roiservice.sources.store import Store, open_store


def source_token(source: LayerSource, limits: Limits) -> str:
    """Hex digest over path, size and mtime (ns) of all files that a layer's planes and frame depend on.

    These are the files of its level-0 array, its metadata and its image's metadata. It changes whenever one
    of them is written, added or removed. Raises SourceError if the layer's own metadata cannot be used.
    """
    store = open_store(source.image.location, limits)
    group = read_group(store, source.path)
    multiscale = None if group is None else multiscale_of(store, group)
    if group is None or multiscale is None:
        raise SourceDamaged(source.image.location, source.path, "has no multiscales, so it is no label image")
    digest = hashlib.sha256(source.path.encode())
    for name, size, modified in _stamps(store, source, group, multiscale.levels[0].path):
        digest.update(f"\0{name}\0{size}\0{modified}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _stamps(store: Store, source: LayerSource, group: Group, level: str) -> Iterator[tuple[str, int, int]]:
    documents = [join(source.path, name) for name in ("zarr.json", ".zgroup", ".zattrs")]
    documents.extend(parent_documents(store, source, group))
    for document in documents:
        yield store.stamp(document) or (document, -1, -1)
    yield from store.files(join(source.path, level))
