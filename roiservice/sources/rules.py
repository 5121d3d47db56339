"""What a site says about its layers, in a TOML file: what an object is, names, and what stays hidden.

    [[layer]]
    collection = "labels:mask*"   # which layers, by collection id; * and ? stand for any text
    image = 7                     # only of this image; of all without it
    objects = "component"         # label (the default), component, per-t
    title = "Nuclei"
    hidden = false
    text = "class"                # the property that OMERO shows as a shape's text; the label without it
    measures = ["solidity"]       # of scikit-image's regionprops, as further properties

Of several entries that fit a layer, a later one has the say on what it states.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from roiservice.errors import SettingsError
from roiservice.records import dataclass
from roiservice.sources.layer import LABEL_IMAGE, OBJECTS, LayerSource
from roiservice.vectorize.regions import MEASURES

_TYPES = {
    "collection": str,
    "image": int,
    "objects": str,
    "title": str,
    "hidden": bool,
    "text": str,
    "measures": list,
}
_LARGEST = 2**20  # bytes of the file


@dataclass(frozen=True)
class LayerRule:
    """One entry; None where it says nothing."""

    collection: str
    image: int | None = None
    objects: str | None = None
    title: str | None = None
    hidden: bool | None = None
    text: str | None = None
    measures: tuple[str, ...] | None = None

    def fits(self, image_id: int, source: LayerSource) -> bool:
        """Whether the entry is about this layer."""
        return self.image in (None, image_id) and fnmatchcase(source.collection, self.collection)


def read_rules(path: Path) -> tuple[LayerRule, ...]:
    """The entries of the file in order. SettingsError naming the file and the entry at fault."""
    try:
        if path.stat().st_size > _LARGEST:
            raise SettingsError(f"{path}: is larger than {_LARGEST} bytes")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from error
    entries = document.pop("layer", [])
    if document or not isinstance(entries, list):
        raise SettingsError(f"{path}: holds only [[layer]] entries, not {', '.join(document) or 'layer'}")
    return tuple(_rule(entry, f"{path}: layer {number}") for number, entry in enumerate(entries, 1))


def applied(rules: Sequence[LayerRule], image_id: int, source: LayerSource) -> LayerSource:
    """The layer as the rules have it. `objects` and `measures` are for label images alone."""
    for rule in rules:
        if rule.fits(image_id, source):
            source = replace(
                source,
                title=source.title if rule.title is None else rule.title,
                hidden=source.hidden if rule.hidden is None else rule.hidden,
                text=source.text if rule.text is None else rule.text,
            )
            if source.kind == LABEL_IMAGE:
                source = replace(
                    source,
                    objects=rule.objects or source.objects,
                    measures=source.measures if rule.measures is None else rule.measures,
                )
    return source


def _rule(entry: Any, place: str) -> LayerRule:
    if not isinstance(entry, dict) or not isinstance(entry.get("collection"), str):
        raise SettingsError(f"{place}: collection must say which layers are meant")
    for name, value in entry.items():
        if name not in _TYPES:
            raise SettingsError(f"{place}: there is no {name}; known are {', '.join(_TYPES)}")
        if type(value) is not _TYPES[name]:
            raise SettingsError(f"{place}: {name} must be a {_TYPES[name].__name__}")
    if entry.get("objects", OBJECTS[0]) not in OBJECTS:
        raise SettingsError(f"{place}: objects must be one of {', '.join(OBJECTS)}")
    measures = entry.get("measures")
    for name in measures or ():
        if name not in MEASURES:
            raise SettingsError(f"{place}: there is no measure {name!r}; known are {', '.join(MEASURES)}")
    return LayerRule(**{**entry, "measures": None if measures is None else tuple(measures)})
