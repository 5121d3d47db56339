"""One encoded page as the caches keep it, and its form as bytes."""

from __future__ import annotations

import struct
import zlib

from isal import isal_zlib

from roiservice.records import dataclass

_MAGIC = b"ROI2"
_HEAD = struct.Struct("<4sIQIQQ")  # magic, checksum of all that follows it, then the page's own numbers
_CHECKED_FROM = 8


@dataclass(frozen=True)
class Page:
    """Encoded features of one page, without envelope, links or anything that names a host or user.

    `deflated` is raw deflate that ends on a byte boundary with no final block, so that it can stand in
    the middle of a gzip member; `length` and `crc32` are those of the bytes it unpacks to. `matched`
    is the number of features (or ROIs) of the whole query, `returned` of this page.
    """

    deflated: bytes
    length: int
    crc32: int
    matched: int
    returned: int

    def unpacked(self) -> bytes:
        """The encoded features."""
        return bytes(isal_zlib.decompressobj(-15).decompress(self.deflated))


def to_bytes(key: str, page: Page) -> bytes:
    """The page as one checked value for a store outside the process; it counts under this key only."""
    head = _HEAD.pack(_MAGIC, 0, page.length, page.crc32, page.matched, page.returned)
    value = bytearray(head + page.deflated)
    struct.pack_into("<I", value, len(_MAGIC), _checksum(key, value))
    return bytes(value)


def from_bytes(key: str, value: bytes) -> Page | None:
    """The page of a value made by `to_bytes` for this key; None if it is anything else or was damaged."""
    if len(value) < _HEAD.size:
        return None
    magic, checksum, length, crc32, matched, returned = _HEAD.unpack_from(value)
    if magic != _MAGIC or _checksum(key, value) != checksum:
        return None
    return Page(value[_HEAD.size :], length, crc32, matched, returned)


def _checksum(key: str, value: bytes | bytearray) -> int:
    """Of the key and of all that follows the checksum itself."""
    return zlib.crc32(memoryview(value)[_CHECKED_FROM:], zlib.crc32(key.encode()))
