"""Lasting numbers, also when many threads and processes ask at once."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from roiservice.catalog import registry as registry_module
from roiservice.catalog.registry import (
    FIRST_EXTRA_ROI,
    FIRST_ID,
    FIRST_IMAGE,
    LAST_NUMBER,
    ROIS,
    Place,
    Registry,
)
from roiservice.errors import NotWritten, RegistryFailed

ASK = """
import json, sys
from pathlib import Path
from roiservice.catalog.registry import Registry
url = sys.stdin.readline().strip() or None
registry = Registry(Path(sys.argv[1]), url)
own = [registry.layer_number(n, sys.argv[2]) for n in range(8)]
layers = {f"{i}:{name}": registry.layer_number(i, name) for i in range(8) for name in ("a", "b")}
versions = {f"{n} {t}": registry.version_number(n, t, "o") for n in layers.values() for t in ("x", "y")}
images = {u: registry.image_number(u) for u in "pqrs"}
rois = dict(zip("lmn" + sys.argv[2], registry.extra_roi_numbers(1, list("lmn" + sys.argv[2]))))
print(json.dumps([registry.uuid, layers, versions, images, rois, own]))
"""

# As registries were made before they could be in PostgreSQL.
OLD_SCHEMA = """
create table if not exists registry (uuid text not null);
create table if not exists images (number integer primary key, uri text not null unique);
create table if not exists numbers (number integer primary key autoincrement);
create table if not exists layers (number integer primary key, image integer not null, collection text not
null,
    unique (image, collection));
create table if not exists versions (number integer primary key, layer integer not null, token text not null,
    options text not null, unique (layer, token, options));
