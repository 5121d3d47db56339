"""Pages of tissue, simplified over HTTP one by one and put together: no gap, no overlap, few vertices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from tests.conftest import start_service
from tests.query.support import tessellation
from tests.stores import write_image
from tests.web.test_web_items import walk

SIDE = 480
TOLERANCE = 4.0
CELLS = {"cells-24": 24, "cells-40": 40, "cells-60": 60}  # pixels across
Shapes = NDArray[Any]


def chessboard() -> NDArray[np.int64]:
    """Where four meet: squares of 24 pixels, each a label, or one label for every second one of them."""
    rows, columns = np.indices((SIDE, SIDE)) // 24
    squares = rows * (SIDE // 24) + columns + 1
    scattered = ((rows + columns) % 2) * 5000
    return np.where(columns < SIDE // 48, squares, scattered)


def hollow_cells() -> NDArray[np.int64]:
    """Cells with a nucleus, a hole, both or neither, and some that are background."""
    cells = tessellation(SIDE, 150, 0.1)
    rows, columns = np.indices((SIDE, SIDE))
    row, column = rows % 40 - 20, columns % 40 - 20
    number = rows // 40 * (SIDE // 40) + columns // 40
    nuclei = (row**2 + column**2 < 60) & (number % 2 == 0)
    holes = ((row - 10) ** 2 + (column - 8) ** 2 < 20) & (number % 3 == 0)
    return np.where(nuclei, 10_000 + number, np.where(holes, 0, cells))


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tissue") / "images"
    planes = {name: tessellation(SIDE, (SIDE // size) ** 2) for name, size in CELLS.items()}
    planes |= {"chessboard": chessboard(), "hollow": hollow_cells()}
    labels = {name: plane.astype(np.uint16) for name, plane in planes.items()}
    write_image(folder / "1.zarr", labels=labels)
    return start_service(folder).client


def put_together(client, layer: str, query: str, limit: int = 61) -> Shapes:
    """The outlines of all pages, in the order of their ids."""
    pages = walk(client, f"/images/1/collections/labels:{layer}/items?limit={limit}{query}")
    features = [feature for page in pages for feature in page["features"]]
    assert len(pages) == -(-len(features) // limit)
    features.sort(key=lambda feature: feature["id"])
    return np.array([shapely.geometry.shape(feature["geometry"]) for feature in features])


def vertices(shapes: Shapes) -> int:
    rings = shapely.get_rings(shapely.get_parts(shapes))
    return int((shapely.get_num_coordinates(rings) - 1).sum())


def gaps(union: Any) -> int:
    return int(shapely.get_num_interior_rings(shapely.get_parts(union)).sum())


@pytest.mark.parametrize("layer", [*CELLS, "chessboard", "hollow"])
def test_simplified_pages_fit_together(tissue, layer):
    exact, drawn = (put_together(tissue, layer, query) for query in ("", f"&simplify={TOLERANCE:g}"))
    assert len(exact) == len(drawn)
    assert shapely.is_valid(drawn).all()
    assert shapely.coverage_is_valid(drawn)
    before, after = shapely.union_all(exact), shapely.union_all(drawn)
    assert shapely.area(drawn).sum() == pytest.approx(after.area)  # so that none overlap
    assert gaps(after) == gaps(before)  # background within tissue; no other
    assert shapely.hausdorff_distance(before.boundary, after.boundary) <= TOLERANCE + 1e-9
    assert abs(after.area - before.area) < 0.005 * before.area
    if layer in CELLS:
        assert vertices(exact) >= 5 * vertices(drawn)
