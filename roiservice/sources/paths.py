"""Paths inside a store: segments joined by `/`, "" for the root, never leaving it; and paths on disk."""

from __future__ import annotations

import os
import posixpath


def clean_path(path: object) -> str | None:
    """Path below a group as metadata states it, without empty and `.` segments.

    None where it is no text, empty, absolute, has a `..` segment or cannot be a file name.
    """
    if not isinstance(path, str) or path.startswith("/") or "\0" in path or not is_unicode(path):
        return None
    segments = [segment for segment in path.split("/") if segment not in ("", ".")]
    return None if ".." in segments or not segments else "/".join(segments)


def relative_path(base: str, path: str) -> str | None:
    """Where `path`, which may climb by `..`, leads from group `base`; None if out of the store."""
    if path.startswith("/") or "\0" in path or "://" in path or not is_unicode(path):
        return None
    target = posixpath.normpath(posixpath.join(base, path))
    if target == ".":
        return ""
    return None if target == ".." or target.startswith(("../", "/")) else target


def join(*paths: str) -> str:
    """Join clean paths; empty ones (the root) add nothing."""
    return "/".join(path for path in paths if path)


def is_inside(path: str, root: str) -> bool:
    """Whether `path`, its symlinks followed, lies in `root` (absolute, free of symlinks) or is it."""
    real = os.path.realpath(path)
    return real == root or real.startswith(root.rstrip(os.sep) + os.sep)


def is_unicode(text: str) -> bool:
    """Whether `text` has no lone surrogates, which JSON escapes can spell.

    Python has them in names of files for what it could not decode.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
