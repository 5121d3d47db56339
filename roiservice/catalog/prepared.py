"""Features of a label image as the options of its layer want them, and what tells their ROIs apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.reader import Catalog
from roiservice.catalog.splice import Replaced
from roiservice.catalog.writer import CatalogWriter, feature_columns, plane_index
from roiservice.errors import SourceRefused
from roiservice.geometry.frames import Frame
from roiservice.geometry.polygons import Measures, Polygons, measure
from roiservice.records import dataclass
from roiservice.sources.layer import BY_COMPONENT, BY_LABEL, BY_TIME
from roiservice.sources.planes import LabelLayer, LayerPlane
from roiservice.vectorize.outlines import Outline, redraw


@dataclass(frozen=True)
class PreparedFeatures:
    """Some features of a plane of a label layer, as the layer's options want them.

    `polygons` are exact, `outlines` what the catalog gets in their place, and `measures` are those of the
    outlines in the image. `objects` None: the label tells ROIs apart.
    """

    plane: LayerPlane
    labels: NDArray[Any]
    objects: NDArray[np.int64] | None
    pixel_count: NDArray[np.int64]
    polygons: Polygons
    outlines: Polygons
    measures: Measures

    def write(self, writer: CatalogWriter, *, exact: bool) -> None:
        """Add the features to a catalog; `exact`: the outlines are."""
        writer.add_plane(
            [plane_index(key) for key in self.plane.keys],
            self.labels,
            self.outlines,
            self.pixel_count,
            exact=exact,
            objects=self.objects,
            measures=self.measures,
        )

    def in_place_of(
        self, number: int, gone: NDArray[np.int64], places: NDArray[np.int64], frame: Frame
    ) -> Replaced:
        """The same as what comes in place of others; see `Replaced`. Outlines are exact."""
        objects = self.labels.astype(np.int64) if self.objects is None else self.objects
        (key,) = self.plane.keys
        kind = np.zeros(len(self.labels), np.uint8)
        columns = feature_columns(
            plane_index(key), self.labels, self.pixel_count, self.measures, frame.pixel_area, kind
        )
        return Replaced(number, gone, places, objects, columns, self.outlines)


def prepared(
    layer: LabelLayer, outline: Outline, plane: LayerPlane, labels: NDArray[Any], polygons: Polygons
) -> PreparedFeatures:
    """Features of a plane as the options want them; for several threads at once."""
    if layer.source.objects == BY_COMPONENT:
        labels, polygons = _components(labels, polygons)
    measures = measure(polygons)
    pixel_count = measures.area.astype(np.int64)
    kept = np.flatnonzero(pixel_count * layer.frame.pixel_area >= outline.min_area)
    is_measured = outline.is_exact and layer.frame.is_identity and len(kept) == len(polygons)
    if len(kept) < len(polygons):
        labels, polygons, pixel_count = labels[kept], polygons.take(kept), pixel_count[kept]
    outlines = redraw(polygons, outline)
    if not is_measured:
        measures = measure(outlines.in_image(layer.frame))
    objects = _objects(layer, plane, labels, polygons)
    return PreparedFeatures(plane, labels, objects, pixel_count, polygons, outlines, measures)


def objects_of(layer: LabelLayer, before: Catalog) -> NDArray[np.int64] | None:
    """What tells the ROIs of a catalog of the layer apart: see `_objects`."""
    labels = before.rois["label"]
    if layer.source.objects == BY_LABEL:
        return None
    first_rows = before.roi_rows[before.roi_first[:-1]]
    of_plane = np.searchsorted(before.planes["first"], first_rows, side="right") - 1
    time_of = {plane_index(key): plane.index[0] for plane in layer.planes for key in plane.keys}
    keys = zip(*(before.planes[name].tolist() for name in ("t", "c", "z")), strict=True)
    times = np.array([time_of[key] for key in keys], np.int64)
    return np.asarray(labels.astype(np.int64) + (times[of_plane] << 32))


def _components(labels: NDArray[Any], polygons: Polygons) -> tuple[NDArray[Any], Polygons]:
    """Every part as a feature of its own."""
    parts = np.diff(polygons.part_offsets)
    each = np.arange(polygons.part_offsets[-1] + 1)
    return np.repeat(labels, parts), Polygons(
        polygons.xy, polygons.vertex_offsets, polygons.ring_offsets, each
    )


def _objects(
    layer: LabelLayer, plane: LayerPlane, labels: NDArray[Any], polygons: Polygons
) -> NDArray[np.int64] | None:
    """What tells ROIs apart, where that is not the label: a number that lasts while the object does.

    A component's is one more than the index of its first pixel in the array, in C order; at time 0 a label's
    is the label, later ones have the time in the bits above 32.
    """
    if layer.source.objects == BY_COMPONENT:
        return _first_pixels(polygons, layer.width) + 1 + layer.pixels_before(plane)
    if layer.source.objects == BY_TIME:
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < 2**31:
            reason = "labels of one time each must lie from 1 to 2147483647"
            raise SourceRefused(layer.source.image.location, layer.source.path, reason)
        return labels.astype(np.int64) + (plane.index[0] << 32)
    return None


def _first_pixels(polygons: Polygons, width: int) -> NDArray[np.int64]:
    """Index (row * width + column) of the topmost, then leftmost pixel of features of one part each."""
    if not len(polygons):
        return np.empty(0, np.int64)
    index = polygons.xy[:, 1].astype(np.int64) * width + polygons.xy[:, 0]
    first = polygons.vertex_offsets[polygons.ring_offsets[polygons.part_offsets[:-1]]]
    return np.asarray(np.minimum.reduceat(index, first))
