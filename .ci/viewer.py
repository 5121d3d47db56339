"""Run OMERO.iviewer's own client on OMERO.web with the service beside it behind nginx.

Usage: viewer.py SHARED [FOLDER]: the folder with data/ and tools/, and one for screenshots and reports.
Exit code 1 if a check failed.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from viewersite import Site, running

import browser as chrome  # isort: skip (the harness's, like the next)
import run as harness  # isort: skip

from tests.e2e.support import Home
from tests.stores import write_image

IMAGES = COINS, STACK, SERIES, FIELD, MANY = range(1, 6)
PAGE = 500
OWN = NONE, FEW, LONG = 0, 3, 620  # ROIs of OMERO's own: the last are more than a page, on every plane
STEPS = "rois,page,plane,select,stats,deeplink"
PROJECTED = (1, 2)  # planes shown together, where an image has so many
# What "export measurements" does with all shapes of a page; the client asks for those on one plane only.
MEASURE = (
    chrome.H
    + """
const done = arguments[arguments.length - 1], r = H.regions, ids = r.getAllShapeIds();
const placed = ids.map(id => r.getShape(id)).filter(shape => shape.TheZ > -1 && shape.TheT > -1);
r.requestStats(ids, () => done({state: 'drawn', placed: placed.length,
                                measured: placed.filter(shape => shape.stats).length}));"""
)


@dataclass(frozen=True)
class Case:
    """An image, and how many ROIs OMERO has of it besides the service's."""

    image: int
    own: int


CASES = [Case(image, own) for image in IMAGES for own in OWN]
SITES = 2  # side by side, over the same catalogs

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
        show = partial(
            failures,
            home=home,
            locations=[*locations, "--table", f"{COINS}={drawn}"],
            images=images,
            pixels={COINS: own_pixels(shared, Path(scratch))},
            out=out,
        )
        with ProcessPoolExecutor(SITES) as pool:
            failed = sum(pool.map(show, range(SITES)))
    print(f"viewer: {len(CASES)} cases, {failed} failed")
    return 1 if failed else 0


def failures(
    number: int,
    home: Home,
    locations: list[str],
    images: dict[int, dict[str, Any]],
    pixels: dict[int, str],
    out: Path,
) -> int:
    """How many of every `SITES`-th case fail, on a site and in a browser of their own."""
    with running(home, locations, f"nginx-{number}") as site, opened(out) as browser:
        return sum(
            not passes(site, browser, case, images[case.image], out, pixels.get(case.image))
            for case in CASES[number::SITES]
        )


@contextmanager
def opened(out: Path) -> Iterator[Any]:
    """A browser, the same for many cases: to start one takes longer than some of them."""
    out.mkdir(parents=True, exist_ok=True)
    browser = chrome.Browser(out)
    try:
        yield browser
    finally:
        browser.close()


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


def passes(
    site: Site, browser: Any, case: Case, image: dict[str, Any], out: Path, pixels: str | None
) -> bool:
    """Whether the client passes all checks; what it did is kept below `out`."""
    started = time.monotonic()
    browser.out, browser.shots = out / f"{case.image}-{case.own}", 0
    browser.out.mkdir(parents=True, exist_ok=True)
    total = count(site, image, site.show(image, 0, pixels)) + case.own
    session = site.show(image, case.own, pixels, everywhere=case.own > PAGE)
    run = harness.Run(harness.arguments(options(site, image, browser.out)), site.recorder, browser)
    try:
        cookie = {"name": "sessionid", "value": session, "url": site.base}
        browser.d.execute_cdp_cmd("Network.setCookie", cookie)
        run.go()
        both_in_one_list(site, run, case, total)
        measured(run)
        links(site, run, case, image, session, total)
        if image["size"]["z"] > PROJECTED[1]:
            projection(site, run, image, session)
    except Exception as error:  # noqa: BLE001 (a browser fails in many ways, and the other cases still count)
        run.check("harness", "it ran to its end", False, repr(error)[:500])
        browser.shot("error")
    (browser.out / "report.json").write_text(
        json.dumps({"checks": run.checks, "phases": run.phases}, indent=1)
    )
    return report(run, f"{image['name']} and {case.own} of OMERO's", total, time.monotonic() - started)


