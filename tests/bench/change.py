"""One changed chunk: what building a whole slide anew takes where a catalog of it was there before.

`python -m tests.bench.change STORE [ROUNDS]`: level 0 of the label image `cells` is copied, with all that
stands above it, and built; then some pixels of one chunk file are changed, and it is built again, in this
process, as a service's own process that has done so before. The last time everything is built anew with
`force`.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import zarr

from roiservice.catalog.elsewhere import LayerKey
from roiservice.catalog.keeper import Keeper
from roiservice.catalog.reader import Catalog
from roiservice.catalog.registry import Registry
from tests.catalog.support import keeper_at, layer_key

LABELS = "labels/cells"


def main(store: str, rounds: str = "3") -> None:
    """Build, change and build again; a line of figures for each."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        copy = Path(folder, "slide.zarr")
        shutil.copytree(store, copy, ignore=lambda path, names: other_levels(Path(store), path, names))
        keeper, array = keeper_at(Path(folder)), zarr.open_array(copy / LABELS / "0", mode="r+")
        registry = Registry(Path(folder, "state"))
        whole, _ = timed("all", keeper, layer_key(registry, copy))
        for number in range(int(rounds)):
            change(array, number)
            seconds, catalog = timed("one changed chunk", keeper, layer_key(registry, copy))
            print(f"  1/{whole / seconds:.1f} of the time that all took")
        before = catalog.directory
        seconds, catalog = timed("all, for comparison", keeper, layer_key(registry, copy), force=True)
        print(f"its outcome is {'the same' if catalog.directory == before else 'ANOTHER ONE'}")


def other_levels(store: Path, path: str, names: list[str]) -> set[str]:
    """What need not be copied: pixels of the image, and levels but the first."""
    inside = Path(path).relative_to(store)
    if inside == Path():
        return {name for name in names if name.isdigit()}
    return {name for name in names if name.isdigit() and name != "0"} if inside == Path(LABELS) else set()


def change(array: Any, number: int) -> None:
    """Another label for some pixels in one chunk, and a label that goes."""
    side = array.metadata.chunk_grid.chunk_shape[-1]
    row = array.shape[-2] // 2 // side * side
    column = (array.shape[-1] // 3 // side + number) * side
    pixels = array[row : row + side // 2, column : column + side // 2]
    pixels[pixels == pixels.max()] = 0
    pixels[100:120, 100:120] = 2**30 + number
    array[row : row + side // 2, column : column + side // 2] = pixels


def timed(what: str, keeper: Keeper, layer: LayerKey, **options: Any) -> tuple[float, Catalog]:
    """Seconds that a build takes, and its catalog."""
    used, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    catalog = keeper.build(layer, **options)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - used.ru_utime, after.ru_stime - used.ru_stime
    print(f"{what}: {seconds:.2f} s (processors: {user:.2f} s, for the system {system:.2f} s)")
    return seconds, catalog


if __name__ == "__main__":
    main(*sys.argv[1:])
