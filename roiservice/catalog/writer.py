"""Write a catalog: features plane by plane as they come, indexes at the end.

| file | one row per | columns |
|---|---|---|
| features | feature | label, kind, plane, box, measures, parts |
| parts, rings | part, ring (and one more) | first ring, first vertex |
| vertices | vertex | xy, int32 or float64, on the layer's own grid |
| chunks | file of chunks of the label image, sorted | name, size, mark, digests |

For the other files see `roiservice.catalog.indexes`. `layer.json` holds the rest. Boxes, areas, centroids and
perimeters are in image pixels.
"""

from __future__ import annotations

import mmap
import shutil
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.columns import GrowingColumn, Spool, columns_written
from roiservice.catalog.indexes import CatalogRows, RoiColumns, block_boxes, write_indexes
from roiservice.geometry.features import EVERY_INDEX
from roiservice.geometry.frames import Frame
from roiservice.geometry.grouping import distinct, grouped
from roiservice.geometry.kinds import measure_kinds
from roiservice.geometry.polygons import Measures, Polygons
from roiservice.sources.planes import PlaneKey

PIECE_ROWS = 2**18  # that are sorted at a time

# Columns that are appended plane by plane: dtype, and width where a row holds several numbers.
_SPOOLED: dict[str, tuple[Any, int]] = {
    "object": (np.int64, 0),
    "kind": (np.uint8, 0),
    "t": (np.int32, 0),
    "c": (np.int32, 0),
    "z": (np.int32, 0),
    "box": (np.float64, 4),
    "area": (np.float64, 0),
    "pixel_count": (np.int64, 0),
    "perimeter": (np.float64, 0),
    "centroid": (np.float64, 2),
    "part_first": (np.int64, 0),
    "part_count": (np.int32, 0),
    "parts": (np.int64, 0),
    "rings": (np.int64, 0),
}
_IN_NO_FEATURE = ("object", "parts", "rings")  # columns that are not written as ones of features

PlaneIndex = tuple[int, int, int]  # t, c, z; EVERY_INDEX where an object lies on all of them


