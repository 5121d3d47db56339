"""Build a large layer in a process of its own, so that no web worker is held up by it.

The process is `roiservice.catalog.process`, its task as JSON on standard input. What it fails with it leaves
in a file of the layer's directory, for whoever asks next.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from roiservice.errors import RoiServiceError, SourceDamaged, SourceRefused
from roiservice.sources.layer import LayerSource
from roiservice.sources.limits import Limits
from roiservice.vectorize.outlines import Outline

FAILURE = "failure.json"
MARK = "elsewhere"


@dataclass(frozen=True)
class LayerKey:
    """A layer as the registry numbers it, and where its bytes are."""

    number: int
    source: LayerSource


@dataclass(frozen=True)
class Rules:
    """What decides how and where catalogs are built; meanings as in `roiservice.settings`."""

    outline: Outline
    max_vertices: int
    inline_pixels: int
    inline_vertices: int
    waiters: int
    check_interval: float
    keep_replaced: float


@dataclass(frozen=True)
class Task:
    """All that another process needs to build one layer."""

    layer: LayerKey
    catalogs: Path
    state: Path
    rules: Rules
    limits: Limits


def start_build(task: Task) -> subprocess.Popen[bytes]:
    """Start the process; it outlives this one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "roiservice.catalog.process"], stdin=subprocess.PIPE, start_new_session=True
    )
    if process.stdin is not None:
        with process.stdin, contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asdict(task), default=str).encode())
    return process


@contextlib.contextmanager
def being_built(directory: Path) -> Iterator[None]:
    """For as long as this is held, others see that a process of its own builds the layer."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / MARK, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def is_built_elsewhere(directory: Path) -> bool:
    """Whether such a process is at work; one that was killed leaves no trace."""
    try:
        with open(directory / MARK, encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def raise_last_failure(directory: Path, younger_than: float) -> None:
    """Raise what the last build process of a layer failed with, if that was less than so many seconds ago."""
    path = directory / FAILURE
    try:
        age = time.time() - path.stat().st_mtime
        error = _failure(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return  # there is none, or none that can be read
    if age < younger_than:
        raise error


def _failure(kind: str, text: str, parts: list[str]) -> RoiServiceError:
    known = {"SourceRefused": SourceRefused, "SourceDamaged": SourceDamaged}.get(kind)
    return RoiServiceError(text) if known is None else known(*parts)
