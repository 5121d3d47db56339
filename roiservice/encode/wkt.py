"""CSV with a WKT column, as GDAL and QGIS read it."""

from __future__ import annotations

import csv
import io
import math

import shapely

from roiservice.geometry.features import Features
from roiservice.geometry.kinds import NAMES, geometries

_COLUMNS = ("WKT", "id", "label", "layer", "z", "t", "c", "area", "color", "drawn_as")
_TAKEN = frozenset(name.casefold() for name in _COLUMNS)


def header(property_names: tuple[str, ...]) -> bytes:
    """The first line."""
    return _line([*_COLUMNS, *map(_column, property_names)])


def rows(features: Features) -> list[bytes]:
    """One line per feature; columns as in GeoJSON, an empty cell for null."""
    if not len(features):
        return []
    texts = _texts(features)
    columns = {name: column.to_pylist() for name, column in features.properties.items()}
    out = []
    for i, text in enumerate(texts):
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
                    NAMES[features.kind[i]] if features.kind[i] else "",
                    *(_plain(values[i]) for values in columns.values()),
                ]
            )
        )
    return out


def _texts(features: Features) -> list[str]:
    """Geometries as WKT; empty where features come without."""
    if not features.polygons.part_offsets[-1]:
        return [""] * len(features)
    texts: list[str] = shapely.to_wkt(
        geometries(features.polygons, features.kind), rounding_precision=-1
    ).tolist()
    return texts


def _column(name: str) -> str:
    """A property's column; told apart from the columns above, where readers ignore case."""
    return f"property:{name}" if name.casefold() in _TAKEN else name


def _plain(value: object) -> object:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value if math.isfinite(value) else None
    if isinstance(value, bytes):  # JSON
        return value.decode()
    return str(value).lower() if isinstance(value, bool) else value


def _line(cells: list[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().encode()
