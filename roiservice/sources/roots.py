"""Open read-only roots: a local directory, a zip file (RFC-9 `.ozx`, or plain `.zip`), or a URL of either."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.sources.limits import Limits
from roiservice.sources.paths import clean_path, is_inside, join
from roiservice.sources.remote.urls import file_name, is_url, normalized_url
from roiservice.sources.store import ZIP_SUFFIXES, Store, folders_of

if TYPE_CHECKING:
    import zarr.abc.store


def open_store(location: str | Path, limits: Limits) -> Store:
    """Open a directory, a zip file or a URL; the directory may be any group of a larger hierarchy.

    Raises SourceDamaged, naming the location, if it is not there, no directory or no readable zip, and
    SourceRefused for URLs that cannot be used.
    """
    path = absolute(location)
    if is_url(path):
        from roiservice.sources.remote.opening import open_remote

        return open_remote(path, limits)
    if os.path.isdir(path):
        return _Folder(path, limits)
    if not os.path.lexists(path):
        raise SourceDamaged(path, "", "there is no such file or directory")
    if not path.lower().endswith(ZIP_SUFFIXES) or not os.path.isfile(path):  # a named pipe: waited for
        raise SourceDamaged(path, "", f"is neither a directory nor a {' or '.join(ZIP_SUFFIXES)} file")
    return _Zip(path, limits)


def open_parent(location: str | Path, limits: Limits) -> tuple[Store, str]:
    """The folder of a plain file as a store, and the file's path in it; the file need not be there.

    Raises as `open_store`, but of URLs nothing is asked yet.
    """
    path = absolute(location)
    folder, _, name = path.rpartition("/")
    if is_url(path):
        from roiservice.sources.remote.opening import open_remote

        return open_remote(folder, limits, plain=True), file_name(path)
    return open_store(folder or "/", limits), name


def absolute(location: str | Path) -> str:
    """`location` as an absolute path without symlinks, or as a normalized URL.

    SourceDamaged if it cannot be a path, SourceRefused if it is a URL that cannot be used.
    """
    if isinstance(location, str) and is_url(location):
        return normalized_url(location)
    try:
        return os.path.realpath(os.path.expanduser(location))
    except (ValueError, OSError) as error:
        raise SourceDamaged(repr(str(location)), "", f"cannot be a path: {error}") from None


class _Folder(Store):
    """A local directory."""

    is_local = True

    def read(self, path: str, most: int | None = None) -> bytes | None:
        full = self._inside(path)
        try:
            status = os.stat(full)
            if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for ever
                return None
            self._check_size(path, status.st_size, most)
            with open(full, "rb") as file:
                data = file.read(status.st_size + 1)  # no more than was allowed, should the file grow
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise self._unreadable(path, error) from None
        return data

    def children(self, path: str) -> list[str]:
        full = self._inside(path)
        try:
            with os.scandir(full) as entries:
                return sorted(entry.name for entry in entries if _is_folder(entry) and clean_path(entry.name))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._unreadable(path, error) from None

    def lists_all(self, path: str) -> bool:  # noqa: ARG002 - any
        return True

    def files(self, path: str) -> Iterator[tuple[str, int, int]]:
        yield from self._files(self._inside(path), path)

    def _files(self, full: str, path: str) -> Iterator[tuple[str, int, int]]:
        try:
            with os.scandir(full) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
            for entry in listed:
                inner = join(path, entry.name)
                if entry.is_symlink():
                    self._inside(inner)
                if entry.is_dir(follow_symlinks=False):
                    yield from self._files(entry.path, inner)
                elif (status := _status(entry)) is not None:
                    yield inner, status.st_size, status.st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._unreadable(path, error) from None

    def open_local(self, path: str) -> int:
        full = self._full(path)
        if os.path.islink(full):
            self._inside(path)  # before it is opened, which devices notice
        descriptor = os.open(full, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe would be waited for
        try:
            # What is open has one name without links: to look for links in each folder above takes longer.
            if not _name_of(descriptor).startswith(f"{self.location.rstrip('/')}/"):
                self._inside(path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def file_exists(self, path: str) -> bool:
        status = self._status(path)
        return status is not None and stat.S_ISREG(status.st_mode)

    def stamp(self, path: str) -> tuple[str, int, int] | None:
        status = self._status(path)
        return None if status is None else (path, status.st_size, status.st_mtime_ns)

    def _status(self, path: str) -> os.stat_result | None:
        """What the system says of a file or folder; None if there is none."""
        try:
            return os.stat(self._inside(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._unreadable(path, error) from None

    def _inside(self, path: str) -> str:
        """Full path of `path`, made sure to lie in the root once symlinks are followed."""
        full = self._full(path)
        try:
            inside = is_inside(full, self.location)
        except OSError as error:
            raise self._unreadable(path, error) from None
        if not inside:
            raise SourceRefused(self.location, path, "a symbolic link leads out of the store")
        return full

    def _full(self, path: str) -> str:
        return os.path.join(self.location, *self._clean(path).split("/"))

    def _open_zarr_store(self) -> zarr.abc.store.Store:
        from roiservice.sources.zarrstores import GuardedFolder

        return GuardedFolder(self.location, self.limits)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or may be: who opens it is told what keeps it from being looked at."""
    try:
        return entry.is_dir()
    except OSError:
        return True


def _name_of(descriptor: int) -> str:
    """The path of what is open, without links; "" where the system does not tell."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """None for what is gone meanwhile, and for a link to nothing."""
    try:
        return entry.stat()
    except FileNotFoundError:
        return None


class _Zip(Store):
    """A zip file. Its list of members is read once; reads are serialized by a lock."""

    def __init__(self, location: str, limits: Limits) -> None:
        super().__init__(location, limits)
        try:
            status = os.stat(location)
            self._zip = zipfile.ZipFile(location)
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise SourceDamaged(location, "", f"is no readable zip file: {error}") from None
        self._version = ("", status.st_size, status.st_mtime_ns)
        self._folders = folders_of(self._zip.namelist())

    def read(self, path: str, most: int | None = None) -> bytes | None:
        try:
            member = self._zip.getinfo(self._clean(path))
        except KeyError:
            return None
        self._check_size(path, member.file_size, most)
        try:
            with self._lock:
                return self._zip.read(member)
        except Exception as error:  # the zip module lets zlib, lzma, struct and other errors through
            raise self._unreadable(path, error) from error

    def children(self, path: str) -> list[str]:
        return sorted(self._folders.get(self._clean(path), ()))

    def files(self, path: str) -> Iterator[tuple[str, int, int]]:  # noqa: ARG002 - one version for all
        yield self._version

    def file_exists(self, path: str) -> bool:
        return self._clean(path) in self._zip.NameToInfo

    def stamp(self, path: str) -> tuple[str, int, int] | None:  # noqa: ARG002 - one version for all
        return self._version

    def _open_zarr_store(self) -> zarr.abc.store.Store:
        from roiservice.sources.zarrstores import GuardedZip

        return GuardedZip(self.location, self.limits)
