"""Trace anew what changed chunks may have changed of a plane; all other features stay as a catalog has them.

A feature depends on its label's pixels alone. Those of a label without a pixel in a changed chunk, now or
before, are what they were. All pixels of the others lie in a window around the changed chunks and the boxes
that these labels' features had; every window is traced, and what it shows of them takes their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.changes import Boxes, Changes
from roiservice.catalog.reader import Catalog
from roiservice.catalog.writer import BLOCK_ROWS
from roiservice.geometry.features import EVERY_INDEX
from roiservice.geometry.hilbert import hilbert_keys, shift_of
from roiservice.geometry.polygons import Polygons, measure
from roiservice.sources.planes import LabelLayer, LayerPlane
from roiservice.vectorize.plane import trace_plane

WINDOW_PIXELS = 2**26  # of one window at most, and
PLANE_SHARE = 4  # all windows of a plane are at most one so many-th of it

Rows = NDArray[np.int64]


class TooMuch(Exception):
    """So much may have changed that tracing everything is as well."""


@dataclass(frozen=True)
class Kept:
    """Features that stay: rows `first` to `last` of the catalog before."""

    plane: LayerPlane
    first: int
    last: int


@dataclass(frozen=True)
class Traced:
    """Features of a plane that were traced anew, as `roiservice.vectorize.plane` gives them."""

    plane: LayerPlane
    labels: NDArray[Any]
    polygons: Polygons


def retraced(
    layer: LabelLayer, before: Catalog, changes: Changes, max_vertices: int | None
) -> Iterator[Kept | Traced]:
    """All features of the layer in the order of a catalog's rows.

    `before` is a catalog of the layer, for which `can_be_mended` holds, and `changes` what changed since.
    Raises TooMuch, before anything of a plane has been given, where the windows are too large, the order of
    features that stay is another one, or a plane may have more than `max_vertices`.
    """
    left = None if max_vertices is None else max_vertices - before.meta["counts"]["vertices"]
    if left is not None and left < 0:
        raise TooMuch
    first_row = _first_rows(before)
    for plane in layer.planes:
        first, last = first_row.get(_key(plane), (0, 0))
        boxes = changes.boxes.get(plane.index)
        if boxes is None:
            yield Kept(plane, first, last)
        else:
            windows = _settled(layer, plane, _Before(before, first, last), boxes)
            if left is not None and sum(len(window.polygons.xy) for window in windows) > left:
                raise TooMuch
            yield from _mended(layer, plane, _Before(before, first, last), windows)


def _first_rows(before: Catalog) -> dict[tuple[int, int, int], tuple[int, int]]:
    """First row and end of each plane's, by its (t, c, z) in the image."""
    columns = (before.planes[name].tolist() for name in ("t", "c", "z", "first", "count"))
    return {(t, c, z): (first, first + count) for t, c, z, first, count in zip(*columns, strict=True)}


def _key(plane: LayerPlane) -> tuple[int, int, int]:
    (key,) = plane.keys
    t, c, z = (EVERY_INDEX if index is None else index for index in (key.t, key.c, key.z))
    return t, c, z


