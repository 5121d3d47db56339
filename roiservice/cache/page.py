"""One encoded page as the caches keep it, and its form as bytes."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from isal import isal_zlib

_MAGIC = b"ROI1"
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


def to_bytes(page: Page) -> bytes:
    """The page as one checked value for a store outside the process."""
    head = _HEAD.pack(_MAGIC, 0, page.length, page.crc32, page.matched, page.returned)
    checksum = zlib.crc32(page.deflated, zlib.crc32(head[_CHECKED_FROM:]))
    return b"".join((_MAGIC, struct.pack("<I", checksum), head[_CHECKED_FROM:], page.deflated))


def from_bytes(value: bytes) -> Page | None:
    """The page of a value made by `to_bytes`; None if the value is anything else or was damaged."""
    if len(value) < _HEAD.size:
        return None
    magic, checksum, length, crc32, matched, returned = _HEAD.unpack_from(value)
    if magic != _MAGIC or zlib.crc32(memoryview(value)[_CHECKED_FROM:]) != checksum:
        return None
    return Page(value[_HEAD.size :], length, crc32, matched, returned)
