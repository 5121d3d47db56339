"""Pages kept in a Redis server, which several processes and hosts share."""

from __future__ import annotations

import logging
import time
from typing import Any

from roiservice.cache.page import Page, from_bytes, to_bytes
from roiservice.errors import SettingsError

_log = logging.getLogger(__name__)
_PREFIX = "roiservice:page:"


class RedisCache:
    """A cache whose server may be slow, stopped or gone: it is then skipped, never waited for.

    A failed command costs at most `timeout` seconds and opens a circuit: for `pause` seconds no
    command is sent at all. An outage is logged once when it begins and once when it ends.
    """

    def __init__(
        self, url: str, ttl: int, max_value: int, *, timeout: float = 0.25, pause: float = 5.0
    ) -> None:
        self._client = _connect(url, timeout)
        self._ttl = ttl
        self._max_value = max_value
        self._pause = pause
        self._closed_until = 0.0
        self._failing = False

    def get(self, key: str) -> Page | None:
        """The page of that key; None if it is not there, is damaged, or the server does not answer."""
        value = self._send("GET", _PREFIX + key)
        return from_bytes(value) if isinstance(value, bytes) else None

    def put(self, key: str, page: Page) -> None:
        """Keep a page for the time to live; pages above the largest value are not sent."""
        if len(page.deflated) <= self._max_value:
            self._send("SET", _PREFIX + key, to_bytes(page), "EX", self._ttl)

    def ping(self) -> bool:
        """Whether the server answers now; False without asking while the circuit is open."""
        return self._send("PING") is not None

    def _send(self, *command: Any) -> Any:
        import redis

        if time.monotonic() < self._closed_until:
            return None
        try:
            answer = self._client.execute_command(*command)
        except (redis.RedisError, OSError) as error:
            self._open_circuit(error)
            return None
        if self._failing:
            self._failing = False
            _log.warning("Redis answers again")
        return answer

    def _open_circuit(self, error: Exception) -> None:
        self._closed_until = time.monotonic() + self._pause
        if not self._failing:
            self._failing = True
            _log.warning("Redis is left out until it answers again: %s", error)


def _connect(url: str, timeout: float) -> Any:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            protocol=2,  # servers before version 6 know no other
        )
    except ValueError as error:
        raise SettingsError(f"redis_url: {error}") from error
