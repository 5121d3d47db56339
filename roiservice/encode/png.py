"""Masks as pictures, as OMERO.web's `render_shape_mask` gives them."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from roiservice.encode.omero import shape_colors
from roiservice.geometry.features import Features

RGBA = tuple[int, int, int, int]
VEIL = 100  # opacity of masks whose object has no colour of its own: they lie on the image


def mask_color(features: Features) -> RGBA:
    """The colour that masks of the first feature are drawn in: the object's own, as opaque as that is.

    One that is not seen at all, as some writers leave it, is taken for a colour without opacity.
    """
    red, green, blue, alpha = shape_colors(features)[0].tolist()
    return (red, green, blue, VEIL if features.color[0] is None or alpha == 0 else alpha)


def mask_png(mask: NDArray[np.bool_], color: RGBA) -> bytes:
    """(h, w) bool as an RGBA picture of w x h pixels: `color` where it is set, transparent elsewhere."""
    from PIL import Image

    height, width = mask.shape
    pixels = mask * np.array(color, np.uint8).view(np.uint32)
    picture = Image.frombuffer("RGBA", (width, height), pixels, "raw", "RGBA", 0, 1)
    file = BytesIO()
    picture.save(file, "png", compress_level=1)  # larger levels gain next to nothing on areas of one colour
    return file.getvalue()
