"""How the pixels of an array are stored, as its metadata say, where they can be read without zarr.

That is what most label images are: regular chunks, also in shards, with one of the usual compressors. Of all
else zarr must be asked, which knows what else there is, and takes a tenth of a second to be imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.records import dataclass

Decode = Callable[[bytes, NDArray[np.uint8]], None]  # fills the array, or raises ValueError
Shape = tuple[int, ...]

_V2 = {
    *("zarr_format", "shape", "chunks", "dtype", "compressor", "fill_value", "order", "filters"),
    "dimension_separator",
}
_V3 = {
    *("zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value"),
    *("codecs", "attributes", "dimension_names", "storage_transformers"),
}
_TYPES = frozenset(
    ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
)
_TYPE_V2 = re.compile(r"\|[biu]1|[<>](?:[iu][248]|f[48])", re.ASCII)
_COMPRESSORS = ("blosc", "gzip", "zlib", "zstd")
_SEPARATORS = {"default": "/", "v2": "."}  # of chunk key encodings, unless stated


class Unsafe(Exception):
    """What decoding would read memory for that is not the chunk's."""


@dataclass(frozen=True)
class Encoding:
    """Regular chunks of an array of `shape`, and how they are named and encoded.

    `shards` are the shapes of chunks that are files, `chunks` those of inner ones where they are sharded.
    `decode` gives pixels of `dtype`, with its byte order, in C order; chunks that are not stored hold `fill`.
    `index_at_end` is None where every chunk is a file, else whether the index of a shard stands there.
    """

    shape: Shape
    chunks: Shape
    shards: Shape
    dtype: np.dtype[Any]
    fill: float
    decode: Decode
    index_at_end: bool | None
    prefix: str
    separator: str

    def key(self, numbers: Shape) -> str:
        """The path below the array of the file of the chunk with these numbers."""
        return self.prefix + self.separator.join(map(str, numbers))

    @property
    def grid(self) -> Shape:
        """How many chunks a file has along each axis."""
        return chunks_per_file(self.shards, self.chunks)


