"""Who turns labels into outlines, each called as its users would call it, and the limits of the machine.

`python -m tests.bench.contestants NAME SOURCE [SECONDS [areas]]` runs one of them in this process and prints
a line of JSON: the seconds of each run, the peak memory in MB and, with `areas`, how many labels have an
outline of exactly their pixels' area. SOURCE is a plane in .npy for those that take pixels, a store with a
label image `cells` for those that read one. A run of more than SECONDS ends the process by SIGALRM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.memory import use_memory_freely
from tests.bench.common import touching_cells
from tests.stores import write_image

Plane = NDArray[np.uint32]
Source = Plane | str  # or a store
Areas = tuple[NDArray[Any], NDArray[np.float64]]  # labels, each of them perhaps several times, and areas

ROUNDS, ENOUGH = 5, 5.0  # runs, but no further one after so many seconds
LEAST = 1.0  # seconds that runs take together: a few of milliseconds would be what the machine did just then
CORES = len(os.sched_getaffinity(0))
STRIPS = (2048, 4096)  # rows that reading is tried with: the quicker one counts
PASS_ROWS = 64  # of a numpy pass: what it compares stays in the processor's cache
AT_ONCE = 50_000  # features of a catalog that are measured at a time


@dataclass(frozen=True)
class Contestant:
    """`load` imports what is needed and gives the function to time; `areas` measures what that returned.

    The function takes a plane; with `stored`, the path of a store; with `by_strips`, either.
    """

    load: Callable[[], Callable[[Any], Any]]
    areas: Callable[[Any], Areas] | None = None
    stored: bool = False
    by_strips: bool = False


def roiservice() -> Callable[[Plane], Any]:
    from roiservice.vectorize.plane import trace_plane

    return lambda plane: trace_plane([plane])


def roiservice_areas(traced: Any) -> Areas:
    from roiservice.geometry.polygons import measure

    labels, polygons = traced
    return labels, measure(polygons).area


def roiservice_blocks() -> Callable[[Plane], Any]:
    """Blocks in threads, joined in order, as a build does it."""
    from roiservice.catalog.tracing import BLOCK_PIXELS, RUN_VERTICES
    from roiservice.vectorize.blocks import PlaneJoiner, trace_block

    def run(plane: Plane) -> Any:
        height, width = plane.shape
        rows, nothing = max(1, BLOCK_PIXELS // width), np.zeros_like(plane[0])
        joiner = PlaneJoiner(plane.dtype)

        def block(row: int) -> Any:
            above = plane[row - 1] if row else nothing
            return trace_block(above, plane[row : row + rows], row, last=row + rows >= height)

        with ThreadPoolExecutor(CORES) as pool:
            for each in pool.map(block, range(0, height, rows)):
                joiner.join(each)
            assembly = joiner.assembly()
            runs = list(assembly.runs(RUN_VERTICES))
            pieces = list(pool.map(lambda run: assembly.polygons(*run), runs))
        return assembly.labels, pieces

    return run


def roiservice_blocks_areas(traced: Any) -> Areas:
    from roiservice.geometry.polygons import measure

    labels, pieces = traced
    return labels, np.concatenate([measure(each).area for each in pieces])


def fastlabelcontours() -> Callable[[Plane], Any]:
    from fastlabelcontours import contours

    return contours


def fastlabelcontours_areas(found: Any) -> Areas:
    x, y = found.points.astype(np.int64).T
    following = np.arange(1, len(x) + 1)
    following[found.contour_offsets[1:] - 1] = found.contour_offsets[:-1]
    doubled = np.add.reduceat(x * y[following] - x[following] * y, found.contour_offsets[:-1])
    area = np.abs(doubled) / 2 * np.where(found.is_hole, -1, 1)
    return np.repeat(found.ids, np.diff(found.label_offsets)), area


def rasterio() -> Callable[[Plane], Any]:
    from rasterio.features import shapes

    return lambda plane: list(shapes(plane.view(np.int32), connectivity=4))


def rasterio_areas(found: Any) -> Areas:
    import shapely

    outlines = [shapely.geometry.shape(outline) for outline, _ in found]
    return np.array([label for _, label in found]).astype(np.int64), shapely.area(outlines)


def scikit_image() -> Callable[[Plane], Any]:
    from skimage.measure import find_contours, regionprops

    def run(plane: Plane) -> Any:
        return [
            (region.label, [line + region.bbox[:2] for line in find_contours(np.pad(region.image, 1), 0.5)])
            for region in regionprops(plane)
        ]

    return run


def scikit_image_areas(found: Any) -> Areas:
    def area(line: Any) -> float:  # holes run the other way round
        y, x = line.T - line[0][:, None]
        return float(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2

    areas = [abs(sum(map(area, lines))) for _, lines in found]
    return np.array([label for label, _ in found]), np.array(areas)


def opencv() -> Callable[[Plane], Any]:
    from cv2 import CHAIN_APPROX_SIMPLE, RETR_CCOMP, findContours
    from scipy.ndimage import find_objects

    def run(plane: Plane) -> Any:
        found = []
        for label, box in enumerate(find_objects(plane.view(np.int32)), start=1):
            if box is not None:
                mask = (plane[box] == label).astype(np.uint8)
                corner = (box[1].start, box[0].start)
                found.append((label, *findContours(mask, RETR_CCOMP, CHAIN_APPROX_SIMPLE, offset=corner)))
        return found

    return run


def opencv_areas(found: Any) -> Areas:
    from cv2 import contourArea

    def area(lines: Any, outer: Any) -> float:  # what lies in another one is a hole
        signs = np.where(outer < 0, 1, -1)
        return sum(contourArea(line) * sign for line, sign in zip(lines, signs, strict=True))

    areas = [area(lines, tree[0, :, 3]) for _, lines, tree in found]
    return np.array([label for label, *_ in found]), np.array(areas)


def qubalab() -> Callable[[Plane], Any]:
    from qubalab.objects import ImageFeature

    return lambda plane: ImageFeature.create_from_label_image(plane.view(np.int32), include_labels=True)


def qubalab_areas(found: Any) -> Areas:
    import shapely

    outlines = [shapely.geometry.shape(feature["geometry"]) for feature in found]
    labels = np.array([feature.measurements["Label"] for feature in found])
    return labels.astype(np.int64), shapely.area(outlines)


def spatialdata() -> Callable[[Plane], Any]:
    from spatialdata import to_polygons
    from spatialdata.models import Labels2DModel

    return lambda plane: to_polygons(Labels2DModel.parse(plane, dims=("y", "x")))


def spatialdata_areas(found: Any) -> Areas:
    return found["label"].to_numpy(), found.geometry.area.to_numpy()


def numpy_pass() -> Callable[[Source], Any]:
    """Count the pixels that differ from their right neighbour; seconds, without those of reading."""

    def run(source: Source) -> float:
        seconds = 0.0
        for strip in strips_of(source):
            began = time.perf_counter()
            for row in range(0, len(strip), PASS_ROWS):
                pixels = strip[row : row + PASS_ROWS]
                np.count_nonzero(pixels[:, 1:] != pixels[:, :-1])
            seconds += time.perf_counter() - began
        return seconds

    return run


def reading() -> Callable[[str], Any]:
    """Read and decode all pixels; seconds, of the quicker height of strips."""

    def seconds_of(store: str, rows: int) -> float:
        began = time.perf_counter()
        for _ in strips_of(store, rows):
            pass
        return time.perf_counter() - began

    return lambda store: min(seconds_of(store, rows) for rows in STRIPS)


def building() -> Callable[[str], Any]:
    """What `roiservice build` does: from the store to a catalog on disk, which goes with its folder."""
    from roiservice.bootstrap import build_services
    from roiservice.settings import Settings

    def run(store: str) -> Any:
        folder = tempfile.TemporaryDirectory()
        place = Path(folder.name)
        settings = Settings(catalog_dir=place / "catalogs", state_dir=place / "state")
        services = build_services(settings, [(None, store)])
        (image,) = services.images.page(0, 1)
        (layer,) = (each for each in services.layers.of(image).layers if each.name == "cells")
        return services.layers.build(layer), folder

    return run


def building_areas(built: Any) -> Areas:
    from roiservice.geometry.polygons import measure
    from roiservice.query.columns import read_features

    catalog, _ = built
    rows = np.arange(catalog.meta["counts"]["features"])
    pieces = np.array_split(rows, len(rows) // AT_ONCE + 1)
    areas = [measure(read_features(catalog, piece).polygons).area for piece in pieces]
    return np.array(catalog.features["label"]), np.concatenate(areas)


def strips_of(source: Source, rows: int = STRIPS[0]) -> Iterator[Plane]:
    """A plane as one strip, the label image `cells` of a store in strips of so many rows."""
    if not isinstance(source, str):
        yield source
        return
    layer = cells_of(source)
    for plane in layer.planes:
        for row in range(0, layer.height, rows):
            yield layer.read(plane.index, row, min(row + rows, layer.height))


def cells_of(store: str) -> Any:
    """The label image `cells` of a store, open."""
    from roiservice.sources.images import find_images
    from roiservice.sources.layers import layer_named
    from roiservice.sources.limits import Limits
    from roiservice.sources.planes import open_layer

    (image,) = find_images(Path(store), None, Limits())
    return open_layer(layer_named(image, "cells", Limits()), Limits())


CONTESTANTS = {
    "roiservice": Contestant(roiservice, roiservice_areas),
    "roiservice, all cores": Contestant(roiservice_blocks, roiservice_blocks_areas),
    "fastlabelcontours": Contestant(fastlabelcontours, fastlabelcontours_areas),
    "rasterio": Contestant(rasterio, rasterio_areas),
    "OpenCV": Contestant(opencv, opencv_areas),
    "scikit-image": Contestant(scikit_image, scikit_image_areas),
    "qubalab": Contestant(qubalab, qubalab_areas),
    "spatialdata": Contestant(spatialdata, spatialdata_areas),
    "roiservice build": Contestant(building, building_areas, stored=True),
    "reading and decoding": Contestant(reading, stored=True),
    "a numpy pass": Contestant(numpy_pass, by_strips=True),
}


def main(name: str, source: str, seconds: str = "0", areas: str = "") -> None:
    """Warm up, run several times, measure."""
    use_memory_freely()  # as `roiservice build` does: asking the system anew costs up to half the time
    contestant = CONTESTANTS[name]
    run = contestant.load()
    with tempfile.TemporaryDirectory() as folder:
        small = touching_cells(256, 10)
        write_image(Path(folder, "1.zarr"), labels={"cells": small})
        run(str(Path(folder, "1.zarr")) if contestant.stored else small)
    pixels = np.load(source) if source.endswith(".npy") else source
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory is that from here on
    taken, result = timed(run, pixels, float(seconds))
    found: dict[str, Any] = {"seconds": taken, "memory": peak_memory()}
    if areas and contestant.areas:
        found["exact"], found["labels"] = exact(*contestant.areas(result), pixels)
    print(json.dumps(found))


def timed(run: Callable[[Any], Any], pixels: Source, limit: float) -> tuple[list[float], Any]:
    """Seconds of some runs, as the function says itself if it returns a float, and what it returned last."""
    taken: list[float] = []
    while sum(taken) < (LEAST if len(taken) >= ROUNDS else ENOUGH):
        result = None  # what the last run made is no part of this one's memory
        signal.setitimer(signal.ITIMER_REAL, limit)
        began = time.perf_counter()
        result = run(pixels)
        seconds = time.perf_counter() - began
        signal.setitimer(signal.ITIMER_REAL, 0)
        taken.append(result if isinstance(result, float) else seconds)
    return taken, result


def peak_memory() -> int:
    """Most resident memory of this process in MB."""
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(peak.split()[1]) // 1024


def exact(labels: NDArray[Any], areas: NDArray[np.float64], pixels: Source) -> tuple[int, int]:
    """How many labels have outlines whose area is their number of pixels, and how many labels there are."""
    count = np.zeros(0, np.int64)
    for strip in strips_of(pixels):
        for row in range(0, len(strip), PASS_ROWS):
            here = np.bincount(strip[row : row + PASS_ROWS].ravel())
            count = np.pad(count, (0, max(0, len(here) - len(count))))
            count[: len(here)] += here
    area = np.bincount(labels.astype(np.int64), areas, minlength=len(count))
    return int((area[1:] == count[1:])[count[1:] > 0].sum()), int((count[1:] > 0).sum())


if __name__ == "__main__":
    main(*sys.argv[1:])
