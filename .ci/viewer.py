"""Run OMERO.iviewer's own client against the service: flat, z-stack, time series, many ROIs.

Usage: viewer.py SHARED, the folder with data/ and tools/iviewer. Exit code 1 if a check failed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROISERVICE = [sys.executable, "-m", "roiservice"]
STEPS = "rois,page,plane,select,deeplink"


# Beside the coins of the first image: shapes that the client has classes of its own for.
PLACE = {"layer": "drawn", "z": 0, "t": 0, "c": None, "area": 0}
SHAPES = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "properties": {"label": label, **PLACE, **drawn},
            "geometry": {"type": kind, "coordinates": coordinates},
        }
        for label, (kind, drawn, coordinates) in enumerate(
            [
                ("Polygon", {"drawn_as": "Rectangle"}, [[[20, 20], [90, 20], [90, 60], [20, 60], [20, 20]]]),
                ("Polygon", {"drawn_as": "Ellipse"}, [[[50, 95], [90, 120], [50, 145], [10, 120], [50, 95]]]),
                ("Point", {}, [220, 40]),
                ("LineString", {}, [[30, 180], [120, 160]]),
                ("LineString", {}, [[200, 170], [220, 190], [240, 165]]),
            ],
            1,
        )
    ],
}


def main() -> int:
    shared = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(XDG_CACHE_HOME=f"{scratch}/cache", XDG_STATE_HOME=f"{scratch}/state")
        many = Path(scratch, "many.zarr")
        size = ["--height", "1024", "--width", "1024"]
        subprocess.run([sys.executable, str(shared / "tools/make_big.py"), str(many), *size], check=True)
        stores = [
            shared / "data/v04_yx_coins_i32.zarr",
            shared / "data/v04_zyx_stardist3d_u16.zarr",
            shared / "data/v04_tyx_hela_u16.zarr",
            many,
        ]
        locations = [f"{number}={store}" for number, store in enumerate(stores, 1)]
        drawn = Path(scratch, "drawn.geojson")
        drawn.write_text(json.dumps(SHAPES), encoding="utf-8")
        with service([*locations, "--table", f"1={drawn}"]) as base:
            failed = [image for image in listed(locations) if not view(shared, base, image, Path(scratch))]
    print(f"viewer: {len(stores)} images, {len(failed)} failed")
    return 1 if failed else 0


@contextmanager
def service(locations: list[str]) -> Iterator[str]:
    """Base URL of a service with two processes on a free port."""
    command = [*ROISERVICE, "serve", "--port", "0", "--workers", "2", *locations]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            found = re.search(r"http://[^/\s]+", line)
            if found:
                yield found[0]
                break
        else:
            raise RuntimeError("the service ended before it said where it listens")
    finally:
        process.terminate()
        process.wait(30)


def listed(locations: list[str]) -> list[dict[str, Any]]:
    command = [*ROISERVICE, "images", "--json", *locations]
    images: list[dict[str, Any]] = json.loads(subprocess.check_output(command))["images"]
    return images


def view(shared: Path, base: str, image: dict[str, Any], scratch: Path) -> bool:
    """Whether the client passes all its checks on this image."""
    size = image["size"]
    sizes = [part for axis in "xyztc" for part in (f"--size-{axis}", str(size[axis]))]
    out = scratch / f"viewer-{image['id']}"
    command = [sys.executable, str(shared / "tools/iviewer/run.py"), "--service", base, "--out", str(out)]
    options = ["--image-id", str(image["id"]), *sizes, "--roi-count", "auto", "--steps", STEPS]
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = {"harness_error": done.stdout[-2000:]}
    passed = f"{report.get('checks_passed')} of {report.get('checks')} checks passed"
    print(f"viewer: {image['name']}: {passed}, {report.get('roi_count_told')} ROIs")
    for check in report.get("failed_checks", []):
        print("FAILED", image["name"], check)
    if report.get("harness_error"):
        print("FAILED", image["name"], report["harness_error"])
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
