"""Build a large layer in a process of its own, so that no web worker is held up by it.

The process is `roiservice.catalog.process`, its task as JSON on standard input; a service has it forked by
`roiservice.catalog.forks`. What it fails with it leaves in a file of the layer's directory, for whoever asks
next.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, field
from pathlib import Path
from typing import IO, Any, Protocol

from roiservice.errors import (
    Building,
    CatalogDamaged,
    EngineFailed,
    NoRoom,
    NotWritten,
    RegistryFailed,
    RoiServiceError,
    SourceDamaged,
    SourceError,
    SourceRefused,
    TooManyObjects,
)
from roiservice.records import dataclass
from roiservice.sources.layer import LayerSource
from roiservice.sources.limits import Limits
from roiservice.vectorize.outlines import Outline

FAILURE = "failure.json"
LOCK = "lock"
MARK = "elsewhere"
AT_ONCE = 4  # processes of one machine: each keeps all processors busy, and may take 2 GiB of memory
TRY_AGAIN = 75  # what the process ends with where nothing is wrong with the layer, as sysexits.h has it
LONGEST_LOOK = 0.5  # seconds that somebody who looks at a lock may hold it


@dataclass(frozen=True)
class LayerKey:
    """A layer as the registry numbers it, and where its bytes are."""

    number: int
    source: LayerSource


@dataclass(frozen=True)
class Rules:
    """What decides how and where catalogs are built; meanings as in `roiservice.settings`.

    `catalog_bytes` is how many all catalogs may take; None: any number.
    """

    outline: Outline
    max_vertices: int
    inline_pixels: int
    inline_vertices: int
    waiters: int
    check_interval: float
    keep_replaced: float
    catalog_bytes: int | None = None


@dataclass(frozen=True)
class Task:
    """All that another process needs to build one layer, as the registry `registry_uuid` numbers it."""

    layer: LayerKey
    catalogs: Path
    state: Path
    registry_uuid: str
    rules: Rules
    limits: Limits
    registry_url: str | None = field(default=None, repr=False)


def as_json(task: Task) -> bytes:
    """What `roiservice.catalog.process` reads."""
    return json.dumps(asdict(task), default=str).encode()


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


@contextlib.contextmanager
def being_built(directory: Path) -> Iterator[int]:
    """For as long as this is held, others see that a process of its own builds the layer.

    Gives a file descriptor, which holds it for a process that inherits it. TimeoutError if others do.
    Raises NotWritten.
    """
    with _lock_file(directory, MARK) as file:
        lock_within(file, LONGEST_LOOK)
        yield file.fileno()


@contextlib.contextmanager
def one_of_few(state: Path) -> Iterator[int]:
    """Be one of the processes that build on the machine with this state; gives a mark as `being_built` does.

    NoRoom if there are as many as may be: whoever reads many large layers could else have all built at once.
    """
    for number in range(AT_ONCE):
        with _lock_file(state, f"{MARK}-{number}") as file:
            try:
                lock_within(file, 0.0)
            except TimeoutError:
                continue
            yield file.fileno()
            return
    raise NoRoom(f"{AT_ONCE} other layers are being built, and no more are at once")


@contextlib.contextmanager
def locked(directory: Path, timeout: float | None = None) -> Iterator[None]:
    """Hold the builders' lock of a layer; TimeoutError if others hold it longer than `timeout` s.

    Raises NotWritten.
    """
    with _lock_file(directory, LOCK) as file:
        lock_within(file, timeout)
        yield


def _lock_file(directory: Path, name: str) -> IO[str]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return open(directory / name, "w", encoding="ascii")
    except OSError as error:  # the folder is read-only, another user's, or the disk is full
        raise NotWritten(f"{directory}: {error.strerror}") from error


def lock_within(file: IO[Any], timeout: float | None) -> None:
    """Lock `file`; TimeoutError if others hold it longer than `timeout` s. Raises NotWritten."""
    deadline = time.monotonic() + (timeout or 0.0)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if timeout is None else fcntl.LOCK_NB))
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError from None
            time.sleep(0.01)
        except OSError as error:  # not all shared storage can
            raise NotWritten(f"{file.name}: cannot be locked: {error.strerror}") from error


def is_built_elsewhere(directory: Path) -> bool:
    """Whether such a process is at work; one that was killed leaves no trace."""
    try:
        with open(directory / MARK, encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # who looks must not keep others from looking
    except BlockingIOError:
        return True
    except OSError:
        return False  # nobody ever built here, or can
    return False


@contextlib.contextmanager
def failure_kept(directory: Path) -> Iterator[None]:
    """Leave what a build of a layer fails with in its directory.

    What fails because this process is ending, which starts no threads any more, is EngineFailed.
    """
    try:
        yield
    except NoRoom as error:
        _keep_failure(directory, error)  # nobody builds it, unless somebody asks again
        raise
    except (Building, EngineFailed, RegistryFailed, TooManyObjects):  # others build it all the same, or later
        raise
    except Exception as error:
        if _is_ending():
            raise EngineFailed("the process that built it was stopped") from error
        _keep_failure(directory, error)
        raise


def _keep_failure(directory: Path, error: Exception) -> None:
    parts = [error.store, error.part, error.reason] if isinstance(error, SourceError) else []
    failure = {"kind": type(error).__name__, "text": str(error) or repr(error), "parts": parts}
    beside = directory / f"{FAILURE}.{os.getpid()}"
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(failure), encoding="utf-8")
        os.replace(beside, directory / FAILURE)


def _is_ending() -> bool:
    """Whether this process has done its work, and only waits for its threads."""
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int)
    except RuntimeError:
        return True
    return False


def last_failure(directory: Path) -> tuple[float, RoiServiceError] | None:
    """What the last build of a layer failed with and how many seconds ago, unless one succeeded since."""
    path = directory / FAILURE
    try:
        age = time.time() - path.stat().st_mtime
        return age, _failure(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # there is none, or none that can be read


def raise_last_failure(directory: Path, younger_than: float) -> None:
    """Raise what the last build of a layer failed with, if that was less than so many seconds ago.

    Where it found no room, there may be some by now.
    """
    failure = last_failure(directory)
    if failure is not None and failure[0] < younger_than and not isinstance(failure[1], NoRoom):
        raise failure[1]


def _failure(kind: str, text: str, parts: list[str]) -> RoiServiceError:
    source = {"SourceRefused": SourceRefused, "SourceDamaged": SourceDamaged}.get(kind)
    if source is not None:
        return source(*parts)
    own = {"NotWritten": NotWritten, "CatalogDamaged": CatalogDamaged, "NoRoom": NoRoom}.get(kind)
    # What nobody foresaw may say anything, names of files among it.
    return RoiServiceError("building it failed; the log says more") if own is None else own(text)
