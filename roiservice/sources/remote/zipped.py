"""Zip files read over the network: the list of members and each member by range requests.

All parts are of one version of the file: one that is replaced in between is an error. Members are stored or
deflated (APPNOTE 6.3, sections 4.3.7 and 4.4.5); those of RFC-9 `.ozx` files are stored.
"""

from __future__ import annotations

import io
import struct
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.sources.limits import Limits
from roiservice.sources.remote.base import Remote
from roiservice.sources.remote.objects import Content, HttpObjects, Version
from roiservice.sources.store import folders_of, is_metadata

if TYPE_CHECKING:
    import zarr.abc.store

_TAIL = 2**16 + 22  # the longest comment and the record before it; the list of members is often in it as well
_HEADER = struct.Struct("<4s5H3I2H")
_SLACK = 256  # for what a member's own header may have more than its entry in the list
_ENCRYPTED = 0x1
_KEPT_LISTS = 8  # a layer's list, its token and its planes each open the file anew
_KEPT_MEMBERS = 100_000  # of one file; some 50 MB

_lists: OrderedDict[tuple[str, Version, int], dict[str, zipfile.ZipInfo]] = OrderedDict()
_lists_lock = threading.Lock()


class RemoteZip(Remote):
    """A zip file behind http(s) or S3, whose server must know range requests."""

    def __init__(self, objects: HttpObjects, limits: Limits) -> None:
        super().__init__(objects, limits)
        version = objects.head("")
        if version is None:
            raise SourceDamaged(self.location, "", "there is no such file")
        if not version.mark:
            reason = "the server states neither ETag nor date of it, so parts of it may be of two files"
            raise SourceRefused(self.location, "", reason)
        self._file_version = version
        self._members = self._list()
        self._folders = folders_of(self._members)
        self._starts: dict[str, int] = {}
        self._starts_lock = threading.Lock()

    def read(self, path: str, most: int | None = None) -> bytes | None:
        """As the base class."""
        member = self._members.get(self._clean(path))
        if member is None:
            return None
        self._check_size(path, member.file_size, most)
        return self._content(path, member)

    def children(self, path: str) -> list[str]:
        """As the base class."""
        return sorted(self._folders.get(self._clean(path), ()))

    def files(self, path: str) -> Iterator[tuple[str, int, int]]:  # noqa: ARG002 - one version for all
        """As the base class."""
        yield self._stamp

    def file_exists(self, path: str) -> bool:
        """As the base class."""
        return self._clean(path) in self._members

    def stamp(self, path: str) -> tuple[str, int, int] | None:  # noqa: ARG002 - one version for all
        """As the base class."""
        return self._stamp

    @property
    def _stamp(self) -> tuple[str, int, int]:
        return "", self._file_version.size, self._file_version.number

    def chunk(self, key: str, span: slice | None = None, version: Version | None = None) -> Content | None:  # noqa: ARG002
        """As the base class; all members are of one version of the file."""
        member = self._members.get(key)
        if member is None:
            return None
        packed = member.compress_type != zipfile.ZIP_STORED
        most = None if is_metadata(key) else self.limits.file_bytes(packed=packed)
        self._check_size(key, member.file_size, most)
        own = Version(member.file_size, self._file_version.mark)
        if span is None:
            return Content(self._content(key, member), own)
        if packed:
            return Content(self._content(key, member)[span], own)
        start, stop, _ = span.indices(member.file_size)
        first = self._start(key, member)
        return Content(self._part(first + start, first + max(start, stop), key), own)

    def _list(self) -> dict[str, zipfile.ZipInfo]:
        """All members; known already if this version of the file was opened lately."""
        known = (self.location, self._file_version, self.limits.metadata_bytes)
        with _lists_lock:
            members = _lists.get(known)
        if members is None:
            members = self._read_list()
            with _lists_lock:
                if len(members) <= _KEPT_MEMBERS:
                    _lists[known] = members
                if len(_lists) > _KEPT_LISTS:
                    _lists.popitem(last=False)
        return members

    def _read_list(self) -> dict[str, zipfile.ZipInfo]:
        file = _RangeFile(self._objects, self._file_version, self.limits.metadata_bytes)
        try:
            with zipfile.ZipFile(file) as archive:
                return {member.filename: member for member in archive.infolist()}
        except SourceError:
            raise
        except Exception as error:  # the zip module lets struct and other errors through
            raise SourceDamaged(self.location, "", f"is no readable zip file: {error}") from error

    def _content(self, path: str, member: zipfile.ZipInfo) -> bytes:
        """The whole member, unpacked and checked. One request, if its header is as long as expected."""
        begin = member.header_offset
        if member.compress_size > member.file_size + member.file_size // 64 + _SLACK:
            raise SourceDamaged(self.location, path, "is longer packed than unpacked, says the zip file")
        names = len(member.orig_filename.encode()) + len(member.extra)
        expected = begin + _HEADER.size + names + _SLACK + member.compress_size
        data = self._part(begin, min(expected, self._file_version.size), path)
        start = self._checked_header(path, member, data) - begin
        stop = start + member.compress_size
        if stop > len(data):
            data += self._part(begin + len(data), min(begin + stop, self._file_version.size), path)
        return self._unpacked(path, member, data[start:stop])

    def _start(self, path: str, member: zipfile.ZipInfo) -> int:
        """Where the bytes of a member begin."""
        with self._starts_lock:
            known = self._starts.get(path)
        if known is None:
            begin = member.header_offset
            known = self._checked_header(path, member, self._part(begin, begin + _HEADER.size, path))
            with self._starts_lock:
                self._starts[path] = known
        return known

    def _checked_header(self, path: str, member: zipfile.ZipInfo, data: bytes) -> int:
        """The end of the header that `data` begins with."""
        if len(data) < _HEADER.size or data[:4] != b"PK\x03\x04":
            raise SourceDamaged(self.location, path, "the zip file has no member where its list says")
        if member.flag_bits & _ENCRYPTED:
            raise SourceRefused(self.location, path, "is encrypted")
        *_, name, extra = _HEADER.unpack(data[: _HEADER.size])
        return member.header_offset + _HEADER.size + int(name) + int(extra)

    def _unpacked(self, path: str, member: zipfile.ZipInfo, data: bytes) -> bytes:
        if member.compress_type == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.file_size + 1)
            except zlib.error as error:
                raise SourceDamaged(self.location, path, f"cannot be unpacked: {error}") from None
        elif member.compress_type != zipfile.ZIP_STORED:
            raise SourceRefused(
                self.location, path, f"zip compression {member.compress_type} is not supported"
            )
        if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
            raise SourceDamaged(self.location, path, "has another length or checksum than the zip file says")
        return data

    def _part(self, start: int, stop: int, path: str) -> bytes:
        try:
            return self._objects.get_part(start, stop, self._file_version)
        except SourceError as error:
            raise type(error)(self.location, path, error.reason) from None

    def _open_zarr_store(self) -> zarr.abc.store.Store:
        from roiservice.sources.remote.arrays import RemoteArrays

        return RemoteArrays(self)


class _RangeFile(io.RawIOBase):
    """A remote file as `zipfile` wants it: its end is fetched at once, parts before it as they are read."""

    def __init__(self, objects: HttpObjects, version: Version, most: int) -> None:
        super().__init__()
        self._objects = objects
        self._version = version
        self._most = most
        self._position = 0
        self._tail_start = max(0, version.size - _TAIL)
        self._tail = objects.get_part(self._tail_start, version.size, version)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._version.size}[whence]
        if base + offset < 0:
            raise ValueError("before the start of the file")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        start = self._position
        stop = self._version.size if size < 0 else min(start + size, self._version.size)
        if stop <= start:
            return b""
        if stop - start > self._most:
            reason = f"has a list of members of {stop - start} bytes; {self._most} are allowed"
            raise SourceRefused(self._objects.location, "", reason)
        self._position = stop
        if start >= self._tail_start:
            return self._tail[start - self._tail_start : stop - self._tail_start]
        before = self._objects.get_part(start, min(stop, self._tail_start), self._version)
        return before + self._tail[: max(0, stop - self._tail_start)]
