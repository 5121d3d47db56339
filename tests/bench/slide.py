"""A whole slide: `roiservice build` against reading and decoding its pixels alone, in one run.

`python -m tests.bench.slide STORE [TRUTH]`: zarr reads level 0 of the label image `cells` in strips of 2048
and of 4096 rows; then the store is built in a process of its own. The memory of that, with all it starts, is
looked at 20 times a second. Every outline is checked; TRUTH is an .npz of `label` and `area`, the pixels of
each label.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import zarr

from roiservice.catalog.reader import Catalog, open_catalog
from roiservice.geometry.polygons import to_shapely
from roiservice.query.columns import read_features

STRIPS = (2048, 4096)
AT_ONCE = 50_000  # features that are checked at a time


def main(store: str, truth: str = "") -> None:
    """Read, build, check; one line of figures each."""
    array = zarr.open_array(Path(store, "labels/cells/0"), mode="r")
    print(f"{' x '.join(map(str, array.shape))}, {array.dtype}, {os.cpu_count()} processors")
    reading = [read(array, rows) for rows in STRIPS]
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        seconds, memory = build(store, Path(folder))
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        worked = used.ru_utime + used.ru_stime
        print(f"built: {seconds:.1f} s ({worked:.1f} s of processors)")
        print(f"time: {seconds / min(reading):.2f} times that of reading")
        print(f"peak memory of all processes: {memory['VmRSS']} MB, {memory['RssAnon']} MB without files")
        (meta,) = Path(folder).glob("catalogs/*/*/*/layer.json")
        check(open_catalog(meta.parent), truth)


def read(array: Any, rows: int) -> float:
    """Seconds that reading and decoding a plane takes."""
    began, worked = time.perf_counter(), time.process_time()
    for row in range(0, array.shape[0], rows):
        array[row : row + rows]
    seconds = time.perf_counter() - began
    worked = time.process_time() - worked
    print(f"reading strips of {rows} rows: {seconds:.1f} s ({worked:.1f} s of processors)")
    return seconds


def build(store: str, folder: Path) -> tuple[float, dict[str, int]]:
    """Seconds that a build takes, and the most memory in MB."""
    environment = {
        **os.environ,
        "ROISERVICE_STATE_DIR": str(folder / "state"),
        "ROISERVICE_CATALOG_DIR": str(folder / "catalogs"),
    }
    most = {"VmRSS": 0, "RssAnon": 0}
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "roiservice", "build", store], env=environment)
    watching = threading.Thread(target=watch, args=(process, most))
    watching.start()
    assert process.wait() == 0
    seconds = time.perf_counter() - began
    watching.join()
    return seconds, most


def watch(process: subprocess.Popen[bytes], most: dict[str, int]) -> None:
    """Note the largest memory of a process and its descendants until it ends."""
    while process.poll() is None:
        now = dict.fromkeys(most, 0)
        for pid in descendants(process.pid):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue  # it has ended
            for line in status.splitlines():
                name, _, value = line.partition(":")
                if name in now:
                    now[name] += int(value.split()[0]) // 1024
        most.update({name: max(now[name], most[name]) for name in most})
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """A process and all that it, and they, have started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(each for child in children for each in descendants(int(child)))]


def check(catalog: Catalog, truth: str) -> None:
    """Look at every outline: valid, of its pixel count's area, and that is the truth's."""
    count = catalog.meta["counts"]["features"]
    label, area = catalog.features["label"], catalog.features["area"]
    invalid = other = 0
    for first in range(0, count, AT_ONCE):
        rows = np.arange(first, min(first + AT_ONCE, count))
        shapes = to_shapely(read_features(catalog, rows).polygons)
        invalid += int((~shapely.is_valid(shapes)).sum())
        other += int((shapely.area(shapes) != area[rows]).sum())
    print(f"{count} features: {invalid} invalid, {other} of another area than their pixels")
    if truth:
        expected = np.load(truth)
        order, given = np.argsort(label), np.argsort(expected["label"])
        equal = np.array_equal(label[order], expected["label"][given]) and np.array_equal(
            area[order], expected["area"][given]
        )
        print(f"{len(given)} labels in {truth}: {'equal areas' if equal else 'OTHER AREAS'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
