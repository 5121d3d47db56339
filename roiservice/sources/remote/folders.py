"""Folders of stores, where a remote root can be listed."""

from __future__ import annotations

from collections.abc import Iterator

from roiservice.errors import SourceError
from roiservice.sources.paths import join
from roiservice.sources.remote.store import RemoteStore
from roiservice.sources.store import GROUP_DOCUMENTS, ZIP_SUFFIXES, Store


def stores_below(store: Store) -> Iterator[str | SourceError]:
    """URLs of the stores and zip files below a remote root, by name; errors for folders that are left out.

    Nothing for roots that cannot be listed.
    """
    pending = [""] if isinstance(store, RemoteStore) else []
    while pending and isinstance(store, RemoteStore):
        path = pending.pop()
        if path.lower().endswith(ZIP_SUFFIXES):
            yield f"{store.location}/{path}"
            continue
        try:
            folders, files = store.contents(path)
        except SourceError as error:
            yield error
            continue
        if path and not set(GROUP_DOCUMENTS).isdisjoint(files):
            yield f"{store.location}/{path}"
        elif ".zarray" not in files:
            zips = (name for name in files if name.lower().endswith(ZIP_SUFFIXES))
            pending.extend(join(path, name) for name in sorted([*folders, *zips], reverse=True))
