"""Hosts that do not answer: a service leaves them out for a while, so that they hold up nothing else.

What builds catalogs of many layers, one after the other, asks each time: there is nothing else to be held up,
and a host that is away for a minute would fail all the layers that are left.
"""

from __future__ import annotations

import logging
import math
import threading
import time

log = logging.getLogger(__name__)

PAUSE = 30.0  # seconds for which a host that did not answer is left out; longer than one try takes

_leaving_out = threading.Event()


def leave_out_hosts() -> None:
    """Have hosts that do not answer left out, from now on and by all of this process."""
    _leaving_out.set()


class Circuit:
    """Whether a host is asked at all. Safe to use from several threads.

    A host answers once it sends any state, be it an error: what goes wrong after that is about one object.
    A request that got no answer in any of its tries opens the circuit, unless another one got an answer since
    it began: for PAUSE seconds no request is sent at all, then one to try, and that once, while all others
    still are not. So an outage costs one request all of its patience, and then one try every half minute. Any
    answer closes it. Requests that are under way go on. An outage is logged once when it begins and once when
    it ends.

    `name` is what the log calls the host; `reason` says what it did when it was last left out.
    """

    def __init__(self, name: str) -> None:
        self.reason = ""
        self._name = name
        self._lock = threading.Lock()
        self._answered_at = -math.inf
        self._left_out_until = 0.0
        self._failing = False

    def tries(self, most: int) -> int:
        """How many tries a request has that begins: `most`, 1 if it is the one to try, 0 if none is sent."""
        with self._lock:
            if not self._failing:
                return most
            now = time.monotonic()
            if now < self._left_out_until:
                return 0
            self._left_out_until = now + PAUSE
            return 1

    def answered(self) -> None:
        """A state has come."""
        self._answered_at = time.monotonic()
        if not self._failing:
            return
        with self._lock:
            again, self._failing = self._failing, False
        if again:
            log.warning("%s answers again", self._name)

    def failed(self, reason: str, began: float) -> None:
        """A request that began then (`time.monotonic`) has failed; for its last try there was no answer."""
        with self._lock:
            if self._answered_at >= began or not _leaving_out.is_set():
                return
            first = not self._failing
            self.reason, self._failing, self._left_out_until = reason, True, time.monotonic() + PAUSE
        if first:
            log.warning("%s is left out until it answers again: it %s", self._name, reason)
