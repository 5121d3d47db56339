"""What a layer lacks is said wherever the layer is shown: on the command line and over HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import start_service
from tests.e2e.support import Home
from tests.stores import write_image

WARNING = "2 planes of the layer lie outside its image and are left out"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Labels of five times in an image of three; each time has an object of its own, 1 to 5."""
    labels = np.zeros((5, 12, 12), np.uint8)
    for t in range(5):
        labels[t, 2:6, 2:6] = t + 1
    return write_image(
        tmp_path / "images/1.zarr",
        labels={"cells": labels},
        axes="tyx",
        image_shape=(3, 12, 12),
        image_axes="tyx",
    )


@pytest.mark.parametrize("command", ["build", "export"])
def test_planes_beyond_the_image_are_said_whenever_a_command_builds(
    image: Path, tmp_path: Path, command: str
) -> None:
    home = Home(tmp_path / "home")
    for _ in range(2):  # built, then found
        done = home.run(command, image)
        assert done.returncode == 0
        assert done.stderr == f"roiservice: 1 cells: warning: {WARNING}\n"


def test_planes_beyond_the_image_are_not_written(image: Path, tmp_path: Path) -> None:
    features = json.loads(Home(tmp_path / "home").run("export", image).stdout)["features"]
    assert [(f["properties"]["label"], f["properties"]["t"]) for f in features] == [(1, 0), (2, 1), (3, 2)]


def test_planes_beyond_the_image_are_in_the_listing(image: Path, tmp_path: Path) -> None:
    done = Home(tmp_path / "home").run("images", image, "--json")
    (listed,) = json.loads(done.stdout)["images"]
    assert listed["warnings"] == [WARNING]
    assert listed["size"]["t"] == 3


def test_planes_beyond_the_image_are_said_of_the_collection(image: Path) -> None:
    client = start_service(image.parent).client
    assert client.get("/images/1/collections/labels:cells/items").get_json()["numberMatched"] == 3
    collection = client.get("/images/1/collections/labels:cells").get_json()
    assert collection["warnings"] == [WARNING]
    assert client.get("/images/1/collections").get_json()["collections"] == [collection]
