"""Whether all has been compiled that `roiservice.warm` compiles: to do that again takes a start a while."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from roiservice.geometry.kept import newly_kept, read_kept, taken, write_kept


def is_warm() -> bool:
    """Whether all is kept that this package compiles; who needs some of it loads that."""
    noted = read_kept(_sources, ())
    return noted is not None and noted[0] == _sources() and all(map(os.path.exists, noted[1]))


def note_warm() -> None:
    """Note that all is kept, and in which files, if there is room. It has been compiled, or was loaded."""
    write_kept(_sources, (), (_sources(), sorted(map(str, newly_kept | taken))))


def _sources() -> bytes:
    """A digest of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()
