"""Stores over HTTP: the same answers as from the folder, and no fault of a server taken for pixels."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.sources.images import find_images
from roiservice.sources.limits import Limits
from roiservice.sources.remote import arrays, transport
from roiservice.sources.remote.objects import Forbidden
from roiservice.sources.remote.opening import open_remote
from roiservice.sources.remote.store import RemoteStore
from roiservice.sources.remote.transport import Patience
from roiservice.sources.roots import open_parent, open_store
from roiservice.sources.tokens import source_token
from tests.sources.remote.server import Faults, Served, answering, served
from tests.sources.remote.support import described
from tests.sources.support import LIMITS, blobs, edit_array, found, image_at, layer_at, listing_of, whole
from tests.stores import edit_attributes, write_group, write_image, write_multiscale, write_plate

CHUNK = "labels/cells/0/c/0/0"


def behave(faults: Faults, kind: str) -> None:
    """Like object stores, like servers that keep quiet, and like those that show folders."""
    faults.missing, faults.folders = {"404": (404, 404), "403": (403, 403), "shown": (404, 200)}[kind]


@pytest.mark.parametrize("kind", ["404", "403", "shown"])
@pytest.mark.parametrize("version", ["0.1", "0.4", "0.5", "0.6"])
def test_answers_are_those_of_the_folder(tmp_path: Path, server: Served, version: str, kind: str) -> None:
    behave(server.faults, kind)
    labels = blobs(1, 2, 3, 16, 24) + 1
    path = write_image(
        tmp_path / "7.zarr",
        labels={"cells": labels, "odd näme #1 50%/0": labels},
        version=version,
        axes="tczyx",
    )
    local = described(path)
    assert described(f"{server.url}/7.zarr") == local
    assert local[0] == ("", "7", 7)
    assert len(local) > 10


@pytest.mark.parametrize("ranges", [True, False])
def test_shards_are_read_in_parts_or_whole(tmp_path: Path, server: Served, ranges: bool) -> None:
    server.faults.ranges = ranges
    labels = blobs(64, 96)
    path = write_image(tmp_path / "a.zarr", labels={"cells": labels}, chunks=(8, 8), shards=(32, 48))
    assert described(f"{server.url}/a.zarr") == described(path)
    layer = layer_at(f"{server.url}/a.zarr")
    server.asked.clear()
    assert (whole(layer) == labels).all()
    asked = [count for path, count in server.asked.items() if "/c/" in path]
    assert len(asked) == 4
    assert max(asked) == 2  # the index, then all of it


def test_chunks_that_were_never_written_are_background(tmp_path: Path, server: Served) -> None:
    labels = np.zeros((32, 32), np.uint16)
    labels[20:30, 20:30] = 3
    path = write_image(tmp_path / "a.zarr", labels={"cells": labels}, chunks=(8, 8))
    assert not (path / CHUNK).exists()
    assert (whole(layer_at(f"{server.url}/a.zarr")) == labels).all()


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_consolidated_metadata_finds_unlisted_labels(tmp_path: Path, server: Served, version: str) -> None:
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8)}, version=version, listed=False)
    assert listing_of(f"{server.url}/a.zarr").layers == ()
    zarr.consolidate_metadata(str(path))
    assert [layer.name for layer in listing_of(f"{server.url}/a.zarr").layers] == ["cells"]
    assert described(f"{server.url}/a.zarr") == described(path)


def test_unusable_consolidated_metadata_is_passed_over(tmp_path: Path, server: Served) -> None:
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8)}, version="0.4")
    for text in (
        "{",
        "[]",
        '{"metadata": 3}',
        '{"metadata": {"../x/.zgroup": 1, "labels/none/.zgroup": {}}}',
    ):
        (path / ".zmetadata").write_text(text)
        assert [layer.name for layer in listing_of(f"{server.url}/a.zarr").layers] == ["cells"]


@pytest.mark.parametrize("kind", ["404", "403", "shown"])
def test_plates_series_and_spatialdata(tmp_path: Path, server: Served, kind: str) -> None:
    behave(server.faults, kind)
    cells = blobs(8, 8)
    write_plate(tmp_path / "p.zarr", {"A/1/0": {"cells": cells}, "B/2/0": {}}, absent_wells=["C/1"])
    series = write_group(tmp_path / "s.zarr", "0.5", {"bioformats2raw.layout": 3})
    write_group(series / "OME", "0.5", {"series": ["0", "1"]})
    for name in "01":
        write_image(series / name, labels={"cells": cells})
    spatial = write_group(tmp_path / "d.zarr", "0.5", {}, spatialdata_attrs={"version": "0.2"})
    write_group(spatial / "labels", "0.5", {"labels": ["cells"]})
    write_multiscale(spatial / "labels" / "cells", cells)
    for name in ("p.zarr", "s.zarr", "d.zarr"):
        assert described(f"{server.url}/{name}") == described(tmp_path / name)
        assert any(isinstance(entry, tuple) and "cells" in str(entry) for entry in described(tmp_path / name))


def test_locations_are_normalized(tmp_path: Path, server: Served) -> None:
    write_image(tmp_path / "in side" / "a.zarr", labels={"cells": blobs(8, 8)})
    port = server.url.rpartition(":")[2]
    image = image_at(f"HTTP://LOCALHOST:{port}//in side/a.zarr/".replace("LOCALHOST", "127.0.0.1"))
    assert image.location == f"http://127.0.0.1:{port}/in%20side/a.zarr"
    assert image.name == "a"
    assert open_store(image.location, LIMITS).location == image.location


def test_nothing_there_is_said(tmp_path: Path, server: Served) -> None:
    (tmp_path / "empty").mkdir()
    for name, kind, reason in (
        ("none.zarr", "404", "there is none of zarr.json"),
        ("none.zarr", "403", "403 Forbidden"),
        ("empty", "shown", "there is none of zarr.json"),
    ):
        behave(server.faults, kind)
        with pytest.raises(SourceDamaged, match=reason) as caught:
            found(f"{server.url}/{name}")
        assert caught.value.store == f"{server.url}/{name}"


def test_a_host_that_is_not_there_is_named() -> None:
    with served(Path("/nowhere")) as gone:
        pass
    with pytest.raises(SourceDamaged, match=r"cannot be reached \(3 tries\)"):
        found(f"{gone.url}/a.zarr")


@pytest.fixture
def store_with_cells(tmp_path: Path, server: Served) -> str:
    """URL of an image whose label `cells` fills four chunks with 1 to 4."""
    labels = np.kron(np.array([[1, 2], [3, 4]], np.uint16), np.ones((8, 8), np.uint16))
    write_image(tmp_path / "a.zarr", labels={"cells": labels}, chunks=(8, 8))
    return f"{server.url}/a.zarr"


def test_passing_faults_are_tried_again(server: Served, store_with_cells: str) -> None:
    sound = whole(layer_at(store_with_cells))
    for fault in (500, 502, 503, 429, "cut", "stall", "reset"):
        server.asked.clear()
        server.faults.on = {CHUNK: (fault, 2)}
        assert (whole(layer_at(store_with_cells), rows=16) == sound).all(), fault
        assert server.asked[f"a.zarr/{CHUNK}"] == 3, fault


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (500, r"answers 500 Internal Server Error \(3 tries\)"),
        (403, "403 Forbidden, which does not say whether the chunk is missing"),
        (401, "401 Unauthorized"),
        (410, "410 Gone"),
        (206, "206 Partial Content"),
        ("cut", "sent less than it had announced"),
        ("stall", "has stopped sending"),
        ("reset", "broke the connection"),
        ("html", "web page"),
        ("no length", "without stating a length"),
    ],
)
def test_no_fault_becomes_background(
    server: Served, store_with_cells: str, fault: str | int, reason: str
) -> None:
    layer = layer_at(store_with_cells)
    server.faults.on = {CHUNK: (fault, -1)}
    with pytest.raises(SourceDamaged, match=reason) as caught:
        whole(layer)
    assert caught.value.part == CHUNK
    assert caught.value.store == store_with_cells


def test_missing_chunks_of_an_array_that_is_gone_are_an_error(tmp_path: Path, store_with_cells: str) -> None:
    layer = layer_at(store_with_cells)
    (tmp_path / "a.zarr").rename(tmp_path / "b.zarr")
    with pytest.raises(SourceDamaged, match="was removed or replaced") as caught:
        whole(layer)
    assert caught.value.part == "labels/cells/0/zarr.json"


def test_missing_chunks_of_an_array_that_is_another_are_an_error(
    tmp_path: Path, store_with_cells: str
) -> None:
    layer = layer_at(store_with_cells)
    (tmp_path / "a.zarr" / CHUNK).unlink()
    edit_array(tmp_path / "a.zarr/labels/cells/0", fill_value=1)
    with pytest.raises(SourceDamaged, match="was removed or replaced") as caught:
        whole(layer)
    assert caught.value.part == "labels/cells/0/zarr.json"


def test_little_of_the_text_of_an_error_is_read() -> None:
    with answering(410, b"x" * 2**24, {}) as url, pytest.raises(SourceDamaged, match="410 Gone"):
        open_store(f"{url}/a.zarr", LIMITS)
    assert transport.connect(url).traffic.bytes < 2**20


def test_nobody_waits_as_long_as_a_server_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with (
        answering(503, b"", {"Retry-After": "9999"}) as url,
        pytest.raises(SourceDamaged, match=r"503 Service Unavailable \(3 tries\)"),
    ):
        open_store(f"{url}/a.zarr", LIMITS)
    assert slept == [transport.PATIENCE.stall] * 2


def test_chunks_of_another_kind_are_named(tmp_path: Path, store_with_cells: str) -> None:
    layer = layer_at(store_with_cells)
    (tmp_path / "a.zarr" / CHUNK).write_bytes(b"<html>welcome</html>")
    with pytest.raises(SourceDamaged, match=r"chunk \(0, 0\)"):
        whole(layer)


def test_other_hosts_are_never_asked(tmp_path: Path, server: Served, store_with_cells: str) -> None:
    layer = layer_at(store_with_cells)
    with served(tmp_path, "127.0.0.2") as other:
        for target in (f"{other.url}/a.zarr/{CHUNK}?secret=1", server.url.replace("http:", "https:")):
            server.faults.on = {CHUNK: (target, -1)}
            with pytest.raises(SourceRefused, match=r"redirects to .*no other host is asked") as caught:
                whole(layer)
            assert "secret" not in str(caught.value)
        assert not other.asked


def test_redirects_on_the_same_host_are_followed(
    tmp_path: Path, server: Served, store_with_cells: str
) -> None:
    sound = whole(layer_at(store_with_cells))
    moved = tmp_path / "elsewhere"
    (tmp_path / "a.zarr" / CHUNK).rename(moved)
    server.faults.on = {CHUNK: (f"{server.url}/elsewhere", -1)}
    assert (whole(layer_at(store_with_cells)) == sound).all()
    server.faults.on = {CHUNK: (f"{server.url}/a.zarr/{CHUNK}", -1)}
    with pytest.raises(SourceDamaged, match="redirects in a circle"):
        whole(layer_at(store_with_cells))


def test_sizes_are_limited(tmp_path: Path, server: Served, store_with_cells: str) -> None:
    small = open_remote(store_with_cells, Limits(metadata_bytes=2000, shard_bytes=3))
    assert isinstance(small, RemoteStore)
    with pytest.raises(SourceRefused, match="3 are allowed"):
        small.chunk(CHUNK)
    (tmp_path / "a.zarr" / ".zattrs").write_bytes(b" " * 2001)
    with pytest.raises(SourceRefused, match="holds 2001 bytes; 2000 are allowed"):
        small.read(".zattrs")
    (tmp_path / "a.zarr" / "table.csv").write_bytes(b" " * 2001)
    with pytest.raises(SourceRefused, match="2000 are allowed"):
        small.read("table.csv")
    assert small.read("table.csv", most=2001) == b" " * 2001
    server.faults.on = {"table": ("endless", -1)}
    with pytest.raises(SourceRefused, match="holds more than 2001 bytes"):
        small.read("table.csv", most=2001)
    assert transport.connect(server.url).traffic.bytes < 2**21


def test_documents_that_are_forbidden_or_pages_are_not_there(server: Served, store_with_cells: str) -> None:
    for fault in (403, "html"):
        server.faults.on = {"labels/cells/zarr.json": (fault, -1)}
        listing = listing_of(store_with_cells)
        assert listing.layers == ()
        assert "there is no such group" in str(listing.warnings)
    server.faults.on = {"labels/cells/zarr.json": (500, -1)}
    (problem,) = listing_of(store_with_cells).problems
    assert "500" in problem.reason
    assert problem.part == "labels/cells/zarr.json"


def test_a_page_that_does_not_say_so_is_no_document(tmp_path: Path, server: Served) -> None:
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8)}, version="0.4")
    for folder in (path, path / "labels", path / "labels" / "cells", path / "labels" / "cells" / "0"):
        (folder / "zarr.json").write_text("\n <!doctype html>")
    assert [layer.name for layer in listing_of(f"{server.url}/a.zarr").layers] == ["cells"]


def test_compressed_answers_count_by_what_they_become(tmp_path: Path, server: Served) -> None:
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8)})
    data = (path / "zarr.json").read_bytes() + b" " * 3000
    (path / "zarr.json").write_bytes(gzip.compress(data))
    server.faults.on = {"a.zarr/zarr.json": ("gzip", -1)}
    assert open_store(f"{server.url}/a.zarr", LIMITS).read("zarr.json") == data
    with pytest.raises(SourceRefused, match="more than 2000 bytes"):
        open_store(f"{server.url}/a.zarr", Limits(metadata_bytes=2000))
    (path / "zarr.json").write_bytes(b"no gzip")
    with pytest.raises(SourceDamaged, match="cannot be decompressed"):
        open_store(f"{server.url}/a.zarr", LIMITS)


def test_slow_answers_end(server: Served, store_with_cells: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PATIENCE", Patience(whole=0.1, tries=2, pause=0.01))
    store = open_remote(store_with_cells, LIMITS)
    assert isinstance(store, RemoteStore)
    monkeypatch.setattr(transport, "_SLOWEST", 2**50)
    server.faults.on = {CHUNK: ("endless", -1)}
    with pytest.raises(SourceDamaged, match="is too slow"):
        store.chunk(CHUNK)


@pytest.mark.parametrize("etags", [True, False])
@pytest.mark.parametrize("dates", [True, False])
def test_tokens_change_with_the_documents(
    tmp_path: Path, server: Served, store_with_cells: str, etags: bool, dates: bool
) -> None:
    server.faults.etags, server.faults.dates = etags, dates
    (source,) = listing_of(store_with_cells).layers
    token = source_token(source, LIMITS)
    assert source_token(source, LIMITS) == token
    edit_attributes(tmp_path / "a.zarr" / "labels" / "cells", image_label={"version": "0.5"})
    changed = source_token(source, LIMITS)
    assert changed != token
    array = tmp_path / "a.zarr" / "labels" / "cells" / "0" / "zarr.json"
    array.write_text(json.dumps(json.loads(array.read_text()) | {"fill_value": 9}))
    assert source_token(source, LIMITS) != changed


def test_tokens_are_not_made_from_faults(server: Served, store_with_cells: str) -> None:
    (source,) = listing_of(store_with_cells).layers
    server.faults.on = {"labels/cells/0/zarr.json": (500, -1)}
    with pytest.raises(SourceDamaged, match="500"):
        source_token(source, LIMITS)


def test_parts_of_two_shards_are_never_mixed(tmp_path: Path, server: Served) -> None:
    labels = np.random.default_rng(1).integers(0, 2**32, (64, 64), np.uint32)
    path = write_image(tmp_path / "a.zarr", labels={"cells": labels}, chunks=(16, 16), shards=(64, 64))
    for conditions in (True, False):
        server.faults.conditions = conditions
        store = open_remote(f"{server.url}/a.zarr", LIMITS)
        assert isinstance(store, RemoteStore)
        first = store.chunk(CHUNK, slice(0, 10))
        assert first is not None
        assert first.data == (path / CHUNK).read_bytes()[:10]
        data = (path / CHUNK).read_bytes()
        (path / CHUNK).write_bytes(data[::-1])
        with pytest.raises(SourceDamaged, match="was replaced while it was being read"):
            store.chunk(CHUNK, slice(10, 20), first.version)
        (path / CHUNK).unlink()
        with pytest.raises(SourceDamaged, match="was replaced"):
            store.chunk(CHUNK, slice(10, 20), first.version)
        (path / CHUNK).write_bytes(data)


def test_readers_that_begin_at_once_read_one_shard(
    tmp_path: Path, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one waits for its first part, the shard is replaced, and another reads its own first part."""
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8)})
    store = open_remote(f"{server.url}/a.zarr", LIMITS)
    assert isinstance(store, RemoteStore)
    shards = arrays._Shards(store)
    real = store.chunk

    def replaced(*asked: Any) -> Any:
        monkeypatch.setattr(store, "chunk", real)
        content = real(*asked)
        (path / CHUNK).write_bytes(b"new" * 10)
        assert shards.part(CHUNK, slice(0, 3)) == b"new"
        return content

    monkeypatch.setattr(store, "chunk", replaced)
    assert shards.part(CHUNK, slice(0, 3)) == b"new"


