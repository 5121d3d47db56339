"""Where OMERO says that an image or a label image lies, and whether that may be read.

OMERO keeps it as the `externalInfo` of an Image or a Mask. In JSON (omero-marshal 0.9) that has `EntityType`,
`EntityId`, `Lsid` and `Uuid`. omero-zarr-pixel-buffer says what these mean for NGFF: `Lsid` is the group with
`multiscales`, as an absolute path or as `s3://<server>/<bucket>/<key>`, which may end in a query such as
`?anonymous=true`; it is percent-encoded if `EntityId` is 3 and not if that is 4, which writers
keep to for URLs only. `omero-import-zarr` turns https:// into s3:// of the same host.

Whoever may change an image in OMERO writes what he likes there. So a place counts only if it lies below one
of the configured roots once links, `..` and escapes are followed to their end.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

from roiservice.errors import SettingsError, SourceError
from roiservice.sources.paths import is_inside
from roiservice.sources.remote.urls import is_url, normalized_url

ENTITY_TYPE = "com.glencoesoftware.ngff:multiscales"
_ENCODED, _DECODED = 3, 4
_LONGEST = 8192  # characters


class Roots:
    """The folders and URLs below which stores may be read that OMERO names; empty if nothing may."""

    def __init__(self, text: str) -> None:
        """`text` is the setting, parts separated by commas or line ends. SettingsError for unusable ones."""
        self._folders: list[str] = []
        self._urls: list[str] = []
        for part in filter(None, map(str.strip, re.split(r"[,\n]", text))):
            path = os.path.expanduser(part)
            if is_url(part):
                try:
                    self._urls.append(normalized_url(part))
                except SourceError as error:
                    raise SettingsError(f"ROISERVICE_ROOTS: {error}") from None
            elif os.path.isabs(path):
                self._folders.append(os.path.realpath(path))
            else:
                raise SettingsError(f"ROISERVICE_ROOTS: {part} is neither an absolute path nor a URL")

    def __bool__(self) -> bool:
        return bool(self._folders or self._urls)

    def allow(self, location: str) -> bool:
        """Whether a path without symbolic links, or a normalized URL, lies below a root or is one."""
        if is_url(location):
            return any(location == root or location.startswith(f"{root}/") for root in self._urls)
        return any(is_inside(location, root) for root in self._folders)

    def place(self, info: object) -> str | None:
        """Path or URL of the NGFF group that an `externalInfo` names; None if that is not allowed."""
        if not isinstance(info, dict) or info.get("EntityType") != ENTITY_TYPE:
            return None
        kind, lsid = info.get("EntityId"), info.get("Lsid")
        if kind not in (_ENCODED, _DECODED) or not isinstance(lsid, str):
            return None
        if not 0 < len(lsid) <= _LONGEST or not lsid.isprintable():
            return None
        found = (_location(reading) for reading in _readings(lsid, encoded=kind == _ENCODED))
        return next((each for each in found if each is not None and self.allow(each)), None)


def _readings(lsid: str, *, encoded: bool) -> Iterator[str]:
    """What an `Lsid` may mean, likeliest first: paths, and URLs with escapes."""
    scheme, mark, rest = lsid.partition("://")
    if not mark:
        yield lsid
        if encoded:
            yield unquote(lsid)
        return
    scheme = scheme.lower()
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host in ("", "localhost"):
            yield slash + (unquote(path) if encoded else path)
        return
    path, question, query = rest.partition("?")
    if question and "/" in query:
        return
    as_url = path if encoded else quote(path, safe="/:[]@!$&'()*+,;=-._~")
    if scheme == "s3":
        host, _, below = (unquote(path) if encoded else path).partition("/")
        if _reads_from(host):
            yield f"s3://{below}"
        yield f"s3://{host}/{below}"
        scheme = "https"
    yield f"{scheme}://{as_url}"


def _location(reading: str) -> str | None:
    """The reading as an absolute path without symbolic links, or a normalized URL; None if it is neither."""
    if is_url(reading):
        if any(map(_is_disguised, reading.split("/")[3:])):
            return None
        try:
            return normalized_url(reading)
        except SourceError:
            return None
    if not reading.startswith("/") or ".." in reading.split("/") or not reading.isprintable():
        return None
    return os.path.realpath(reading)


def _is_disguised(segment: str) -> bool:
    """Whether some server may take a segment of a URL for several, or for a step upward."""
    for _ in range(3):  # escapes of escapes of escapes
        if segment in (".", "..") or not {"/", "\\"}.isdisjoint(segment) or not segment.isprintable():
            return True
        segment = unquote(segment)
    return False


def _reads_from(host: str) -> bool:
    from roiservice.sources.remote.s3 import is_own_server

    try:
        return is_own_server(host)
    except SourceError:
        return False


def member(document: Any, *names: str) -> Any:
    """What a JSON document has under these names, one within the other; None where there is nothing."""
    for name in names:
        document = document.get(name) if isinstance(document, dict) else None
    return document
