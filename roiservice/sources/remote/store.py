"""A remote root as a `Store`: documents by name, folders from listings or consolidated metadata."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.sources.chunks import chunk_files
from roiservice.sources.documents import read_json
from roiservice.sources.limits import Limits
from roiservice.sources.paths import join
from roiservice.sources.remote.base import Remote
from roiservice.sources.remote.objects import (
    Content,
    Forbidden,
    HttpObjects,
    Listing,
    Version,
    WebPage,
    number_of,
)
from roiservice.sources.store import GROUP_DOCUMENTS, folders_of, is_metadata

if TYPE_CHECKING:
    import zarr.abc.store

LISTED_KEYS = 10_000  # of one array, whose versions make up its token: ten requests
ASKED_FILES = 256
"""Of the chunks of one array, whose versions are asked for one by one where nothing can be listed.

A service looks again at each layer in use every minute, at one after the other, and on 8 connections these
take as long as 32 answers; a host far away gives those in two seconds.
"""
LISTED_ENTRIES = 10_000  # of one folder
_KEPT_BYTES = 2**26  # of documents that are read once per store

_CONFIRMED_FOR = 1.0  # seconds for which an array that was there is taken to be there

_Found = TypeVar("_Found")


class RemoteStore(Remote):
    """A hierarchy behind http(s) or S3.

    Documents are read once per store: what one store tells is of one moment, and a new one looks anew. Of
    documents and files, 403 and web pages say that there are none; of chunks they are errors (see `objects`).
    """

    def __init__(self, objects: HttpObjects, limits: Limits) -> None:
        super().__init__(objects, limits)
        self._documents: dict[str, bytes | None] = {}
        self._versions: dict[str, Version | None] = {}
        self._indices: dict[str, dict[str, set[str]]] = {}
        self._confirmed: dict[str, float] = {}
        self._below: dict[str, Listing] = {}
        self._documents_lock = threading.RLock()

    def check(self) -> None:
        """Raise SourceDamaged if nothing can be found here: no metadata of a group, and no listing."""
        forbidden: SourceError | None = None
        for name in GROUP_DOCUMENTS:
            try:
                if self._document(name, strict=True) is not None:
                    return
            except Forbidden as error:
                forbidden = error
            except WebPage:
                continue
        if forbidden is not None:
            raise SourceDamaged(self.location, "", forbidden.reason)
        if self._objects.listing("", 1) is None:
            raise SourceDamaged(self.location, "", f"there is none of {', '.join(GROUP_DOCUMENTS)}")

    def read(self, path: str, most: int | None = None) -> bytes | None:
        """As the base class."""
        cleaned = self._clean(path)
        if is_metadata(cleaned):
            data = self._document(cleaned)
            if data is not None:
                self._check_size(path, len(data), most)
            return data
        allowed = self.limits.metadata_bytes if most is None else most
        content = _or_none(lambda: self._objects.get(cleaned, allowed))
        return None if content is None else content.data

    def children(self, path: str) -> list[str]:
        """As the base class."""
        listing = self._listed(path)
        return self._consolidated_children(self._clean(path)) if listing is None else list(listing.folders)

    def contents(self, path: str) -> tuple[list[str], list[str]]:
        """Names of folders and of files directly below `path`; both empty where nothing can be listed."""
        listing = self._listed(path)
        if listing is None:
            return [], []
        return list(listing.folders), [name for name, _ in listing.files]

    def _listed(self, path: str) -> Listing | None:
        listing = self._objects.listing(self._clean(path), LISTED_ENTRIES)
        if listing is not None and not listing.complete:
            raise SourceRefused(self.location, path, f"holds more than {LISTED_ENTRIES} entries")
        return listing

    def lists_all(self, path: str) -> bool:
        """As the base class."""
        return self._found_below(self._clean(path)).complete

    def files(self, path: str) -> Iterator[tuple[str, int, int]]:
        """The documents at `path`, then the first 10 000 files below it, sorted, where these can be listed.

        Documents are among these as well, unless the list ends before them. Where nothing can be listed, the
        files of an array's chunks come in their place, up to 256 of them or none. Numbers made from ETags or
        dates stand for the time, 0 without either. Files below are looked for once per store.
        """
        cleaned = self._clean(path)
        for name in (*GROUP_DOCUMENTS, ".zarray"):
            found = self.stamp(join(cleaned, name))
            if found is not None:
                yield found
        for name, version in self._found_below(cleaned).files:
            yield join(cleaned, name), version.size, version.number

    def _found_below(self, path: str) -> Listing:
        """What `files` gives below `path`; it is complete only if every file of it has a mark."""
        found = self._below.get(path)
        if found is None:
            listing = self._objects.listing(path, LISTED_KEYS, deep=True)
            found = self._below[path] = self._asked_one_by_one(path) if listing is None else listing
        return found

    def _asked_one_by_one(self, path: str) -> Listing:
        """The files of the chunks of the array at `path`, if there is one and they are few enough.

        None is known to be missing where some are refused, or there seems to be none at all: servers may
        answer HEAD in another way than GET.
        """
        names = self._chunk_files(path)
        paths = [join(path, name) for name in names]
        answers = list(self.executor.map(self._asked, paths))  # an error ends what has not begun
        found = zip(names, answers, strict=True)
        files = tuple((name, answer) for name, answer in found if isinstance(answer, Version))
        is_refused = any(isinstance(answer, SourceError) for answer in answers)
        return Listing((), files, bool(files) and not is_refused and all(each.mark for _, each in files))

    def _asked(self, path: str) -> Version | SourceError | None:
        """The version of a file, None if there is none; an error that says that it is not for us."""
        try:
            return self._objects.head(path)
        except (Forbidden, WebPage) as error:
            return error

    def _chunk_files(self, path: str) -> list[str]:
        for document in (join(path, "zarr.json"), join(path, ".zarray")):
            if self._version(document) is None:
                continue
            try:
                return chunk_files(read_json(self, document) or {}, ASKED_FILES)
            except SourceError:  # who opens the array says what is wrong with it
                return []
        return []

    def file_exists(self, path: str) -> bool:
        """As the base class."""
        return self._version(self._clean(path)) is not None

    def stamp(self, path: str) -> tuple[str, int, int] | None:
        """As the base class."""
        version = self._version(self._clean(path))
        return None if version is None else (path, version.size, version.number)

    def chunk(self, key: str, span: slice | None = None, version: Version | None = None) -> Content | None:
        """As the base class; an array that has gone or changed since it was opened is an error as well.

        Its chunks would be missing, too.
        """
        try:
            content = self._objects.get(key, self.limits.shard_bytes, span, version)
        except Forbidden as error:
            reason = (
                f"{error.reason}, which does not say whether the chunk is missing (404) or must not be read"
            )
            raise Forbidden(self.location, key, reason) from None
        if content is None:
            self._check_still_there(key)
        return content

    def _check_still_there(self, key: str) -> None:
        document = self._array_document(key)
        if document is None or time.monotonic() < self._confirmed.get(document, 0.0):
            return
        content = self._objects.get(document, self.limits.metadata_bytes)
        if content is None or content.data != self._documents.get(document, content.data):
            raise SourceDamaged(self.location, document, "was removed or replaced while its chunks were read")
        self._confirmed[document] = time.monotonic() + _CONFIRMED_FOR

    def _array_document(self, key: str) -> str | None:
        """The metadata, read before, of the array that a chunk belongs to."""
        path = key
        while path:
            path = path.rpartition("/")[0]
            for name in ("zarr.json", ".zarray"):
                if self._versions.get(join(path, name)) is not None:
                    return join(path, name)
        return None

    def _version(self, path: str) -> Version | None:
        if not is_metadata(path):
            return _or_none(lambda: self._objects.head(path))
        if path not in self._versions:
            self._document(path)
        return self._versions[path]

    def _document(self, path: str, *, strict: bool = False) -> bytes | None:
        """A metadata document; `strict`: raising Forbidden and WebPage."""
        with self._documents_lock:
            if path in self._documents:
                return self._documents[path]
        try:
            content = self._objects.get(path, self.limits.metadata_bytes)
        except (Forbidden, WebPage):
            self._keep(path, None)
            if strict:
                raise
            return None
        if content is not None and content.data[:64].lstrip().startswith(b"<"):
            content = None  # a page that does not even say that it is one
        self._keep(path, content)
        return None if content is None else content.data

    def _keep(self, path: str, content: Content | None) -> None:
        with self._documents_lock:
            self._versions[path] = None if content is None else _told_apart(content)
            if content is None or len(content.data) <= _KEPT_BYTES // 8:
                self._documents[path] = None if content is None else content.data
            if sum(len(data) for data in self._documents.values() if data) > _KEPT_BYTES:
                self._documents.clear()

    def _consolidated_children(self, path: str) -> list[str]:
        """Folders below `path` in the nearest consolidated metadata of it or a group above it."""
        group = path
        while True:
            index = self._index(group)
            below = path[len(group) :].lstrip("/")
            if index.get(below):
                return sorted(index[below])
            if not group:
                return []
            group = group.rpartition("/")[0]

    def _index(self, group: str) -> dict[str, set[str]]:
        """Names below each folder of `group`, by its consolidated metadata; empty if it has none."""
        index = self._indices.get(group)
        if index is None:
            index = self._indices[group] = folders_of(self._consolidated_names(group))
        return index

    def _consolidated_names(self, group: str) -> list[str]:
        """Paths of documents below `group`. What cannot be used of this mere hint is passed over."""
        names: list[str] = []
        for document in (join(group, ".zmetadata"), join(group, "zarr.json")):
            if self.read(document) is None:
                continue
            try:
                content = read_json(self, document) or {}
            except SourceError:
                continue
            if document.endswith(".zmetadata"):
                names.extend(_keys(content.get("metadata")))
            else:
                consolidated = content.get("consolidated_metadata")
                inner = consolidated.get("metadata") if isinstance(consolidated, dict) else None
                names.extend(f"{key}/zarr.json" for key in _keys(inner))
        return names

    def _open_zarr_store(self) -> zarr.abc.store.Store:
        from roiservice.sources.remote.arrays import RemoteArrays

        return RemoteArrays(self)


def _or_none(ask: Callable[[], _Found | None]) -> _Found | None:
    """What `ask` gives; None where it is told that there is nothing for us."""
    try:
        return ask()
    except (Forbidden, WebPage):
        return None


def _told_apart(content: Content) -> Version:
    """The content's version, from the content itself where the server states none."""
    if content.version.mark:
        return Version(len(content.data), content.version.mark)
    return Version(len(content.data), str(number_of(content.data)))


def _keys(metadata: object) -> list[str]:
    return [key for key in metadata if isinstance(key, str)] if isinstance(metadata, dict) else []