def test_a_shard_that_was_forgotten_is_read_again(
    tmp_path: Path, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "_MARKS", 1)
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8)}, chunks=(4, 8))
    store = open_remote(f"{server.url}/a.zarr", LIMITS)
    assert isinstance(store, RemoteStore)
    shards = arrays._Shards(store)
    for content in (b"one", b"another"):
        (path / CHUNK).write_bytes(content)
        assert shards.part(CHUNK, slice(0, 3)) == content[:3]
        assert shards.part(CHUNK, slice(1, 3)) == content[1:3]
        assert shards.part(CHUNK.replace("c/0/0", "c/1/0"), slice(0, 3)) is not None


def test_wrong_parts_are_errors(server: Served, store_with_cells: str) -> None:
    store = open_remote(store_with_cells, LIMITS)
    assert isinstance(store, RemoteStore)
    server.faults.on = {CHUNK: ("wrong part", -1)}
    with pytest.raises(SourceDamaged, match="another part than the one asked for"):
        store.chunk(CHUNK, slice(0, 4))


@pytest.mark.parametrize("head", [401, 405, 500, 501, 503])
def test_servers_without_head_are_asked_otherwise(
    tmp_path: Path, server: Served, store_with_cells: str, head: int
) -> None:
    server.faults.head = head
    (tmp_path / "a.zarr" / "table.csv").write_text("label,area\n1,2\n")
    store = open_store(store_with_cells, LIMITS)
    assert store.file_exists("table.csv")
    assert store.stamp("table.csv") is not None
    assert store.stamp("table.csv")[1] == 15  # type: ignore[index]
    assert not store.file_exists("none.csv")
    (tmp_path / "a.zarr" / "table.csv").write_text("")
    for sent in ("in one piece", "chunked"):
        server.faults.on = {"table.csv": (sent, -1)}
        assert store.stamp("table.csv")[1] == 0  # type: ignore[index]
    for status in (401, 503):
        server.faults.on = {"table.csv": (status, -1)}
        with pytest.raises(SourceDamaged, match=str(status)):
            store.stamp("table.csv")


