"""The worst that can come: noise, a huge table, ROIs on very many planes, a disk that nobody has read from.

`python -m tests.bench.worst [--store SLIDE.zarr] [CASE...]` prints one Markdown table. Cases: noise, table,
stack and cold. Builds are `roiservice build` in a process of its own; memory is the most that it has, and the
most that is no mapped file. Pages are of 500 ROIs, or as many as there are, and not cached: milliseconds of
the first one and the median of some others, the first one's bytes before compression, and by how much memory
grows meanwhile, files that are mapped among it. SLIDE.zarr has a label image `cells`: one more for `cold`.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from flask.testing import FlaskClient
from numpy.typing import NDArray

from roiservice.bootstrap import build_services
from roiservice.catalog.reader import Catalog, open_catalog
from roiservice.geometry.polygons import measure
from roiservice.query.columns import read_features
from roiservice.settings import Settings
from roiservice.warm import warm_up
from roiservice.web import create_app
from tests.bench.common import touching_cells
from tests.bench.slide import build
from tests.stores import write_image

SIDE = 4096
BIG = 16384
ROWS = 1_000_000
CORNERS = 12  # of each of its polygons
PLANES = 200
LIMIT = 500
ROUNDS = 5
AT_ONCE = 50_000  # features that are measured at a time
Case = dict[str, str]  # figures by column


def main() -> None:
    """Measure the cases, then print the table."""
    parser = argparse.ArgumentParser("worst", description=__doc__)
    parser.add_argument("cases", nargs="*", default=["noise", "table", "stack", "cold"])
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    known = {"noise": noise, "table": table, "stack": stack, "cold": lambda: cold(options.store)}
    warm_up()
    cases = [told(case) for name in options.cases for case in known[name]()]
    columns = list(dict.fromkeys(column for case in cases for column in case))
    rows = [columns, ["---"] * len(columns), *([case.get(each, "") for each in columns] for case in cases)]
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


def told(case: Case) -> Case:
    """The case, once it is known how it went."""
    print(case, file=sys.stderr, flush=True)
    return case


def noise() -> Iterator[Case]:
    """Pixels by chance: of any label there is, of one label or none."""
    chance = np.random.default_rng(1)
    for name, first, last in (("any label of 32 bits", 1, 2**32), ("0 or 1", 0, 2)):
        plane = chance.integers(first, last, (SIDE, SIDE), np.uint32)
        with tempfile.TemporaryDirectory() as folder:
            store = write_image(Path(folder, "1.zarr"), labels={"cells": plane}, chunks=(1024, 1024))
            case, catalog = built(f"noise, {SIDE}², {name}", store, Path(folder))
            labels, counts = np.unique(plane[plane > 0], return_counts=True)
            case["exact areas"] = exact(catalog, labels, counts)
            yield case | pages(store, Path(folder), catalog.meta["counts"]["rois"])


def table() -> Iterator[Case]:
    """A million polygons with float64 vertices, as GeoParquet and as text."""
    shapes = polygons()
    for name, write in (("GeoParquet", write_geoparquet), ("CSV with WKT", write_csv)):
        with tempfile.TemporaryDirectory() as folder:
            file = write(Path(folder), shapes)
            size = file.stat().st_size / 1e6
            case, catalog = built(
                f"{ROWS} polygons of {CORNERS} vertices, {name}, {size:.0f} MB", file, Path(folder)
            )
            found, expected = np.sort(areas(catalog)), np.sort(shapely.area(shapes))
            case["exact areas"] = f"{np.isclose(found, expected, rtol=1e-9, atol=0).sum()} of {len(found)}"
            yield case | pages(file, Path(folder), catalog.meta["counts"]["rois"])


def stack() -> Iterator[Case]:
    """Cells that reach through all planes of a stack."""
    with tempfile.TemporaryDirectory() as folder:
        plane = touching_cells(1024, 42).astype(np.uint16)
        planes = np.broadcast_to(plane, (PLANES, *plane.shape))
        chunks = (1, *plane.shape)
        store = write_image(Path(folder, "1.zarr"), labels={"cells": planes}, axes="zyx", chunks=chunks)
        case, catalog = built(f"{plane.max()} cells, each on {PLANES} planes", store, Path(folder))
        labels, counts = np.unique(plane, return_counts=True)
        case["exact areas"] = exact(catalog, labels, counts * PLANES)
        yield case | pages(store, Path(folder), catalog.meta["counts"]["rois"])


def cold(slide: Path | None) -> Iterator[Case]:
    """The first and the last page of catalogs of which nothing is in memory, then once they are.

    Cells whose labels come in no order are the worst: what a page has to show lies all over the catalog.
    """
    with tempfile.TemporaryDirectory() as name:
        labels = np.random.default_rng(1).permutation((BIG // 24) ** 2).astype(np.uint32) + 1
        cells = labels[touching_cells(BIG, BIG // 24) - 1]
        store = write_image(Path(name, "1.zarr"), labels={"cells": cells}, chunks=(1024, 1024))
        yield from cold_and_warm("cells in no order", store, Path(name))
    if slide is not None:
        with tempfile.TemporaryDirectory() as name:
            yield from cold_and_warm("slide", slide, Path(name))


def cold_and_warm(what: str, store: Path, folder: Path) -> Iterator[Case]:
    """Each page by a service that has just opened the catalog."""
    case, catalog = built(what, store, folder)
    last = catalog.meta["counts"]["rois"] - LIMIT
    del catalog
    kinds = urls(service(store, folder))
    for state in ("not in memory", "in memory"):
        for name, offset in (("first", 0), ("last", last)):
            own = case | {"case": f"{what}, {name} page, catalog {state}"}
            for kind, url in kinds.items():
                client = service(store, folder)
                if state == "not in memory":
                    forget(folder)
                own[kind] = str(fetched(client, url, offset))
            yield own


def built(name: str, path: Path, folder: Path) -> tuple[Case, Catalog]:
    """Build what lies at `path` into `folder`, as image 1."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, memory = build(f"1={path}", folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    (meta,) = folder.glob("catalogs/*/*/*/layer.json")
    size = sum(each.stat().st_size for each in meta.parent.iterdir())
    catalog = open_catalog(meta.parent)
    return {
        "case": name,
        "features": str(catalog.meta["counts"]["features"]),
        "shapes": str(catalog.meta["counts"]["shapes"]),
        "build": f"{seconds:.1f} s",
        "of processors": f"{worked:.1f} s",
        "memory": f"{memory['VmRSS']} MB",
        "no file": f"{memory['RssAnon']} MB",
        "catalog": f"{size / 1e6:.0f} MB",
    }, catalog


