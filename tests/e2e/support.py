"""The real command in processes of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "roiservice"]


@dataclass(frozen=True)
class Home:
    """A folder that stands for a user's home: catalogs and registry lie below it."""

    path: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        own = {name: text for name, text in os.environ.items() if not name.startswith("ROISERVICE_")}
        places = {
            "XDG_CACHE_HOME": self.path / "cache",
            "XDG_STATE_HOME": self.path / "state",
            "HOME": self.path,
        }
        # Kernels stay where they were compiled first: that takes up to a minute.
        return own | {name: str(place) for name, place in places.items()} | dict(self.settings)

    def run(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        command = [*COMMAND, *map(str, arguments)]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=120, check=False, **options
        )

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start the command in a group of its own."""
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@dataclass(frozen=True)
class Running:
    """A service that answers at `base`."""

    base: str
    process: subprocess.Popen[str]

    def get(self, path: str) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers, whatever the status."""
        try:
            with urllib.request.urlopen(self.base + path, timeout=60) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read(), dict(error.headers)

    @property
    def workers(self) -> list[int]:
        """The processes that answer."""
        return [pid for pid in children(self.process.pid) if os.getsid(pid) != pid]

    @property
    def fork_server(self) -> int:
        """The process that forks those that build large layers."""
        leaders = wait_for(lambda: [pid for pid in children(self.process.pid) if os.getsid(pid) == pid])
        return int(leaders[0])

    def json(self, path: str) -> Any:
        """The body of an answer that must be a success."""
        status, body, _ = self.get(path)
        assert status == 200, (path, status, body[:500])
        return json.loads(body)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def serving(home: Home, *arguments: object, command: str = "serve") -> Iterator[Running]:
    """The service on a free port, ended at the end."""
    process = home.start(command, "--port", 0, *arguments)
    try:
        yield Running(base_url(process), process)
    finally:
        end(process)


def base_url(process: subprocess.Popen[str]) -> str:
    """Where a server that was just started says it listens."""
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"http://[^/\s]+", line)
        if found:
            return found[0]
    assert process.stderr is not None
    raise AssertionError(f"it ended: {process.stderr.read()}")


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str]:
    """Exit code and standard error after a signal to the process alone."""
    if process.poll() is None:
        process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def wait_for(condition: Any, seconds: float = 30.0) -> Any:
    """What `condition()` gives once it is true."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        result = condition()
        if result:
            return result
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")
