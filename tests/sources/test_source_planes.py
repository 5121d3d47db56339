"""Label layers: axes, data types, chunks and strips, on real stores; version tokens."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.sources import planes, slabs
from roiservice.sources.images import ImageSource
from roiservice.sources.layer import LayerSource
from roiservice.sources.planes import PlaneKey, open_layer
from roiservice.sources.tokens import source_token
from tests.sources.support import LIMITS, blobs, edit_array, layer_at, whole
from tests.stores import (
    TYPES,
    edit_attributes,
    write_array,
    write_group,
    write_image,
    write_multiscale,
    zip_store,
)

VERSIONS = ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6"]
CELLS = {"cells": blobs(40, 50)}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("zipped", [True, False])
def test_planes_of_five_axes(tmp_path: Path, version: str, zipped: bool) -> None:
    array = blobs(2, 3, 2, 20, 31)
    path = write_image(
        tmp_path / "a.zarr", labels={"cells": array}, axes="tczyx", version=version, chunks=(1, 2, 1, 8, 10)
    )
    layer = layer_at(zip_store(path) if zipped else path)
    assert (layer.height, layer.width, layer.pixels) == (20, 31, array.size)
    assert layer.image_size == array.shape
    assert layer.frame.is_identity
    assert layer.dtype == array.dtype
    assert len(layer.planes) == 12
    assert [plane.keys for plane in layer.planes] == sorted(plane.keys for plane in layer.planes)
    for plane in layer.planes:
        t, c, z = plane.index
        assert plane.keys == (PlaneKey(t=t, c=c, z=z),)
        np.testing.assert_array_equal(whole(layer, plane.index), array[t, c, z])


def test_planes_are_sorted_by_t_z_c(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(2, 2, 2, 4, 4)}, axes="tczyx")
    order = [(plane.keys[0].t, plane.keys[0].z, plane.keys[0].c) for plane in layer_at(path).planes]
    assert order == sorted(order)
    assert len(set(order)) == 8
    assert PlaneKey(None, None, None) < PlaneKey(0, None, None) < PlaneKey(0, 0, 0) <= PlaneKey(0, 0, 0)


DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_data_types(tmp_path: Path, dtype: str, version: str) -> None:
    kind = np.dtype(dtype)
    array = blobs(10, 10, dtype=dtype)
    if kind.kind != "b":
        array[0, 0], array[0, 1] = np.iinfo(kind).max, np.iinfo(kind).min
    layer = layer_at(write_image(tmp_path / "a.zarr", labels={"cells": array}, version=version))
    block = whole(layer)
    assert layer.dtype == block.dtype == kind
    assert block.dtype.isnative
    assert block.flags.c_contiguous
    np.testing.assert_array_equal(block, array)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_big_endian_becomes_native(tmp_path: Path, version: str) -> None:
    array = blobs(10, 10, dtype="uint32")
    path = write_image(tmp_path / "a.zarr", labels={"cells": array}, version=version)
    if version == "0.4":
        write_array(path / "labels/cells/0", array.astype(">u4"), version)
    else:
        write_array(
            path / "labels/cells/0",
            array,
            version,
            serializer={"name": "bytes", "configuration": {"endian": "big"}},
        )
    layer = layer_at(path)
    assert layer.dtype == np.dtype("uint32")
    assert layer.dtype.isnative
    assert whole(layer).dtype.isnative
    np.testing.assert_array_equal(whole(layer), array)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "datetime64[s]"])
def test_other_data_types_are_refused(tmp_path: Path, dtype: str) -> None:
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8).astype(dtype)})
    with pytest.raises(SourceRefused, match=r"labels are integers"):
        layer_at(path)


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": None},
        {"compressors": {"id": "zlib", "level": 1}},
        {"compressors": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 2, "blocksize": 0}},
        {"filters": [numcodecs.Delta(dtype="<u2")]},
        {"order": "F"},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    ],
)
def test_v2_encodings(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write_image(tmp_path / "a.zarr", labels=CELLS, version="0.4")
    write_array(path / "labels/cells/0", CELLS["cells"], "0.4", chunks=(16, 20), **options)
    np.testing.assert_array_equal(whole(layer_at(path)), CELLS["cells"])


def test_sharded_strips_follow_inner_chunks(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=CELLS, chunks=(8, 10), shards=(32, 30))
    layer = layer_at(path)
    assert layer.strip_rows(1) == 8
    assert layer.strip_rows(50 * 17) == 16
    assert layer.strip_rows(10**9) == 40
    np.testing.assert_array_equal(whole(layer, rows=8), CELLS["cells"])
    np.testing.assert_array_equal(whole(layer_at(zip_store(path)), rows=8), CELLS["cells"])


def test_chunks_as_high_as_the_plane_are_read_in_strips_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plane is never held whole: it may be larger than working memory, however few bytes its file has."""
    path = write_image(tmp_path / "a.zarr", labels=CELLS, chunks=(40, 10))
    monkeypatch.setattr(planes, "STRIP_BYTES", 13 * 50 * CELLS["cells"].itemsize)
    layer = layer_at(path)
    assert layer.strip_rows(1) == layer.strip_rows(10**9) == 10
    np.testing.assert_array_equal(whole(layer, rows=10), CELLS["cells"])
    monkeypatch.setattr(planes, "STRIP_BYTES", 1)
    assert layer.strip_rows(1) == 1


