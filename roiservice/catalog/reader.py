"""Open catalogs: columns are views of mapped files, so opening costs nothing that grows with the layer."""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roiservice.catalog.columns import read_arrays, read_columns, unusable
from roiservice.catalog.indexes import FORMAT
from roiservice.catalog.registry import FIRST_ID, ROIS
from roiservice.errors import CatalogDamaged
from roiservice.geometry.frames import Frame
from roiservice.records import dataclass

log = logging.getLogger(__name__)

OPEN_CATALOGS = 256  # of a process
Int64 = NDArray[np.int64]

OUTLINES = {"parts": "first", "rings": "first", "vertices": "xy"}  # columns by file
LATER = "later_"  # what the names of files begin with in which features of a later version are stored


@dataclass(frozen=True)
class Stored:
    """Features as they lie in files: see `roiservice.catalog.writer`.

    `columns` (n,) by name; `xy` (v, 2); `ring_vertices` and `part_rings` are the first vertex of each ring
    and the first ring of each part, and one more.
    """

    columns: dict[str, NDArray[Any]]
    part_rings: Int64
    ring_vertices: Int64
    xy: NDArray[Any]

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return len(self.part_rings) - 1


@dataclass(frozen=True)
class Spliced:
    """A column of which some rows are stored in the files of an earlier version, others in later ones.

    Row i is `base[stored[i]]`, or, beyond its end, of `later`.
    """

    base: NDArray[Any]
    later: NDArray[Any]
    stored: NDArray[Any]

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: Int64 | slice | int) -> Any:
        stored = self.stored[rows]
        if not stored.ndim:  # one row
            return self.base[stored] if stored < len(self.base) else self.later[stored - len(self.base)]
        if _follow(stored) and stored[-1] < len(self.base):
            return self.base[stored[0] : stored[-1] + 1]
        values = self.base.take(stored, axis=0, mode="clip")
        late = np.flatnonzero(stored >= len(self.base))
        values[late] = self.later[stored[late] - len(self.base)]
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self[:], dtype, copy=copy)


def some_rows(column: NDArray[Any] | Spliced, rows: NDArray[Any] | slice) -> NDArray[Any]:
    """These rows of a column. Of an array, lists of numbers are taken ten times as fast as by indexing it."""
    if isinstance(rows, slice) or isinstance(column, Spliced):
        return np.asarray(column[rows])
    return column.take(rows, axis=0)


def _follow(rows: NDArray[Any]) -> bool:
    """Whether each is the one after the one before, as most are that are taken together."""
    return len(rows) > 0 and rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all())


@dataclass(frozen=True)
class Catalog:
    """All features of one layer version; see `roiservice.catalog.writer` and `indexes` for the columns.

    `features` has those of the features, and of the rows `place` and `shape_first`: arrays, or `Spliced`
    ones, of which rows are taken as of arrays. `later` is what is stored beside `base`, None where nothing
    is; a part of number `base.parts` + i is its part i.
    """

    directory: Path
    version: int
    layer_number: int
    meta: dict[str, Any]
    features: dict[str, Any]
    base: Stored
    later: Stored | None
    stored: NDArray[Any] | None
    blocks: NDArray[Any]
    planes: dict[str, NDArray[Any]]
    rois: dict[str, NDArray[Any]]
    properties: dict[str, pa.Array]
    roi_rows: NDArray[Any]
    roi_first: NDArray[Any]
    page_rows: NDArray[Any]
    # What queries found out once and may use again, such as the distinct ROIs of a plane range.
    remembered: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The layer's name."""
        return str(self.meta["name"])

    @property
    def frame(self) -> Frame:
        """From the layer's grid, on which the vertices are, to image pixels."""
        return Frame(*self.meta["frame"])

    @property
    def image_size(self) -> tuple[int, int, int, int, int]:
        """Size of the image as (t, c, z, y, x)."""
        t, c, z, y, x = self.meta["image_size"]
        return t, c, z, y, x

    @property
    def extent(self) -> tuple[float, float, float, float] | None:
        """Box around all features in image pixels, (x0, y0, x1, y1); None without features."""
        return None if self.meta["extent"] is None else tuple(self.meta["extent"])

    @property
    def first_roi_id(self) -> int:
        """ROI id of ROI number 0."""
        return FIRST_ID + self.layer_number * ROIS

    @property
    def first_shape_id(self) -> int:
        """Id of shape number 0 of this version."""
        return FIRST_ID + self.version * ROIS


def open_catalog(directory: Path) -> Catalog:
    """Open the catalog in `directory`; raises CatalogDamaged where it is not whole or of another format.

    And NotOpened where that cannot be known now.
    """
    try:
        meta = json.loads((directory / "layer.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise CatalogDamaged(f"{directory}: format {meta['format']}, not {FORMAT}")
        return _opened(directory, meta)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unusable(directory, error) from error


def _opened(directory: Path, meta: dict[str, Any]) -> Catalog:
    def read(name: str) -> dict[str, NDArray[Any]]:
        return read_columns(directory / f"{name}.arrow")

    def read_stored(prefix: str) -> Stored:
        outlines = (read(f"{prefix}{name}")[column] for name, column in OUTLINES.items())
        return Stored(read(f"{prefix}features"), *outlines)

    rows, planes, rois, roi_rows = read("rows"), read("planes"), read("rois"), read("roi_rows")["row"]
    base, stored = read_stored(""), rows.pop("stored", None)
    later: Stored | None = None
    features: dict[str, Any] = dict(base.columns)
    if stored is not None:
        later = read_stored(LATER)
        features = {name: Spliced(column, later.columns[name], stored) for name, column in features.items()}
    return Catalog(
        directory=directory,
        version=meta["version"],
        layer_number=meta["layer_number"],
        meta=meta,
        features={**features, **rows},
        base=base,
        later=later,
        stored=stored,
        blocks=read("blocks")["box"],
        planes=planes,
        rois={"label": rois["roi"].view(base.columns["label"].dtype), **rois},
        properties=read_arrays(directory / "properties.arrow") if meta["property_names"] else {},
        roi_rows=roi_rows,
        roi_first=read("roi_first")["first"],
        page_rows=read("page_rows")["row"] if len(planes["t"]) > 1 else roi_rows,
    )


class OpenCatalogs:
    """Catalogs that a process has open, by their folders; used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, Catalog] = OrderedDict()

    def get(self, directory: Path) -> Catalog | None:
        """The catalog in `directory`, opened once; None where there is none that can be used.

        Raises NotOpened.
        """
        with self._lock:
            catalog = self._open.get(directory)
            if catalog is not None:
                self._open.move_to_end(directory)
                return catalog
        try:
            catalog = open_catalog(directory)
        except CatalogDamaged as error:
            if directory.exists():
                log.warning("%s", error)
            return None
        with self._lock:
            self._open[directory] = catalog
            if len(self._open) > OPEN_CATALOGS:
                self._open.popitem(last=False)
        return catalog

    def close(self, directory: Path) -> None:
        """Let go of a catalog: the disk takes back what was deleted once nobody has it open."""
        with self._lock:
            self._open.pop(directory, None)

    def close_deleted(self) -> None:
        """Let go of all whose folder is gone."""
        with self._lock:
            directories = list(self._open)
        for directory in directories:
            if not directory.exists():
                self.close(directory)
