"""Order along a Hilbert curve, so that rows near each other on disk lie near each other in the plane."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ORDER = 16  # bits per axis


def hilbert_keys(boxes: NDArray[Any]) -> NDArray[np.int64]:
    """Keys of the centres of `boxes`, (n, 4) as (x0, y0, x1, y1).

    Centres count in units of 2**k pixels, the smallest k for which all coordinates fit 16 bits: the keys
    depend on the farthest box only. Negative coordinates count as 0. After the classic bit-by-bit
    construction (Warren, Hacker's Delight, 16-1), here on whole arrays.
    """
    x = np.maximum((boxes[:, 0] + boxes[:, 2]) / 2, 0).astype(np.int64)
    y = np.maximum((boxes[:, 1] + boxes[:, 3]) / 2, 0).astype(np.int64)
    if not len(x):
        return np.empty(0, np.int64)
    shift = max(0, int(max(x.max(), y.max())).bit_length() - ORDER)
    x, y = x >> shift, y >> shift
    key = np.zeros(len(x), np.int64)
    for bit in range(ORDER - 1, -1, -1):
        right, down = (x >> bit) & 1, (y >> bit) & 1
        key = (key << 2) | ((3 * right) ^ down)
        # Turn the quadrant so that the curve enters and leaves it as the first one.
        flip = (down == 0) & (right == 1)
        x, y = np.where(flip, ~x, x), np.where(flip, ~y, y)
        x, y = np.where(down == 0, y, x), np.where(down == 0, x, y)
    return key
