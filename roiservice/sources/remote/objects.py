"""Objects of one remote root: whole, in parts, or only their versions.

What counts as missing is decided here and in `store`. 404 alone means that there is no such object. 403 is an
error of its own kind, `Forbidden`: object stores that do not let everybody list a bucket give it for absent
keys as well. Callers may take it for "missing" where they look for documents that need not exist, never where
a missing object would stand for pixels. The same holds for web pages that come in place of an object.
"""

from __future__ import annotations

import hashlib
import netrc
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from urllib.parse import urlsplit

import urllib3

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.records import dataclass
from roiservice.sources.remote import transport
from roiservice.sources.remote.addresses import LOOPBACK
from roiservice.sources.remote.transport import Origin, Reply, Request
from roiservice.sources.remote.urls import encoded

_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_NO_HEAD = (401, 405, 501, *transport.PASSING)  # states that may be about the method
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


class Forbidden(SourceDamaged):
    """403: the object must not be read, or there is none and the server does not say so."""


class WebPage(SourceDamaged):
    """An HTML page instead of the object: a folder's listing, a login, or an error disguised as content."""


@dataclass(frozen=True)
class Version:
    """What tells one content of an object from another: its size in bytes and its ETag, else its date.

    Without either, `mark` is "".
    """

    size: int
    mark: str

    @property
    def number(self) -> int:
        """`mark` as an integer 0 .. 2^63 - 1; 0 where there is none."""
        return number_of(self.mark.encode()) if self.mark else 0


@dataclass(frozen=True)
class Content:
    """Bytes of an object, and the version that they belong to."""

    data: bytes
    version: Version


@dataclass(frozen=True)
class Listing:
    """What lies below a key: names of folders, and (name, version) of objects.

    `complete` is False where the listing stops at its bound.
    """

    folders: tuple[str, ...]
    files: tuple[tuple[str, Version], ...]
    complete: bool


