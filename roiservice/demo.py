"""An image to try the service on: a photograph of coins, segmented, as OME-Zarr with labels."""

from __future__ import annotations

import colorsys
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAME = "coins.zarr"

Labels = NDArray[np.uint16]


def write_demo(directory: Path) -> tuple[Path, int]:
    """Write `coins.zarr` (NGFF 0.5) below `directory`, whole or not at all; its path and the number of coins.

    It has two label images: `coins`, one object per coin with a colour and measurements, and `table`,
    a single object with a hole for every coin. An image that is there already is replaced.
    """
    from skimage import data

    photograph = data.coins()
    coins = segment(photograph)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}.", dir=directory) as work:
        made = Path(work, NAME)
        _write(made, photograph, coins)
        shutil.rmtree(directory / NAME, ignore_errors=True)
        os.rename(made, directory / NAME)
    return directory / NAME, int(coins.max())


def segment(photograph: NDArray[np.uint8]) -> Labels:
    """Labels 1 to n of bright things: a watershed on the slope, from what is surely coin or table."""
    from scipy import ndimage
    from skimage import filters, measure, morphology, segmentation

    markers = np.zeros(photograph.shape, np.int32)
    markers[photograph < 30] = 1
    markers[photograph > 150] = 2
    flooded = segmentation.watershed(filters.sobel(photograph), markers)
    filled = ndimage.binary_fill_holes(flooded == 2)
    opened = morphology.opening(filled, morphology.disk(2))
    labels: Labels = measure.label(opened, connectivity=1).astype(np.uint16)
    return labels


def _write(path: Path, photograph: NDArray[np.uint8], coins: Labels) -> None:
    import zarr

    image = zarr.open_group(path, mode="w", zarr_format=3)
    image.attrs["ome"] = {"version": "0.5", "multiscales": [_multiscale("coins")]}
    image.create_array("0", data=photograph, chunks=(128, 128))
    image.create_group("labels").attrs["ome"] = {"version": "0.5", "labels": ["coins", "table"]}
    _write_labels(image, "coins", coins, *_described(photograph, coins))
    table = (coins == 0).astype(np.uint16)
    _write_labels(image, "table", table, [_color(1, (96, 96, 96))], [{"label-value": 1, "name": "table"}])


def _write_labels(
    image: Any, name: str, labels: Labels, colors: list[dict[str, Any]], properties: list[dict[str, Any]]
) -> None:
    group = image.create_group(f"labels/{name}")
    image_label = {"colors": colors, "properties": properties, "source": {"image": "../../"}}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [_multiscale(name)], "image-label": image_label}
    group.create_array("0", data=labels, chunks=(128, 128))


def _multiscale(name: str) -> dict[str, Any]:
    scale = {"type": "scale", "scale": [1.0, 1.0]}
    axes = [{"name": axis, "type": "space"} for axis in "yx"]
    return {"name": name, "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}


def _described(
    photograph: NDArray[np.uint8], coins: Labels
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Colours and measurements of each coin, as `image-label` states them."""
    from skimage.measure import regionprops

    colors, properties = [], []
    for region in regionprops(coins, photograph):
        hue = region.label * 0.618 % 1  # steps of the golden ratio keep neighbouring numbers apart
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, 1.0))
        colors.append(_color(region.label, (red, green, blue)))
        properties.append(
            {
                "label-value": region.label,
                "name": f"coin {region.label}",
                "diameter": round(float(region.equivalent_diameter_area), 2),
                "eccentricity": round(float(region.eccentricity), 3),
                "mean_intensity": round(float(region.intensity_mean), 1),
            }
        )
    return colors, properties


def _color(label: int, rgb: tuple[int, int, int]) -> dict[str, Any]:
    return {"label-value": label, "rgba": [*rgb, 255]}
