"""What every table reader gives: shapes of objects in image pixels, or values of labels."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.polygons import Polygons
from roiservice.records import dataclass

if TYPE_CHECKING:
    import pyarrow as pa

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

MOST_REASONS = 10  # first refusals that are kept word for word

NO_COLOR = -1


@dataclass(frozen=True)
class TableFile:
    """A file of a table with its content, and how messages name it: its store or folder, and the part."""

    location: str
    part: str
    data: bytes


@dataclass(frozen=True)
class Refusals:
    """Rows that could not be used: how many, and the first reasons, each naming row and column."""

    count: int = 0
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShapeTable:
    """n features of m objects.

    Per feature: `polygons` float64, in pixels of the image's level 0, corner of pixel (0, 0) at (0, 0), y
    down (see `roiservice.geometry.kinds` for shapes that are no polygons); `kind`; `t`, `c`, `z`, -1 = every
    index; `object`, the number 0..m-1 of its object. Objects without any feature are allowed.

    Per object: `label`, the integer that the source calls it by, else its row counted from 1; `key`, its
    lasting name where that is not the label (None: the label serves); `color`, RGBA packed big-endian into
    32 bits, or NO_COLOR; `columns`, its properties, all typed (bool, int64, float64, string), with nulls.
    """

    polygons: Polygons
    kind: NDArray[np.uint8]
    t: Int32
    c: Int32
    z: Int32
    object: Int64
    label: Int64
    key: tuple[str, ...] | None
    color: Int64
    columns: dict[str, pa.Array]
    refused: Refusals = field(default_factory=Refusals)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ValueTable:
    """Values of m labels: what was measured on the objects of a label image, or says more of them.

    `label` (m,) without repeats; `columns` typed as in `ShapeTable`; `layers`: names of the label images they
    are about, () where the table does not say.
    """

    label: Int64
    columns: dict[str, pa.Array]
    layers: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