def options(site: Site, image: dict[str, Any], folder: Path) -> list[str]:
    """The harness's own command line: no size along x and y, as it opens what this site shows."""
    given = {"service": site.base, "image-id": image["id"], "out": folder, "steps": STEPS}
    given |= {f"size-{axis}": image["size"][axis] for axis in "zt"}
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


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


def measured(run: Any) -> None:
    """All shapes of a page get their statistics, OMERO's and ours, in one answer."""
    row = run.phase("measured", lambda: run.b.d.execute_async_script(MEASURE), pixels=False, expect="drawn")
    run.check("measured", "every shape on one plane is", row["measured"] == row["placed"], row["measured"])


def links(site: Site, run: Any, case: Case, image: dict[str, Any], session: str, total: int) -> None:
    """Links to the last ROI of the last plane, which is one of ours, and to the last of OMERO's.

    Both open the list of both.
    """
    z, t = (image["size"][axis] - 1 for axis in "zt")
    by_plane = f"/iviewer/rois_by_plane/{case.image}/{z}/{t}/"
    last = site.ask(f"{by_plane}?limit=1", session)["meta"]["totalCount"] - 1
    rows = [linked(site, run, by_plane, last, session)]
    if case.own > PAGE:
        rows.append(linked(site, run, by_plane, case.own - 1, session))
    counts = [row["paging"]["roi_count"] for row in rows]
    run.check("links", "the count is that of both", set(counts) == {total}, counts)


def linked(site: Site, run: Any, by_plane: str, place: int, session: str) -> dict[str, Any]:
    """A link to a shape of the ROI at a place in the list of a plane opens its page. The phase."""
    z, t = map(int, by_plane.split("/")[4:6])
    roi = site.ask(f"{by_plane}?limit=1&offset={place}", session)["data"][0]
    here = (each for each in roi["shapes"] if (each.get("TheZ", z), each.get("TheT", t)) == (z, t))
    shape = next(here)
    ready = chrome.H + "return !!(H.regions && H.regions.ready && !H.regions.is_pending && H.source);"

    def act() -> dict[str, Any]:
        opened = run.b.open(f"{site.base}/iviewer/?shape={shape['@id']}")
        return {**opened, "state": "drawn" if run.b.wait(ready, 60) else "timeout"}

    name = f"link-to-{place + 1}"
    row = run.phase(name, act)
    if len(roi["shapes"]) > 1:  # the chosen one is unfolded: its shapes have rows of their own
        row["table"]["rows"] -= len(roi["shapes"])
    run.check_load(row)
    run.check(name, "it is the ROI's page", row["paging"]["page"] == place // PAGE, row["paging"])
    # A shape that lies on every plane moves the viewer to none.
    plane = {"z": shape.get("TheZ", 0), "t": shape.get("TheT", 0)}
    run.check(name, "it is the shape's plane", plane.items() <= row["plane"].items(), row["plane"])
    chosen = f"{roi['@id']}:{shape['@id']}"
    run.check(name, "the shape is chosen", chosen in row["model"]["selected"], row["model"]["selected"])
    return dict(row)


def projection(site: Site, run: Any, image: dict[str, Any], session: str) -> None:
    """Some planes together show what lies on any of them, of OMERO's and of ours."""
    low, high = PROJECTED
    query = f"images={image['id']}&p=intmax|{low}:{high}&z={high}"
    run.phase(
        "open-projection", lambda: run.b.open(f"{site.base}/iviewer/?{query}"), expect=None, pixels=False
    )
    row = run.phase("projection", lambda: run.b.act(chrome.CLICK_ROIS_TAB))
    run.check_load(row)
    urls = [call["url"] for call in row["requests"] if call["call"] == "rois_by_plane"]
    path = f"/iviewer/rois_by_plane/{image['id']}/{low}-{high}/0/"
    if row["paging"]["by_plane"]:
        run.check("projection", "planes are asked for together", bool(urls) and path in urls[-1], urls)
    listed = site.ask(f"{path}?limit={PAGE}", session)["data"]
    shapes = [shape for roi in listed for shape in roi["shapes"]]
    there = sum(low <= shape.get("TheZ", low) <= high for shape in shapes)
    shown = row["layer"]["on_this_plane"]
    run.check("projection", "what lies on these planes is shown", shown == there, (shown, there))


if __name__ == "__main__":
    sys.exit(main())