create table if not exists extra_rois (layer integer not null, key text not null, number integer not null,
    primary key (layer, key), unique (layer, number)) without rowid;
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Where a registry is: None for SQLite, else an empty schema of PostgreSQL."""
    found: str | None = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    return found


def test_numbers_last(tmp_path: Path, url: str | None) -> None:
    first = Registry(tmp_path, url)
    layer, other = first.layer_number(5, "labels:cells"), first.layer_number(5, "labels:nuclei")
    version = first.version_number(layer, "token", "options")
    image = first.image_number("/data/a.zarr#")
    again = Registry(tmp_path, url)
    assert again.uuid == first.uuid
    assert again.layer_number(5, "labels:cells") == layer
    assert again.layer_number(5, "labels:nuclei") == other
    assert again.version_number(layer, "token", "options") == version
    assert again.image_number("/data/a.zarr#") == image
    assert len({layer, other, version}) == 3


def test_every_difference_makes_another_number(tmp_path: Path, url: str | None) -> None:
    registry = Registry(tmp_path, url)
    one, two = registry.layer_number(1, "a"), registry.layer_number(2, "a")
    numbers = {
        registry.version_number(layer, token, options)
        for layer in (one, two)
        for token in "xy"
        for options in "op"
    }
    assert len(numbers | {one, two}) == 10


def test_made_up_image_numbers_lie_above_those_of_omero(tmp_path: Path, url: str | None) -> None:
    registry = Registry(tmp_path, url)
    numbers = [registry.image_number(uri) for uri in ("a", "b", "a", "ü")]
    assert numbers == [FIRST_IMAGE, FIRST_IMAGE + 1, FIRST_IMAGE, FIRST_IMAGE + 2]


def test_names_that_are_no_unicode_get_numbers_as_well(tmp_path: Path, url: str | None) -> None:
    """A file may be called anything, and one that cannot be kept would keep all others from being found."""
    names = [f"{name}.zarr#".encode("latin-1").decode("utf-8", "surrogateescape") for name in ("ü", "é", "ü")]
    registry = Registry(tmp_path, url)
    assert [registry.image_number(name) for name in names] == [FIRST_IMAGE, FIRST_IMAGE + 1, FIRST_IMAGE]
    assert Registry(tmp_path, url).image_number(names[1]) == FIRST_IMAGE + 1
    assert registry.extra_roi_numbers(1, names) == [FIRST_EXTRA_ROI + n for n in (0, 1, 0)]


def test_no_id_is_larger_than_javascript_can_tell_apart(tmp_path: Path, url: str | None) -> None:
    registry = Registry(tmp_path, url)
    registry.highest_used = lambda: 10**9
    assert registry.layer_number(1, "a") == 1, "what says so is damaged"
    registry.highest_used = lambda: LAST_NUMBER - 1
    assert registry.layer_number(1, "b") == LAST_NUMBER
    assert FIRST_ID + LAST_NUMBER * ROIS + ROIS - 1 < 2**53 <= FIRST_ID + (LAST_NUMBER + 2) * ROIS
    with pytest.raises(NotWritten, match="all numbers"):
        registry.layer_number(1, "c")
    assert registry.layer_number(1, "b") == LAST_NUMBER


def test_two_registries_differ(tmp_path: Path) -> None:
    assert Registry(tmp_path / "a").uuid != Registry(tmp_path / "b").uuid


def test_extra_roi_numbers_are_appended_and_never_reused(tmp_path: Path, url: str | None) -> None:
    registry = Registry(tmp_path, url)
    assert registry.extra_roi_numbers(1, ["-1", "x"]) == [FIRST_EXTRA_ROI, FIRST_EXTRA_ROI + 1]
    assert registry.extra_roi_numbers(1, ["y", "x", "y"]) == [FIRST_EXTRA_ROI + n for n in (2, 1, 2)]
    assert registry.extra_roi_numbers(2, ["y"]) == [FIRST_EXTRA_ROI]
    assert Registry(tmp_path, url).extra_roi_numbers(1, ["z", "-1"]) == [FIRST_EXTRA_ROI + 3, FIRST_EXTRA_ROI]
    assert registry.extra_roi_numbers(1, []) == []


def test_who_numbers_very_many_rois_lets_others_write_in_between(
    tmp_path: Path, url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are kept waiting no longer than for some thousands; and two that number the same ones agree."""
    monkeypatch.setattr(registry_module, "ROWS_AT_ONCE", 3)
    one, other = Registry(tmp_path, url), Registry(tmp_path, url)
    keys = [str(key) for key in range(10)]
    real, turns = one._database.writing, list[Any]()

    @contextlib.contextmanager
    def writing() -> Iterator[Any]:
        if len(turns) == 1:
            turns.append(other.layer_number(1, "a"))
            turns.append(other.extra_roi_numbers(7, [*keys[2:5], keys[8], "more"]))
        turns.append(None)
        with real() as ask:
            yield ask

    monkeypatch.setattr(one._database, "writing", writing)
    numbers = one.extra_roi_numbers(7, [*keys, keys[0]])
    assert len(turns) == 4 + 2
    assert len(set(numbers)) == 10
    assert numbers[10] == numbers[0]
    assert other.extra_roi_numbers(7, keys) == numbers[:10]
    more, following = other.extra_roi_numbers(7, ["more", "following"])
    assert sorted([*numbers[:10], more, following]) == list(range(FIRST_EXTRA_ROI, FIRST_EXTRA_ROI + 12))


def test_ids_are_found_again(tmp_path: Path, url: str | None) -> None:
    registry = Registry(tmp_path, url)
    layer = registry.layer_number(7, "labels:cells")
    version = registry.version_number(layer, "t", "o")
    assert registry.locate(FIRST_ID + layer * ROIS + 12) == Place(7, "labels:cells", None, 12)
    assert registry.locate(FIRST_ID + version * ROIS) == Place(7, "labels:cells", version, 0)
    last = FIRST_ID + layer * ROIS + ROIS - 1
    assert registry.locate(last) == Place(7, "labels:cells", None, ROIS - 1)


def test_ids_that_were_never_given_are_nowhere(tmp_path: Path, url: str | None) -> None:
    registry = Registry(tmp_path, url)
    registry.layer_number(7, "labels:cells")
    for identifier in (0, 1, -1, FIRST_ID - 1, FIRST_ID, FIRST_ID + 99 * ROIS, 2**53 - 1, 2**63, 10**40):
        assert registry.locate(identifier) is None, identifier


