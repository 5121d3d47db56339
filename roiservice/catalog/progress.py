"""How far the build of a layer is: a small file beside its catalogs, which every process can read.

The file is there while a build is at work, and after one that was killed. Which of both it is, the builders'
lock tells: nobody but a builder that is alive holds it. Those of other machines have one in the registry.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from math import inf
from pathlib import Path

from roiservice.catalog.failures import last_failure
from roiservice.catalog.filelocks import builders_kept_out, is_built_elsewhere
from roiservice.catalog.locks import LayerLocks
from roiservice.errors import RoiServiceError, TooManyObjects
from roiservice.metrics import BUILDS, Metrics
from roiservice.records import dataclass

NONE, WAITING, BUILDING, DONE, FAILED = "none", "waiting", "building", "done", "failed"
STATES = (NONE, WAITING, BUILDING, DONE, FAILED)
WRITE_INTERVAL = 0.5  # seconds

Progress = Callable[[int, int], None]
"""Told of pixels that were done since the last call, and of features, or parts of these, so far in all."""


@dataclass(frozen=True)
class BuildStatus:
    """Whether a layer is built, and how far its build is.

    `fraction` is the share of pixels that are done, None where that is not known: three quarters of a plane's
    when they are traced, the rest with its features. `objects` counts features, and before these are put in
    order the parts that were found of them; `seconds_left` is until all pixels are done at the rate so far.
    Both of these are None before the first pixels and after the last: what is left then are indexes.
    """

    state: str
    fraction: float | None = None
    objects: int | None = None
    pixels_per_second: int | None = None
    seconds_left: float | None = None
    error: RoiServiceError | None = None


def progress_path(pointer: str) -> Path:
    """The file for what `pointer`, the file that names the current version, will point to."""
    path = Path(pointer)
    return path.with_name(path.name.replace("current-", "progress-", 1))


def note_start(path: Path) -> None:
    """Leave word that a build is about to begin, unless one has."""
    if not path.exists():
        _write(path, 0, 0, 0, 0.0)


@contextmanager
def progress_cleared(path: Path) -> Iterator[None]:
    """Delete the file of a builder that was killed, and at the end that of this one. The lock is held."""
    _delete(path)
    try:
        yield
    finally:
        _delete(path)


@contextmanager
def build_counted(metrics: Metrics) -> Iterator[None]:
    """Count a build; one that is too large for a request is counted where it is given away."""
    try:
        yield
    except TooManyObjects:
        raise
    except Exception:
        metrics.add(1, BUILDS, "failed")
        raise
    metrics.add(1, BUILDS, "done")


def written_progress(path: Path, pixels: int, tell: Progress | None) -> Progress:
    """What a build of so many pixels is to call: it writes the file, at most twice a second.

    0 pixels: how far it is cannot be told. `tell` is called as well. Rates are those since the first time
    that it is written with any pixels done: before come digests, and much of what a build that was killed
    had done.
    """
    written = time.monotonic()
    done = 0
    first: tuple[float, int] | None = None
    _write(path, pixels, 0, 0, 0.0)

    def advance(more: int, features: int) -> None:
        nonlocal done, written, first
        done += more
        now = time.monotonic()
        if now - written >= WRITE_INTERVAL:
            written = now
            if first is None and done:
                first = now, done
            began, before = first or (now, done)
            _write(path, pixels, done, features, (done - before) / (now - began) if now > began else 0.0)
        if tell is not None:
            tell(more, features)

    return advance


def build_status(
    directory: Path, path: Path, is_built: Callable[[], bool], locks: LayerLocks, layer: int
) -> BuildStatus:
    """The state of a layer whose catalogs are in `directory` and whose progress is in `path`.

    A failure counts until a build succeeds, also where an older catalog is still in service. `locks` tell of
    builders of other machines.
    """
    with _builders_kept_out(directory, locks, layer) as kept_out:
        reached = _read(path)
        if reached is not None and not kept_out:
            return reached
        if is_built_elsewhere(directory) or not (kept_out or is_built()):
            # A process that has built it may take a while to end.
            ends = kept_out and reached is None and is_built()
            return BuildStatus(BUILDING, 1.0) if ends else BuildStatus(WAITING)
        if reached is not None:
            begins = reached.fraction is None and _age(path) < locks.beginning
            return BuildStatus(WAITING) if begins else _killed()
        failure = last_failure(directory)
        if failure is not None:
            return BuildStatus(FAILED, error=failure[1])
    return BuildStatus(DONE, 1.0) if is_built() else BuildStatus(NONE)


def _builders_kept_out(directory: Path, locks: LayerLocks, layer: int) -> AbstractContextManager[bool]:
    """Whether no builder is at work; if so, none begins meanwhile."""
    return locks.kept_out(layer) if locks.are_shared else builders_kept_out(directory)


def _age(path: Path) -> float:
    """Seconds since a file was written; infinite if it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return inf


def _killed() -> BuildStatus:
    return BuildStatus(FAILED, error=RoiServiceError("the process that built it ended before it was done"))


def _delete(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _write(path: Path, pixels: int, done: int, features: int, rate: float) -> None:
    beside = path.with_name(f"{path.name}.new")
    text = json.dumps({"pixels": pixels, "done": done, "features": features, "rate": rate})
    try:
        beside.write_text(text, encoding="ascii")
        os.replace(beside, path)
    except OSError:  # a build must not fail for want of somebody who looks
        _delete(beside)


def _read(path: Path) -> BuildStatus | None:
    """What the file says; None without one. One that is damaged says that a build is at work, no more."""
    try:
        text = path.read_text(encoding="ascii")
    except OSError:
        return None
    try:
        said = json.loads(text)
        pixels, done, features = (int(said[name]) for name in ("pixels", "done", "features"))
        rate = float(said["rate"])
    except (ValueError, KeyError, TypeError):
        return BuildStatus(BUILDING)
    if not pixels:
        return BuildStatus(BUILDING)
    fraction = round(min(done / pixels, 1.0), 4)
    if not (done < pixels and 0 < rate < inf):
        return BuildStatus(BUILDING, fraction, features)
    return BuildStatus(BUILDING, fraction, features, round(rate), round((pixels - done) / rate, 1))
