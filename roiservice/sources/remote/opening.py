"""Which kind of remote store a URL names."""

from __future__ import annotations

from roiservice.sources.limits import Limits
from roiservice.sources.remote.objects import HttpObjects
from roiservice.sources.remote.s3 import S3Objects
from roiservice.sources.remote.store import RemoteStore
from roiservice.sources.remote.zipped import RemoteZip
from roiservice.sources.store import ZIP_SUFFIXES


def open_remote(url: str, limits: Limits, *, plain: bool = False) -> RemoteStore | RemoteZip:
    """Open what lies at a normalized URL; by its name, it is a zip file or a hierarchy.

    `plain`: a folder of any files, whatever its name, at which nothing is looked at yet. Raises SourceDamaged
    or SourceRefused, naming the URL, if it cannot be reached or read, or holds nothing.
    """
    objects = (S3Objects if url.startswith("s3://") else HttpObjects)(url)
    if plain:
        return RemoteStore(objects, limits)
    if url.lower().endswith(ZIP_SUFFIXES):
        return RemoteZip(objects, limits)
    store = RemoteStore(objects, limits)
    store.check()
    return store
