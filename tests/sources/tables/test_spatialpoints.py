"""Points elements of SpatialData."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.geometry.kinds import POINT
from roiservice.sources.limits import Limits
from roiservice.sources.roots import open_store
from roiservice.sources.store import Store
from roiservice.sources.tables.affine import Affine
from roiservice.sources.tables.spatialdata import POINTS, Element
from roiservice.sources.tables.spatialpoints import read_points
from roiservice.sources.tables.table import NO_COLOR, ShapeTable
from tests.sources.support import LIMITS
from tests.sources.tables.spatialstores import FORMATS, write_element, write_root
from tests.stores import zip_store

ELEMENT = Element("p", "points/p", POINTS)
TURN = Affine(0, 2, 5, -2, 0, 300)


def make(path: Path, *parts: pd.DataFrame | pa.Table, version: str = "0.2", **attributes: Any) -> Path:
    """A store whose points are in numbered parts, as dask writes them."""
    root = write_root(path / "a.zarr", version)
    folder = write_element(root, "p", kind="points", version=version, **attributes) / "points.parquet"
    folder.mkdir()
    for number, part in enumerate(parts):
        table = part if isinstance(part, pa.Table) else pa.Table.from_pandas(part)
        pq.write_table(table, folder / f"part.{number}.parquet")
    return root


def read(root: Path, affine: Affine = TURN, limits: Limits = LIMITS) -> ShapeTable:
    return read_points(open_store(root, limits), ELEMENT, affine, limits)


def frame(count: int, seed: int = 0) -> pd.DataFrame:
    xy = np.random.default_rng(seed).uniform(-50, 50, (count, 2))
    genes = pd.Categorical(["Actb", "Gapdh"] * (count // 2) + ["Actb"] * (count % 2))
    return pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "gene": genes, "cell": np.arange(count)})


@pytest.mark.parametrize("version", FORMATS)
def test_points_are_mapped_and_every_one_is_an_object(tmp_path: Path, version: str) -> None:
    points = frame(1001)
    table = read(make(tmp_path, points, version=version, feature_key="gene", instance_key="cell"))
    expected = np.stack([2 * points.y + 5, 300 - 2 * points.x], axis=1)
    assert np.allclose(table.polygons.xy, expected, rtol=1e-12, atol=1e-9)
    assert len(table.polygons) == len(table.kind) == 1001
    assert np.array_equal(table.polygons.vertex_offsets, np.arange(1002))
    assert (table.kind == POINT).all()
    assert np.array_equal(table.object, np.arange(1001))
    assert np.array_equal(table.label, np.arange(1, 1002))
    assert table.key is None
    for plane in (table.t, table.c, table.z):
        assert plane.dtype == np.int32
        assert (plane == -1).all()
    assert (table.color == NO_COLOR).all()
    assert {name: column.type for name, column in table.columns.items()} == {
        "gene": pa.string(),
        "cell": pa.int64(),
    }
    assert table.columns["gene"].to_pylist() == list(points.gene)
    assert table.refused.count == 0
    assert table.warnings == ()


def test_parts_follow_each_other_by_number(tmp_path: Path) -> None:
    parts = [frame(3, seed) for seed in range(12)]
    table = read(make(tmp_path, *parts), Affine())
    together = pd.concat(parts)
    assert np.array_equal(table.polygons.xy, together[["x", "y"]].to_numpy())
    assert table.columns["cell"].to_pylist() == list(together.cell)


def test_other_files_in_the_folder_are_no_parts(tmp_path: Path) -> None:
    root = make(tmp_path, frame(2))
    folder = root / "points" / "p" / "points.parquet"
    (folder / "part.0.parquet").rename(folder / "part-00000-abc.c000.snappy.parquet")
    for name in ("_metadata", "_common_metadata", ".part.1.parquet", "_x.parquet", "notes.txt"):
        (folder / name).write_bytes(b"no parquet")
    (folder / "sub").mkdir()
    (folder / "sub" / "part.5.parquet").write_bytes(b"no parquet")
    assert len(read(root).polygons) == 2


def single(root: Path) -> Store:
    folder = root / "points" / "p" / "points.parquet"
    data = (folder / "part.0.parquet").read_bytes()
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_bytes(data)
    return open_store(root, LIMITS)


def zipped(root: Path) -> Store:
    return open_store(zip_store(root, ".zip"), LIMITS)


@pytest.mark.parametrize(("store_of", "count"), [(single, 3), (zipped, 6)])
def test_a_single_file_and_a_zip(tmp_path: Path, store_of: Callable[[Path], Store], count: int) -> None:
    store = store_of(make(tmp_path, frame(3), frame(3, 1)))
    assert len(read_points(store, ELEMENT, TURN, LIMITS).polygons) == count


def test_categories_may_differ_between_parts(tmp_path: Path) -> None:
    parts = [frame(2).assign(gene=pd.Categorical(genes)) for genes in (["b", None], ["a", "c"], ["b", "a"])]
    table = read(make(tmp_path, *parts))
    assert table.columns["gene"].to_pylist() == ["b", None, "a", "c", "b", "a"]


def test_z_is_a_property_in_its_own_unit(tmp_path: Path) -> None:
    table = read(make(tmp_path, frame(2).assign(z=[1.5, -2.0])))
    assert table.columns["z"].to_pylist() == [1.5, -2.0]
    assert (table.z == -1).all()


def test_integers_are_coordinates_too(tmp_path: Path) -> None:
    points = pd.DataFrame({"x": np.array([1, 2], np.uint8), "y": np.array([3, 4], np.float32)})
    assert read(make(tmp_path, points), Affine()).polygons.xy.tolist() == [[1, 3], [2, 4]]


def test_points_without_a_place_are_refused(tmp_path: Path) -> None:
    points = frame(6).assign(x=[1, np.nan, 3, None, np.inf, 1e300], id=list("abcdef"))
    table = read(make(tmp_path, points), Affine())
    assert table.polygons.xy[:, 0].tolist() == [1, 3]
    assert table.label.tolist() == [1, 3]
    assert table.object.tolist() == [0, 1]
    assert table.columns["id"].to_pylist() == ["a", "c"]
    assert table.refused.count == 4
    assert table.refused.reasons[0] == (
        "row 2, column 'x, y': a coordinate is missing, not finite, or too far away to lie in an image"
    )


def test_no_points_at_all(tmp_path: Path) -> None:
    table = read(make(tmp_path, frame(0)))
    assert len(table.polygons) == 0
    assert list(table.columns) == ["gene", "cell"]


def test_an_index_is_a_property_if_it_has_a_name(tmp_path: Path) -> None:
    points = frame(2)
    named = points.set_axis(pd.Index([7, 8], name="transcript_id"))
    plain = points.set_axis(pd.Index([7, 8], name="__null_dask_index__"))
    assert read(make(tmp_path / "a", named)).columns["transcript_id"].to_pylist() == [7, 8]
    assert list(read(make(tmp_path / "b", plain)).columns) == ["gene", "cell"]


def test_keys_that_name_no_column_are_told(tmp_path: Path) -> None:
    root = make(tmp_path, frame(2), feature_key="target", instance_key="cell")
    assert read(root).warnings == ("there is no column 'target', which feature_key names",)


@pytest.mark.parametrize(
    ("points", "text"),
    [
        (pd.DataFrame({"x": [1.0]}), r"\[points/p\]: has no column 'y'"),
        (pd.DataFrame({"x": ["1"], "y": [2.0]}), "column 'x' must hold numbers"),
        (pd.DataFrame({"x": [1.0], "y": [True]}), "column 'y' must hold numbers"),
    ],
)
def test_without_coordinates_it_is_damaged(tmp_path: Path, points: pd.DataFrame, text: str) -> None:
    with pytest.raises(SourceDamaged, match=text):
        read(make(tmp_path, points))


def test_parts_that_are_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(SourceDamaged, match=r"\[points/p\]: there is no such group"):
        read(write_root(tmp_path / "a.zarr"))
    with pytest.raises(SourceDamaged, match=r"\[points/p/points.parquet\]: there is no such file, nor"):
        read(make(tmp_path / "b"))
    root = make(tmp_path / "c", frame(2), frame(2))
    part = root / "points" / "p" / "points.parquet" / "part.1.parquet"
    for data in (b"", b"PAR1", part.read_bytes()[:-20], part.read_bytes()[:100] + part.read_bytes()[-100:]):
        part.write_bytes(data)
        with pytest.raises(SourceDamaged, match=r"points/p/points.parquet\]: "):
            read(root)


def test_parts_with_other_columns_are_damaged(tmp_path: Path) -> None:
    with pytest.raises(SourceDamaged, match=r"points.parquet\]: cannot be read"):
        read(make(tmp_path, frame(2), frame(2).assign(cell=["a", "b"])))


def test_limits_hold_before_anything_is_decoded(tmp_path: Path) -> None:
    root = make(tmp_path, frame(60), frame(60))
    with pytest.raises(SourceRefused, match="has 120 rows; 100 are allowed"):
        read(root, limits=replace(LIMITS, table_rows=100))
    size = (root / "points" / "p" / "points.parquet" / "part.0.parquet").stat().st_size
    with pytest.raises(SourceRefused, match=f"part.0.parquet.*holds {size} bytes; 1000 are allowed"):
        read(root, limits=replace(LIMITS, table_bytes=1000))
    many = make(tmp_path / "many", *[frame(60)] * 5)
    with pytest.raises(SourceRefused, match=f"its files have more than {4 * size} bytes"):
        read(many, limits=replace(LIMITS, table_bytes=size))


def test_too_many_numbered_parts_are_not_looked_for(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("roiservice.sources.tables.spatialpoints._MOST_PARTS", 2)
    store = zipped(make(tmp_path, frame(1), frame(1), frame(1)))
    with pytest.raises(SourceRefused, match="has more than 2 parts"):
        read_points(store, ELEMENT, TURN, LIMITS)
