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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from roiservice.errors import SourceDamaged, SourceError
from roiservice.sources.paths import join
from roiservice.sources.slabs import Selection
from roiservice.sources.store import Store

if TYPE_CHECKING:
    import zarr

ABSENT = 2**64 - 1  # offset and size in a shard's index of a chunk that is not stored
CHECKSUM_BYTES = 4
DIGEST_BYTES = 8  # of a chunk in a shard: one in 2**64 that changed would be taken for what it was
NOT_STORED = bytes(DIGEST_BYTES)
MOST_DIGESTS = 2**14  # of one shard

Decode = Callable[[bytes, NDArray[np.uint8]], None]  # fills the array, or raises ValueError
Shape = tuple[int, ...]


class Unsafe(Exception):
    """What decoding would read memory for that is not the chunk's."""


@dataclass(frozen=True)
class Codecs:
    """How chunks are encoded: the dtype they hold, with its byte order, and what is undone after that.

    `shard` is None where every chunk is a file, else whether the index of a shard stands at its end.
    """

    dtype: np.dtype[Any]
    decode: Decode
    shard: bool | None


@dataclass(frozen=True)
class Chunks:
    """Reads an array; safe to use from several threads.

    `shards` are the shapes of chunks that are files, `chunks` those of inner ones where they are sharded.
    """

    store: Store
    path: str
    chunks: Shape
    shards: Shape
    dtype: np.dtype[Any]
    fill: Any
    codecs: Codecs
    key: Callable[[Shape], str]

    def read(self, selection: Selection) -> NDArray[Any] | None:
        """The selection as zarr gives it, of the native dtype; None where zarr must be asked.

        Raises SourceDamaged for chunks that no codec must see, SourceRefused for links that leave the store.
        """
        spans = [
            (part.start, part.stop) if isinstance(part, slice) else (part, part + 1) for part in selection
        ]
        out = np.empty([stop - start for start, stop in spans], self.dtype)
        scratch = np.empty(math.prod(self.chunks) * self.dtype.itemsize, np.uint8)
        try:
            for file in itertools.product(*map(_touched, spans, self.shards)):
                self._read_file(file, spans, out, scratch)
        except SourceError:
            raise
        except Exception:  # noqa: BLE001 - codecs raise what they like; zarr will say what is wrong
            return None
        return out[tuple(0 if isinstance(part, int) else slice(None) for part in selection)]

    @property
    def has_digests(self) -> bool:
        """Whether `digests` tells anything."""
        return self.codecs.shard is not None and math.prod(self._grid) <= MOST_DIGESTS

    def digests(self, name: str, size: int, mark: int) -> bytes:
        """Digests of what is stored of each chunk in the shard `name`, a path below the array, in C order.

        They have `DIGEST_BYTES` each, `NOT_STORED` for chunks that are not there. Empty where chunks are not
        sharded or very many, and for a file that is no sound shard, or not of this `size` and mtime `mark`
        (ns) any more.
        """
        file = chunk_numbers(name)
        if not self.has_digests or self.key(file) != name:
            return b""
        try:
            contents = self._contents(file, list(np.ndindex(*self._grid)))
            digests = b"".join(NOT_STORED if content is None else _digest(content) for content in contents)
        except Exception:  # noqa: BLE001 - who reads its pixels says what is wrong
            return b""
        stamp = self.store.stamp(join(self.path, name))
        return digests if stamp is not None and stamp[1:] == (size, mark) else b""

    def _read_file(
        self, file: Shape, spans: Sequence[tuple[int, int]], out: NDArray[Any], scratch: NDArray[np.uint8]
    ) -> None:
        """The chunks in one file that the spans touch."""
        origin = tuple(number * size for number, size in zip(file, self.shards, strict=True))
        within = [
            (max(start - at, 0), min(stop - at, size))
            for (start, stop), at, size in zip(spans, origin, self.shards, strict=True)
        ]
        wanted = list(itertools.product(*map(_touched, within, self.chunks)))
        whole = scratch.view(self.codecs.dtype).reshape(self.chunks)
        for chunk, content in zip(wanted, self._contents(file, wanted), strict=True):
            target, source = [], []
            for number, size, at, (start, stop), (first, _) in zip(
                chunk, self.chunks, origin, within, spans, strict=True
            ):
                low, high = max(start, number * size), min(stop, (number + 1) * size)
                target.append(slice(at + low - first, at + high - first))
                source.append(slice(low - number * size, high - number * size))
            if content is None:
                out[tuple(target)] = self.fill
            else:
                self._decode(file, chunk, content, scratch)
                out[tuple(target)] = whole[tuple(source)]

    def _decode(self, file: Shape, chunk: Shape, content: bytes, scratch: NDArray[np.uint8]) -> None:
        """One chunk of a file. SourceDamaged for one that must not come to zarr either."""
        try:
            self.codecs.decode(content, scratch)
        except Unsafe as error:
            inner = zip(file, self.shards, self.chunks, chunk, strict=True)
            number = ", ".join(str(at * shard // size + within) for at, shard, size, within in inner)
            raise SourceDamaged(self.store.location, self.path, f"chunk ({number}): {error}") from None

    def _contents(self, file: Shape, wanted: Sequence[Shape]) -> Iterator[bytes | None]:
        """Encoded chunks of one file, by their numbers in it; None for those that are not stored."""
        try:
            descriptor = self.store.open_local(join(self.path, self.key(file)))
        except FileNotFoundError:
            yield from itertools.repeat(None, len(wanted))
            return
        try:
            status = os.fstat(descriptor)
            size = status.st_size
            if not stat.S_ISREG(status.st_mode) or size > self.store.limits.shard_bytes:
                raise ValueError("is no file, or too large")
            if self.codecs.shard is None:
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

        count = math.prod(self._grid) * 16
        stored = count + CHECKSUM_BYTES
        content = _part(descriptor, stored, size - stored if self.codecs.shard else 0)
        if google_crc32c.value(content[:count]) != int.from_bytes(content[count:], "little"):
            raise ValueError("the index of a shard is damaged")
        return np.frombuffer(content, "<u8", count // 8).reshape(*self._grid, 2)

    @property
    def _grid(self) -> Shape:
        """How many chunks a file has along each axis."""
        return tuple(shard // chunk for shard, chunk in zip(self.shards, self.chunks, strict=True))


def chunk_numbers(name: str) -> Shape:
    """The numbers in the name of a chunk's file, one for each axis of the array if it is the name of one."""
    return tuple(int(number) for number in re.findall(r"\d+", name))


def chunks_of(store: Store, path: str, array: zarr.Array[Any]) -> Chunks | None:
    """What reads `array`, which lies at `path`; None where only zarr can."""
    codecs = _codecs_v2(array) if array.metadata.zarr_format == 2 else _codecs_v3(array)
    if codecs is None or not store.is_local:
        return None
    return Chunks(
        store,
        path,
        tuple(array.chunks),
        tuple(array.shards or array.chunks),
        array.dtype.newbyteorder("="),
        0 if array.fill_value is None else array.fill_value,  # as zarr takes the null of zarr v2
        codecs,
        array.metadata.encode_chunk_key,
    )


def _codecs_v2(array: zarr.Array[Any]) -> Codecs | None:
    from numcodecs import GZip, Zlib, Zstd
    from numcodecs.blosc import Blosc

    metadata: Any = array.metadata
    decode: Decode | None = None
    if metadata.compressor is None:
        decode = _copy
    elif isinstance(metadata.compressor, Blosc):
        decode = _unblosc
    elif isinstance(metadata.compressor, (GZip, Zlib, Zstd)):
        decode = _with(metadata.compressor.decode)
    if decode is None or metadata.filters or metadata.order != "C":
        return None
    return Codecs(array.dtype, decode, None)


def _codecs_v3(array: zarr.Array[Any]) -> Codecs | None:
    from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

    metadata: Any = array.metadata
    codecs, shard = metadata.codecs, None
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        outer = codecs[0]
        order, *rest = outer.index_codecs
        if not isinstance(order, BytesCodec) or len(rest) != 1 or not isinstance(rest[0], Crc32cCodec):
            return None
        if _name(order.endian) != "little":
            return None
        codecs, shard = outer.codecs, _name(outer.index_location) == "end"
    if not codecs or not isinstance(codecs[0], BytesCodec):
        return None
    decode = _decode_v3(codecs[1:])
    endian = _name(codecs[0].endian)
    dtype = array.dtype if endian is None else array.dtype.newbyteorder(endian)
    return None if decode is None else Codecs(dtype, decode, shard)


def _decode_v3(codecs: Sequence[Any]) -> Decode | None:
    from numcodecs import GZip, Zstd
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    if not codecs:
        return _copy
    if len(codecs) > 1:
        return None
    if isinstance(codecs[0], BloscCodec):
        return _unblosc
    known = {ZstdCodec: Zstd, GzipCodec: GZip}.get(type(codecs[0]))
    return None if known is None else _with(known().decode)


def _name(choice: Any) -> Any:
    """What zarr before 3.2 has as a member of an enumeration, and later ones as text."""
    return getattr(choice, "value", choice)


def _copy(content: Any, out: NDArray[np.uint8]) -> None:
    if len(content) != len(out):
        raise ValueError("a chunk has another size")
    out[:] = np.frombuffer(content, np.uint8)


def _unblosc(content: bytes, out: NDArray[np.uint8]) -> None:
    from numcodecs import blosc

    # Decoded and encoded size stand in bytes 4 to 8 and 12 to 16 of the header, and blosc believes both.
    size, encoded = (int.from_bytes(content[first : first + 4], "little") for first in (4, 12))
    if len(content) < blosc.MAX_OVERHEAD or encoded > len(content):
        raise Unsafe(f"has {len(content)} bytes of {max(encoded, blosc.MAX_OVERHEAD)}")
    if size != len(out):
        raise ValueError("a chunk has another size")
    blosc.decompress(content, out)


def _with(decode: Callable[[bytes], Any]) -> Decode:
    return lambda content, out: _copy(memoryview(decode(content)).cast("B"), out)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:DIGEST_BYTES]


def _touched(span: tuple[int, int], size: int) -> range:
    """Numbers of the chunks of `size` that a span has a part in."""
    start, stop = span
    return range(start // size, -(-stop // size))


def _part(descriptor: int, count: int, offset: int) -> bytes:
    """So many bytes of a file. ValueError if it has not as many there."""
    if not 0 <= offset <= offset + count <= os.fstat(descriptor).st_size:
        raise ValueError("the file is too short")
    return os.pread(descriptor, count, offset)
