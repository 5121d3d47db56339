"""ROIs of OME-XML documents, of any version of the schema from 2013-06 to 2016-06."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, iterparse

from roiservice.errors import SourceDamaged, SourceRefused, TooManyVertices
from roiservice.geometry.features import EVERY_INDEX
from roiservice.geometry.kinds import ELLIPSE, RECTANGLE
from roiservice.sources.limits import Limits
from roiservice.sources.tables.geometries import Reasons, from_geometries
from roiservice.sources.tables.omexmlshapes import KINDS, BadShape, Outline, ShapeReader, geometries
from roiservice.sources.tables.table import NO_COLOR, ShapeTable, TableFile

_MOST_CHILDREN = 16  # of a shape: its transform, its pixels and its annotations
_MOST_INDEX = 2**31 - 1


@dataclass(slots=True)
class _Roi:
    """One ROI: `number` counts all of the document from 1; texts and colour of its shapes as they come."""

    number: int
    name: str | None
    identifier: str
    description: str | None = None
    texts: dict[str, None] | None = None
    color: int = NO_COLOR


@dataclass
class _Document:
    """What was found so far: ROIs in order, usable shapes with the ROI and planes of each, and references."""

    file: TableFile
    limits: Limits
    shapes: ShapeReader
    rois: list[_Roi] = field(default_factory=list)
    outlines: list[Outline] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    planes: list[tuple[int, int, int]] = field(default_factory=list)
    references: list[set[str]] = field(default_factory=list)
    refusals: list[tuple[int, int, str]] = field(default_factory=list)
    count: int = 0
    vertices: int = 0


class _Numbered(Reasons):
    """Reasons for shapes that go by other numbers than those that geometries are refused by."""

    def __init__(self, file: TableFile, numbers: list[int]) -> None:
        super().__init__(file.location, file.part)
        self._numbers = numbers

    def refuse(self, row: int, column: str, reason: str) -> None:
        super().refuse(self._numbers[row - 1], column, reason)

    def repaired(self, row: int) -> None:
        super().repaired(self._numbers[row - 1])


def read_omexml(file: TableFile, limits: Limits, image: int | None = None) -> ShapeTable:
    """The ROIs of an OME-XML document: an object each, with its shapes as features.

    `image` takes the ROIs alone that the image of that index refers to; None takes all, as it is where the
    document has one image and no references. Objects are called by the ROI's ID; their columns are `name`,
    `description` and `text` (of all their shapes, "; " between) as far as there are any. A shape without
    TheZ, TheT or TheC lies on every index. Rectangles and ellipses whose Transform turns them are polygons.
    Rows in refusals are shapes, counted from 1 through the document.

    Raises SourceDamaged if the file is no well-formed OME-XML or has no such image; SourceRefused if it
    states a document type or entities, or exceeds the limits.
    """
    document = _Document(file, limits, ShapeReader(limits, limits.plane_pixels))
    try:
        _walk(document)
    except DefusedXmlException:
        reason = "states a document type or entities, which are not allowed"
        raise SourceRefused(file.location, file.part, reason) from None
    except (ParseError, ValueError, LookupError, RecursionError) as error:  # of syntax, and of encodings
        reason = f"is no well-formed XML: {str(error)[:200]}"
        raise SourceDamaged(file.location, file.part, reason) from None
    return _shape_table(document, _chosen(document, image))


def _walk(document: _Document) -> None:
    """Visit all elements, keeping none but those of the shape at hand."""
    path: list[Any] = []
    names: list[str] = []
    for event, element in iterparse(io.BytesIO(document.file.data), ("start", "end"), forbid_dtd=True):
        if event == "start":
            path.append(element)
            names.append(_local(element.tag))
            _start(document, element, names)
        else:
            _end(document, element, names)
            path.pop()
            names.pop()
            if path and (not _in_shape(names) or len(path[-1]) > _MOST_CHILDREN):
                del path[-1][-1]


def _start(document: _Document, element: Any, names: list[str]) -> None:
    if len(names) == 1 and names[0] != "OME":
        raise SourceDamaged(document.file.location, document.file.part, f"holds {names[0]!r}, not OME-XML")
    if len(names) > document.limits.metadata_depth:
        reason = f"is nested deeper than {document.limits.metadata_depth} levels"
        raise SourceRefused(document.file.location, document.file.part, reason)
    if names[1:] == ["Image"]:
        document.references.append(set())
    elif names[1:] == ["ROI"]:
        number = len(document.rois) + 1
        name = element.get("Name")
        document.rois.append(_Roi(number, name, element.get("ID") or f"ROI {number}"))


def _end(document: _Document, element: Any, names: list[str]) -> None:
    if names[1:] == ["Image", "ROIRef"]:
        document.references[-1].add(element.get("ID", ""))
    elif names[1:] == ["ROI", "Description"]:
        document.rois[-1].description = element.text
    elif len(names) == 4 and names[1:3] == ["ROI", "Union"]:
        _add_shape(document, element, names[3])


def _in_shape(names: list[str]) -> bool:
    """Whether the parent of an element that ended is a shape, or within one."""
    return len(names) > 3 and names[1:3] == ["ROI", "Union"]


def _add_shape(document: _Document, element: Any, kind: str) -> None:
    """Up to 2013-06 an element Shape holds what is common to all kinds, and within it the one of the kind."""
    document.count += 1
    inner = {_local(child.tag): child for child in element}
    shape = element
    if kind == "Shape":
        kind = next((name for name in inner if name in KINDS), kind)
        shape = inner.get(kind, element)
    roi = document.rois[-1]
    if document.count > document.limits.table_rows:
        raise SourceRefused(*_refusal(document, document.limits.table_rows, "shapes"))
    try:
        if kind not in KINDS:
            raise BadShape(kind, "is no kind of shape of the schema")
        planes = _index(element, "TheT"), _index(element, "TheC"), _index(element, "TheZ")
        transform = inner.get("Transform")
        data = _bin_data(shape)
        outline = document.shapes.read(
            kind, shape.attrib, None if transform is None else transform.attrib, data
        )
    except BadShape as bad:
        where = " ".join(part for part in (roi.identifier, element.get("ID"), str(bad)) if part)
        document.refusals.append((document.count, roi.number, where))
        return
    _note(roi, element.attrib)
    document.vertices += outline.count
    if document.vertices > document.limits.table_vertices:
        raise TooManyVertices(*_refusal(document, document.limits.table_vertices, "vertices"))
    document.outlines.append(outline)
    document.owners.append(roi.number - 1)
    document.numbers.append(document.count)
    document.planes.append(planes)


def _local(tag: str) -> str:
    """Name without its namespace, which tells the version of the schema."""
    return tag.rpartition("}")[2]


def _bin_data(shape: Any) -> tuple[str, str] | None:
    for child in shape:
        if _local(child.tag) == "BinData":
            return child.get("Compression", "none"), child.text or ""
    return None


def _index(element: Any, name: str) -> int:
    text = element.get(name)
    if text is None:
        return EVERY_INDEX
    try:
        index = int(text)
    except ValueError:
        index = -1
    if not 0 <= index <= _MOST_INDEX:
        raise BadShape(name, f"{text[:40]!r} is no index")
    return index


def _note(roi: _Roi, attributes: Mapping[str, str]) -> None:
    """Keep a shape's text, and its colour if it is the ROI's first: the fill's unless that is invisible."""
    text = attributes.get("Text")
    if text:
        roi.texts = roi.texts or {}
        roi.texts[text] = None
    if roi.color == NO_COLOR:
        fill, stroke = _color(attributes.get("FillColor")), _color(attributes.get("StrokeColor"))
        roi.color = fill if fill != NO_COLOR and fill & 0xFF else stroke


