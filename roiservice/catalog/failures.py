"""What a build failed with: a file in the layer's folder, for whoever asks next, in whichever process."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path

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

log = logging.getLogger(__name__)

FAILURE = "failure.json"
REMEMBER_FAILURE = 10.0  # seconds for which nobody tries again
_KINDS: dict[str, type[RoiServiceError]] = {
    kind.__name__: kind for kind in (SourceRefused, SourceDamaged, NotWritten, CatalogDamaged, NoRoom)
}


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
    kind = next((each.__name__ for each in type(error).__mro__ if each.__name__ in _KINDS), "")
    failure = {"kind": kind, "text": str(error) or repr(error), "parts": parts}
    beside = directory / f"{FAILURE}.{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(json.dumps(failure), encoding="utf-8")
        except OSError:  # where the disk is full, a file without content says as much
            log.warning("%s: %s", directory, error)
        os.replace(beside, directory / FAILURE)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _is_ending() -> bool:
    """Whether this process has done its work, and only waits for its threads."""
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int)
    except RuntimeError:
        return True
    return False


def last_failure(directory: Path) -> tuple[float, RoiServiceError] | None:
    """What the last build of a layer failed with and how many seconds ago, unless one succeeded since.

    Where that could not be written it keeps nobody from trying again: it counts as long ago.
    """
    path = directory / FAILURE
    try:
        age, text = time.time() - path.stat().st_mtime, path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None  # there is none, or none that can be read
    try:
        return age, _failure(**json.loads(text))
    except (ValueError, TypeError):
        return inf, NotWritten(f"{path}: what the build failed with could not be written")


def raise_last_failure(directory: Path, younger_than: float) -> None:
    """Raise what the last build of a layer failed with, if that was less than so many seconds ago.

    Where it found no room, there may be some by now.
    """
    failure = last_failure(directory)
    # It is of the future where clocks differ, and tells nothing of how long ago that was.
    if failure is not None and 0 <= failure[0] < younger_than and not isinstance(failure[1], NoRoom):
        raise failure[1]


def raise_unwritten_failure(directory: Path) -> None:
    """Raise NotWritten if the last build of a layer failed, and with what could not be written."""
    failure = last_failure(directory)
    if failure is not None and failure[0] == inf:
        raise failure[1]


def _failure(kind: str, text: str, parts: list[str]) -> RoiServiceError:
    known = _KINDS.get(kind)
    # What nobody foresaw may say anything, names of files among it.
    if known is None:
        return RoiServiceError("building it failed; the log says more")
    return known(*parts) if issubclass(known, SourceError) else known(text)
