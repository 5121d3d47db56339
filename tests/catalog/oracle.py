"""The catalog of some planes, made the plain way: all rows and vertices in memory, every file at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roiservice.catalog.indexes import BLOCK_ROWS, FORMAT
from roiservice.geometry.frames import Frame
from roiservice.geometry.kinds import measure_kinds
from roiservice.geometry.polygons import Polygons


@dataclass(frozen=True)
class Plane:
    """Exact features of a layer plane and the image planes (t, c, z) that it appears on."""

    keys: Sequence[tuple[int, int, int]]
    labels: NDArray[Any]
    polygons: Polygons


def catalog_files(planes: Sequence[Plane], frame: Frame, meta: dict[str, Any], folder: Path) -> None:
    """Write a catalog whose ROI numbers are the labels, which are below 2**31; no colours, no properties."""
    keyed = [(key, number) for number, plane in enumerate(planes) for key in plane.keys]
    keyed.sort(key=lambda item: (item[0][0], item[0][2], item[0][1]))
    each = [_rows(planes, number, key, frame) for key, number in keyed]
    columns = {name: np.concatenate([rows[name] for rows in each]) for name in each[0]}
    parts = columns["part_count"].astype(np.int64)
    columns["shape_first"] = (np.cumsum(parts) - parts).astype(np.int32)
    rois, place = np.unique(columns["label"], return_inverse=True)
    order = ["kind", "t", "c", "z", "box", "area", "pixel_count", "perimeter", "centroid"]
    order += ["part_first", "part_count", "label"]
    _write(
        folder,
        "rows",
        {"place": place.astype(np.int32), "shape_first": columns["shape_first"].astype(np.int32)},
    )
    _write(folder, "features", {name: columns[name] for name in order})
    _write(folder, "parts", {"first": _running([plane.polygons.ring_offsets for plane in planes])})
    _write(folder, "rings", {"first": _running([plane.polygons.vertex_offsets for plane in planes])})
    _write(folder, "vertices", {"xy": np.concatenate([plane.polygons.xy for plane in planes])})
    counts = np.array([len(rows["label"]) for rows in each])
    table = np.column_stack([[key for key, _ in keyed], np.cumsum(counts) - counts, counts])
    _write(folder, "planes", {name: table[:, i] for i, name in enumerate(["t", "c", "z", "first", "count"])})
    box = columns["box"]
    of_block = [box[first : first + BLOCK_ROWS] for first in range(0, len(box), BLOCK_ROWS)]
    blocks = np.array([[*rows[:, :2].min(axis=0), *rows[:, 2:].max(axis=0)] for rows in of_block])
    _write(folder, "blocks", {"box": blocks})
    _write(folder, "roi_rows", {"row": np.lexsort((np.arange(len(place)), place)).astype(np.int32)})
    plane_of = np.repeat(np.arange(len(each)), counts)
    if len(each) > 1:
        _write(folder, "page_rows", {"row": np.lexsort((place, plane_of)).astype(np.int32)})
    _write(folder, "roi_first", {"first": np.r_[0, np.cumsum(np.bincount(place))].astype(np.int32)})
    _write(folder, "rois", {"roi": rois})
    totals = {
        "features": len(place),
        "rois": len(rois),
        "shapes": int(parts.sum()),
        "vertices": sum(len(plane.polygons.xy) for plane in planes),
    }
    extent = [*box[:, :2].min(axis=0).tolist(), *box[:, 2:].max(axis=0).tolist()]
    whole = {"format": FORMAT, **meta, "counts": totals, "extent": extent, "property_names": []}
    (folder / "layer.json").write_text(json.dumps(whole, indent=1, sort_keys=True))


def _rows(
    planes: Sequence[Plane], number: int, key: tuple[int, int, int], frame: Frame
) -> dict[str, NDArray[Any]]:
    plane = planes[number]
    count = len(plane.labels)
    kind = np.zeros(count, np.uint8)
    own = measure_kinds(plane.polygons, kind)
    measures = measure_kinds(plane.polygons.in_image(frame), kind)
    first_part = sum(int(before.polygons.part_offsets[-1]) for before in planes[:number])
    t, c, z = (np.full(count, index, np.int32) for index in key)
    return {
        "label": plane.labels.astype(np.int64),
        "kind": kind,
        "t": t,
        "c": c,
        "z": z,
        "box": measures.boxes,
        "area": own.area * frame.pixel_area,
        "pixel_count": own.area.astype(np.int64),
        "perimeter": measures.perimeter,
        "centroid": measures.centroid,
        "part_first": first_part + plane.polygons.part_offsets[:-1],
        "part_count": np.diff(plane.polygons.part_offsets).astype(np.int32),
    }


def _running(offsets: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The offsets of several planes as those of all."""
    return np.r_[0, np.cumsum(np.concatenate([np.diff(each) for each in offsets]))]


def _write(folder: Path, name: str, columns: dict[str, NDArray[Any]]) -> None:
    arrays = [
        pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        if values.ndim == 2
        else pa.array(values)
        for values in columns.values()
    ]
    batch = pa.RecordBatch.from_arrays(arrays, names=list(columns))
    with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as file:
        file.write_batch(batch)
