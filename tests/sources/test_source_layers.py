"""Which layers an image has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from roiservice.errors import NotFound, SourceDamaged, SourceError, SourceRefused
from roiservice.sources.layer import LayerSource
from roiservice.sources.layers import find_layers, layer_named
from roiservice.sources.limits import Limits
from tests.sources.support import LIMITS, blobs, image_at, listing_of
from tests.stores import edit_attributes, write_array, write_group, write_image, write_multiscale, zip_store

TWO = {"cells": blobs(8, 8), "original/0": blobs(8, 8)}


@pytest.mark.parametrize("version", ["0.1", "0.4", "0.5", "0.6"])
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_listed_unlisted_and_nested(tmp_path: Path, version: str, listed: bool, zipped: bool) -> None:
    path = write_image(tmp_path / "a.zarr", labels=TWO, version=version, listed=listed)
    path = zip_store(path) if zipped else path
    image, listing = image_at(path), listing_of(path)
    assert listing.layers == (
        LayerSource(image, "labels/cells", "labels:cells", "cells"),
        LayerSource(image, "labels/original/0", "labels:original:0", "original/0"),
    )
    assert listing.problems == ()
    assert listing.warnings == ()


def test_unlisted_ones_beside_listed_ones(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=TWO)
    edit_attributes(path / "labels", labels=["cells"])
    assert [layer.name for layer in listing_of(path).layers] == ["cells", "original/0"]


def test_no_labels_at_all(tmp_path: Path) -> None:
    path = write_multiscale(tmp_path / "a.zarr", blobs(8, 8))
    assert listing_of(path).layers == listing_of(path).problems == listing_of(path).warnings == ()


def test_entries_that_are_no_path_are_problems(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=TWO)
    bad = ["../../..", "/etc", "", 7, None, "a/../../b", ".", [], "nul\0"]
    edit_attributes(path / "labels", labels=[*bad, "cells", "cells/"])
    listing = listing_of(path)
    assert len(listing.problems) == len(bad)
    assert len(listing.layers) == 2
    assert all(isinstance(problem, SourceDamaged) for problem in listing.problems)
    assert "labels[1] ('/etc')" in str(listing.problems[1])


@pytest.mark.parametrize("entries", ["cells", 1, {"a": 1}])
def test_a_list_that_is_none_leaves_discovery(tmp_path: Path, entries: object) -> None:
    path = write_image(tmp_path / "a.zarr", labels=TWO)
    edit_attributes(path / "labels", labels=entries)
    listing = listing_of(path)
    assert len(listing.layers) == 2
    assert "must be a list" in str(listing.problems[0])


def test_ghosts_give_a_warning(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=TWO)
    edit_attributes(path / "labels", labels=["ghost", "cells"])
    listing = listing_of(path)
    assert len(listing.layers) == 2
    assert "'ghost'" in listing.warnings[0]
    assert listing.problems == ()


@pytest.mark.parametrize("listed", [True, False])
def test_damage_stays_with_its_layer(tmp_path: Path, listed: bool) -> None:
    labels = {name: blobs(8, 8) for name in ("cut", "bare", "empty", "good")}
    path = write_image(tmp_path / "a.zarr", labels=labels, version="0.4", listed=listed)
    cut = path / "labels/cut/.zattrs"
    cut.write_text(cut.read_text()[:50])
    edit_attributes(path / "labels/bare", multiscales=None)
    edit_attributes(path / "labels/empty", multiscales=[{}])
    listing = listing_of(path)
    assert [layer.name for layer in listing.layers] == ["good"]
    problems = {problem.part: problem.reason for problem in listing.problems}
    assert set(problems) == {"labels/cut/.zattrs", "labels/bare", "labels/empty/.zattrs"}
    assert "line 1" in problems["labels/cut/.zattrs"]
    assert "no multiscales" in problems["labels/bare"]
    image = image_at(path)
    for name in ("cut", "bare", "empty", "labels:cut"):
        with pytest.raises(SourceDamaged) as caught:
            layer_named(image, name, LIMITS)
        assert name.removeprefix("labels:") in caught.value.part


def test_damaged_list_leaves_discovery(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=TWO, version="0.4")
    (path / "labels/.zattrs").write_text("{")
    listing = listing_of(path)
    assert len(listing.layers) == 2
    assert listing.problems[0].part == "labels/.zattrs"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_listed_array_is_a_problem(tmp_path: Path, version: str) -> None:
    path = write_image(tmp_path / "a.zarr", labels=TWO, version=version)
    write_array(path / "labels/plain", blobs(8, 8), version)
    assert listing_of(path).problems == ()
    edit_attributes(path / "labels", labels=["plain"])
    assert "is an array" in str(listing_of(path).problems[0])


def test_a_layer_linked_from_outside_is_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=TWO)
    outside = write_multiscale(tmp_path / "outside", blobs(8, 8))
    (path / "labels/out").symlink_to(outside)
    listing = listing_of(path)
    assert len(listing.layers) == 2
    assert isinstance(listing.problems[0], SourceRefused)


def test_the_image_group_is_listed_only_with_image_label(tmp_path: Path) -> None:
    path = write_multiscale(tmp_path / "a.zarr", blobs(8, 8))
    image = image_at(path)
    root = LayerSource(image, "", "root", ".")
    assert find_layers(image, LIMITS).layers == ()
    assert layer_named(image, ".", LIMITS) == layer_named(image, "root", LIMITS) == root
    write_multiscale(path, blobs(8, 8), extra={"image-label": {}})
    assert find_layers(image, LIMITS).layers == (root,)


def test_a_damaged_image_group_leaves_its_labels(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=TWO, version="0.4")
    image = image_at(path)
    (path / ".zattrs").write_text("{")
    listing = find_layers(image, LIMITS)
    assert len(listing.layers) == 2
    assert listing.problems[0].part == ".zattrs"


def test_layers_by_name_and_collection(tmp_path: Path) -> None:
    image = image_at(write_image(tmp_path / "a.zarr", labels=TWO))
    assert layer_named(image, "original/0", LIMITS) == layer_named(image, "labels:original:0", LIMITS)
    for name in ("nuclei", "", "..", "../..", "nul\0", "labels/cells", "\ud800"):
        with pytest.raises(NotFound, match="labels:cells, labels:original:0"):
            layer_named(image, name, LIMITS)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_layer_whose_metadata_cannot_be_read_is_not_one_that_is_not_there(
    tmp_path: Path, version: str
) -> None:
    path = write_image(tmp_path / "a.zarr", labels=TWO, version=version)
    document = "zarr.json" if version == "0.5" else ".zattrs"
    (path / "labels/cells" / document).write_text("{")
    for name in ("cells", "labels:cells"):
        with pytest.raises(SourceDamaged) as caught:
            layer_named(image_at(path), name, LIMITS)
        assert caught.value.part == f"labels/cells/{document}"


def test_root_of_an_image_without_multiscales(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=TWO, image=False)
    with pytest.raises(SourceError, match="no multiscales"):
        layer_named(image_at(path), ".", LIMITS)


def test_layers_with_the_same_id(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels={"a/b": blobs(8, 8), "a:b": blobs(8, 8)})
    listing = listing_of(path)
    assert [layer.name for layer in listing.layers] == ["a/b"]
    assert "same id 'labels:a:b'" in str(listing.problems[0])


def test_too_many_layers(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels={f"l{n}": blobs(4, 4) for n in range(5)})
    for listed in (True, False):
        if not listed:
            edit_attributes(path / "labels", labels=None)
        listing = find_layers(image_at(path), Limits(layers=3))
        assert len(listing.layers) == 3
        assert "more than 3 layers" in str(listing.problems[0])


def test_too_many_groups_that_are_no_layers(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=TWO)
    for number in range(40):
        write_group(path / f"labels/g{number:02}", "0.5", {})
    listing = find_layers(image_at(path), Limits(layers=3))
    assert len(listing.layers) == 2
    assert "too many groups" in str(listing.problems[-1])
    assert len(listing.problems) < 40


def test_folders_without_metadata_are_searched_only_so_deep(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=TWO)
    write_group(path / "labels" / "/".join("x" * 40), "0.5", {})
    (path / "labels/junk").mkdir()
    content = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    (path / "labels/empty").mkdir()
    (path / "labels/empty/zarr.json").write_text(json.dumps(content))
    listing = listing_of(path)
    assert len(listing.layers) == 2
    assert [problem.part for problem in listing.problems] == ["labels/empty"]
