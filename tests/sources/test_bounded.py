"""Chunks that decode to more than chunks may have end in an error, before they are in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import GzipCodec, ZstdCodec

from roiservice.errors import SourceDamaged
from roiservice.sources import bounded
from roiservice.sources.images import find_images
from roiservice.sources.layers import find_layers
from roiservice.sources.limits import Limits
from roiservice.sources.planes import open_layer
from roiservice.sources.roots import open_store
from roiservice.sources.tables.hierarchy import Hierarchy
from tests.stores import write_array, write_image

CODECS = (
    (bounded.GZip(), numcodecs.GZip()),
    (bounded.Zlib(), numcodecs.Zlib()),
    (bounded.BZ2(), numcodecs.BZ2()),
    (bounded.LZMA(), numcodecs.LZMA()),
    (bounded.Zstd(), numcodecs.Zstd()),
    (bounded.Zstd(), numcodecs.Zstd(checksum=True)),
)


def frame(blocks: int) -> bytes:
    """Zeros in blocks of 128 KiB as Zstandard, which does not say how many."""
    size = 2**17
    headers = ((size << 3 | 2 | (block == blocks - 1)).to_bytes(3, "little") for block in range(blocks))
    return b"\x28\xb5\x2f\xfd\x00\x58" + b"".join(header + b"\0" for header in headers)


STATED = numcodecs.Zstd().encode(b"\1" * 2**17)  # a frame that says how much it holds
NOTHING = b"\x28\xb5\x2f\xfd\x00\x58\x15\0\0\0\0"  # one that does not, with a compressed block of nothing
SKIPPED = b"\x50\x2a\x4d\x18\x03\0\0\0abc"


@pytest.mark.parametrize(("own", "theirs"), CODECS)
@pytest.mark.parametrize("size", [1, 1000, 300_000])
def test_what_is_not_too_large_is_decoded(own: Any, theirs: Any, size: int) -> None:
    data = np.random.default_rng(size).integers(0, 3, size, np.uint8).tobytes()
    assert bytes(own.decode(theirs.encode(data))) == data
    out = np.empty(size, np.uint8)
    own.decode(theirs.encode(data), out)
    assert out.tobytes() == data


@pytest.mark.parametrize(("own", "theirs"), [pair for pair in CODECS if pair[0].codec_id != "zlib"])
def test_streams_may_follow_each_other(own: Any, theirs: Any) -> None:
    assert bytes(own.decode(theirs.encode(b"ab") + theirs.encode(b"c" * 900))) == b"ab" + b"c" * 900


@pytest.mark.parametrize("codec", [numcodecs.Zlib(), numcodecs.BZ2(), numcodecs.LZMA()])
def test_what_follows_and_is_no_stream_is_passed_over(codec: Any) -> None:
    content = codec.encode(b"ab") + b"1234" * 10
    (own,) = (own for own, theirs in CODECS if theirs.codec_id == codec.codec_id)
    assert bytes(own.decode(content)) == bytes(codec.decode(content)) == b"ab"


def test_frames_of_zstandard_that_are_to_be_skipped() -> None:
    assert len(bounded.Zstd().decode(SKIPPED + frame(2))) == 2**18


@pytest.mark.parametrize(
    "size", [1, 255, 256, 257, 1000, 65_791, 65_792, 10**6]
)  # the field has 1, 2, 4 bytes
def test_zstandard_of_any_size_fills_what_it_is_decoded_to(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 9, size, np.uint8)
    out = np.zeros(size, np.uint8)
    bounded.decode_zstd(numcodecs.Zstd().encode(data), out)
    assert (out == data).all()


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (STATED, 2**17),
        (SKIPPED + STATED, 2**17),
        (STATED + NOTHING, 2**17),
        (NOTHING + STATED, 2**17),
        (STATED * 2, 2**18),
        (frame(2), 2**18),
        (frame(1) + STATED, 2**18),
    ],
)
def test_zstandard_fills_what_it_is_decoded_to(content: bytes, size: int) -> None:
    out = np.full(size, 7, np.uint8)
    bounded.decode_zstd(content, out)
    assert out.tobytes() == bytes(bounded.Zstd().decode(content))
    for other in (size - 1, size + 1, 2 * size, 0):
        with pytest.raises((ValueError, RuntimeError)):
            bounded.decode_zstd(content, np.full(other, 7, np.uint8))


@pytest.mark.parametrize(("own", "theirs"), CODECS)
def test_what_is_cut_short_is_an_error(own: Any, theirs: Any) -> None:
    with pytest.raises((EOFError, RuntimeError)):
        own.decode(theirs.encode(bytes(10_000))[:-6])


DECODE = """
import sys
from roiservice.sources import bounded
content = sys.stdin.buffer.read()
bounded.Zstd().decode(content)
for end in map(int, sys.argv[1:]):
    try:
        bounded.Zstd().decode(content[:end])
    except (EOFError, ValueError, RuntimeError):
        continue
    raise SystemExit(f"{end} bytes of it are taken for all")
