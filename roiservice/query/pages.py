"""Pages of features and of ROIs, and the counts that go with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.reader import Catalog
from roiservice.errors import Gone, NotFound
from roiservice.geometry.features import EVERY_INDEX
from roiservice.query.select import RoiQuery, Rows, matching_planes, matching_rows, plane_spans, rows_of_rois

# Selections of ROIs that a catalog remembers.
REMEMBERED_QUERIES = 256
REMEMBERED_BYTES = 2**26


@dataclass(frozen=True)
class Page:
    """Rows of one page, and how many features (or ROIs, on a page of ROIs) match in all."""

    rows: Rows
    matched: int


def feature_page(catalog: Catalog, query: RoiQuery, offset: int, limit: int) -> Page:
    """Features `offset` to `offset + limit` of those that match, in row order."""
    if query.by_plane_only:
        spans = plane_spans(catalog, matching_planes(catalog, query))
        return Page(_slice_of_spans(spans, offset, limit), sum(last - first for first, last in spans))
    rows = _remembered(catalog, (query, "rows"), lambda: matching_rows(catalog, query))
    return Page(rows[offset : offset + limit], len(rows))


def largest_features(catalog: Catalog, query: RoiQuery, most: int) -> Page:
    """The `most` largest by area of the features that match, in row order; of equal ones the first rows."""
    rows = matching_rows(catalog, query)
    if len(rows) <= most:
        return Page(rows, len(rows))
    area = catalog.features["area"][rows]
    least = np.partition(area, len(rows) - most)[len(rows) - most]
    larger, equal = area > least, np.flatnonzero(area == least)
    larger[equal[: most - int(larger.sum())]] = True
    return Page(rows[larger], len(rows))


def roi_page(catalog: Catalog, query: RoiQuery, offset: int, limit: int, max_shapes: int = 5000) -> Page:
    """ROIs `offset` to `offset + limit` of those with any matching feature, each with all its features.

    Rows are sorted by (ROI, plane). Where the page's ROIs have more than `max_shapes` parts on all planes,
    only the features on the planes asked for are given.
    """
    places, matched = _roi_places(catalog, query, offset, limit)
    rows = rows_of_rois(catalog, places)
    if int(catalog.features["part_count"][rows].sum()) > max_shapes:
        rows = rows[_on_planes(catalog, rows, query)]
    return Page(rows, matched)


def roi_count(catalog: Catalog, query: RoiQuery) -> int:
    """Number of distinct ROIs with any matching feature."""
    return _roi_places(catalog, query, 0, 0)[1]


def roi_index(catalog: Catalog, query: RoiQuery, roi_id: int) -> int | None:
    """Place of a ROI in the list that `roi_page` pages through; None if it is not in it."""
    number = roi_id - catalog.first_roi_id
    place = int(np.searchsorted(catalog.rois["roi"], number))
    if place == len(catalog.rois["roi"]) or catalog.rois["roi"][place] != number:
        return None
    if _asks_for_all(catalog, query):
        return place
    places = _remembered_places(catalog, query)
    index = int(np.searchsorted(places, place))
    return index if index < len(places) and places[index] == place else None


def plane_shape_counts(catalog: Catalog, size_z: int, size_t: int) -> NDArray[np.int64]:
    """Shapes per plane of the image, (z, t); those on every index of an axis count on each."""
    counts = np.zeros((size_z, size_t), np.int64)
    planes = catalog.planes
    numbers = _shapes_before(catalog, planes["first"] + planes["count"]) - _shapes_before(
        catalog, planes["first"]
    )
    for t, z, number in zip(planes["t"].tolist(), planes["z"].tolist(), numbers.tolist(), strict=True):
        rows = slice(None) if z == EVERY_INDEX else slice(z, z + 1)
        columns = slice(None) if t == EVERY_INDEX else slice(t, t + 1)
        counts[rows, columns] += number
    return counts


def _shapes_before(catalog: Catalog, rows: Rows) -> NDArray[np.int64]:
    """Number of the first shape of each of these rows; of the row after the last one, that of all shapes."""
    column, count = catalog.features["shape_first"], catalog.meta["counts"]["shapes"]
    before = np.full(len(rows), count, np.int64)
    inside = rows < len(column)
    before[inside] = column[rows[inside]]
    return before


def shape_row(catalog: Catalog, shape_id: int) -> int:
    """Row of the feature that a shape is part of; Gone for ids of other versions, NotFound if unknown."""
    number = shape_id - catalog.first_shape_id
    if not 0 <= number < 2**32:
        raise Gone(f"shape {shape_id} belongs to a version of the layer that has been replaced")
    if number >= catalog.meta["counts"]["shapes"]:
        raise NotFound(f"there is no shape {shape_id}")
    return int(np.searchsorted(catalog.features["shape_first"], number, side="right")) - 1


def feature_row(catalog: Catalog, feature_id: int) -> int:
    """Row of a feature by its id, the id of its first shape."""
    row = shape_row(catalog, feature_id)
    if catalog.features["shape_first"][row] + catalog.first_shape_id != feature_id:
        raise NotFound(f"there is no feature {feature_id}")
    return row


def _roi_places(catalog: Catalog, query: RoiQuery, offset: int, limit: int) -> tuple[Rows, int]:
    """Places in the ROI table of the page's ROIs, sorted, and the number of all ROIs that match."""
    if _asks_for_all(catalog, query):
        matched = len(catalog.rois["roi"])
        return np.arange(min(offset, matched), min(offset + limit, matched)), matched
    planes = matching_planes(catalog, query)
    if query.by_plane_only and len(planes) == 1:  # the catalog keeps the rows of a plane in this order
        first, matched = int(catalog.planes["first"][planes[0]]), int(catalog.planes["count"][planes[0]])
        rows = catalog.page_rows[first + min(offset, matched) : first + min(offset + limit, matched)]
        return catalog.features["place"][rows].astype(np.int64), matched
    places = _remembered_places(catalog, query)
    return places[offset : offset + limit], len(places)


