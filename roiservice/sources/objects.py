"""`image-label` metadata: colors and properties of the labels."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from roiservice.records import dataclass
from roiservice.sources.groups import Group

RGBA = tuple[int, int, int, int]


@dataclass(frozen=True)
class LabelObjects:
    """What `image-label` says about single labels; both are sparse, and neither has the background 0.

    `colors`: label -> (red, green, blue, alpha), 0..255. `properties`: label -> all keys but `label-value`;
    rows may differ in keys, and values are any JSON (floats may be NaN).
    """

    colors: dict[int, RGBA] = field(default_factory=dict)
    properties: dict[int, dict[str, Any]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def has_image_label(group: Group) -> bool:
    """Whether the group says that it is a label image."""
    return isinstance(group.attributes.get("image-label"), dict)


def label_objects_of(group: Group) -> LabelObjects:
    """Colors and properties; empty without `image-label`. Unusable entries are left out with a warning."""
    stated = group.attributes.get("image-label")
    if stated is None:
        return LabelObjects()
    if not isinstance(stated, dict):
        return LabelObjects(warnings=(f"{group.document}: image-label must be a JSON object",))
    warnings: list[str] = []
    colors = _colors(_rows(group, stated, "colors", warnings), group, warnings)
    properties = _properties(_rows(group, stated, "properties", warnings), group, warnings)
    return LabelObjects(colors, properties, tuple(warnings))


def packed(color: RGBA) -> int:
    """The color as one number of 32 bits, red first."""
    return int.from_bytes(bytes(color), "big")


def source_image_of(group: Group) -> str | None:
    """`image-label.source.image`, the path from the label to its image, if stated."""
    value: Any = group.attributes
    for key in ("image-label", "source", "image"):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) and value else None


def _rows(group: Group, stated: dict[str, Any], key: str, warnings: list[str]) -> list[Any]:
    rows = stated.get(key)
    if rows is None:
        return []
    if not isinstance(rows, list):
        warnings.append(f"{group.document}: image-label.{key} must be a list")
        return []
    return rows


def _colors(rows: list[Any], group: Group, warnings: list[str]) -> dict[int, RGBA]:
    """Of duplicates the last wins (0.1 to 0.4: "the last one is used"); rgba is optional."""
    colors: dict[int, RGBA] = {}
    bad: list[int] = []
    for index, row in enumerate(rows):
        label = _label_value(row)
        rgba = _rgba(row.get("rgba")) if label is not None else None
        if label is not None and rgba is not None:
            colors[label] = rgba
        elif label is None or row.get("rgba") is not None:
            bad.append(index)
    _warn_of(bad, "colors", group, warnings)
    colors.pop(0, None)
    return colors


def _properties(rows: list[Any], group: Group, warnings: list[str]) -> dict[int, dict[str, Any]]:
    properties: dict[int, dict[str, Any]] = {}
    bad: list[int] = []
    for index, row in enumerate(rows):
        label = _label_value(row)
        if label is None:
            bad.append(index)
        else:
            properties[label] = {key: value for key, value in row.items() if key != "label-value"}
    _warn_of(bad, "properties", group, warnings)
    properties.pop(0, None)
    return properties


def _warn_of(bad: list[int], key: str, group: Group, warnings: list[str]) -> None:
    if bad:
        what = f"image-label.{key}[{bad[0]}]" + (f" and {len(bad) - 1} more" if len(bad) > 1 else "")
        warnings.append(f"{group.document}: {what} ignored: no usable label-value or rgba")


def _label_value(row: Any) -> int | None:
    """The schema of 0.4 asks for a "number" in colors: 4.0 is 4."""
    value = row.get("label-value") if isinstance(row, dict) else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _rgba(values: Any) -> RGBA | None:
    """Four integers 0..255. Floats are refused: 1.0 may mean 1 or 255."""
    if not isinstance(values, list) or len(values) != 4:
        return None
    if not all(type(value) is int and 0 <= value <= 255 for value in values):
        return None
    return values[0], values[1], values[2], values[3]
