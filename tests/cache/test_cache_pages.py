"""Pages as bytes, and pages in memory."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roiservice.cache import Page, connect_redis, make_cache
from roiservice.cache.memory import MemoryCache
from roiservice.cache.page import from_bytes, to_bytes
from roiservice.errors import SettingsError
from roiservice.web.compress import pack

counts = st.integers(0, 2**63)
pages = st.builds(Page, st.binary(max_size=200), counts, st.integers(0, 2**32 - 1), counts, counts)


@given(pages)
def test_a_page_comes_back_from_its_bytes(page):
    assert from_bytes("key", to_bytes("key", page)) == page
    assert from_bytes("other", to_bytes("key", page)) is None, "a value counts under its own key only"


@given(pages, st.data())
def test_a_changed_byte_is_noticed(page, data):
    value = bytearray(to_bytes("key", page))
    place = data.draw(st.integers(0, len(value) - 1))
    value[place] ^= data.draw(st.integers(1, 255))
    assert from_bytes("key", bytes(value)) is None


@given(pages, st.data())
def test_a_value_cut_short_is_noticed(page, data):
    value = to_bytes("key", page)
    assert from_bytes("key", value[: data.draw(st.integers(0, len(value) - 1))]) is None


@given(st.binary(max_size=100))
def test_foreign_values_are_no_pages(value):
    assert from_bytes("key", value) is None


def page_of(size):
    return Page(b"x" * size, size, 0, 1, 1)


def test_memory_keeps_within_its_bytes_and_drops_the_least_recently_used():
    cache = MemoryCache(10_000)
    for name in "abc":
        cache.put(name, page_of(2_600), 2_600)
    assert cache.get("a") is not None  # now more recent than b
    cache.put("d", page_of(2_600), 2_600)
    assert cache.get("b") is None
    assert [name for name in "acd" if cache.get(name)] == ["a", "c", "d"]
    assert cache.usage() == (3, 9_000)


def test_a_value_put_twice_counts_once():
    cache = MemoryCache(10_000)
    for size in (100, 5_000, 200):
        cache.put("key", page_of(size), size)
    assert cache.usage() == (1, 600)
    assert cache.get("key") == page_of(200)


def test_a_value_above_the_bound_is_not_kept():
    cache = MemoryCache(1_000)
    cache.put("small", page_of(10), 10)
    cache.put("large", page_of(1_001), 1_001)
    assert cache.get("large") is None
    assert cache.get("small") is not None


def test_no_memory_at_all_keeps_nothing():
    cache = make_cache(0)
    cache.put("key", page_of(1))
    assert cache.get("key") is None


def test_threads_share_memory():
    cache = MemoryCache(200_000)

    def work(seed):
        for i in range(2_000):
            cache.put(str((i * seed) % 300), page_of(i % 1_000), i % 1_000)
            cache.get(str(i % 300))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 3, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    number, size = cache.usage()
    assert size <= 200_000
    assert size == sum(len(page.deflated) + 400 for i in range(300) if (page := cache.get(str(i))))
    assert number <= 300


def test_unpacked_pages_are_remembered():
    cache = make_cache(1_000_000)
    page = pack(b"features", 1, 1)
    assert cache.unpacked("key", page) == b"features"
    assert cache.unpacked("key", page) is cache.unpacked("key", page)


def test_an_address_that_is_none_stops_the_start():
    with pytest.raises(SettingsError, match="ROISERVICE_REDIS_URL"):
        connect_redis("http://127.0.0.1")
