"""The store of one host: values for a time, seen by every process, and what it says if it cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from roiservice.auth.local import LocalStore
from roiservice.errors import SharedStoreFailed
from tests.auth.support import Clock


def test_values_are_kept_for_their_time(tmp_path: Path, clock: Clock) -> None:
    one, other = (LocalStore(tmp_path / "shared", clock) for _ in range(2))
    assert one.get("a") is None
    one.put("a", b"\0\xff", 10)
    one.put("b", b"", 100)
    assert other.get("a") == b"\0\xff"
    other.put("a", b"new", 20)
    clock.now += 19
    assert one.get("a") == b"new"
    clock.now += 1
    assert (one.get("a"), one.get("b")) == (None, b"")
    one.remove("b")
    assert other.get("b") is None


def test_one_of_many_adds(tmp_path: Path, clock: Clock) -> None:
    stores = [LocalStore(tmp_path / "shared", clock) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            assert sum(threads.map(lambda store: store.add("a", b"1", 5), stores)) == 1
            clock.now += 5
    assert stores[0].add("a", b"2", 5)
    stores[1].remove("a")
    assert stores[2].add("a", b"3", 5)


def test_what_is_over_does_not_stay_in_the_file(tmp_path: Path, clock: Clock) -> None:
    store = LocalStore(tmp_path / "shared", clock)
    for number in range(50):
        store.put(str(number), b"x", 1)
    clock.now += 61
    store.put("last", b"x", 1)
    rows = store._run("select count(*) from shared").fetchone()
    assert rows == (1,)


def test_it_outlives_the_process_and_is_its_owners_alone(tmp_path: Path) -> None:
    code = "import sys, pathlib; from roiservice.auth.local import LocalStore; "
    code += "LocalStore(pathlib.Path(sys.argv[1])).put('a', b'kept', 60)"
    file = tmp_path / "shared"
    old = os.umask(0)
    try:
        subprocess.run([sys.executable, "-c", code, str(file)], check=True)
        assert LocalStore(file).get("a") == b"kept"
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    finally:
        os.umask(old)


def test_a_file_that_cannot_be_used_is_said_and_tried_again(tmp_path: Path) -> None:
    file = tmp_path / "shared"
    file.write_bytes(b"no database" * 1000)
    store = LocalStore(file)
    for act in (
        lambda: store.get("a"),
        lambda: store.put("a", b"", 1),
        lambda: store.add("a", b"", 1),
        lambda: store.remove("a"),
    ):
        with pytest.raises(SharedStoreFailed):
            act()
    file.unlink()
    store.put("a", b"1", 60)
    assert store.get("a") == b"1"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SharedStoreFailed):
        LocalStore(tmp_path / "none" / "shared").get("a")


def test_a_file_that_another_process_made_anew_is_the_one_that_counts(tmp_path: Path, clock: Clock) -> None:
    one, other = (LocalStore(tmp_path / "shared", clock) for _ in range(2))
    one.put("a", b"1", 10)
    for file in tmp_path.glob("shared*"):
        file.unlink()
    other.put("b", b"2", 10)
    assert (one.get("a"), one.get("b")) == (None, b"2")
