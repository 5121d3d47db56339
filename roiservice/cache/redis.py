"""A Redis server, which several processes and hosts share: pages, and small values for other parts."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Literal

from roiservice.cache.address import client_of
from roiservice.cache.bounded import LONGEST
from roiservice.cache.page import Page, from_bytes, to_bytes
from roiservice.errors import SettingsError, SharedStoreFailed
from roiservice.metrics import REDIS_BYTES, REDIS_COMMANDS, REDIS_LEFT_OUT, Metrics

_log = logging.getLogger(__name__)
# Keys begin with the form of what they hold: another release may write another one beside it.
PAGES = "roiservice:page:2:"
SHARED = "roiservice:shared:1:"
PAUSE = 2.0  # seconds for which a server that failed is left out


class RedisServer:
    """A server that may be slow, stopped or gone: it is then skipped, never waited for.

    A server that fails, or takes more than a second for a command, opens a circuit: for `pause` seconds no
    command is sent at all, then one to try, while all others still are not. An outage is logged once when
    it begins and once when it ends. `use` is what metrics call the server.
    """

    def __init__(
        self,
        url: str,
        *,
        pause: float = PAUSE,
        metrics: Metrics | None = None,
        use: Literal["pages", "sessions"] = "pages",
    ) -> None:
        try:
            self._client = client_of(url)
        except ValueError as error:
            raise SettingsError(f"{_VARIABLES[use]}: {error}") from None
        self._pause = pause
        self._metrics = metrics or Metrics()
        self._use = use
        self._lock = threading.Lock()
        self._left_out_until = 0.0
        self._failing = False
        self._refusals: set[tuple[Any, str]] = set()

    def send(self, *command: Any) -> Any:
        """The answer to a command. Raises SharedStoreFailed, without asking while the circuit is open."""
        from redis.exceptions import ClusterError, ResponseError

        began = self._begin()
        try:
            answer = self._client.execute_command(*command)
        except ClusterError as error:  # some of these are ResponseErrors as well
            raise self._failed(error) from None
        except ResponseError as error:  # it answers, that it will not: its memory is full, say
            raise self._refused(command[0], error) from None
        except Exception as error:  # noqa: BLE001 - what is no Redis may answer anything at all
            raise self._failed(error) from None
        if time.monotonic() - began > LONGEST:
            self._failed(TimeoutError())
        else:
            self._answered("answered")
        return answer

    def ping(self) -> bool:
        """Whether the server answers now; False without asking while the circuit is open."""
        try:
            return self.send("PING") in (True, b"PONG")
        except SharedStoreFailed:
            return False

    def count_bytes(self, direction: Literal["read", "written"], number: int) -> None:
        """Count bytes of pages for the metrics."""
        self._metrics.add(number, REDIS_BYTES, direction)

    def _begin(self) -> float:
        """When the command begins. SharedStoreFailed while the circuit is open, but for one that tries."""
        now = time.monotonic()
        with self._lock:
            left_out = now < self._left_out_until
            if self._failing and not left_out:
                self._left_out_until = now + self._pause
        if left_out:
            self._count("not_sent")
            raise SharedStoreFailed("Redis is left out until it answers again")
        return now

    def _answered(self, result: Literal["answered", "refused"]) -> None:
        self._count(result)
        if self._failing:
            with self._lock:
                self._failing, self._left_out_until = False, 0.0
            self._metrics.set(0, REDIS_LEFT_OUT, self._use)
            _log.warning("Redis answers again")

    def _failed(self, error: Exception) -> SharedStoreFailed:
        self._count("failed")
        with self._lock:
            first = not self._failing
            self._failing, self._left_out_until = True, time.monotonic() + self._pause
        self._metrics.set(1, REDIS_LEFT_OUT, self._use)
        if first:  # named by its kind alone, as its text may hold the address
            _log.warning("Redis is left out until it answers again: %s", type(error).__name__)
        return SharedStoreFailed("Redis does not answer")

    def _refused(self, name: Any, error: Exception) -> SharedStoreFailed:
        """What to raise where the server answers that it will not; each kind of it is logged once."""
        self._answered("refused")
        kind = (name, type(error).__name__)
        if kind not in self._refusals:
            self._refusals.add(kind)
            _log.warning("Redis refuses %s: %s", *kind)
        return SharedStoreFailed("Redis refuses a command")

    def _count(self, result: str) -> None:
        self._metrics.add(1, REDIS_COMMANDS, self._use, result)


_VARIABLES = {"pages": "ROISERVICE_REDIS_URL", "sessions": "ROISERVICE_SESSIONS_REDIS_URL"}


class RedisCache:
    """Pages in Redis; without its answer there are none."""

    def __init__(self, server: RedisServer, ttl: int, max_value: int) -> None:
        self._server = server
        self._ttl = ttl
        self._max_value = max_value

    def get(self, key: str) -> Page | None:
        """The page of that key; None if it is not there, is damaged, or the server does not answer."""
        try:
            value = self._server.send("GET", PAGES + key)
        except SharedStoreFailed:
            return None
        if not isinstance(value, bytes):
            return None
        self._server.count_bytes("read", len(value))
        return from_bytes(key, value)

    def put(self, key: str, page: Page) -> None:
        """Keep a page for the time to live; pages above the largest value are not sent."""
        if len(page.deflated) > self._max_value:
            return
        value = to_bytes(key, page)
        try:
            self._server.send("SET", PAGES + key, value, "EX", self._ttl)
        except SharedStoreFailed:
            return
        self._server.count_bytes("written", len(value))

    def ping(self) -> bool:
        """Whether the server answers now."""
        return self._server.ping()


class RedisStore:
    """Small values by key, below a prefix. Raises SharedStoreFailed where Redis does not answer."""

    def __init__(self, server: RedisServer, prefix: str = SHARED) -> None:
        self._server = server
        self._prefix = prefix

    def get(self, key: str) -> bytes | None:
        """The value of that key; None if Redis says that there is none."""
        value = self._server.send("GET", self._prefix + key)
        if value is not None and not isinstance(value, bytes):
            raise SharedStoreFailed("Redis answers with something else than bytes")
        return value

    def put(self, key: str, value: bytes, ttl: int) -> None:
        """Keep a value for `ttl` seconds."""
        if self._server.send("SET", self._prefix + key, value, "EX", ttl) not in (True, b"OK"):
            raise SharedStoreFailed("Redis does not say that it keeps the value")

    def add(self, key: str, value: bytes, ttl: int) -> bool:
        """Keep a value if there is none; whether that was so."""
        return self._server.send("SET", self._prefix + key, value, "EX", ttl, "NX") is not None

    def remove(self, key: str) -> None:
        """Keep the value of the key no longer."""
        self._server.send("DEL", self._prefix + key)