def chunks_per_file(shards: Shape, chunks: Shape) -> Shape:
    """How many chunks a file has along each axis, of which the shapes are these."""
    return tuple(shard // chunk for shard, chunk in zip(shards, chunks, strict=True))


def encoding_of(metadata: dict[str, Any]) -> Encoding | None:
    """What the content of a `.zarray` or of an array's `zarr.json` says; None where zarr must be asked.

    It is also asked wherever a member is unknown, or has a value that it may not have. What compressors are
    told is not looked at, as it matters to writers alone.
    """
    try:
        return _of_v2(metadata) if metadata["zarr_format"] == 2 else _of_v3(metadata)
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def _of_v2(metadata: dict[str, Any]) -> Encoding:
    """Zarr v2, "Metadata"."""
    _check(metadata.keys() <= _V2 and metadata["order"] == "C" and metadata["filters"] in (None, []))
    shape = _sizes(metadata["shape"])
    chunks = _sizes(metadata["chunks"], shape)
    separator = metadata.get("dimension_separator", ".")
    _check(separator in (".", "/") and _TYPE_V2.fullmatch(metadata["dtype"]) is not None)
    dtype = np.dtype(metadata["dtype"])
    value, compressor = metadata["fill_value"], metadata["compressor"]
    fill = 0 if value is None else _fill(value, dtype)  # as zarr takes it
    decode = _copy if compressor is None else _decoder(compressor["id"])
    return Encoding(shape, chunks, chunks, dtype, fill, decode, None, "", separator)


def _of_v3(metadata: dict[str, Any]) -> Encoding:
    """Zarr v3, "Array metadata"."""
    _check(metadata.keys() <= _V3 and metadata["zarr_format"] == 3 and metadata["node_type"] == "array")
    _check(metadata.get("storage_transformers", []) == [])
    _check(isinstance(metadata.get("attributes", {}), dict))
    shape = _sizes(metadata["shape"])
    _check_names(metadata.get("dimension_names"), shape)
    kind, stated = _extension(metadata["chunk_grid"], "chunk_shape")
    _check(kind == "regular" and metadata["data_type"] in _TYPES)
    shards = _sizes(stated["chunk_shape"], shape)
    kind, stated = _extension(metadata["chunk_key_encoding"], "separator")
    separator = stated.get("separator", _SEPARATORS[kind])
    _check(separator in (".", "/"))
    prefix = f"c{separator}" if kind == "default" else ""
    chunks, index_at_end, codecs = _unsharded(shards, metadata["codecs"])
    dtype = np.dtype(metadata["data_type"])
    dtype, decode = _decoded(dtype, codecs)
    fill = _fill(metadata["fill_value"], dtype)
    return Encoding(shape, chunks, shards, dtype, fill, decode, index_at_end, prefix, separator)


def _unsharded(shards: Shape, codecs: Sequence[Any]) -> tuple[Shape, bool | None, Sequence[Any]]:
    """Shape and codecs of the chunks in shards, and whether their index stands at the end; None without."""
    if codecs[0]["name"] != "sharding_indexed":
        return shards, None, codecs
    _, stated = _extension(codecs[0], "chunk_shape", "codecs", "index_codecs", "index_location")
    chunks = _sizes(stated["chunk_shape"], shards)
    whole = all(shard % chunk == 0 for shard, chunk in zip(shards, chunks, strict=True))
    location = stated.get("index_location", "end")
    order, checksum = stated["index_codecs"]
    _check(whole and len(codecs) == 1 and location in ("start", "end"))
    _check(_extension(order, "endian") == ("bytes", {"endian": "little"}))
    _check(_extension(checksum) == ("crc32c", {}))
    return chunks, location == "end", stated["codecs"]


def _decoded(dtype: np.dtype[Any], codecs: Sequence[Any]) -> tuple[np.dtype[Any], Decode]:
    """The dtype in its byte order, and what gives it: codec `bytes` and one compressor at most."""
    kind, stated = _extension(codecs[0], "endian")
    _check(kind == "bytes" and len(codecs) <= 2)
    endian = stated.get("endian")
    _check(endian in ("little", "big") or (endian is None and dtype.itemsize == 1))
    dtype = dtype.newbyteorder(">" if endian == "big" else "<")
    if len(codecs) == 1:
        return dtype, _copy
    _check(codecs[1]["name"] != "zlib")  # which v3 has not
    return dtype, _decoder(codecs[1]["name"])


def _check(is_known: bool) -> None:
    if not is_known:
        raise ValueError("zarr must be asked")


def _extension(value: dict[str, Any], *known: str) -> tuple[str, dict[str, Any]]:
    """Name and configuration of an extension point of v3; with no members of that but those `known`."""
    stated = value.get("configuration", {})
    _check(value.keys() <= {"name", "configuration"} and stated.keys() <= set(known))
    return value["name"], stated


def _sizes(value: list[Any], like: Shape | None = None) -> Shape:
    """Positive sizes, as many as another shape has."""
    _check(isinstance(value, list) and all(type(size) is int and size > 0 for size in value))
    _check(like is None or len(value) == len(like))
    return tuple(value)


def _check_names(names: Any, shape: Shape) -> None:
    known = isinstance(names, list) and all(name is None or isinstance(name, str) for name in names)
    _check(names is None or (known and len(names) == len(shape)))


def _fill(value: Any, dtype: np.dtype[Any]) -> float:
    """A value of the dtype that JSON has as such."""
    if dtype.kind == "b":
        _check(type(value) is bool)
    elif dtype.kind == "f":
        _check(type(value) in (int, float))
    else:
        bounds = np.iinfo(dtype)
        _check(type(value) is int and bounds.min <= value <= bounds.max)
    number: float = value
    return number


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


def _unzstd(content: bytes, out: NDArray[np.uint8]) -> None:
    from roiservice.sources.bounded import decode_zstd

    decode_zstd(content, out)


def _decoder(name: str) -> Decode:
    _check(name in _COMPRESSORS)
    return {"blosc": _unblosc, "zstd": _unzstd}.get(name) or partial(_decompress, name)


def _decompress(name: str, content: bytes, out: NDArray[np.uint8]) -> None:
    _copy(memoryview(_codec(name).decode(content)).cast("B"), out)


@cache
def _codec(name: str) -> Any:
    from roiservice.sources.bounded import GZip, Zlib

    return {"gzip": GZip, "zlib": Zlib}[name]()
