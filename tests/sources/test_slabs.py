"""Planes that share chunks, asked for by several threads: each slab is read once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from roiservice.sources import slabs
from roiservice.sources.slabs import Selection, Slabs

ARRAY = np.arange(16 * 6 * 5, dtype=np.uint32).reshape(16, 6, 5)


class Loads:
    """Loads from `ARRAY`, counted; the first may be made to wait or to fail."""

    def __init__(self) -> None:
        self.selections: list[Selection] = []
        self.go = threading.Event()
        self.go.set()
        self.failures = 0

    def __call__(self, selection: Selection) -> Any:
        self.selections.append(selection)
        self.go.wait(30)
        if self.failures:
            self.failures -= 1
            raise OSError("cannot be read")
        return ARRAY[selection]


def whole(z: int) -> Selection:
    return (z, slice(0, 6), slice(0, 5))


def test_threads_that_ask_for_planes_of_one_slab_read_it_once() -> None:
    kept, load = Slabs(ARRAY.shape, (4, 6, 5), 4), Loads()
    load.go.clear()
    with ThreadPoolExecutor(4) as pool:
        planes = [pool.submit(kept.read, whole(z), load) for z in range(4)]
        load.go.set()
        for z, plane in enumerate(planes):
            np.testing.assert_array_equal(plane.result(), ARRAY[z])
    assert load.selections == [(slice(0, 4), slice(0, 6), slice(0, 5))]


def test_the_end_of_a_slab_is_not_read_again_when_the_next_one_has_begun() -> None:
    kept, load = Slabs(ARRAY.shape, (4, 6, 5), 4), Loads()
    for z in (0, 1, 4, 2, 5, 3, 6, 7, 8):
        np.testing.assert_array_equal(kept.read(whole(z), load), ARRAY[z])
    assert [selection[0].start for selection in load.selections] == [0, 4, 8]  # type: ignore[union-attr]
    kept.read(whole(0), load)
    assert len(load.selections) == 4, "older slabs are let go"


def test_a_slab_that_could_not_be_read_is_read_again() -> None:
    kept, load = Slabs(ARRAY.shape, (4, 6, 5), 4), Loads()
    load.failures = 1
    with pytest.raises(OSError, match="cannot"):
        kept.read(whole(1), load)
    np.testing.assert_array_equal(kept.read(whole(1), load), ARRAY[1])


def test_rows_of_overlapping_ranges_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SLAB_BYTES", 4 * 6 * 5 * 4)
    kept, load = Slabs(ARRAY.shape, (4, 6, 5), 4), Loads()
    for rows in (slice(0, 6), slice(1, 6), slice(0, 6)):
        np.testing.assert_array_equal(kept.read((0, rows, slice(0, 5)), load), ARRAY[0, rows])
    assert len(load.selections) == 3
