"""A registry in PostgreSQL that goes away, comes back, or was never there."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from roiservice.catalog.registry import FIRST_EXTRA_ROI, FIRST_ID, ROIS, Place, Registry, open_registry
from roiservice.errors import RegistryFailed, SettingsError
from tests.catalog.support import wait_for
from tests.postgres import DATABASE, ENCODED, PASSWORD, PostgresServer


@contextmanager
def away(server: PostgresServer) -> Iterator[None]:
    """A time without the server."""
    server.kill()
    try:
        yield
    finally:
        server.start()


def answers(registry: Registry) -> bool:
    try:
        registry.check()
    except RegistryFailed:
        return False
    return True


def test_what_is_known_stays_known_without_the_server_and_the_rest_comes_back(
    tmp_path: Path, postgres_server: PostgresServer, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(tmp_path, postgres_url)
    layer = registry.layer_number(7, "labels:cells")
    version = registry.version_number(layer, "t", "o")
    ids = [FIRST_ID + number * ROIS + 3 for number in (layer, version)]
    places = [registry.locate(each) for each in ids]
    with caplog.at_level(logging.INFO):
        with away(postgres_server):
            assert registry.layer_number(7, "labels:cells") == layer
            assert [registry.locate(each) for each in ids] == places
            for refused in (
                registry.check,
                lambda: registry.layer_number(8, "labels:cells"),
                lambda: registry.image_number("uri"),
                lambda: registry.version_number(layer, "other", "o"),
                lambda: registry.extra_roi_numbers(layer, ["k"]),
                lambda: registry.locate(FIRST_ID + 99 * ROIS),
                lambda: registry.locks.is_held(layer),
            ):
                with pytest.raises(RegistryFailed) as told:
                    refused()
                assert str(told.value) == "the registry of lasting ids does not answer"
        wait_for(lambda: answers(registry))
        assert registry.layer_number(8, "labels:cells") == version + 1
    said = [record.getMessage() for record in caplog.records if record.name.startswith("roiservice")]
    assert [("again" in text) for text in said] == [False, True], "an outage is logged once, and its end"
    assert not any(secret in text for text in said for secret in (PASSWORD, ENCODED))


def test_sessions_that_ended_while_nobody_asked_are_not_noticed(
    tmp_path: Path, postgres_server: PostgresServer, postgres_url: str
) -> None:
    registry = Registry(tmp_path, postgres_url)
    assert postgres_server.end_sessions() > 0
    assert registry.layer_number(7, "labels:cells") == 1


def test_a_server_that_does_not_answer_is_left_alone_for_a_while(tmp_path: Path) -> None:
    connections = []

    def refuse() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection.close())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        registry = Registry(tmp_path, f"postgresql://u:p@127.0.0.1:{port}/d?sslmode=disable", uuid="known")
        for number in range(50):
            with pytest.raises(RegistryFailed):
                registry.layer_number(number, "labels:cells")
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    assert registry.uuid == "known"
    assert 1 <= len(connections) <= 5, "each request waits for it"


def test_texts_that_postgresql_cannot_index_get_numbers_as_well(tmp_path: Path, postgres_url: str) -> None:
    registry = Registry(tmp_path, postgres_url)
    texts = ["a", "a\0", "b" * 100_000, "b" * 100_000 + "c", "ü" * 501]
    numbers = registry.extra_roi_numbers(1, texts)
    assert numbers == [FIRST_EXTRA_ROI + n for n in range(5)]
    assert Registry(tmp_path, postgres_url).extra_roi_numbers(1, texts[::-1]) == numbers[::-1]
    assert len({registry.image_number(text) for text in texts}) == 5


def test_a_process_that_is_stopped_in_a_transaction_keeps_nobody_waiting_for_ever(
    tmp_path: Path, postgres_url: str
) -> None:
    said = Registry(tmp_path, postgres_url)._database.read("show idle_in_transaction_session_timeout", {})
    assert said == [("1min",)]
    sooner = postgres_url + "%20-cidle_in_transaction_session_timeout%3D100"
    stopped, other = Registry(tmp_path, sooner), Registry(tmp_path, postgres_url)
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises(RegistryFailed))
        stack.enter_context(stopped._database.writing())
        assert other.layer_number(7, "labels:cells") == 1, "the server has ended the other transaction"


@contextmanager
def database(server: PostgresServer, encoding: str) -> Iterator[str]:
    """The URL of an empty database of that encoding."""
    with server.connect() as connection:
        connection.execute(f"create database other encoding '{encoding}' template template0")
        try:
            yield server.url().partition("?")[0].replace(f"/{DATABASE}", "/other")
        finally:
            connection.execute("drop database other (force)")


def test_a_database_of_no_encoding_is_as_good(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """Which servers have that were set up without a locale."""
    with database(postgres_server, "SQL_ASCII") as url:
        one, other = (Registry(tmp_path / name, url) for name in "ab")
        assert one.uuid == other.uuid
        number = one.layer_number(7, "labels:细胞")
        assert other.locate(FIRST_ID + number * ROIS) == Place(7, "labels:细胞", None, 0)
        one.close()
        other.close()


def test_a_database_that_cannot_keep_all_names_is_refused(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    with (
        database(postgres_server, "LATIN1") as url,
        pytest.raises(SettingsError, match=r"ROISERVICE_REGISTRY_URL: .* LATIN1; make one with UTF8"),
    ):
        open_registry(tmp_path, url)


@pytest.mark.parametrize("name", ["psycopg", "sqlalchemy"])
def test_what_is_not_installed_is_named(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingsError, match=r"ROISERVICE_REGISTRY_URL: .*roiservice\[postgresql\]"):
        open_registry(tmp_path, "postgresql://u:secret@127.0.0.1:1/d")


def test_a_registry_of_one_machine_does_without_sqlalchemy(tmp_path: Path) -> None:
    """It takes as long to import as `roiservice token` does to run."""
    code = "import sys, pathlib; from roiservice.catalog.registry import Registry;"
    code += "Registry(pathlib.Path(sys.argv[1])); assert not {'sqlalchemy', 'psycopg'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


@pytest.mark.parametrize("part", ["password", "database", "port", "option"])
def test_a_server_that_cannot_be_used_stops_the_start_without_the_password(
    tmp_path: Path, postgres_url: str, part: str, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = {
        "password": postgres_url.replace(ENCODED, "pa55word"),
        "database": postgres_url.replace(DATABASE + "?", "nothing?"),
        "port": "postgresql://owner:pa55word@127.0.0.1:1/d",
        "option": postgres_url + "&no_such_option=1",
    }[part]
    with pytest.raises(SettingsError, match="ROISERVICE_REGISTRY_URL: ") as told:
        open_registry(tmp_path, wrong)
    printed = "".join(capfd.readouterr())
    for secret in (PASSWORD, ENCODED, "pa55word"):
        assert secret not in str(told.value)
        assert secret not in printed
