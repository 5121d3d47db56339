"""What the processes of one host share where there is no Redis: a small SQLite file beside the registry."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from roiservice.errors import SharedStoreFailed

_WAIT = 0.25  # seconds that a process waits for another to write
_CLEARED = 60.0  # seconds between looks for what is over
_SCHEMA = "create table if not exists shared (key text primary key, value blob, until real) without rowid"


def local_store(state_dir: Path) -> LocalStore:
    """The store of the service that has its state there."""
    return LocalStore(state_dir / "shared.sqlite")


class LocalStore:
    """A `SharedStore` for one host; what was put there outlives a restart.

    Safe to use from several threads and processes, not across a fork. The file is made when it is first
    needed, for its owner alone. `clock` gives seconds since 1970.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._clear_at = 0.0

    def get(self, key: str) -> bytes | None:
        """The value of that key; None if there is none."""
        row = self._run("select value from shared where key = ? and until > ?", key, self._clock()).fetchone()
        if row is not None and not isinstance(row[0], bytes):
            raise SharedStoreFailed("the file holds something else than bytes")
        return None if row is None else row[0]

    def put(self, key: str, value: bytes, ttl: int) -> None:
        """Keep a value for `ttl` seconds."""
        self._run("insert or replace into shared values (?, ?, ?)", key, value, self._clock() + ttl)
        self._clear()

    def add(self, key: str, value: bytes, ttl: int) -> bool:
        """Keep a value if there is none; whether that was so."""
        now = self._clock()
        added = self._run(
            "insert into shared values (?, ?, ?) on conflict (key) do update "
            "set value = excluded.value, until = excluded.until where until <= ?",
            *(key, value, now + ttl, now),
        )
        return added.rowcount == 1

    def remove(self, key: str) -> None:
        """Keep it no longer."""
        self._run("delete from shared where key = ?", key)

    def _clear(self) -> None:
        now = self._clock()
        if now >= self._clear_at:
            self._clear_at = now + _CLEARED
            self._run("delete from shared where until <= ?", now)

    def _run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        with self._lock:
            try:
                if self._connection is None or self._opened != self._present():
                    self._connection = self._connect()
                    self._opened = self._present()
                return self._connection.execute(statement, values)
            except (sqlite3.Error, OSError) as error:
                self._connection = None
                raise SharedStoreFailed(f"{self._path.name} cannot be used") from error

    def _present(self) -> tuple[int, int] | None:
        """Which file is there now; None if there is none. Another process may have made a new one."""
        try:
            state = self._path.stat()
        except FileNotFoundError:
            return None
        return state.st_dev, state.st_ino

    def _connect(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self._path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=normal")
        connection.execute(_SCHEMA)
        return connection
