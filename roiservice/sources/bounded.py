"""Decompressors that stop where more comes out than a chunk may have.

A few kilobytes can stand for terabytes, and those of numcodecs give all there is. They also make room
for as many texts as a chunk says that it has.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numcodecs
import numpy as np
from numcodecs import zstd
from numcodecs.compat import ensure_bytes, ensure_contiguous_ndarray, ndarray_copy
from numpy.typing import NDArray

from roiservice.sources.limits import Limits

MOST = Limits.chunk_bytes

_TOO_LARGE = f"decodes to more than {MOST} bytes"
_GZIP = 31  # zlib's `wbits`: with the header and the checksum of gzip
_LZMA_MEMORY = 2**28
_ZSTD_MAGIC = 0xFD2FB528
_ZSTD_SKIPPED = 0x184D2A50  # and the fifteen numbers after it
_ZSTD_BLOCK = 2**17  # most bytes of a compressed block once decoded
_ZSTD_PIECES = 2**20  # frames and blocks that are looked at, for a second: they may be of three bytes each


class GZip(numcodecs.GZip):  # type: ignore[misc]
    """gzip."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """As the base class."""
        return ndarray_copy(_decoded(partial(zlib.decompressobj, _GZIP), ensure_bytes(buf)), out)


class Zlib(numcodecs.Zlib):  # type: ignore[misc]
    """zlib."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """As the base class."""
        return ndarray_copy(_decoded(zlib.decompressobj, ensure_bytes(buf), only_first=True), out)


class BZ2(numcodecs.BZ2):  # type: ignore[misc]
    """bzip2."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """As the base class."""
        return ndarray_copy(_decoded(bz2.BZ2Decompressor, ensure_bytes(buf)), out)


class LZMA(numcodecs.LZMA):  # type: ignore[misc]
    """LZMA."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """As the base class."""
        memory = None if self.format == lzma.FORMAT_RAW else _LZMA_MEMORY
        new = partial(lzma.LZMADecompressor, self.format, memory, self.filters)
        return ndarray_copy(_decoded(new, ensure_bytes(buf)), out)


class Zstd(numcodecs.Zstd):  # type: ignore[misc]
    """Zstandard."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """As the base class."""
        content = ensure_bytes(buf)
        if _zstd_most(content) > MOST:
            raise ValueError(_TOO_LARGE)
        return super().decode(content, out)


def decode_zstd(content: bytes, out: NDArray[np.uint8]) -> None:
    """Decode Zstandard to where it belongs, as memory that is new each time takes as long as decoding.

    What numcodecs raises, ValueError or EOFError, unless there is as much as `out` has room for.
    """
    if _zstd_most(content) < len(out):
        raise ValueError("a chunk has another size")  # where frames state their sizes, numcodecs lets it pass
    zstd.decompress(content, out)


class VLenUTF8(numcodecs.VLenUTF8):  # type: ignore[misc]
    """Texts."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """As the base class."""
        check_count(buf)
        return super().decode(buf, out)


class VLenBytes(numcodecs.VLenBytes):  # type: ignore[misc]
    """Bytes."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """As the base class."""
        check_count(buf)
        return super().decode(buf, out)


def check_count(buf: Any) -> None:
    """ValueError for texts or bytes that cannot be so many as they say: each has four bytes of length."""
    content = memoryview(ensure_contiguous_ndarray(buf)).cast("B")
    count = int.from_bytes(content[:4], "little")
    if 4 + 4 * count > len(content):
        raise ValueError(f"says that it holds {count} texts, but has {len(content)} bytes")


def _decoded(new: Callable[[], Any], content: bytes, only_first: bool = False) -> bytes:
    """All that the streams in `content` hold, one after the other, or the first.

    ValueError if that is too much, EOFError if the last is cut short, and what decoders raise for the first.
    """
    parts: list[bytes] = []
    left = MOST
    while content or not parts:
        decoder = new()
        try:
            parts.append(decoder.decompress(content, left + 1))
        except (OSError, lzma.LZMAError):
            if not parts:
                raise
            break  # as `bz2.decompress` and `lzma.decompress` take it
        left -= len(parts[-1])
        if left < 0:
            raise ValueError(_TOO_LARGE)
        if not decoder.eof:
            raise EOFError("ends before its end-of-stream marker")
        content = b"" if only_first else decoder.unused_data.lstrip(b"\0")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _zstd_most(content: bytes) -> int:
    """Bytes at most that Zstandard's frames decode to (RFC 8878, section 3.1).

    EOFError if the last is cut short, for the rest of which numcodecs may wait for ever; ValueError for what
    is no frame, and for very many.
    """
    most = at = pieces = 0
    while at < len(content):
        pieces = _one_more(pieces)
        magic = int.from_bytes(content[at : at + 4], "little")
        if magic & ~0xF == _ZSTD_SKIPPED:
            at += 8 + int.from_bytes(content[at + 4 : at + 8], "little")
            continue
        if magic != _ZSTD_MAGIC:
            raise ValueError("is no Zstandard")
        descriptor = content[at + 4] if at + 4 < len(content) else 0
        is_single = descriptor >> 5 & 1
        size_bytes = (is_single, 2, 4, 8)[descriptor >> 6]
        at += 5 + (not is_single) + (0, 1, 2, 4)[descriptor & 3]
        size = int.from_bytes(content[at : at + size_bytes], "little") + 256 * (size_bytes == 2)
        at += size_bytes
        blocks, pieces, at = _zstd_blocks(content, pieces, at)
        at += 4 * (descriptor >> 2 & 1)  # the checksum
        most += size if size_bytes else blocks  # a size that is stated is held to
    if at > len(content):
        raise EOFError("ends within a frame")
    return most


def _zstd_blocks(content: bytes, pieces: int, at: int) -> tuple[int, int, int]:
    """Bytes at most that the blocks of a frame decode to, `pieces` with them, and where they end.

    That is past `content` if the frame is cut short. ValueError for too many pieces.
    """
    most, is_last = 0, False
    while not is_last and at <= len(content):  # at its very end as well: the last block is missing
        pieces = _one_more(pieces)
        header = int.from_bytes(content[at : at + 3], "little")
        kind, size, is_last = header >> 1 & 3, header >> 3, bool(header & 1)
        most += size if kind < 2 else _ZSTD_BLOCK  # raw and repeated blocks state their size
        at += 3 + (1 if kind == 1 else size)
    return most, pieces, at


def _one_more(pieces: int) -> int:
    if pieces == _ZSTD_PIECES:
        raise ValueError(f"is made of more than {_ZSTD_PIECES} pieces")
    return pieces + 1
