"""Run OMERO.iviewer's own client on OMERO.web with the service beside it behind nginx.

Usage: viewer.py SHARED [FOLDER]: the folder with data/ and tools/, and one for screenshots and reports.
Exit code 1 if a check failed.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from viewersite import Site, running

import browser as chrome  # isort: skip (the harness's, like the next)
import run as harness  # isort: skip

from tests.e2e.support import Home
from tests.stores import write_image

COINS, STACK, SERIES, FIELD, MANY = range(1, 6)
PAGE = 500
NONE, FEW, LONG = 0, 3, 620  # ROIs of OMERO's own: the last are more than a page


@dataclass(frozen=True)
class Case:
    """An image, and how many ROIs OMERO has of it besides the service's."""

    image: int
    own: int
    steps: str = "rois,page,plane,select,stats,deeplink"


CASES = [
    Case(COINS, FEW),
    Case(COINS, NONE, "rois"),
    Case(STACK, LONG),
    Case(STACK, NONE, "rois,plane"),
    Case(SERIES, FEW),
    Case(FIELD, LONG),
    Case(MANY, FEW),
    Case(MANY, NONE, "rois"),
    Case(MANY, LONG, "rois,page"),
]

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
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    shared = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(sys.argv[2] if len(sys.argv) > 2 else f"{scratch}/out")
        locations = [f"{number}={store}" for number, store in stores(shared, Path(scratch)).items()]
        drawn = Path(scratch, "drawn.geojson")
        drawn.write_text(json.dumps(SHAPES), encoding="utf-8")
        home = Home(Path(scratch, "home"))
        built = home.run("build", *locations)
        if built.returncode:
            raise RuntimeError(built.stderr)
        images = {
            image["id"]: image
            for image in json.loads(home.run("images", "--json", *locations).stdout)["images"]
        }
        with running(home, [*locations, "--table", f"{COINS}={drawn}"]) as site:
            failed = sum(not passes(site, case, images[case.image], out, shared) for case in CASES)
    print(f"viewer: {len(CASES)} cases, {failed} failed")
    return 1 if failed else 0


def stores(shared: Path, folder: Path) -> dict[int, Path]:
    """A flat image, a z-stack, a time series, a field of a plate, and a z-stack of 150 000 objects."""
    data = shared / "data"
    return {
        COINS: data / "v04_yx_coins_i32.zarr",
        STACK: data / "v04_zyx_stardist3d_u16.zarr",
        SERIES: data / "v04_tyx_hela_u16.zarr",
        FIELD: data / "plate_v04.zarr/A/1/0",
        MANY: many(shared, folder),
    }


def many(shared: Path, folder: Path) -> Path:
    """Three planes of 50 000 objects and more each."""
    flat = folder / "flat.zarr"
    size = ["--height", "5632", "--width", "5632", "--drop", "0"]
    command = [sys.executable, str(shared / "tools/make_big.py"), str(flat), *size]
    subprocess.run(command, check=True, capture_output=True)
    plane = np.asarray(zarr.open_array(flat / "labels/cells/0", mode="r")[:])
    highest = int(plane.max())
    planes = [np.where(plane, plane + number * highest, 0).astype(np.uint32) for number in range(3)]
    return write_image(
        folder / "many.zarr", labels={"cells": np.stack(planes)}, axes="zyx", chunks=(1, 1024, 1024)
    )


def passes(site: Site, case: Case, image: dict[str, Any], out: Path, shared: Path) -> bool:
    """Whether the client passes all checks; what it did is kept below `out`."""
    started = time.monotonic()
    folder = out / f"{case.image}-{case.own}"
    folder.mkdir(parents=True, exist_ok=True)
    pixels = own_pixels(shared, folder) if case.image == COINS else None
    total = count(site, image, site.show(image, 0, pixels)) + case.own
    session = site.show(image, case.own, pixels)
    # The harness's own command line: no size, as it opens what this site shows.
    options = [
        "--service",
        site.base,
        "--image-id",
        str(case.image),
        "--out",
        str(folder),
        "--steps",
        case.steps,
    ]
    options += [part for axis in "zt" for part in (f"--size-{axis}", str(image["size"][axis]))]
    browser = chrome.Browser(folder)
    try:
        run = harness.Run(harness.arguments(options), site.recorder, browser)
        cookie = {"name": "sessionid", "value": session, "url": site.base}
        browser.d.execute_cdp_cmd("Network.setCookie", cookie)
        run.go()
        both_in_one_list(site, run, case, total)
        if case.image == FIELD:
            linked(site, run, case, 0, 600, session)  # one of OMERO's, on the second page
        if case.image == MANY and case.own == FEW:
            linked(site, run, case, 1, None, session)
            projection(site, run, image)
    except Exception as error:  # noqa: BLE001 (a browser fails in many ways, and the other cases still count)
        run.check("harness", "it ran to its end", False, repr(error)[:500])
        browser.shot("error")
    finally:
        browser.close()
    (folder / "report.json").write_text(json.dumps({"checks": run.checks, "phases": run.phases}, indent=1))
    return report(run, f"{image['name']} and {case.own} of OMERO's", total, time.monotonic() - started)


