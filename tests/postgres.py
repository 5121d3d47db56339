"""A real PostgreSQL server for tests: the one on PATH, else Debian's, which puts it elsewhere."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

PASSWORD = "p@ss:w/ord%"
ENCODED = "p%40ss%3Aw%2Ford%25"
DATABASE = "postgres"
# What is written need not outlive the machine: nothing is to wait for a disk.
FAST = ("fsync=off", "full_page_writes=off", "shared_buffers=16MB")


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`; None if PostgreSQL is not installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


class PostgresServer:
    """A server on a free port, with any number of empty schemas; it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._programs = folder
        # PostgreSQL refuses to run as root, and others cannot enter pytest's folders.
        self._user: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.getuid() == 0 else {}
        self._home = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        password = self._home / "password"
        password.write_text(PASSWORD)
        for path in (self._home, password):
            if self._user:
                shutil.chown(path, "nobody", "nogroup")
        self._run(
            *("initdb", "--no-sync", "--username=owner", f"--pwfile={password}", "--encoding=UTF8"),
            *("--locale=C", "--auth-host=scram-sha-256", "--auth-local=reject", f"--pgdata={self._data}"),
        )

    @property
    def _data(self) -> Path:
        return self._home / "data"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = [option for each in FAST for option in ("-c", each)]
        command = [self._programs / "postgres", "-D", self._data, "-h", "127.0.0.1", "-p", str(self.port)]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-k", "", *options], cwd=self._home, stdout=log, stderr=log, **self._user
            )
        limit = time.monotonic() + 30
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < limit, (self._home / "log").read_text()
                time.sleep(0.02)

    def kill(self) -> None:
        """End it at once; what was committed is there again after the next start."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)
        self._process = None

    def remove(self) -> None:
        """End it, and delete all that it kept."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def connect(self) -> psycopg.Connection[Any]:
        """A connection that commits every statement."""
        place = {"host": "127.0.0.1", "port": self.port, "dbname": DATABASE}
        return psycopg.connect(**place, user="owner", password=PASSWORD, autocommit=True)

    def url(self) -> str:
        """The URL of a new schema; a database of its own would take as much disk as a new server."""
        name = f"registry{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f"create schema {name}")
        place = f"owner:{ENCODED}@127.0.0.1:{self.port}/{DATABASE}"
        return f"postgresql://{place}?options=-csearch_path%3D{name}"

    def end_sessions(self) -> int:
        """End all other sessions, as a restart does; how many there were."""
        with self.connect() as connection:
            ended = connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = %s and pid != pg_backend_pid()",
                [DATABASE],
            )
            return len(ended.fetchall())

    def _run(self, program: str, *arguments: str) -> None:
        command = [self._programs / program, *arguments]
        subprocess.run(command, cwd=self._home, check=True, stdout=subprocess.DEVNULL, **self._user)
