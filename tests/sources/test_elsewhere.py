"""Label images of an image that lie in other stores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from roiservice.catalog.task import LayerKey, Rules, Task, as_json, from_json
from roiservice.errors import SourceDamaged
from roiservice.sources.elsewhere import label_elsewhere, label_place
from roiservice.sources.images import ImageSource
from roiservice.sources.layers import find_layers, layer_named
from roiservice.sources.limits import Limits
from roiservice.sources.opened import open_source
from roiservice.sources.planes import LabelLayer
from roiservice.sources.tokens import source_token
from roiservice.vectorize.outlines import Outline
from tests.sources.remote.server import served
from tests.sources.support import LIMITS, blobs, image_at, whole
from tests.stores import write_image, write_multiscale

CELLS = {"cells": blobs(8, 8)}


def with_labels(image: Path, *labels: Path | str) -> ImageSource:
    return replace(image_at(image), labels=tuple(label_place(str(label), LIMITS) for label in labels))


def test_a_label_image_below_an_image_is_related_to_that(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", image_shape=(8, 8))
    write_image(
        tmp_path / "b.zarr", labels={"half": blobs(8, 8)}, image_shape=(16, 16), label_scale=(2.0, 2.0)
    )
    assert label_place(str(tmp_path / "b.zarr/labels/half"), LIMITS) == (
        str(tmp_path / "b.zarr"),
        "labels/half",
    )
    layer = layer_named(with_labels(tmp_path / "a.zarr", tmp_path / "b.zarr/labels/half"), "half", LIMITS)
    opened = open_source(layer, LIMITS)
    assert isinstance(opened, LabelLayer)
    assert (opened.frame.scale_x, opened.image_size[-2:]) == (2.0, (16, 16))
    assert (whole(opened) == blobs(8, 8)).all()


def test_a_nested_label_image_has_its_path_as_its_name(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr")
    write_image(tmp_path / "b.zarr", labels={"original/0": blobs(8, 8)})
    image = with_labels(tmp_path / "a.zarr", tmp_path / "b.zarr/labels/original/0")
    assert [layer.collection for layer in find_layers(image, LIMITS).layers] == ["labels:original:0"]


@pytest.mark.parametrize("folder", ["labels", "x/labels"])
def test_a_folder_that_is_called_labels_is_no_image(tmp_path: Path, folder: str) -> None:
    place = str(write_multiscale(tmp_path / folder / "a.zarr", blobs(8, 8)))
    assert label_place(place, LIMITS) == (place, "")


def test_label_images_of_one_name_are_told(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", labels=CELLS)
    places = [write_multiscale(tmp_path / folder / "cells.zarr", blobs(8, 8)) for folder in ("b", "c")]
    listing = find_layers(with_labels(tmp_path / "a.zarr", *places), LIMITS)
    assert [layer.location for layer in listing.layers] == [str(tmp_path / "a.zarr")]
    assert [problem.store for problem in listing.problems] == [str(place) for place in places]
    assert "same id 'labels:cells'" in str(listing.problems[0])


def test_the_image_above_is_opened_only_if_it_may_be(tmp_path: Path) -> None:
    write_image(tmp_path / "b.zarr", labels=CELLS)
    place = str(tmp_path / "b.zarr/labels/cells")
    assert label_place(place, LIMITS, lambda _: False) == (place, "")


def test_label_images_behind_urls(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr")
    write_image(tmp_path / "b.zarr", labels=CELLS)
    write_multiscale(tmp_path / "alone.zarr", blobs(8, 8))
    with served(tmp_path) as web:
        urls = [f"{web.url}/b.zarr/labels/cells", f"{web.url}/alone.zarr", f"{web.url}/gone.zarr"]
        listing = find_layers(with_labels(tmp_path / "a.zarr", *urls), LIMITS)
        assert {layer.collection for layer in listing.layers} == {"labels:cells", "labels:alone"}
        assert [problem.store for problem in listing.problems] == [urls[2]]
        for layer in listing.layers:
            assert (whole(open_source(layer, LIMITS)) == blobs(8, 8)).all()
            assert source_token(layer, LIMITS)


def test_a_place_without_labels_is_an_error(tmp_path: Path) -> None:
    image = image_at(write_image(tmp_path / "a.zarr", labels=CELLS))
    with pytest.raises(SourceDamaged, match="no label image"):
        label_elsewhere(image, (image.location, "labels"), LIMITS)


def test_the_token_tells_a_change_of_the_image_that_is_its_grid(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", image_shape=(16, 16))
    write_multiscale(tmp_path / "alone.zarr", blobs(8, 8), scale=(2.0, 2.0))
    (layer,) = find_layers(with_labels(tmp_path / "a.zarr", tmp_path / "alone.zarr"), LIMITS).layers
    before = source_token(layer, LIMITS)
    assert source_token(layer, LIMITS) == before
    write_image(tmp_path / "a.zarr", image_shape=(16, 16), scale=(0.5, 0.5))
    assert source_token(layer, LIMITS) != before


def test_a_process_of_its_own_gets_the_whole_layer(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr")
    write_multiscale(tmp_path / "alone.zarr", blobs(8, 8))
    (layer,) = find_layers(with_labels(tmp_path / "a.zarr", tmp_path / "alone.zarr"), LIMITS).layers
    assert layer.own_store
    rules = Rules(Outline(0.0, 0.0, False), 1, 1, 1, 1, 1.0, 1.0, 5)
    task = Task(LayerKey(1, layer), tmp_path, tmp_path, "uuid", rules, Limits())
    assert from_json(json.loads(as_json(task))) == task
