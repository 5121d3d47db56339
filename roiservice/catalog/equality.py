"""Whether two catalogs tell the same."""

from __future__ import annotations

import filecmp
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from roiservice.catalog.outlines import outlines
from roiservice.catalog.reader import LATER, OUTLINES, Catalog, open_catalog
from roiservice.errors import CatalogDamaged
from roiservice.geometry.polygons import Polygons

PIECE_ROWS = 2**18  # that are compared at a time
# Files that say where features are stored, and those that say what a catalog is made from.
_STORED = {"rows.arrow"} | {f"{name}.arrow" for name in ("features", *OUTLINES)}
STORED = _STORED | {LATER + name for name in _STORED}
SOURCE = ("chunks.arrow", "layer.json")


def equal_catalogs(one: Path, other: Path) -> bool:
    """Whether two catalogs, given by their folders, tell the same, wherever their features are stored.

    That is said by `stored` and `part_first`; all else is the same bytes.
    """
    files = {path.name for path in (*one.iterdir(), *other.iterdir())}
    different = {name for name in files if not _equal_files(one / name, other / name)}
    if not different:
        return True
    try:
        return different <= STORED and _equal_features(open_catalog(one), open_catalog(other))
    except CatalogDamaged:
        return False


def differ_in_source_alone(one: Path, other: Path, *, is_same: bool) -> bool:
    """Whether two catalogs differ in nothing but the state of the source that they name.

    `is_same`: their features are known to be the same. What cannot be compared differs in more.
    """
    try:
        files = {path.name for path in (*one.iterdir(), *other.iterdir())} - {*STORED, *SOURCE}
        return (
            _told(one) == _told(other)
            and all(_equal_files(one / name, other / name) for name in files)
            and (is_same or _equal_features(open_catalog(one), open_catalog(other)))
        )
    except (CatalogDamaged, OSError, ValueError):
        return False


def _told(catalog: Path) -> dict[str, Any]:
    """What `layer.json` says of all else."""
    meta = json.loads((catalog / "layer.json").read_text(encoding="utf-8"))
    return {name: value for name, value in meta.items() if name not in ("version", "token", "rest")}


def _equal_files(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and filecmp.cmp(one, other, shallow=False)


def _equal_features(one: Catalog, other: Catalog) -> bool:
    """Whether the features of all rows are the same ones."""
    count = len(one.features["place"])
    if count != len(other.features["place"]) or one.features.keys() != other.features.keys():
        return False
    return all(_equal_rows(one, other, slice(at, at + PIECE_ROWS)) for at in range(0, count, PIECE_ROWS))


def _equal_rows(one: Catalog, other: Catalog, rows: slice) -> bool:
    names = [name for name in one.features if name != "part_first"]
    if not all(np.array_equal(one.features[name][rows], other.features[name][rows]) for name in names):
        return False
    own, others = (_outlines(each, rows) for each in (one, other))
    return all(
        np.array_equal(getattr(own, each.name), getattr(others, each.name)) for each in fields(Polygons)
    )


def _outlines(catalog: Catalog, rows: slice) -> Polygons:
    return outlines(catalog, *(catalog.features[name][rows] for name in ("part_first", "part_count")))
