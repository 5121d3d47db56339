"""Hosts that do not answer: a service leaves them out for a while, so that they hold up nothing else.

What builds catalogs of many layers, one after the other, asks each time: there is nothing else to be held up,
and a host that is away for a minute would fail all the layers that are left.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

log = logging.getLogger(__name__)

PAUSE = 30.0  # seconds for which a host that did not answer is left out; longer than one try takes
_REMEMBERED = 64  # URLs of one host that went unanswered

_leaving_out = threading.Event()


def leave_out_hosts() -> None:
    """Have hosts that do not answer left out, from now on and by all of this process."""
    _leaving_out.set()


class Circuit:
    """Whether a host is asked at all. Safe to use from several threads.

    A host answers once it sends any state, be it an error: what goes wrong after that is about one object.
    Counted are the tries without an answer that began after the last answer, those of all requests together,
    and forgotten once there is no further one for PAUSE seconds. With as many as a request has, over as long
    as it pauses between them, the circuit opens if that many in a row could not even connect, or if they were
    for two URLs or more: neither a server that is started anew opens it, which breaks all connections at
    once, nor one object for which a host that can be reached is silent. Then nothing is sent for PAUSE
    seconds, neither by requests that begin nor as a further try, then one try, and so on. URLs that went
    unanswered wait for twice PAUSE, so that some silent objects do not take each of these tries from sound
    ones; not so where the last try could not connect, since that is not about an object.

    So an outage costs as many tries as one request has and those that are under way by then, and after that
    one try in PAUSE seconds, or in twice as long if only the same objects are asked for. Any answer closes
    the circuit, also one to a request that is under way: such go on. An outage is logged once when it begins
    and once when it ends.

    `name` is what the log calls the host; `reason` says what it did when it last gave no answer.
    """

    def __init__(self, name: str) -> None:
        self.reason = ""
        self._name = name
        self._lock = threading.Lock()
        self._answered_at = 0.0
        self._tries = 0  # without an answer, since the last one
        self._since = self._last = 0.0  # when the first of them began, and when the last ended
        self._unconnected = 0  # the last of them, those in a row that could not connect
        self._unanswered: deque[str] = deque(maxlen=_REMEMBERED)  # what they were for, each URL once
        self._open = False
        self._left_out_until = 0.0

    def leaves_out(self, url: str) -> bool:
        """Whether nothing may be sent for this URL now."""
        with self._lock:
            return self._leaves_out(url)

    def admits(self, url: str) -> bool:
        """Whether a try may be sent for this URL now, by who asks; the only one if the circuit is open."""
        with self._lock:
            if self._leaves_out(url):
                return False
            if self._open:
                self._left_out_until = time.monotonic() + PAUSE
            return True

    def answered(self) -> None:
        """A state has come."""
        with self._lock:
            again, self._open = self._open, False
            self._answered_at = time.monotonic()
            self._forget()
        if again:
            log.warning("%s answers again", self._name)

    def unanswered(
        self, url: str, reason: str, began: float, *, connected: bool, most: int, pauses: float
    ) -> None:
        """A try that `began` then has ended without an answer; `reason` says how.

        A request has `most` tries, and `pauses` between them, in seconds.
        """
        if not _leaving_out.is_set():
            return
        with self._lock:
            if began < self._answered_at:
                return
            self._count(url, connected, began)
            if not self._open and not self._is_outage(most, pauses):
                return
            self.reason = f"{reason} ({counted(self._tries)})"
            self._left_out_until = time.monotonic() + PAUSE
            first, self._open = not self._open, True
        if first:
            log.warning("%s is left out until it answers again: it %s", self._name, self.reason)

    def _forget(self) -> None:
        self._tries = self._unconnected = 0
        self._unanswered.clear()

    def _leaves_out(self, url: str) -> bool:
        if not self._open:
            return False
        longer = PAUSE if url in self._unanswered and not self._unconnected else 0.0
        return time.monotonic() < self._left_out_until + longer

    def _count(self, url: str, connected: bool, began: float) -> None:
        if not self._open and began - self._last > PAUSE:  # what was then tells nothing of now
            self._forget()
        self._last = time.monotonic()
        self._since = min(self._since, began) if self._tries else began
        self._tries += 1
        self._unconnected = 0 if connected else self._unconnected + 1
        if url not in self._unanswered:
            self._unanswered.append(url)

    def _is_outage(self, most: int, pauses: float) -> bool:
        if time.monotonic() - self._since < pauses:
            return False
        return self._unconnected >= most or (self._tries >= most and len(self._unanswered) > 1)


def counted(tries: int) -> str:
    """`1 try`, `2 tries`."""
    return f"{tries} {'try' if tries == 1 else 'tries'}"
