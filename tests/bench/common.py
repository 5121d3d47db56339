"""What the benchmarks share: a plane of touching cells, and timing in alternating runs.

Nothing here is collected by pytest. Run a benchmark from the project's root: `python -m tests.bench.tracer`.
Ratios are of one run: contestants take turns, so that a slow moment of the machine strikes all of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

CELLS_PER_ROW = 170  # on 4096 pixels: 28 900 cells, about 24 pixels across


def touching_cells(side: int = 4096, per_row: int = CELLS_PER_ROW, seed: int = 1) -> NDArray[np.uint32]:
    """Cells without background: each pixel belongs to the nearest of the points of a jittered grid."""
    jitter = np.random.default_rng(seed).uniform(0.1, 0.9, (per_row, per_row, 2))
    plane = np.zeros((side, side), np.uint32)
    _nearest(jitter, side / per_row, plane)
    return plane


@numba.njit(cache=True)
def _nearest(jitter: Any, size: float, plane: Any) -> None:
    per_row = jitter.shape[0]
    for row in range(plane.shape[0]):
        for column in range(plane.shape[1]):
            y, x = (row + 0.5) / size, (column + 0.5) / size
            best = np.inf
            for i in range(max(0, int(y) - 2), min(per_row, int(y) + 3)):
                for j in range(max(0, int(x) - 2), min(per_row, int(x) + 3)):
                    distance = (i + jitter[i, j, 0] - y) ** 2 + (j + jitter[i, j, 1] - x) ** 2
                    if distance < best:
                        best = distance
                        plane[row, column] = i * per_row + j + 1


def alternating(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, all of them once per round; a first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            begin = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def report(seconds: Mapping[str, list[float]], reference: str) -> None:
    """Median, fastest, and the median of the ratios to `reference` round by round."""
    width = max(map(len, seconds))
    print(f"{'':{width}}  {'median':>10}  {'fastest':>10}  ratio to {reference}")
    for name, own in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(own, seconds[reference], strict=True))
        print(
            f"{name:{width}}  {statistics.median(own) * 1e3:8.2f} ms  {min(own) * 1e3:8.2f} ms  {ratio:.2f}"
        )
