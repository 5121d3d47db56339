"""What the members of a GeoJSON feature say of an object, in QuPath's words and in this service's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from roiservice.sources.tables.columns import json_text

Values = dict[str, Any]

AXES = ("c", "z", "t")
# With both of these measurements and a number as its name, an object comes from this service's own export.
_OWN_MEASUREMENTS = ("Area px^2", "Perimeter px")
_OPAQUE = 0xFF


def values_of(feature: Mapping[str, Any]) -> Values:
    """Values by column of a feature: its properties, with QuPath's taken apart.

    Planes are those of the properties, else of the geometry's `plane` (there an index that is left out has
    QuPath's default). Measurements are floats, metadata text; neither takes the place of a property. Of
    `color` and the class's color the former counts; both become #rrggbbaa.
    """
    properties = feature.get("properties")
    values: Values = dict(properties) if isinstance(properties, dict) else {}
    geometry = feature.get("geometry")
    plane = geometry.get("plane") if isinstance(geometry, dict) else None
    measured = _measured(values.pop("measurements", None))
    metadata = values.pop("metadata") if isinstance(values.get("metadata"), dict) else {}
    own_color, class_color = _color(values.get("color")), None
    if isinstance(values.get("classification"), dict):
        stated = values.pop("classification")
        values["classification"] = _class_name(stated)
        class_color = _color(stated.get("color", stated.get("colorRGB")))
    if _is_own(values, measured):
        _take_own(values, measured)
        class_color = None
    if own_color or class_color:
        values["color"] = own_color or class_color
    for name, value in measured.items():
        values.setdefault(name, value)
    for name, value in metadata.items():
        values.setdefault(name, json_text(value))
    if isinstance(plane, dict):
        for axis, default in zip(AXES, (-1, 0, 0), strict=True):
            values.setdefault(axis, plane.get(axis, default))
    return values


def is_ellipse(geometry: Any) -> bool:
    """Whether a geometry stands for the ellipse that fills its box."""
    return isinstance(geometry, dict) and geometry.get("isEllipse") is True


def _is_own(values: Values, measured: Values) -> bool:
    name, layer = values.get("name"), values.get("classification")
    if not isinstance(name, str) or not isinstance(layer, str):
        return False
    return name.removeprefix("-").isdecimal() and all(each in measured for each in _OWN_MEASUREMENTS)


def _take_own(values: Values, measured: Values) -> None:
    """Label, layer and area, as other exports of this service call them."""
    area, perimeter = _OWN_MEASUREMENTS
    values["area"] = measured.pop(area)
    del measured[perimeter]
    values["label"], values["layer"] = values.pop("name"), values.pop("classification")
    values.pop("objectType", None)


def _measured(stated: Any) -> Values:
    """Measurements: an object of numbers, or of older versions a list of names and values."""
    if isinstance(stated, dict):
        if set(map(type, stated.values())) == {float}:
            return dict(stated)
        return {name: _number(value) for name, value in stated.items()}
    if not isinstance(stated, list):
        return {}
    rows = (row for row in stated if isinstance(row, dict) and isinstance(row.get("name"), str))
    return {row["name"]: _number(row.get("value")) for row in rows}


def _number(value: Any) -> float | None:
    """A number, which QuPath may write as a text: "NaN", "Infinity"."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _class_name(stated: Mapping[str, Any]) -> str | None:
    """The name of a class; derived classes have several, which QuPath shows with colons between."""
    names = stated.get("names", stated.get("name"))
    if isinstance(names, list):
        return ": ".join(name for name in names if isinstance(name, str)) or None
    return names if isinstance(names, str) else None


def _color(stated: Any) -> str | None:
    """A list of red, green, blue and perhaps alpha; or alpha, red, green and blue in the bits of an int32."""
    if isinstance(stated, bool):
        return None
    if isinstance(stated, int) and -(2**31) <= stated < 2**32:
        red, green, blue = (stated >> shift & 0xFF for shift in (16, 8, 0))
        alpha = stated >> 24 & 0xFF
        return f"#{bytes([red, green, blue, alpha or _OPAQUE]).hex()}"
    if not isinstance(stated, list) or len(stated) not in (3, 4):
        return None
    if not all(type(value) is int and 0 <= value <= 255 for value in stated):
        return None
    return f"#{bytes([*stated, _OPAQUE][:4]).hex()}"