def test_folders_are_no_files(server: Served, store_with_cells: str) -> None:
    for kind in ("404", "403", "shown"):
        behave(server.faults, kind)
        store = open_store(store_with_cells, LIMITS)
        assert store.read("labels") is None
        assert store.stamp("labels") is None
        assert not store.file_exists("labels")
        assert store.children("labels") == []


def test_plain_files_have_a_folder(tmp_path: Path, server: Served) -> None:
    (tmp_path / "in side.zip").mkdir()
    (tmp_path / "in side.zip" / "a 50%.csv").write_text("label\n1\n")
    for location in (tmp_path / "in side.zip" / "a 50%.csv", f"{server.url}/in side.zip/a%2050%25.csv"):
        store, name = open_parent(location, LIMITS)
        assert name == "a 50%.csv"
        assert store.read(name) == b"label\n1\n"
        assert store.read("none.csv") is None
    store, name = open_parent(f"{server.url}/none.csv", LIMITS)
    assert store.stamp(name) is None


def test_paths_never_leave_the_root(server: Served, store_with_cells: str) -> None:
    store = open_store(store_with_cells, LIMITS)
    server.asked.clear()
    for path in ("../b.zarr/zarr.json", "labels/../../x", "/etc/passwd", "nul\0"):
        for ask in (store.read, store.children, store.file_exists, store.stamp):
            with pytest.raises(SourceRefused):
                ask(path)
    assert not server.asked