def test_strips_of_chunks_larger_than_the_array(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=CELLS, version="0.4")
    write_array(path / "labels/cells/0", CELLS["cells"], "0.4", chunks=(1000, 1000))
    assert layer_at(path).strip_rows(1) == 40


def test_rows_and_planes_out_of_range(tmp_path: Path) -> None:
    layer = layer_at(write_image(tmp_path / "a.zarr", labels=CELLS))
    for index, row0, row1 in (((0, 0, 0), 0, 41), ((0, 0, 0), 5, 5), ((0, 0, 0), -1, 3), ((0, 0, 1), 0, 1)):
        with pytest.raises(ValueError, match="not"):
            layer.read(index, row0, row1)


def test_reads_from_several_threads(tmp_path: Path) -> None:
    path = zip_store(write_image(tmp_path / "a.zarr", labels=CELLS, chunks=(4, 10)))
    layer = layer_at(path)
    with ThreadPoolExecutor(8) as pool:
        blocks = list(pool.map(lambda row: layer.read((0, 0, 0), row, row + 4), list(range(0, 40, 4)) * 5))
    np.testing.assert_array_equal(np.concatenate(blocks[:10]), CELLS["cells"])


def stated_axes(*axes: str | tuple[str, str | None]) -> list[dict[str, str]]:
    pairs = [(axis, TYPES.get(axis)) if isinstance(axis, str) else axis for axis in axes]
    return [{"name": name, "type": kind} if kind else {"name": name} for name, kind in pairs]


def with_axes(path: Path, array: np.ndarray[Any, Any], axes: list[dict[str, str]]) -> Path:
    """An image without multiscales whose label has these axes, one scale of 1 for each."""
    write_image(path, labels={"cells": array}, axes="tczyx"[-array.ndim :], image=False)
    scale = {"type": "scale", "scale": [1.0] * len(axes)}
    datasets = [{"path": "0", "coordinateTransformations": [scale]}]
    edit_attributes(path / "labels/cells", multiscales=[{"axes": axes, "datasets": datasets}])
    return path


@pytest.mark.parametrize("bytes_kept", [0, 2**28])
def test_planes_that_share_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_kept: int) -> None:
    monkeypatch.setattr(slabs, "SLAB_BYTES", bytes_kept)
    array = blobs(3, 7, 20, 31)
    path = write_image(tmp_path / "a.zarr", labels={"cells": array}, axes="tzyx", chunks=(2, 4, 8, 16))
    layer = layer_at(path)
    with ThreadPoolExecutor(4) as pool:
        blocks = list(pool.map(lambda plane: whole(layer, plane.index), layer.planes))
    for plane, block in zip(layer.planes, blocks, strict=True):
        t, _, z = plane.index
        np.testing.assert_array_equal(block, array[t, z])
    first = layer.read((0, 0, 0), 0, 8)
    first[...] = 99  # the caller's own
    np.testing.assert_array_equal(layer.read((0, 0, 0), 0, 8), array[0, 0, :8])


