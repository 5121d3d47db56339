"""Importing this imports zarr, and has it decode by `roiservice.sources.bounded`.

The codecs are called like its own, as it looks at their names.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numcodecs
import zarr
from zarr import codecs
from zarr.registry import register_codec

from roiservice.sources.bounded import BZ2, LZMA, GZip, VLenBytes, VLenUTF8, Zlib, Zstd, check_count


class GzipCodec(codecs.GzipCodec):
    """gzip."""

    @cached_property
    def _gzip_codec(self) -> GZip:
        return GZip(self.level)


class ZstdCodec(codecs.ZstdCodec):
    """Zstandard."""

    @cached_property
    def _zstd_codec(self) -> Zstd:
        return Zstd(level=self.level, checksum=self.checksum)


class _Counted:
    """zarr calls the one or the other, depending on its version."""

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        check_count(chunk_bytes.as_array_like())
        return super()._decode_sync(chunk_bytes, chunk_spec)  # type: ignore[misc]

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        check_count(chunk_bytes.as_array_like())
        return await super()._decode_single(chunk_bytes, chunk_spec)  # type: ignore[misc]


class VLenUTF8Codec(_Counted, codecs.VLenUTF8Codec):
    """Texts."""


class VLenBytesCodec(_Counted, codecs.VLenBytesCodec):
    """Bytes."""


for _codec in (GZip, Zlib, BZ2, LZMA, Zstd, VLenUTF8, VLenBytes):
    numcodecs.register_codec(_codec)
for _name, _kind in (
    ("gzip", GzipCodec),
    ("zstd", ZstdCodec),
    ("vlen-utf8", VLenUTF8Codec),
    ("vlen-bytes", VLenBytesCodec),
):
    register_codec(_name, _kind)
    zarr.config.set({f"codecs.{_name}": f"{_kind.__module__}.{_kind.__qualname__}"})
