"""Chunks that are read without zarr are those that zarr reads; what is damaged is left to it."""

from __future__ import annotations

import copy
import itertools
import json
import os
import pickle
import struct
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.sources import chunks as chunks_module
from roiservice.sources.arrays import LabelArray, open_array
from roiservice.sources.chunks import DIGEST_BYTES, NOT_STORED, Chunks
from roiservice.sources.encoding import Encoding, encoding_of
from roiservice.sources.limits import Limits
from roiservice.sources.roots import open_store

SELECTIONS: list[tuple[Any, ...]] = [
    (0, slice(0, 45), slice(0, 37)),
    (2, slice(3, 4), slice(36, 37)),
    (slice(1, 3), slice(9, 33), slice(7, 8)),
    (1, slice(10, 20), 5),
    (slice(0, 2), slice(10, 20), slice(8, 16)),  # a chunk
    (1, slice(0, 45), slice(4, 8)),  # chunks of shards, one below the other
]
V3 = {
    "raw": [BytesCodec()],
    "blosc": [BytesCodec(), BloscCodec()],
    "bitshuffle": [BytesCodec(), BloscCodec(cname="lz4", shuffle="bitshuffle")],
    "zstd": [BytesCodec(), ZstdCodec(checksum=True)],
    "gzip": [BytesCodec(), GzipCodec()],
    "big": [BytesCodec(endian="big"), ZstdCodec()],
}
DOCUMENTS = {2: ".zarray", 3: "zarr.json"}
V2: dict[str, Any] = {
    "none": None,
    "blosc": numcodecs.Blosc(),
    "zstd": numcodecs.Zstd(),
    "gzip": numcodecs.GZip(),
    "zlib": numcodecs.Zlib(),
}


def pairs(codecs: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
    return list(itertools.product(codecs, others))


def pixels(dtype: str) -> np.ndarray:
    """Labels with chunks that hold nothing."""
    array = np.random.default_rng(2).integers(0, 2, (3, 45, 37)).astype(dtype)
    array[:, 10:30, :18] = 0
    array[1] = 0
    return array


def written(folder: Path, dtype: str, zarr_format: int, fill: int | None = 0, **options: Any) -> np.ndarray:
    """An array `0` in a folder, and what it holds."""
    array = zarr.create_array(
        folder,
        name="0",
        shape=(3, 45, 37),
        chunks=(2, 10, 8),
        dtype=dtype,
        zarr_format=zarr_format,
        fill_value=fill,
        **options,
    )
    array[:] = pixels(dtype)
    return pixels(dtype)


def opened(folder: Path, zarr_format: int) -> LabelArray:
    return open_array(open_store(str(folder), Limits()), "0", zarr_format)


def check(array: LabelArray, expected: np.ndarray) -> None:
    assert array.own is not None
    check_encoding(array.own.encoding, array.through_zarr())
    for selection in SELECTIONS:
        block = array.own.read(selection)
        assert block is not None
        np.testing.assert_array_equal(block, expected[selection])
        np.testing.assert_array_equal(block, array.through_zarr()[selection])
        assert block.dtype == expected.dtype.newbyteorder("=")


def check_encoding(encoding: Encoding, array: zarr.Array[Any]) -> None:
    """That zarr understands the same by the metadata."""
    assert (encoding.shape, encoding.chunks) == (array.shape, array.chunks)
    assert encoding.shards == (array.shards or array.chunks)
    assert encoding.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    assert encoding.fill == (0 if array.fill_value is None else array.fill_value)
    numbers = tuple(range(len(array.shape)))
    assert encoding.key(numbers) == array.metadata.encode_chunk_key(numbers)


@pytest.mark.parametrize(("codec", "dtype"), pairs(V3, ["uint8", "int16", "uint32", "uint64", "bool"]))
def test_v3(tmp_path: Path, codec: str, dtype: str) -> None:
    order, *others = V3[codec]
    check_v3 = written(tmp_path, dtype, 3, fill=1, serializer=order, compressors=others)
    check(opened(tmp_path, 3), check_v3)


@pytest.mark.parametrize(("codec", "location"), pairs(V3, ["start", "end"]))
def test_shards(tmp_path: Path, codec: str, location: str) -> None:
    sharding = ShardingCodec(chunk_shape=(1, 5, 4), codecs=V3[codec], index_location=location)
    check_shards = written(tmp_path, "uint16", 3, serializer=sharding, compressors=None)
    check(opened(tmp_path, 3), check_shards)


@pytest.mark.parametrize(("codec", "dtype"), pairs(V2, ["|u1", "<i2", ">i4", ">u8", "|b1"]))
def test_v2(tmp_path: Path, codec: str, dtype: str) -> None:
    separator = {"name": "v2", "separator": "/" if codec == "zstd" else "."}
    expected = written(tmp_path, dtype, 2, compressors=V2[codec], chunk_key_encoding=separator)
    check(opened(tmp_path, 2), expected)


def test_without_a_fill_value_chunks_that_are_missing_hold_nothing(tmp_path: Path) -> None:
    expected = written(tmp_path, "|u1", 2, fill=None, chunk_key_encoding={"name": "v2", "separator": "."})
    assert not (tmp_path / "0/0.1.0").exists()
    check(opened(tmp_path, 2), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"filters": [TransposeCodec(order=(2, 0, 1))]},
        {"compressors": [ZstdCodec(), Crc32cCodec()]},
        {
            "serializer": ShardingCodec(
                chunk_shape=(1, 5, 4), codecs=[BytesCodec()], index_codecs=[BytesCodec()]
            )
        },
    ],
)
def test_what_is_not_usual_goes_through_zarr(tmp_path: Path, options: dict[str, Any]) -> None:
    expected = written(tmp_path, "uint16", 3, **options)
    array = opened(tmp_path, 3)
    assert array.own is None
    np.testing.assert_array_equal(array.read(SELECTIONS[0]), expected[SELECTIONS[0]])


