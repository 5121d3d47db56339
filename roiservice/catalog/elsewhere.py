"""Build a large layer in a process of its own, so that no web worker is held up by it.

The process is `roiservice.catalog.process`, its task as JSON on standard input; a service has it forked by
`roiservice.catalog.forks`. What it fails with it leaves in a file of the layer's directory, see
`roiservice.catalog.failures`.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Protocol

from roiservice.catalog.current import CurrentCatalogs
from roiservice.catalog.failures import (
    FAILURE,
    REMEMBER_FAILURE,
    raise_last_failure,
    raise_unwritten_failure,
)
from roiservice.catalog.filelocks import being_built, is_built_elsewhere, one_of_few
from roiservice.catalog.progress import note_start, progress_path
from roiservice.catalog.registry import Registry
from roiservice.catalog.task import Task, as_json
from roiservice.errors import BuilderKilled, NoRoom
from roiservice.metrics import BUILDS, Metrics

TRY_AGAIN = 75  # what the process ends with where nothing is wrong with the layer, as sysexits.h has it


class BuildProcess(Protocol):
    """A process that builds a layer."""

    def poll(self) -> int | None:
        """What it ended with, see `roiservice.catalog.process`; None while it is at work."""


StartBuild = Callable[..., BuildProcess]
"""Starts one for a task, which holds the marks that follow it: see `start_build`."""


def start_build(task: Task, *marks: int) -> subprocess.Popen[bytes]:
    """Start the process; it outlives this one, and holds the marks of `being_built` and `one_of_few`."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "roiservice.catalog.process"],  # nothing from where the user is
        stdin=subprocess.PIPE,
        start_new_session=True,
        pass_fds=marks,
    )
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(as_json(task))
    return process


def started(start: StartBuild, task: Task, *marks: int) -> BuildProcess:
    """What `start` starts; NoRoom where files, memory or processes are short for it."""
    try:
        return start(task, *marks)
    except OSError as error:
        raise NoRoom(f"no process can be started to build it: {error.strerror}") from error


class BuildProcesses:
    """The processes that one service has started to build large layers; used by several threads."""

    def __init__(
        self, current: CurrentCatalogs, registry: Registry, metrics: Metrics, start: StartBuild
    ) -> None:
        self._current = current
        self._registry = registry
        self._metrics = metrics
        self._start = start
        self._lock = threading.Lock()
        self.running: dict[int, BuildProcess] = {}  # the last one of each layer

    def start(self, task: Task) -> None:
        """Have a process bring the layer up to its source's state, unless one is at work on any machine.

        Raises NoRoom while as many as may be are at work for other layers.
        """
        if self._registry.is_building(task.layer.number):
            return
        with self._lock:
            if not is_built_elsewhere(self._current.directory(task.layer)):
                self._begin(task)

    def start_unless_failed(self, task: Task) -> None:
        """As `start`, but raises what the last process failed with within the check interval.

        BuilderKilled where it left no word, NotWritten where that could not be written: these are known to
        this service alone, and said once.
        """
        layer = task.layer
        if self._registry.is_building(layer.number):
            return
        directory = self._current.directory(layer)
        with self._lock:
            running = self.running.get(layer.number)
            code = 0 if running is None else running.poll()
            if code is None or is_built_elsewhere(directory):
                return
            self.running.pop(layer.number, None)
            raise_last_failure(directory, max(task.rules.check_interval, REMEMBER_FAILURE))
            if code not in (0, TRY_AGAIN):
                raise_unwritten_failure(directory)
                if not (directory / FAILURE).exists():
                    reason = f"the process that builds it ended with code {code}"
                    raise BuilderKilled(layer.source.image.location, layer.source.path, reason)
            self._begin(task)

    def _begin(self, task: Task) -> None:
        # Another worker may be faster: its process does as well.
        with (
            contextlib.suppress(TimeoutError),
            one_of_few(self._registry.directory) as place,
            being_built(self._current.directory(task.layer)) as mark,
        ):
            note_start(progress_path(self._current.pointer(task.layer)))
            for process in self.running.values():
                process.poll()  # one that ended is let go of, though nobody may ask for its layer again
            self.running[task.layer.number] = started(self._start, task, mark, place)
            self._metrics.add(1, BUILDS, "elsewhere")
