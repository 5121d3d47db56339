"""Circles of SpatialData: points with a radius."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.geometry.kinds import ELLIPSE, POINT, POLYGON
from roiservice.sources.tables.affine import Affine
from tests.sources.support import LIMITS
from tests.sources.tables.spatialstores import write_shapes, write_values
from tests.sources.tables.test_spatialshapes import (
    ENCODINGS,
    SQUARE,
    TURN,
    boxes,
    frame,
    mapped,
    outlines,
    read,
)

CENTERS = [(10.0, 20.0), (-3.5, 4.25)]
RADII = [2.0, 0.5]


def circles(path: Path, encoding: str = "WKB", **columns: Any) -> Path:
    points = [shapely.Point(center) for center in CENTERS]
    return write_shapes(path, frame(points, **{"radius": RADII, **columns}), encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("affine", "radii"),
    [
        (Affine(), (1, 1)),
        (TURN, (2, 2)),
        (Affine(math.cos(0.4), math.sin(0.4), 3, math.sin(0.4), -math.cos(0.4), 4), (1, 1)),
        (Affine(xx=3, yy=0.5, x0=7), (3, 0.5)),
        (Affine(0, -3, 1, 2, 0, 5), (3, 2)),
    ],
)
def test_circles_stay_ellipses(tmp_path: Path, encoding: str, affine: Affine, radii: Any) -> None:
    table = read(circles(tmp_path, encoding), affine)
    assert (table.kind == ELLIPSE).all()
    center = affine.apply(np.array(CENTERS))
    half = np.array(RADII)[:, None] * radii
    assert np.allclose(boxes(table), np.hstack([center - half, center + half]), atol=1e-9)
    assert table.columns == {}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tilted_ellipses_are_outlines(tmp_path: Path, encoding: str) -> None:
    shear = Affine(1, 0.7, 5, 0.1, 2, 6)
    table = read(circles(tmp_path, encoding), shear)
    assert (table.kind == POLYGON).all()
    for shape, center, radius in zip(outlines(table), CENTERS, RADII, strict=True):
        exact = mapped(shapely.Point(center).buffer(radius, quad_segs=500), shear)
        assert shape.symmetric_difference(exact).area < 0.002 * exact.area
        assert shape.is_valid


@pytest.mark.parametrize("affine", [Affine(), Affine(xx=2), Affine(xy=0.5)])
def test_radii_that_make_no_circle(tmp_path: Path, affine: Affine) -> None:
    radius = [2.0, -1.0, 0.0, None, math.inf]
    points = [shapely.Point(i, i) for i in range(5)]
    table = read(write_shapes(tmp_path, frame(points, radius=radius)), affine)
    assert table.label.tolist() == [0, 2, 3]
    assert table.kind[1:].tolist() == [POINT, POINT]
    assert table.refused.count == 2
    assert table.refused.reasons[0] == "row 2, column 'radius': a radius must be finite and not below 0"


def test_radii_are_numbers_and_only_of_points(tmp_path: Path) -> None:
    with pytest.raises(SourceDamaged, match=r"\[shapes/s\]: the column 'radius' must hold numbers"):
        read(circles(tmp_path / "a", radius=["a", "b"]))
    assert boxes(read(circles(tmp_path / "b", radius=[1, 2])))[0].tolist() == [9, 19, 11, 21]
    table = read(write_shapes(tmp_path / "c", frame([SQUARE], radius=[3.0])))
    assert table.columns["radius"].to_pylist() == [3.0]
    mixed = read(write_shapes(tmp_path / "d", frame([SQUARE, shapely.Point(9, 9)], radius=[None, 2.0])))
    assert mixed.kind.tolist() == [POLYGON, ELLIPSE]


def test_points_without_radius_are_points(tmp_path: Path) -> None:
    table = read(write_shapes(tmp_path, frame([shapely.Point(1, 2)])), TURN)
    assert table.kind.tolist() == [POINT]
    assert table.polygons.xy.tolist() == [[9, 298]]


def test_too_many_tilted_circles_are_refused_before_they_are_made(tmp_path: Path) -> None:
    root = circles(tmp_path)
    with pytest.raises(SourceRefused, match="its tilted circles have 128 vertices; 100 are allowed"):
        read(root, Affine(xy=0.5), replace(LIMITS, table_vertices=100))


def test_ragged_circles_need_as_many_radii(tmp_path: Path) -> None:
    root = circles(tmp_path, "ragged")
    write_values(root / "shapes" / "s" / "radius", np.array([1.0]))
    with pytest.raises(SourceDamaged, match=r"s/radius\]: has 1 entries for 2 shapes"):
        read(root)
