"""CSV with a WKT column, as GDAL and QGIS read it."""

from __future__ import annotations

import csv
import io

import orjson
import shapely

from roiservice.geometry.features import Features
from roiservice.geometry.polygons import to_shapely

_COLUMNS = ("WKT", "id", "label", "layer", "z", "t", "c", "area", "color")
_TAKEN = frozenset(name.casefold() for name in _COLUMNS)


def header(property_names: tuple[str, ...]) -> bytes:
    """The first line."""
    return _line([*_COLUMNS, *map(_column, property_names)])


def rows(features: Features) -> list[bytes]:
    """One line per feature; columns as in GeoJSON, an empty cell for null."""
    texts = shapely.to_wkt(to_shapely(features.polygons), rounding_precision=-1) if len(features) else []
    out = []
    for i, text in enumerate(texts):
        own = orjson.loads(b"{%b}" % features.properties[i])
        color = features.color[i]
        out.append(
            _line(
                [
                    text,
                    int(features.feature_id[i]),
                    int(features.label[i]),
                    features.layer,
                    *("" if axis[i] < 0 else int(axis[i]) for axis in (features.z, features.t, features.c)),
                    _plain(float(features.area[i])),
                    "" if color is None else f"#{bytes(color).hex()}",
                    *(_plain(own.get(name)) for name in features.property_names),
                ]
            )
        )
    return out


def _column(name: str) -> str:
    """A property's column; told apart from the columns above, where readers ignore case."""
    return f"property:{name}" if name.casefold() in _TAKEN else name


def _plain(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return orjson.dumps(value).decode() if isinstance(value, (dict, list, bool)) else value


def _line(cells: list[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().encode()
