"""Catalogs for tests: built from real stores, or written at once from planes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.elsewhere import StartBuild
from roiservice.catalog.indexes import RoiColumns
from roiservice.catalog.keeper import Keeper
from roiservice.catalog.properties import stated_columns
from roiservice.catalog.reader import Catalog, open_catalog
from roiservice.catalog.registry import Registry
from roiservice.catalog.task import LayerKey, Rules, Task, as_json
from roiservice.catalog.writer import CatalogWriter
from roiservice.geometry.frames import Frame
from roiservice.geometry.polygons import measure
from roiservice.sources.images import ImageSource, find_images
from roiservice.sources.layers import layer_named
from roiservice.sources.limits import Limits
from roiservice.sources.objects import packed
from roiservice.sources.tables.table import NO_COLOR
from roiservice.vectorize.outlines import Outline
from roiservice.vectorize.plane import trace_plane

RULES = Rules(
    outline=Outline(),
    max_vertices=2**31,
    inline_pixels=2**26,
    inline_vertices=2**24,
    waiters=64,
    check_interval=3600.0,
    keep_replaced=600.0,
)


def layer_key(registry: Registry, store: Path, name: str = "cells") -> LayerKey:
    """A layer of the only image at `store`, numbered."""
    (image,) = find_images(store, None, Limits())
    assert isinstance(image, ImageSource)
    source = layer_named(image, name, Limits())
    return LayerKey(registry.layer_number(1, source.collection), source)


def keeper_at(folder: Path, **rules: Any) -> Keeper:
    """A keeper with its state and its catalogs in `folder`."""
    return Keeper(folder / "catalogs", Registry(folder / "state"), replace(RULES, **rules), Limits())


def starting_with(change: str) -> StartBuild:
    """Starts processes as `start_build` does, but each does as this code says before it builds."""
    build = "import json, sys; from roiservice.catalog.process import build_task as build\n"
    build += "sys.exit(build(json.load(sys.stdin)))"

    def start(task: Task, *marks: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", f"{change}\n{build}"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=marks)
        assert process.stdin is not None
        with process.stdin:
            process.stdin.write(as_json(task))
        return process

    return start


def squares(*shape: int, dtype: str = "uint16", side: int = 4) -> NDArray[Any]:
    """A plane, or a stack of equal ones, of separate squares labelled from 1 on."""
    plane = np.zeros(shape[-2:], dtype)
    label = 0
    for row in range(0, shape[-2] - side, side + 2):
        for column in range(0, shape[-1] - side, side + 2):
            label += 1
            plane[row : row + side, column : column + side] = label
    return np.broadcast_to(plane, shape).copy()


def wait_for(done: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something is so; AssertionError if it takes longer."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def age(path: Path, seconds: float) -> None:
    """Make a file or folder look that much older."""
    stamp = time.time() - seconds
    os.utime(path, (stamp, stamp))


PlaneKeys = Sequence[tuple[int, int, int]]  # t, c, z; -1: on every index


def write_catalog(
    directory: Path,
    planes: Sequence[tuple[PlaneKeys, NDArray[Any]]],
    *,
    frame: Frame | None = None,
    properties: Mapping[int, Mapping[str, Any]] | None = None,
    colors: Mapping[int, tuple[int, int, int, int]] | None = None,
    version: int = 2,
    layer_number: int = 1,
    roi_numbers: Callable[[NDArray[Any]], NDArray[np.int64]] | None = None,
    size: tuple[int, int, int, int, int] = (1, 1, 1, 64, 64),
) -> Catalog:
    """A catalog of label planes, each shown on the image planes of its keys; planes sorted by (t, z, c)."""
    frame = frame or Frame()
    unsigned = any(labels.dtype == np.uint64 for _, labels in planes)
    labels_type: type[np.uint64 | np.int64] = np.uint64 if unsigned else np.int64
    writer = CatalogWriter(directory, frame, labels_type, np.int32)
    for keys, plane in planes:
        labels, polygons = trace_plane([np.ascontiguousarray(plane)])
        pixel_count = measure(polygons).area.astype(np.int64)
        writer.add_plane(list(keys), labels.astype(labels_type), polygons, pixel_count, exact=True)
    meta = {
        "version": version,
        "layer_number": layer_number,
        "token": "token",
        "name": "cells",
        "image_name": "image",
        "image_size": list(size),
        "frame": [frame.scale_x, frame.scale_y, frame.offset_x, frame.offset_y],
        "warnings": [],
    }

    def describe(objects: NDArray[np.int64], labels: NDArray[Any]) -> RoiColumns:
        known = colors or {}
        color = [packed(known[label]) if label in known else NO_COLOR for label in labels.tolist()]
        numbers = objects if roi_numbers is None else roi_numbers(labels)
        return RoiColumns(numbers, np.array(color, np.int64), stated_columns(properties or {}, labels))

    writer.finish(describe, meta)
    return open_catalog(directory)


def roi_column(catalog: Catalog) -> NDArray[np.int64]:
    """The ROI number of every feature."""
    numbers: NDArray[np.int64] = catalog.rois["roi"][catalog.features["place"]]
    return numbers
