"""Stores: reading, zip files, and paths that must not leave the root."""

from __future__ import annotations

import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.sources import roots
from roiservice.sources.documents import read_json
from roiservice.sources.limits import Limits
from roiservice.sources.roots import open_store
from roiservice.sources.store import Store
from tests.sources.support import LIMITS, blobs
from tests.stores import write_image, zip_store


@pytest.fixture(params=["folder", "zip"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8)}, version="0.4")
    return open_store(path if request.param == "folder" else zip_store(path), LIMITS)


def test_reads_files_and_lists_folders(store: Store) -> None:
    assert store.read(".zgroup") == b'{"zarr_format": 2}'
    assert store.read("labels//./.zgroup") == b'{"zarr_format": 2}'
    assert store.read("nothing") is None
    assert store.read("labels") is None
    assert store.read(".zgroup/below") is None
    assert store.children("") == ["0", "labels"]
    assert store.children("labels") == ["cells"]
    assert store.children("nothing") == []
    assert store.children(".zgroup") == []
    assert store.file_exists("labels/.zattrs")
    assert not store.file_exists("labels")


@pytest.mark.parametrize("path", ["../a", "labels/../../b", "/etc/passwd", "nul\0", "\ud800"])
def test_refuses_paths_that_leave_the_root(store: Store, path: str) -> None:
    for ask in (store.read, store.children, store.file_exists):
        with pytest.raises(SourceRefused):
            ask(path)


def test_zarr_store_is_cached_and_read_only(store: Store) -> None:
    assert store.zarr_store() is store.zarr_store()
    assert store.zarr_store().read_only


def test_reads_from_several_threads(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(store.read, [".zgroup"] * 200)) == {b'{"zarr_format": 2}'}


def test_files_are_sorted_with_size_and_time(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8)})
    files = list(open_store(path, LIMITS).files("labels"))
    assert files == sorted(files)
    assert "labels/cells/0/zarr.json" in {name for name, _, _ in files}
    status = (path / "labels/zarr.json").stat()
    assert ("labels/zarr.json", status.st_size, status.st_mtime_ns) in files
    assert list(open_store(path, LIMITS).files("nothing")) == []
    archive = zip_store(path)
    status = archive.stat()
    assert list(open_store(archive, LIMITS).files("labels")) == [("", status.st_size, status.st_mtime_ns)]


def with_links(folder: Path) -> Store:
    """A store with links to a file of its own, and to a file and a folder beside it of much the same name."""
    secret, root = folder / "secret", folder / "secret.zarr"
    secret.mkdir()
    (secret / "file").write_text("secret")
    root.mkdir()
    (root / "own").write_text("own")
    (root / "inner").symlink_to("own")
    (root / "outer").symlink_to(secret / "file")
    (root / "folder").symlink_to(secret)
    return open_store(root, LIMITS)


def test_symbolic_links_are_followed_only_inside(tmp_path: Path) -> None:
    store = with_links(tmp_path)
    assert store.read("inner") == b"own"
    for ask in (store.read, store.children, store.stamp, lambda path: list(store.files(path))):
        with pytest.raises(SourceRefused, match="symbolic link"):
            ask("folder/file")
    with pytest.raises(SourceRefused, match="symbolic link"):
        store.read("outer")
    with pytest.raises(SourceRefused, match="symbolic link"):
        list(store.files(""))


@pytest.mark.parametrize("tells_names", [True, False])
def test_what_lies_outside_is_not_given_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells_names: bool
) -> None:
    if not tells_names:  # as other systems than Linux
        monkeypatch.setattr(roots, "_name_of", lambda _: "")
    store = with_links(tmp_path)
    for name in ("own", "inner"):
        with open(store.open_local(name)) as file:
            assert file.read() == "own"
    opened = len(os.listdir("/proc/self/fd"))
    for name in ("outer", "folder/file", "../secret/file"):
        with pytest.raises(SourceRefused, match=r"symbolic link|leaves the store"):
            store.open_local(name)
    with pytest.raises(FileNotFoundError):
        store.open_local("nothing")
    assert len(os.listdir("/proc/self/fd")) == opened


