"""What has to be looked for where that may take long, and is kept for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from roiservice.errors import NotWritten, RegistryFailed, RoiServiceError, SourceError, renewed
from roiservice.records import dataclass

log = logging.getLogger(__name__)

MOMENT = 1.0  # seconds that whoever has something looked for again waits for what comes of it
AT_ONCE = 64  # looks; while there are as many, what is known stays as it is
_PASSING = (SourceError, RegistryFailed, NotWritten)  # a host is down, or no numbers can be given

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True)
class _Looked(Generic[V]):
    """What came of a look, a value or an error, and until when it is not looked for again."""

    outcome: V | RoiServiceError
    until: float

    def get(self) -> V:
        """The value, or the error anew."""
        if isinstance(self.outcome, RoiServiceError):
            raise renewed(self.outcome)
        return self.outcome


class Looks(Generic[K, V]):
    """Values by their keys, of which the `most` that were looked for last are kept. Safe for several threads.

    A value is looked for again after `interval`, None and errors after `missing_kept`; both are in seconds.
    There is one look for a key at a time. Nobody waits for it who can be given what was found before: it
    goes on by itself, and only the one who began it waits for a `MOMENT`, as most places answer at once.
    """

    def __init__(
        self,
        most: int,
        interval: float,
        missing_kept: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._interval = interval
        self._missing_kept = missing_kept
        self._clock = clock
        self._known: OrderedDict[K, _Looked[V]] = OrderedDict()
        self._flights: dict[K, Future[_Looked[V]]] = {}  # what will come of looks under way
        self._lock = threading.Lock()

    def get(self, key: K, look: Callable[[], V]) -> V:
        """What `look` finds, or found before. Raises what it raises, errors of this service to each his own.

        What was found goes on being served where a host is down for a while, or no numbers can be given.
        """
        with self._lock:
            known = self._known.get(key)
            if known is not None and self._clock() < known.until:
                return known.get()
            before = known if known is not None and _is_found(known.outcome) else None
            landing = self._flights.get(key)
            if before is not None and (landing is not None or len(self._flights) >= AT_ONCE):
                return before.get()
            leads = landing is None
            if landing is None:
                landing = self._flights[key] = Future()
        if before is None:
            if leads:
                self._fly(key, landing, look, None)
            return landing.result().get()
        self._fly_beside(key, landing, look, before)
        try:
            return landing.result(MOMENT).get()
        except TimeoutError:
            return before.get()

    def before(self, key: K) -> V | None:
        """What was found, however long ago; None if nothing was, or it was forgotten."""
        with self._lock:
            known = self._known.get(key)
        return known.get() if known is not None and _is_found(known.outcome) else None

    def _fly_beside(
        self, key: K, landing: Future[_Looked[V]], look: Callable[[], V], before: _Looked[V]
    ) -> None:
        """Look in a thread of its own."""
        try:
            arguments = key, landing, look, before
            threading.Thread(target=self._fly, args=arguments, name="look", daemon=True).start()
        except (RuntimeError, MemoryError) as error:  # there are as many threads as may be
            log.warning("what is known is not looked for now: %s", error)
            self._land(key, None)
            landing.set_result(before)

    def _fly(
        self, key: K, landing: Future[_Looked[V]], look: Callable[[], V], before: _Looked[V] | None
    ) -> None:
        """Look, and have all know who wait for it."""
        try:
            looked = self._looked(look, before)
        except BaseException as error:  # who waits is to know
            self._land(key, None)
            if before is None:
                landing.set_exception(error)
            else:
                log.exception("what is known stays as it was")
                landing.set_result(before)
            return
        self._land(key, looked)
        landing.set_result(looked)

    def _looked(self, look: Callable[[], V], before: _Looked[V] | None) -> _Looked[V]:
        outcome: V | RoiServiceError
        try:
            outcome = look()
        except RoiServiceError as error:
            stays = before if isinstance(error, _PASSING) else None
            outcome = renewed(error) if stays is None else stays.outcome
        kept = self._interval if _is_found(outcome) else self._missing_kept
        return _Looked(outcome, self._clock() + kept)

    def _land(self, key: K, looked: _Looked[V] | None) -> None:
        """End the flight of a key, and keep what came of it."""
        with self._lock:
            del self._flights[key]
            if looked is None:
                return
            self._known[key] = looked
            self._known.move_to_end(key)
            while len(self._known) > self._most:
                self._known.popitem(last=False)


def _is_found(outcome: object) -> bool:
    """Whether it can be served while it is looked for again."""
    return outcome is not None and not isinstance(outcome, RoiServiceError)