@pytest.mark.parametrize("order", ["tczyx", "zyx", "yx", "tcxzy"])
def test_planes_read_together_are_those_read_alone(tmp_path: Path, order: str) -> None:
    sizes = {"t": 2, "c": 3, "z": 5, "y": 20, "x": 31}
    array = blobs(*(sizes[axis] for axis in order))
    chunks = [{"t": 2, "c": 2, "z": 4, "y": 8, "x": 10}[axis] for axis in order]
    path = with_axes(tmp_path / "a.zarr", array, stated_axes(*order))
    write_array(path / "labels/cells/0", array, chunks=chunks)
    layer = layer_at(path)
    assert layer.chunk_depth == tuple(chunks[order.index(axis)] if axis in order else 1 for axis in "tcz")
    indices = [plane.index for plane in layer.planes if plane.index[2] in (0, 2, 3)]
    together = list(layer.read_planes(indices, 3, 19))
    assert len(together) == len(indices)
    for index, block in zip(indices, together, strict=True):
        assert block.flags.c_contiguous
        assert block.dtype == layer.dtype
        np.testing.assert_array_equal(block, layer.read(index, 3, 19))
    with pytest.raises(ValueError, match="not one of this layer"):
        list(layer.read_planes([(0, 0, 0), (0, 0, 5)], 0, 1))


def test_a_damaged_chunk_is_named_among_planes_read_together(tmp_path: Path) -> None:
    path = write_image(
        tmp_path / "a.zarr", labels={"cells": blobs(4, 20, 30) + 1}, axes="zyx", chunks=(2, 8, 10)
    )
    (path / "labels/cells/0/c/1/1/2").write_bytes(b"damaged")
    layer = layer_at(path)
    assert len(list(layer.read_planes([(0, 0, 0), (0, 0, 1)], 0, 20))) == 2
    assert len(list(layer.read_planes([(0, 0, 2), (0, 0, 3)], 0, 8))) == 2
    with pytest.raises(SourceDamaged, match=r"labels/cells/0\]: chunk \(1, 1, 2\)"):
        list(layer.read_planes([(0, 0, 2), (0, 0, 3)], 0, 20))


def test_x_before_y_is_transposed(tmp_path: Path) -> None:
    array = blobs(3, 20, 31)
    path = with_axes(tmp_path / "a.zarr", array, stated_axes("x", "y", "z"))
    write_array(path / "labels/cells/0", array, chunks=(3, 7, 31))
    layer = layer_at(path)
    assert (layer.height, layer.width, len(layer.planes)) == (20, 3, 31)
    assert layer.strip_rows(1) == 7
    for z in (0, 30):
        np.testing.assert_array_equal(whole(layer, (0, 0, z)), array[:, :, z].T)
        assert layer.read((0, 0, z), 2, 5).flags.c_contiguous