class CatalogWriter:
    """Collects the features of one layer version in `directory`, which it clears first.

    `labels` is the dtype of labels, int64 or uint64; `vertices` that of coordinates, int32 or float64.
    """

    def __init__(
        self,
        directory: Path,
        frame: Frame,
        labels: type[np.int64 | np.uint64],
        vertices: type[np.int32 | np.float64],
    ) -> None:
        self._directory = directory
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        self._frame = frame
        self._types: dict[str, tuple[Any, int]] = {**_SPOOLED, "label": (labels, 0)}
        self._files = {name: Spool(directory / f"{name}.raw") for name in self._types}
        self._xy = GrowingColumn(directory / "vertices.arrow", "xy", vertices, 2)
        self._maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._runs: list[tuple[int, int, int, int, int]] = []
        self.features = 0
        self._parts = self._rings = self._vertices = 0

    def add_plane(
        self,
        planes: Sequence[PlaneIndex],
        labels: NDArray[Any],
        polygons: Polygons,
        pixel_count: NDArray[np.int64],
        *,
        exact: bool,
        kind: NDArray[np.uint8] | None = None,
        objects: NDArray[np.int64] | None = None,
        measures: Measures | None = None,
    ) -> None:
        """Add features of one layer plane, once for each image plane (t, c, z) that it appears on.

        Features of a plane may be added some at a time, and those of a plane without any as none.
        `labels` (f,); `polygons` in the layer's frame; `pixel_count` (f,) in layer pixels. Where the outlines
        are `exact` the area is taken from the pixel count, else from the polygons. `kind` None: all polygons.
        Features of one ROI have the same number in `objects`; None: the label says. `measures` are those of
        the polygons in the image, None to take them now.
        """
        if kind is None:
            kind = np.zeros(len(labels), np.uint8)
        if objects is None:
            objects = labels.astype(np.int64)  # labels beyond int64 wrap round, and stay distinct
        if measures is None:
            measures = measure_kinds(polygons.in_image(self._frame), kind)
        part_first = self._parts + polygons.part_offsets[:-1]
        part_count = np.diff(polygons.part_offsets)
        ring_first = self._rings + polygons.ring_offsets[:-1]
        vertex_first = self._vertices + polygons.vertex_offsets[:-1]
        for t, c, z in planes:
            n = len(labels)
            self._runs.append((t, c, z, self.features, n))
            columns = feature_columns(
                (t, c, z), labels, pixel_count, measures, self._frame.pixel_area if exact else None, kind
            )
            own = {"object": objects, "part_first": part_first, "part_count": part_count}
            self._append({**columns, **own})
            self.features += n
        self._append({"parts": ring_first, "rings": vertex_first})
        self._xy.append(polygons.xy)
        self._parts += len(ring_first)
        self._rings += len(vertex_first)
        self._vertices += len(polygons.xy)

    def settle(self) -> None:
        """Wait until all that was added is written."""
        self._xy.settle()

    def finish(
        self,
        describe: Callable[[NDArray[np.int64], NDArray[Any]], RoiColumns],
        meta: Mapping[str, Any],
        chunks: Mapping[str, Any] | None = None,
    ) -> None:
        """Add the indexes: the catalog is whole.

        `describe` tells of the distinct objects, given with the label of each, what belongs to a ROI.
        `chunks` are columns that tell what the catalog was made from, None where that cannot be told.
        """
        self._append({"parts": np.array([self._rings]), "rings": np.array([self._vertices])})
        for file in self._files.values():
            file.close()
        self._xy.finish()
        planes, order = _planes_of(np.array(self._runs, np.int64).reshape(-1, 5))
        if order is not None:
            self._sort(order)
        columns = {name: self._column(name) for name in self._types}
        with columns_written(self._directory, 1, self._release) as write:  # while the indexes are made
            write("features", {name: columns[name] for name in columns if name not in _IN_NO_FEATURE})
            write("parts", {"first": columns["parts"]})
            write("rings", {"first": columns["rings"]})
            rows = self._rows(columns, planes, describe)
            write_indexes(self._directory, rows, meta, chunks, self._release)
        del columns, rows  # where files are kept while they are mapped, as on NFS, none is left over
        for spool in self._files.values():
            spool.delete()

    def discard(self) -> None:
        """Remove what was written so far."""
        files: list[Spool | GrowingColumn] = [*self._files.values(), self._xy]
        for file in files:
            with suppress(OSError):  # the disk may be full
                file.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        for name, values in columns.items():
            flat = np.ascontiguousarray(values, self._types[name][0]).reshape(-1)
            self._files[name].write(flat.view(np.uint8).data)  # tofile would not say that the disk is full

    def _column(self, name: str) -> NDArray[Any]:
        """A column as it was written so far; a large one mapped."""
        dtype, width = self._types[name]
        content = self._files[name].content()
        if isinstance(content, mmap.mmap):
            self._maps.add(content)
        return np.frombuffer(content, dtype).reshape((-1, width) if width else (-1,))

    def _release(self) -> None:
        """Let go of the memory that mapped columns take; what is needed again is read again."""
        for mapped in list(self._maps):
            mapped.madvise(mmap.MADV_DONTNEED)

    def _sort(self, rows: NDArray[np.int64]) -> None:
        """Bring the features into the order of these rows, a piece at a time."""
        for name in self._types:
            if name in ("parts", "rings"):
                continue
            column = self._column(name)
            beside = Spool(self._directory / f"{name}.sorted.raw")
            with closing(beside):
                for start in range(0, len(rows), PIECE_ROWS):
                    piece = column[rows[start : start + PIECE_ROWS]]
                    beside.write(piece.reshape(-1).view(np.uint8).data)
                    self._release()
            self._files[name].delete()
            self._files[name] = beside

    def _rows(
        self,
        columns: Mapping[str, NDArray[Any]],
        planes: NDArray[np.int64],
        describe: Callable[[NDArray[np.int64], NDArray[Any]], RoiColumns],
    ) -> CatalogRows:
        """What the indexes are made from."""
        objects, first, which = distinct(columns["object"])
        labels = columns["label"][first]
        rois = describe(objects, labels)
        order = np.argsort(rois.number, kind="stable")
        place = grouped(order, len(order))[0].astype(np.int32, copy=False)[which]
        del first, which
        boxes, rois = block_boxes(columns["box"]), rois.taken(order)
        return CatalogRows(place, columns["part_count"], boxes, planes, labels[order], rois, self._vertices)


def plane_index(key: PlaneKey) -> PlaneIndex:
    """A plane of the image as catalogs number it."""
    t, c, z = (EVERY_INDEX if index is None else index for index in (key.t, key.c, key.z))
    return t, c, z


def feature_columns(
    plane: PlaneIndex,
    labels: NDArray[Any],
    pixel_count: NDArray[np.int64],
    measures: Measures,
    pixel_area: float | None,
    kind: NDArray[np.uint8],
) -> dict[str, NDArray[Any]]:
    """Columns of the features on one image plane, but for those of their outlines.

    The area is that of the pixels, each of `pixel_area`; None: that of the outlines.
    """
    return {
        "label": labels,
        "kind": kind,
        **{name: np.full(len(labels), index, np.int32) for name, index in zip("tcz", plane, strict=True)},
        "box": measures.boxes,
        "area": measures.area if pixel_area is None else pixel_count * pixel_area,
        "pixel_count": pixel_count,
        "perimeter": measures.perimeter,
        "centroid": measures.centroid,
    }


def _planes_of(runs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Planes (t, c, z, first row, rows) sorted by (t, z, c), from runs of rows in the order of their coming.

    And the rows in that order, None where they are in it. They are, but for layer planes that appear on
    several image planes, once per channel or some features at a time.
    """
    if not len(runs):
        return runs, None
    t, c, z, first, count = runs.T
    order = np.lexsort((c, z, t))
    rows = None
    if (order != np.arange(len(order))).any():
        ends = np.cumsum(count[order])
        rows = np.arange(int(ends[-1])) + np.repeat(first[order] - (ends - count[order]), count[order])
    planes = runs[order]
    begins = np.flatnonzero(np.r_[True, (planes[1:, :3] != planes[:-1, :3]).any(axis=1)])
    counts = np.add.reduceat(planes[:, 4], begins)
    planes = planes[begins]
    planes[:, 3], planes[:, 4] = np.cumsum(counts) - counts, counts
    return planes, rows
