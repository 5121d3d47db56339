"""SpatialData stores: which elements there are, and how they lie in the pixels of a raster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import zarr

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.geometry.frames import Frame
from roiservice.geometry.polygons import measure
from roiservice.sources.groups import read_group
from roiservice.sources.layers import layer_named
from roiservice.sources.roots import open_store
from roiservice.sources.store import Store
from roiservice.sources.tables.affine import Affine
from roiservice.sources.tables.spatialdata import (
    Element,
    element_affine,
    find_elements,
    is_root,
    is_spatialdata,
    reference_raster,
)
from roiservice.sources.tables.spatialpoints import read_points
from roiservice.sources.tables.spatialshapes import read_shapes
from roiservice.sources.tokens import source_token
from tests.sources.remote.server import served
from tests.sources.support import LIMITS, image_at, layer_at
from tests.sources.tables.spatialstores import (
    FORMATS,
    multiscale_of,
    transform,
    write_element,
    write_raster,
    write_root,
)
from tests.stores import edit_attributes, write_array, write_group, write_image, write_multiscale, zip_store

ZEROS = np.zeros((6, 8), np.int32)
CELLS = Element("cells", "shapes/cells", "shapes")


def make(
    path: Path, *transforms: dict[str, Any], raster: dict[str, Any] | None = None, **options: Any
) -> Store:
    """A root with labels and one shapes element."""
    root = write_root(path / "a.zarr")
    write_raster(root, "cells", ZEROS, *([raster] if raster else []))
    write_element(root, "cells", *transforms, **options)
    return open_store(root, LIMITS)


@pytest.mark.parametrize("version", FORMATS)
@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_elements_are_found_by_directory(tmp_path: Path, version: str, suffix: str) -> None:
    root = write_root(tmp_path / "a.zarr", version)
    for kind, name in (("points", "b"), ("shapes", "z"), ("shapes", "a 1"), ("points", "a")):
        write_element(root, name, kind=kind, version=version)
    (root / "shapes" / "empty").mkdir()
    store = open_store(zip_store(root, suffix) if suffix else root, LIMITS)
    assert find_elements(store, "") == (
        Element("a 1", "shapes/a 1", "shapes"),
        Element("z", "shapes/z", "shapes"),
        Element("a", "points/a", "points"),
        Element("b", "points/b", "points"),
    )


def test_elements_below_a_group(tmp_path: Path) -> None:
    write_element(write_root(tmp_path / "all.zarr" / "one"), "cells")
    store = open_store(tmp_path / "all.zarr", LIMITS)
    assert find_elements(store, "one") == (Element("cells", "one/shapes/cells", "shapes"),)
    assert find_elements(store, "two") == ()


def test_no_more_elements_than_layers_may_be(tmp_path: Path) -> None:
    root = write_root(tmp_path / "a.zarr")
    for number in range(4):
        write_element(root, f"e{number}")
    with pytest.raises(SourceRefused, match="4 shapes and points elements; 3 are allowed"):
        find_elements(open_store(root, type(LIMITS)(layers=3)), "")


@pytest.mark.parametrize("version", FORMATS)
@pytest.mark.parametrize("listed", [404, 200])
def test_elements_behind_a_url(tmp_path: Path, version: str, listed: int) -> None:
    """Nothing is listed there but by consolidated metadata."""
    root = write_root(tmp_path / "a.zarr", version)
    write_raster(root, "i", np.zeros((6, 8), np.uint8), folder="images", version=version)
    shapes = write_element(root, "s", transform("scale", [2, 2]), version=version)
    points = write_element(root, "p", kind="points", version=version) / "points.parquet"
    geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 3, 2)]).to_parquet(shapes / "shapes.parquet")
    points.mkdir()
    for number in range(2):
        pq.write_table(pa.table({"x": [1.0], "y": [number]}), points / f"part.{number}.parquet")
    zarr.consolidate_metadata(str(root))
    with served(tmp_path) as server:
        server.faults.folders = listed
        store = open_store(f"{server.url}/a.zarr", LIMITS)
        elements = find_elements(store, "")
        assert [element.path for element in elements] == ["shapes/s", "points/p"]
        raster = reference_raster(store, "")
        assert raster == "images/i"
        affine = element_affine(store, elements[0], raster)
        box = measure(read_shapes(store, elements[0], affine, LIMITS).polygons).boxes
        assert box.tolist() == [[0, 0, 6, 4]]
        places = read_points(store, elements[1], Affine(), LIMITS).polygons.xy
        assert places.tolist() == [[1, 0], [1, 1]]


def test_only_the_root_is_a_store(tmp_path: Path) -> None:
    root = write_root(tmp_path / "a.zarr")
    write_element(root, "cells")
    edit_group = write_raster(root, "cells", ZEROS)
    document = json.loads((edit_group / "zarr.json").read_text())
    document["attributes"]["spatialdata_attrs"] = {"version": "0.3"}
    (edit_group / "zarr.json").write_text(json.dumps(document))
    image = write_image(tmp_path / "b.zarr", labels={"cells": ZEROS})
    store, other = open_store(root, LIMITS), open_store(image, LIMITS)
    groups = {path: read_group(store, path) for path in ("", "labels", "labels/cells", "shapes/cells")}
    assert [path for path, group in groups.items() if group and is_spatialdata(group)] == [""]
    image_group = read_group(other, "")
    assert image_group is not None
    assert not is_spatialdata(image_group)


def old(path: Path) -> Path:
    """A root without attributes, as before container 0.1."""
    root = write_root(path / "old.zarr", "0.1")
    (root / ".zattrs").unlink()
    return root


def says_root(root: Path) -> bool:
    store = open_store(root, LIMITS)
    group = read_group(store, "")
    assert group is not None
    return is_root(store, group)


@pytest.mark.parametrize("kind", ["labels", "images", "shapes", "points", "tables"])
def test_elements_tell_of_an_old_root(tmp_path: Path, kind: str) -> None:
    root = old(tmp_path)
    assert not says_root(root)
    if kind in ("labels", "images"):
        write_raster(root, "a", ZEROS, folder=kind, version="0.1")
    elif kind == "tables":
        write_group(root / kind / "a", "0.4", {"spatialdata-encoding-type": "ngff:regions_table"})
    else:
        write_element(root, "a", kind=kind, version="0.1")
    assert says_root(root)


def test_groups_without_attributes_are_no_roots_by_their_labels(tmp_path: Path) -> None:
    root = old(tmp_path)
    write_multiscale(root / "labels" / "cells", ZEROS, version="0.4")
    assert not says_root(root)
    write_group(root / "shapes" / "cells", "0.4", {"multiscales": [3]})
    write_group(root / "points" / "cells", "0.4", {"encoding-type": 3})
    assert not says_root(root)
    image = write_image(tmp_path / "b.zarr", labels={"cells": ZEROS})
    write_element(image, "cells")
    assert not says_root(image)


def test_labels_of_an_old_root_get_the_frame_of_its_image(tmp_path: Path) -> None:
    root = old(tmp_path)
    write_raster(root, "i", np.zeros((12, 16), np.uint8), folder="images", version="0.1")
    write_raster(root, "z", np.ones((6, 8), np.int32), transform("scale", [2, 2], "yx"), version="0.1")
    layer = layer_at(root, "z")
    assert layer.frame == Frame(scale_x=2, scale_y=2)
    assert layer.warnings == ()


@pytest.mark.parametrize("version", FORMATS)
def test_the_first_image_is_the_reference_else_the_first_labels(tmp_path: Path, version: str) -> None:
    root = write_root(tmp_path / "a.zarr", version)
    store = open_store(root, LIMITS)
    assert reference_raster(store, "") is None
    write_element(root, "a", version=version)
    (root / "labels" / "a").mkdir(parents=True)
    write_raster(root, "c", ZEROS, version=version)
    write_raster(root, "b", ZEROS, version=version)
    assert reference_raster(store, "") == "labels/b"
    write_raster(root, "z", ZEROS, folder="images", version=version)
    assert reference_raster(store, "") == "images/z"


def test_systems_of_a_raster_do_not_know_the_scales_of_its_levels(tmp_path: Path) -> None:
    root = write_root(tmp_path / "a.zarr")
    turn = transform("affine", [[0, 1, 5], [-1, 0, 300]], "yx", to="turned", out="xy")
    path = write_raster(root, "cells", ZEROS, transform("scale", [4, 2], "yx"), turn)
    entry = multiscale_of(path)
    entry["datasets"][0]["coordinateTransformations"][0]["scale"] = [7.0, 7.0]
    entry["coordinateTransformations"].append({"type": "scale", "scale": [9.0, 9.0]})  # as in NGFF 0.4
    edit_attributes(path, multiscales=[entry])
    store = open_store(root, LIMITS)
    for system, expected in (("global", Affine(xx=0.5, yy=0.25)), ("turned", Affine(1, 0, -5, 0, -1, 300))):
        write_element(root, "cells", transform("identity", to=system))
        assert element_affine(store, CELLS, "labels/cells") == expected


def test_a_raster_that_is_not_there_or_cannot_be_used(tmp_path: Path) -> None:
    store = make(tmp_path, raster=transform("scale", [1], "yx"))
    with pytest.raises(SourceDamaged, match=r"\[labels/none\]: there is no such group"):
        element_affine(store, CELLS, "labels/none")
    with pytest.raises(SourceRefused, match=r"; labels/cells: coordinateTransformations\[0\].scale: must"):
        element_affine(store, CELLS, "labels/cells")


def test_elements_lie_in_a_raster_through_the_system_they_share(tmp_path: Path) -> None:
    own = [transform("scale", [4, 9], to="um"), transform("translation", [10, 20])]
    store = make(tmp_path, *own, raster=transform("scale", [5, 2], "yx"))
    assert element_affine(store, CELLS, "labels/cells") == Affine(xx=0.5, yy=0.2, x0=5, y0=4)


def test_global_comes_before_other_systems(tmp_path: Path) -> None:
    root = write_root(tmp_path / "a.zarr")
    rasters = [transform("identity", axes="yx", to=name) for name in ("b", "a", "global")]
    write_raster(root, "cells", ZEROS, *rasters)
    scales = {"a": 2, "b": 3, "global": 4, "own": 5}
    write_element(root, "cells", *(transform("scale", [by, by], to=to) for to, by in scales.items()))
    store = open_store(root, LIMITS)
    assert element_affine(store, CELLS, "labels/cells") == Affine(xx=4, yy=4)
    write_raster(root, "cells", ZEROS, *rasters[:2])
    assert element_affine(store, CELLS, "labels/cells") == Affine(xx=2, yy=2)


def test_same_transformations_cancel_exactly(tmp_path: Path) -> None:
    store = make(
        tmp_path, transform("scale", [0.2125, 0.2126]), raster=transform("scale", [0.2126, 0.2125], "yx")
    )
    assert element_affine(store, CELLS, "labels/cells") == Affine()


def test_without_a_shared_system_both_lists_are_named(tmp_path: Path) -> None:
    store = make(
        tmp_path,
        transform("identity", to="um"),
        transform("scale", [1, 0], to="global"),
        raster=transform("identity", axes="yx", to="global"),
    )
    with pytest.raises(SourceRefused) as raised:
        element_affine(store, CELLS, "labels/cells")
    assert raised.value.reason == (
        "has the coordinate systems 'um', but labels/cells has 'global'; shapes/cells: "
        "coordinateTransformations[1]: it collapses the plane, or its numbers are too large"
    )


@pytest.mark.parametrize("stated", [None, [], {"a": 1}])
def test_without_transformations_there_is_no_system(tmp_path: Path, stated: Any) -> None:
    store = make(tmp_path)
    path = tmp_path / "a.zarr" / "shapes" / "cells" / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["coordinateTransformations"] = stated
    if stated is None:
        del document["attributes"]["coordinateTransformations"]
    path.write_text(json.dumps(document))
    with pytest.raises(SourceRefused, match="coordinate systems none that can be used, but labels/cells has"):
        element_affine(store, CELLS, "labels/cells")


def test_scales_too_far_apart_are_refused(tmp_path: Path) -> None:
    store = make(
        tmp_path, transform("scale", [1e150, 1e150]), raster=transform("scale", [1e-150, 1e-150], "yx")
    )
    with pytest.raises(SourceRefused, match="its scale against labels/cells is out of range"):
        element_affine(store, CELLS, "labels/cells")


# Labels of a SpatialData root, which have no parent image.


def labels_in(
    path: Path, *transforms: dict[str, Any], axes: str = "yx", shape: tuple[int, ...] = (6, 8)
) -> Any:
    """The layer of labels "z" in a root whose image is `images/i` of 3 x 12 x 16 pixels."""
    root = write_root(path / "a.zarr")
    image = np.zeros((3, 12, 16), np.uint8)
    write_raster(root, "i", image, transform("scale", [1, 0.5, 0.5], "cyx"), axes="cyx", folder="images")
    write_raster(root, "z", np.ones(shape, np.int32), *transforms, axes=axes)
    return layer_at(root, "z")


def test_labels_get_the_frame_of_the_reference_raster(tmp_path: Path) -> None:
    layer = labels_in(
        tmp_path,
        transform(
            "sequence", [transform("scale", [1.0, 1.5], "yx"), transform("translation", [0.5, 2], "yx")], "yx"
        ),
    )
    assert layer.frame == Frame(scale_x=3, scale_y=2, offset_x=4, offset_y=1)
    assert layer.image_size == (1, 3, 1, 12, 16)
    assert (layer.height, layer.width) == (6, 8)
    assert layer.warnings == ()


def test_labels_of_the_same_pixels_have_the_identity(tmp_path: Path) -> None:
    layer = labels_in(tmp_path, transform("scale", [0.5, 0.5], "yx"), shape=(12, 16))
    assert layer.frame.is_identity
    assert layer.image_size == (1, 3, 1, 12, 16)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (transform("affine", [[0, 1, 0], [-1, 0, 0]], "yx"), "turned, sheared or mirrored against images/i"),
        (transform("scale", [-1, 1], "yx"), "turned, sheared or mirrored"),
        (
            transform("identity", None, "yx", to="other"),
            "has the coordinate systems 'other', but images/i has",
        ),
    ],
)
def test_labels_that_cannot_be_related_keep_their_own_grid(tmp_path: Path, item: Any, reason: str) -> None:
    layer = labels_in(tmp_path, item)
    assert layer.frame.is_identity
    assert layer.image_size == (1, 1, 1, 6, 8)
    (warning,) = layer.warnings
    assert reason in warning
    assert "own grid" in warning


def test_labels_are_the_reference_where_there_is_no_image(tmp_path: Path) -> None:
    root = write_root(tmp_path / "a.zarr")
    write_raster(root, "a", np.ones((6, 8), np.int32), transform("scale", [2, 2], "yx"))
    write_raster(root, "b", np.ones((3, 4), np.int32), transform("scale", [4, 4], "yx"))
    first, second = layer_at(root, "a"), layer_at(root, "b")
    assert first.frame.is_identity
    assert second.frame == Frame(scale_x=2, scale_y=2)
    assert first.image_size == second.image_size == (1, 1, 1, 6, 8)
    assert first.warnings == second.warnings == ()


def volume(path: Path, shape: tuple[int, ...], z: float, image_z: int = 4) -> Any:
    root = write_root(path / "a.zarr")
    image = np.zeros((1, image_z, 6, 8), np.uint8)
    write_raster(root, "i", image, transform("scale", [1, 3, 1, 1], "czyx"), axes="czyx", folder="images")
    write_raster(root, "z", np.ones(shape, np.int32), transform("scale", [z, 1, 1], "zyx"), axes="zyx")
    return layer_at(root, "z")


def test_planes_are_paired_by_index_where_they_are_the_same(tmp_path: Path) -> None:
    layer = volume(tmp_path, (4, 6, 8), 3)
    assert [plane.keys[0].z for plane in layer.planes] == [0, 1, 2, 3]
    assert layer.image_size == (1, 1, 4, 6, 8)
    assert layer.warnings == ()


@pytest.mark.parametrize(("shape", "z"), [((2, 6, 8), 3), ((4, 6, 8), 2)])
def test_other_planes_keep_their_own_grid(tmp_path: Path, shape: tuple[int, ...], z: float) -> None:
    layer = volume(tmp_path, shape, z)
    assert len(layer.planes) == shape[0]
    assert layer.image_size == (1, 1, *shape)
    assert "its planes are not those of images/i" in layer.warnings[0]


def test_a_single_plane_is_on_all(tmp_path: Path) -> None:
    layer = volume(tmp_path, (1, 6, 8), 2)
    assert layer.planes[0].keys[0].z is None
    assert layer.image_size == (1, 1, 4, 6, 8)


def test_a_damaged_reference_is_a_warning(tmp_path: Path) -> None:
    root = write_root(tmp_path / "a.zarr")
    write_raster(root, "i", np.zeros((6, 8), np.uint8), folder="images")
    write_raster(root, "z", np.ones((6, 8), np.int32))
    (root / "images" / "i" / "zarr.json").write_text("{")
    layer = layer_at(root, "z")
    assert layer.image_size == (1, 1, 1, 6, 8)
    assert "images/i/zarr.json: bad JSON" in layer.warnings[0]


def test_the_token_changes_with_the_reference(tmp_path: Path) -> None:
    root = write_root(tmp_path / "a.zarr")
    write_raster(root, "z", ZEROS)
    source = layer_named(image_at(root), "z", LIMITS)
    tokens = {source_token(source, LIMITS)}
    write_raster(root, "i", np.zeros((6, 8), np.uint8), folder="images")
    tokens.add(source_token(source, LIMITS))
    write_array(root / "images" / "i" / "0", np.zeros((60, 80), np.uint8))
    tokens.add(source_token(source, LIMITS))
    edit_attributes(root / "images" / "i", changed=True)
    tokens.add(source_token(source, LIMITS))
    assert len(tokens) == 4
    assert source_token(source, LIMITS) in tokens