def areas(catalog: Catalog) -> NDArray[np.float64]:
    """Area of the outlines of every feature."""
    rows = np.arange(catalog.meta["counts"]["features"])
    pieces = np.array_split(rows, len(rows) // AT_ONCE + 1)
    return np.concatenate([measure(read_features(catalog, piece).polygons).area for piece in pieces])


def exact(catalog: Catalog, labels: NDArray[Any], counts: NDArray[np.int64]) -> str:
    """How many of these labels have outlines whose area is their number of pixels."""
    place = np.searchsorted(labels, np.array(catalog.features["label"]))
    area = np.bincount(place, areas(catalog), minlength=len(labels))
    return f"{(area == counts).sum()} of {len(labels)}"


def pages(path: Path, folder: Path, rois: int) -> Case:
    """The first page of each kind, and the median of others."""
    client, case = service(path, folder), {}
    for name, url in urls(client).items():
        first = fetched(client, url, 0)
        offsets = np.linspace(0, max(rois - LIMIT, 0), ROUNDS + 1).astype(int)[1:]
        others = [fetched(client, url, offset).seconds for offset in offsets.tolist() if offset]
        case[name] = f"{first}, then {median(others) * 1e3:.0f} ms" if others else f"{first}"
    return case


def service(path: Path, folder: Path) -> FlaskClient:
    """The service with image 1, built into `folder`; its loops are loaded, but nothing of that catalog is."""
    other = write_image(folder / "other.zarr", labels={"cells": touching_cells(256, 10)})
    settings = Settings(catalog_dir=folder / "catalogs", state_dir=folder / "state")
    client = create_app(build_services(settings, [(1, str(path)), (2, str(other))])).test_client()
    for url in urls(client, 2).values():
        fetched(client, url, 0)
    return client


def urls(client: FlaskClient, image: int = 1) -> dict[str, str]:
    """Where pages of each kind are."""
    (layer,) = client.get(f"/images/{image}/collections").json["collections"]
    return {
        "OMERO's page": f"/api/v0/m/rois/?image={image}&limit={LIMIT}",
        "viewer's page": f"/iviewer/rois_by_plane/{image}/0/0/?limit={LIMIT}",
        "items": f"/images/{image}/collections/{layer['id']}/items?limit={LIMIT}",
    }


@dataclass(frozen=True)
class Fetched:
    """How long a page took, its bytes, and by how many bytes the memory of the process grew meanwhile."""

    seconds: float
    size: int
    growth: int

    def __str__(self) -> str:
        return f"{self.seconds * 1e3:.0f} ms, {self.size / 1e6:.2f} MB, grows by {self.growth / 1e6:.0f} MB"


def fetched(client: FlaskClient, url: str, offset: int) -> Fetched:
    """Ask for a page."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins here
    before, began = resident("VmRSS"), time.perf_counter()
    answer = client.get(f"{url}&offset={offset}")
    body = answer.get_data()
    seconds = time.perf_counter() - began
    assert answer.status_code == 200, body
    assert "X-Roiservice-Incomplete" not in answer.headers, answer.headers["X-Roiservice-Incomplete"]
    return Fetched(seconds, len(body), resident("VmHWM") - before)


def resident(what: str) -> int:
    """Bytes, of this process: resident now (VmRSS), or at most (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{what}:")[2].split()[0]) * 1024


def forget(folder: Path) -> None:
    """Have the system drop what it holds of the files there; what is mapped stays."""
    gc.collect()
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def polygons() -> NDArray[Any]:
    """Polygons round the points of a grid, of corners that are no whole numbers."""
    chance = np.random.default_rng(1)
    side = int(np.ceil(np.sqrt(ROWS)))
    angle = (np.arange(CORNERS) + chance.uniform(0, 0.8, (ROWS, CORNERS))) * (2 * np.pi / CORNERS)
    radius = chance.uniform(6, 10, (ROWS, CORNERS))
    around = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    centre = np.stack([np.arange(ROWS) % side, np.arange(ROWS) // side], axis=1)[:, None] * 20.0 + 10
    return shapely.polygons(around + centre)


def write_geoparquet(folder: Path, shapes: NDArray[Any]) -> Path:
    """A GeoParquet file with nothing but geometries."""
    geo = {"version": "1.1.0", "primary_column": "geometry"}
    geo["columns"] = {"geometry": {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": None}}
    rows = pa.table({"geometry": shapely.to_wkb(shapes)}).replace_schema_metadata({"geo": json.dumps(geo)})
    pq.write_table(rows, folder / "1.parquet")
    return folder / "1.parquet"


def write_csv(folder: Path, shapes: NDArray[Any]) -> Path:
    """A CSV file with a column of WKT."""
    with (folder / "1.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "WKT"])
        writer.writerows(enumerate(shapely.to_wkt(shapes, rounding_precision=-1), start=1))
    return folder / "1.csv"


if __name__ == "__main__":
    main()
