"""Open catalogs: columns are views of mapped files, so opening costs nothing that grows with the layer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from roiservice.catalog.columns import read_arrays, read_columns
from roiservice.catalog.registry import FIRST_ID, ROIS
from roiservice.catalog.writer import FORMAT
from roiservice.errors import CatalogDamaged
from roiservice.geometry.frames import Frame


@dataclass(frozen=True)
class Catalog:
    """All features of one layer version; see `roiservice.catalog.writer` for the columns."""

    directory: Path
    version: int
    layer_number: int
    meta: dict[str, Any]
    features: dict[str, NDArray[Any]]
    part_rings: NDArray[Any]
    ring_vertices: NDArray[Any]
    xy: NDArray[Any]
    blocks: NDArray[Any]
    planes: dict[str, NDArray[Any]]
    rois: dict[str, NDArray[Any]]
    properties: dict[str, pa.Array]
    roi_rows: NDArray[Any]
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
    """Open the catalog in `directory`; raises CatalogDamaged where it is not whole or of another format."""
    try:
        meta = json.loads((directory / "layer.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise CatalogDamaged(f"{directory}: format {meta['format']}, not {FORMAT}")
        return _opened(directory, meta)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CatalogDamaged(f"{directory}: {error!r}") from error


def _opened(directory: Path, meta: dict[str, Any]) -> Catalog:
    def read(name: str) -> dict[str, NDArray[Any]]:
        return read_columns(directory / f"{name}.arrow")

    return Catalog(
        directory=directory,
        version=meta["version"],
        layer_number=meta["layer_number"],
        meta=meta,
        features=read("features"),
        part_rings=read("parts")["first"],
        ring_vertices=read("rings")["first"],
        xy=read("vertices")["xy"],
        blocks=read("blocks")["box"],
        planes=read("planes"),
        rois=read("rois"),
        properties=read_arrays(directory / "properties.arrow") if meta["property_names"] else {},
        roi_rows=read("roi_rows")["row"],
        page_rows=read("page_rows")["row"],
    )
