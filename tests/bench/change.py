"""One changed chunk: what bringing a catalog of a whole slide up to date takes beside building it.

`python -m tests.bench.change STORE [ROUNDS]`: level 0 of the label image `cells` is copied, with all that
stands above it. A service is asked to build it, by `POST`; then some pixels of one chunk file are changed,
and it is asked again. The same with the command `roiservice build`. In the end all is built anew, to compare.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zarr

from tests.bench.serve import Service, running, service_json

LABELS = "labels/cells"
LOOKS = 0.02  # seconds between looks at a build


def main(store: str, rounds: str = "4") -> None:
    """Build, change and build again, both ways; a line of figures for each."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        copy = folder / "slide.zarr"
        shutil.copytree(store, copy, ignore=lambda path, names: other_levels(Path(store), path, names))
        environment = {
            **os.environ,
            "ROISERVICE_STATE_DIR": f"{folder}/state",
            "ROISERVICE_CATALOG_DIR": f"{folder}/catalogs",
            "ROISERVICE_BUILD_ON_POST": "1",
        }
        array = zarr.open_array(copy / LABELS / "0", mode="r+")
        with running([str(copy)], environment) as service:
            image = service_json(service, "/images")["images"][0]["id"]
            path = f"/images/{image}/collections/labels:cells/build"
            compared("a service", lambda *_: ask_to_build(service, path), array, int(rounds))
        compared("the command", lambda *more: run_command(copy, environment, *more), array, int(rounds))
        before = version(folder)
        run_command(copy, environment, "--force")
        print(f"All built anew is {'the same' if version(folder) == before else 'ANOTHER ONE'}")


def compared(who: str, build: Callable[..., None], array: Any, rounds: int) -> None:
    """Seconds that building all takes, and bringing it up to date after each of some changes."""
    whole = timed(build, "--force")
    print(f"{who}: {whole:.2f} s for all", flush=True)
    for number in range(rounds):
        change(array, number)
        os.sync()  # what was written before is not to be written while this is timed
        seconds = timed(build)
        print(f"{who}: {seconds:.2f} s after one change, 1/{whole / seconds:.1f}", flush=True)


def ask_to_build(service: Service, path: str) -> None:
    """Until the service says that it is done."""
    connection = service.connected()
    connection.request("POST", path)
    answer = connection.getresponse()
    state = json.loads(answer.read())["state"]
    assert answer.status == 202, state
    while state in ("waiting", "building"):
        time.sleep(LOOKS)
        state = service_json(service, path)["state"]
    assert state == "done", state


def run_command(store: Path, environment: dict[str, str], *options: str) -> None:
    subprocess.run(
        [Path(sys.executable).with_name("roiservice"), "build", *options, store],
        env=environment,
        check=True,
        capture_output=True,
    )


def timed(build: Callable[..., None], *options: str) -> float:
    began = time.perf_counter()
    build(*options)
    return time.perf_counter() - began


def version(folder: Path) -> str:
    """The file that names the version in service."""
    (pointer,) = folder.glob("catalogs/*/*/current-*.json")
    return pointer.read_text()


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
    label = 2**30 + time.monotonic_ns() // 1000 % 2**30  # that no other chunk has
    pixels[100 + number : 120, 100:120] = label
    array[row : row + side // 2, column : column + side // 2] = pixels


if __name__ == "__main__":
    main(*sys.argv[1:])
