"""Redis fails under load: no request fails, no byte is wrong, and Redis is used again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cache.support import RedisServer
from tests.e2e.redisload import FAULTS, Load, body_of, metric, service_with, urls, write_cells
from tests.e2e.support import Running, wait_for

PAGES_FROM_REDIS = 'roiservice_pages_total{source="redis"}'
LEFT_OUT = 'roiservice_redis_left_out{server="pages"}'


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cells(tmp_path_factory.mktemp("faults") / "1.zarr")


@pytest.fixture(scope="module")
def right(image: Path) -> dict[str, bytes]:
    """What pages are when there is no cache at all."""
    with service_with(image.parent / "home", image, None) as running:
        return {url: body_of(running, url) for url in urls()}


@pytest.fixture(scope="module")
def running(right: dict[str, bytes], image: Path, redis: RedisServer) -> Iterator[Running]:
    with service_with(image.parent / "home", image, redis) as running:
        yield running


@pytest.mark.parametrize("name", FAULTS)
def test_no_request_fails(name: str, redis: RedisServer, running: Running, right: dict[str, bytes]) -> None:
    with Load(running.base, right) as load:
        answered(load, 200)
        with FAULTS[name](redis):
            answered(load, 300)
            if name in ("killed", "frozen", "answering junk"):
                wait_for(lambda: metric(running, LEFT_OUT) > 0)
                answered(load, 100)
        wait_for(lambda: metric(running, LEFT_OUT) == 0)
        before = metric(running, PAGES_FROM_REDIS)
        answered(load, 200)
        wait_for(lambda: metric(running, PAGES_FROM_REDIS) > before)
    assert {sample.status for sample in load.samples} == {200}
    assert all(sample.right for sample in load.samples)


def answered(load: Load, number: int) -> None:
    """Wait for so many more answers."""
    goal = len(load.samples) + number
    wait_for(lambda: len(load.samples) >= goal)
