"""Masks as pictures, as OMERO.web's `render_shape_mask` gives them."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from roiservice.encode.omero import shape_colors
from roiservice.geometry.features import Features

RGBA = tuple[int, int, int, int]
VEIL = 100  # opacity of masks, at most: they lie on the image, which must stay visible below


def mask_color(features: Features) -> RGBA:
    """The colour that masks of the first feature are drawn in: the object's own, but never opaque.

    Most writers give all colours full opacity. One that is not seen at all, as others leave it, is taken for
    a colour without opacity.
    """
    red, green, blue, alpha = shape_colors(features)[0].tolist()
    return (red, green, blue, min(alpha or VEIL, VEIL))


def mask_png(mask: NDArray[np.bool_], color: RGBA) -> bytes:
    """(h, w) bool as an RGBA picture of w x h pixels: `color` where it is set, transparent elsewhere."""
    from PIL import Image

    height, width = mask.shape
    pixels = mask * np.array(color, np.uint8).view(np.uint32)
    picture = Image.frombuffer("RGBA", (width, height), pixels, "raw", "RGBA", 0, 1)
    file = BytesIO()
    picture.save(file, "png", compress_level=1)  # larger levels gain next to nothing on areas of one colour
    return file.getvalue()
