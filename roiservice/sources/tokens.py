"""Version tokens: what has changed, told without reading any chunk."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from roiservice.errors import SourceDamaged
from roiservice.records import dataclass
from roiservice.sources.groups import Group, read_group
from roiservice.sources.layer import LABEL_IMAGE, LayerSource
from roiservice.sources.limits import Limits
from roiservice.sources.ngff import Multiscale, multiscale_of
from roiservice.sources.parents import parent_documents
from roiservice.sources.paths import join
from roiservice.sources.roots import open_store
from roiservice.sources.store import Store
from roiservice.sources.tables.layers import table_stamps, value_stamps
from roiservice.sources.tables.spatialdata import raster_documents

CHUNK = re.compile(r"(?:c[./])?\d+(?:[./]\d+)*")  # zarr v2; v3, "default" and "v2" chunk key encodings

Stamp = tuple[str, int, int]


@dataclass(frozen=True)
class ChunkState:
    """What a label layer's outlines are made from, as far as it can be told without reading chunks.

    `rest` is a digest over all but the chunks. The files of the level-0 array's chunks are (n,) `names`,
    sorted paths below the array, with `sizes` in bytes and `marks`: mtimes in ns, or what stands for them.
    """

    rest: str
    names: Sequence[str]
    sizes: Sequence[int]
    marks: Sequence[int]

    @property
    def token(self) -> str:
        """Hex digest over all of it."""
        digest = hashlib.sha256(self.rest.encode())
        for stamp in zip(self.names, self.sizes, self.marks, strict=True):
            _add(digest, stamp)
        return digest.hexdigest()


def looked_at(source: LayerSource, limits: Limits) -> Store | None:
    """What tells of a label image to both `source_token` and `chunk_state`; None for tables.

    A remote store asks for nothing twice, so that both are of one moment. Raises SourceError.
    """
    return open_store(source.location, limits) if source.kind == LABEL_IMAGE else None


def chunk_state(source: LayerSource, limits: Limits, store: Store | None = None) -> ChunkState | None:
    """The state of a label layer's chunks; None where not all of their files are known, or have stamps.

    `store` None: it is looked at anew. Tables of values that are joined to the layer do not count. None for
    tables as well. Raises SourceError as `source_token` does.
    """
    store = store or looked_at(source, limits)
    if store is None:
        return None
    array = join(source.path, _multiscale(store, source)[1].levels[0].path)
    if not store.lists_all(array):
        return None
    digest = _digest(source)
    chunks = []
    for stamp in _label_stamps(store, source, limits):
        name = stamp[0][len(array) + 1 :] if stamp[0].startswith(f"{array}/") else ""
        if CHUNK.fullmatch(name):
            chunks.append((name, stamp[1], stamp[2]))
        else:
            _add(digest, stamp)
    names, sizes, marks = zip(*sorted(chunks), strict=True) if chunks else ((), (), ())
    return ChunkState(str(digest.hexdigest()), names, sizes, marks)


def source_token(source: LayerSource, limits: Limits, store: Store | None = None) -> str:
    """Hex digest over path, size and mtime (ns) of all files that a layer's planes and frame depend on.

    These are the files of its level-0 array, its metadata and its image's metadata, or those of its table;
    and those of tables whose values are joined to it. It changes whenever one of them is written, added or
    removed. `store` None: it is looked at anew. Raises SourceError if the layer's own metadata cannot be
    used.
    """
    store = store or looked_at(source, limits)
    stamps = table_stamps(source, limits) if store is None else _label_stamps(store, source, limits)
    digest = _digest(source)
    for stamp in chain(stamps, value_stamps(source, limits)):
        _add(digest, stamp)
    return str(digest.hexdigest())


def _digest(source: LayerSource) -> Any:
    return hashlib.sha256(f"{source.path}\0{source.asked}".encode())


def _add(digest: Any, stamp: Stamp) -> None:
    digest.update("\0{}\0{}\0{}".format(*stamp).encode("utf-8", "surrogateescape"))


def _multiscale(store: Store, source: LayerSource) -> tuple[Group, Multiscale]:
    group = read_group(store, source.path)
    multiscale = None if group is None else multiscale_of(store, group)
    if group is None or multiscale is None:
        raise SourceDamaged(source.location, source.path, "has no multiscales, so it is no label image")
    return group, multiscale


def _label_stamps(store: Store, source: LayerSource, limits: Limits) -> Iterator[Stamp]:
    group, multiscale = _multiscale(store, source)
    documents = [join(source.path, name) for name in ("zarr.json", ".zgroup", ".zattrs")]
    documents.extend(parent_documents(store, source, group))
    for document in documents:
        yield store.stamp(document) or (document, -1, -1)
    if source.own_store:
        image = open_store(source.image.location, limits)
        for document in raster_documents(image, source.image.path):
            yield image.stamp(document) or (document, -1, -1)
    yield from store.files(join(source.path, multiscale.levels[0].path))
