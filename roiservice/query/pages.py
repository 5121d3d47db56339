"""Pages of features and of ROIs, and the counts that go with them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.outlines import vertex_counts
from roiservice.catalog.reader import Catalog
from roiservice.catalog.rois import rows_of_rois
from roiservice.errors import Gone, NotFound
from roiservice.geometry.features import EVERY_INDEX
from roiservice.query.remembered import remembered
from roiservice.query.select import RoiQuery, matching_planes, on_spans, plane_spans, selected
from roiservice.query.subsets import GROUP, Rows, Span, Spans, Subset
from roiservice.records import dataclass

FEW = 16  # ROIs are few if they are less than this part of all


@dataclass(frozen=True)
class Page:
    """Rows of one page, and how many features (or ROIs, on a page of ROIs) match in all."""

    rows: Rows
    matched: int


def feature_page(catalog: Catalog, query: RoiQuery, offset: int, limit: int) -> Page:
    """Features `offset` to `offset + limit` of those that match, in row order."""
    rows = selected(catalog, query)
    return Page(rows.page(offset, limit), len(rows))


def largest_features(catalog: Catalog, query: RoiQuery, most: int, vertices: int | None = None) -> Page:
    """The `most` largest by area of the features that match, in row order; of equal ones the first rows.

    With `vertices`, of these the largest that have at most so many together, without those that alone have
    more.
    """
    chosen = selected(catalog, query)
    rows = remembered(catalog, ("largest", query, most), lambda: _largest_of(catalog, chosen, most))
    if vertices is not None:
        rows = _affordable(catalog, rows, vertices)
    return Page(rows, len(chosen))


def _largest_of(catalog: Catalog, chosen: Spans | Subset, most: int) -> Rows:
    """Rows of the `most` largest of those chosen, sorted."""
    column = catalog.features["area"]
    rows, least = np.empty(0, np.int64), -np.inf
    for batch in chosen.batches():
        area = column[batch]
        larger = np.flatnonzero(area > least)
        rows = np.append(rows, larger + batch.start if isinstance(batch, slice) else batch[larger])
        if len(rows) > most:
            rows = rows[_largest(column[rows], most)]
            least = float(column[rows].min())
    return rows


def _affordable(catalog: Catalog, rows: Rows, vertices: int) -> Rows:
    """The largest of these rows that have at most so many vertices together."""
    counts = vertex_counts(catalog, rows)
    rows, counts = rows[counts <= vertices], counts[counts <= vertices]
    order = np.argsort(-catalog.features["area"][rows], kind="stable")
    return np.sort(rows[order[np.cumsum(counts[order]) <= vertices]])


def _largest(area: NDArray[np.float64], most: int) -> NDArray[np.bool_]:
    """Which are the `most` largest, of more than so many; of equal ones the first."""
    least = np.partition(area, len(area) - most)[len(area) - most]
    larger, equal = area > least, np.flatnonzero(area == least)
    larger[equal[: most - int(larger.sum())]] = True
    return np.asarray(larger)


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
    plane = _only_plane(catalog, query)
    if plane is None:
        return _places(catalog, query).index(place)
    order, places = catalog.page_rows, catalog.features["place"]
    found = bisect_left(range(*plane), place, key=lambda at: places[order[at]])
    return found if found < plane[1] - plane[0] and places[order[plane[0] + found]] == place else None


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
    return int(rows_of_shapes(catalog, np.array(number)))


def rows_of_shapes(catalog: Catalog, numbers: NDArray[np.int64]) -> Rows:
    """Rows of the features that these shapes are parts of, by the numbers of shapes that there are."""
    first = catalog.features["shape_first"]
    # Of the same type, or all of the column would be converted.
    return np.asarray(np.searchsorted(first, numbers.astype(first.dtype), side="right") - 1)


def feature_row(catalog: Catalog, feature_id: int) -> int:
    """Row of a feature by its id, the id of its first shape."""
    row = shape_row(catalog, feature_id)
    if int(catalog.features["shape_first"][row]) + catalog.first_shape_id != feature_id:
        raise NotFound(f"there is no feature {feature_id}")
    return row


def _roi_places(catalog: Catalog, query: RoiQuery, offset: int, limit: int) -> tuple[Rows, int]:
    """Places in the ROI table of the page's ROIs, sorted, and the number of all ROIs that match."""
    if _asks_for_all(catalog, query):
        matched = len(catalog.rois["roi"])
        return np.arange(min(offset, matched), min(offset + limit, matched)), matched
    plane = _only_plane(catalog, query)
    if plane is not None:  # the catalog keeps the rows of a plane in this order
        first, last = (min(plane[0] + at, plane[1]) for at in (offset, offset + limit))
        return catalog.features["place"][catalog.page_rows[first:last]].astype(np.int64), plane[1] - plane[0]
    places = _places(catalog, query)
    return places.page(offset, limit), len(places)


def matching_places(catalog: Catalog, query: RoiQuery) -> Spans | Subset:
    """Places in the ROI table of the ROIs with any matching feature."""
    if _asks_for_all(catalog, query):
        return Spans(((0, len(catalog.rois["roi"])),))
    return _places(catalog, query)


def _asks_for_all(catalog: Catalog, query: RoiQuery) -> bool:
    return query.by_plane_only and len(matching_planes(catalog, query)) == len(catalog.planes["t"])


def _only_plane(catalog: Catalog, query: RoiQuery) -> Span | None:
    """The rows of the one plane that is asked for, and nothing else is; None for other queries."""
    planes = matching_planes(catalog, query)
    if not query.by_plane_only or len(planes) != 1:
        return None
    first = int(catalog.planes["first"][planes[0]])
    return first, first + int(catalog.planes["count"][planes[0]])


def _places(catalog: Catalog, query: RoiQuery) -> Subset:
    """Places in the ROI table of all ROIs that match; found out once per query while memory allows."""
    return remembered(catalog, ("places", query), lambda: _places_of_rows(catalog, query))


def _places_of_rows(catalog: Catalog, query: RoiQuery) -> Subset:
    rows, column = selected(catalog, query), catalog.features["place"]
    every = len(catalog.rois["roi"])
    if len(rows) < every // FEW:  # sorting them is cheaper than a look at every ROI
        return Subset.of(np.unique(column[rows.page(0, every)]).astype(np.int64))
    groups = np.arange(-(-every // GROUP))
    asked = np.zeros(len(groups) * GROUP, bool)
    for batch in rows.batches():
        asked[column[batch]] = True
    return Subset.of_masks([(groups, asked.reshape(-1, GROUP))])


def _on_planes(catalog: Catalog, rows: Rows, query: RoiQuery) -> NDArray[np.bool_]:
    wanted = replace(query, bbox=None, rois=None, labels=None, min_area=0.0, properties=())
    return on_spans(rows, plane_spans(catalog, matching_planes(catalog, wanted)))
