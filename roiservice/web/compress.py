"""Gzip answers put together from compressed pages, without compressing them again.

A page of features is deflated once and cached without its envelope (links, counts). An answer is then
one gzip member (RFC 1952): the envelope's head in stored blocks, the page's own blocks, and the
envelope's tail in a last stored block. Only the short envelope is touched per request.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from isal import isal_zlib

from roiservice.cache import Page

LEVEL = 2
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no name, no time, unknown system
_STORED_MAX = 65535  # RFC 1951, 3.2.4: the length of a stored block has 16 bits
_STORED = struct.Struct("<BHH")


def pack(body: bytes, matched: int, returned: int) -> Page:
    """Deflate the encoded features of a page, ending on a byte boundary and with no final block."""
    compressor = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, -15)
    deflated = compressor.compress(body) + compressor.flush(isal_zlib.Z_FULL_FLUSH)
    return Page(deflated, len(body), isal_zlib.crc32(body), matched, returned)


def splice(head: bytes, page: Page, tail: bytes) -> bytes:
    """The gzip member that unpacks to `head + page.unpacked() + tail`."""
    crc = isal_zlib.crc32_combine(isal_zlib.crc32(head), page.crc32, page.length)
    crc = isal_zlib.crc32_combine(crc, isal_zlib.crc32(tail), len(tail))
    length = len(head) + page.length + len(tail)
    trailer = struct.pack("<II", crc, length & 0xFFFFFFFF)
    first = _stored(head) if len(head) <= _STORED_MAX else [pack(head, 0, 0).deflated]
    return b"".join((_GZIP_HEADER, *first, page.deflated, *_stored(tail, final=True), trailer))


def gzip_whole(body: bytes) -> bytes:
    """One gzip member of a short answer."""
    compressor = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, 31)
    return bytes(compressor.compress(body) + compressor.flush())


def gzip_stream(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """One gzip member of chunks as they come; each is sent on at once."""
    compressor = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, 31)
    for chunk in chunks:
        yield bytes(compressor.compress(chunk) + compressor.flush(isal_zlib.Z_SYNC_FLUSH))
    yield bytes(compressor.flush())


def _stored(data: bytes, *, final: bool = False) -> list[bytes]:
    """Stored blocks of `data`, at least one; the last is marked as final if asked."""
    blocks: list[bytes] = []
    for start in range(0, max(len(data), 1), _STORED_MAX):
        block = data[start : start + _STORED_MAX]
        is_last = final and start + _STORED_MAX >= len(data)
        blocks += (_STORED.pack(is_last, len(block), len(block) ^ 0xFFFF), block)
    return blocks