def test_filters_of_v2_go_through_zarr(tmp_path: Path) -> None:
    expected = written(tmp_path, "<i4", 2, filters=[numcodecs.Delta("<i4")])
    array = opened(tmp_path, 2)
    assert array.own is None
    np.testing.assert_array_equal(array.read(SELECTIONS[0]), expected[SELECTIONS[0]])


def documents() -> list[dict[str, Any]]:
    """What stands in the metadata of some arrays."""
    made = []
    sharding = ShardingCodec(chunk_shape=(1, 5, 4), codecs=[BytesCodec(), ZstdCodec()])
    for zarr_format, dtype, options in (
        (2, "<u2", {"compressors": numcodecs.Zlib(), "chunk_key_encoding": {"name": "v2", "separator": "/"}}),
        (2, ">f4", {"compressors": None}),
        (3, "uint32", {"dimension_names": ["z", "y", "x"]}),
        (3, "bool", {"compressors": None, "chunk_key_encoding": {"name": "v2", "separator": "."}}),
        (3, "int8", {"serializer": sharding, "compressors": None}),
    ):
        with tempfile.TemporaryDirectory() as folder:
            written(Path(folder), dtype, zarr_format, **options)
            made.append(json.loads((Path(folder) / "0" / DOCUMENTS[zarr_format]).read_bytes()))
    return made


VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        255,
        300,
        2**40,
        1.5,
        "",
        ".",
        "/",
        "x",
        "start",
        "end",
        "little",
        "big",
    ),
    *(
        "NaN",
        "regular",
        "default",
        "v2",
        "bytes",
        "zstd",
        "gzip",
        "blosc",
        "crc32c",
        "sharding_indexed",
        "zlib",
    ),
    *("uint64", "int16", "float16", "<i8", "|b1", "|u4", "<u2", "F", "C", "array", "group"),
    *([], {}, [1, 5, 4], [1, 2, 3], [0, 5, 4], [5, 5], ["a", None, "b"], {"name": "bytes"}),
    *({"name": "bytes", "configuration": {"endian": "big"}}, {"id": "gzip", "level": 1}, {"id": "bz2"}),
    *([{"name": "bytes", "configuration": {"endian": "little"}}], {"must_understand": False}),
]


BEFORE = documents()
COMPRESSORS = {"zlib", "zstd", "gzip", "blosc"}


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """All members of a document and of what is in it, with what they are in.

    But for what compressors are told, which matters to writers alone.
    """
    for name in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, name
        inside = node[name]
        if isinstance(inside, list) or (
            isinstance(inside, dict) and not COMPRESSORS & set(map(str, inside.values()))
        ):
            yield from places(inside)


