"""Servers that answer with anything but what was asked for, and who tries a server that failed."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from roiservice.cache import Page, redis
from roiservice.cache.page import to_bytes
from roiservice.cache.redis import RedisCache, RedisStore
from roiservice.errors import SharedStoreFailed
from roiservice.metrics import REDIS_LEFT_OUT, Metrics
from tests.cache.support import FalseServer, RedisServer

PAGE = Page(b"deflated", 20, 7, 3, 2)
RANDOM = np.random.default_rng(5)


def bulk(value):
    return b"$%d\r\n%s\r\n" % (len(value), value)


def always(answer):
    """A server that says the same to whatever it is sent."""

    def serve(connection):
        while connection.recv(65536):
            connection.sendall(answer)

    return serve


def endless(block):
    """A server that never stops to answer."""

    def serve(connection):
        connection.recv(65536)
        while True:
            connection.sendall(block)

    return serve


def dripping(connection):
    """A server whose answer goes on and on, one byte at a time."""
    connection.recv(65536)
    for _ in itertools.count():
        connection.sendall(b"+")
        time.sleep(0.05)


def silent(connection):
    while connection.recv(65536):
        pass


JUNK = {
    "random": always(RANDOM.bytes(5000)),
    "http": always(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "text": always(b"hello\r\n"),
    "no number": always(b":abc\r\n"),
    "no length": always(b"$abc\r\n"),
    "negative length": always(b"$-7\r\nabcdefg\r\n"),
    "huge length": always(b"$99999999999999999999999\r\n"),
    "large length": endless(b"$4000000000\r\n" + bytes(100_000)),
    "nested": always(b"*1\r\n" * 100_000),
    "long list": endless(b"*400000000\r\n" + b":1\r\n" * 20_000),
    "list": always(b"*2\r\n:1\r\n:2\r\n"),
    "number": always(b":7\r\n"),
    "status": always(b"+OK\r\n"),
    "error": always(b"-ERR I will not\r\n"),
    "moved": always(b"-MOVED 1234 127.0.0.1:1\r\n"),
    "loading": always(b"-LOADING Redis is loading the dataset in memory\r\n"),
    "read only": always(b"-READONLY You can't write against a read only replica.\r\n"),
    "two answers": always(bulk(b"one") + bulk(b"two")),
    "page of another key": always(bulk(to_bytes("another", PAGE))),
    "cut page": always(bulk(to_bytes("key", PAGE)[:-1])),
    "closed": socket.socket.close,
    "silent": silent,
    "dripping": dripping,
    "endless": endless(b"x" * 65536),
}


@pytest.mark.parametrize("name", JUNK)
def test_junk_is_no_page_and_ends(name):
    server = FalseServer(JUNK[name])
    results = []

    def ask():
        cache = RedisCache(redis.RedisServer(server.url, pause=0.0), 60, 1000)
        for _ in range(2):
            cache.put("key", PAGE)
            results.append(cache.get("key"))
        cache.ping()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(60)
    server.stop()
    assert results == [None, None]


def test_a_cluster_that_is_silent_is_looked_for_by_all_at_once():
    """Nobody waits for others, one after the other, to find out that it is not there."""
    open_now, most = [0], [0]
    change = threading.Lock()

    def serve(connection):
        with change:
            open_now[0] += 1
            most[0] = max(most[0], open_now[0])
        silent(connection)
        with change:
            open_now[0] -= 1

    server = FalseServer(serve)
    connected = redis.RedisServer(server.url.replace("redis://", "redis+cluster://"))
    together = threading.Barrier(8)

    def ask(_):
        together.wait()
        return connected.ping()

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(8))) == [False] * 8
    server.stop()
    assert most[0] > 1


def test_only_ok_means_that_a_small_value_is_kept():
    server = FalseServer(always(b":7\r\n"))
    store = RedisStore(redis.RedisServer(server.url))
    with pytest.raises(SharedStoreFailed):
        store.put("key", b"1", 60)
    server.stop()


def commands(metrics):
    """Numbers of commands by result."""
    lines = [line for line in metrics.text().splitlines() if 'total{server="pages"' in line]
    return {line.split('"')[3]: int(line.split()[-1]) for line in lines}


def test_one_command_at_a_time_tries_a_server_that_failed(tmp_path):
    """All others go without, and do not wait for it."""
    server = RedisServer(tmp_path)
    server.start()
    metrics = Metrics()
    cache = RedisCache(redis.RedisServer(server.url, pause=1.0, metrics=metrics), 60, 1000)
    cache.put("key", PAGE)
    server.freeze()
    together = threading.Barrier(8)

    def ask(_):
        together.wait()
        return cache.get("key")

    try:
        assert cache.get("key") is None
        assert commands(metrics) == {"answered": 1, "refused": 0, "failed": 1, "not_sent": 0}
        assert f'{REDIS_LEFT_OUT}{{server="pages"}} 1' in metrics.text()
        time.sleep(1.1)
        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(ask, range(8))) == [None] * 8
        assert commands(metrics) == {"answered": 1, "refused": 0, "failed": 2, "not_sent": 7}
        server.thaw()
        time.sleep(1.3)
        assert cache.get("key") == PAGE
        assert f'{REDIS_LEFT_OUT}{{server="pages"}} 0' in metrics.text()
    finally:
        server.thaw()
        server.stop()


def test_a_full_server_still_gives_what_it_has(tmp_path, caplog):
    server = RedisServer(tmp_path)
    server.start()
    metrics = Metrics()
    cache = RedisCache(redis.RedisServer(server.url, metrics=metrics), 60, 1000)
    cache.put("key", PAGE)
    server.client().config_set("maxmemory-policy", "noeviction")
    server.client().config_set("maxmemory", "1kb")
    for number in range(5):
        cache.put(str(number), PAGE)
        assert cache.get("key") == PAGE
    assert commands(metrics) == {"answered": 6, "refused": 5, "failed": 0, "not_sent": 0}
    assert [record.getMessage() for record in caplog.records] == ["Redis refuses SET: OutOfMemoryError"]
    server.client().config_set("maxmemory", "0")
    cache.put("other", PAGE)
    assert cache.get("other") == PAGE
    server.stop()


def test_a_server_that_was_started_again_is_used_at_once(tmp_path):
    """Connections from before are not taken for an outage."""
    server = RedisServer(tmp_path)
    server.start()
    metrics = Metrics()
    connected = redis.RedisServer(server.url, pause=3600.0, metrics=metrics)
    cache = RedisCache(connected, 60, 1000)
    together = threading.Barrier(4)

    def put(number):
        together.wait()
        cache.put(str(number), PAGE)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(put, range(4)))
    server.kill()
    server.start()
    for number in range(4):
        assert cache.get(str(number)) is None, "it is empty"
        cache.put(str(number), PAGE)
        assert cache.get(str(number)) == PAGE
    assert commands(metrics)["failed"] == 0
    server.stop()
