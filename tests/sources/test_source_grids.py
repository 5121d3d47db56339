"""Where a layer lies in its image: y-x frame, z, t and c, and which image that is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roiservice.errors import SourceRefused
from roiservice.geometry.frames import Frame
from roiservice.sources.limits import Limits
from roiservice.sources.planes import PlaneKey
from tests.sources.support import blobs, image_at, layer_at
from tests.stores import edit_attributes, write_array, write_group, write_image, write_multiscale, write_plate


def make(path: Path, shape: tuple[int, ...], axes: str = "yx", **options: Any) -> Path:
    labels = {"cells": np.ones(shape, np.uint8)}
    return write_image(path / "a.zarr", labels=labels, axes=axes, **{"version": "0.4", **options})


def shown(path: Path) -> dict[int, list[int | None]]:
    """Layer z (or t) index -> image indices."""
    layer = layer_at(path)
    axis = 2 if "z" in layer._axes else 0
    return {
        plane.index[axis]: [key.z if axis == 2 else key.t for key in plane.keys] for plane in layer.planes
    }


def test_half_resolution_without_translation_is_aligned_by_edges(tmp_path: Path) -> None:
    path = make(tmp_path, (8, 8), image_shape=(16, 16), scale=(0.5, 0.5), label_scale=(1.0, 2.0))
    layer = layer_at(path)
    assert layer.frame == Frame(scale_x=4.0, scale_y=2.0)
    assert layer.image_size == (1, 1, 1, 16, 16)
    assert (layer.height, layer.width) == (8, 8)


def test_translation_is_that_of_pixel_centres(tmp_path: Path) -> None:
    path = make(
        tmp_path,
        (8, 8),
        image_shape=(16, 16),
        scale=(0.5, 0.5),
        label_scale=(1, 1),
        label_translation=(0.25, 2.25),
    )
    assert layer_at(path).frame == Frame(2.0, 2.0, 4.0, 0.0)


def test_a_translation_counts_in_pixels_of_the_image_from_where_that_lies(tmp_path: Path) -> None:
    own = {"scale": (0.25, 0.5), "translation": (5.0, 10.0)}
    path = make(tmp_path, (8, 8), **own, label_scale=(0.75, 1.0), label_translation=(10.0, 21.0))
    assert layer_at(path).frame == Frame(2.0, 3.0, offset_x=22 - 0.5, offset_y=20 - 1.0)


def test_same_scale_is_the_identity_even_after_rounding(tmp_path: Path) -> None:
    path = make(tmp_path, (8, 8), scale=(0.65, 0.1 + 0.2), label_scale=(0.65, 0.3))
    assert layer_at(path).frame.is_identity


def test_scales_that_were_kept_in_32_bits_are_what_they_were(tmp_path: Path) -> None:
    kept = float(np.float32(0.65))
    path = make(tmp_path, (4000, 4000), scale=(0.65, 0.65), label_scale=(kept, kept))
    assert layer_at(path).frame.is_identity
    coarse = make(
        tmp_path / "coarse", (40, 40), image_shape=(80, 80), scale=(kept, kept), label_scale=(1.3, 1.3)
    )
    assert layer_at(coarse).frame == Frame(2.0, 2.0)
    moved = make(
        tmp_path / "moved",
        (8, 8),
        image_shape=(4000, 4000),
        scale=(0.65, 0.65),
        label_scale=(kept, kept),
        label_translation=(kept * 3001, 0.0),
    )
    assert layer_at(moved).frame == Frame(1.0, 1.0, 0.0, 3001.0)
    place = 50_000.3  # of a stage
    far = {"scale": (0.25, 0.25), "translation": (place, place), "label_scale": (0.25, 0.25)}
    far["label_translation"] = (float(np.float32(place)),) * 2
    assert layer_at(make(tmp_path / "far", (8, 8), **far)).frame.is_identity


@pytest.mark.parametrize("scale", [0.3, 0.35, 0.108, 0.65])
@pytest.mark.parametrize("kept", [float, lambda scale: float(np.float32(scale))])
def test_planes_are_the_same_whatever_scales_were_kept_in(
    tmp_path: Path, scale: float, kept: Callable[[float], float]
) -> None:
    """With a translation of 0 a slab of two planes begins half a plane before the first."""
    path = make(
        tmp_path,
        (4, 8, 8),
        axes="zyx",
        image_shape=(8, 8, 8),
        scale=(scale, 1.0, 1.0),
        label_scale=(kept(2 * scale), 1.0, 1.0),
        label_translation=(0.0, 0.0, 0.0),
    )
    assert shown(path) == {0: [0], 1: [1, 2], 2: [3, 4], 3: [5, 6]}


def in_units(path: Path, image: dict[str, str], label: dict[str, str]) -> Path:
    """The image and its label image, with axes in these units."""
    for group, units in ((path, image), (path / "labels" / "cells", label)):
        (multiscale,) = json.loads((group / ".zattrs").read_text())["multiscales"]
        axes = [
            {**axis, "unit": units[axis["name"]]} if axis["name"] in units else axis
            for axis in multiscale["axes"]
        ]
        edit_attributes(group, multiscales=[{**multiscale, "axes": axes}])
    return path


@pytest.mark.parametrize(
    ("unit", "scale", "frame"),
    [
        ("nanometer", 650.0, Frame()),
        ("Nanometer", 1300.0, Frame(2.0, 2.0)),
        ("millimeter", 0.0013, Frame(2.0, 2.0)),
        ("nm", 1300.0, Frame(2.0, 2.0)),
        ("\N{MICRO SIGN}m", 0.65, Frame()),
        ("", 0.65, Frame()),
        ("nanometer", 325.0, Frame(0.5, 0.5)),
    ],
)
def test_a_label_in_other_units_lies_where_it_is(
    tmp_path: Path, unit: str, scale: float, frame: Frame
) -> None:
    own = {"label_scale": (scale, scale), "label_translation": (0.0, 0.0)}
    path = make(tmp_path, (8, 8), scale=(0.65, 0.65), **own)
    found = layer_at(in_units(path, dict.fromkeys("yx", "micrometer"), dict.fromkeys("yx", unit))).frame
    assert (found.scale_x, found.scale_y) == (frame.scale_x, frame.scale_y)
    assert found.offset_x == (1 - frame.scale_x) / 2


def test_units_that_nobody_can_convert_are_told_of(tmp_path: Path) -> None:
    path = make(tmp_path, (8, 8), scale=(0.5, 0.5), label_scale=(1.5, 2.0))
    layer = layer_at(in_units(path, {"x": "micrometer"}, {"x": "parsec"}))
    assert layer.frame == Frame(4.0, 3.0)
    (warning,) = layer.warnings
    assert "axis x is in 'parsec', that of its image in 'micrometer'" in warning


def test_times_in_other_units(tmp_path: Path) -> None:
    path = make(
        tmp_path,
        (3, 8, 8),
        axes="tyx",
        scale=(500.0, 1.0, 1.0),
        label_scale=(0.5, 1.0, 1.0),
    )
    assert shown(in_units(path, {"t": "millisecond"}, {"t": "second"})) == {0: [0], 1: [1], 2: [2]}


def test_label_without_pixel_size_lies_on_the_image(tmp_path: Path) -> None:
    layer = layer_at(make(tmp_path, (8, 8), scale=(0.65, 0.65)))
    assert layer.frame.is_identity
    assert "only one states a pixel size" in layer.warnings[0]


def test_label_on_an_image_without_pixel_size_lies_on_it(tmp_path: Path) -> None:
    layer = layer_at(make(tmp_path, (8, 8), scale=(1.0, 1.0), label_scale=(0.3, 0.3)))
    assert layer.frame.is_identity
    assert "only one states a pixel size" in layer.warnings[0]
    assert layer_at(make(tmp_path, (8, 8))).warnings == ()


@pytest.mark.parametrize(
    ("options", "frame"),
    [
        ({"image_shape": (16, 16)}, Frame(2.0, 2.0)),
        ({"label_translation": (0, 0)}, Frame(2.0, 2.0, -0.5, -0.5)),
        ({"label_scale": (1.0, 2.0)}, Frame(4.0, 2.0)),
    ],
)
def test_what_is_not_excepted_is_scaled(tmp_path: Path, options: dict[str, Any], frame: Frame) -> None:
    assert layer_at(make(tmp_path, (8, 8), scale=(0.5, 0.5), **options)).frame == frame


@pytest.mark.parametrize("version", ["0.3", "0.2"])
def test_without_scales_grids_are_taken_to_agree(tmp_path: Path, version: str) -> None:
    same = layer_at(make(tmp_path / "same", (8, 8), version=version))
    assert same.frame.is_identity
    assert same.warnings == ()
    other = layer_at(make(tmp_path / "other", (8, 8), image_shape=(16, 16), version=version))
    assert other.frame.is_identity
    assert "differ in size" in other.warnings[0]


@pytest.mark.parametrize("scale", [(0.0, 1.0), (float("nan"), 1.0), (1.0, 1.0, 1.0)])
def test_bad_scales_leave_the_grid(tmp_path: Path, scale: tuple[float, ...]) -> None:
    layer = layer_at(make(tmp_path, (8, 8), scale=(0.5, 0.5), label_scale=scale))
    assert layer.frame.is_identity
    assert any("ignored" in warning for warning in layer.warnings)


def test_scales_too_far_apart(tmp_path: Path) -> None:
    path = make(tmp_path, (8, 8), image_shape=(9, 9), scale=(1e-300, 1e-300), label_scale=(1e300, 1e300))
    layer = layer_at(path)
    assert layer.frame.is_identity
    assert any("too far apart" in warning for warning in layer.warnings)


def test_axes_are_matched_by_name(tmp_path: Path) -> None:
    path = make(tmp_path, (8, 8), image_axes="cyxz", image_shape=(2, 16, 16, 5), scale=(1, 0.5, 0.5, 3))
    layer = layer_at(path)
    assert layer.image_size == (1, 2, 5, 16, 16)
    assert layer.frame == Frame(2.0, 2.0)
    assert [plane.keys for plane in layer.planes] == [(PlaneKey(t=0, c=None, z=None),)]


@pytest.mark.parametrize("axes", ["yx", "zyx", "tzyx", "tczyx"])
def test_axes_absent_or_of_size_one_are_broadcast(tmp_path: Path, axes: str) -> None:
    shape = (1,) * (len(axes) - 2) + (8, 8)
    path = make(tmp_path / "many", shape, axes, image_axes="tczyx", image_shape=(3, 2, 4, 8, 8))
    (plane,) = layer_at(path).planes
    assert plane.keys == (PlaneKey(None, None, None),)
    assert plane.index == (0, 0, 0)
    path = make(tmp_path / "one", shape, axes, image_axes="tczyx", image_shape=(1, 1, 1, 8, 8))
    (plane,) = layer_at(path).planes
    assert plane.keys == (PlaneKey(t=0, c=None, z=0),)


def test_channels_keep_their_index(tmp_path: Path) -> None:
    path = make(tmp_path, (2, 8, 8), "cyx", image_axes="czyx", image_shape=(2, 3, 8, 8))
    keys = [(plane.index, plane.keys) for plane in layer_at(path).planes]
    assert keys == [((0, c, 0), (PlaneKey(t=0, c=c, z=None),)) for c in (0, 1)]


@pytest.mark.parametrize(
    ("count", "available", "scale", "image_scale", "translation", "expected"),
    [
        (3, 3, 2.0, 2.0, None, {0: [0], 1: [1], 2: [2]}),
        (2, 4, 2.0, 1.0, None, {0: [0, 1], 1: [2, 3]}),
        (2, 4, 2.0, 1.0, 0.5, {0: [0, 1], 1: [2, 3]}),
        (2, 4, 2.0, 1.0, 2.5, {0: [2, 3]}),
        (4, 2, 0.5, 1.0, None, {0: [0], 1: [0], 2: [1], 3: [1]}),
        (3, 5, 1.5, 1.0, None, {0: [0], 1: [1, 2], 2: [3]}),
        (3, 1, 0.1, 0.3, None, {0: [0], 1: [0], 2: [0]}),
        (4, 9, 0.65, 0.3, None, {0: [0, 1], 1: [2, 3], 2: [4, 5], 3: [6, 7, 8]}),  # 3 * (0.65 / 0.3) > 6.5
        (2, 5, 1.0, 1.0, 3.0, {0: [3], 1: [4]}),
        (3, 5, 1.0, 1.0, 3.0, {0: [3], 1: [4]}),
        (2, 5, 1.0, 1.0, -1.0, {1: [0]}),
        (3, 2, 1.0, 1.0, None, {0: [0], 1: [1]}),
        (2, 4, 0.0, 1.0, None, {0: [0], 1: [1]}),
    ],
)
def test_z_of_another_spacing(
    tmp_path: Path,
    count: int,
    available: int,
    scale: float,
    image_scale: float,
    translation: float | None,
    expected: dict[int, list[int]],
) -> None:
    path = make(
        tmp_path,
        (count, 8, 8),
        "zyx",
        image_shape=(available, 8, 8),
        scale=(image_scale, 1, 1),
        label_scale=(scale, 1, 1),
        label_translation=None if translation is None else (translation, 0, 0),
    )
    assert shown(path) == expected
    warnings = " ".join(layer_at(path).warnings)
    assert ("outside its image" in warnings) == (len(expected) < count)
    on_each = Counter(z for keys in expected.values() for z in keys)
    several = sum(count > 1 for count in on_each.values())
    assert (f"on {several} planes of its image along z lie several" in warnings) == (several > 0)


def test_z_of_a_label_without_pixel_size(tmp_path: Path) -> None:
    path = make(tmp_path, (2, 8, 8), "zyx", scale=(3, 0.5, 0.5))
    assert shown(path) == {0: [0], 1: [1]}
    assert layer_at(path).frame.is_identity


def test_t_of_another_spacing(tmp_path: Path) -> None:
    options: dict[str, Any] = {"axes": "tyx", "image_shape": (4, 8, 8), "scale": (5, 1, 1)}
    assert shown(make(tmp_path / "a", (2, 8, 8), label_scale=(10, 1, 1), **options)) == {0: [0, 1], 1: [2, 3]}
    assert shown(make(tmp_path / "b", (4, 8, 8), label_scale=(1, 1, 1), **options)) == {
        n: [n] for n in range(4)
    }


def test_planes_shown_are_limited(tmp_path: Path) -> None:
    options: dict[str, Any] = {"scale": (1, 1, 1), "label_scale": (10, 1, 1)}
    path = make(tmp_path, (2, 8, 8), "zyx", image_shape=(20, 8, 8), **options)
    with pytest.raises(SourceRefused, match="appears on 20 planes of its image; 19"):
        layer_at(path, limits=Limits(planes=19))


def test_image_of_a_nested_label(tmp_path: Path) -> None:
    path = write_image(
        tmp_path / "a.zarr", labels={"original/0": blobs(8, 8)}, image_shape=(16, 16), scale=(0.5, 0.5)
    )
    assert layer_at(path, "original/0").image_size == (1, 1, 1, 16, 16)


def test_stated_image(tmp_path: Path) -> None:
    path = make(tmp_path, (8, 8), image_label={"source": {"image": "../../raw"}})
    write_multiscale(path / "raw", blobs(16, 16), version="0.4", scale=(0.5, 0.5))
    layer = layer_at(path)
    assert layer.image_size == (1, 1, 1, 16, 16)
    assert layer.frame == Frame(2.0, 2.0)


@pytest.mark.parametrize(
    "stated", ["../../../..", "/", "https://x/y", "..", "../nothing", 1, None, "nul\0", "."]
)
def test_stated_image_that_is_none(tmp_path: Path, stated: object) -> None:
    path = make(tmp_path, (8, 8), image_shape=(16, 16), image_label={"source": {"image": stated}})
    layer = layer_at(path)
    assert layer.image_size == (1, 1, 1, 16, 16)
    assert not any("no image" in warning for warning in layer.warnings)


def test_image_without_multiscales_or_damaged(tmp_path: Path) -> None:
    path = make(tmp_path, (8, 8), image=False)
    layer = layer_at(path)
    assert layer.image_size == (1, 1, 1, 8, 8)
    assert "no image to relate" in layer.warnings[0]
    path = make(tmp_path / "b", (8, 8), image_shape=(16, 16), scale=(0.5, 0.5))
    (path / "0/.zarray").unlink()
    layer = layer_at(path)
    assert layer.frame.is_identity
    assert "no such zarr v2 array" in layer.warnings[0]
    path = make(tmp_path / "c", (8, 8), image_shape=(16, 16), scale=(0.5, 0.5))
    edit_attributes(path, multiscales=[{"axes": ["q"], "datasets": [{"path": "0"}]}])
    assert "1 axes are named" in layer_at(path).warnings[0]


def test_float_image_is_no_hindrance(tmp_path: Path) -> None:
    path = make(tmp_path, (8, 8))
    write_array(path / "0", np.zeros((16, 16), np.float32), "0.4")
    assert layer_at(path).image_size == (1, 1, 1, 16, 16)


def test_spatialdata_has_no_image_and_lacks_none(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    write_group(path, "0.5", {}, spatialdata_attrs={"version": "0.2"})
    write_multiscale(path / "labels/cells", blobs(8, 8), scale=(0.5, 0.5))
    layer = layer_at(path)
    assert layer.image_size == (1, 1, 1, 8, 8)
    assert layer.frame.is_identity
    assert layer.warnings == ()


def test_a_label_opened_alone_has_its_own_grid(tmp_path: Path) -> None:
    path = make(tmp_path, (8, 8), image_shape=(16, 16), image_label={"source": {"image": "../../"}})
    layer = layer_at(path / "labels/cells", ".")
    assert layer.image_size == (1, 1, 1, 8, 8)
    assert layer.warnings == ()


def test_fields_of_a_plate_have_their_own_image(tmp_path: Path) -> None:
    path = write_plate(
        tmp_path / "p.zarr", {"A/1/0": {"cells": blobs(8, 8)}, "A/1/1": {"cells": blobs(6, 6)}}
    )
    assert layer_at(path / "A/1/1").image_size == (1, 1, 1, 6, 6)
    assert image_at(path / "A/1/1").location.endswith("A/1/1")