def report(run: Any, name: str, total: int, seconds: float) -> bool:
    bad = [check for check in run.checks if not check["ok"]]
    print(f"viewer: {name}: {len(run.checks) - len(bad)} of {len(run.checks)} checks passed, ", end="")
    print(f"{total} ROIs, {seconds:.0f} s", flush=True)
    for check in bad:
        print("FAILED", name, check)
    return not bad


def own_pixels(shared: Path, folder: Path) -> str:
    """The coins themselves as a file that the harness reads."""
    file = folder / "pixels.npy"
    np.save(file, zarr.open_array(shared / "data/v04_yx_coins_i32.zarr/s0", mode="r")[:])
    return str(file)


def count(site: Site, image: dict[str, Any], session: str) -> int:
    """How many ROIs an image has."""
    document = site.ask(f"/api/v0/m/rois/?image={image['id']}&limit=1", session)
    return int(document["meta"]["totalCount"])


def both_in_one_list(site: Site, run: Any, case: Case, total: int) -> None:
    """The client counts both, pages through both, and finds OMERO's first."""
    first = next(phase for phase in run.phases if phase["phase"] == "rois")
    run.check("both", "the count is that of both", first["paging"]["roi_count"] == total, first["paging"])
    by_plane = total > PAGE
    run.check("both", "by plane if there are many", first["paging"]["by_plane"] == by_plane, first["paging"])
    ids = [int(identifier) for identifier in first["model"]["roi_ids_first_last"]]
    run.check("both", "OMERO's come first", (ids[0] < 10**15) == (case.own > 0), ids)
    site_rows = [row for row in site.recorder.log.rows if row.get("call") and row.get("status") != 200]
    run.check("both", "no call failed", not [row for row in site_rows if row["status"] >= 400], site_rows[:2])


def linked(site: Site, run: Any, case: Case, z: int, place: int | None, session: str) -> None:
    """A link to a shape of the ROI at a place in the list of plane `z`, None for the last, opens its page."""
    path = f"/iviewer/rois_by_plane/{case.image}/{z}/0/"
    on_plane = site.ask(f"{path}?limit=1", session)["meta"]["totalCount"]
    place = on_plane - 1 if place is None else place
    roi = site.ask(f"{path}?limit=1&offset={place}", session)["data"][0]
    shape = next(each["@id"] for each in roi["shapes"] if each.get("TheZ", z) == z)
    ready = chrome.H + "return !!(H.regions && H.regions.ready && !H.regions.is_pending && H.source);"

    def act() -> dict[str, Any]:
        opened = run.b.open(f"{site.base}/iviewer/?shape={shape}")
        return {**opened, "state": "drawn" if run.b.wait(ready, 60) else "timeout"}

    name = f"link-to-{place + 1}"
    row = run.phase(name, act)
    run.check_load(row)
    run.check(name, "it is the ROI's page", row["paging"]["page"] == place // PAGE, row["paging"])
    run.check(name, "it is the shape's plane", row["plane"]["z"] == z, row["plane"])
    chosen = f"{roi['@id']}:{shape}"
    run.check(name, "the shape is chosen", chosen in row["model"]["selected"], row["model"]["selected"])


def projection(site: Site, run: Any, image: dict[str, Any]) -> None:
    """Over planes 2 to 3 the list is that of both."""
    query = f"images={image['id']}&p=intmax|1:2&z=2"
    run.phase(
        "open-projection", lambda: run.b.open(f"{site.base}/iviewer/?{query}"), expect=None, pixels=False
    )
    row = run.phase("projection", lambda: run.b.act(chrome.CLICK_ROIS_TAB))
    run.check_load(row)
    urls = [call["url"] for call in row["requests"] if call["call"] == "rois_by_plane"]
    asked = bool(urls) and re.search(r"/rois_by_plane/\d+/1-2/0/", urls[-1])
    run.check("projection", "planes are asked for together", asked, urls)


if __name__ == "__main__":
    sys.exit(main())