def add(inside: Any, value: Any) -> None:
    if isinstance(inside, dict):
        inside["another"] = value
    else:
        inside.append(value)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_metadata_that_are_understood_without_zarr_say_the_same_to_zarr(data: st.DataObject) -> None:
    document = copy.deepcopy(data.draw(st.sampled_from(BEFORE)))
    for _ in range(data.draw(st.integers(1, 2))):
        inside, name = data.draw(st.sampled_from(list(places(document))))
        change = data.draw(st.sampled_from(["other", "gone", "more"]))
        value = copy.deepcopy(data.draw(st.sampled_from(VALUES)))
        if change == "gone":
            del inside[name]
        elif change == "more":
            add(inside, value)
        else:
            inside[name] = value
    encoding = encoding_of(document)
    if encoding is not None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / DOCUMENTS[document["zarr_format"]]).write_text(json.dumps(document))
            array = zarr.open_array(folder, mode="r", zarr_format=document["zarr_format"])
            check_encoding(encoding, array)


@pytest.mark.parametrize("codec", ["raw", "blosc", "zstd", "gzip"])
@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "noise"])
def test_damaged_chunks_are_zarrs_to_name(tmp_path: Path, codec: str, damage: str) -> None:
    order, *others = V3[codec]
    written(tmp_path, "uint32", 3, serializer=order, compressors=others)
    chunk = tmp_path / "0/c/0/0/0"
    content = chunk.read_bytes()
    noise = bytes(np.random.default_rng(1).integers(0, 256, len(content), np.uint8))
    chunk.write_bytes(
        {"cut": content[:-9], "empty": b"", "longer": content + b"1234", "noise": noise}[damage]
    )
    array = opened(tmp_path, 3)
    assert array.own is not None
    if (codec, damage) in (("raw", "noise"), ("blosc", "longer")):
        np.testing.assert_array_equal(array.read(SELECTIONS[0]), array.through_zarr()[SELECTIONS[0]])
        return
    if codec != "blosc":  # which no codec must see
        assert array.own.read(SELECTIONS[0]) is None
    with pytest.raises(SourceDamaged, match=r"chunk \(0, 0, 0\)"):
        array.read(SELECTIONS[0])


def test_blosc_of_another_size_is_not_taken(tmp_path: Path) -> None:
    order, *others = V3["blosc"]
    written(tmp_path, "uint32", 3, serializer=order, compressors=others)
    (tmp_path / "0/c/0/0/0").write_bytes(numcodecs.Blosc().encode(np.zeros(5, np.uint32)))
    array = opened(tmp_path, 3)
    assert array.own is not None
    assert array.own.read(SELECTIONS[0]) is None


def test_blosc_that_lies_about_its_own_size_is_seen_by_no_codec(tmp_path: Path) -> None:
    order, *others = V3["blosc"]
    written(tmp_path, "uint32", 3, serializer=order, compressors=others)
    size = 2 * 10 * 8 * 4
    header = bytes([2, 1, 0x2, 4]) + struct.pack("<III", size, size, size + 16)  # "stored as it is"
    (tmp_path / "0/c/0/1/0").write_bytes(header + b"1234")
    with pytest.raises(SourceDamaged, match=r"chunk \(0, 1, 0\): has 20 bytes of 656"):
        opened(tmp_path, 3).read(SELECTIONS[0])


@pytest.mark.parametrize("place", [0, 8])
def test_shards_whose_index_leads_outside(tmp_path: Path, place: int) -> None:
    sharding = ShardingCodec(chunk_shape=(1, 5, 4), codecs=[BytesCodec()])
    written(tmp_path, "uint16", 3, serializer=sharding, compressors=None)
    shard = tmp_path / "0/c/0/0/0"
    content = bytearray(shard.read_bytes())
    size = 2 * 2 * 2 * 16 + 4
    index = content[-size:-4]
    index[place : place + 8] = struct.pack("<Q", 2**62)
    content[-size:] = index + google_crc32c.value(bytes(index)).to_bytes(4, "little")
    shard.write_bytes(content)
    array = opened(tmp_path, 3)
    assert array.own is not None
    assert array.own.read(SELECTIONS[0]) is None
    content[-1] ^= 1
    shard.write_bytes(content)
    assert array.own.read(SELECTIONS[0]) is None


