"""Processes that build large layers, forked from one that has loaded all they need.

Started anew, such a process takes a second before it begins: three times as long as what there may be to do
where a source changed a little. The fork servers of the standard library and of gunicorn end their processes
with the one that asked for them; these must go on when a web worker is replaced.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, Protocol

from roiservice.catalog.elsewhere import TRY_AGAIN, BuildProcess, start_build
from roiservice.catalog.process import build_task
from roiservice.catalog.task import Task, as_json

log = logging.getLogger(__name__)

MOST_FILES = 8  # that come with one request
QUIET = 1.0  # seconds that the server lets go by before it begins, unless it is asked before
VANISHED = -1  # what is said of a process that ended without a word


class Closeable(Protocol):
    """What has something open."""

    def close(self) -> None:
        """Let go of it."""


class ForkServer:
    """A process that waits, and forks another one for each layer to be built; it ends with all who know it.

    To be made while no other thread is at work. Who is forked from this process later may use it as well.
    """

    def __init__(
        self, not_theirs: Iterable[Closeable] = (), begin: Callable[[], None] = lambda: None
    ) -> None:
        """`not_theirs` is what the processes are not to keep open, such as the port of a service.

        `begin` is what the server begins with, on behalf of all that it will fork, after a second at most.
        """
        self._is_said = False  # that it was killed
        self._requests, requests = socket.socketpair()
        if os.fork() == 0:
            _end_with(_serve, begin, requests, (self._requests, *not_theirs))
        requests.close()

    def start(self, task: Task, *marks: int) -> BuildProcess:
        """Start a process, as `start_build` does; by that if the server was killed."""
        text, process = os.pipe()
        try:
            result, says = os.pipe()
        except OSError:  # this one file is too many
            os.close(text)
            os.close(process)
            raise
        started = Forked(open(result, "rb", buffering=0))  # noqa: SIM115 - closed by it
        try:
            socket.send_fds(self._requests, [b"\n"], [text, says, *marks])
        except OSError as error:
            if not self._is_said:
                log.warning("no process can be forked (%s): each is started anew", error.strerror)
            self._is_said = True
            os.close(process)
            return start_build(task, *marks)
        finally:
            os.close(text)
            os.close(says)
        with contextlib.suppress(BrokenPipeError), open(process, "wb") as file:
            file.write(as_json(task))
        return started


class Forked:
    """A process that was forked by another one."""

    def __init__(self, result: io.RawIOBase) -> None:
        os.set_blocking(result.fileno(), False)
        self._result = result
        self._code: int | None = None

    def poll(self) -> int | None:
        """What it ended with; None while it is at work."""
        if self._code is None:
            said = self._result.read(1)
            if said is not None:
                self._code = said[0] if said else VANISHED
                self._result.close()
        return self._code


def _serve(begin: Callable[[], None], requests: socket.socket, not_theirs: Sequence[Closeable]) -> int:
    """Fork a process for each request, until nobody is left who could make one."""
    os.setsid()  # Ctrl-C is for the service
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    for each in not_theirs:
        each.close()
    select.select([requests], [], [], QUIET)  # the service starts, which is not to be kept waiting
    begin()
    while True:
        request, files, _, _ = socket.recv_fds(requests, 1, MOST_FILES)
        if not request:
            return 0
        try:
            if os.fork() == 0:
                requests.close()
                _end_with(_build, *files)
        except OSError as error:  # there may be as many processes as may be, or no memory, for now
            log.warning("no process can be forked: %s", error.strerror)
            _say(TRY_AGAIN, *files[1:2])
        for file in files:
            os.close(file)


def _build(text: int, says: int, *_marks: int) -> int:
    """Build the layer that `text` names, and say how it ended; the marks are held until then."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        with open(text, "rb") as file:
            task = json.load(file)
    except json.JSONDecodeError:  # who asked was killed before it had said all
        return TRY_AGAIN
    code = build_task(task)
    _say(code, says)
    return code


def _say(code: int, *says: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # who asked may have ended
        for file in says:
            os.write(file, bytes([code]))


def _end_with(work: Callable[..., int], *arguments: Any) -> NoReturn:
    """Do all that a forked process is for: it must not go on with what the one before it was at."""
    try:
        os._exit(work(*arguments))
    except BaseException:  # noqa: BLE001 - nobody above may see any
        traceback.print_exc()
        os._exit(1)
