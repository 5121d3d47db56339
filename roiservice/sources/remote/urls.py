"""Remote locations: URLs in one spelling, free of secrets."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urlsplit

from roiservice.errors import SourceRefused

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PORTS = {"http": 80, "https": 443}
# RFC 3986: what a path may hold as it is; `%` keeps escapes that are there already.
_PATH_CHARACTERS = "/%-._~!$&'()*+,;=:@"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


def is_url(location: object) -> bool:
    """Whether a location is a URL rather than a path on this machine."""
    return isinstance(location, str) and _URL.match(location) is not None


def normalized_url(location: str) -> str:
    """The URL with lower-case scheme and host, without a default port and without a final slash.

    `s3://bucket/key` keeps its key as it is; keys are not percent-encoded. SourceRefused, with the secrets
    left out, for other schemes and for URLs with a user, a password, a query or a fragment.
    """
    scheme, _, rest = location.partition("://")
    if scheme.lower() == "s3":
        return _normalized_s3(rest)
    try:
        parts = urlsplit(location)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise SourceRefused(f"{scheme.lower()}://...", "", "is no usable URL") from None
    shown = f"{parts.scheme}://{_authority(parts.scheme, host, port)}{_clean_url_path(parts.path)}"
    if parts.scheme not in _PORTS:
        raise SourceRefused(shown, "", f"{parts.scheme}:// is not supported; http, https and s3 are")
    if parts.username is not None or parts.password is not None:
        raise SourceRefused(shown, "", "must not hold a user or password; those belong into ~/.netrc")
    if parts.query or parts.fragment:
        raise SourceRefused(shown, "", "must have neither a query (?) nor a fragment (#)")
    if not host or not parts.netloc.isprintable() or " " in parts.netloc:
        raise SourceRefused(shown, "", "names no host")
    _check_segments(shown, parts.path)
    return shown


def bucket_and_key(location: str) -> tuple[str, str]:
    """Bucket and key of a normalized `s3://bucket/key`; the key is "" for the whole bucket."""
    bucket, _, key = location.removeprefix("s3://").partition("/")
    return bucket, key


def file_name(location: str) -> str:
    """What a user would call it: the last segment of a normalized URL, else its host or bucket."""
    name = location.rstrip("/").rpartition("/")[2]
    return name if location.startswith("s3://") else unquote(name)


def encoded(key: str) -> str:
    """A store's path as part of a URL."""
    return quote(key, safe="/-._~")


def _normalized_s3(rest: str) -> str:
    bucket, _, key = rest.partition("/")
    key = "/".join(segment for segment in key.split("/") if segment)
    if not _BUCKET.fullmatch(bucket):
        raise SourceRefused("s3://...", "", "names no bucket; it must be s3://bucket or s3://bucket/key")
    location = f"s3://{bucket}/{key}" if key else f"s3://{bucket}"
    _check_segments(location, key)
    return location


def _authority(scheme: str, host: str, port: int | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port is None or port == _PORTS.get(scheme) else f"{name}:{port}"


def _clean_url_path(path: str) -> str:
    segments = [segment for segment in path.split("/") if segment]
    return "".join("/" + quote(segment, safe=_PATH_CHARACTERS) for segment in segments)


def _check_segments(shown: str, path: str) -> None:
    if not path.isprintable() or not {".", ".."}.isdisjoint(map(unquote, path.split("/"))):
        raise SourceRefused(shown, "", "must not hold `.` or `..` segments or control characters")