def test_a_shard_whose_index_is_damaged_is_an_error(tmp_path: Path) -> None:
    sharding = ShardingCodec(chunk_shape=(1, 5, 4), codecs=[BytesCodec()])
    written(tmp_path, "uint16", 3, serializer=sharding, compressors=None)
    shard = tmp_path / "0/c/0/0/0"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    array = opened(tmp_path, 3)
    assert array.own is not None
    assert array.own.read(SELECTIONS[0]) is None
    with pytest.raises(SourceDamaged, match="chunk"):
        array.read(SELECTIONS[0])


def test_files_of_chunks_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    """Blosc itself would not mind what follows the chunk."""
    order, *others = V3["blosc"]
    written(tmp_path, "uint8", 3, serializer=order, compressors=others)
    chunk = tmp_path / "0/c/0/0/0"
    chunk.write_bytes(chunk.read_bytes().ljust(1000, b"0"))
    array = open_array(open_store(str(tmp_path), Limits(shard_bytes=999)), "0", 3)
    with pytest.raises(SourceRefused, match="holds 1000 bytes; 999 are allowed"):
        array.read(SELECTIONS[0])


def test_links_that_leave_the_store_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "store", "uint16", 3, compressors=None)
    chunk = tmp_path / "store/0/c/0/0/0"
    chunk.rename(tmp_path / "elsewhere")
    chunk.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SourceRefused, match="symbolic link"):
        opened(tmp_path / "store", 3).read(SELECTIONS[0])


@pytest.mark.parametrize("codec", ["raw", "transposed"])
def test_named_pipes_are_not_waited_for(tmp_path: Path, codec: str) -> None:
    filters = [TransposeCodec(order=(2, 0, 1))] if codec == "transposed" else []  # zarr's to read
    written(tmp_path, "uint16", 3, filters=filters, compressors=None)
    chunk = tmp_path / "0/c/0/0/0"
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises(SourceRefused, match=r"c/0/0/0.*is no regular file"):
        opened(tmp_path, 3).read(SELECTIONS[0])


def sharded(folder: Path, **options: Any) -> tuple[Chunks, str]:
    """What reads an array in shards of 2 x 10 x 8 pixels, with chunks of 1 x 5 x 4, and the name of one."""
    sharding = ShardingCodec(chunk_shape=(1, 5, 4), codecs=[BytesCodec(), ZstdCodec()])
    written(folder, "uint16", 3, serializer=sharding, compressors=None, **options)
    own = opened(folder, 3).own
    assert own is not None
    return own, "c/0/0/0"


def digests_of(chunks: Chunks, name: str) -> list[bytes]:
    _, size, mark = chunks.store.stamp(f"0/{name}") or ("", -1, -1)
    digests = chunks.digests(name, size, mark)
    return [digests[first : first + DIGEST_BYTES] for first in range(0, len(digests), DIGEST_BYTES)]


def test_digests_tell_which_chunks_of_a_shard_are_other_ones(tmp_path: Path) -> None:
    chunks, name = sharded(tmp_path)
    array = zarr.open_array(tmp_path, path="0", mode="r+")
    before = digests_of(chunks, name)
    assert len(before) == 8
    assert before[4:] == [NOT_STORED] * 4  # of the plane without labels
    assert NOT_STORED not in before[:4]
    array[0, 7, 2] = 99  # in the chunk (0, 1, 0)
    array[1, 0, 0] = 1
    after = digests_of(chunks, name)
    assert [number for number in range(8) if before[number] != after[number]] == [2, 4]
    array[1, 0, 0] = 0
    array[0, 7, 2] = pixels("uint16")[0, 7, 2]
    assert digests_of(chunks, name) == before