def test_ids_stay_safe_in_javascript_for_a_million_layers() -> None:
    assert FIRST_ID + 1_000_000 * ROIS + ROIS < 2**53


def test_processes_that_start_at_once_agree(tmp_path: Path, url: str | None) -> None:
    command = [sys.executable, "-c", ASK, str(tmp_path)]
    processes = [
        subprocess.Popen(
            [*command, letter], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for letter in "wxyz"
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{url or ''}\n".encode())
        process.stdin.flush()
    answers = []
    for process in processes:
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error.decode()
        answers.append(json.loads(out))
    assert all(answer[:4] == answers[0][:4] for answer in answers)
    _, layers, versions, images, *_ = answers[0]
    numbers = [*layers.values(), *versions.values(), *(number for answer in answers for number in answer[5])]
    assert len(numbers) == len(set(numbers))
    assert len(set(images.values())) == 4
    rois = {key: number for answer in answers for key, number in answer[4].items()}
    assert len(set(rois.values())) == len(rois) == 7
    assert {answer[4]["l"] for answer in answers} == {answers[0][4]["l"]}


def test_threads_agree(tmp_path: Path, url: str | None) -> None:
    registry = Registry(tmp_path, url)

    def ask(i: int) -> tuple[int, int, list[int]]:
        layer = registry.layer_number(i % 5, "cells")
        version = registry.version_number(layer, str(i % 3), "")
        return layer, version, registry.extra_roi_numbers(1, [str(i % 7), str(i)])

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(120)))
    layers = {answer[0] for answer in answers}
    versions = {answer[1] for answer in answers}
    assert (len(layers), len(versions)) == (5, 15)
    assert not layers & versions
    extra = {str(i): answer[2][1] for i, answer in enumerate(answers)}
    assert len(set(extra.values())) == 120
    assert all(answer[2][0] == extra[str(i % 7)] for i, answer in enumerate(answers))


def test_opening_a_registry_again_while_it_is_written_works(tmp_path: Path, url: str | None) -> None:
    registry = Registry(tmp_path, url)
    with ThreadPoolExecutor(1) as pool:
        with registry._database.writing():
            opened = pool.submit(Registry, tmp_path, url)
            with pytest.raises(TimeoutError):
                opened.result(0.3)  # it may wait, but must not fail
        assert opened.result(10).uuid == registry.uuid


def test_what_a_transaction_that_failed_gave_is_not_kept(tmp_path: Path, url: str | None) -> None:
    registry = Registry(tmp_path, url)
    twice = [{"number": 77, "image": 1}, {"number": 77, "image": 2}]
    with pytest.raises(RegistryFailed), registry._database.writing() as ask:
        ask("insert into layers values (:number, :image, 'a')", twice)
    assert registry.locate(FIRST_ID + 77 * ROIS) is None
    assert registry.layer_number(1, "a") == 1


def test_a_registry_that_was_replaced_gives_no_numbers(tmp_path: Path, url: str | None) -> None:
    """As after somebody has put an empty database in its place: ids would be given again."""
    registry = Registry(tmp_path, url)
    known = registry.layer_number(1, "a")
    with registry._database.writing() as ask:
        ask("update registry set uuid = 'another'", {})
    for refused in (
        registry.check,
        lambda: registry.layer_number(1, "b"),
        lambda: registry.version_number(known, "t", "o"),
        lambda: registry.extra_roi_numbers(known, ["k"]),
    ):
        with pytest.raises(NotWritten, match="any more"):
            refused()
    assert registry.layer_number(1, "a") == known


