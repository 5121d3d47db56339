"""Compile ahead, or load, what requests and builds need."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.indexes import RoiColumns
from roiservice.catalog.reader import Catalog, open_catalog
from roiservice.catalog.runs import edited
from roiservice.catalog.writer import CatalogWriter
from roiservice.encode.formats import FORMATS
from roiservice.geometry.compiled import is_newly_kept
from roiservice.geometry.frames import Frame
from roiservice.geometry.hilbert import hilbert_keys
from roiservice.geometry.polygons import Polygons, measure
from roiservice.query.columns import read_features
from roiservice.query.detail import Detail, read_detailed
from roiservice.query.pages import roi_page
from roiservice.query.select import RoiQuery
from roiservice.vectorize.links import link
from roiservice.vectorize.plane import trace_plane


def warm_up() -> None:
    """Compile, or load what was kept of it, every inner loop that a request may need.

    To compile all takes half a minute. A process beside this one compiles much of it for this one to load.
    """
    labels, polygons = _traced(np.uint32)
    with _compiled_beside() if is_newly_kept(link) else nullcontext():
        for dtype in (np.uint8, np.uint16, np.uint64):
            _traced(dtype)
    _warm_up_catalogs(labels, polygons)


@contextmanager
def _compiled_beside() -> Iterator[None]:
    """What catalogs need is compiled by the end of this, and kept."""
    with subprocess.Popen([sys.executable, "-m", "roiservice.warm"], stderr=subprocess.DEVNULL):
        yield


def _traced(dtype: type[np.unsignedinteger[Any]]) -> tuple[NDArray[np.int64], Polygons]:
    plane = np.zeros((12, 12), dtype)
    plane[1:6, 1:6] = 1
    plane[3, 3] = 0
    plane[6:9, 6:9] = 1
    plane[8, 1:9] = 2
    labels, polygons = trace_plane([plane[:4], plane[4:]])
    return labels.astype(np.int64), polygons


def _warm_up_catalogs(labels: NDArray[np.int64], polygons: Polygons) -> None:
    with tempfile.TemporaryDirectory() as directory:
        _warm_up_catalog(Path(directory), labels, polygons)


def _warm_up_catalog(directory: Path, labels: NDArray[np.int64], polygons: Polygons) -> None:
    """Write, read and encode a catalog on the image's own grid and on another."""
    for frame in (Frame(), Frame(scale_x=1.5)):
        writer = CatalogWriter(directory / str(frame.scale_x), frame, np.int64, np.int32)
        pixel_count = measure(polygons).area.astype(np.int64)
        writer.add_plane([(0, -1, 0)], labels, polygons, pixel_count, exact=True)
        meta = {"version": 1, "layer_number": 1, "name": "", "image_name": ""}
        meta["frame"] = [frame.scale_x, 1.0, 0.0, 0.0]
        writer.finish(lambda objects, _: RoiColumns(objects, np.full(len(objects), -1), {}), meta)
        catalog = open_catalog(directory / str(frame.scale_x))
        rows = roi_page(catalog, RoiQuery(), 0, 10).rows
        read_detailed(catalog, rows, Detail(simplify=1.0))
        features = read_features(catalog, rows)
        for each in FORMATS.values():
            each.encode(features)
        _warm_up_mending(catalog, polygons)


def _warm_up_mending(catalog: Catalog, polygons: Polygons) -> None:
    """What a catalog is made from the one before with."""
    polygons.alike(polygons)
    for boxes in (measure(polygons).boxes, catalog.features["box"]):
        hilbert_keys(boxes, 0)
    row = np.zeros(1, np.int64)
    runs = edited(1, row, row)
    runs.taken(row, row)
    runs.places(1)


if __name__ == "__main__":
    _warm_up_catalogs(*_traced(np.uint32))