def _color(text: str | None) -> int:
    """RGBA packed big-endian, which the schema has as a signed number of 32 bits."""
    try:
        value = NO_COLOR if text is None else int(text)
    except ValueError:
        return NO_COLOR
    return value & 0xFFFFFFFF if text is not None and -(2**31) <= value < 2**32 else NO_COLOR


def _refusal(document: _Document, allowed: int, what: str) -> tuple[str, str, str]:
    return document.file.location, document.file.part, f"has more than {allowed} {what}, which are allowed"


def _chosen(document: _Document, image: int | None) -> list[int]:
    """Indices of the ROIs of an image."""
    every = list(range(len(document.rois)))
    if image is None:
        return every
    if not 0 <= image < len(document.references):
        reason = f"describes {len(document.references)} images; there is none of index {image}"
        raise SourceDamaged(document.file.location, document.file.part, reason)
    if len(document.references) == 1 and not document.references[0]:
        return every
    return [index for index in every if document.rois[index].identifier in document.references[image]]


def _shape_table(document: _Document, chosen: list[int]) -> ShapeTable:
    """The table of the chosen ROIs, as far as they have usable shapes."""
    wanted = np.zeros(len(document.rois), np.bool_)
    wanted[chosen] = True
    owner = np.array(document.owners, np.int64)
    used = np.flatnonzero(wanted[owner])
    outlines = [document.outlines[shape] for shape in used.tolist()]
    reasons = _Numbered(document.file, [document.numbers[shape] for shape in used.tolist()])
    for number, roi, reason in document.refusals:
        if wanted[roi - 1]:
            Reasons.refuse(reasons, number, "", reason)
    kinds = np.array([outline.kind for outline in outlines], np.uint8)
    shapes = from_geometries(
        geometries(outlines),
        ellipse=kinds == ELLIPSE,
        reasons=reasons,
        column="",
        most_vertices=document.limits.table_vertices,
    )
    stated = kinds[shapes.row]
    shape = used[shapes.row]
    t, c, z = np.array(document.planes, np.int32).reshape(-1, 3)[shape].T
    drawn, of_feature = np.unique(owner[shape], return_inverse=True)
    rois = [document.rois[index] for index in drawn.tolist()]
    return ShapeTable(
        polygons=shapes.polygons,
        kind=np.where(stated == RECTANGLE, stated, shapes.kind),
        t=t,
        c=c,
        z=z,
        object=of_feature,
        label=np.array([roi.number for roi in rois], np.int64),
        key=_keys(rois),
        color=np.array([roi.color for roi in rois], np.int64),
        columns=_columns(rois),
        refused=reasons.refusals(),
        warnings=reasons.warnings(),
    )


def _keys(rois: list[_Roi]) -> tuple[str, ...]:
    """IDs, which the schema wants unique; a repeated one with the ROI's number."""
    taken: set[str] = set()
    for roi in rois:
        key = roi.identifier
        while key in taken:
            key = f"{key} ({roi.number})"
        roi.identifier = key
        taken.add(key)
    return tuple(roi.identifier for roi in rois)


def _columns(rois: list[_Roi]) -> dict[str, pa.Array]:
    columns = {
        "name": [roi.name for roi in rois],
        "description": [roi.description for roi in rois],
        "text": ["; ".join(roi.texts) if roi.texts else None for roi in rois],
    }
    return {name: pa.array(values, pa.string()) for name, values in columns.items() if any(values)}
