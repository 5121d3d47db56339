"""OME-XML documents for tests, and shorthand to read them."""

from __future__ import annotations

import base64
import bz2
import zlib
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from roiservice.geometry.kinds import geometries
from roiservice.sources.limits import Limits
from roiservice.sources.tables.omexml import read_omexml
from roiservice.sources.tables.table import ShapeTable, TableFile
from tests.sources.support import LIMITS

SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def shape(kind: str, content: str = "", transform: dict[str, float] | None = None, **attributes: Any) -> str:
    inner = "" if transform is None else f"<Transform {written(transform)}/>"
    return f"<{kind} {written(attributes)}>{inner}{content}</{kind}>"


def written(attributes: dict[str, Any]) -> str:
    return " ".join(f"{name}={quoteattr(str(value))}" for name, value in attributes.items())


def document(*rois: str, images: str = "", schema: str = SCHEMA) -> str:
    numbered = "".join(roi if roi.startswith("<ROI") else roi_of(roi, n) for n, roi in enumerate(rois))
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{schema}">{images}{numbered}</OME>'


def roi_of(shapes: str, number: int = 0, **attributes: str) -> str:
    stated = {"ID": f"ROI:{number}", **attributes}
    return f"<ROI {written(stated)}><Union>{shapes}</Union></ROI>"


def read(text: str | bytes, limits: Limits = LIMITS, image: int | None = None) -> ShapeTable:
    data = text if isinstance(text, bytes) else text.encode()
    return read_omexml(TableFile("/a", "rois.ome.xml", data), limits, image)


def only(table: ShapeTable) -> Any:
    """The one geometry of a table that had nothing to refuse."""
    assert (len(table.kind), table.refused.count, table.warnings) == (1, 0, ())
    return geometries(table.polygons, table.kind)[0]


def mask(
    pixels: np.ndarray[Any, Any], compression: str | None = None, in_bits: bool = True, **stated: Any
) -> str:
    """A Mask at (3, 4), pixel for pixel unless `stated` has other sizes."""
    data = np.packbits(pixels.ravel()).tobytes() if in_bits else pixels.astype(np.uint8).tobytes()
    data = {"zlib": zlib.compress, "bzip2": bz2.compress}.get(compression or "", bytes)(data)
    attributes = {} if compression is None else {"Compression": compression}
    content = f"<BinData {written(attributes)}>{base64.encodebytes(data).decode()}</BinData>"
    height, width = pixels.shape
    return shape("Mask", content, **{"X": 3, "Y": 4, "Width": width, "Height": height, **stated})
