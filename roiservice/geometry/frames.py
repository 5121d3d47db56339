"""Pixel frames: where a layer's grid lies in its image.

All coordinates are pixel *edges*: pixel (row i, column j) is the square [j, j+1] x [i, i+1], x to
the right, y down, the corner of pixel (0, 0) at (0, 0).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.records import dataclass


@dataclass(frozen=True)
class Frame:
    """Affine from a layer's own pixel edges to its image's level-0 pixel edges.

    `x_image = scale_x * x + offset_x`, and y likewise; the scales are positive and finite.
    """

    scale_x: float = 1.0
    scale_y: float = 1.0
    offset_x: float = 0.0
    offset_y: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether both grids agree, so that coordinates stay integers."""
        return self == Frame()

    @property
    def pixel_area(self) -> float:
        """Area of one layer pixel, in image pixels."""
        return self.scale_x * self.scale_y

    def to_image(self, xy: NDArray[Any]) -> NDArray[Any]:
        """Map (n, 2) layer edges (x, y) to image edges; the input itself where the grids agree."""
        if self.is_identity:
            return xy
        mapped: NDArray[np.float64] = xy * (self.scale_x, self.scale_y) + (self.offset_x, self.offset_y)
        return mapped

    def box_to_layer(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Map an image box (x0, y0, x1, y1) to the layer's frame."""
        x0, y0, x1, y1 = box
        return (
            (x0 - self.offset_x) / self.scale_x,
            (y0 - self.offset_y) / self.scale_y,
            (x1 - self.offset_x) / self.scale_x,
            (y1 - self.offset_y) / self.scale_y,
        )


def edge_offset(scale: float, place: float | None) -> float:
    """Where the first pixel edge of an axis lies in the image, from where NGFF puts its pixel centres.

    NGFF transforms map an index, that is a pixel *centre*: index i lies at index `i * scale + place` of the
    image, and so edge e at edge `(e - 0.5) * scale + place + 0.5`. Writers that state no translation, None,
    align their grids by the outer edge: then `e * scale`.
    """
    return 0.0 if place is None else place + (1 - scale) / 2
