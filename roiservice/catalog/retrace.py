"""Trace anew what changed chunks may have changed of a plane; all other features stay as a catalog has them.

A feature depends on its label's pixels alone. Those of a label without a pixel in a changed chunk, now or
before, are what they were. All pixels of the others lie in a window around the changed chunks and the boxes
that these labels' features had; every window is traced, and what it shows of them takes their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.before import PlaneBefore, meet
from roiservice.catalog.changes import Boxes, Changes
from roiservice.catalog.engine import THREADS, Strip, trace_strip
from roiservice.catalog.reader import Catalog
from roiservice.catalog.writer import plane_index
from roiservice.geometry.kinds import POLYGON
from roiservice.geometry.polygons import Polygons, measure
from roiservice.geometry.raster import PixelBox, mask_of, part_boxes, shapes_of
from roiservice.records import dataclass
from roiservice.sources.planes import LabelLayer, LayerPlane
from roiservice.vectorize.blocks import Block, PlaneJoiner

WINDOW_PIXELS = 2**26  # of one window at most, and
BLOCK_PIXELS = 2**21  # of a window that are traced at once
PLANE_SHARE = 4  # all windows of a plane are at most one so many-th of it

Rows = NDArray[np.int64]
Box = NDArray[np.int64]  # (4,): x0, y0, x1, y1


class TooMuch(Exception):
    """So much may have changed that tracing everything is as well."""


@dataclass(frozen=True)
class Retraced:
    """What of a plane was traced anew.

    `number` is the plane's in the catalog before, `gone` (g,) are rows of that which go, sorted. `labels`
    (k,) and `polygons`, as `roiservice.vectorize.plane` gives them, come: each before that one of `places`
    (k,), rows of the catalog before, sorted.
    """

    plane: LayerPlane
    number: int
    gone: Rows
    labels: NDArray[Any]
    polygons: Polygons
    places: Rows


def retraced(
    layer: LabelLayer, before: Catalog, changes: Changes, max_vertices: int | None
) -> Iterator[Retraced]:
    """What of the planes with changes is to be replaced in the catalog before, plane by plane in its order.

    `before` is a catalog of the layer, for which `can_be_mended` holds, and `changes` what changed since.
    Raises TooMuch where the windows are too large, the order of features that stay is another one, or a
    plane may have more than `max_vertices`.
    """
    left = None if max_vertices is None else max_vertices - before.meta["counts"]["vertices"]
    if left is not None and left < 0:
        raise TooMuch
    planes = {plane_index(*plane.keys): plane for plane in layer.planes}
    columns = (before.planes[name].tolist() for name in ("t", "c", "z", "first", "count"))
    for number, (t, c, z, first, count) in enumerate(zip(*columns, strict=True)):
        plane = planes.pop((t, c, z), None)
        if plane is None:
            raise TooMuch
        boxes = changes.boxes.get(plane.index)
        if boxes is not None:
            own = PlaneBefore(before, first, first + count)
            windows = _settled(layer, plane, own, boxes)
            if left is not None and sum(len(window.polygons.xy) for window in windows) > left:
                raise TooMuch
            yield _replaced(layer, plane, number, own, windows)
    if planes:
        raise TooMuch


@dataclass(frozen=True)
class _Window:
    """A box that was traced: those of its features that may be other ones now, in the plane's frame.

    `rows` are those of the features before that may be other ones or gone.
    """

    box: Box
    labels: NDArray[Any]
    polygons: Polygons
    rows: Rows


def _replaced(
    layer: LabelLayer, plane: LayerPlane, number: int, before: PlaneBefore, windows: Sequence[_Window]
) -> Retraced:
    """What the windows replace: features that were traced anew and are what they were stay."""
    gone = np.unique(np.concatenate([np.empty(0, np.int64), *(window.rows for window in windows)]))
    labels = np.concatenate([np.empty(0, layer.dtype), *(window.labels for window in windows)])
    polygons = Polygons.joined([Polygons.empty(), *(window.polygons for window in windows)])
    _, those_before, those_now = np.intersect1d(
        before.labels(gone), labels, assume_unique=True, return_indices=True
    )
    alike = before.outlines(gone[those_before]).alike(polygons.take(those_now))
    changed = np.setdiff1d(np.arange(len(labels)), those_now[alike], assume_unique=True)
    gone, labels, polygons = np.delete(gone, those_before[alike]), labels[changed], polygons.take(changed)
    boxes = measure(polygons).boxes
    shift = before.shift(gone, boxes, max(layer.height, layer.width))
    if shift is None:
        raise TooMuch
    order, places = before.places(labels, boxes, shift)
    return Retraced(
        plane, number, gone + before.first, labels[order], polygons.take(order), places + before.first
    )


def _settled(layer: LabelLayer, plane: LayerPlane, before: PlaneBefore, changed: Boxes) -> list[_Window]:
    """Windows that do not meet, and hold all pixels of every label that has some in a changed chunk."""
    there: list[Rows] = []
    boxes: list[Box] = []
    for each in changed:
        there.append(_rows_in(before, each))
        boxes.append(_around(before, each, there[-1]))
        _check_size(layer, boxes[-1:])  # before the outlines of a wide label are read for every other one
    known: dict[bytes, _Window] = {}
    while True:
        boxes = _apart(boxes)
        _check_size(layer, boxes)
        windows = [
            known.get(box.tobytes()) or _window(layer, plane, before, box, changed, there) for box in boxes
        ]
        known = {window.box.tobytes(): window for window in windows}
        wider = [_around(before, window.box, window.rows) for window in windows]
        for one, other in _sharing(windows):
            wider[one] = wider[other] = _union(wider[one], wider[other])
        if all(np.array_equal(box, window.box) for box, window in zip(wider, windows, strict=True)):
            return windows
        boxes = wider


def _window(
    layer: LabelLayer,
    plane: LayerPlane,
    before: PlaneBefore,
    box: Box,
    changed: Boxes,
    there: Sequence[Rows],
) -> _Window:
    """Trace a box; `there` are the rows in each of the `changed` ones."""
    labels, polygons = _traced(layer, plane, box)
    inside = np.flatnonzero(meet(changed, box)).tolist()
    own = measure(polygons).boxes
    new = labels[np.any([_reaching(own, polygons.take, changed[number]) for number in inside], axis=0)]
    rows = np.concatenate([there[number] for number in inside])
    rows = np.union1d(rows, before.among(new))
    concerned = np.flatnonzero(np.isin(labels, new) | np.isin(labels, before.labels(rows)))
    return _Window(box, labels[concerned], polygons.take(concerned), rows)


def _rows_in(before: PlaneBefore, box: Box) -> Rows:
    """Rows of features that had pixels in `box`, and of small ones beside it."""
    rows = before.meeting(box)
    return rows[_reaching(before.boxes(rows), lambda large: before.outlines(rows[large]), box)]


def _reaching(boxes: NDArray[Any], outlines: Callable[[Rows], Polygons], box: Box) -> NDArray[np.bool_]:
    """Which of n features have pixels in `box`; of small ones it is enough that their own `boxes` meet it.

    Else one label with parts far from each other would have all between them traced, wherever that changes.
    """
    reaching = meet(boxes, box)
    large = np.flatnonzero(reaching & (_pixels(boxes) > _pixels(box)))
    if len(large):
        reaching[large] = _have_pixels(outlines(large), box)
    return reaching


def _have_pixels(polygons: Polygons, box: Box) -> NDArray[np.bool_]:
    """Which of n features cover a pixel of `box`."""
    parts = replace(polygons, part_offsets=np.arange(len(polygons.ring_offsets)))  # each by itself
    kind = np.full(len(parts), POLYGON, np.uint8)
    near = np.flatnonzero(meet(part_boxes(parts, kind), box))
    shapes = shapes_of(parts.take(near), kind[near])
    inside = [bool(mask_of(shape, shape.box.cut_to(PixelBox(*box.tolist()))).any()) for shape in shapes]
    of_part = np.repeat(np.arange(len(polygons)), np.diff(polygons.part_offsets))
    return np.isin(np.arange(len(polygons)), of_part[near[np.array(inside, bool)]])


def _pixels(boxes: NDArray[Any]) -> NDArray[Any]:
    """How many pixels boxes (..., 4) have."""
    return np.asarray((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))


def _traced(layer: LabelLayer, plane: LayerPlane, box: Box) -> tuple[NDArray[Any], Polygons]:
    """Labels and polygons of a box, in the plane's frame. Blocks of its rows are traced on all processors."""
    x0, y0, x1, y1 = box.tolist()
    cuts = _cuts(y0, y1, layer.strip_rows(BLOCK_PIXELS * layer.width // (x1 - x0)))

    def trace(cut: tuple[int, int]) -> Block:
        pixels = layer.read(plane.index, *cut, (x0, x1))
        return trace_strip(pixels, Strip(plane.index, cut[0] - y0, cut[1] - y0, cut[1] == y1), None)

    joiner = PlaneJoiner(layer.dtype)
    with ThreadPoolExecutor(THREADS) as pool:
        for (first, _), block in zip(cuts, pool.map(trace, cuts), strict=True):
            joiner.join_inner(block, first - y0)
    assembly = joiner.assembly()
    polygons = assembly.polygons(0, len(assembly.labels))
    return assembly.labels, replace(polygons, xy=polygons.xy + np.array([x0, y0], np.int32))


def _cuts(y0: int, y1: int, rows: int) -> list[tuple[int, int]]:
    """Where rows `y0` to `y1` are cut: at every `rows` of the plane, but so that no block has one row."""
    rows = max(rows, 2)
    starts = [y0, *(row for row in range((y0 // rows + 1) * rows, y1, rows) if row - y0 > 1 and y1 - row > 1)]
    return list(zip(starts, [*starts[1:], y1], strict=True))


def _sharing(windows: Sequence[_Window]) -> Iterator[tuple[int, int]]:
    """Pairs of windows that have a label in common that may be another one now."""
    of: dict[int, int] = {}
    for number, window in enumerate(windows if len(windows) > 1 else ()):
        for label in window.labels.tolist():
            other = of.setdefault(label, number)
            if other != number:
                yield other, number


def _check_size(layer: LabelLayer, boxes: Sequence[Box]) -> None:
    pixels = [int(_pixels(box)) for box in boxes]
    if max(pixels) > WINDOW_PIXELS or sum(pixels) * PLANE_SHARE > layer.height * layer.width:
        raise TooMuch


def _around(before: PlaneBefore, box: Box, rows: Rows) -> Box:
    """The box around `box` and those of these rows."""
    return _hull(np.concatenate([box[None], before.boxes(rows).astype(np.int64)]))


def _union(one: Box, other: Box) -> Box:
    return _hull(np.stack([one, other]))


def _hull(boxes: Boxes) -> Box:
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def _apart(boxes: Sequence[Box]) -> list[Box]:
    """Boxes that do not meet, each around some of these."""
    done: list[Box] = []
    for box in boxes:
        while True:
            met = [bool(meet(other[None], box)[0]) for other in done]
            if not any(met):
                break
            for other, is_met in zip(done, met, strict=True):
                box = _union(box, other) if is_met else box
            done = [other for other, is_met in zip(done, met, strict=True) if not is_met]
        done.append(box)
    return done