def test_numbers_that_a_registry_in_place_of_another_has_given_are_not_taken(
    tmp_path: Path, url: str | None
) -> None:
    registry = Registry(tmp_path, url)
    with registry._database.writing() as ask:
        ask("update registry set uuid = 'another'", {})
    other = Registry(tmp_path, url)
    layer = other.layer_number(1, "a")
    version = other.version_number(layer, "t", "o")
    other.image_number("x")
    for refused in (
        lambda: registry.layer_number(1, "a"),
        lambda: registry.version_number(layer, "t", "o"),
        lambda: registry.version_number(layer, "t", "o", renew=True),
        lambda: registry.keep_version(version, layer, "t", "o"),
        lambda: registry.image_number("x"),
        lambda: registry.locate(FIRST_ID + layer * ROIS),
        lambda: registry.locate(FIRST_ID + version * ROIS),
    ):
        with pytest.raises(NotWritten, match="any more"):
            refused()
    assert registry.locate(FIRST_ID + (version + 1) * ROIS) is None
    assert other.version_number(layer, "t", "o") == version


def test_a_version_that_is_kept_stands_for_another_state(tmp_path: Path, url: str | None) -> None:
    registry = Registry(tmp_path, url)
    layer = registry.layer_number(1, "labels:cells")
    first, second = (registry.version_number(layer, token, "o") for token in ("before", "after"))
    other = registry.version_number(layer, "after", "other options")
    registry.keep_version(first, layer, "after", "o")
    registry.keep_version(first, layer, "after", "o")  # as the next process would, had this one been killed
    for each in (registry, Registry(tmp_path, url)):
        assert each.version_number(layer, "after", "o") == first
        assert each.version_number(layer, "after", "other options") == other
        places = [each.locate(FIRST_ID + number * ROIS) for number in (first, second)]
        assert places == [Place(1, "labels:cells", number, 0) for number in (first, second)]
    assert registry.version_number(layer, "before", "o") not in (first, second, other)


def test_no_thread_takes_the_numbers_of_a_file_that_replaced_the_one_that_was_opened(tmp_path: Path) -> None:
    """Each thread opens the file on its own, some of them long after the service started."""
    registry = Registry(tmp_path)
    known = registry.layer_number(1, "a")
    for name in tmp_path.iterdir():
        name.unlink()
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(NotWritten, match="gone"):
            pool.submit(registry.locate, FIRST_ID + known * ROIS).result()
        assert not list(tmp_path.iterdir()), "an empty one would be taken for a registry"
        assert Registry(tmp_path).layer_number(2, "b") == known
        with pytest.raises(NotWritten, match="gone"):
            pool.submit(registry.layer_number, 2, "b").result()
        assert pool.submit(registry.layer_number, 1, "a").result() == known
    assert registry.locate(FIRST_ID + known * ROIS) is not None


def test_a_file_of_an_earlier_release_goes_on(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    with contextlib.closing(sqlite3.connect(old / "registry.sqlite")) as connection, connection:
        connection.executescript(OLD_SCHEMA)
        connection.execute("insert into registry values ('u')")
        connection.executemany("insert into numbers values (?)", [(1,), (2,), (3,)])
        connection.executemany("insert into layers values (?, ?, ?)", [(1, 7, "a"), (3, 8, "a")])
        connection.execute("insert into versions values (2, 1, 't', 'o')")
        connection.execute("insert into images values (?, 'i')", (FIRST_IMAGE + 4,))
        connection.execute("insert into extra_rois values (1, 'k', ?)", (FIRST_EXTRA_ROI + 6,))
    registry = Registry(old)
    assert registry.uuid == "u"
    assert (registry.layer_number(7, "a"), registry.layer_number(8, "a")) == (1, 3)
    assert registry.version_number(1, "t", "o") == 2
    assert registry.layer_number(9, "a") == 4
    assert (registry.image_number("i"), registry.image_number("j")) == (FIRST_IMAGE + 4, FIRST_IMAGE + 5)
    assert registry.extra_roi_numbers(1, ["l", "k"]) == [FIRST_EXTRA_ROI + 7, FIRST_EXTRA_ROI + 6]
    Registry(tmp_path / "new")
    assert _schema(tmp_path / "new") == _schema(old)


def _schema(state_dir: Path) -> dict[str, str]:
    """What SQLite keeps of each table's definition, spaces aside."""
    with contextlib.closing(sqlite3.connect(state_dir / "registry.sqlite")) as connection:
        rows = connection.execute("select name, sql from sqlite_master where sql is not null").fetchall()
    return {name: "".join(text.split()) for name, text in rows}
