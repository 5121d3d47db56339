"""Which rows of a catalog a query means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from itertools import chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roiservice.catalog.columns import to_arrow, to_numpy
from roiservice.catalog.indexes import BLOCK_ROWS
from roiservice.catalog.reader import Catalog, some_rows
from roiservice.catalog.rois import places_of_labels, places_of_numbers, rows_of_rois
from roiservice.geometry.features import EVERY_INDEX
from roiservice.query.columns import taken
from roiservice.query.remembered import remembered
from roiservice.query.subsets import BATCH, BATCH_GROUPS, Masks, Rows, Spans, Subset
from roiservice.query.subsets import Span as Span
from roiservice.records import dataclass

MEASURES = ("area", "perimeter")  # of every feature, beside the objects' own properties
_FEW = 4  # features are few if they are less than this part of the ROIs
Box = tuple[float, float, float, float]
Value = int | float | str | bool


@dataclass(frozen=True)
class PropertyFilter:
    """Objects whose property lies from `low` to `high`, both included; None: no bound. Null never does.

    Names of properties, or of the feature's `MEASURES`.
    """

    name: str
    low: Value | None
    high: Value | None


@dataclass(frozen=True)
class RoiQuery:
    """What is asked of one layer; None means no restriction.

    `t`, `c`, `z` are inclusive ranges of image indices; objects that lie on every index of an axis match any.
    `bbox` is (x0, y0, x1, y1) in image pixels: features whose box meets it, borders included. `rois` are ROI
    ids, `labels` label values; `min_area` is in image pixels, per feature.
    """

    t: Span | None = None
    c: Span | None = None
    z: Span | None = None
    bbox: Box | None = None
    rois: tuple[int, ...] | None = None
    labels: tuple[int, ...] | None = None
    min_area: float = 0.0
    properties: tuple[PropertyFilter, ...] = ()

    @property
    def by_plane_only(self) -> bool:
        """Whether whole planes are asked for, nothing else."""
        by_object = self.rois is not None or self.labels is not None or bool(self.properties)
        return self.bbox is None and not by_object and self.min_area <= 0


def matching_planes(catalog: Catalog, query: RoiQuery) -> Rows:
    """Numbers of the catalog's planes that the query's t, c and z admit, in order."""
    admitted = np.ones(len(catalog.planes["t"]), bool)
    for axis, span in (("t", query.t), ("c", query.c), ("z", query.z)):
        if span is not None:
            index = catalog.planes[axis]
            admitted &= (index == EVERY_INDEX) | ((index >= span[0]) & (index <= span[1]))
    return np.flatnonzero(admitted)


def selected(catalog: Catalog, query: RoiQuery) -> Spans | Subset:
    """The rows that match, in row order: by plane (t, z, c), then along the Hilbert curve."""
    if query.by_plane_only:
        return Spans(tuple(plane_spans(catalog, matching_planes(catalog, query))))
    return remembered(catalog, query, lambda: _matching(catalog, query))


def _matching(catalog: Catalog, query: RoiQuery) -> Subset:
    spans = plane_spans(catalog, matching_planes(catalog, query))
    rows = _rows_of_objects(catalog, query)
    if rows is not None:
        rows = rows[on_spans(rows, spans)]
        return Subset.of(rows[_passing(catalog, query, rows)])
    blocks, inside = _blocks_of(spans), None
    if query.bbox is not None:
        blocks = blocks[_meets(catalog.blocks[blocks], query.bbox)]
        inside = _lies_in(catalog.blocks[blocks], query.bbox)
    rois = None
    of_rois = any(each.name in catalog.properties for each in query.properties)
    if of_rois and len(blocks) * BLOCK_ROWS * _FEW >= len(catalog.rois["roi"]):
        rois, own = _rois_with(catalog, query.properties)
        query = replace(query, properties=own)
    if inside is None:
        return Subset.of_masks(_masks(catalog, query, spans, blocks, rois))
    # Of blocks that lie in the box no feature need be looked at.
    within = _masks(catalog, replace(query, bbox=None), spans, blocks[inside], rois)
    return Subset.of_masks(chain(within, _masks(catalog, query, spans, blocks[~inside], rois)))


def _blocks_of(spans: list[Span]) -> Rows:
    """Blocks with any row of the spans, sorted."""
    pieces = [np.arange(first // BLOCK_ROWS, -(-last // BLOCK_ROWS)) for first, last in spans]
    blocks = np.concatenate([np.array([-1]), *pieces])
    return blocks[1:][np.diff(blocks) > 0]  # two spans may share one


def _rois_with(
    catalog: Catalog, asked: tuple[PropertyFilter, ...]
) -> tuple[NDArray[np.bool_], tuple[PropertyFilter, ...]]:
    """Which ROIs meet the conditions that are on properties of ROIs, and the other conditions.

    Column by column, as they lie in the file: several times as fast as to look up each feature's ROI.
    """
    found = np.ones(len(catalog.rois["roi"]), bool)
    for each in asked:
        if each.name in catalog.properties:
            column = catalog.properties[each.name]
            for start in range(0, len(found), BATCH):
                found[start : start + BATCH] &= _between(column.slice(start, BATCH), each)
    return found, tuple(each for each in asked if each.name not in catalog.properties)


def _masks(
    catalog: Catalog, query: RoiQuery, spans: list[Span], blocks: Rows, rois: NDArray[np.bool_] | None
) -> Iterator[Masks]:
    """Which rows of these blocks match and are of the `rois` chosen, some blocks at a time."""
    count = len(catalog.features["place"])
    for start in range(0, len(blocks), BATCH_GROUPS):
        some = blocks[start : start + BATCH_GROUPS]
        first, last = int(some[0]) * BLOCK_ROWS, min((int(some[-1]) + 1) * BLOCK_ROWS, count)
        rows: Rows | slice = slice(first, last)  # which need not be gathered, where blocks follow one another
        if some[-1] - some[0] >= len(some):
            rows = (some[:, None] * BLOCK_ROWS + np.arange(BLOCK_ROWS)).ravel()
            rows = rows[: np.searchsorted(rows, count)]
        passing = _passing(catalog, query, rows)
        if rois is not None:
            passing = passing & rois[catalog.features["place"][rows]]
        if not any(begin <= first and last <= end for begin, end in spans):
            passing = passing & on_spans(np.arange(first, last) if isinstance(rows, slice) else rows, spans)
        missing = len(some) * BLOCK_ROWS - len(passing)  # where the last block is not full
        masks = np.append(passing, np.zeros(missing, bool)) if missing else passing
        yield some, masks.reshape(-1, BLOCK_ROWS)


def _passing(catalog: Catalog, query: RoiQuery, rows: Rows | slice) -> NDArray[np.bool_]:
    """Which of the rows meet the conditions on features and on the objects' properties."""
    conditions = [_has(catalog, each, rows) for each in query.properties]
    if query.min_area > 0:
        conditions.append(catalog.features["area"][rows] >= query.min_area)
    if query.bbox is not None:
        conditions.append(_meets(some_rows(catalog.features["box"], rows), query.bbox))
    return _all(conditions, rows.stop - rows.start if isinstance(rows, slice) else len(rows))


