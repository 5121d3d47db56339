"""Chunks in local files with the usual codecs, decoded by the thread that reads them to their place.

zarr decodes on threads of its own and copies each chunk several times, which for label images costs three
times what decoding does. This reads what most label images are; all else, and whatever cannot be read or
decoded here, is left to zarr, which also finds the words for what is wrong.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.errors import SourceDamaged, SourceError
from roiservice.records import dataclass
from roiservice.sources.encoding import Encoding, Shape, Unsafe, encoding_of
from roiservice.sources.paths import join
from roiservice.sources.slabs import Selection
from roiservice.sources.store import Store

CHECKSUM_BYTES = 4
ABSENT = 2**64 - 1  # offset and size in a shard's index of a chunk that is not stored
DIGEST_BYTES = 8  # of a chunk in a shard: one in 2**64 that changed would be taken for what it was
NOT_STORED = bytes(DIGEST_BYTES)
MOST_DIGESTS = 2**14  # of one shard, and
MOST_DIGESTS_OF_ALL = 2**24  # of all that an array may have, as they are in memory together


@dataclass(frozen=True)
class Chunks:
    """Reads the array at `path`; safe to use from several threads."""

    store: Store
    path: str
    encoding: Encoding

    def read(self, selection: Selection) -> NDArray[Any] | None:
        """The selection as zarr gives it, of the native dtype; None where zarr must be asked.

        Raises SourceDamaged for chunks that no codec must see, SourceRefused for links that leave the store.
        """
        spans = [
            (part.start, part.stop) if isinstance(part, slice) else (part, part + 1) for part in selection
        ]
        dtype = self.encoding.dtype
        out = np.empty([stop - start for start, stop in spans], dtype.newbyteorder("="))
        scratch = np.empty(math.prod(self.encoding.chunks) * dtype.itemsize, np.uint8)
        try:
            for file in itertools.product(*map(_touched, spans, self.encoding.shards)):
                self._read_file(file, spans, out, scratch)
        except SourceError:
            raise
        except Exception:  # noqa: BLE001 - codecs raise what they like; zarr will say what is wrong
            return None
        return out[tuple(0 if isinstance(part, int) else slice(None) for part in selection)]

    @property
    def has_digests(self) -> bool:
        """Whether `digests` tells anything."""
        each = math.prod(self.encoding.grid)
        shards = math.prod(map(_parts, self.encoding.shape, self.encoding.shards))
        are_few = each <= MOST_DIGESTS and shards * each <= MOST_DIGESTS_OF_ALL
        return self.encoding.index_at_end is not None and are_few

    def digests(self, name: str, size: int, mark: int) -> bytes:
        """Digests of what is stored of each chunk in the shard `name`, a path below the array, in C order.

        They have `DIGEST_BYTES` each, `NOT_STORED` for chunks that are not there. Empty where chunks are not
        sharded or very many, and for a file that is no sound shard, has chunks that lie upon each other, or
        is not of this `size` and mtime `mark` (ns) any more once it was read.
        """
        file = chunk_numbers(name)
        if not self.has_digests or self.encoding.key(file) != name:
            return b""
        digests, left = [], size
        try:
            for content in self._contents(file, list(np.ndindex(*self.encoding.grid))):
                digests.append(NOT_STORED if content is None else _digest(content))
                left -= len(content or b"")
                if left < 0:  # terabytes may lie in a few megabytes
                    return b""
            stamp = self.store.stamp(join(self.path, name))
        except Exception:  # noqa: BLE001 - who reads its pixels says what is wrong
            return b""
        return b"".join(digests) if stamp is not None and stamp[1:] == (size, mark) else b""

    def stamps(self) -> dict[str, tuple[int, int]]:
        """Size and mtime (ns) of all files below the array, by their paths there; none if that fails."""
        files = self.store.files(self.path)
        try:
            return {name[len(self.path) + 1 :]: (size, mark) for name, size, mark in files}
        except SourceError:
            return {}

    def _read_file(
        self, file: Shape, spans: Sequence[tuple[int, int]], out: NDArray[Any], scratch: NDArray[np.uint8]
    ) -> None:
        """The chunks in one file that the spans touch."""
        origin = tuple(number * size for number, size in zip(file, self.encoding.shards, strict=True))
        within = [
            (max(start - at, 0), min(stop - at, size))
            for (start, stop), at, size in zip(spans, origin, self.encoding.shards, strict=True)
        ]
        wanted = list(itertools.product(*map(_touched, within, self.encoding.chunks)))
        whole = scratch.view(self.encoding.dtype).reshape(self.encoding.chunks)
        for chunk, content in zip(wanted, self._contents(file, wanted), strict=True):
            target, source = [], []
            for number, size, at, (start, stop), (first, _) in zip(
                chunk, self.encoding.chunks, origin, within, spans, strict=True
            ):
                low, high = max(start, number * size), min(stop, (number + 1) * size)
                target.append(slice(at + low - first, at + high - first))
                source.append(slice(low - number * size, high - number * size))
            place = out[tuple(target)]
            if content is None:
                place[...] = self.encoding.fill
            elif place.shape == whole.shape and place.dtype == whole.dtype and place.flags.c_contiguous:
                self._decode(file, chunk, content, place.reshape(-1).view(np.uint8))
            else:
                self._decode(file, chunk, content, scratch)
                place[...] = whole[tuple(source)]

    def _decode(self, file: Shape, chunk: Shape, content: bytes, scratch: NDArray[np.uint8]) -> None:
        """One chunk of a file. SourceDamaged for one that must not come to zarr either."""
        try:
            self.encoding.decode(content, scratch)
        except Unsafe as error:
            inner = zip(file, self.encoding.shards, self.encoding.chunks, chunk, strict=True)
            number = ", ".join(str(at * shard // size + within) for at, shard, size, within in inner)
            raise SourceDamaged(self.store.location, self.path, f"chunk ({number}): {error}") from None

    def _contents(self, file: Shape, wanted: Sequence[Shape]) -> Iterator[bytes | None]:
        """Encoded chunks of one file, by their numbers in it; None for those that are not stored."""
        try:
            descriptor = self.store.open_local(join(self.path, self.encoding.key(file)))
        except FileNotFoundError:
            yield from itertools.repeat(None, len(wanted))
            return
        try:
            status = os.fstat(descriptor)
            size = status.st_size
            if not stat.S_ISREG(status.st_mode) or size > self.store.limits.shard_bytes:
                raise ValueError("is no file, or too large")
            if self.encoding.index_at_end is None:
                yield _part(descriptor, size, 0)
                return
            index = self._index(descriptor, size)
            for chunk in wanted:
                offset, count = index[chunk].tolist()
                yield None if offset == count == ABSENT else _part(descriptor, count, offset)
        finally:
            os.close(descriptor)

    def _index(self, descriptor: int, size: int) -> NDArray[np.uint64]:
        """Offset and size of every chunk of a shard; zarr v3, sharding codec 1.0, "Binary shard format"."""
        import google_crc32c  # a dependency of zarr

        count = math.prod(self.encoding.grid) * 16
        stored = count + CHECKSUM_BYTES
        content = _part(descriptor, stored, size - stored if self.encoding.index_at_end else 0)
        if google_crc32c.value(content[:count]) != int.from_bytes(content[count:], "little"):
            raise ValueError("the index of a shard is damaged")
        return np.frombuffer(content, "<u8", count // 8).reshape(*self.encoding.grid, 2)


def chunk_numbers(name: str) -> Shape:
    """The numbers in the name of a chunk's file, one for each axis of the array if it is the name of one."""
    return tuple(int(number) for number in re.findall(r"\d+", name))


