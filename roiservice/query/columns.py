"""Columns of chosen rows, gathered from the mapped catalog."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roiservice.catalog.columns import to_arrow
from roiservice.catalog.outlines import outlines
from roiservice.catalog.reader import Catalog
from roiservice.geometry.features import Features
from roiservice.geometry.polygons import Polygons
from roiservice.query.subsets import Rows


def read_features(
    catalog: Catalog, rows: Rows, drawn: tuple[Polygons, NDArray[np.uint8]] | None = None
) -> Features:
    """The features of these rows, in that order; only their own part of the catalog is touched.

    `drawn`: what stands for them, in image pixels, and of which kinds; None for their own outlines.
    """
    columns = {name: column[rows] for name, column in catalog.features.items()}
    if drawn is None:
        polygons = read_polygons(catalog, columns["part_first"], columns["part_count"])
        drawn = polygons, columns["kind"]
    places = columns["place"]
    return Features(
        layer=catalog.name,
        image_name=catalog.meta["image_name"],
        version=catalog.version,
        feature_id=columns["shape_first"].astype(np.int64) + catalog.first_shape_id,
        roi_id=catalog.rois["roi"][places] + catalog.first_roi_id,
        label=columns["label"],
        kind=drawn[1],
        t=columns["t"],
        c=columns["c"],
        z=columns["z"],
        area=columns["area"],
        perimeter=columns["perimeter"],
        centroid=columns["centroid"],
        boxes=columns["box"],
        polygons=drawn[0],
        color=_colors(catalog, places),
        properties={name: taken(column, places) for name, column in catalog.properties.items()},
        text=catalog.meta.get("text", ""),
    )


def read_polygons(catalog: Catalog, part_first: NDArray[np.int64], part_count: NDArray[Any]) -> Polygons:
    """Polygons with these parts, in image pixels."""
    return outlines(catalog, part_first, part_count).in_image(catalog.frame)


def gathered(catalog: Catalog, rows: Rows) -> Polygons:
    """The outlines of these rows on the layer's own grid."""
    return outlines(catalog, catalog.features["part_first"][rows], catalog.features["part_count"][rows])


def taken(column: pa.Array, rows: NDArray[Any] | slice) -> pa.Array:
    """These rows of a column."""
    if isinstance(rows, slice):
        return column.slice(rows.start, rows.stop - rows.start)
    return column.take(to_arrow(rows))


def _colors(catalog: Catalog, places: NDArray[Any]) -> list[tuple[int, int, int, int] | None]:
    if "color" not in catalog.rois:
        return [None] * len(places)
    return [_rgba(color) for color in catalog.rois["color"][places].tolist()]


def _rgba(packed: int) -> tuple[int, int, int, int] | None:
    if packed < 0:
        return None
    red, green, blue, alpha = packed.to_bytes(4, "big")
    return red, green, blue, alpha
