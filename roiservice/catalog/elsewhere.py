"""Build a large layer in a process of its own, so that no web worker is held up by it.

The process is `python -m roiservice.catalog.elsewhere` with its task as JSON on standard input. What it fails
with it leaves in a file of the layer's directory, for whoever asks next.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from roiservice.errors import RoiServiceError, SourceDamaged, SourceError, SourceRefused
from roiservice.sources.images import ImageSource
from roiservice.sources.layers import LayerSource
from roiservice.sources.limits import Limits
from roiservice.vectorize.outlines import Outline

FAILURE = "failure.json"


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
        [sys.executable, "-m", "roiservice.catalog.elsewhere"], stdin=subprocess.PIPE, start_new_session=True
    )
    if process.stdin is not None:
        with process.stdin, contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asdict(task), default=str).encode())
    return process


def raise_last_failure(directory: Path, younger_than: float) -> None:
    """Raise what the last build process of a layer failed with, if that was less than so many seconds ago."""
    path = directory / FAILURE
    try:
        age = time.time() - path.stat().st_mtime
        failure = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if age < younger_than:
        kind = {"SourceRefused": SourceRefused, "SourceDamaged": SourceDamaged}.get(failure["kind"])
        raise RoiServiceError(failure["text"]) if kind is None else kind(*failure["parts"])


def main() -> int:
    """Build the layer that standard input names; 0 when it is there, 1 when it failed."""
    from roiservice.catalog.keeper import Keeper
    from roiservice.catalog.registry import Registry

    task = _task(json.load(sys.stdin))
    os.nice(5)
    keeper = Keeper(task.catalogs, Registry(task.state), task.rules, task.limits)
    try:
        keeper.build(task.layer)
    except RoiServiceError as error:
        parts = [error.store, error.part, error.reason] if isinstance(error, SourceError) else []
        failure = {"kind": type(error).__name__, "text": str(error), "parts": parts}
        (keeper.directory(task.layer) / FAILURE).write_text(json.dumps(failure), encoding="utf-8")
        return 1
    return 0


def _task(plain: dict[str, Any]) -> Task:
    source = plain["layer"]["source"]
    layer = LayerSource(**{**source, "image": ImageSource(**source["image"])})
    rules = Rules(**{**plain["rules"], "outline": Outline(**plain["rules"]["outline"])})
    key = LayerKey(plain["layer"]["number"], layer)
    return Task(key, Path(plain["catalogs"]), Path(plain["state"]), rules, Limits(**plain["limits"]))


if __name__ == "__main__":
    sys.exit(main())
