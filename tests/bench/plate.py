"""Plates of 96 wells with 4 fields each, stacks of 200 planes: are all processors busy, are counts right?

`python -m tests.bench.plate [--folder FOLDER] [--dask ADDRESS] [NAME ...]`; names are those of `STORES`,
without any all of them. Stores are made first: in FOLDER, where those that are there are taken as they are,
else in a temporary one. Each is built by `roiservice build` with nothing built before.

Processor seconds are those of all processes that the command has started. "Busy" is their share of what all
processors had to give meanwhile; whatever else the machine had to do makes it less. "Of the rest" is their
share of what others left, so that only processors that did nothing at all make it less; where other things
run as well, they fill such gaps, and it says too much. "Once started" is "busy" without what the same command
takes when there is nothing to do, which is one processor's work. Features and pixels of each layer are
compared with what was drawn. Python has compiled its modules before, and numba its loops.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.reader import open_catalog
from tests.stores import write_image, write_plate

PR_SET_CHILD_SUBREAPER = 36
PROCESSORS = len(os.sched_getaffinity(0))
FIELDS = [f"{row}/{column}/{field}" for row in "ABCDEFGH" for column in range(1, 13) for field in range(4)]
PLANES = 200


@dataclass(frozen=True)
class Made:
    """Planes of so many pixels, of cells about so many pixels across; `chunks` None: fields of a plate."""

    shape: tuple[int, int]
    cell: int
    chunks: tuple[int, int, int] | None = None


STORES = {
    "plate": Made((2160, 2560), 60),
    "plate-of-small-fields": Made((512, 512), 40),
    "stack": Made((1024, 1024), 32, (1, 1024, 1024)),
    "stack-of-large-planes": Made((2048, 2048), 32, (1, 1024, 1024)),
    "stack-in-deep-chunks": Made((1024, 1024), 32, (64, 256, 256)),
}


def main(arguments: Sequence[str]) -> None:
    """Make, build and check each store; a row of a table each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--dask", metavar="ADDRESS")
    given = parser.parse_args(arguments)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    print(
        "| store | layers | features | s | processor s | ms per plane | busy | of the rest | once started "
        "| counts |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        run(folder, "warm-up")
        for name in given.names or STORES:
            build(folder, name, make(folder, name), given.dask)


def make(folder: Path, name: str) -> list[list[int]]:
    """Make a store, unless it is there; features and pixels of each of its layers, sorted."""
    truth = folder / f"{name}.json"
    if not truth.exists():
        store, path = STORES[name], folder / f"{name}.zarr"
        if store.chunks is None:
            drawn = make_plate(path, store)
        else:
            stack = np.stack([cells(store, z // store.cell, z % store.cell) for z in range(PLANES)])
            write_image(path, labels={"cells": stack}, axes="zyx", chunks=store.chunks)
            drawn = [[sum(map(distinct, stack)), int(np.count_nonzero(stack))]]
        truth.write_text(json.dumps(sorted(drawn)))
    read: list[list[int]] = json.loads(truth.read_text())
    return read


def make_plate(path: Path, store: Made) -> list[list[int]]:
    """Make a plate; features and pixels of each field."""
    write_plate(path, {field: {} for field in FIELDS})
    drawn = []
    for number, field in enumerate(FIELDS):
        plane = cells(store, number, store.cell // 2)
        write_image(path / field, labels={"cells": plane}, chunks=(1080, 1280))
        drawn.append([distinct(plane), int(np.count_nonzero(plane))])
    return drawn


def cells(store: Made, seed: int, z: int) -> NDArray[np.uint32]:
    """Balls of different sizes, one in each square of `store.cell` pixels, cut at depth `z` of as many."""
    random = np.random.default_rng(seed)
    rows, columns = (-(-size // store.cell) for size in store.shape)
    places = random.uniform(0.4, 0.6, (rows, columns, 3))
    radii = random.uniform(0.25, 0.6, (rows, columns))
    plane = np.zeros(store.shape, np.uint32)
    _draw(plane, places * store.cell, radii * store.cell, store.cell, z, seed * rows * columns + 1)
    return plane


@numba.njit
def _draw(plane: Any, places: Any, radii: Any, size: int, z: int, first: int) -> None:
    for row in range(plane.shape[0]):
        for column in range(plane.shape[1]):
            i, j = row // size, column // size
            y, x, depth = places[i, j]
            squared = (row - i * size - y) ** 2 + (column - j * size - x) ** 2 + (z - depth) ** 2
            if squared <= radii[i, j] ** 2:
                plane[row, column] = first + i * places.shape[1] + j


def distinct(plane: NDArray[np.uint32]) -> int:
    """How many cells a plane has."""
    return int(np.count_nonzero(np.bincount(plane.ravel() - plane.min())[1:]))


def build(folder: Path, name: str, drawn: list[list[int]], dask: str | None) -> None:
    """Build a store in processes of their own; a row of figures."""
    with tempfile.TemporaryDirectory(dir=folder) as home:
        options = [] if dask is None else ["--dask", dask]
        settings = {"ROISERVICE_STATE_DIR": f"{home}/state", "ROISERVICE_CATALOG_DIR": f"{home}/catalogs"}
        command = ("build", str(folder / f"{name}.zarr"), *options)
        code, used = run(folder, *command, **settings)
        _, start = run(folder, *command, **settings)
        catalogs = [open_catalog(path.parent) for path in Path(home).rglob("layer.json")]
        built = [[len(each.features["area"]), int(each.features["pixel_count"].sum())] for each in catalogs]
    counts = "right" if code == 0 and sorted(built) == drawn else f"WRONG, exit code {code}"
    planes = len(drawn) if STORES[name].chunks is None else PLANES
    row = [name, len(drawn), sum(features for features, _ in drawn), f"{used.seconds:.1f}"]
    row += [f"{used.work:.1f}", f"{used.work / planes * 1000:.0f}"]
    row += [
        f"{used.work / used.seconds / PROCESSORS:.0%}",
        f"{used.work / (used.work + used.idle):.0%}",
        f"{(used.work - start.work) / (used.seconds - start.seconds) / PROCESSORS:.0%}",
        counts,
    ]
    print(f"| {' | '.join(map(str, row))} |", flush=True)


@dataclass(frozen=True)
class Used:
    """Seconds of a command: of the clock, of processors at work for it, of processors that did nothing."""

    seconds: float
    work: float
    idle: float


def run(folder: Path, *arguments: str, **settings: str) -> tuple[int, Used]:
    """Exit code of a `roiservice` command, and what it took."""
    command = [sys.executable, "-m", "roiservice", *arguments]
    settings |= {"PYTHONPYCACHEPREFIX": f"{folder}/bytecode", "PYTHONDONTWRITEBYTECODE": ""}
    began, worked, idled = time.perf_counter(), work(), idle()
    process = subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.DEVNULL)
    code = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
    seconds, idled = time.perf_counter() - began, idle() - idled
    with suppress(ChildProcessError):
        while True:
            os.wait()  # for processes that it has started and left to this one
    return code, Used(seconds, work() - worked, idled)


def work() -> float:
    """Processor seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def idle() -> float:
    """Seconds that processors did nothing or waited for a disk, since the machine was started."""
    fields = Path("/proc/stat").read_text().split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main(sys.argv[1:])
