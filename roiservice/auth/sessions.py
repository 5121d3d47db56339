"""OMERO.web's sessions: names for them that give nothing away, and, where they lie in Redis, what they hold.

Django's cache-backed sessions are pickles (of django-redis and of Django's own Redis cache alike). They are
read as data: only the operations that build plain values are let through, so that no bytes can run anything.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import logging
import pickle
import pickletools
import re
from typing import Any, NoReturn

from roiservice.auth.shared import SharedStore
from roiservice.errors import SharedStoreFailed
from roiservice.records import dataclass

_log = logging.getLogger(__name__)

_SESSION = re.compile("[A-Za-z0-9_-]{8,128}")
_LARGEST = 2**18  # bytes of a pickled session; usual ones have 1 kB
# No tuples: a dict key of nested ones, each twice in the next, would take for ever to hash.
_PLAIN = frozenset(
    (
        "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE", "INT",
        "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
        "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES",
        "SHORT_BINBYTES", "BINBYTES8", "EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_DICT", "DICT",
        "SETITEM", "SETITEMS", "GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE",
    )
)  # fmt: skip
_MEMO = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_MALFORMED = (
    pickle.UnpicklingError, ValueError, TypeError, AttributeError, EOFError, IndexError, KeyError,
    OverflowError, MemoryError,
)  # fmt: skip


def is_session(text: str) -> bool:
    """Whether a text has the form of a Django session key."""
    return _SESSION.fullmatch(text) is not None


@dataclass(frozen=True)
class SessionNames:
    """Names of the sessions of one OMERO.web. Without the secret they lead back to no session."""

    secret: bytes
    cookie_name: str
    omero_web_url: str

    def of(self, session: str | None) -> str:
        """The name of a session, 64 hexadecimal digits; None is everybody who is not logged in."""
        parts = ("session", session) if session is not None else ("anonymous", "")
        text = "\0".join((*parts, self.cookie_name, self.omero_web_url))
        return hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()

    def __repr__(self) -> str:
        return f"SessionNames({self.cookie_name})"


@dataclass(frozen=True)
class Session:
    """A session as OMERO.web keeps it. `alive` is None where that is not known, `user_id` likewise."""

    alive: bool | None
    user_id: int | None = None


UNKNOWN = Session(None)
ENDED = Session(False)


class DjangoSessions:
    """The sessions of an OMERO.web whose engine is Django's cache, in Redis.

    `prefix` and `version` are `KEY_PREFIX` and `VERSION` of its cache; `store` has OMERO.web's own keys.
    """

    def __init__(self, store: SharedStore, prefix: str = "", version: int = 1) -> None:
        self._store = store
        self._begin = f"{prefix}:{version}:django.contrib.sessions.cache"

    def find(self, session: str) -> Session:
        """What is known of a session; UNKNOWN if Redis does not answer or holds something else."""
        if not is_session(session):
            return ENDED
        try:
            value = self._store.get(self._begin + session)
        except SharedStoreFailed:
            return UNKNOWN
        if value is None:
            return ENDED
        try:
            return _from_dict(plain_pickle(value))
        except ValueError:
            _log.warning("a session of OMERO.web in Redis is in a form that is not known")
            return UNKNOWN


def plain_pickle(value: bytes) -> Any:
    """The value of a pickle of plain values: None, numbers, texts, bytes, lists, dicts.

    Raises ValueError for every other pickle, whatever is wrong with it.
    """
    if len(value) > _LARGEST:
        raise ValueError("longer than a session is")
    try:
        for operation, argument, _ in pickletools.genops(value):
            if operation.name not in _PLAIN:
                raise ValueError(f"{operation.name} is no plain value")
            # The unpickler makes room for as many values as the largest index says.
            if operation.name in _MEMO and not 0 <= int(str(argument)) <= len(value):
                raise ValueError("an index is too large")
        return _PlainUnpickler(io.BytesIO(value)).load()
    except _MALFORMED as error:
        raise ValueError(f"no pickle of plain values: {type(error).__name__}") from None


class _PlainUnpickler(pickle.Unpickler):
    """Knows no classes: a second wall behind the list of operations."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"a class: {module}.{name}"[:100])


def _from_dict(document: object) -> Session:
    if not isinstance(document, dict):
        raise ValueError("a session is a dict")
    connector = document.get("connector")
    if connector is None:  # logged out, or never logged in
        return ENDED
    if not isinstance(connector, dict):
        raise ValueError("the connector is a dict")
    user_id = connector.get("user_id")
    known = type(user_id) is int and 0 <= user_id < 2**63
    return Session(True, user_id if known else None)
