"""Shorthand for the tests of table files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import shapely
from hypothesis import strategies as st
from numpy.typing import NDArray

from roiservice.geometry.kinds import geometries
from roiservice.sources.limits import Limits
from roiservice.sources.tables.files import read_table
from roiservice.sources.tables.table import ShapeTable, TableFile, ValueTable

LIMITS = Limits()


def read(data: bytes | str, name: str, limits: Limits = LIMITS) -> ShapeTable | ValueTable:
    data = data if isinstance(data, bytes) else data.encode()
    return read_table(TableFile("folder", name, data), limits)


def shapes(data: bytes | str, name: str, limits: Limits = LIMITS) -> ShapeTable:
    table = read(data, name, limits)
    assert isinstance(table, ShapeTable)
    return table


def values(data: bytes | str, name: str, limits: Limits = LIMITS) -> ValueTable:
    table = read(data, name, limits)
    assert isinstance(table, ValueTable)
    return table


def json_of(document: Any) -> bytes:
    return json.dumps(document).encode()


def drawn(table: ShapeTable) -> list[Any]:
    """Geometries of the features, as shapely draws them."""
    return list(geometries(table.polygons, table.kind))


def columns_of(table: ShapeTable | ValueTable) -> dict[str, list[Any]]:
    return {name: column.to_pylist() for name, column in table.columns.items()}


def same_areas(ours: Iterable[Any], theirs: Iterable[Any]) -> bool:
    """Whether polygons cover the same points, wherever their rings begin and whichever way they turn."""
    return bool(shapely.equals(np.array(list(ours), object), np.array(list(theirs), object)).all())


@st.composite
def _polygon(draw: st.DrawFn) -> Any:
    """A Polygon or MultiPolygon, with holes or not, on the lattice or turned off it."""
    side = st.integers(1, 9)
    place = st.integers(-20, 20)
    boxes = draw(st.lists(st.tuples(place, place, side, side), min_size=1, max_size=5))
    holes = draw(st.lists(st.tuples(place, place, side, side), max_size=3))
    solid, hollow = (
        shapely.union_all([shapely.box(x, y, x + w, y + h) for x, y, w, h in some]) for some in (boxes, holes)
    )
    shape = shapely.difference(solid, hollow)
    if draw(st.booleans()):
        turn = draw(st.floats(0, 6.28))
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        shape = shapely.transform(shape, lambda xy: xy @ matrix)
    if draw(st.booleans()):
        shape = shapely.reverse(shape)
    return shape


polygons: st.SearchStrategy[Any] = _polygon().filter(lambda shape: not shape.is_empty and shape.is_valid)


def object_array(items: Iterable[Any]) -> NDArray[Any]:
    listed = list(items)
    out = np.empty(len(listed), object)
    out[:] = listed
    return out