def test_there_are_no_digests_of_what_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks, name = sharded(tmp_path / "shards")
    stamp = chunks.store.stamp(f"0/{name}")
    assert stamp is not None
    assert chunks.has_digests
    assert len(chunks.digests(name, *stamp[1:])) == 8 * DIGEST_BYTES
    assert chunks.digests(name, stamp[1], stamp[2] + 1) == b""  # it was written meanwhile
    assert chunks.digests("c/0/0/00", *stamp[1:]) == b""  # another file, of which zarr knows nothing
    assert chunks.digests("c/9/9/9", 1, 1) == b""
    shard = tmp_path / "shards/0" / name
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert digests_of(chunks, name) == []
    monkeypatch.setattr(chunks_module, "MOST_DIGESTS", 7)
    assert not chunks.has_digests
    written(tmp_path / "plain", "uint16", 3)
    plain = opened(tmp_path / "plain", 3).own
    assert plain is not None
    assert not plain.has_digests
    assert digests_of(plain, name) == []


def rewritten(shard: Path, index: np.ndarray, cut: int | None = None) -> None:
    """Give a shard of `sharded` another index."""
    content = index.astype("<u8").tobytes()
    stored = content + google_crc32c.value(content).to_bytes(4, "little")
    shard.write_bytes(shard.read_bytes()[: -len(stored)][:cut] + stored)


def test_a_shard_whose_chunks_share_what_is_stored_has_no_digests(tmp_path: Path) -> None:
    """Of a few megabytes terabytes would have to be read."""
    chunks, name = sharded(tmp_path)
    shard = tmp_path / "0" / name
    size = shard.stat().st_size
    rewritten(shard, np.tile([0, size // 8], 8))
    assert len(digests_of(chunks, name)) == 8
    rewritten(shard, np.tile([0, size // 8 + 1], 8))
    assert digests_of(chunks, name) == []


def test_of_very_many_chunks_there_are_no_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks, _ = sharded(tmp_path)  # of 2 x 5 x 5 shards
    monkeypatch.setattr(chunks_module, "MOST_DIGESTS_OF_ALL", 2 * 5 * 5 * 8)
    assert chunks.has_digests
    monkeypatch.setattr(chunks_module, "MOST_DIGESTS_OF_ALL", 2 * 5 * 5 * 8 - 1)
    assert not chunks.has_digests


def test_files_that_give_less_than_they_say_have_no_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than 2 GiB come at once, and what is cut off while it is read is not there."""
    chunks, name = sharded(tmp_path)
    plain = os.pread
    monkeypatch.setattr(os, "pread", lambda *read: plain(*read)[:16] if read[1] < 100 else plain(*read))
    assert digests_of(chunks, name) == []


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_metadata_that_come_later_are_not_what_chunks_are_read_by(tmp_path: Path, zarr_format: int) -> None:
    """Not those that were checked: they may have other shapes, and codecs that run code."""
    codecs: dict[int, Any] = {2: numcodecs.Zlib(), 3: ZstdCodec()}
    encoding = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    written(tmp_path, "<u4", zarr_format, compressors=codecs[zarr_format], **encoding)
    (tmp_path / "0/0/0/0").write_bytes(b"damaged")  # so that zarr is asked
    array = opened(tmp_path, zarr_format)
    document = tmp_path / "0" / DOCUMENTS[zarr_format]
    metadata = json.loads(document.read_bytes())
    changed: dict[str, Any] = {"compressor": {"id": "pickle", "protocol": 5}} if zarr_format == 2 else {}
    document.write_text(json.dumps({**metadata, **changed, "shape": [3, 20, 10]}))
    (tmp_path / "0/0/0/0").write_bytes(pickle.dumps(np.zeros((2, 10, 8), np.uint32)))
    with pytest.raises(SourceDamaged, match=r"chunk \(0, 0, 0\)"):
        array.read(SELECTIONS[0])
    (tmp_path / "0/0/0/0").unlink()
    assert replace(array, own=None).read(SELECTIONS[0]).shape == (45, 37)


def test_stamps_are_those_of_the_files_now_or_none(tmp_path: Path) -> None:
    chunks, name = sharded(tmp_path)
    status = (tmp_path / "0" / name).stat()
    assert chunks.stamps()[name] == (status.st_size, status.st_mtime_ns)
    assert chunks.stamps().keys() == {
        str(path.relative_to(tmp_path / "0")) for path in (tmp_path / "0").rglob("*") if path.is_file()
    }
    (tmp_path / "0/c/9").symlink_to("/")
    assert chunks.stamps() == {}
