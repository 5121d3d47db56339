"""The Hilbert order is a bijection in which neighbours stay near."""

from __future__ import annotations

import numpy as np
import pytest

from roiservice.geometry.hilbert import ORDER, hilbert_keys


def point_boxes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.column_stack((x, y, x, y)).astype(float)


@pytest.mark.parametrize("bits", [1, 3, 6])
def test_every_cell_has_its_own_key_and_the_curve_takes_single_steps(bits: int) -> None:
    y, x = np.divmod(np.arange(4**bits), 2**bits)
    keys = hilbert_keys(point_boxes(x, y))
    assert sorted(keys.tolist()) == list(range(4**bits))
    along = np.argsort(keys)
    steps = np.abs(np.diff(x[along])) + np.abs(np.diff(y[along]))
    assert (steps == 1).all()
    assert (x[along[0]], y[along[0]]) == (0, 0)


def test_the_whole_curve_takes_single_steps_at_full_order() -> None:
    last = 2**ORDER - 1
    y, x = np.divmod(np.arange(64 * 64), 64)
    far_x, far_y = last - x, last - y
    keys = hilbert_keys(point_boxes(far_x, far_y))
    assert len(set(keys.tolist())) == 64 * 64
    along = np.argsort(keys)
    steps = np.abs(np.diff(far_x[along])) + np.abs(np.diff(far_y[along]))
    assert (steps == 1).mean() > 0.95  # but for where the curve leaves this corner and comes back
    assert keys.max() < 4**ORDER
    assert keys.min() >= 0


def test_pages_along_the_curve_are_compact() -> None:
    chance = np.random.default_rng(2)
    x, y = chance.integers(0, 40_000, (2, 20_000))
    along = np.argsort(hilbert_keys(point_boxes(x, y)))
    pages_x, pages_y = x[along].reshape(20, -1), y[along].reshape(20, -1)
    covered = (np.ptp(pages_x, axis=1) * np.ptp(pages_y, axis=1)).sum()
    assert covered < 4 * 40_000**2


def test_planes_wider_than_the_order_keep_their_order() -> None:
    x = np.array([0, 200_000, 400_000])
    keys = hilbert_keys(point_boxes(x, np.zeros(3, int)))
    assert keys.tolist() == sorted(keys.tolist())
    assert len(set(keys.tolist())) == 3


def test_keys_do_not_depend_on_what_else_is_there() -> None:
    """Only on the farthest box, which sets the unit."""
    boxes = point_boxes(np.array([3, 50, 1000]), np.array([9, 40, 1000]))
    more = np.vstack((boxes, point_boxes(np.array([500]), np.array([600]))))
    assert hilbert_keys(more)[:3].tolist() == hilbert_keys(boxes).tolist()


def test_no_boxes_and_negative_ones() -> None:
    assert hilbert_keys(np.empty((0, 4))).tolist() == []
    assert hilbert_keys(np.array([[-5.0, -5, -1, -1], [0, 0, 0, 0]])).tolist() == [0, 0]
