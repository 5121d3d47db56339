"""FlatGeobuf, as GDAL writes it."""

from __future__ import annotations

import builtins
import contextlib
from pathlib import Path
from typing import Any

import geopandas
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.geometry.polygons import to_shapely
from roiservice.sources.limits import Limits
from tests.sources.tables.tablefiles import columns_of, polygons, read, same_areas, shapes

# One path serves all examples: each writes the file anew.
some = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(path: Path, frame: Any, **options: Any) -> bytes:
    frame.to_file(path / "a.fgb", driver="FlatGeobuf", **options)
    return (path / "a.fgb").read_bytes()


@some
@given(st.lists(polygons, min_size=1, max_size=6), st.sampled_from(["YES", "NO"]))
def test_polygons_are_those_that_geopandas_reads(tmp_path: Path, shown: list[Any], indexed: str) -> None:
    frame = geopandas.GeoDataFrame({"label": range(3, 3 + len(shown)), "a": "x"}, geometry=shown)
    data = written(tmp_path, frame, SPATIAL_INDEX=indexed)
    theirs = geopandas.read_file(tmp_path / "a.fgb")
    table = shapes(data, "a.fgb")
    assert table.label.tolist() == theirs.label.tolist()
    assert same_areas(to_shapely(table.polygons), theirs.geometry)
    assert columns_of(table) == {"a": ["x"] * len(shown)}


def test_what_is_no_flatgeobuf_is_damaged(tmp_path: Path) -> None:
    sound = written(tmp_path, geopandas.GeoDataFrame({"a": [1]}, geometry=[shapely.box(0, 0, 1, 1)]))
    for data in (b"", b"junk", b"fgb\x02fgb\x00" + sound[8:]):
        with pytest.raises(SourceDamaged, match="is no FlatGeobuf file of version 3"):
            read(data, "a.fgb")
    with pytest.raises(SourceDamaged, match="GDAL cannot read it"):
        read(sound[:100], "a.fgb")
    for at in range(8, len(sound), 3):
        for junk in (b"\xff" * 4, b"\x7f\0\0\0", b"\0"):
            with contextlib.suppress(SourceDamaged, SourceRefused):
                read(sound[:at] + junk + sound[at + len(junk) :], "a.fgb")


def test_limits_hold(tmp_path: Path) -> None:
    boxes = [shapely.box(n, 0, n + 1, 1) for n in range(3)]
    data = written(tmp_path, geopandas.GeoDataFrame({"a": [1, 2, 3]}, geometry=boxes))
    with pytest.raises(SourceRefused, match="has more than 2 rows"):
        read(data, "a.fgb", Limits(table_rows=2))


def test_without_gdal_it_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("pyogrio"):
            raise ImportError(name)
        return find(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SourceRefused, match=r"install roiservice\[gdal\]"):
        read(b"fgb\x03fgb\x00", "a.fgb")
