"""From the address of a Redis server, cluster or set of sentinels to a client that asks it.

Errors about addresses never quote them, as they may hold a password.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from roiservice.cache.bounded import BoundedParser
from roiservice.records import dataclass

TIMEOUT = 0.25  # seconds of silence, at every step
SENTINEL_PORT = 26379
SERVER_PORT = 6379


def client_of(url: str) -> Any:
    """A client, with `execute_command`, that does not try again; connects to nothing yet.

    `redis://` and `rediss://` `[user:password@]host[:port][/database][?ssl_ca_certs=FILE...]`, `unix://`,
    `redis+cluster://[user:password@]host[:port][,host[:port]...]` and
    `redis+sentinel://[user:password@]host[:port][,host[:port]...]/service[/database]`, both also with
    `rediss`. Special characters in passwords are percent-encoded. Raises ValueError, which does not quote the
    address.
    """
    scheme, _, kind = url.partition("://")[0].partition("+")
    try:
        if kind == "sentinel":
            return _master(_parsed(url, scheme))
        if kind == "cluster":
            return LateCluster(_parsed(url, scheme))
        return _single(url)
    except (ValueError, TypeError):
        raise ValueError(
            "is no address of Redis; in passwords, special characters are percent-encoded"
        ) from None


def _single(url: str) -> Any:
    import redis

    parts = urlsplit(url)
    _check(parts.path, parts.query, parts.fragment)
    if parts.scheme != "unix" and not parts.hostname:
        raise ValueError("no host")
    return _checked(redis.Redis.from_url(url, parser_class=BoundedParser, **_silence()))


def _checked(client: Any) -> Any:
    """The client; TypeError if the address had an option that connections do not know."""
    pool = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)
    return client


def _silence() -> dict[str, Any]:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return {
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # servers before version 6 know no other
    }


@dataclass(frozen=True)
class _Several:
    """The parts of an address of several hosts; `options` are those of a connection to any of them."""

    hosts: tuple[tuple[str, int | None], ...]
    path: tuple[str, ...]
    options: dict[str, Any]


def _parsed(url: str, scheme: str) -> _Several:
    from redis.connection import parse_url

    parts = urlsplit(url)
    _check(parts.path, parts.query, parts.fragment)
    login, at, hosts = parts.netloc.rpartition("@")
    found = []
    for each in hosts.split(","):
        host = urlsplit(f"//{each}")
        if not host.hostname:
            raise ValueError("no host")
        found.append((host.hostname, host.port))
    options = dict(parse_url(f"{scheme}://{login}{at}host?{parts.query}"))  # type: ignore[no-untyped-call]
    encrypted = options.pop("connection_class", None) is not None
    for name in ("host", "port"):
        options.pop(name, None)
    path = tuple(each for each in parts.path.split("/") if each)
    return _Several(tuple(found), path, {**_silence(), **options, "ssl": encrypted})


def _check(path: str, query: str, fragment: str) -> None:
    """ValueError where the rest of an address shows that a password was cut at a special character."""
    if "@" in path + query or fragment:
        raise ValueError("password not encoded")


def _master(address: _Several) -> Any:
    """The master that sentinels know under a name; asked for again with each new connection."""
    from redis.sentinel import Sentinel

    service, database = (*address.path, "0")[:2] if address.path else ("", "0")
    if not service or len(address.path) > 2:
        raise ValueError("no service")
    options = dict(address.options)
    own = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    asking = {name: value for name, value in options.items() if name not in ("username", "password", "db")}
    asking.update((name, value) for name, value in own.items() if value is not None)
    hosts = [(host, port or SENTINEL_PORT) for host, port in address.hosts]
    known = Sentinel(hosts, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    options.update(db=int(database), parser_class=BoundedParser)
    return _checked(known.master_for(service, **options))  # type: ignore[no-untyped-call]


class LateCluster:
    """A cluster that is looked for when it is first asked: at start it may be away."""

    def __init__(self, address: _Several) -> None:
        if address.path not in ((), ("0",)):
            raise ValueError("clusters have no databases")
        self._hosts = [(host, port or SERVER_PORT) for host, port in address.hosts]
        self._options = dict(address.options)
        self._options.pop("db", None)
        self._client: Any = None

    def execute_command(self, *command: Any) -> Any:
        """The answer of the node that the key belongs to."""
        client = self._client
        if client is None:  # several may do so at once: none is to wait until others have given up
            client = self._client = self._connected()
        return client.execute_command(*command)

    def _connected(self) -> Any:
        from redis.backoff import NoBackoff
        from redis.cluster import ClusterNode, RedisCluster
        from redis.retry import Retry

        nodes = [ClusterNode(host, port) for host, port in self._hosts]  # type: ignore[no-untyped-call]
        options = {**self._options, "retry": Retry(NoBackoff(), 1)}  # once, for keys that have moved
        return RedisCluster(startup_nodes=nodes, **options)
