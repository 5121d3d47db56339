"""The formats that features leave in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from roiservice.encode import geojson, omero, qupath, wkt
from roiservice.geometry.features import Features
from roiservice.records import dataclass

ENCODER_VERSION = 7  # raise whenever any encoder's bytes change: part of what cached pages are named by


@dataclass(frozen=True)
class Format:
    """A whole file is `begin(property names)`, then what `encode` gives joined by `separator`, then `end`.

    `by_roi`: `encode` wants all features of a ROI together, sorted by ROI.
    """

    name: str
    media_type: str
    suffix: str
    begin: Callable[[tuple[str, ...]], bytes]
    separator: bytes
    end: bytes
    encode: Callable[[Features], list[bytes]]
    by_roi: bool = False


def _collection(_: tuple[str, ...]) -> bytes:
    return b'{"type":"FeatureCollection","features":['


def _lines(features: Features) -> list[bytes]:
    return [feature + b"\n" for feature in geojson.features_json(features)]


_GEOJSON = "application/geo+json"

FORMATS = {
    each.name: each
    for each in (
        Format("geojson", _GEOJSON, ".geojson", _collection, b",", b"]}\n", geojson.features_json),
        Format("ndjson", "application/x-ndjson", ".ndjson", lambda _: b"", b"", b"", _lines),
        Format("wkt", "text/csv; charset=utf-8", ".csv", wkt.header, b"", b"", wkt.rows),
        Format("qupath", _GEOJSON, ".geojson", _collection, b",", b"]}\n", qupath.features_json),
        Format(
            "omero",
            "application/json",
            ".json",
            lambda _: b'{"data":[',
            b",",
            b"]}\n",
            omero.rois,
            by_roi=True,
        ),
    )
}

# The OMERO format with masks for polygons: a choice of the site, so nobody asks for it by this name.
OMERO_MASKS = replace(FORMATS["omero"], name="omero-masks", encode=partial(omero.rois, masks=True))
