"""Arrays of labels: damaged chunks, hostile metadata and limits; that only SourceError comes out."""

from __future__ import annotations

import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.sources.images import ImageSource
from roiservice.sources.layer import LayerSource
from roiservice.sources.limits import Limits
from roiservice.sources.planes import open_layer
from roiservice.sources.tokens import source_token
from tests.sources.support import LIMITS, blobs, edit_array, layer_at, whole
from tests.stores import (
    write_array,
    write_image,
)

CELLS = {"cells": blobs(40, 50)}


def chunk_files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name[0] not in ".z")


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("keep", [0.5, 0])
@pytest.mark.parametrize("version", ["0.1", "0.4", "0.5"])
def test_a_damaged_chunk_is_named(tmp_path: Path, version: str, keep: float, compressed: bool) -> None:
    path = write_image(tmp_path / "a.zarr", labels=CELLS, version=version, axes="yx")
    array = path / "labels/cells/0"
    options: dict[str, Any] = {} if compressed else {"compressors": None}
    write_array(array, CELLS["cells"], version, chunks=(16, 20), **options)
    victim = array / {"0.1": "1.2", "0.4": "1/2", "0.5": "c/1/2"}[version]
    victim.write_bytes(victim.read_bytes()[: int(victim.stat().st_size * keep)])
    layer = layer_at(path)
    np.testing.assert_array_equal(layer.read((0, 0, 0), 0, 16), CELLS["cells"][:16])
    with pytest.raises(SourceDamaged, match=r"chunk \(1, 2\)") as caught:
        layer.read((0, 0, 0), 15, 40)
    assert caught.value.part == "labels/cells/0"
    assert caught.value.store == layer.source.image.location


def test_the_damaged_chunk_that_is_named_is_one_that_was_asked_for(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(32, 32) + 1}, chunks=(8, 8))
    for chunk in ("0/0", "2/3", "3/3"):
        (path / "labels/cells/0/c" / chunk).write_bytes(b"damaged")
    layer = layer_at(path)
    layer.read((0, 0, 0), 8, 16)
    with pytest.raises(SourceDamaged, match=r"chunk \(2, 3\)"):
        layer.read((0, 0, 0), 8, 32)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=CELLS, chunks=(8, 10), shards=(16, 50))
    victim = path / "labels/cells/0/c/1/0"
    victim.write_bytes(victim.read_bytes()[:-30])
    with pytest.raises(SourceDamaged, match=r"chunk \(2, 0\)"):
        layer_at(path).read((0, 0, 0), 0, 40)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_missing_chunk_is_background(tmp_path: Path, version: str) -> None:
    path = write_image(tmp_path / "a.zarr", labels=CELLS, version=version, chunks=(16, 20))
    chunk_files(path / "labels/cells/0")[0].unlink()
    expected = CELLS["cells"].copy()
    expected[:16, :20] = 0
    np.testing.assert_array_equal(whole(layer_at(path)), expected)


def test_a_chunk_linked_from_outside_is_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=CELLS, version="0.4")
    write_array(path / "labels/cells/0", CELLS["cells"], "0.4", compressors=None)
    victim = path / "labels/cells/0/0/0"
    victim.rename(tmp_path / "secret")
    victim.symlink_to(tmp_path / "secret")
    layer = layer_at(path)
    with pytest.raises(SourceRefused, match="symbolic link"):
        whole(layer)
    with pytest.raises(SourceRefused, match="symbolic link"):
        source_token(layer.source, LIMITS)


