"""A catalog that was made from the one before is served as one in which all was written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from roiservice.catalog import build as build_module
from roiservice.catalog.reader import Catalog
from roiservice.layers import Layer
from tests.catalog.test_incremental import array_of
from tests.conftest import Service, start_service
from tests.query.support import tessellation
from tests.stores import write_image

STATED = [{"label-value": label, "class": "abc"[label % 3], "score": label / 3} for label in range(1, 300)]
IMAGE_LABEL = {"colors": [{"label-value": 7, "rgba": [255, 0, 0, 128]}], "properties": STATED}
FORMATS = ("geojson", "ndjson", "wkt", "qupath", "omero")
ITEMS = (
    "limit=40&offset=200", "bbox=380,150,460,260", "label=7,4000,300", "z=1&t=0", "min-area=300", "class=b",
    "perimeter=10..60&class=a", "area=300..900", "simplify=2", "simplify=3&bbox=380,150,460,260",
)  # fmt: skip
DRAWN = ("geometry=centroid", "geometry=bbox", "geometry=none", "max-features=20", "max-vertices=500")


def layer_of(service: Service, image_id: int) -> Layer:
    (image,) = (each for each in service.services.images.page(0, 9) if each.id == image_id)
    return service.services.layers.chosen(image, "cells")


def change(folder: Path) -> None:
    """A new object, one that goes, one with a hole, and one with another part."""
    for image_id, plane in ((1, ()), (2, (1, 0))):
        array = array_of(folder / f"{image_id}.zarr")
        array[(*plane, slice(100, 110), slice(100, 112))] = 4000
        array[(*plane, slice(104, 106), slice(104, 106))] = 0
        array[(*plane, slice(130, 140), slice(130, 133))] = 2**31 + 7
        array[(*plane, slice(134, 138), slice(120, 124))] = 2**31 + 7


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> tuple[Service, Service]:
    """Two services with the same ids; the second one has written everything anew."""
    folder = tmp_path_factory.mktemp("spliced") / "images"
    plane, *others = (tessellation(240, 400, seed=seed).astype(np.uint32) for seed in range(5))
    stack = np.reshape(others, (2, 2, 240, 240))
    options = {"image_label": IMAGE_LABEL, "scale": [1.0, 1.0], "label_scale": [2.0, 2.0]}
    write_image(
        folder / "1.zarr", labels={"cells": plane}, chunks=(16, 16), image_shape=(480, 480), **options
    )
    write_image(
        folder / "2.zarr",
        labels={"cells": stack},
        axes="tzyx",
        chunks=(1, 1, 16, 16),
        image_label=IMAGE_LABEL,
    )
    one = start_service(folder)
    for image_id in (1, 2):
        one.services.layers.build(layer_of(one, image_id))
    own = {name: folder.parent / "other" / name for name in ("state", "catalogs")}
    for name, path in own.items():
        shutil.copytree(folder.parent / name, path)
    other = start_service(folder, state_dir=own["state"], catalog_dir=own["catalogs"])
    change(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "_mended", lambda *_: None)
        for image_id in (1, 2):
            other.services.layers.build(layer_of(other, image_id))
    for image_id in (1, 2):
        one.services.layers.build(layer_of(one, image_id))
    return one, other


def paths(image_id: int, catalog: Catalog) -> Iterator[str]:
    """What is asked of an image: lists, and all that its new and some other objects have."""
    layer = f"/images/{image_id}/collections/labels:cells"
    yield from (f"{layer}/items?{query}&f={form}" for query in ITEMS for form in FORMATS)
    yield from (f"{layer}/items?{query}" for query in DRAWN)
    yield from (f"{layer}/{what}{query}" for what in ("density", "summary") for query in ("", "?class=c"))
    yield from (layer, f"{layer}/queryables", f"/api/v0/m/rois/?image={image_id}&limit=30&offset=380")
    yield f"/iviewer/plane_shape_counts/{image_id}/"
    yield from (f"/iviewer/rois_by_plane/{image_id}/{z}/{t}/" for z in ("0", "0-1") for t in ("0", "1"))
    assert catalog.stored is not None
    late = np.flatnonzero(catalog.stored >= len(catalog.base.columns["label"]))
    shapes = catalog.features["shape_first"][np.append(late, [3, 77])].astype(np.int64)
    for shape in shapes + catalog.first_shape_id:
        yield f"{layer}/items/{shape}"
        yield f"/webgateway/render_shape_mask/{shape}/"
        yield f"/iviewer/shape_stats/?ids={shape},{shape + 1}&z=0&t=0&cs=0"
        yield from (f"/iviewer/shape/{shape}/{what}/" for what in ("page_data", "image_data"))
    for roi in catalog.rois["roi"][[0, -2, -1]] + catalog.first_roi_id:
        yield f"/api/v0/m/rois/{roi}/"
        yield f"/iviewer/roi/{roi}/page_data/"


@pytest.mark.parametrize("image_id", [1, 2])
def test_all_answers_are_those_of_a_whole_catalog(services: tuple[Service, Service], image_id: int) -> None:
    one, other = services
    catalogs = [each.services.layers.existing(layer_of(each, image_id)) for each in services]
    assert catalogs[0] is not None
    assert catalogs[1] is not None
    assert catalogs[0].later is not None
    assert catalogs[1].later is None
    for path in paths(image_id, catalogs[0]):
        answer, expected = one.client.get(path), other.client.get(path)
        assert answer.status_code == (302 if "image_data" in path else 200), path
        assert answer.status_code == expected.status_code, path
        assert answer.headers.get("Location") == expected.headers.get("Location"), path
        assert answer.data == expected.data, path
