"""Locks on files in a layer's folder: who builds it, on this host."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from roiservice.errors import NoRoom, NotWritten

LOCK = "lock"
MARK = "elsewhere"
AT_ONCE = 4  # processes of one machine: each keeps all processors busy, and may take 2 GiB of memory
LONGEST_LOOK = 0.5  # seconds that somebody who looks at a lock may hold it


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
def builders_kept_out(directory: Path) -> Iterator[bool]:
    """Whether nobody on this host holds the builders' lock; if so, nobody takes it meanwhile."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(directory / LOCK, encoding="ascii"))
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass  # nobody ever built here
        yield True