"""


@pytest.mark.parametrize("last", [frame(2), SKIPPED, STATED, numcodecs.Zstd(checksum=True).encode(b"a")])
def test_nothing_is_waited_for_where_zstandard_is_cut_short(last: bytes) -> None:
    """Of frames that do not state their sizes; in a process that can be ended, as the decoder could not."""
    first = frame(1)
    ends = [len(first) + end for end in range(1, len(last))]
    decode = [sys.executable, "-c", DECODE, *map(str, [*range(1, len(first)), *ends])]
    subprocess.run(decode, input=first + last, timeout=60, check=True)


@pytest.mark.parametrize(("own", "theirs"), CODECS)
def test_what_is_too_large_is_an_error(own: Any, theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 2**18
    monkeypatch.setattr(bounded, "MOST", most)
    half = theirs.encode(bytes(most // 2))
    assert len(own.decode(theirs.encode(bytes(most)))) == most
    too_large = [theirs.encode(bytes(most + 1))]
    if own.codec_id != "zlib":
        assert len(own.decode(half + half)) == most
        too_large.append(half + half + theirs.encode(b"x"))
    for content in too_large:
        with pytest.raises(ValueError, match="decodes to more than"):
            own.decode(content)


def test_zstandard_that_does_not_tell_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MOST", 2**20)
    assert len(bounded.Zstd().decode(frame(8))) == 2**20
    with pytest.raises(ValueError, match="decodes to more than"):
        bounded.Zstd().decode(frame(9))


@pytest.mark.parametrize(
    "content",
    [
        b"".join([SKIPPED[:4], bytes(4)]) * 1000,
        NOTHING * 500,
        frame(1)[:6] + bytes(3) * 999 + b"\1\0\0",  # raw blocks of no bytes
    ],
)
def test_zstandard_of_very_many_pieces_is_an_error(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is looked at by the interpreter, which does nothing else meanwhile."""
    assert bounded._zstd_most(content) <= 500 * 2**17
    monkeypatch.setattr(bounded, "_ZSTD_PIECES", 999)
    with pytest.raises(ValueError, match="more than 999 pieces"):
        bounded.decode_zstd(content, np.empty(0, np.uint8))


@pytest.mark.parametrize("through_zarr", [True, False])
@pytest.mark.parametrize("codec", ["gzip", "zlib", "bz2", "lzma", "zstd", "v3 gzip", "v3 zstd"])
def test_a_chunk_that_is_too_large_is_named(
    tmp_path: Path, codec: str, through_zarr: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "MOST", 1000)
    if codec.startswith("v3 "):
        version, used = "0.5", {"v3 gzip": GzipCodec(), "v3 zstd": ZstdCodec()}[codec]
        options: dict[str, Any] = {
            "chunk_key_encoding": {"name": "v2", "separator": "." if through_zarr else "/"}
        }
        encoder = numcodecs.get_codec({"id": codec[3:]})
    else:
        version, used = "0.4", numcodecs.get_codec({"id": codec})
        options, encoder = {"order": "F" if through_zarr else "C"}, used
    image = write_image(tmp_path / "a.zarr", labels={"cells": np.ones((8, 8), np.uint8)}, version=version)
    array = image / "labels/cells/0"
    write_array(array, np.ones((8, 8), np.uint8), version, compressors=used, **options)
    (source,) = find_layers(next(iter(find_images(image, None, Limits()))), Limits()).layers  # type: ignore[arg-type]
    layer = open_layer(source, Limits())
    assert layer.read((0, 0, 0), 0, 8).all()
    (chunk,) = (path for path in array.rglob("*") if path.is_file() and not path.name.startswith((".", "z")))
    chunk.write_bytes(encoder.encode(bytes(2000)))
    with pytest.raises(SourceDamaged, match=r"labels/cells/0\]: chunk \(0, 0\): .*decodes to more than"):
        open_layer(source, Limits()).read((0, 0, 0), 0, 8)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_texts_are_no_more_than_there_is_room_for(tmp_path: Path, zarr_format: Literal[2, 3]) -> None:
    array = zarr.create_array(
        tmp_path / "texts", shape=(3,), chunks=(3,), dtype=str, compressors=None, zarr_format=zarr_format
    )
    array[:] = np.array(["a", "", "bc"], object)
    hierarchy = Hierarchy(open_store(tmp_path, Limits()), zarr_format, Limits())
    column = hierarchy.column("texts")
    assert column is not None
    assert column.to_pylist() == ["a", "", "bc"]
    chunk = tmp_path / "texts" / ("0" if zarr_format == 2 else "c/0")
    chunk.write_bytes((2**31 - 1).to_bytes(4, "little") + chunk.read_bytes()[4:])
    with pytest.raises(SourceDamaged, match=r"texts\]: cannot be read: says that it holds 2147483647 texts"):
        hierarchy.column("texts")
