"""The tracer against others; who is missing is named.

On 4096 x 4096 pixels of 28 900 touching cells, or on the plane given: `python -m tests.bench.tracer 5 ARRAY`,
an array of two axes in zarr, or in .npy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import zarr

from roiservice.geometry.polygons import measure
from roiservice.vectorize.plane import trace_plane, trace_rings
from tests.bench.common import alternating, report, touching_cells

RINGS = "roiservice, rings"


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
    quick, slow, missing = contestants(plane)
    seconds = alternating(quick, rounds)
    report(seconds, RINGS)
    rate = plane.size / sorted(seconds[RINGS])[rounds // 2] / 1e6
    print(f"{RINGS}: {rate:.0f} Mpx/s in one thread")
    for name, run in slow.items():
        report(alternating({RINGS: quick[RINGS], name: run}, (rounds + 2) // 3), RINGS)
    for name in missing:
        print(f"{name}: not installed")


def contestants(
    plane: np.ndarray,
) -> tuple[dict[str, Callable[[], object]], dict[str, Callable[[], object]], list[str]]:
    """Those quick enough to run several times, the slow ones, and the names of those missing."""
    signed = plane.astype(np.int32)
    quick: dict[str, Callable[[], object]] = {
        RINGS: lambda: trace_rings([plane]),
        "roiservice, polygons": lambda: trace_plane([plane]),
    }
    slow: dict[str, Callable[[], object]] = {}
    missing = []
    if find_spec("fastlabelcontours"):
        import fastlabelcontours

        quick["fastlabelcontours"] = lambda: fastlabelcontours.contours(plane)
    else:
        missing.append("fastlabelcontours")
    if find_spec("rasterio"):
        from rasterio.features import shapes

        slow["rasterio.features.shapes"] = lambda: list(shapes(signed, connectivity=4))
    else:
        missing.append("rasterio")
    if find_spec("qubalab"):
        from qubalab.objects import ImageFeature

        slow["qubalab"] = lambda: ImageFeature.create_from_label_image(signed)
    else:
        missing.append("qubalab")
    if find_spec("spatialdata"):
        import spatialdata
        from spatialdata.models import Labels2DModel

        model = Labels2DModel.parse(plane, dims=("y", "x"))
        slow["spatialdata.to_polygons"] = lambda: spatialdata.to_polygons(model)
    else:
        missing.append("spatialdata")
    return quick, slow, missing


if __name__ == "__main__":
    main(*sys.argv[1:])
