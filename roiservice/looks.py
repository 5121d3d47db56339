"""What has to be looked for where that may take long, and is kept for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import field
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


@dataclass(frozen=True, eq=False)
class _Flight(Generic[V]):
    """A look under way, with what was found `before`, if anything was; what comes of it is `landed`."""

    look: Callable[[], V]
    before: _Looked[V] | None
    landed: Future[_Looked[V]] = field(default_factory=Future)


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
        self._flights: dict[K, _Flight[V]] = {}
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
            flight = self._flights.get(key)
            if before is not None and (flight is not None or len(self._flights) >= AT_ONCE):
                return before.get()
            leads = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight(look, before)
        if before is not None:
            return self._looked_beside(key, flight, before).get()
        if leads:
            self._fly(key, flight)
        return flight.landed.result().get()

    def _looked_beside(self, key: K, flight: _Flight[V], before: _Looked[V]) -> _Looked[V]:
        """What comes of a look in a thread of its own within a moment; else what was found before."""
        try:
            threading.Thread(target=self._fly_alone, args=(key, flight), name="look", daemon=True).start()
        except (RuntimeError, MemoryError) as error:  # there are as many threads as may be
            log.warning("what is known is not looked for now: %s", error)
            self._land(key, None)
            flight.landed.set_result(before)
        try:
            return flight.landed.result(MOMENT)
        except TimeoutError:
            return before

    def _fly_alone(self, key: K, flight: _Flight[V]) -> None:
        try:
            self._fly(key, flight)
        except Exception:
            log.exception("what is known stays as it was")  # whoever began this may not wait for it any more

    def _fly(self, key: K, flight: _Flight[V]) -> None:
        """Look, and have all know who wait for it; raises only what is no error of this service's own."""
        try:
            looked = self._looked(flight)
        except BaseException as error:
            self._land(key, None)
            flight.landed.set_exception(error)
            raise
        self._land(key, looked)
        flight.landed.set_result(looked)

    def _looked(self, flight: _Flight[V]) -> _Looked[V]:
        outcome: V | RoiServiceError
        try:
            outcome = flight.look()
        except RoiServiceError as error:
            before = flight.before if isinstance(error, _PASSING) else None
            outcome = renewed(error) if before is None else before.outcome
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
