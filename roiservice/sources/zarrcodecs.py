"""Importing this imports zarr, and has it decompress by `roiservice.sources.bounded`."""

from __future__ import annotations

from functools import cached_property

import numcodecs
import zarr
from zarr.codecs import GzipCodec, ZstdCodec
from zarr.registry import register_codec

from roiservice.sources.bounded import BZ2, LZMA, GZip, Zlib, Zstd


class _GzipCodec(GzipCodec):
    @cached_property
    def _gzip_codec(self) -> GZip:
        return GZip(self.level)


class _ZstdCodec(ZstdCodec):
    @cached_property
    def _zstd_codec(self) -> Zstd:
        return Zstd(level=self.level, checksum=self.checksum)


for _codec in (GZip, Zlib, BZ2, LZMA, Zstd):
    numcodecs.register_codec(_codec)
for _name, _kind in (("gzip", _GzipCodec), ("zstd", _ZstdCodec)):
    register_codec(_name, _kind)
    zarr.config.set({f"codecs.{_name}": f"{_kind.__module__}.{_kind.__qualname__}"})
