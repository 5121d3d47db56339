"""Order along a Hilbert curve, so that rows near each other on disk lie near each other in the plane."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled

ORDER = 16  # bits per axis


def hilbert_keys(boxes: NDArray[Any]) -> NDArray[np.int64]:
    """Keys of the centres of `boxes`, (n, 4) as (x0, y0, x1, y1); 0 to 2**32 - 1.

    Centres count in units of 2**k pixels, the smallest k for which all coordinates fit 16 bits: the keys
    depend on the farthest box only. Negative coordinates count as 0. After the classic bit-by-bit
    construction (Warren, Hacker's Delight, 16-1).
    """
    x = np.maximum((boxes[:, 0] + boxes[:, 2]) / 2, 0).astype(np.int64)
    y = np.maximum((boxes[:, 1] + boxes[:, 3]) / 2, 0).astype(np.int64)
    if not len(x):
        return np.empty(0, np.int64)
    shift = max(0, int(max(x.max(), y.max())).bit_length() - ORDER)
    return np.asarray(_keys(x, y, shift))


def order_of_keys(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows sorted by key, equal ones as they come: by the lower 16 bits, then by the upper ones.

    numpy sorts numbers of 16 bits by counting.
    """
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    return np.asarray(order[np.argsort((keys >> ORDER).astype(np.uint16)[order], kind="stable")])


@compiled
def _keys(xs: Any, ys: Any, shift: Any) -> Any:
    keys = np.empty(xs.size, np.int64)
    for i in range(xs.size):
        x, y, key = xs[i] >> shift, ys[i] >> shift, np.int64(0)
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
