"""Order along a Hilbert curve, so that rows near each other on disk lie near each other in the plane."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled

ORDER = 16  # bits per axis


def hilbert_keys(boxes: NDArray[Any], shift: int | None = None) -> NDArray[np.int64]:
    """Keys of the centres of `boxes`, (n, 4) as (x0, y0, x1, y1); 0 to 2**32 - 1.

    Centres count in units of 2**shift pixels; None: that of these boxes, so that the keys depend on the
    farthest box only. Negative coordinates count as 0. After the classic bit-by-bit construction (Warren,
    Hacker's Delight, 16-1).
    """
    return np.asarray(_keys(boxes, shift_of(boxes) if shift is None else shift))


def shift_of(*boxes: NDArray[Any]) -> int:
    """The smallest shift by which the centres of all boxes fit 16 bits."""
    return max(0, max(int(_farthest(each)) for each in boxes).bit_length() - ORDER)


def order_of_keys(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows sorted by key, equal ones as they come: by the lower 16 bits, then by the upper ones.

    numpy sorts numbers of 16 bits by counting.
    """
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    return np.asarray(order[np.argsort((keys >> ORDER).astype(np.uint16)[order], kind="stable")])


@compiled
def _farthest(boxes: Any) -> Any:
    farthest = np.int64(0)
    for i in range(len(boxes)):
        x, y = np.int64((boxes[i, 0] + boxes[i, 2]) / 2), np.int64((boxes[i, 1] + boxes[i, 3]) / 2)
        farthest = max(farthest, x, y)
    return farthest


@compiled
def _keys(boxes: Any, shift: Any) -> Any:
    keys = np.empty(len(boxes), np.int64)
    for i in range(len(boxes)):
        x = np.int64(max((boxes[i, 0] + boxes[i, 2]) / 2, 0.0)) >> shift
        y = np.int64(max((boxes[i, 1] + boxes[i, 3]) / 2, 0.0)) >> shift
        key = np.int64(0)
        for bit in range(ORDER - 1, -1, -1):
            right, down = (x >> bit) & 1, (y >> bit) & 1
            key = (key << 2) | ((3 * right) ^ down)
            # Turn the quadrant so that the curve enters and leaves it as the first one.
            if down == 0:
                if right == 1:
                    x, y = ~x, ~y
                x, y = y, x
        keys[i] = key
    return keys
