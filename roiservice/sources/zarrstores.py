"""zarr's own stores, with the checks an untrusted hierarchy needs. Importing this imports zarr."""

from __future__ import annotations

import os
import stat
from typing import Any
from zipfile import ZIP_STORED

from zarr.storage import LocalStore, ZipStore

from roiservice.errors import SourceRefused
from roiservice.sources.limits import Limits
from roiservice.sources.paths import is_inside
from roiservice.sources.store import is_metadata


class GuardedFolder(LocalStore):
    """A local directory from which no symlink leads out, and no file above the limits is read."""

    def __init__(self, location: str, limits: Limits) -> None:
        super().__init__(location, read_only=True)
        self._location = location
        self._limits = limits

    async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
        """As the base class; SourceRefused for files that must not be read."""
        path = os.path.join(self._location, key)
        if not is_inside(path, self._location):
            raise SourceRefused(self._location, key, "a symbolic link leads out of the store")
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # a pipe: waited for
            raise SourceRefused(self._location, key, "is no regular file")
        _check_size(self._location, key, status.st_size, self._limits)
        return await super().get(key, *arguments, **options)


class GuardedZip(ZipStore):
    """A zip file from which no member above the limits is read. The base class locks around each read."""

    def __init__(self, location: str, limits: Limits) -> None:
        super().__init__(location, mode="r")
        self._location = location
        self._limits = limits
        self._sync_open()

    def _get(self, key: str, *arguments: Any, **options: Any) -> Any:
        try:
            member = self._zf.getinfo(key)
        except KeyError:
            return None
        packed = member.compress_type != ZIP_STORED
        _check_size(self._location, key, member.file_size, self._limits, packed=packed)
        return super()._get(key, *arguments, **options)


def _check_size(location: str, key: str, size: int, limits: Limits, *, packed: bool = False) -> None:
    allowed = limits.metadata_bytes if is_metadata(key) else limits.file_bytes(packed=packed)
    if size > allowed:
        raise SourceRefused(location, key, f"holds {size} bytes; {allowed} are allowed")
