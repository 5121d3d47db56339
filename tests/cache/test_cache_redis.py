"""Pages in a real Redis server that is sound, foreign, frozen or killed."""

import logging
import time

import pytest

from roiservice.cache import Page, PageCache, connect_redis, make_cache, redis
from roiservice.cache.redis import RedisCache
from tests.cache.support import RedisServer

PAGE = Page(b"deflated", 20, 7, 3, 2)
KEY = "roiservice:page:2:key"


@pytest.fixture
def server(tmp_path):
    running = RedisServer(tmp_path)
    running.start()
    yield running
    running.stop()


def cache_of(server, pause=0.2, **changes):
    return RedisCache(
        redis.RedisServer(server.url, pause=pause), **{"ttl": 60, "max_value": 1_000, **changes}
    )


def test_a_page_reaches_another_process(server):
    cache_of(server).put("key", PAGE)
    assert cache_of(server).get("key") == PAGE
    assert cache_of(server).get("other") is None


def test_a_page_found_in_redis_is_kept_in_memory(server):
    make_cache(10_000, connect_redis(server.url)).put("key", PAGE)
    second = make_cache(10_000, connect_redis(server.url))
    assert second.get("key") == PAGE
    server.kill()
    assert second.get("key") == PAGE


def test_pages_end_after_their_time_to_live(server):
    cache_of(server, ttl=77).put("key", PAGE)
    assert 0 < server.client().ttl(KEY) <= 77


def test_pages_above_the_largest_value_stay_away(server):
    cache_of(server).put("key", Page(b"x" * 1_001, 1, 1, 1, 1))
    assert server.client().get(KEY) is None


@pytest.mark.parametrize("value", [b"", b"junk", b"ROI2" + b"\0" * 60])
def test_damaged_values_are_as_good_as_none(server, value):
    server.client().set(KEY, value)
    assert cache_of(server).get("key") is None


def test_a_value_of_another_type_is_as_good_as_none(server):
    server.client().rpush(KEY, "a")
    assert cache_of(server).get("key") is None


def test_a_password_that_is_asked_for_is_no_error(server):
    server.client().config_set("requirepass", "secret")
    cache = cache_of(server)
    cache.put("key", PAGE)
    assert cache.get("key") is None
    assert not cache.ping()


def test_a_killed_server_is_tried_once_per_pause(server):
    cache = cache_of(server, pause=3600.0)
    cache.put("key", PAGE)
    server.kill()
    assert cache.get("key") is None
    server.start()
    asked_before = server.connections()
    for _ in range(200):
        cache.put("key", PAGE)
        assert cache.get("key") is None
    assert not cache.ping()
    assert server.connections() == asked_before + 1, "none but the one that asks for this number"


def test_a_server_that_comes_back_is_used_again(server, caplog):
    cache = cache_of(server, pause=0.0)
    cache.put("key", PAGE)
    server.kill()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            cache.put("key", PAGE)
            assert cache.get("key") is None
    assert len(caplog.records) == 1
    server.start()
    cache.put("key", PAGE)
    assert cache.get("key") == PAGE
    assert len(caplog.records) == 2


def test_a_frozen_server_is_waited_for_once_per_pause(server):
    """The kernel takes connections for a frozen process, which finds them when it goes on."""
    cache = cache_of(server, pause=3600.0)
    cache.put("key", PAGE)
    asked_before = server.connections()
    server.freeze()
    for _ in range(20):
        assert cache.get("key") is None
    assert not cache.ping()
    server.thaw()
    assert server.connections() == asked_before + 1, "none but the one that asks for this number"


def test_a_thawed_server_answers_with_the_right_page(server):
    """Answers to commands that were given up must not be taken for those to later ones."""
    cache = cache_of(server)
    other = Page(b"other", 5, 5, 5, 5)
    cache.put("key", PAGE)
    cache.put("other", other)
    server.freeze()
    assert cache.get("key") is None
    server.thaw()
    time.sleep(0.3)
    assert cache.get("other") == other
    assert cache.get("key") == PAGE


def test_a_server_that_was_never_there(tmp_path):
    cache = make_cache(10_000, connect_redis(RedisServer(tmp_path).url))
    cache.put("key", PAGE)
    assert cache.get("key") == PAGE  # from memory
    assert cache.ping()["redis"] == {"status": "unreachable"}


def test_the_report_names_no_address_and_no_password(server):
    server.client().config_set("requirepass", "secret")
    cache = make_cache(1_000, connect_redis(server.url.replace("//", "//:secret@")))
    assert cache.ping()["redis"] == {"status": "ok"}
    assert "secret" not in repr(cache.ping())
    assert str(server.port) not in repr(cache.ping())


def test_without_redis_nothing_is_said_about_it():
    assert list(PageCache(1_000).ping()) == ["memory"]
