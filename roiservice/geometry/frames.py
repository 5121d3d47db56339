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


def frame_between(
    layer_scale: tuple[float, float],
    image_scale: tuple[float, float],
    layer_translation: tuple[float, float] | None,
    image_translation: tuple[float, float] | None,
) -> Frame:
    """Frame of a layer grid in an image grid from NGFF scales and translations, all in (y, x) order.

    NGFF transforms map an index, that is a pixel *centre*. With a translation on the layer the rule
    is `(e - 0.5) * s + t + 0.5` for an edge e (s: ratio of scales, t: difference of translations in
    image pixels). Writers that state no translation align their grids by the outer edge: then `e * s`.
    """
    ratio_y, ratio_x = (layer_scale[i] / image_scale[i] for i in (0, 1))
    if layer_translation is None:
        return Frame(ratio_x, ratio_y)
    origin = image_translation or (0.0, 0.0)
    shift_y, shift_x = ((layer_translation[i] - origin[i]) / image_scale[i] for i in (0, 1))
    return Frame(ratio_x, ratio_y, shift_x + (1 - ratio_x) / 2, shift_y + (1 - ratio_y) / 2)