def _all(conditions: list[NDArray[np.bool_]], count: int) -> NDArray[np.bool_]:
    """Which of `count` rows meet all of these conditions; every one does if there is none."""
    return reduce(np.bitwise_and, conditions) if conditions else np.ones(count, bool)


def _has(catalog: Catalog, asked: PropertyFilter, rows: Rows | slice) -> NDArray[np.bool_]:
    """Which of the rows' objects, or features, have the property asked for."""
    if asked.name not in catalog.properties:
        values = catalog.features[asked.name][rows]
        conditions = [] if asked.low is None else [values >= asked.low]
        conditions += [] if asked.high is None else [values <= asked.high]
        return _all(conditions, len(values))
    places = catalog.features["place"][rows]
    return _between(taken(catalog.properties[asked.name], places), asked)


def _between(column: pa.Array, asked: PropertyFilter) -> NDArray[np.bool_]:
    import pyarrow.compute as pc  # takes a while

    inside = to_numpy(pc.is_valid(column))
    for bound, compare in ((asked.low, pc.greater_equal), (asked.high, pc.less_equal)):
        if bound is not None:
            inside = inside & to_numpy(compare(column, _scalar(bound)))  # of null this says nothing
    return inside


def _scalar(value: Value) -> pa.Scalar:
    """As pa.scalar, which would import pandas."""
    if isinstance(value, str):
        text = value.encode()
        ends = np.array([0, len(text)], np.int32)
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(text)]
        return pa.Array.from_buffers(pa.string(), 1, buffers)[0]
    if isinstance(value, bool):
        return pa.Array.from_buffers(pa.bool_(), 1, [None, pa.py_buffer(bytes([value]))])[0]
    return to_arrow(np.array([value]))[0]


def plane_spans(catalog: Catalog, planes: Rows) -> list[Span]:
    """Half-open row ranges of planes, those that follow one another joined."""
    first = catalog.planes["first"][planes]
    last = first + catalog.planes["count"][planes]
    if not len(first):
        return []
    breaks = np.flatnonzero(first[1:] != last[:-1])
    return list(
        zip(first[np.r_[0, breaks + 1]].tolist(), last[np.r_[breaks, len(last) - 1]].tolist(), strict=True)
    )


def _rows_of_objects(catalog: Catalog, query: RoiQuery) -> Rows | None:
    """Rows of the ROIs or labels asked for, sorted; None where all are."""
    places: Rows | None = None
    if query.rois is not None:
        places = places_of_numbers(catalog, np.array(query.rois, np.int64) - catalog.first_roi_id)
    if query.labels is not None:
        of_labels = _places_of_labels(catalog, query.labels)
        places = of_labels if places is None else np.intersect1d(places, of_labels)
    return None if places is None else np.sort(rows_of_rois(catalog, places))


def _places_of_labels(catalog: Catalog, labels: tuple[int, ...]) -> Rows:
    column = catalog.rois["label"]
    limits = np.iinfo(column.dtype)
    asked = [label for label in labels if limits.min <= label <= limits.max]
    return places_of_labels(catalog, np.array(asked, column.dtype))


def on_spans(rows: Rows, spans: list[Span]) -> NDArray[np.bool_]:
    """Which of the rows lie in one of the half-open spans, which are in order and do not overlap."""
    bounds = np.array(spans, np.int64).ravel()
    return np.asarray(np.searchsorted(bounds, rows, side="right") % 2 == 1)


def _meets(boxes: NDArray[np.float64], bbox: Box) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = bbox
    return np.asarray((boxes[:, 0] <= x1) & (boxes[:, 2] >= x0) & (boxes[:, 1] <= y1) & (boxes[:, 3] >= y0))


def _lies_in(boxes: NDArray[np.float64], bbox: Box) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = bbox
    return np.asarray((boxes[:, 0] >= x0) & (boxes[:, 2] <= x1) & (boxes[:, 1] >= y0) & (boxes[:, 3] <= y1))
