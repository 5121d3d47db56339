"""Keys that sign tokens: Ed25519, one file `KID.pem` each, in a folder that all processes read.

The newest private key signs, once it has been there for as long as others may remember the set of public
keys; all others verify. A file may hold a public key alone, which only verifies.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import field
from itertools import pairwise
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from roiservice.auth.claims import LONGEST_LIFETIME
from roiservice.errors import BadParameter, NotWritten, SettingsError
from roiservice.records import dataclass

_log = logging.getLogger(__name__)

# RFC 9864 calls it "Ed25519", a name that PyJWT does not know; both mean the same signature with these keys.
ALGORITHM = "EdDSA"
KEYS_REMEMBERED = 300  # seconds that others may keep the set of public keys
PUBLISHED = 2 * KEYS_REMEMBERED  # seconds that a key is known before it signs
_KEY_ID = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SETTLED = 2.0  # seconds; within a tick of the file system's clock, two changes of a folder look like one
_LOOK_AGAIN = 5.0  # seconds after which files that were no keys are read again
_SECRET = "secret"  # noqa: S105 - the name of a file
_SECRET_BYTES = 32


@dataclass(frozen=True)
class Key:
    """One key that verifies; `made` is in seconds since 1970."""

    id: str
    made: float
    public: Ed25519PublicKey


@dataclass(frozen=True)
class SigningKey(Key):
    """One that signs too."""

    private: Ed25519PrivateKey = field(repr=False)


class KeyRing:
    """The keys of a folder, read again when it changes. Safe to use from several threads and processes."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock
        self._held = _Held({}, None, 0.0)

    def check(self) -> None:
        """SettingsError naming the first file that is no usable key. Elsewhere, such files are left out."""
        for path in _files(self._folder):
            _load(path)

    def all_keys(self) -> list[Key]:
        """All keys, oldest first."""
        return sorted(self._current().values(), key=_age)

    def verifier(self, key_id: str) -> Ed25519PublicKey | None:
        """The public key of that name."""
        key = self._current().get(key_id)
        return None if key is None else key.public

    def signer(self) -> SigningKey:
        """The key that signs now; one is made if there is none. Raises NotWritten if that fails."""
        found = signer_of(self.all_keys(), self._clock())
        if found is not None:
            return found
        with _locked(self._folder):
            found = signer_of(self.all_keys(), self._clock())
            return self._add() if found is None else found

    def new(self) -> SigningKey:
        """Make a key. It signs after `PUBLISHED` seconds, or at once if no other does."""
        with _locked(self._folder):
            return self._add()

    def retire(self, key_id: str) -> None:
        """Delete a key: from now on nothing that it signed is valid. Raises BadParameter if there is none."""
        with _locked(self._folder):
            if key_id not in self._current():
                raise BadParameter("KID", f"there is no key {key_id!r}")
            (self._folder / f"{key_id}.pem").unlink()

    def outlived(self) -> list[SigningKey]:
        """Private keys whose last token has expired: another has signed for the longest lifetime."""
        own = _signing(self.all_keys())
        now = self._clock()
        return [old for old, new in pairwise(own) if now > signs_from(new) + LONGEST_LIFETIME]

    def jwks(self) -> dict[str, Any]:
        """The public keys as a JSON Web Key Set (RFC 7517, 8037)."""
        return {"keys": [_jwk(key) for key in self.all_keys()]}

    def _add(self) -> SigningKey:
        made = time.gmtime(self._clock())
        key_id = f"{time.strftime('%Y%m%dT%H%M%SZ', made)}-{secrets.token_hex(2)}"
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(self._folder / f"{key_id}.pem", pem, made=self._clock())
        self._held = _Held({}, None, 0.0)
        _log.info("a new key: %s", key_id)
        return SigningKey(key_id, self._clock(), private.public_key(), private)

    def _current(self) -> dict[str, Key]:
        try:
            state = self._folder.stat()
        except FileNotFoundError:
            return {}
        seen = state.st_ino, state.st_mtime_ns
        held = self._held
        if seen == held.seen and (held.until == 0.0 or time.monotonic() < held.until):
            return held.keys
        keys, problems = _read(self._folder)
        for problem in problems:
            _log.error("a key is left out: %s", problem)
        if problems:  # a file may be put right without a change of its folder
            self._held = _Held(keys, seen, time.monotonic() + _LOOK_AGAIN)
        else:
            settled = time.time() - state.st_mtime > _SETTLED
            self._held = _Held(keys, seen if settled else None, 0.0)
        return keys