def test_requests_and_bytes_are_counted(tmp_path: Path, server: Served, store_with_cells: str) -> None:
    store, traffic = open_remote(store_with_cells, LIMITS), transport.connect(server.url).traffic
    before, content = server.asked.total(), traffic.bytes
    assert traffic.requests == before
    assert store.chunk(CHUNK) is not None
    assert store.read("zarr.json") is not None  # known from opening
    assert traffic.requests == server.asked.total() == before + 1
    assert traffic.bytes - content == (tmp_path / "a.zarr" / CHUNK).stat().st_size


def test_not_more_than_a_few_requests_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(0).integers(0, 2**16, (64, 64)).astype(np.uint16)
    write_image(tmp_path / "a.zarr", labels={"cells": labels}, chunks=(4, 4))
    with served(tmp_path) as running:
        most = count_at_once(running.faults, monkeypatch)
        assert (whole(layer_at(f"{running.url}/a.zarr"), rows=64) == labels).all()
    assert 1 < max(most) <= transport.CONNECTIONS


def count_at_once(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by how many requests are being answered, with each that comes."""
    at_once, seen, lock = 0, [0], threading.Lock()
    of = faults.of

    def counted(path: str) -> str | int | None:
        nonlocal at_once
        with lock:
            at_once += 1
            seen.append(at_once)
        time.sleep(0.005)
        with lock:
            at_once -= 1
        return of(path)

    monkeypatch.setattr(faults, "of", counted)
    return seen


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_fields_of_plates_are_read_at_once(
    tmp_path: Path, server: Served, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {f"{row}/{column}/{field}": {} for row in "AB" for column in range(1, 9) for field in range(3)}
    path = write_plate(tmp_path / "p.zarr", fields, version=version, absent_wells=["C/1"])
    most = count_at_once(server.faults, monkeypatch)
    names = [image.name for image in found(f"{server.url}/p.zarr")]
    assert names == [image.name for image in found(path)]
    assert len(names) == len(fields)
    assert 1 < max(most) <= transport.CONNECTIONS


def test_passwords_come_from_netrc(
    tmp_path: Path, server: Served, store_with_cells: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login anna password s3cret\n")
    monkeypatch.setenv("NETRC", str(file))
    from roiservice.sources.remote import objects

    objects.password_of.cache_clear()
    try:
        server.faults.on = {CHUNK: (403, -1)}
        with pytest.raises(Forbidden) as caught:
            open_remote(store_with_cells, LIMITS).chunk(CHUNK)
        assert server.headers[-1]["authorization"] == "Basic YW5uYTpzM2NyZXQ="
        assert "s3cret" not in str(caught.value)
    finally:
        objects.password_of.cache_clear()


def test_passwords_are_read_anew_by_what_is_forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
import os, pathlib
from roiservice.sources.remote.objects import password_of
file = pathlib.Path(os.environ["NETRC"])
for password in ("old", "new"):
    file.write_text(f"machine 127.0.0.1 login anna password {password}")
    before = password_of("http://127.0.0.1:80")
if os.fork() == 0:
    os._exit(password_of("http://127.0.0.1:80") != before)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_problems_of_members_leave_the_others(tmp_path: Path, server: Served) -> None:
    write_plate(tmp_path / "p.zarr", {"A/1/0": {"cells": blobs(8, 8)}, "A/2/0": {"cells": blobs(8, 8)}})
    server.faults.on = {"A/1/0/zarr.json": (500, -1)}
    images = list(find_images(f"{server.url}/p.zarr", None, LIMITS))
    (error,) = (image for image in images if isinstance(image, SourceError))
    assert error.part == "A/1/0/zarr.json"
    assert len(images) == 2
