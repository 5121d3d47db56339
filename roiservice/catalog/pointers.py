"""Current files: which version of a layer is in service, for each way of building it.

They are small, lie in the layer's folder, and are replaced by rename.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from roiservice.catalog.filelocks import lock_within
from roiservice.catalog.indexes import FORMAT
from roiservice.errors import NotWritten

NUMBERS = "numbers"  # the file beside all layers' folders that says the highest version ever in service
NOTE_WAIT = 2.0  # seconds: a number that cannot be noted matters only to a registry from a backup


def pointer_name(options: str, asked: str) -> str:
    """The name of the file for a way of building a layer.

    Who serves it in another way, with other outlines or tables, neither finds nor replaces what this service
    has made of it.
    """
    digest = hashlib.sha256(f"{options}\0{asked}".encode("utf-8", "surrogateescape"))
    return f"current-{digest.hexdigest()[:12]}.json"


def write_pointer(pointer: Path, version: int, options: str) -> None:
    """Put a version into service, its number noted for `highest_number`."""
    _note_number(pointer.parent.parent, version)
    beside = pointer.with_name(f"{pointer.name}.{os.getpid()}")
    beside.write_text(json.dumps({"version": version, "options": options}), encoding="utf-8")
    os.replace(beside, pointer)


def _note_number(root: Path, version: int) -> None:
    path = root / NUMBERS
    with suppress(OSError, NotWritten), open(path, "rb+", buffering=0, opener=_opened_or_made) as file:
        lock_within(file, NOTE_WAIT)
        if version > _number(file.read()):
            file.seek(0)
            # As many digits as stand there, or more, are written over these: a disk that is full has room.
            file.write(str(version).encode())
            file.truncate()


def _opened_or_made(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


def highest_number(root: Path) -> int:
    """The highest version that ever was in service below `root`; 0 if that is not known."""
    try:
        return _number((root / NUMBERS).read_bytes())
    except OSError:
        return 0


def _number(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        return 0


def version_in(pointer: Path) -> int | None:
    """The version that a current file names; None if it is gone or damaged."""
    try:
        return int(_content(pointer)["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pointer_stamp(pointer: str) -> tuple[int, int] | None:
    """What tells a current file from the one that replaces it; None if there is none that can be reached."""
    try:
        status = os.stat(pointer)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def pointers(directory: Path) -> list[Path]:
    """All current files in a layer's folder; OSError where they cannot be listed, though it is there."""
    try:
        names = os.listdir(directory)  # Path.glob would keep quiet about what it cannot list
    except FileNotFoundError:
        return []
    return [directory / name for name in names if fnmatchcase(name, "current-*.json")]


def named_versions(directory: Path) -> set[str]:
    """Names of the catalogs of a layer that are in service.

    OSError where a current file is there but cannot be read, as nothing may be deleted then.
    """
    named = set()
    for pointer in pointers(directory):
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # it is gone, or damaged
            named.add(str(int(_content(pointer)["version"])))
    return named


def is_of_another_format(pointer: Path) -> bool:
    """Whether another release has written a current file, for catalogs that this one cannot read."""
    try:
        return not str(_content(pointer)["options"]).startswith(f"format={FORMAT},")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _content(pointer: Path) -> Any:
    return json.loads(pointer.read_text(encoding="utf-8"))
