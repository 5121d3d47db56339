"""The tracer against others; who is missing is named.

On 4096 x 4096 pixels of 28 900 touching cells, or on the plane given: `python -m tests.bench.tracer 5 ARRAY`,
an array of two axes in zarr, or in .npy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import zarr

from roiservice.geometry.polygons import measure
from roiservice.vectorize.plane import trace_plane, trace_rings
from tests.bench.common import alternating, report, touching_cells
from tests.bench.contestants import CONTESTANTS

RINGS = "roiservice, rings"
QUICK = ["fastlabelcontours"]
SLOW = ["OpenCV", "rasterio", "qubalab", "spatialdata"]


def main(rounds: str = "5", array: str = "") -> None:
    """Quick contestants in turns, then the slow ones, in fewer rounds."""
    compare(load(array) if array else touching_cells(), int(rounds))


def load(array: str) -> np.ndarray:
    """The array of that path, as uint32."""
    plane = np.load(array) if array.endswith(".npy") else np.asarray(zarr.open_array(array, mode="r")[:])
    return plane.astype(np.uint32, copy=False)


def compare(plane: np.ndarray, rounds: int) -> None:
    """Check the areas, then time everyone on `plane`."""
    labels, polygons = trace_plane([plane])
    counts = np.bincount(plane.ravel())[labels]
    assert np.array_equal(measure(polygons).area, counts), "areas must be pixel counts"
    print(f"{plane.shape[0]} x {plane.shape[1]}, {len(labels)} cells, {len(polygons.xy)} vertices, uint32")
    quick, missing = others(plane, QUICK)
    quick = {
        RINGS: lambda: trace_rings([plane]),
        "roiservice, polygons": lambda: trace_plane([plane]),
    } | quick
    seconds = alternating(quick, rounds)
    report(seconds, RINGS)
    rate = plane.size / sorted(seconds[RINGS])[rounds // 2] / 1e6
    print(f"{RINGS}: {rate:.0f} Mpx/s in one thread")
    slow, more = others(plane, SLOW)
    for name, run in slow.items():
        report(alternating({RINGS: quick[RINGS], name: run}, (rounds + 2) // 3), RINGS)
    for name in missing + more:
        print(f"{name}: not installed")


def others(plane: np.ndarray, names: Sequence[str]) -> tuple[dict[str, Callable[[], object]], list[str]]:
    """Those of these contestants that are installed, to be called, and the names of the others."""
    found: dict[str, Callable[[], object]] = {}
    missing = []
    for name in names:
        try:
            found[name] = partial(CONTESTANTS[name].load(), plane)
        except ModuleNotFoundError:
            missing.append(name)
    return found, missing


if __name__ == "__main__":
    main(*sys.argv[1:])
