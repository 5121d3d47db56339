"""Random catalogs and a plain Python answer to every query."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial import KDTree

from roiservice.catalog.reader import Catalog
from roiservice.query.select import RoiQuery
from tests.catalog.support import write_catalog

EVERY = -1


@dataclass(frozen=True)
class Feature:
    """A row of a catalog as plain values."""

    row: int
    roi: int
    label: int
    t: int
    c: int
    z: int
    box: tuple[float, ...]
    area: float
    shapes: int
    first_shape: int


def plain(catalog: Catalog) -> list[Feature]:
    columns = catalog.features
    return [
        Feature(
            row,
            int(catalog.rois["roi"][columns["place"][row]]) + catalog.first_roi_id,
            int(columns["label"][row]),
            int(columns["t"][row]),
            int(columns["c"][row]),
            int(columns["z"][row]),
            tuple(columns["box"][row].tolist()),
            float(columns["area"][row]),
            int(columns["part_count"][row]),
            int(columns["shape_first"][row]) + catalog.first_shape_id,
        )
        for row in range(len(columns["place"]))
    ]


def on_planes(feature: Feature, query: RoiQuery) -> bool:
    return all(
        span is None or index == EVERY or span[0] <= index <= span[1]
        for index, span in ((feature.t, query.t), (feature.c, query.c), (feature.z, query.z))
    )


def matches(feature: Feature, query: RoiQuery) -> bool:
    if not on_planes(feature, query):
        return False
    if query.bbox is not None:
        x0, y0, x1, y1 = query.bbox
        if feature.box[0] > x1 or feature.box[2] < x0 or feature.box[1] > y1 or feature.box[3] < y0:
            return False
    if query.rois is not None and feature.roi not in query.rois:
        return False
    if query.labels is not None and feature.label not in query.labels:
        return False
    return feature.area >= query.min_area


def random_catalog(folder: Path, seed: int) -> Catalog:
    """Some planes of blocky noise, with or without the axes t, c and z, some of them empty."""
    chance = np.random.default_rng(seed)
    axes = {name: bool(chance.integers(0, 2)) for name in "tcz"}
    sizes = [int(chance.integers(1, 4)) if axes[name] else 1 for name in "tzc"]
    dtype = ["int64", "uint64", "int32", "uint16"][int(chance.integers(0, 4))]
    labels = int(chance.integers(1, 30))
    values = np.array([0, *chance.permutation(np.arange(1, 200))[: labels - 1]]).astype(dtype)
    planes = []
    for t, z, c in np.ndindex(*sizes):
        key = (t if axes["t"] else EVERY, c if axes["c"] else EVERY, z if axes["z"] else EVERY)
        small = (
            chance.integers(0, labels, (12, 13))
            * (chance.random((12, 13)) < 0.6)
            * bool(chance.integers(0, 5))
        )
        planes.append(([key], values[small].repeat(3, 0).repeat(2, 1)))
    size = (sizes[0], sizes[2], sizes[1], 36, 26)
    return write_catalog(folder, planes, size=size)


_spans = st.none() | st.tuples(st.integers(0, 4), st.integers(0, 3)).map(lambda p: (p[0], p[0] + p[1]))
_edges = st.floats(-5, 45, width=32) | st.integers(-2, 40).map(float)


@st.composite
def queries(draw: st.DrawFn, catalog: Catalog) -> RoiQuery:
    """Any query; labels and ROIs mostly of this catalog."""
    labels = catalog.rois["label"].tolist()
    rois = [number + catalog.first_roi_id for number in catalog.rois["roi"].tolist()]
    bbox = None
    if draw(st.booleans()):
        x, y = sorted([draw(_edges), draw(_edges)]), sorted([draw(_edges), draw(_edges)])
        bbox = (x[0], y[0], x[1], y[1])

    def some(values: list[Any], others: list[int]) -> tuple[int, ...] | None:
        if draw(st.integers(0, 2)):
            return None
        return tuple(draw(st.lists(st.sampled_from([*values, *others]), max_size=5)))

    return RoiQuery(
        t=draw(_spans),
        c=draw(_spans),
        z=draw(_spans),
        bbox=bbox,
        rois=some(rois, [1, 10**15, 2**53]),
        labels=some(labels, [-1, 0, 2**63, 2**64 - 1, 999]),
        min_area=draw(st.sampled_from([0.0, 0.0, 6.0, 6.5, 30.0, 1e9])),
    )


def tessellation(side: int, cells: int, background: float = 0.0, seed: int = 0) -> NDArray[np.int64]:
    """Every pixel belongs to the nearest of some random points; a share of the cells is background."""
    chance = np.random.default_rng(seed)
    points = chance.uniform(0, side, (cells, 2))
    labels = np.arange(1, cells + 1) * (chance.random(cells) >= background)
    return labels[KDTree(points).query(np.indices((side, side)).reshape(2, -1).T + 0.5)[1]].reshape(
        side, side
    )