@pytest.mark.parametrize(
    ("axes", "shape", "sizes"),
    [
        (stated_axes("Z", "Y", "X"), (2, 4, 5), (1, 1, 2, 4, 5)),
        (stated_axes(("row", "space"), ("col", "space")), (4, 5), (1, 1, 1, 4, 5)),
        (stated_axes(("a", "time"), ("b", "channel"), ("c1", "space"), ("d", "space"), ("e", "space")),
         (2, 3, 4, 5, 6), (2, 3, 4, 5, 6)),
        (stated_axes("t", ("fov", "custom"), "y", "x"), (2, 1, 4, 5), (2, 1, 1, 4, 5)),
        (stated_axes(("dim_0", None), ("dim_1", None)), (4, 5), (1, 1, 1, 4, 5)),
        (stated_axes(("y", None), ("x", None), ("z", None)), (4, 5, 2), (1, 1, 2, 4, 5)),
    ],
)  # fmt: skip
def test_axes_by_name_and_type(
    tmp_path: Path, axes: list[dict[str, str]], shape: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    layer = layer_at(with_axes(tmp_path / "a.zarr", blobs(*shape), axes))
    assert layer.image_size == sizes
    assert any("no types" in warning for warning in layer.warnings) == (axes[0]["name"] == "dim_0")


@pytest.mark.parametrize(
    ("axes", "error", "reason"),
    [
        (stated_axes("z", "y", "x", "t"), SourceDamaged, "4 axes are named, but the array has 3"),
        (stated_axes("y", "x"), SourceDamaged, "2 axes are named, but the array has 3"),
        (stated_axes(("a", "custom"), "y", ("b", None)), SourceDamaged, "no two"),
        (stated_axes(("fov", "custom"), "y", "x"), SourceRefused, "'fov' has 2"),
        (stated_axes(("dim_0", None), ("dim_1", None), ("dim_2", None)), SourceRefused, "'dim_0' has 2"),
    ],
)
def test_axes_that_do_not_fit(
    tmp_path: Path, axes: list[dict[str, str]], error: type[SourceError], reason: str
) -> None:
    with pytest.raises(error, match=reason) as caught:
        layer_at(with_axes(tmp_path / "a.zarr", blobs(2, 4, 5), axes))
    assert caught.value.part == "labels/cells"


def test_of_two_axes_of_one_type_the_second_is_none_of_ours(tmp_path: Path) -> None:
    axes = stated_axes(("a", "channel"), ("b", "channel"), "y", "x")
    with pytest.raises(SourceRefused, match="axis 'b' has 3 entries"):
        layer_at(with_axes(tmp_path / "a.zarr", blobs(2, 3, 4, 5), axes))


def test_squeezed_axis_is_read(tmp_path: Path) -> None:
    array = blobs(2, 1, 4, 5)
    axes = stated_axes("t", ("fov", "custom"), "y", "x")
    layer = layer_at(with_axes(tmp_path / "a.zarr", array, axes))
    np.testing.assert_array_equal(whole(layer, (1, 0, 0)), array[1, 0])


def test_fewer_axes_in_early_versions(tmp_path: Path) -> None:
    layer = layer_at(
        write_image(tmp_path / "a.zarr", labels={"cells": blobs(3, 4, 5)}, axes="zyx", version="0.2")
    )
    assert layer.image_size == (1, 1, 3, 4, 5)
    assert len(layer.planes) == 3


def test_missing_levels(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=CELLS)
    entry = json.loads((path / "labels/cells/zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
    entry["datasets"].append({"path": "nothing"})
    edit_attributes(path / "labels/cells", multiscales=[entry])
    np.testing.assert_array_equal(whole(layer_at(path)), CELLS["cells"])
    entry["datasets"].reverse()
    edit_attributes(path / "labels/cells", multiscales=[entry])
    with pytest.raises(SourceDamaged, match=r"\[labels/cells/nothing\]: there is no such"):
        layer_at(path)


def test_objects_come_with_the_layer(tmp_path: Path) -> None:
    colors = [{"label-value": 2, "rgba": [1, 2, 3, 4]}, {"label-value": 3, "rgba": [1]}]
    layer = layer_at(write_image(tmp_path / "a.zarr", labels=CELLS, image_label={"colors": colors}))
    assert layer.objects.colors == {2: (1, 2, 3, 4)}
    assert any("colors[1]" in text for text in layer.warnings)


def test_the_root_as_layer(tmp_path: Path) -> None:
    path = write_multiscale(tmp_path / "a.zarr", CELLS["cells"], scale=(0.5, 0.5))
    layer = layer_at(path, ".")
    assert layer.frame.is_identity
    assert layer.image_size == (1, 1, 1, 40, 50)
    assert layer.warnings == ()
    np.testing.assert_array_equal(whole(layer), CELLS["cells"])


def test_layers_that_have_gone(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=CELLS)
    image = ImageSource(str(path), "", "a", None)
    for gone in ("labels/gone", "labels"):
        source = LayerSource(image, gone, "labels:gone", "gone")
        for use in (open_layer, source_token):
            with pytest.raises(SourceDamaged):
                use(source, LIMITS)
    with pytest.raises(SourceDamaged):
        open_layer(LayerSource(ImageSource(str(path / "no"), "", "a", None), "", "root", "."), LIMITS)


def test_token_changes_with_whatever_matters(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=CELLS, version="0.4", chunks=(16, 20))
    (path / "labels/cells/1").mkdir()
    source = layer_at(path).source
    tokens = [source_token(source, LIMITS)]
    for name in ("labels/other", "labels/.zattrs", "labels/cells/1/0"):
        (path / name).write_text('{"labels": ["cells"]}')
        assert source_token(source, LIMITS) == tokens[0]
    for change in (
        lambda: (path / "labels/cells/0/1/2").write_bytes(b"damaged"),
        lambda: (path / "labels/cells/0/1/1").unlink(),
        lambda: edit_attributes(path / "labels/cells", image_label={"colors": []}),
        lambda: edit_attributes(path, name="new"),
        lambda: edit_array(path / "0", shape=[80, 100]),
        lambda: edit_array(path / "labels/cells/0", fill_value=1),
        lambda: write_group(path, "0.5", {}),
    ):
        change()
        tokens.append(source_token(source, LIMITS))
    assert len(set(tokens)) == len(tokens)


def test_token_of_a_zip(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=CELLS)
    source = layer_at(zip_store(path)).source
    first = source_token(source, LIMITS)
    assert source_token(source, LIMITS) == first
    (path / "more").write_text("more")
    zip_store(path)
    assert source_token(source, LIMITS) != first
