"""Zip files over the network: read by ranges, all of one version, errors that name the member."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.sources.limits import Limits
from roiservice.sources.remote import arrays, transport
from roiservice.sources.remote.opening import open_remote
from roiservice.sources.roots import open_store
from roiservice.sources.tokens import source_token
from tests.sources.remote.server import Served
from tests.sources.remote.support import described
from tests.sources.support import LIMITS, blobs, found, image_at, layer_at, listing_of, whole
from tests.stores import write_image, zip_store


@pytest.mark.parametrize("inside", ["", "a.zarr/"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_answers_are_those_of_the_local_file(
    tmp_path: Path, server: Served, version: str, compression: int, inside: str
) -> None:
    path = write_image(tmp_path / "7.zarr", labels={"cells": blobs(40, 40)}, version=version, chunks=(16, 16))
    archive = zip_store(path, inside=inside, compression=compression)
    local = described(archive)
    assert described(f"{server.url}/{archive.name}") == local
    assert local[0][1:] == ("7", 7)


def test_stored_shards_are_read_in_parts(
    tmp_path: Path, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_WHOLE_BYTES", 0)
    labels = np.random.default_rng(0).integers(0, 2**32, (128, 128), np.uint32)
    path = write_image(tmp_path / "a.zarr", labels={"cells": labels}, chunks=(16, 16), shards=(128, 128))
    archive = zip_store(path)
    # Newer ones of zarr read what lies between chunks as well, up to a megabyte.
    with zarr.config.set({"array.sharding_coalesce_max_gap_bytes": 0}):
        layer = layer_at(f"{server.url}/a.ozx")
        server.headers.clear()
        assert (layer.read((0, 0, 0), 0, 16) == labels[:16]).all()
    sizes = [_asked(headers["range"]) for headers in server.headers]
    assert sum(sizes) < archive.stat().st_size / 4
    assert 3 <= len(sizes) <= 10  # the member's header, the shard's index, eight chunks
    assert (whole(layer) == labels).all()


def _asked(value: str) -> int:
    first, last = value.removeprefix("bytes=").split("-")
    return int(last) - int(first) + 1


def test_few_bytes_are_read_of_a_large_file(tmp_path: Path, server: Served) -> None:
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8)})
    (path / "padding").write_bytes(os.urandom(2**21))
    zip_store(path)
    traffic = transport.connect(server.url).traffic
    store = open_remote(f"{server.url}/a.ozx", LIMITS)
    assert store.read("labels/cells/zarr.json") == (path / "labels/cells/zarr.json").read_bytes()
    assert traffic.bytes < 2**17
    assert traffic.requests == 3


def test_long_lists_of_members(tmp_path: Path, server: Served) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.comment = b"#" * 65535
        for number in range(2000):
            archive.writestr(f"folder/{number:0100}", str(number))
    store = open_remote(f"{server.url}/a.zip", LIMITS)
    assert store.read(f"folder/{7:0100}") == b"7"
    assert store.children("") == ["folder"]
    assert transport.connect(server.url).traffic.bytes < (tmp_path / "a.zip").stat().st_size * 0.75
    with pytest.raises(SourceRefused, match=r"list of members of .* 10000 are allowed"):
        open_remote(f"{server.url}/a.zip", Limits(metadata_bytes=10_000))


def test_lists_are_read_again_when_the_file_changes(tmp_path: Path, server: Served) -> None:
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8)})
    zip_store(path)
    (source,) = listing_of(f"{server.url}/a.ozx").layers
    token = source_token(source, LIMITS)
    assert source_token(source, LIMITS) == token
    write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8), "new": blobs(8, 8)})
    zip_store(path)
    assert [layer.name for layer in listing_of(f"{server.url}/a.ozx").layers] == ["cells", "new"]
    assert source_token(source, LIMITS) != token


@pytest.mark.parametrize("etags", [True, False])
@pytest.mark.parametrize("conditions", [True, False])
def test_a_file_replaced_between_two_reads_is_an_error(
    tmp_path: Path, server: Served, etags: bool, conditions: bool
) -> None:
    server.faults.etags, server.faults.conditions = etags, conditions
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8)})
    archive = zip_store(path)
    layer = layer_at(f"{server.url}/a.ozx")
    assert ("if-match" in server.headers[-1]) == etags
    status = archive.stat()
    archive.write_bytes(archive.read_bytes())
    os.utime(archive, (status.st_atime, status.st_mtime + 2))
    with pytest.raises(SourceDamaged, match="was replaced while it was being read") as caught:
        whole(layer)
    assert caught.value.part == "labels/cells/0/c/0/0"
    archive.unlink()
    with pytest.raises(SourceDamaged, match="was replaced"):
        whole(layer)


def test_servers_that_will_not_do(tmp_path: Path, server: Served) -> None:
    zip_store(write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8)}))
    with pytest.raises(SourceDamaged, match="there is no such file"):
        found(f"{server.url}/none.ozx")
    server.faults.ranges = False
    with pytest.raises(SourceRefused, match="does not support range requests"):
        found(f"{server.url}/a.ozx")
    server.faults.ranges = True
    server.faults.etags = server.faults.dates = False
    with pytest.raises(SourceRefused, match="neither ETag nor date"):
        found(f"{server.url}/a.ozx")


@pytest.mark.parametrize("fault", [500, "cut", "stall"])
def test_faults_pass_or_name_the_member(tmp_path: Path, server: Served, fault: str | int) -> None:
    labels = blobs(8, 8)
    zip_store(write_image(tmp_path / "a.zarr", labels={"cells": labels}))
    layer = layer_at(f"{server.url}/a.ozx")
    server.faults.on = {"a.ozx": (fault, 2)}
    assert (whole(layer, rows=8) == labels).all()
    server.faults.on = {"a.ozx": (fault, -1)}
    with pytest.raises(SourceDamaged, match="3 tries") as caught:
        whole(layer, rows=8)
    assert caught.value.part == "labels/cells/0/c/0/0"


def test_damaged_files_are_told(tmp_path: Path, server: Served) -> None:
    (tmp_path / "none.zip").write_bytes(b"PK\x03\x04 no more")
    (tmp_path / "empty.zip").write_bytes(b"")
    for name in ("none", "empty"):
        with pytest.raises(SourceDamaged, match="no readable zip file"):
            open_store(f"{server.url}/{name}.zip", LIMITS)
    for compression, where, reason in (
        (zipfile.ZIP_STORED, 5000, "another length or checksum"),
        (zipfile.ZIP_DEFLATED, 45, "cannot be unpacked|another length or checksum"),
        (zipfile.ZIP_STORED, 0, "no member where its list says"),
    ):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
            archive.writestr("zarr.json", "{}" + " " * 9000)
        data = bytearray((tmp_path / "a.zip").read_bytes())
        data[where : where + 4] = b"\xff\xfe\xff\xfe"
        (tmp_path / "a.zip").write_bytes(data)
        with pytest.raises(SourceDamaged, match=reason) as caught:
            open_store(f"{server.url}/a.zip", LIMITS).read("zarr.json")
        assert caught.value.part == "zarr.json"


def test_headers_may_be_longer_than_the_list_says(tmp_path: Path, server: Served) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        member = zipfile.ZipInfo("zarr.json")
        member.extra = struct.pack("<HH", 0x6164, 1000) + bytes(1000)
        archive.writestr(member, "{}" * 100)
        member.extra = b""  # from here on it is the list that is written
    assert open_store(f"{server.url}/a.zip", LIMITS).read("zarr.json") == b"{}" * 100


def test_members_that_are_refused(tmp_path: Path, server: Served) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("zarr.json", "{}" * 100)
    store = open_store(f"{server.url}/a.zip", LIMITS)
    with pytest.raises(SourceRefused, match="zip compression 14 is not supported"):
        store.read("zarr.json")
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels/chunk", b"\0" * 2**20)
    small = open_remote(f"{server.url}/b.zip", Limits(shard_bytes=2**20 - 1, metadata_bytes=2**16))
    with pytest.raises(SourceRefused, match="holds 1048576 bytes"):
        small.chunk("labels/chunk")
    with pytest.raises(SourceRefused, match="holds 1048576 bytes"):
        small.read("labels/chunk")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_that_have_to_be_unpacked_are_no_larger_than_chunks(
    tmp_path: Path, server: Served, compression: int
) -> None:
    """Some megabytes may stand for gigabytes there."""
    labels = np.random.default_rng(0).integers(0, 2**32, (128, 128), np.uint32)
    path = write_image(tmp_path / "a.zarr", labels={"cells": labels}, chunks=(16, 16), shards=(128, 128))
    archive = zip_store(path, compression=compression)
    for location in (archive, f"{server.url}/a.ozx"):
        layer = layer_at(location, limits=Limits(chunk_bytes=10_000))
        if compression == zipfile.ZIP_STORED:
            assert (whole(layer) == labels).all()
        else:
            with pytest.raises(SourceRefused, match="bytes; 10000 are allowed") as caught:
                whole(layer)
            assert caught.value.part == "labels/cells/0/c/0/0"


@pytest.mark.parametrize(
    ("said", "reason"), [(10, "longer packed than unpacked"), (2**20, "another length or checksum")]
)
def test_a_bomb_is_cut_short(tmp_path: Path, server: Served, said: int, reason: str) -> None:
    """A member that says it is small, and is not."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zarr.json", b" " * 2**24)
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace((2**24).to_bytes(4, "little"), said.to_bytes(4, "little")))
    with pytest.raises(SourceDamaged, match=reason):
        open_store(f"{server.url}/a.zip", LIMITS).read("zarr.json")


def test_paths_and_folders(tmp_path: Path, server: Served) -> None:
    zip_store(write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8)}))
    store = open_store(f"{server.url}/a.ozx", LIMITS)
    assert store.children("") == ["0", "labels"]
    assert store.read("labels") is None
    assert store.file_exists("labels/zarr.json")
    assert not store.file_exists("labels/none")
    assert list(store.files("labels")) == [store.stamp("anything")]
    with pytest.raises(SourceError):
        store.read("../a")
    assert image_at(f"{server.url}/a.ozx").location == f"{server.url}/a.ozx"
