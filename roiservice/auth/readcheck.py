"""May a session read an image? Only OMERO knows; it is asked through OMERO.web's JSON API.

An answer counts only if it is exactly what that API says (omero-web 5.33), and is remembered for a while.
Everything else means "cannot be found out now", which lets nobody in and is never remembered.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from roiservice.auth.claims import is_image
from roiservice.auth.policy import Trust
from roiservice.auth.sessions import SessionNames, is_session
from roiservice.auth.shared import SharedStore
from roiservice.errors import OmeroWebFailed, SharedStoreFailed

if TYPE_CHECKING:
    from roiservice.omeroweb.client import Answer, OmeroWeb

_log = logging.getLogger(__name__)

ALLOWED_KEPT = 60.0  # seconds
REFUSED_KEPT = 10.0
MOST_KEPT = 10_000
IN_FLIGHT = 4  # a default OMERO.web has five workers
PATIENCE = 5.0  # seconds that a check waits for its turn
LONGEST_FLIGHT = 10  # seconds that other processes wait for the answer to a check: its turn, and OMERO.web
_LOOK_AGAIN = 0.02  # seconds


class Decision(enum.Enum):
    """What came of a read check. LOGIN: OMERO.web does not know who is asking."""

    ALLOWED = b"allowed"
    REFUSED = b"refused"
    LOGIN = b"login"
    UNAVAILABLE = b"unavailable"


_KEPT = {Decision.ALLOWED: ALLOWED_KEPT, Decision.REFUSED: REFUSED_KEPT}
Key = tuple[str, int]  # name of the session, image


@dataclass
class _Flight:
    """A check under way, and what came of it once it is done."""

    done: threading.Event = field(default_factory=threading.Event)
    decision: Decision = Decision.UNAVAILABLE


@dataclass(frozen=True)
class _Known:
    """A decision, and when it was asked for: seconds since 1970."""

    decision: Decision
    asked: float

    def good(self, now: float) -> bool:
        """Whether it may still be used; not if it seems to come from the future."""
        return 0 <= now - self.asked < _KEPT[self.decision]


class ReadCheck:
    """Asks OMERO.web at most once at a time for each session and image. Safe to use from several threads.

    What is remembered is at most ALLOWED_KEPT old: for so long a logout or a change of permissions can go
    unnoticed. `shared` lets processes share it, and wait for the one that asks; its values are signed with
    the secret of `names`, so that to write there lets nobody in. `clock` gives seconds since 1970.
    """

    def __init__(
        self,
        web: OmeroWeb,
        names: SessionNames,
        shared: SharedStore | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._web = web
        self._names = names
        self._shared = _SharedDecisions(shared, names.secret) if shared is not None else None
        self._clock = clock
        self._known: OrderedDict[Key, _Known] = OrderedDict()
        self._flights: dict[Key, _Flight] = {}
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(IN_FLIGHT)

    def may_read(self, session: str | None, image_id: int, trust: Trust = Trust.ALL) -> Decision:
        """Whether the session may read the image; None is whoever is not logged in (the public user)."""
        if not is_image(image_id):
            return Decision.REFUSED
        if session is not None and not is_session(session):
            return Decision.LOGIN
        key = self._names.of(session), image_id
        if trust is Trust.ALL:
            return self._found_out_once(key, session, image_id)
        if trust is Trust.ALLOWED and self._allowed_before(key):
            return Decision.ALLOWED
        kept = {Decision.ALLOWED} if trust is Trust.ALLOWED else set(_KEPT)
        return self._ask_in_turn(key, session, image_id, kept)

    def _found_out_once(self, key: Key, session: str | None, image_id: int) -> Decision:
        """What is remembered; else what came of a check, which those who ask meanwhile wait for."""
        with self._lock:
            known = self._recall(key)
            if known is not None:
                return known
            flight = self._flights.get(key)
            leads = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
        if not leads:
            flight.done.wait(2 * LONGEST_FLIGHT)
            return flight.decision
        try:
            flight.decision = self._find_out(key, session, image_id)
        finally:
            with self._lock:
                del self._flights[key]
            flight.done.set()
        return flight.decision

    def _allowed_before(self, key: Key) -> bool:
        with self._lock:
            if self._recall(key) is Decision.ALLOWED:
                return True
        known = None if self._shared is None else self._shared.get(key, self._clock())
        if known is None or known.decision is not Decision.ALLOWED:
            return False
        self._remember(key, known)
        return True

    def forget(self, session: str) -> None:
        """Remember nothing of a session: it has ended."""
        name = self._names.of(session)
        with self._lock:
            for key in [key for key in self._known if key[0] == name]:
                del self._known[key]

    def _find_out(self, key: Key, session: str | None, image_id: int) -> Decision:
        if self._shared is None:
            return self._ask_in_turn(key, session, image_id)
        known = self._shared.get(key, self._clock())
        if known is not None:
            self._remember(key, known)
            return known.decision
        leads = self._shared.take_off(key)
        try:
            known = self._shared.arrival(key, self._clock, wait=not leads)
            if known is None:
                return self._ask_in_turn(key, session, image_id)
            self._remember(key, known)
            return known.decision
        finally:
            if leads:
                self._shared.land(key)

    def _ask_in_turn(
        self, key: Key, session: str | None, image_id: int, kept: Collection[Decision] = _KEPT
    ) -> Decision:
        """What OMERO.web says; of that, `kept` is remembered."""
        if not self._turns.acquire(timeout=PATIENCE):
            _log.warning("too many checks wait for OMERO.web")
            return Decision.UNAVAILABLE
        try:
            asked = self._clock()
            decision = self._ask(session, image_id)
        finally:
            self._turns.release()
        if decision is Decision.LOGIN and session is not None:
            self.forget(session)
            if self._shared is not None:
                self._shared.end(key[0], self._clock())
        elif decision in kept:
            known = _Known(decision, asked)
            self._remember(key, known)
            if self._shared is not None:
                self._shared.put(key, known)
        return decision

    def _ask(self, session: str | None, image_id: int) -> Decision:
        try:
            answer = self._web.get(f"/api/v0/m/images/{image_id}/", session=session)
            return decide(answer, image_id)
        except OmeroWebFailed as error:
            _log.warning("may image %d be read? %s", image_id, error)
            return Decision.UNAVAILABLE

    def _recall(self, key: Key) -> Decision | None:
        """What is remembered and still good; the lock is held."""
        known = self._known.get(key)
        if known is None:
            return None
        if not known.good(self._clock()):
            del self._known[key]
            return None
        self._known.move_to_end(key)
        return known.decision

    def _remember(self, key: Key, known: _Known) -> None:
        with self._lock:
            self._known[key] = known
            self._known.move_to_end(key)
            while len(self._known) > MOST_KEPT:
                self._known.popitem(last=False)


def decide(answer: Answer, image_id: int) -> Decision:
    """What an answer to GET /api/v0/m/images/ID/ means. Raises OmeroWebFailed if it is none of that API.

    The API's own answers, and only those, have the header X-OMERO-ApiVersion; but for "Not logged in", which
    comes from what stands before it.
    """
    api = answer.header("X-OMERO-ApiVersion") != ""
    document = _document(answer)
    if answer.status == 200 and api:
        data = document.get("data")
        if isinstance(data, dict) and _is_that_image(data, image_id):
            return Decision.ALLOWED
        raise OmeroWebFailed("OMERO.web describes another image than the one asked for")
    # 403 from the API itself is a SecurityViolation of the query: the image is there, but not for this user.
    if answer.status in (403, 404) and api:
        return Decision.REFUSED
    if answer.status == 403 and document.get("message") == "Not logged in":
        return Decision.LOGIN
    raise OmeroWebFailed(f"OMERO.web answers {answer.status}, not as its JSON API does")


def _is_that_image(data: dict[str, Any], image_id: int) -> bool:
    kind, number = data.get("@type"), data.get("@id")
    return isinstance(kind, str) and kind.endswith("#Image") and type(number) is int and number == image_id


def _document(answer: Answer) -> dict[str, Any]:
    if answer.header("Content-Type").partition(";")[0].strip().lower() != "application/json":
        raise OmeroWebFailed(f"OMERO.web answers {answer.status} with something else than JSON")
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise OmeroWebFailed("OMERO.web answers with broken JSON") from None
    if not isinstance(document, dict):
        raise OmeroWebFailed("OMERO.web answers with JSON that is no object")
    return document


class _SharedDecisions:
    """Decisions that processes share, each signed, and when a session was seen to have ended."""

    def __init__(self, store: SharedStore, secret: bytes) -> None:
        self._store = store
        self._secret = secret

    def get(self, key: Key, now: float) -> _Known | None:
        """A decision that is still good, and younger than the end of the session if that was seen."""
        known = self._load(f"read:{key[0]}:{key[1]}", Decision.ALLOWED, Decision.REFUSED)
        if known is None or not known.good(now):
            return None
        ended = self._load(f"ended:{key[0]}", Decision.LOGIN)
        return known if ended is None or known.asked > ended.asked else None

    def put(self, key: Key, known: _Known) -> None:
        self._save(f"read:{key[0]}:{key[1]}", known, int(_KEPT[known.decision]))

    def end(self, name: str, now: float) -> None:
        self._save(f"ended:{name}", _Known(Decision.LOGIN, now), int(ALLOWED_KEPT))

    def take_off(self, key: Key) -> bool:
        """Say that this process asks OMERO.web; False if another one already does. It only saves work."""
        try:
            return self._store.add(_flight(key), b"1", LONGEST_FLIGHT)
        except SharedStoreFailed:
            return True

    def land(self, key: Key) -> None:
        """The answer has come, and is kept if it may be."""
        try:
            self._store.remove(_flight(key))
        except SharedStoreFailed:
            return  # it ends by itself

    def arrival(self, key: Key, clock: Callable[[], float], *, wait: bool) -> _Known | None:
        """What another process has found out, or with `wait` is about to.

        None if that is nothing to keep, or takes too long.
        """
        limit = time.monotonic() + LONGEST_FLIGHT
        while wait and time.monotonic() < limit and self._flies(key):
            time.sleep(_LOOK_AGAIN)
        return self.get(key, clock())

    def _flies(self, key: Key) -> bool:
        try:
            return self._store.get(_flight(key)) is not None
        except SharedStoreFailed:
            return False

    def _load(self, name: str, *wanted: Decision) -> _Known | None:
        try:
            value = self._store.get(name)
        except SharedStoreFailed:
            return None
        words = value.split(b" ") if value is not None else []
        if len(words) != 3 or not hmac.compare_digest(words[2], self._signature(name, words[0], words[1])):
            return None
        return next((_Known(each, float(words[1])) for each in wanted if each.value == words[0]), None)

    def _save(self, name: str, known: _Known, ttl: int) -> None:
        words = known.decision.value, repr(known.asked).encode()
        value = b" ".join((*words, self._signature(name, *words)))
        try:
            self._store.put(name, value, ttl)
        except SharedStoreFailed:
            return

    def _signature(self, name: str, *words: bytes) -> bytes:
        text = b"\0".join((b"decision", name.encode(), *words))
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest().encode()


def _flight(key: Key) -> str:
    return f"asking:{key[0]}:{key[1]}"
