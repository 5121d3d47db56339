"""Whether all has been compiled that `roiservice.warm` compiles: to do that again takes a start a while."""

from __future__ import annotations

import hashlib
from pathlib import Path

from roiservice.geometry.kept import read_kept, write_kept


def is_warm() -> bool:
    """Whether all is kept that this package compiles; who needs some of it loads that."""
    return bool(read_kept(_sources, ()) == _sources())


def note_warm() -> None:
    """Note that all is kept, if there is room."""
    write_kept(_sources, (), _sources())


def _sources() -> bytes:
    """A digest of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()
