"""Tokens of our own: JSON Web Tokens (RFC 7519, 8725) signed with Ed25519, in one strict form.

Access tokens are sent in the Authorization header. Link tickets are part of URLs, for clients that cannot
send headers, and are for one image and one path. Nothing of one kind passes as the other.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
import threading
import time
from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.api_jws import PyJWS
from jwt.exceptions import InvalidTokenError

from roiservice.auth.claims import (
    ACCESS,
    ACTION,
    LEEWAY,
    LONGEST_PATH,
    TICKET,
    Claims,
    Kind,
    check_claims,
    check_times,
    checked_images,
    is_prefix,
)
from roiservice.auth.keys import ALGORITHM, KeyRing
from roiservice.errors import BadParameter, TokenExpired, TokenInvalid
from roiservice.records import dataclass

_log = logging.getLogger(__name__)

LONGEST_TOKEN = 4096  # characters
MOST_KEPT = 4096  # tokens whose claims are remembered
# 64 bytes make 86 characters, of which the last carries 2 bits: one signature has one spelling.
_FORM = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]{85}[AQgw]")
_jws = PyJWS(algorithms=[ALGORITHM])


@dataclass(frozen=True)
class Owner:
    """For whom a token is made: `subject` and `session` of its claims."""

    subject: str
    session: str


@dataclass(frozen=True)
class Minted:
    """A new token and the seconds that it lives; the text of the token must not be logged."""

    text: str
    token_id: str
    lifetime: int

    def __repr__(self) -> str:
        return f"Minted({self.token_id})"


@dataclass(frozen=True)
class _Verified:
    """The claims of a token, and the key that its signature was found good with."""

    claims: Claims
    key: Ed25519PublicKey


class Tokens:
    """Makes and reads the tokens of one service, which `issuer` names; `clock` gives seconds since 1970.

    What was found valid is remembered by its digest until its key changes: a signature takes as long to check
    as all else of a page that is kept. Safe to use from several threads.
    """

    def __init__(self, keys: KeyRing, issuer: str, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._issuer = issuer
        self._clock = clock
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._lock = threading.Lock()

    def access_token(self, owner: Owner, images: Sequence[int], lifetime: int = ACCESS.lifetime) -> Minted:
        """A token for 1 to 100 images, which the owner is known to be able to read. Raises BadParameter."""
        return self._mint(ACCESS, owner, {"img": checked_images(images)}, lifetime)

    def ticket(
        self,
        owner: Owner,
        image: int,
        path: str,
        lifetime: int = TICKET.lifetime,
        made_with: Claims | None = None,
    ) -> Minted:
        """A link ticket for what is of that image and lies at or below `path`. Raises BadParameter.

        It does not outlive the token that it is `made_with`, and names it: it is taken back with it.
        """
        if not is_prefix(path):
            raise BadParameter("path", f"must be a plain path of 1 to {LONGEST_PATH} characters")
        rights: dict[str, Any] = {"img": checked_images([image]), "pth": path}
        if made_with is None:
            return self._mint(TICKET, owner, rights, lifetime)
        rights["via"] = made_with.token_id
        return self._mint(TICKET, owner, rights, lifetime, made_with.expires)

    def verify(self, token: str, kind: Kind) -> Claims:
        """What a token says, if it is a valid one of that kind: TokenExpired, or TokenInvalid for all else.

        Whether it was revoked, and is for the image or path asked for, is another question.
        """
        if len(token) > LONGEST_TOKEN:
            raise TokenInvalid("the form is not that of a token")
        name = hashlib.sha256(f"{kind.typ} {token}".encode("utf-8", "surrogatepass")).digest()
        now = self._clock()
        with self._lock:
            known = self._verified.get(name)
        if known is None or not self._holds(known, now):
            known = self._read(token, kind, now)
            self._remember(name, known)
        if now >= known.claims.expires:
            raise TokenExpired
        return known.claims

    def _read(self, token: str, kind: Kind, now: float) -> _Verified:
        """What a token says, expired or not. Raises TokenInvalid."""
        form = _FORM.fullmatch(token)
        if form is None:
            raise TokenInvalid("the form is not that of a token")
        key_id = _key_id(_decoded(form[1]), kind)
        key = self._keys.verifier(key_id)
        if key is None:
            raise TokenInvalid("no such key")
        try:
            payload = _jws.decode(token, key, algorithms=[ALGORITHM])
        except InvalidTokenError:
            raise TokenInvalid("the signature is not ours") from None
        document = _object(payload)
        claims = check_claims(kind, self._issuer, key_id, document)
        check_times(kind, document, now)
        return _Verified(claims, key)

    def _holds(self, known: _Verified, now: float) -> bool:
        """Whether the token would be found good now as well: its key is there, its time has begun."""
        return self._keys.verifier(known.claims.key_id) == known.key and known.claims.issued <= now + LEEWAY

    def _remember(self, name: bytes, known: _Verified) -> None:
        with self._lock:
            self._verified[name] = known
            while len(self._verified) > MOST_KEPT:
                self._verified.popitem(last=False)

    def _mint(
        self, kind: Kind, owner: Owner, rights: dict[str, Any], lifetime: int, latest: int | None = None
    ) -> Minted:
        if type(lifetime) is not int or not 1 <= lifetime <= kind.longest:
            raise BadParameter("lifetime", f"must be 1 to {kind.longest} seconds")
        now = int(self._clock())
        if latest is not None:
            lifetime = max(min(lifetime, latest - now), 1)
        token_id = secrets.token_hex(16)
        document = {
            "iss": self._issuer,
            "aud": self._issuer + kind.audience_end,
            "sub": owner.subject,
            "sid": owner.session,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "jti": token_id,
            "act": [ACTION],
            **rights,
        }
        key = self._keys.signer()
        payload = json.dumps(document, separators=(",", ":")).encode()
        text = _jws.encode(payload, key.private, ALGORITHM, {"typ": kind.typ, "kid": key.id})
        _log.info("made %s %s of %s for %s", kind.typ, token_id, owner.subject, rights)
        return Minted(text, token_id, lifetime)


def issuer_of(service: str) -> str:
    """What issuer and audience of tokens call a service; `service` is the UUID of its registry.

    A name that lasts: services are reached by several addresses, and a Host header is for anybody to choose.
    """
    return f"urn:uuid:{service}"


def _key_id(header: bytes, kind: Kind) -> str:
    """The key id of a header that is exactly as we write it."""
    document = _object(header)
    key_id = document.get("kid")
    if document != {"alg": ALGORITHM, "typ": kind.typ, "kid": key_id} or type(key_id) is not str:
        raise TokenInvalid("the header is not ours")
    return key_id


def _decoded(segment: str) -> bytes:
    try:
        return urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        raise TokenInvalid("a part is not base64url") from None


def _object(text: bytes) -> dict[str, Any]:
    """A JSON object without repeated names and without NaN."""
    try:
        found = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise TokenInvalid("a part is not clean JSON") from None
    if type(found) is not dict:
        raise TokenInvalid("a part is no JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a name is repeated")
    return document


def _refuse(name: str) -> Any:
    raise ValueError(name)