@pytest.mark.parametrize(
    ("version", "changes", "error", "reason"),
    [
        ("0.4", {"compressor": {"id": "made_up"}}, SourceDamaged, "made_up"),
        ("0.5", {"codecs": [{"name": "bytes"}, {"name": "made_up"}]}, SourceDamaged, "made_up"),
        ("0.4", {"compressor": {"id": "pickle"}}, SourceRefused, "pickle"),
        ("0.4", {"filters": [{"id": "pickle", "protocol": 5}]}, SourceRefused, "pickle"),
        ("0.5", {"codecs": [{"name": "numcodecs.pickle"}]}, SourceRefused, "pickle"),
        ("0.4", {"shape": [10**9, 10**9]}, SourceRefused, "1000000000 x 1000000000 pixels; 4398046511104"),
        ("0.4", {"chunks": [200000, 200000]}, SourceRefused, "80000000000 bytes; 1073741824"),
        ("0.4", {"shape": [0, 50]}, SourceDamaged, "no pixels"),
        ("0.4", {"shape": [50]}, SourceDamaged, "labels/cells/0"),
        ("0.4", {"shape": [50], "chunks": [50]}, SourceDamaged, "two"),
        ("0.4", {"shape": "x"}, SourceDamaged, "cannot be opened"),
        ("0.4", {"chunks": [0, 0]}, SourceDamaged, "labels/cells/0"),
        ("0.4", {"dtype": "|O"}, SourceError, "labels/cells/0"),
        ("0.4", {"dtype": "nonsense"}, SourceDamaged, "labels/cells/0"),
        ("0.5", {"data_type": "nonsense"}, SourceDamaged, "labels/cells/0"),
        ("0.5", {"node_type": "group"}, SourceDamaged, "is a group"),
        ("0.5", {"chunk_grid": {"name": "made_up"}}, SourceDamaged, "labels/cells/0"),
        ("0.5", {"codecs": []}, SourceDamaged, "labels/cells/0"),
    ],
)
def test_array_metadata(
    tmp_path: Path, version: str, changes: dict[str, Any], error: type[SourceError], reason: str
) -> None:
    path = write_image(tmp_path / "a.zarr", labels=CELLS, version=version)
    edit_array(path / "labels/cells/0", **changes)
    with pytest.raises(error, match=reason):
        layer_at(path)


def test_pickled_chunks_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    path = write_image(tmp_path / "a.zarr", labels=CELLS, version="0.4")
    array = path / "labels/cells/0"
    edit_array(array, compressor=None, filters=[{"id": "Pickle".lower(), "protocol": 5}])
    (array / "0/0").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(SourceRefused):
        whole(layer_at(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(array_pixels=5999), "2 x 3 x 20 x 50 pixels; 5999"),
        (Limits(plane_pixels=999), "1000 pixels in one plane; 999"),
        (Limits(chunk_bytes=1999), "chunks of 1 x 1 x 20 x 50 pixels, 2000 bytes; 1999"),
        (Limits(planes=5), "6 planes; 5"),
        (Limits(shard_bytes=10), "10 are allowed"),
    ],
)
def test_limits(tmp_path: Path, limits: Limits, reason: str) -> None:
    labels = {"cells": blobs(2, 3, 20, 50)}
    path = write_image(tmp_path / "a.zarr", labels=labels, axes="tzyx", chunks=(1, 1, 20, 50))
    with pytest.raises(SourceRefused, match=reason):
        layer_at(path, limits=limits)


def test_shards_may_be_larger_than_chunks(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=CELLS, chunks=(8, 10), shards=(40, 50))
    layer_at(path, limits=Limits(chunk_bytes=160))
    with pytest.raises(SourceRefused, match="shards of 40 x 50 pixels, 4000 bytes; 3999"):
        layer_at(path, limits=Limits(shard_bytes=3999))


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 2**40)
    | st.floats()
    | st.sampled_from(["<u2", "C", "zstd", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name"]), inner),
    max_leaves=6,
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    version=st.sampled_from(["0.4", "0.5"]),
    key=st.sampled_from(
        ["shape", "chunks", "dtype", "compressor", "filters", "order", "fill_value", "dimension_separator",
         "zarr_format", "data_type", "codecs", "chunk_grid", "chunk_key_encoding", "attributes"]
    ),
    value=JUNK,
)  # fmt: skip
def test_only_source_errors_come_out_of_any_array_metadata(
    tmp_path: Path, version: str, key: str, value: Any
) -> None:
    path = write_image(tmp_path / version, labels={"cells": blobs(4, 4)}, version=version)
    edit_array(path / "labels/cells/0", **{key: value})
    source = LayerSource(ImageSource(str(path), "", "a", None), "labels/cells", "labels:cells", "cells")
    with suppress(SourceError):
        layer = open_layer(source, Limits(array_pixels=2**20, chunk_bytes=2**20))
        layer.read((0, 0, 0), 0, 1)