def number_of(data: bytes) -> int:
    """A 63-bit digest."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") >> 1


class HttpObjects:
    """Objects below an http(s) URL; `key` "" is the URL itself. Safe to use from several threads.

    `location` is what messages call the root.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._base = location

    def get(
        self, key: str, most: int, span: slice | None = None, version: Version | None = None
    ) -> Content | None:
        """The object, or `span` of it: (start, stop), (start, None) or (-n, None). None if there is none.

        `version`: SourceDamaged unless it still is this one. A server that knows no ranges sends the whole,
        of which `span` is cut, within `most`. Raises Forbidden, WebPage, SourceDamaged, and SourceRefused
        above `most` bytes.
        """
        reply = self._send("GET", key, most, _conditions(span, version))
        if reply.status == 412 or (reply.status == 404 and version is not None):
            raise self._replaced(key)
        if reply.status == 404:
            return None
        if reply.status not in (200, 206) or (span is None and reply.status == 206):
            raise self._refusal(key, reply)
        self._check_page(key, reply)
        whole = reply.status == 200
        found = _version_of(reply, len(reply.data)) if whole else self._checked_part(key, reply, span)
        if version is not None and found != version:
            raise self._replaced(key)
        return Content(reply.data[span] if whole and span is not None else reply.data, found)

    def get_part(self, start: int, stop: int, version: Version) -> bytes:
        """Bytes [start, stop) of the object at the root, of this version, without ever reading it whole.

        Raises as `get`; SourceRefused if the server knows no ranges.
        """
        if start >= stop:
            return b""
        span = slice(start, stop)
        reply = self._send("GET", "", stop - start, _conditions(span, version), wanted=(206,))
        if reply.status in (404, 412):
            raise self._replaced("")
        if reply.status == 200:
            self._check_page("", reply)
            reason = "the server does not support range requests, without which no zip file can be read"
            raise SourceRefused(self.location, "", reason)
        if reply.status != 206:
            raise self._refusal("", reply)
        if self._checked_part("", reply, span) != version:
            raise self._replaced("")
        return reply.data

    def head(self, key: str) -> Version | None:
        """The version of an object; None if there is none. Raises as `get`.

        Where HEAD fails, GET decides: there are servers that answer that alone.
        """
        reply = self._send("HEAD", key, 0, {})
        if reply.status in _NO_HEAD:
            reply = self._send("GET", key, 1, {"Range": "bytes=0-0"}, wanted=(206,))
        if reply.status == 416:  # it has no first byte
            found = self.get(key, 0)
            return None if found is None else found.version
        if reply.status == 404:
            return None
        if reply.status not in (200, 206):
            raise self._refusal(key, reply)
        self._check_page(key, reply)
        return self._checked_part(key, reply, slice(0, 1)) if reply.status == 206 else _version_of(reply, -1)

    def listing(self, key: str, most: int, *, deep: bool = False) -> Listing | None:  # noqa: ARG002
        """What lies below `key`, the first `most` entries of it; None where nothing can be listed.

        `deep`: all objects at any depth, and no folders.
        """
        return None

    @property
    def executor(self) -> ThreadPoolExecutor:
        """Threads for requests to this host."""
        return self._origin.executor

    @property
    def _origin(self) -> Origin:
        return transport.connect(transport.origin_of(self._base))

    def _send(
        self,
        method: str,
        key: str,
        most: int,
        headers: Mapping[str, str],
        *,
        wanted: tuple[int, ...] = (200, 206),
        query: str = "",
    ) -> Reply:
        """One request; `query` asks the root itself something, and `key` is then a name for messages."""
        request = Request(
            url=self._url(key) if not query else f"{self._base}/?{query}",
            location=self.location,
            part=key,
            headers=lambda method, url: self._signed(method, url, headers),
            most=most,
            method=method,
            wanted=wanted,
            follow=self._follow,
        )
        return self._origin.send(request)

    _follow = True

    def _url(self, key: str) -> str:
        return f"{self._base}/{encoded(key)}" if key else self._base

    def _signed(self, method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:  # noqa: ARG002
        """All headers of one try."""
        # Asked for any encoding, some servers compress, and lengths and ranges would be of something else.
        return {"Accept-Encoding": "identity", **password_of(self._base), **headers}

    def _refusal(self, key: str, reply: Reply) -> SourceError:
        """The error for a state that is neither content nor "missing"."""
        reason = f"the server answers {reply.phrase}"
        if reply.status == 403:
            return Forbidden(self.location, key, reason)
        if reply.status == 401:
            reason = f"{reason}: it wants a user and password, which can be given in ~/.netrc"
        return SourceDamaged(self.location, key, reason)

    def _replaced(self, key: str) -> SourceError:
        return SourceDamaged(self.location, key, "was replaced while it was being read")

    def _check_page(self, key: str, reply: Reply) -> None:
        kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in _PAGE_TYPES and not key.lower().endswith((".html", ".htm")):
            raise WebPage(self.location, key, "the server sends a web page in its place")

    def _checked_part(self, key: str, reply: Reply, span: slice | None) -> Version:
        """The version of the whole object, once the part is known to be the one that was asked for."""
        match = _CONTENT_RANGE.fullmatch(reply.headers.get("content-range", "").strip())
        encoding = reply.headers.get("content-encoding", "identity")
        if match is None or span is None or encoding != "identity":
            raise SourceDamaged(self.location, key, "the server sends a part without saying which")
        first, last, size = map(int, match.groups())
        start, stop, _ = span.indices(size)
        if (first, last + 1) != (start, stop) or len(reply.data) != stop - start:
            raise SourceDamaged(self.location, key, "the server sends another part than the one asked for")
        return _version_of(reply, size)


def _conditions(span: slice | None, version: Version | None) -> dict[str, str]:
    """Headers that ask for a part, and only of this version."""
    headers: dict[str, str] = {}
    if span is not None:
        headers["Range"] = _range(span)
    if version is not None and version.mark.startswith('"'):  # RFC 9110: weak tags (W/) never match
        headers["If-Match"] = version.mark
    return headers


def _range(span: slice) -> str:
    """`span` as RFC 9110 writes it, its end included."""
    if span.start < 0:
        return f"bytes={span.start}"
    return f"bytes={span.start}-" if span.stop is None else f"bytes={span.start}-{span.stop - 1}"


def _version_of(reply: Reply, size: int) -> Version:
    """`size` -1: as the headers state it."""
    stated = transport.stated_length(reply.headers)
    mark = reply.headers.get("etag", "") or reply.headers.get("last-modified", "")
    return Version(stated if size < 0 and stated is not None else size, mark.strip())


@lru_cache(maxsize=64)
def password_of(base: str) -> Mapping[str, str]:
    """The user and password of ~/.netrc (or $NETRC) for this host; they leave this machine encrypted only."""
    parts = urlsplit(base)
    host = parts.hostname or ""
    if parts.scheme != "https" and host not in LOOPBACK:
        return {}
    try:
        file = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
        found = netrc.netrc(file).authenticators(host)
    except OSError:
        return {}
    except netrc.NetrcParseError as error:
        raise SourceRefused(base, "", f"line {error.lineno} of ~/.netrc cannot be read") from None
    if found is None:
        return {}
    return urllib3.make_headers(basic_auth=f"{found[0]}:{found[2]}")


# What is forked for a build may come long after its file has changed.
os.register_at_fork(after_in_child=password_of.cache_clear)
