"""A Redis server, which several processes and hosts share: pages, and small values for other parts."""

from __future__ import annotations

import logging
import time
from typing import Any
from urllib.parse import unquote, urlsplit

from roiservice.cache.page import Page, from_bytes, to_bytes
from roiservice.errors import SettingsError, SharedStoreFailed

_log = logging.getLogger(__name__)
# Keys begin with the form of what they hold: another release may write another one beside it.
_PAGES = "roiservice:page:1:"
SHARED = "roiservice:shared:1:"
_SENTINEL_PORT = 26379


class RedisServer:
    """A server that may be slow, stopped or gone: it is then skipped, never waited for.

    A failed command costs at most `timeout` seconds and opens a circuit: for `pause` seconds no
    command is sent at all. An outage is logged once when it begins and once when it ends.
    """

    def __init__(self, url: str, *, timeout: float = 0.25, pause: float = 5.0) -> None:
        self._client = _connect(url, timeout)
        self._pause = pause
        self._closed_until = 0.0
        self._failing = False

    def send(self, *command: Any) -> Any:
        """The answer to a command. Raises SharedStoreFailed, without asking while the circuit is open."""
        import redis

        if time.monotonic() < self._closed_until:
            raise SharedStoreFailed("Redis is left out until it answers again")
        try:
            answer = self._client.execute_command(*command)
        except redis.ResponseError as error:  # it answers, that it will not: its memory is full, say
            raise SharedStoreFailed("Redis refuses a command") from error
        except (redis.RedisError, OSError) as error:
            self._open_circuit(error)
            raise SharedStoreFailed("Redis does not answer") from error
        if self._failing:
            self._failing = False
            _log.warning("Redis answers again")
        return answer

    def ping(self) -> bool:
        """Whether the server answers now; False without asking while the circuit is open."""
        try:
            self.send("PING")
        except SharedStoreFailed:
            return False
        return True

    def _open_circuit(self, error: Exception) -> None:
        self._closed_until = time.monotonic() + self._pause
        if not self._failing:
            self._failing = True
            _log.warning("Redis is left out until it answers again: %s", type(error).__name__)


class RedisCache:
    """Pages in Redis; without its answer there are none."""

    def __init__(self, server: RedisServer, ttl: int, max_value: int) -> None:
        self._server = server
        self._ttl = ttl
        self._max_value = max_value

    def get(self, key: str) -> Page | None:
        """The page of that key; None if it is not there, is damaged, or the server does not answer."""
        try:
            value = self._server.send("GET", _PAGES + key)
        except SharedStoreFailed:
            return None
        return from_bytes(value) if isinstance(value, bytes) else None

    def put(self, key: str, page: Page) -> None:
        """Keep a page for the time to live; pages above the largest value are not sent."""
        if len(page.deflated) > self._max_value:
            return
        try:
            self._server.send("SET", _PAGES + key, to_bytes(page), "EX", self._ttl)
        except SharedStoreFailed:
            return

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
        self._server.send("SET", self._prefix + key, value, "EX", ttl)

    def add(self, key: str, value: bytes, ttl: int) -> bool:
        """Keep a value if there is none; whether that was so."""
        return self._server.send("SET", self._prefix + key, value, "EX", ttl, "NX") is not None


def _connect(url: str, timeout: float) -> Any:
    """A client for one server, a cluster, or the master that sentinels know."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # servers before version 6 know no other
    }
    scheme, _, kind = urlsplit(url).scheme.partition("+")
    try:
        if kind == "sentinel":
            return _master(url, scheme == "rediss", options)
        plain = url.replace(f"{scheme}+{kind}", scheme, 1) if kind else url
        if kind == "cluster":
            return _LateCluster(plain, options)
        return redis.Redis.from_url(plain, **options)
    except ValueError as error:
        raise SettingsError(f"redis_url: {error}") from error


class _LateCluster:
    """A cluster that is looked for when it is first asked: at start it may be away."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._url = url
        self._options = {**options, "cluster_error_retry_attempts": 1}
        del self._options["retry"]
        self._client: Any = None

    def execute_command(self, *command: Any) -> Any:
        import redis

        if self._client is None:
            self._client = redis.RedisCluster.from_url(self._url, **self._options)
        return self._client.execute_command(*command)


def _master(url: str, encrypted: bool, options: dict[str, Any]) -> Any:
    """`redis+sentinel://[user:password@]host[:port][,host[:port]...]/service[/database]`."""
    from redis.sentinel import Sentinel

    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = (unquote(each) for each in login.partition(":"))
    service, _, database = parts.path.strip("/").partition("/")
    if not service or not hosts:
        raise ValueError(
            "names no service that the sentinels know, as in redis+sentinel://host:26379/mymaster"
        )
    sentinels = []
    for each in hosts.split(","):
        host, _, port = each.partition(":")
        sentinels.append((host, int(port or _SENTINEL_PORT)))
    known = Sentinel(sentinels, sentinel_kwargs=dict(options))  # type: ignore[no-untyped-call]
    return known.master_for(  # type: ignore[no-untyped-call]
        service,
        db=int(database or 0),
        username=user or None,
        password=password or None,
        ssl=encrypted,
        **options,
    )
