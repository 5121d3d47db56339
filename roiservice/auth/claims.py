"""What a token says: its two kinds, its claims, and which values they may have.

The names of claims are those of RFC 7519, 4.1, and of our own: `img`, `act`, `sid`, `pth`, `via`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from roiservice.errors import BadParameter, TokenInvalid
from roiservice.records import dataclass

LARGEST_IMAGE = 2**63 - 1
MOST_IMAGES = 100
LONGEST_PATH = 512
ACTION = "roi:read"
LEEWAY = 30  # seconds that the clocks of issuers may be ahead

_NUMBERS = frozenset(("iat", "nbf", "exp"))
_TEXTS = {
    "jti": re.compile("[0-9a-f]{32}"),
    "sid": re.compile("[0-9a-f]{16}"),
    "sub": re.compile("[!-~]{1,64}"),
    "via": re.compile("[0-9a-f]{32}"),
}


@dataclass(frozen=True)
class Kind:
    """One kind of token: the `typ` of its header, the end of its audience, and lifetimes in seconds.

    It has all of `claims` and may have those of `more`.
    """

    typ: str
    audience_end: str
    lifetime: int
    longest: int
    claims: frozenset[str]
    more: frozenset[str] = frozenset()


_CLAIMS = frozenset(("iss", "aud", "sub", "iat", "nbf", "exp", "jti", "img", "act", "sid"))
ACCESS = Kind("roi-at+jwt", "", 300, 3600, _CLAIMS)
TICKET = Kind("roi-link+jwt", "/ticket", 900, 86_400, _CLAIMS | {"pth"}, frozenset(("via",)))
LONGEST_LIFETIME = max(ACCESS.longest, TICKET.longest)


@dataclass(frozen=True)
class Claims:
    """What a valid token says; times are seconds since 1970.

    `subject` is `u:` and OMERO's user id, `s:` and a name of the session, or `script`. `session` names the
    session that the token was made in, without giving it away. `path` is that of a ticket, else None;
    `made_with` the id of the token that a ticket was made with, None if that was a session.
    """

    token_id: str
    key_id: str
    subject: str
    session: str
    images: tuple[int, ...]
    issued: int
    expires: int
    path: str | None
    made_with: str | None = None


def check_claims(kind: Kind, issuer: str, key_id: str, document: Mapping[str, Any]) -> Claims:
    """The claims of a token of that kind. Raises TokenInvalid; times are not compared with a clock."""
    if not kind.claims <= document.keys() <= kind.claims | kind.more:
        raise TokenInvalid("claims are missing, or are not ours")
    if document["iss"] != issuer or document["aud"] != issuer + kind.audience_end:
        raise TokenInvalid("issuer or audience is another one")
    if any(type(document[name]) is not int for name in _NUMBERS):
        raise TokenInvalid("a time is no integer")
    for name, pattern in _TEXTS.items():
        if name in document and not (type(document[name]) is str and pattern.fullmatch(document[name])):
            raise TokenInvalid(f"{name} is malformed")
    if document["act"] != [ACTION]:
        raise TokenInvalid("the action is another one")
    path = document.get("pth")
    if "pth" in kind.claims and (type(path) is not str or not is_prefix(path)):
        raise TokenInvalid("pth is malformed")
    return Claims(
        document["jti"], key_id, document["sub"], document["sid"], _images(kind, document["img"]),
        document["iat"], document["exp"], path, document.get("via"),
    )  # fmt: skip


def check_times(kind: Kind, document: Mapping[str, int], now: float) -> None:
    """TokenInvalid if the token begins later than `now`, or lives longer than its kind may."""
    if document["iat"] > now + LEEWAY or document["nbf"] > now + LEEWAY:
        raise TokenInvalid("the token is from the future")
    if not 0 < document["exp"] - document["iat"] <= kind.longest:
        raise TokenInvalid("the lifetime is too long, or none")


def is_image(value: object) -> bool:
    """Whether a value is an id of an image as OMERO has them; True is not."""
    return type(value) is int and 1 <= value <= LARGEST_IMAGE


def path_segments(path: str) -> list[str] | None:
    """The segments of an absolute path, with or without a slash at its end.

    None for a path that could be read in more than one way: with empty, `.` or `..` segments,
    percent signs, backslashes or control characters.
    """
    if not path.startswith("/") or not path.isprintable() or "%" in path or "\\" in path:
        return None
    segments = path.removesuffix("/").split("/")[1:]
    return None if {"", ".", ".."} & set(segments) else segments


def is_prefix(path: str) -> bool:
    """Whether a ticket may be for this path: a clear one that is not the root."""
    return len(path) <= LONGEST_PATH and bool(path_segments(path))


def covers(prefix: str, path: str) -> bool:
    """Whether a requested path, percent-decoded as routes see it, lies at or below the prefix."""
    begin, segments = path_segments(prefix), path_segments(path)
    return bool(begin) and segments is not None and segments[: len(begin or ())] == begin


def checked_images(images: Sequence[int]) -> list[int]:
    """The images of a new token, in order and each once. Raises BadParameter."""
    if not all(is_image(image) for image in images):
        raise BadParameter("images", f"must be ids from 1 to {LARGEST_IMAGE}")
    distinct = sorted(set(images))
    if not 1 <= len(distinct) <= MOST_IMAGES:
        raise BadParameter("images", f"a token is for 1 to {MOST_IMAGES} images")
    return distinct


def _images(kind: Kind, value: object) -> tuple[int, ...]:
    if type(value) is not list or not 1 <= len(value) <= MOST_IMAGES or not all(map(is_image, value)):
        raise TokenInvalid("img is malformed")
    if kind is TICKET and len(value) != 1:
        raise TokenInvalid("a ticket is for one image")
    return tuple(value)
