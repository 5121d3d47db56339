"""What the features of a selection are like, taken together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from roiservice.catalog.columns import to_numpy
from roiservice.catalog.reader import Catalog
from roiservice.query.columns import taken
from roiservice.query.numbers import numbers
from roiservice.query.pages import matching_places
from roiservice.query.select import MEASURES, RoiQuery, selected
from roiservice.query.subsets import Spans, Subset

COMMON = 20  # values that are listed
LONGEST = 200  # characters that are given of a value


def summary(catalog: Catalog, query: RoiQuery) -> dict[str, Any]:
    """Numbers of features and ROIs that match, their measures, and the ROIs' own properties.

    Measures are those of features, in image pixels; properties count once per ROI, however many features it
    has. See `numbers` and `texts` for what is told of each.
    """
    chosen, places = selected(catalog, query), matching_places(catalog, query)

    def measure(name: str) -> dict[str, Any]:
        column = catalog.features[name]
        return numbers(lambda: (column[rows] for rows in chosen.batches()), len(chosen))

    told = {
        "features": len(chosen),
        "rois": len(places),
        "measures": {name: measure(name) for name in MEASURES},
        "properties": {name: _described(column, places) for name, column in catalog.properties.items()},
    }
    pa.default_memory_pool().release_unused()  # to tell texts apart may have taken hundreds of megabytes
    return told


def _described(column: pa.Array, places: Spans | Subset) -> dict[str, Any]:
    """What is told of a property of the ROIs at these places."""

    def pieces() -> Iterator[pa.Array]:
        return (taken(column, some) for some in places.batches())

    def values() -> Iterator[NDArray[Any]]:
        return (to_numpy(piece.drop_null()) for piece in pieces())

    told = {"missing": sum(piece.null_count for piece in pieces())}
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        kind = "integer" if pa.types.is_integer(column.type) else "number"
        return {"type": kind, **told, **numbers(values, len(places))}
    if pa.types.is_boolean(column.type) or pa.types.is_string(column.type):
        kind = "boolean" if pa.types.is_boolean(column.type) else "string"
        return {"type": kind, **told, **texts(pa.chunked_array(pieces(), column.type).drop_null())}
    return {"type": "any", **told, "count": len(places) - told["missing"]}


def texts(column: pa.Array | pa.ChunkedArray) -> dict[str, Any]:
    """Of texts or truth values without null: count, how many are distinct, and the most common ones.

    Of equally common ones those that come first in order. Long texts are cut.
    """
    import pyarrow.compute as pc  # takes a while

    found = pc.value_counts(column)
    values, counts = found.field("values"), found.field("counts")
    order = values.cast(pa.int8()) if pa.types.is_boolean(values.type) else values
    keys = [("count", "descending"), ("value", "ascending")]
    best = pc.select_k_unstable(pa.table({"count": counts, "value": order}), min(COMMON, len(values)), keys)
    common = zip(values.take(best).to_pylist(), counts.take(best).to_pylist(), strict=True)
    return {
        "count": len(column),
        "distinct": len(values),
        "common": [
            {"value": value[:LONGEST] if isinstance(value, str) else value, "count": count}
            for value, count in common
        ],
    }
