"""What every read-only root can do; `roiservice.sources.roots` opens them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from roiservice.errors import SourceDamaged, SourceRefused, SourceUnread
from roiservice.sources.limits import Limits
from roiservice.sources.paths import clean_path

if TYPE_CHECKING:
    import zarr.abc.store

ZIP_SUFFIXES = (".zip", ".ozx")
GROUP_DOCUMENTS = ("zarr.json", ".zattrs", ".zgroup")
"""Files of which every zarr group has at least one."""


class Store(ABC):
    """A read-only root. Safe to use from several threads.

    `location` is its absolute local path or its URL, for messages; `limits` are those it was opened with. All
    paths are relative to the root, with `/`; those that leave it, also by symlinks, raise SourceRefused.
    """

    reads_at_once = 1
    """Reads that are best under way at the same time."""
    is_local = False
    """Whether its files lie as such on this machine."""

    def __init__(self, location: str, limits: Limits) -> None:
        self.location = location
        self.limits = limits
        self._lock = threading.Lock()
        self._zarr_store: zarr.abc.store.Store | None = None

    @abstractmethod
    def read(self, path: str, most: int | None = None) -> bytes | None:
        """Content of a file; None if there is no such file. SourceRefused above `most` bytes.

        `most` None: as many as a metadata document may have.
        """

    @abstractmethod
    def children(self, path: str) -> list[str]:
        """Sorted names of the directories directly below `path` ("" = root); [] if there are none."""

    @abstractmethod
    def files(self, path: str) -> Iterator[tuple[str, int, int]]:
        """(relative path, size, mtime_ns) of all files below `path`, sorted by path.

        A zip gives itself alone, as ("", size, mtime_ns): its members cannot change without it. Remote stores
        have a digest of the ETag or date in place of the time. Those that nothing can be listed at give the
        documents at `path`, and of an array there the files of its chunks unless they are too many.
        """

    def lists_all(self, path: str) -> bool:  # noqa: ARG002 - for those that can
        """Whether `files` gives every file of chunks of an array at `path`, each with a stamp of its own."""
        return False

    @abstractmethod
    def stamp(self, path: str) -> tuple[str, int, int] | None:
        """(relative path, size, mtime_ns) of one file, as `files` gives it; None if there is none."""

    def open_local(self, path: str) -> int:
        """A descriptor, to be closed, for reading what lies at `path`, which may not be a regular file.

        For local stores alone. Raises what `os.open` does, and SourceRefused for what lies outside.
        """
        raise NotImplementedError

    @abstractmethod
    def file_exists(self, path: str) -> bool:
        """Whether there is a file at `path`."""

    def zarr_store(self) -> zarr.abc.store.Store:
        """The root as a read-only zarr store, opened once."""
        with self._lock:
            if self._zarr_store is None:
                self._zarr_store = self._open_zarr_store()
            return self._zarr_store

    @abstractmethod
    def _open_zarr_store(self) -> zarr.abc.store.Store: ...

    def _clean(self, path: str) -> str:
        cleaned = clean_path(path) if path else ""
        if cleaned is None:
            raise SourceRefused(
                self.location, repr(path), "the path leaves the store or cannot be a file name"
            )
        return cleaned

    def _check_size(self, path: str, size: int, most: int | None) -> None:
        allowed = self.limits.metadata_bytes if most is None else most
        if size > allowed:
            raise SourceRefused(self.location, path, f"holds {size} bytes; {allowed} are allowed")

    def _unreadable(self, path: str, error: Exception) -> SourceDamaged:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        kind = SourceUnread if isinstance(error, OSError) else SourceDamaged
        return kind(self.location, path, f"cannot be read: {reason}")


def folders_of(names: Iterable[str]) -> dict[str, set[str]]:
    """Names of the folders below each folder, from the paths of files."""
    folders: dict[str, set[str]] = {}
    for name in names:
        parent = name.rpartition("/")[0]
        while parent and clean_path(parent) == parent:
            above, _, own = parent.rpartition("/")
            if own in folders.setdefault(above, set()):
                break
            folders[above].add(own)
            parent = above
    return folders


def is_metadata(path: str) -> bool:
    """Whether a file is one of zarr's documents, by its name; else it is a chunk, or no part of an array."""
    return path.rpartition("/")[2] in (*GROUP_DOCUMENTS, ".zarray", ".zmetadata")
