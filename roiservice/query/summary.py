"""What the features of a selection are like, taken together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from roiservice.catalog.reader import Catalog
from roiservice.query.batches import row_batches
from roiservice.query.pages import matching_places
from roiservice.query.select import RoiQuery

BINS = 32  # of histograms
COMMON = 20  # values that are listed
LONGEST = 200  # characters that are given of a value
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MEASURES = ("area", "perimeter")


def summary(catalog: Catalog, query: RoiQuery) -> dict[str, Any]:
    """Numbers of features and ROIs that match, their measures, and the ROIs' own properties.

    Measures are those of features, in image pixels; properties count once per ROI, however many features it
    has. See `numbers` and `texts` for what is told of each.
    """
    pieces = list(row_batches(catalog, query))
    measures = {}
    for name in MEASURES:
        column = catalog.features[name]
        measures[name] = numbers(np.concatenate([column[rows] for rows in pieces] or [np.empty(0)]))
    places = matching_places(catalog, query)
    properties = {}
    for name, column in catalog.properties.items():
        properties[name] = _described(column if places is None else column.take(pa.array(places)))
    return {
        "features": sum(len(catalog.features["place"][rows]) for rows in pieces),
        "rois": len(catalog.rois["roi"]) if places is None else len(places),
        "measures": measures,
        "properties": properties,
    }


def _described(column: pa.Array) -> dict[str, Any]:
    told = {"missing": column.null_count}
    column = column.drop_null()
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        kind = "integer" if pa.types.is_integer(column.type) else "number"
        return {"type": kind, **told, **numbers(column.to_numpy(zero_copy_only=False))}
    if pa.types.is_boolean(column.type) or pa.types.is_string(column.type):
        kind = "boolean" if pa.types.is_boolean(column.type) else "string"
        return {"type": kind, **told, **texts(column)}
    return {"type": "any", **told, "count": len(column)}


def numbers(values: NDArray[Any]) -> dict[str, Any]:
    """Of finite numbers: count, least, greatest, mean, quantiles, and a histogram of equally wide bins.

    Quantiles are among the numbers, not between them. Only their count where there are none. A bin holds its
    lower edge, the last one its upper edge as well; where all numbers are equal there is one, without width.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return {"count": 0}
    least, greatest = values.min(), values.max()
    wide = values.astype(np.float64)
    edges, counts = np.array([least, greatest], np.float64), np.array([len(values)])
    with np.errstate(over="ignore"):
        span = edges[1] - edges[0]
    if 0 < span < np.inf and edges[0] + span / BINS > edges[0]:
        edges = np.linspace(edges[0], edges[1], BINS + 1)
        counts = np.histogram(wide, edges)[0]
    quantiles = np.quantile(wide, QUANTILES, method="inverted_cdf").tolist()
    return {
        "count": len(values),
        "min": least.item(),
        "max": greatest.item(),
        "mean": _mean(wide),
        "quantiles": dict(zip(map(str, QUANTILES), quantiles, strict=True)),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _mean(values: NDArray[np.float64]) -> float:
    """The mean, also of numbers whose sum is too large."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(values.mean())
    return mean if np.isfinite(mean) else float((values / len(values)).sum())


def texts(column: pa.Array) -> dict[str, Any]:
    """Of texts or truth values without null: count, how many are distinct, and the most common ones.

    Of equally common ones those that come first in order. Long texts are cut.
    """
    found = pc.value_counts(column)
    values, counts = found.field("values").to_pylist(), found.field("counts").to_numpy()
    enough = np.sort(counts)[-COMMON:][0] if len(counts) else 0
    ranked = sorted((-int(counts[i]), values[i]) for i in np.flatnonzero(counts >= enough))[:COMMON]
    common = [
        {"value": value[:LONGEST] if isinstance(value, str) else value, "count": -count}
        for count, value in ranked
    ]
    return {"count": len(column), "distinct": len(counts), "common": common}