def matching_places(catalog: Catalog, query: RoiQuery) -> Rows | None:
    """Places in the ROI table of the ROIs with any matching feature; None for all of them."""
    return None if _asks_for_all(catalog, query) else _remembered_places(catalog, query)


def _asks_for_all(catalog: Catalog, query: RoiQuery) -> bool:
    return query.by_plane_only and len(matching_planes(catalog, query)) == len(catalog.planes["t"])


def _remembered_places(catalog: Catalog, query: RoiQuery) -> Rows:
    """Places in the ROI table of all ROIs that match; found out once per query while memory allows."""
    return _remembered(catalog, query, lambda: _places_of_rows(catalog, query))


def _remembered(catalog: Catalog, key: object, find: Callable[[], Rows]) -> Rows:
    found = catalog.remembered.get(key)
    if found is None:
        found = find()
        known = list(catalog.remembered.values())
        size = found.nbytes + sum(each.nbytes for each in known)
        if len(known) >= REMEMBERED_QUERIES or size > REMEMBERED_BYTES:
            catalog.remembered.clear()
        if found.nbytes <= REMEMBERED_BYTES:
            catalog.remembered[key] = found
    return found


def _places_of_rows(catalog: Catalog, query: RoiQuery) -> Rows:
    if query.by_plane_only:
        spans = plane_spans(catalog, matching_planes(catalog, query))
        rows = np.concatenate(
            [catalog.page_rows[first:last] for first, last in spans] or [np.empty(0, np.int64)]
        )
    else:
        rows = matching_rows(catalog, query)
    if len(rows) < len(catalog.rois["roi"]) // 16:  # sorting them is cheaper than a look at every ROI
        return np.unique(catalog.features["place"][rows]).astype(np.int64)
    asked = np.zeros(len(catalog.rois["roi"]), bool)
    asked[catalog.features["place"][rows]] = True
    return np.flatnonzero(asked)


def _on_planes(catalog: Catalog, rows: Rows, query: RoiQuery) -> NDArray[np.bool_]:
    on = np.zeros(len(rows), bool)
    wanted = replace(query, bbox=None, rois=None, labels=None, min_area=0.0, properties=())
    for first, last in plane_spans(catalog, matching_planes(catalog, wanted)):
        on |= (rows >= first) & (rows < last)
    return on


def _slice_of_spans(spans: list[tuple[int, int]], offset: int, limit: int) -> Rows:
    """Rows `offset` to `offset + limit` of consecutive spans, without listing those before."""
    pieces = [np.empty(0, np.int64)]
    for first, last in spans:
        skipped = min(offset, last - first)
        taken = min(limit, last - first - skipped)
        pieces.append(np.arange(first + skipped, first + skipped + taken))
        offset, limit = offset - skipped, limit - taken
    return np.concatenate(pieces)
