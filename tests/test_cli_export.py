"""`roiservice export`, run for real on real stores."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import geojson
import numpy as np
import pytest
import shapely

from tests.e2e.support import COMMAND, Home
from tests.stores import write_image, write_multiscale, write_plate

csv.field_size_limit(sys.maxsize)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def two_layers(path: Path) -> Path:
    cells = np.zeros((40, 50), np.uint16)
    cells[2:12, 2:12], cells[5:8, 5:8] = 3, 0
    cells[20:30, 20:30], cells[30:35, 30:35] = 4, 4  # two parts that meet at a corner
    nuclei = np.zeros((40, 50), np.uint64)
    nuclei[3:6, 40:44] = 2**60
    image_label = {"properties": [{"label-value": 3, "kind": "ring", "score": 1.5}]}
    return write_image(path, labels={"cells": cells, "deep/nuclei": nuclei}, image_label=image_label)


def moving(path: Path) -> Path:
    labels = np.zeros((2, 4, 16, 16), np.uint8)
    labels[:, :, 1:4, 1:4] = 1
    for t in range(2):
        for z in range(4):
            labels[t, z, 8:10, 8:12] = 10 + 4 * t + z
    return write_image(path, labels={"cells": labels}, axes="tzyx")


def damage_chunk(path: Path) -> None:
    for chunk in (path / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(chunk.read_bytes()[:5])


def exported(home: Home, *arguments: object) -> list[dict[str, Any]]:
    done = home.run("export", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    collection = geojson.loads(done.stdout)
    assert collection.is_valid
    return list(collection["features"])


def by_label(features: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {int(feature["properties"]["label"]): feature for feature in features}


@pytest.mark.parametrize("command", ["build", "export"])
def test_a_listed_label_image_that_is_not_there_is_told_of(home: Home, tmp_path: Path, command: str) -> None:
    path = two_layers(tmp_path / "image.zarr")
    shutil.rmtree(path / "labels/deep")
    done = home.run(command, path)
    assert done.returncode == 0
    assert "image: warning: labels: lists 'deep/nuclei', but there is no such group" in done.stderr


def test_every_layer_is_written_and_each_feature_names_its_own(home: Home, tmp_path: Path) -> None:
    features = exported(home, two_layers(tmp_path / "image.zarr"))
    assert [(f["properties"]["layer"], int(f["properties"]["label"])) for f in features] == [
        ("cells", 3),
        ("cells", 4),
        ("deep/nuclei", 2**60),
    ]
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in features]
    assert [shape.area for shape in shapes] == [91, 125, 12]
    assert [shape.geom_type for shape in shapes] == ["Polygon", "MultiPolygon", "Polygon"]
    assert features[0]["properties"] | {"kind": "ring", "score": 1.5} == features[0]["properties"]


@pytest.mark.parametrize("name", ["deep/nuclei", "labels:deep:nuclei"])
def test_one_layer_is_asked_for_by_path_or_id(home: Home, tmp_path: Path, name: str) -> None:
    features = exported(home, two_layers(tmp_path / "image.zarr"), "--layer", name)
    assert [feature["properties"]["layer"] for feature in features] == ["deep/nuclei"]


def test_a_label_image_of_its_own_is_asked_for_by_a_dot(home: Home, tmp_path: Path) -> None:
    labels = np.zeros((9, 9), np.int32)
    labels[2:4, 2:5] = -7
    path = write_multiscale(tmp_path / "labels.zarr", labels)
    assert [shapely.geometry.shape(f["geometry"]).area for f in exported(home, path, "--layer", ".")] == [6]
    without = home.run("export", path)
    assert without.returncode == 1
    assert "--layer ." in without.stderr


def test_planes_are_selected(home: Home, tmp_path: Path) -> None:
    path = moving(tmp_path / "image.zarr")
    assert {f["properties"]["label"] for f in exported(home, path, "-z", 2)} == {1, 12, 16}
    assert {f["properties"]["label"] for f in exported(home, path, "-z", "1-2", "-t", 1)} == {1, 15, 16}
    nothing = home.run("export", path, "-z", 9)
    assert (nothing.returncode, json.loads(nothing.stdout)["features"]) == (0, [])
    assert "no objects there" in nothing.stderr


def test_omero_shapes_are_those_of_the_planes_asked_for(home: Home, tmp_path: Path) -> None:
    path = moving(tmp_path / "image.zarr")
    rois = json.loads(home.run("export", path, "-f", "omero", "-z", 2).stdout)["data"]
    assert [len(roi["shapes"]) for roi in rois] == [2, 1, 1]
    assert {shape["TheZ"] for roi in rois for shape in roi["shapes"]} == {2}
    everything = json.loads(home.run("export", path, "-f", "omero").stdout)["data"]
    assert [len(roi["shapes"]) for roi in everything] == [8, *[1] * 8]


def test_every_format_holds_the_same_objects(home: Home, tmp_path: Path) -> None:
    path = two_layers(tmp_path / "image.zarr")
    plain = exported(home, path)

    lines = home.run("export", path, "-f", "ndjson").stdout.splitlines()
    assert [json.loads(line) for line in lines] == plain

    rows = list(csv.DictReader(home.run("export", path, "-f", "wkt").stdout.splitlines()))
    assert [row["layer"] for row in rows] == ["cells", "cells", "deep/nuclei"]
    assert [row["kind"] for row in rows] == ["ring", "", ""]  # columns are those of all layers
    for row, feature in zip(rows, plain, strict=True):
        assert shapely.from_wkt(row["WKT"]).equals(shapely.geometry.shape(feature["geometry"]))

    qupath = json.loads(home.run("export", path, "-f", "qupath").stdout)["features"]
    assert [feature["geometry"]["coordinates"] for feature in qupath] == [
        json.loads(json.dumps(feature["geometry"]["coordinates"])) for feature in plain
    ]

    omero = json.loads(home.run("export", path, "-f", "omero").stdout)["data"]
    assert [len(roi["shapes"]) for roi in omero] == [1, 2, 1]


@pytest.mark.parametrize("form", ["geojson", "ndjson", "wkt", "qupath", "omero"])
def test_nothing_is_lost_between_batches(home: Home, tmp_path: Path, form: str) -> None:
    labels = np.zeros((280, 280), np.uint16)
    labels[::4, ::4] = np.arange(1, 4901).reshape(70, 70)
    path = write_image(tmp_path / "image.zarr", labels={"dots": labels})
    text = home.run("export", path, "-f", form).stdout
    if form == "wkt":
        found = [int(row["label"]) for row in csv.DictReader(text.splitlines())]
    elif form == "ndjson":
        found = [json.loads(line)["properties"]["label"] for line in text.splitlines()]
    elif form == "omero":
        found = [int(roi["shapes"][0]["Text"]) for roi in json.loads(text)["data"]]
    else:
        name = "name" if form == "qupath" else "label"
        found = [int(feature["properties"][name]) for feature in json.loads(text)["features"]]
    assert sorted(found) == list(range(1, 4901))


def test_ids_last_from_one_export_to_the_next(home: Home, tmp_path: Path) -> None:
    path = two_layers(tmp_path / "image.zarr")
    first = home.run("export", path).stdout
    assert home.run("export", path).stdout == first


def test_roi_ids_last_over_forced_builds(home: Home, tmp_path: Path) -> None:
    path = two_layers(tmp_path / "image.zarr")
    before = json.loads(home.run("export", path, "-f", "omero").stdout)["data"]
    assert home.run("build", path, "--force").returncode == 0
    after = json.loads(home.run("export", path, "-f", "omero").stdout)["data"]
    assert [roi["@id"] for roi in after] == [roi["@id"] for roi in before]


def test_outline_options(home: Home, tmp_path: Path) -> None:
    path = two_layers(tmp_path / "image.zarr")
    assert by_label(exported(home, path, "--layer", "cells", "--min-area", 100)).keys() == {4}
    for options in (["--smooth"], ["--simplify", 3]):
        features = exported(home, path, "--layer", "cells", *options)
        assert by_label(features).keys() == {3, 4}
        assert features != exported(home, path, "--layer", "cells")


def test_a_file_appears_whole_with_the_usual_permissions(home: Home, tmp_path: Path) -> None:
    path = two_layers(tmp_path / "image.zarr")
    out = tmp_path / "out"
    out.mkdir()
    done = home.run("export", path, "-o", out / "rois.geojson", umask=0o027)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [item.name for item in out.iterdir()] == ["rois.geojson"]
    assert (out / "rois.geojson").stat().st_mode & 0o777 == 0o640
    assert (out / "rois.geojson").read_text() == home.run("export", path).stdout


def test_a_folder_that_is_not_there_is_said_in_one_line(home: Home, tmp_path: Path) -> None:
    path = two_layers(tmp_path / "image.zarr")
    done = home.run("export", path, "-o", tmp_path / "nowhere" / "rois.geojson")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nowhere" in done.stderr


def test_sound_layers_are_written_beside_a_damaged_one(home: Home, tmp_path: Path) -> None:
    path = two_layers(tmp_path / "image.zarr")
    damage_chunk(path / "labels/cells/0")
    done = home.run("export", path, "-o", tmp_path / "rois.geojson")
    assert done.returncode == 1
    assert "labels/cells/0" in done.stderr
    assert done.stderr.count("\n") == 1
    features = json.loads((tmp_path / "rois.geojson").read_text())["features"]
    assert [feature["properties"]["layer"] for feature in features] == ["deep/nuclei"]


def test_nothing_is_written_when_the_layer_asked_for_is_damaged(home: Home, tmp_path: Path) -> None:
    path = two_layers(tmp_path / "image.zarr")
    damage_chunk(path / "labels/cells/0")
    (tmp_path / "rois.geojson").write_text("as it was")
    done = home.run("export", path, "--layer", "cells", "-o", tmp_path / "rois.geojson")
    assert done.returncode == 1
    assert (tmp_path / "rois.geojson").read_text() == "as it was"
    piped = home.run("export", path, "--layer", "cells")
    assert (piped.returncode, piped.stdout) == (1, "")


def test_an_unknown_layer_is_answered_with_those_there_are(home: Home, tmp_path: Path) -> None:
    done = home.run("export", two_layers(tmp_path / "image.zarr"), "--layer", "cell")
    assert done.returncode == 1
    assert "labels:cells, labels:deep:nuclei" in done.stderr


def test_one_field_of_a_plate(home: Home, tmp_path: Path) -> None:
    square = np.zeros((8, 8), np.uint8)
    square[1:4, 1:4] = 1
    fields = {"A/1/0": {"cells": square}, "B/2/0": {"cells": square.T * 2}}
    path = write_plate(tmp_path / "plate.zarr", fields)
    done = home.run("export", path)
    assert done.returncode == 2
    assert "A/1/0" in done.stderr
    assert "B/2/0" in done.stderr
    assert by_label(exported(home, path / "B/2/0")).keys() == {2}


def test_a_reader_that_goes_away_is_no_error_worth_a_word(home: Home, tmp_path: Path) -> None:
    labels = np.zeros((280, 280), np.uint16)
    labels[::4, ::4] = np.arange(1, 4901).reshape(70, 70)
    path = write_image(tmp_path / "image.zarr", labels={"dots": labels})
    process = subprocess.Popen(
        [*COMMAND, "export", str(path)],
        env=home.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(100)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 1
