"""Encoded pages by key: this process's memory first, then Redis if there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from roiservice.cache.memory import MemoryCache
from roiservice.cache.page import Page
from roiservice.metrics import CACHE_BYTES, CACHE_PAGES, PAGES, Metrics

if TYPE_CHECKING:
    from roiservice.cache.redis import RedisCache, RedisServer

__all__ = ["Page", "PageCache", "connect_redis", "make_cache"]


PLAIN_SHARE = 4  # this part of the memory holds unpacked pages, for clients that refuse gzip


class PageCache:
    """Two levels of one cache. Neither ever fails: without Redis, pages are made again."""

    def __init__(
        self, max_bytes: int, redis: RedisCache | None = None, metrics: Metrics | None = None
    ) -> None:
        plain_bytes = max_bytes // PLAIN_SHARE
        self._pages = MemoryCache[Page](max_bytes - plain_bytes)
        self._plain = MemoryCache[bytes](plain_bytes)
        self._redis = redis
        self._metrics = metrics or Metrics()

    def get(self, key: str) -> Page | None:
        """The page of that key, or None; a page found in Redis is kept in memory as well."""
        page = self._pages.get(key)
        if page is not None:
            self._metrics.add(1, PAGES, "memory")
        elif self._redis is not None:
            page = self._redis.get(key)
            if page is not None:
                self._metrics.add(1, PAGES, "redis")
                self._remember(key, page)
        return page

    def put(self, key: str, page: Page) -> None:
        """Keep a page that was made on both levels."""
        self._metrics.add(1, PAGES, "made")
        self._remember(key, page)
        if self._redis is not None:
            self._redis.put(key, page)

    def _remember(self, key: str, page: Page) -> None:
        self._pages.put(key, page, len(page.deflated))
        pages, used = self._pages.usage()
        self._metrics.set(pages, CACHE_PAGES)
        self._metrics.set(used, CACHE_BYTES)

    def unpacked(self, key: str, page: Page) -> bytes:
        """The encoded features of a page; kept for a while, as unpacking costs more than sending."""
        plain = self._plain.get(key)
        if plain is None:
            plain = page.unpacked()
            self._plain.put(key, plain, len(plain))
        return plain

    def ping(self) -> dict[str, Any]:
        """How each level is; holds no address and no password."""
        pages, used = self._pages.usage()
        report: dict[str, Any] = {"memory": {"status": "ok", "pages": pages, "bytes": used}}
        if self._redis is not None:
            report["redis"] = {"status": "ok" if self._redis.ping() else "unreachable"}
        return report


def make_cache(
    cache_bytes: int,
    redis: RedisServer | None = None,
    redis_ttl: int = 86400,
    redis_max_value: int = 8 << 20,
    metrics: Metrics | None = None,
) -> PageCache:
    """The cache of one process; without a Redis server: memory only."""
    if redis is None:
        return PageCache(cache_bytes, None, metrics)
    from roiservice.cache.redis import RedisCache

    return PageCache(cache_bytes, RedisCache(redis, redis_ttl, redis_max_value), metrics)


def connect_redis(
    url: str | None, metrics: Metrics | None = None, use: Literal["pages", "sessions"] = "pages"
) -> RedisServer | None:
    """The server at an address; None or empty: none. `use` is what errors and metrics call it.

    Raises SettingsError, which does not quote the address, if it is none that can be used. A server that
    does not answer is no error.
    """
    if not url:
        return None
    from roiservice.cache.redis import RedisServer

    return RedisServer(url, metrics=metrics, use=use)