@dataclass(frozen=True)
class _Held:
    """Keys as last read: good while the folder looks like `seen`, and until that monotonic time, if any."""

    keys: dict[str, Key]
    seen: tuple[int, int] | None
    until: float


def keys_folder(state_dir: Path) -> Path:
    """Where a service keeps its keys and its secret."""
    return state_dir / "keys"


def signer_of(keys: list[Key], now: float) -> SigningKey | None:
    """Of keys, oldest first, the one that signs: the newest that is known long enough, else the oldest."""
    own = _signing(keys)
    known = [key for key in own if signs_from(key) <= now]
    return known[-1] if known else (own[0] if own else None)


def signs_from(key: Key) -> float:
    """When a key takes over from an older one, in seconds since 1970."""
    return key.made + PUBLISHED


def server_secret(folder: Path) -> bytes:
    """The secret that names of sessions are made with: the file `secret`, which is made if there is none.

    Raises SettingsError if it is of no use, NotWritten if it cannot be made.
    """
    path = folder / _SECRET
    if not path.exists():
        with _locked(folder):
            if not path.exists():
                write_private(path, secrets.token_bytes(_SECRET_BYTES))
    secret = _content(path, private=True)
    if len(secret) < _SECRET_BYTES:
        raise SettingsError(f"{path}: holds less than {_SECRET_BYTES} bytes")
    return secret


def write_private(path: Path, content: bytes, made: float | None = None) -> None:
    """Write a file that its owner alone can read, whole or not at all. Raises NotWritten."""
    try:
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".")  # its mode is 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if made is not None:
                os.utime(beside, (made, made))
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
    except OSError as error:
        raise NotWritten(f"{path}: {error.strerror}") from error


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.pem")) if _KEY_ID.fullmatch(path.stem)]


def _read(folder: Path) -> tuple[dict[str, Key], list[SettingsError]]:
    """The keys of a folder, and what is wrong with other files in it."""
    keys = {}
    problems = []
    for path in _files(folder):
        try:
            keys[path.stem] = _load(path)
        except FileNotFoundError:  # deleted meanwhile
            continue
        except SettingsError as error:
            problems.append(error)
    return keys, problems


def _load(path: Path) -> Key:
    """The key of a file. SettingsError if it holds no Ed25519 key."""
    pem = _content(path, private=False)
    made = path.stat().st_mtime
    try:
        if b"PRIVATE KEY" in pem:
            private = serialization.load_pem_private_key(_content(path, private=True), None)
            if isinstance(private, Ed25519PrivateKey):
                return SigningKey(path.stem, made, private.public_key(), private)
        else:
            public = serialization.load_pem_public_key(pem)
            if isinstance(public, Ed25519PublicKey):
                return Key(path.stem, made, public)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        pass
    raise SettingsError(f"{path}: is no Ed25519 key in PEM without a password")


def _content(path: Path, *, private: bool) -> bytes:
    """What a file holds. SettingsError if it cannot be read; `private`: also if every user may read it."""
    try:
        if private and path.stat().st_mode & 0o007:
            raise SettingsError(f"{path}: others may read it; say `chmod 600`")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from changing the folder, which is made if there is none."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise NotWritten(f"{folder}: {error.strerror}") from error


def _signing(keys: list[Key]) -> list[SigningKey]:
    return [key for key in keys if isinstance(key, SigningKey)]


def _age(key: Key) -> tuple[float, str]:
    return key.made, key.id


def _jwk(key: Key) -> dict[str, str]:
    x = key.public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    text = urlsafe_b64encode(x).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": ALGORITHM, "kid": key.id, "x": text}
