"""Compile ahead what requests and builds need."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from roiservice.catalog.indexes import RoiColumns
from roiservice.catalog.reader import Catalog, open_catalog
from roiservice.catalog.runs import edited
from roiservice.catalog.writer import CatalogWriter
from roiservice.encode.formats import FORMATS
from roiservice.geometry.compiled import not_kept
from roiservice.geometry.frames import Frame
from roiservice.geometry.hilbert import hilbert_keys
from roiservice.geometry.kept import newly_kept
from roiservice.geometry.kinds import LINE, POLYGON
from roiservice.geometry.polygons import Polygons, measure
from roiservice.geometry.raster import mask_of, shapes_of
from roiservice.query.columns import read_features
from roiservice.query.density import density
from roiservice.query.detail import Detail, read_detailed
from roiservice.query.pages import roi_page
from roiservice.query.select import RoiQuery
from roiservice.query.summary import summary
from roiservice.vectorize.plane import trace_plane
from roiservice.warmed import note_warm

# A square with a hole, and one beside it.
_LABELS = np.array([1, 2])
_OUTLINES = Polygons(
    np.array(
        [(1, 1), (6, 1), (6, 6), (1, 6), (3, 3), (3, 4), (4, 4), (4, 3), (6, 1), (9, 1), (9, 6), (6, 6)],
        np.int32,
    ),
    np.array([0, 4, 8, 12]),
    np.array([0, 2, 3]),
    np.array([0, 1, 2]),
)


def warm_up() -> None:
    """Compile, or load what was kept of it, every inner loop that a request may need.

    To compile all takes half a minute. Part of it is done by a process beside this one, to be loaded here.
    """
    measure(_OUTLINES)
    with _compiled_beside() if newly_kept else nullcontext():
        for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
            plane = np.zeros((12, 12), dtype)
            plane[1:6, 1:6] = 1
            plane[[4, 5], [4, 5]] = 0  # its outline passes the corner between these twice
            trace_plane([plane[:4], plane[4:]])
    _warm_up_catalogs()
    if not not_kept:
        note_warm()


@contextmanager
def _compiled_beside() -> Iterator[None]:
    """What catalogs need is compiled by the end of this, and kept, by a process that ends with this one."""
    process = None
    with suppress(OSError):  # else this one does it all
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "roiservice.warm"],  # nothing is imported from where the user is
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    with process or nullcontext():
        yield
        if process is not None:
            process.wait()


def _end_with_parent() -> None:
    """End once nobody holds the other end of standard input."""
    os.read(0, 1)
    os._exit(1)


def _warm_up_catalogs() -> None:
    """Write, read and encode catalogs on the image's own grid, on another one, and as tables have them."""
    of_table = replace(_OUTLINES, xy=_OUTLINES.xy.astype(np.float64))
    for frame, outlines in ((Frame(), _OUTLINES), (Frame(scale_x=1.5), _OUTLINES), (Frame(), of_table)):
        with tempfile.TemporaryDirectory() as directory:
            _warm_up_catalog(Path(directory), frame, outlines)


def _warm_up_catalog(directory: Path, frame: Frame, outlines: Polygons) -> None:
    writer = CatalogWriter(directory / "1", frame, np.int64, outlines.xy.dtype.type)
    pixel_count = measure(outlines).area.astype(np.int64)
    writer.add_plane([(0, -1, 0)], _LABELS, outlines, pixel_count, exact=True)
    meta = {"version": 1, "layer_number": 1, "name": "", "image_name": "", "image_size": [1, 1, 1, 9, 9]}
    meta["frame"] = [frame.scale_x, 1.0, 0.0, 0.0]
    writer.finish(lambda objects, _: RoiColumns(objects, np.full(len(objects), -1), {}), meta)
    catalog = open_catalog(directory / "1")
    rows = roi_page(catalog, RoiQuery(), 0, 10).rows
    read_detailed(catalog, rows, Detail(simplify=1.0))
    density(catalog, RoiQuery(), 1)
    summary(catalog, RoiQuery(min_area=1.0))
    features = read_features(catalog, rows)
    for each in FORMATS.values():
        each.encode(features)
    for kind in (POLYGON, LINE):
        for shape in shapes_of(features.polygons, np.full(len(rows), kind, np.uint8)):
            mask_of(shape, shape.box)
    _warm_up_mending(catalog)


def _warm_up_mending(catalog: Catalog) -> None:
    """What a catalog is made from the one before with."""
    _OUTLINES.alike(_OUTLINES)
    for boxes in (measure(_OUTLINES).boxes, catalog.features["box"]):
        hilbert_keys(boxes, 0)
    row = np.zeros(1, np.int64)
    runs = edited(1, row, row)
    runs.taken(row, row)
    runs.places(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _warm_up_catalogs()
