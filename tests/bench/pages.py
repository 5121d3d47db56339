"""What `tests.bench.report` found, as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path

import roiservice

WORDS = {
    "roiservice": "pixels in memory to polygons, one thread",
    "roiservice, all cores": "the same in blocks of rows, as a build does it",
    "fastlabelcontours": "`contours`",
    "rasterio": "GDAL's polygonize: `features.shapes`, connectivity 4",
    "OpenCV": "`findContours` on the box of each label",
    "scikit-image": "`find_contours` on the box of each label, from `regionprops`",
    "qubalab": "`ImageFeature.create_from_label_image`",
    "spatialdata": "`to_polygons`",
    "roiservice build": "from a store to a catalog on disk, all cores",
    "reading and decoding": "limit: the pixels of the store, in strips, and nothing else",
    "a numpy pass": "limit: counting pixels that differ from their right neighbour",
}
BYTES = 4  # of a pixel
QUOTED = (4096**2, 16384**2)  # pixels of the planes that README has, beside the slide
MODULES = ("numpy", "numba", "zarr", "fastlabelcontours", "rasterio", "cv2", "skimage", "qubalab",
           "spatialdata")  # fmt: skip
PAGE = """# How fast, and how much memory

Labels to outlines, over the size of the plane. A cell of the table is **million pixels per second** and the
peak memory of the process, all of it: interpreter, libraries, pixels, outlines. Planes are uint32, full of
touching cells about 24 pixels across, and lie in memory as one array; where a store is read it is zarr v3, in
chunks of 1024 x 1024.{slide}

The last column counts labels whose outline has exactly the area of their pixels, at the largest size where
outlines were measured. OpenCV's lines run through the centres of pixels; those of scikit-image, and so of
spatialdata, cut corners.

- Command: `{command}`. The module says what to install for it.
- Machine: {machine}.
- Versions: {versions}.
- Each contestant has a process of its own for each size. Loading and compiling are done before, on a small
  plane; the median of up to five runs counts, or of those of a second. Memory that is given back is kept for
  the next run, as `roiservice build` has it. Who takes more time or memory than allowed is left out of larger
  sizes.
- `python -m tests.bench.worst` has figures of the worst that can come: noise, a huge table, ROIs on very many
  planes, a catalog that is not in memory.
- `python -m tests.bench.plate` has those of plates of 96 wells and of stacks of 200 planes: how busy all
  processors are, and whether counts are right; `python -m tests.bench.change` those of a slide of which one
  chunk changed.

{table}

![Throughput and peak memory over size](benchmark.png)
"""
SLIDE = "\nThe last size is a slide in a store, too large to be held in memory."


@dataclass(frozen=True)
class Size:
    """A plane as contestants get it: a file of its pixels, None where they are too many, and a store."""

    name: str
    pixels: int
    plane: Path | None
    store: Path


@dataclass(frozen=True)
class Result:
    """What a contestant did with a size: million pixels per second, MB, labels of exact area of all labels.

    Or the reason why there is nothing.
    """

    reason: str = ""
    rate: float = 0.0
    memory: int = 0
    exact: int | None = None
    labels: int | None = None


Results = dict[str, dict[str, Result]]  # by contestant, by name of size


def page(results: Results, sizes: list[Size], command: str) -> str:
    """All that was found."""
    slide = SLIDE if sizes[-1].plane is None else ""
    table = "\n".join(rows(results, sizes))
    return PAGE.format(slide=slide, command=command, machine=machine(), versions=versions(), table=table)


def quoted(results: Results, sizes: list[Size]) -> str:
    """The table for README: fewer sizes."""
    return "\n".join(rows(results, [size for size in sizes if size.plane is None or size.pixels in QUOTED]))


def rows(results: Results, sizes: list[Size]) -> Iterable[str]:
    """A Markdown table, line by line."""
    yield "|".join(["", " who ", " what ", *(f" {size.name} " for size in sizes), " exact areas ", ""])
    yield "|".join(["", "---", "---", *["---:"] * (len(sizes) + 1), ""])
    for name, own in results.items():
        cells = [cell(own[size.name]) for size in sizes]
        yield "|".join(["", *(f" {text} " for text in (name, WORDS[name], *cells, exactness(own))), ""])


def cell(result: Result) -> str:
    """One result."""
    if result.reason:
        return "" if result.reason == "left out" else result.reason
    rate = f"{result.rate:.0f}" if result.rate >= 10 else f"{result.rate:.2g}"
    return f"**{rate}** {result.memory / 1000:.1f} GB"


def exactness(own: dict[str, Result]) -> str:
    """How many areas are exact, where most labels were measured."""
    measured = [result for result in own.values() if result.labels]
    return f"{measured[-1].exact} of {measured[-1].labels}" if measured else ""


def machine() -> str:
    """Processor, cores, memory and system."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    system = f"Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}"
    return f"{model or platform.machine()}, {cores} cores, {memory:.0f} GiB of memory, {system}"


def versions() -> str:
    """Of everything that took part, by the names that pip knows."""
    known = packages_distributions()
    told = [f"roiservice {roiservice.__version__}"]
    for module in MODULES:
        name = known.get(module, [""])[0]
        told.append(f"{name} {version(name)}" if name else f"{module}: not installed")
    return ", ".join(told)
