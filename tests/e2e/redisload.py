"""A service of several processes under load while its Redis fails in one way after another."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from tests.cache.support import FalseServer, RedisServer
from tests.e2e.support import Home, Running, serving
from tests.stores import write_image

CLIENTS = 8
WORKERS = 2
JUNK = (b"$abc\r\n", b"*1\r\n" * 10_000, b"+OK\r\n", b"$3\r\none\r\n", np.random.default_rng(1).bytes(3000))


@dataclass(frozen=True)
class Sample:
    """One answer: when it came, how many seconds it took, its status, and whether its bytes are right."""

    at: float
    seconds: float
    status: int
    right: bool


def write_cells(path: Path) -> Path:
    """An image of 2 500 cells on each of two planes."""
    rows, columns = np.indices((500, 500)) // 10
    labels = (rows * 50 + columns + 1).astype(np.uint16)
    labels[::10, ::10] = 0
    stack = np.stack([labels, labels[::-1]])
    return write_image(path, labels={"cells": stack}, axes="zyx", chunks=(1, 250, 250))


def urls() -> list[str]:
    """Pages of several kinds, none the same as another."""
    items = "/images/1/collections/labels:cells/items?limit=100&offset="
    rois = "/api/v0/m/rois/?image=1&limit=100&offset="
    planes = "/iviewer/rois_by_plane/1/1/0/?limit=100&offset="
    return [f"{kind}{offset}" for kind in (items, rois, planes) for offset in range(0, 2000, 100)]


@contextlib.contextmanager
def service_with(home: Path, image: Path, redis: RedisServer | None) -> Iterator[Running]:
    """The service; it keeps no page in memory, so that every request asks Redis."""
    own = {"ROISERVICE_CACHE_BYTES": "0"}
    if redis is not None:
        own["ROISERVICE_REDIS_URL"] = redis.url
    with serving(Home(home, own), image, "--workers", WORKERS) as running:
        yield running


def body_of(running: Running, url: str) -> bytes:
    """The body of a page, without the address of the service."""
    status, body, _ = running.get(url)
    assert status == 200, body
    return body.replace(running.base.encode(), b"")


class Load:
    """`CLIENTS` threads that ask for page after page and compare each with what it must be."""

    def __init__(self, base: str, right: dict[str, bytes]) -> None:
        self._base = base
        self._right = right
        self._ending = threading.Event()
        self.samples: list[Sample] = []
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection(urlsplit(self._base).netloc, timeout=60)
        paths = sorted(self._right)
        place = number * len(paths) // CLIENTS
        while not self._ending.is_set():
            url = paths[place % len(paths)]
            place += 1
            began = time.monotonic()
            connection.request("GET", url)
            answer = connection.getresponse()
            body = answer.read().replace(self._base.encode(), b"")
            now = time.monotonic()
            self.samples.append(Sample(now, now - began, answer.status, body == self._right[url]))


def junk_on(port: int) -> FalseServer:
    """A server that answers each command with the next piece of junk."""
    turn = iter(range(10**9))

    def answer(connection: object) -> None:
        while connection.recv(65536):  # type: ignore[attr-defined]
            connection.sendall(JUNK[next(turn) % len(JUNK)])  # type: ignore[attr-defined]

    return FalseServer(answer, port)


@contextlib.contextmanager
def killed(redis: RedisServer) -> Iterator[None]:
    redis.kill()
    try:
        yield
    finally:
        redis.start()


@contextlib.contextmanager
def frozen(redis: RedisServer) -> Iterator[None]:
    redis.freeze()
    try:
        yield
    finally:
        redis.thaw()


@contextlib.contextmanager
def full(redis: RedisServer) -> Iterator[None]:
    redis.client().flushall()
    redis.client().config_set("maxmemory-policy", "noeviction")
    redis.client().config_set("maxmemory", "1kb")
    try:
        yield
    finally:
        redis.client().config_set("maxmemory", "0")


@contextlib.contextmanager
def emptied(redis: RedisServer) -> Iterator[None]:
    redis.kill()
    redis.start()
    yield


@contextlib.contextmanager
def answering_junk(redis: RedisServer) -> Iterator[None]:
    redis.kill()
    junk = junk_on(redis.port)
    try:
        yield
    finally:
        junk.stop()
        redis.start()


Fault = Callable[[RedisServer], contextlib.AbstractContextManager[None]]
FAULTS: dict[str, Fault] = {
    "killed": killed,
    "frozen": frozen,
    "full": full,
    "restarted empty": emptied,
    "answering junk": answering_junk,
}


def metric(running: Running, series: str) -> float:
    """The value of a series of `/metrics`."""
    status, body, _ = running.get("/metrics")
    assert status == 200
    found = re.search(rf"^{re.escape(series)} (\S+)$", body.decode(), re.M)
    assert found is not None, body.decode()
    return float(found[1])