def test_a_link_out_of_the_store_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices would notice that."""
    (tmp_path / "device").write_text("")
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr/0").symlink_to(tmp_path / "device")
    store = open_store(tmp_path / "a.zarr", LIMITS)
    monkeypatch.setattr(os, "open", lambda path, _: pytest.fail(f"{path} is opened"))
    with pytest.raises(SourceRefused, match="symbolic link"):
        store.open_local("0")


def test_a_named_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert open_store(tmp_path, LIMITS).read("pipe") is None


def test_a_named_pipe_is_no_zip_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(SourceDamaged, match="neither a directory nor"):
        open_store(tmp_path / "pipe.zip", LIMITS)


def test_a_link_to_nothing_hides_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("nothing")
    (tmp_path / "b").write_text("b")
    assert [name for name, _, _ in open_store(tmp_path, LIMITS).files("")] == ["b"]


def test_links_in_a_loop_are_damage(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(SourceError):
        open_store(tmp_path, LIMITS).read("a")


def test_unreadable_file_is_damage(tmp_path: Path) -> None:
    (tmp_path / ".zattrs").write_text("{}")
    (tmp_path / ".zattrs").chmod(0)
    store = open_store(tmp_path, LIMITS)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything, nobody may not
    try:
        with pytest.raises(SourceDamaged, match="Permission denied"):
            store.read(".zattrs")
    finally:
        os.seteuid(user)


def test_locations_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 no more")
    (tmp_path / "text.txt").write_text("text")
    for name, reason in (
        ("none.zarr", "no such file"),
        ("bad.zip", "no readable zip"),
        ("text.txt", "neither"),
    ):
        with pytest.raises(SourceDamaged, match=reason) as caught:
            open_store(tmp_path / name, LIMITS)
        assert name in str(caught.value)
    with pytest.raises(SourceDamaged):
        open_store("nul\0", LIMITS)


def test_location_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zarr").mkdir()
    monkeypatch.chdir(tmp_path)
    assert open_store("a.zarr", LIMITS).location == str((tmp_path / "a.zarr").resolve())


def test_damaged_zip_member_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("zarr.json", "{}" + " " * 5000)
    data = bytearray(archive.read_bytes())
    data[40:50] = b"\xff" * 10
    archive.write_bytes(data)
    with pytest.raises(SourceDamaged, match=r"zarr.json"):
        open_store(archive, LIMITS).read("zarr.json")


def test_metadata_limits(store: Store) -> None:
    small = open_store(store.location, Limits(metadata_bytes=10))
    with pytest.raises(SourceRefused, match="10"):
        small.read(".zgroup")


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ('{"a": 1,\n "b": }', SourceDamaged, "line 2 column 7"),
        ("", SourceDamaged, "line 1 column 1"),
        ("[1]", SourceDamaged, "list"),
        ("null", SourceDamaged, "JSON object"),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", SourceRefused, "64"),
        ('{"a": ' + "[" * 200_000, SourceRefused, "64"),
        ('{"a": ' + "1" * 5000 + "}", SourceDamaged, "bad JSON"),
        (b'{"a": "\xff\xfe"}', SourceDamaged, "bad JSON"),
    ],
)
def test_bad_json_is_named(tmp_path: Path, text: str | bytes, error: type[SourceError], reason: str) -> None:
    (tmp_path / ".zattrs").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(error, match=reason) as caught:
        read_json(open_store(tmp_path, LIMITS), ".zattrs")
    assert caught.value.part == ".zattrs"
    assert caught.value.store == str(tmp_path.resolve())


def test_text_that_cannot_be_encoded_is_repaired(tmp_path: Path) -> None:
    (tmp_path / ".zattrs").write_text(r'{"a\ud800": ["\udfff", "\ud83d\ude00", 1]}')
    document = read_json(open_store(tmp_path, LIMITS), ".zattrs")
    assert document is not None
    str(document).encode()
    assert document["a\ufffd"][1:] == ["\U0001f600", 1]
