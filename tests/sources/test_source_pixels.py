"""The image's own pixels."""

import json

import numpy as np
import pytest

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.sources.images import ImageSource
from roiservice.sources.limits import Limits
from roiservice.sources.pixels import open_pixels
from tests.sources.support import edit_array
from tests.stores import edit_attributes, write_array, write_group, write_image, write_multiscale

DTYPES = ["bool", "u1", "i1", "<u2", ">u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", ">f4", "f8"]
WHOLE = (slice(0, 1),) * 3


def source(path, group=""):
    return ImageSource(str(path), group, path.name, None)


def numbers(*shape, dtype="u2", seed=0):
    """Random bit patterns, so that every value of a type may come up."""
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind == "f":
        return rng.normal(1000, 50, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype.newbyteorder("="), endpoint=True).astype(dtype)


def whole(pixels):
    return pixels.read(tuple(slice(0, size) for size in pixels.sizes))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_of_number_is_read(tmp_path, version, dtype):
    array = numbers(2, 9, 7, dtype=dtype)
    pixels = open_pixels(
        source(write_multiscale(tmp_path / "a.zarr", array, "cyx", version, chunks=(1, 4, 3))), Limits()
    )
    assert pixels.dtype == array.dtype.newbyteorder("=")
    assert pixels.dtype.isnative
    assert (pixels.sizes, pixels.chunks) == ((1, 2, 1, 9, 7), (1, 1, 1, 4, 3))
    np.testing.assert_array_equal(whole(pixels)[0, :, 0], array)


@pytest.mark.parametrize(
    ("axes", "to_tczyx"),
    [("yx", (0, 1)), ("zyx", (0, 1, 2)), ("tcyx", (0, 1, 2, 3)), ("tczyx", (0, 1, 2, 3, 4)), ("xy", (1, 0)),
     ("xyz", (2, 1, 0)), ("cxyt", (3, 0, 2, 1))],
)  # fmt: skip
def test_axes_are_found_by_their_names(tmp_path, axes, to_tczyx):
    array = numbers(*(2, 3, 4, 5, 6)[: len(axes)])
    pixels = open_pixels(source(write_multiscale(tmp_path / "a.zarr", array, axes)), Limits())
    expected = array.transpose(to_tczyx)
    assert pixels.sizes == tuple(array.shape[axes.index(name)] if name in axes else 1 for name in "tczyx")
    np.testing.assert_array_equal(whole(pixels).reshape(expected.shape), expected)
    part = tuple(slice(size // 2, size) for size in pixels.sizes)
    np.testing.assert_array_equal(pixels.read(part), whole(pixels)[part])


def test_sharded_chunks_are_inner_ones(tmp_path):
    array = numbers(16, 16)
    path = write_multiscale(tmp_path / "a.zarr", array, chunks=(4, 4), shards=(8, 8))
    pixels = open_pixels(source(path), Limits())
    assert pixels.chunks == (1, 1, 1, 4, 4)
    np.testing.assert_array_equal(whole(pixels)[0, 0, 0], array)


def test_a_missing_chunk_holds_the_fill_value_and_a_damaged_one_is_named(tmp_path):
    path = write_multiscale(tmp_path / "a.zarr", np.full((8, 8), 5, "u2"), chunks=(4, 4))
    (path / "0" / "c" / "0" / "1").unlink()
    edit_array(path / "0", fill_value=9)
    pixels = open_pixels(source(path), Limits())
    assert pixels.read((*WHOLE, slice(0, 8), slice(0, 8)))[0, 0, 0, 0].tolist() == [5] * 4 + [9] * 4
    (path / "0" / "c" / "1" / "0").write_bytes(b"")
    assert pixels.read((*WHOLE, slice(0, 4), slice(0, 8))).shape == (1, 1, 1, 4, 8)
    with pytest.raises(SourceDamaged, match=r"chunk \(1, 0\)"):
        pixels.read((*WHOLE, slice(0, 8), slice(0, 8)))


def test_the_pixels_of_a_spatialdata_store_are_those_of_its_first_image(tmp_path):
    path = tmp_path / "s.zarr"
    write_group(path, "0.5", {}, spatialdata_attrs={"version": "0.2"})
    for folder, name, value in (("labels", "a", 1), ("images", "b", 2), ("images", "c", 3)):
        write_group(path / folder, "0.5", {})
        write_multiscale(path / folder / name, np.full((4, 4), value, "u1"))
    assert whole(open_pixels(source(path), Limits())).max() == 2


def test_what_has_no_pixels_says_so(tmp_path):
    path = write_image(tmp_path / "a.zarr", labels={"cells": np.ones((4, 4), "u1")}, image=False)
    with pytest.raises(SourceRefused, match="no pixels"):
        open_pixels(source(path), Limits())
    table = tmp_path / "b.geojson"
    table.write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    with pytest.raises(SourceRefused, match="is a table"):
        open_pixels(source(table), Limits())


def test_limits_hold_and_other_kinds_of_values_are_refused(tmp_path):
    path = write_multiscale(tmp_path / "a.zarr", np.ones((8, 8), "f4"))
    with pytest.raises(SourceRefused, match="256 bytes"):
        open_pixels(source(path), Limits(chunk_bytes=255))
    with pytest.raises(SourceRefused, match="63 are allowed"):
        open_pixels(source(path), Limits(array_pixels=63))
    write_array(path / "0", np.ones((8, 8), "c8"))
    with pytest.raises(SourceRefused, match="real numbers"):
        open_pixels(source(path), Limits())


def test_a_damaged_image_is_named(tmp_path):
    path = write_multiscale(tmp_path / "a.zarr", np.ones((8, 8), "u1"))
    entry = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]["multiscales"]
    entry[0]["axes"] = entry[0]["axes"][:1]
    edit_attributes(path, multiscales=entry)
    with pytest.raises(SourceDamaged, match="axes"):
        open_pixels(source(path), Limits())
