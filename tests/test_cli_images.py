"""`roiservice images` and `roiservice build`, run for real on real stores."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.support import COMMAND, Home
from tests.stores import edit_attributes, write_image, write_plate


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images 12 and `other`, the second with a sound layer and a damaged one."""
    labels = np.zeros((3, 20, 30), np.uint16)
    labels[:, 2:6, 2:6] = 1
    write_image(tmp_path / "images/12.zarr", labels={"cells": labels}, axes="zyx")
    two = {"good": labels[0], "bad": labels[0]}
    write_image(tmp_path / "images/other.zarr", labels=two)
    edit_attributes(tmp_path / "images/other.zarr/labels/bad", multiscales=None)
    return tmp_path / "images"


def catalogs(home: Home) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in home.path.glob("cache/roiservice/**/layer.json")}


def test_images_are_listed_with_layers_and_problems(home: Home, folder: Path) -> None:
    done = home.run("images", folder)
    assert done.returncode == 1
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["id", "image", "layer", "planes", "height", "x", "width", "type"]
    assert rows[1] == ["12", "12", "cells", "3", "20", "x", "30", "uint16"]
    assert rows[2][1:] == ["other", "good", "1", "20", "x", "30", "uint16"]
    (problem,) = done.stderr.splitlines()
    assert problem.startswith("roiservice: ")
    assert "labels/bad" in problem


def test_images_as_json(home: Home, folder: Path) -> None:
    listed = json.loads(home.run("images", folder, "--json").stdout)
    first, second = listed["images"]
    assert first["id"] == 12
    assert first["size"] == {"t": 1, "c": 1, "z": 3, "y": 20, "x": 30}
    assert [layer["collection"] for layer in first["layers"]] == ["labels:cells"]
    assert second["id"] >= 10**14
    assert len(second["problems"]) == 1
    assert json.loads(home.run("images", folder, "--json").stdout) == listed  # numbers last


def test_an_image_is_given_an_id(home: Home, folder: Path) -> None:
    done = home.run("images", f"77={folder / '12.zarr'}", "--json")
    assert done.returncode == 0
    assert [image["id"] for image in json.loads(done.stdout)["images"]] == [77]


@pytest.mark.parametrize("identifier", ["0", str(10**14), str(2**64)])
def test_an_id_out_of_range_is_refused(home: Home, folder: Path, identifier: str) -> None:
    done = home.run("images", f"{identifier}={folder / '12.zarr'}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_build_does_what_it_can_and_says_what_it_could_not(home: Home, folder: Path) -> None:
    done = home.run("build", folder)
    assert done.returncode == 1
    assert done.stdout.splitlines() == ["12 cells: 1 ROIs, 3 features", "other good: 1 ROIs, 1 features"]
    assert "labels/bad" in done.stderr
    assert "\x1b" not in done.stderr  # no progress bar: that is for terminals
    assert len(catalogs(home)) == 2


def test_build_leaves_alone_what_is_up_to_date(home: Home, folder: Path) -> None:
    home.run("build", folder)
    built = catalogs(home)
    home.run("build", folder)
    assert catalogs(home) == built


def test_force_builds_what_only_seems_to_be_up_to_date(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"

    def label() -> int:
        return int(json.loads(home.run("export", path, "-f", "ndjson").stdout)["properties"]["label"])

    labels = np.zeros((20, 30), np.uint16)
    labels[2:6, 2:6] = 1
    write_image(path, labels={"cells": labels})
    assert label() == 1
    before = {file: file.stat() for file in path.rglob("*")}
    write_image(path, labels={"cells": labels * 2})
    for file, status in before.items():
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert file.stat().st_size == status.st_size
    assert label() == 1
    assert home.run("build", path, "--force").returncode == 0
    assert label() == 2


def test_build_shows_progress_on_a_terminal(home: Home, folder: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "build", str(folder)],
        env=home.environment | {"TERM": "xterm"},
        stdout=subprocess.DEVNULL,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    try:
        while block := os.read(leader, 4096):
            shown += block
    except OSError:
        pass  # Linux reports the end of a terminal so
    os.close(leader)
    assert process.wait(60) == 1
    assert b"12 cells" in shown
    assert b"100%" in shown


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    labels = np.ones((8, 8), np.uint8)
    return write_plate(tmp_path / "plate.zarr", {"B/03/0": {"cells": labels}, "B/03/1": {"cells": labels}})


def test_fields_of_a_plate_are_listed_by_their_wells(home: Home, plate: Path) -> None:
    rows = home.run("images", plate).stdout.splitlines()[1:]
    assert [row.split()[1:3] for row in rows] == [["plate/B/03/0", "cells"], ["plate/B/03/1", "cells"]]
    listed = json.loads(home.run("images", plate, "--json").stdout)["images"]
    assert [(image["path"], image["well"], image["field"]) for image in listed] == [
        ("B/03/0", "B/03", "0"),
        ("B/03/1", "B/03", "1"),
    ]


@pytest.mark.parametrize("by", ["option", "environment"])
def test_ids_are_taken_from_a_file(home: Home, plate: Path, by: str) -> None:
    file = plate.parent / "ids.csv"
    file.write_text("path,id\nplate.zarr#B/03/1,7\nplate.zarr#B/04/0,8\n")
    option = ["--ids", file] if by == "option" else []
    home = home if by == "option" else replace(home, settings={"ROISERVICE_IDS": str(file)})
    done = home.run("images", plate, *option)
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].split()[:2] == ["7", "plate/B/03/1"]
    warning = f"{file}: 1 of 2 rows name no image here: plate.zarr#B/04/0 (line 3)"
    assert done.stderr == f"roiservice: warning: {warning}\n"
    listing = json.loads(home.run("images", plate, "--json", *option).stdout)
    assert listing["warnings"] == [warning]
    assert home.run("build", plate, *option).stderr == done.stderr
    exported = home.run("export", plate / "B/03/1", *option)
    assert (exported.returncode, exported.stderr) == (0, ""), "the other rows are none of its business"


def test_a_file_of_ids_that_contradicts_itself_stops_every_command(home: Home, plate: Path) -> None:
    file = plate.parent / "ids.csv"
    file.write_text("plate.zarr#B/03/1,7\nplate.zarr#B/03/0,7\n")
    for command in ("serve", "build", "images", "export"):
        done = home.run(command, plate, "--ids", file)
        assert done.returncode == 2
        assert done.stderr == f"roiservice: {file}: lines 1 and 2 both have the id 7\n"


def test_warnings_of_layers_are_listed(home: Home, tmp_path: Path) -> None:
    labels = np.ones((2, 8, 8), np.uint8)
    path = write_image(tmp_path / "a.zarr", labels={"cells": labels}, axes="tyx", image_shape=(1, 8, 8))
    done = home.run("images", path)
    assert done.returncode == 0
    assert (
        done.stderr
        == "roiservice: warning: a: 1 planes of the layer lie outside its image and are left out\n"
    )
