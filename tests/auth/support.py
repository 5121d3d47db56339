"""Clocks, stores and tokens that tests of access control share."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from roiservice.auth.claims import ACCESS, TICKET, Kind
from roiservice.auth.keys import KeyRing
from roiservice.auth.tokens import Owner, Tokens
from roiservice.errors import SharedStoreFailed

ISSUER = "urn:uuid:5f782f9e-cadd-4646-a7cd-99f2944ea6bc"
NOW = 1_800_000_000
OWNER = Owner("u:4", "0123456789abcdef")
SECRET = b"s" * 32
Json = dict[str, Any]


class Clock:
    """Seconds since 1970 that pass only when a test says so."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Store:
    """A shared store in memory; `down` makes it fail, `asked` counts."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.ttls: dict[str, int] = {}
        self.down = False
        self.asked = 0

    def get(self, key: str) -> bytes | None:
        self._check()
        return self.values.get(key)

    def put(self, key: str, value: bytes, ttl: int) -> None:
        self._check()
        assert ttl >= 1
        self.values[key], self.ttls[key] = value, ttl

    def add(self, key: str, value: bytes, ttl: int) -> bool:
        self._check()
        if key in self.values:
            return False
        self.values[key], self.ttls[key] = value, ttl
        return True

    def remove(self, key: str) -> None:
        self._check()
        self.values.pop(key, None)
        self.ttls.pop(key, None)

    def _check(self) -> None:
        self.asked += 1
        if self.down:
            raise SharedStoreFailed("it is down")


class Service:
    """The tokens of one service, with its clock and the means to forge."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.ring = KeyRing(folder, self.clock)
        self.tokens = Tokens(self.ring, ISSUER, self.clock)
        self.key = self.ring.signer()

    @property
    def pem(self) -> bytes:
        """The private key, as other libraries read it."""
        return self.key.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def public_pem(self) -> bytes:
        return self.key.public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def header(self, kind: Kind = ACCESS, **changes: object) -> Json:
        return {"alg": "EdDSA", "typ": kind.typ, "kid": self.key.id, **changes}

    def claims(self, kind: Kind = ACCESS, **changes: object) -> Json:
        path = {"pth": "/images/7"} if kind is TICKET else {}
        return {
            "iss": ISSUER,
            "aud": ISSUER + kind.audience_end,
            "sub": "u:4",
            "sid": "0123456789abcdef",
            "iat": NOW,
            "nbf": NOW,
            "exp": NOW + 300,
            "jti": "0" * 32,
            "act": ["roi:read"],
            "img": [7],
            **path,
            **changes,
        }

    def sign(self, header: object, claims: object) -> str:
        """A token that says these, signed with the service's own key, by no library of tokens."""
        head, body = (
            each if isinstance(each, bytes) else json.dumps(each).encode() for each in (header, claims)
        )
        text = f"{encoded(head)}.{encoded(body)}"
        return f"{text}.{encoded(self.key.private.sign(text.encode()))}"


def encoded(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def without(document: Json, name: str) -> Json:
    return {key: value for key, value in document.items() if key != name}
