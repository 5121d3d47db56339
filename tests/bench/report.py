"""Throughput and peak memory over size, as a Markdown table and a plot: the service, others, and the machine.

`python -m tests.bench.report --store SLIDE.zarr` takes a quarter of an hour at most and writes
docs/benchmark.md and docs/benchmark.png. SLIDE.zarr is an OME-Zarr image of any size with a label image
`cells`; without it, planes of touching cells alone are traced. For the plot, and for who else takes part:

    pip install matplotlib fastlabelcontours rasterio opencv-python-headless qubalab spatialdata

Who is not installed is named. Each contestant has a process of its own for each size. One that takes longer
or more memory than allowed is left out of larger sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np

from tests.bench.common import touching_cells
from tests.bench.contestants import CONTESTANTS, cells_of
from tests.bench.curves import draw
from tests.bench.pages import BYTES, Result, Results, Size, page, quoted
from tests.stores import write_image

SIDES = [1024, 2048, 4096, 8192, 16384]
CELL = 24  # pixels across
CHUNK = 1024
MEASURED = 4096**2  # pixels of a plane, at most, whose outlines are measured as well


def main() -> None:
    """Measure, write, and print the rows for README."""
    began, options = time.perf_counter(), parsed()
    results: Results = {name: {} for name in options.only}
    sizes: list[Size] = []
    with tempfile.TemporaryDirectory() as folder:
        for side in options.sizes:
            sizes.append(made(side, Path(folder)))
            measure(results, sizes[-1], options, areas=side**2 <= MEASURED)
    if options.store:
        layer = cells_of(str(options.store))
        sizes.append(Size(f"{layer.height} x {layer.width}", layer.pixels, None, options.store))
        measure(results, sizes[-1], options, areas=True)
    command = " ".join(["python -m tests.bench.report", *given(options)])
    (options.folder / "benchmark.md").write_text(page(results, sizes, command), "utf-8")
    draw(results, sizes, options.gigabytes, options.folder / "benchmark.png")
    print(f"{time.perf_counter() - began:.0f} s in all. For README:\n\n{quoted(results, sizes)}")


def parsed() -> argparse.Namespace:
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("report", description=__doc__, formatter_class=raw)
    parser.add_argument("--sizes", type=numbers, default=SIDES, help="sides of planes, with commas, or none")
    parser.add_argument("--store", type=Path, help="a slide with a label image `cells`")
    parser.add_argument("--only", type=names, default=list(CONTESTANTS), help="contestants, with semicolons")
    parser.add_argument("--seconds", type=float, default=120.0, help="most, of one run")
    parser.add_argument("--gigabytes", type=float, default=4.0, help="most, of one process")
    parser.add_argument("--folder", type=Path, default=Path("docs"), help="where to write")
    options = parser.parse_args()
    if find_spec("matplotlib") is None:
        parser.error("the plot needs matplotlib: pip install matplotlib")
    options.folder.mkdir(parents=True, exist_ok=True)
    return options


def numbers(text: str) -> list[int]:
    """The sizes of an option."""
    return sorted(int(side) for side in text.split(",") if side)


def names(text: str) -> list[str]:
    """The contestants of an option."""
    chosen = [name.strip() for name in text.split(";")]
    if unknown := set(chosen) - CONTESTANTS.keys():
        raise argparse.ArgumentTypeError(f"{'; '.join(unknown)}: not one of {'; '.join(CONTESTANTS)}")
    return chosen


def given(options: argparse.Namespace) -> list[str]:
    """The options that change what is measured, without the place of the slide."""
    told = [] if options.sizes == SIDES else ["--sizes", ",".join(map(str, options.sizes))]
    told += ["--store", "SLIDE.zarr"] if options.store else []
    told += [] if options.only == list(CONTESTANTS) else ["--only", f"'{'; '.join(options.only)}'"]
    return [*told, f"--seconds {options.seconds:g} --gigabytes {options.gigabytes:g}"]


def made(side: int, folder: Path) -> Size:
    """A plane of touching cells, as pixels and as a store."""
    plane, store = folder / f"{side}.npy", folder / f"{side}.zarr"
    pixels = touching_cells(side, max(1, side // CELL))
    np.save(plane, pixels)
    chunk = min(CHUNK, side)
    write_image(store, labels={"cells": pixels}, chunks=(chunk, chunk))
    return Size(f"{side}²", side * side, plane, store)


def measure(results: Results, size: Size, options: argparse.Namespace, *, areas: bool) -> None:
    """All contestants in turn, each with one line of what came out."""
    for name, own in results.items():
        own[size.name] = result = contest(name, own, size, options, areas=areas)
        print(f"{size.name}, {name}: {result.reason or result}", flush=True)


def contest(
    name: str, before: dict[str, Result], size: Size, options: argparse.Namespace, *, areas: bool
) -> Result:
    """What one contestant does with one size."""
    contestant = CONTESTANTS[name]
    if any(result.reason for result in before.values()):
        return Result("left out")
    source = size.store if contestant.stored or (contestant.by_strips and size.plane is None) else size.plane
    if source is None:
        return Result(f"{size.pixels * BYTES / 1e9:.1f} GB as one array")
    command = [sys.executable, "-m", "tests.bench.contestants", name, str(source), str(options.seconds)]
    return run([*command, "areas"] if areas else command, size.pixels, options)


def run(command: list[str], pixels: int, options: argparse.Namespace) -> Result:
    """Start a contestant, and end it when it takes too much memory."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+") as errors,
    ):
        environment = {**os.environ, "TMPDIR": scratch}  # of one that is ended, nothing stays
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment)
        while process.poll() is None:
            if resident(process.pid) > options.gigabytes * 1e9:
                process.kill()
                process.wait()
                return Result(f"> {options.gigabytes:g} GB")
            time.sleep(0.05)
        output.seek(0)
        errors.seek(0)
        if process.returncode == -signal.SIGALRM:
            return Result(f"> {options.seconds:g} s")
        if process.returncode:
            return Result(failure(errors.read().strip() or f"exit code {process.returncode}"))
        found = json.loads(output.read().splitlines()[-1])
    rate = pixels / median(found["seconds"]) / 1e6
    return Result("", rate, found["memory"], found.get("exact"), found.get("labels"))


def failure(errors: str) -> str:
    """What a contestant that ended said last."""
    last = errors.splitlines()[-1]
    return "not installed" if last.startswith("ModuleNotFoundError") else f"failed: {last}"


def resident(pid: int) -> int:
    """Bytes of memory that a process has now; 0 once it has ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