@dataclass(frozen=True)
class _Before:
    """The features of one plane in the catalog before: its rows `first` to `last`."""

    catalog: Catalog
    first: int
    last: int

    @property
    def labels(self) -> NDArray[Any]:
        """(f,) labels."""
        return self.catalog.features["label"][self.first : self.last]

    def boxes(self, rows: Rows | slice) -> NDArray[np.float64]:
        """Boxes of rows of the plane, counted from 0, on the layer's own grid: whole numbers."""
        frame = self.catalog.frame
        boxes = self.catalog.features["box"][self.first : self.last][rows]
        if not frame.is_identity:
            boxes = np.rint(np.stack(frame.box_to_layer(tuple(boxes.T)), axis=1))
        return np.asarray(boxes)

    def meeting(self, box: Rows) -> Rows:
        """Rows of the plane, counted from 0, whose boxes have pixels in common with `box`."""
        (x0, y0, x1, y1) = self.catalog.frame.to_image(box.reshape(2, 2)).reshape(4)
        blocks = self.catalog.blocks[self.first // BLOCK_ROWS : -(-self.last // BLOCK_ROWS)]
        hit = (blocks[:, 0] <= x1) & (blocks[:, 2] >= x0) & (blocks[:, 1] <= y1) & (blocks[:, 3] >= y0)
        block = np.flatnonzero(hit) + self.first // BLOCK_ROWS
        rows = (block[:, None] * BLOCK_ROWS + np.arange(BLOCK_ROWS)).ravel() - self.first
        rows = rows[(rows >= 0) & (rows < self.last - self.first)]
        return rows[_meet(self.boxes(rows), box)]


@dataclass(frozen=True)
class _Window:
    """A box that was traced: those of its features that may be other ones now, in the plane's frame.

    `rows` are those of the features before that may be other ones or gone.
    """

    box: Rows
    labels: NDArray[Any]
    polygons: Polygons
    rows: Rows


def _mended(
    layer: LabelLayer, plane: LayerPlane, before: _Before, windows: Sequence[_Window]
) -> Iterator[Kept | Traced]:
    """The features of a plane, those of the windows among those that stay."""
    stays = np.ones(before.last - before.first, bool)
    for window in windows:
        stays[window.rows] = False
    labels, polygons = _together(windows, layer.dtype)
    kept = np.flatnonzero(stays)
    order, places = _places(before, kept, labels, measure(polygons).boxes)
    labels, polygons = labels[order], polygons.take(order)
    # Runs of features that stay end where one goes, and where new ones come.
    ends = np.flatnonzero(np.diff(kept) > 1) + 1
    cuts = np.unique(np.r_[0, ends, places, len(kept)])
    come = np.searchsorted(places, cuts)
    for cut, end, first, last in zip(
        cuts, np.r_[cuts[1:], len(kept)], come, np.r_[come[1:], len(places)], strict=True
    ):
        if first < last:
            yield Traced(plane, labels[first:last], polygons.take(np.arange(first, last)))
        if cut < end:
            row = before.first + int(kept[cut])
            yield Kept(plane, row, row + int(end - cut))
    if not len(kept) and not len(labels):
        yield Kept(plane, before.first, before.first)


def _settled(layer: LabelLayer, plane: LayerPlane, before: _Before, changed: Boxes) -> list[_Window]:
    """Windows that do not meet, and hold all pixels of every label that has some in a changed chunk."""
    boxes = [_around(before, box, before.meeting(box)) for box in changed]
    known: dict[bytes, _Window] = {}
    while True:
        boxes = _apart(boxes)
        _check_size(layer, boxes)
        windows = [known.get(box.tobytes()) or _window(layer, plane, before, box, changed) for box in boxes]
        known = {window.box.tobytes(): window for window in windows}
        wider = [_around(before, window.box, window.rows) for window in windows]
        for one, other in _sharing(windows):
            wider[one] = wider[other] = _union(wider[one], wider[other])
        if all(np.array_equal(box, window.box) for box, window in zip(wider, windows, strict=True)):
            return windows
        boxes = wider


def _window(layer: LabelLayer, plane: LayerPlane, before: _Before, box: Rows, changed: Boxes) -> _Window:
    x0, y0, x1, y1 = box.tolist()
    labels, polygons = trace_plane([layer.read(plane.index, y0, y1, (x0, x1))])
    polygons = Polygons(
        polygons.xy + np.array([x0, y0], np.int32),
        polygons.vertex_offsets,
        polygons.ring_offsets,
        polygons.part_offsets,
    )
    inside = changed[_meet(changed, box)]
    own = measure(polygons).boxes
    new = labels[np.any([_meet(own, each) for each in inside], axis=0)]
    rows = np.concatenate([before.meeting(each) for each in inside])
    rows = np.union1d(rows, np.flatnonzero(np.isin(before.labels, new)))
    concerned = np.flatnonzero(np.isin(labels, new) | np.isin(labels, before.labels[rows]))
    return _Window(box, labels[concerned], polygons.take(concerned), rows)


def _sharing(windows: Sequence[_Window]) -> Iterator[tuple[int, int]]:
    """Pairs of windows that have a label in common that may be another one now."""
    of: dict[int, int] = {}
    for number, window in enumerate(windows if len(windows) > 1 else ()):
        for label in window.labels.tolist():
            other = of.setdefault(label, number)
            if other != number:
                yield other, number


def _check_size(layer: LabelLayer, boxes: Sequence[Rows]) -> None:
    pixels = [int((box[2] - box[0]) * (box[3] - box[1])) for box in boxes]
    if max(pixels) > WINDOW_PIXELS or sum(pixels) * PLANE_SHARE > layer.height * layer.width:
        raise TooMuch


def _together(windows: Sequence[_Window], dtype: np.dtype[Any]) -> tuple[NDArray[Any], Polygons]:
    """The features of all windows."""
    labels = [np.empty(0, dtype), *(window.labels for window in windows)]
    xy = [np.empty((0, 2), np.int32), *(window.polygons.xy for window in windows)]
    counts: list[list[NDArray[np.int64]]] = [[], [], []]
    for window in windows:
        own = window.polygons
        offsets = (own.vertex_offsets, own.ring_offsets, own.part_offsets)
        for each, count in zip(offsets, counts, strict=True):
            count.append(np.diff(each))
    vertex, ring, part = (np.r_[0, np.cumsum(np.concatenate(count))] for count in counts)
    return np.concatenate(labels), Polygons(np.concatenate(xy), vertex, ring, part)


def _places(
    before: _Before, kept: Rows, labels: NDArray[Any], boxes: NDArray[np.float64]
) -> tuple[Rows, Rows]:
    """The order of new features, and for each in that order before which of those that stay it comes.

    Both are sorted by Hilbert key, then label, as `roiservice.vectorize.assemble` does. Raises TooMuch where
    those that stay are not: the farthest box, on which the keys depend, is another one.
    """
    own_boxes = before.boxes(slice(None))
    shift = shift_of(own_boxes[kept], boxes)
    stay, come = hilbert_keys(own_boxes, shift)[kept], hilbert_keys(boxes, shift)
    names = before.labels.view(np.uint64)  # the order that the tracer gives them
    own = labels.astype(before.labels.dtype).view(np.uint64)
    same = np.flatnonzero(stay[1:] == stay[:-1])
    if (stay[1:] < stay[:-1]).any() or (names[kept[same]] > names[kept[same + 1]]).any():
        raise TooMuch
    order = np.lexsort((own, come))
    come, own = come[order], own[order]
    places = np.searchsorted(stay, come)
    ends = np.searchsorted(stay, come, side="right")
    for number in np.flatnonzero(places < ends).tolist():
        equal = names[kept[places[number] : ends[number]]]
        places[number] += np.searchsorted(equal, own[number])
    return order, places


def _meet(boxes: NDArray[Any], box: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of (n, 4) boxes have pixels in common with one."""
    x0, y0, x1, y1 = box.tolist()
    return np.asarray((boxes[:, 0] < x1) & (boxes[:, 2] > x0) & (boxes[:, 1] < y1) & (boxes[:, 3] > y0))


def _around(before: _Before, box: Rows, rows: Rows) -> Rows:
    """The box around `box` and those of these rows."""
    return _hull(np.concatenate([box[None], before.boxes(rows).astype(np.int64)]))


def _union(one: Rows, other: Rows) -> Rows:
    return _hull(np.stack([one, other]))


def _hull(boxes: Boxes) -> Rows:
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def _apart(boxes: Sequence[Rows]) -> list[Rows]:
    """Boxes that do not meet, each around some of these."""
    done: list[Rows] = []
    for box in boxes:
        while True:
            met = [bool(_meet(other[None], box)[0]) for other in done]
            if not any(met):
                break
            for other, is_met in zip(done, met, strict=True):
                box = _union(box, other) if is_met else box
            done = [other for other, is_met in zip(done, met, strict=True) if not is_met]
        done.append(box)
    return done