def chunk_files(metadata: dict[str, Any], most: int) -> list[str]:
    """Sorted paths below an array with these metadata of the files that its chunks may be in.

    Shards where it has any. Empty where these are more than `most`, and where only zarr knows of them.
    """
    encoding = encoding_of(metadata)
    counts = () if encoding is None else tuple(map(_parts, encoding.shape, encoding.shards))
    if encoding is None or not counts or math.prod(counts) > most:
        return []
    return sorted(map(encoding.key, itertools.product(*map(range, counts))))


def chunks_of(store: Store, path: str, metadata: dict[str, Any]) -> Chunks | None:
    """What reads the array at `path` with these metadata; None where only zarr can."""
    encoding = encoding_of(metadata) if store.is_local else None
    return None if encoding is None else Chunks(store, path, encoding)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:DIGEST_BYTES]


def _touched(span: tuple[int, int], size: int) -> range:
    """Numbers of the chunks of `size` that a span has a part in."""
    start, stop = span
    return range(start // size, _parts(stop, size))


def _parts(whole: int, size: int) -> int:
    """How many chunks of `size` make up the whole."""
    return -(-whole // size)


def _part(descriptor: int, count: int, offset: int) -> bytes:
    """So many bytes of a file. ValueError if it has not as many there, or more than come at once: 2 GiB."""
    if not 0 <= offset <= offset + count <= os.fstat(descriptor).st_size:
        raise ValueError("the file is too short")
    content = os.pread(descriptor, count, offset)
    if len(content) < count:
        raise ValueError("the file was cut off, or is too long")
    return content
