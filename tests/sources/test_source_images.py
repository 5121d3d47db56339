"""Which images lie at a location."""

from __future__ import annotations

from pathlib import Path

import pytest

from roiservice.errors import BadParameter, SourceDamaged, SourceRefused
from roiservice.sources import roots
from roiservice.sources.images import ImageSource, find_images
from roiservice.sources.limits import Limits
from roiservice.sources.store import Store
from tests.conftest import start_service
from tests.sources.support import LIMITS, blobs, found, image_at
from tests.stores import write_group, write_image, write_multiscale, write_plate, zip_store

CELLS = {"cells": blobs(8, 8)}


def names(location: Path) -> list[str]:
    return [image.name for image in found(location) if isinstance(image, ImageSource)]


def write_series(path: Path, count: int, **ome: object) -> Path:
    write_group(path, "0.4", {"bioformats2raw.layout": 3})
    for index in range(count):
        write_image(path / str(index), labels=CELLS, version="0.4")
    write_group(path / "OME", "0.4", ome)
    return path


@pytest.mark.parametrize("version", ["0.1", "0.4", "0.5", "0.6"])
def test_one_image(tmp_path: Path, version: str) -> None:
    path = write_image(tmp_path / "a.ome.zarr", labels=CELLS, version=version)
    assert found(path) == [ImageSource(str(path.resolve()), "", "a", None)]


@pytest.mark.parametrize(
    ("name", "stem", "number"),
    [
        ("6001240.zarr", "6001240", 6001240),
        ("6001240.ome.zarr", "6001240", 6001240),
        ("07.zarr", "07", None),
        ("0.zarr", "0", None),
        ("202611221559590.zarr", "202611221559590", None),
        ("cells7.zarr", "cells7", None),
        ("7", "7", None),
        ("a.b.zarr", "a.b", None),
    ],
)
def test_numbers_in_file_names(tmp_path: Path, name: str, stem: str, number: int | None) -> None:
    image = image_at(write_image(tmp_path / name, labels=CELLS))
    assert (image.name, image.given_id) == (stem, number)


def test_number_in_a_zip_name(tmp_path: Path) -> None:
    image = image_at(zip_store(write_image(tmp_path / "12.zarr", labels=CELLS)))
    assert (image.name, image.given_id) == ("12", 12)


def test_inner_groups_give_no_number(tmp_path: Path) -> None:
    series = write_series(tmp_path / "a.zarr", 2)
    write_image(series / "5.zarr", labels=CELLS)
    assert image_at(series / "1").given_id is None
    assert image_at(series / "5.zarr").given_id is None


def test_a_link_gives_the_name(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=CELLS)
    (tmp_path / "33.zarr").symlink_to(path)
    image = image_at(tmp_path / "33.zarr")
    assert (image.name, image.given_id, image.location) == ("33", 33, str(path.resolve()))


def test_given_number_wins_and_is_for_one_image_only(tmp_path: Path) -> None:
    path = write_image(tmp_path / "6.zarr", labels=CELLS)
    (image,) = find_images(path, 99, LIMITS)
    assert isinstance(image, ImageSource)
    assert image.given_id == 99
    write_image(tmp_path / "7.zarr", labels=CELLS)
    with pytest.raises(BadParameter, match="ID=PATH"):
        list(find_images(tmp_path, 99, LIMITS))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_plate(tmp_path: Path, version: str) -> None:
    fields = {"A/1/0": CELLS, "A/1/1": {}, "A/03/0": CELLS, "B/2/0": CELLS}
    path = write_plate(tmp_path / "5.zarr", fields, version=version, absent_wells=["C/1"])
    images = found(path)
    assert [image.name for image in images if isinstance(image, ImageSource)] == [
        f"5/{field}" for field in sorted(fields)
    ]
    assert all(isinstance(image, ImageSource) and image.given_id is None for image in images)
    assert [image.path for image in images if isinstance(image, ImageSource)] == sorted(fields)
    assert [(image.well, image.field) for image in images if isinstance(image, ImageSource)] == [
        ("A/03", "0"),
        ("A/1", "0"),
        ("A/1", "1"),
        ("B/2", "0"),
    ]
    assert image_at(path / "A/1/0").name == "0"
    assert image_at(path / "A/1/0").well is None


def test_damaged_members_of_a_plate_come_as_errors(tmp_path: Path) -> None:
    path = write_plate(tmp_path / "p.zarr", {f"A/{n}/0": CELLS for n in range(1, 6)}, version="0.4")
    (path / "A/2/.zattrs").write_text("{")
    (path / "A/3/0/.zattrs").write_text("{")
    (path / "A/4/.zattrs").write_text('{"well": {"images": [{"path": "../../../.."}, {"path": "0"}, 1]}}')
    (path / "A/5/.zattrs").write_text('{"well": 1}')
    images = found(path)
    errors = [str(image) for image in images if isinstance(image, SourceDamaged)]
    assert names(path) == ["p/A/1/0", "p/A/4/0"]
    assert len(errors) == 5
    for part in ("A/2/.zattrs", "A/3/0/.zattrs", "images[0].path", "images[2].path", "well.images must be"):
        assert sum(part in error for error in errors) == 1


def test_plate_with_unusable_wells(tmp_path: Path) -> None:
    path = write_plate(tmp_path / "p.zarr", {"A/1/0": CELLS}, version="0.4")
    wells = [{"path": "A/1"}, {"path": "A/1/"}, {"path": "/etc"}, None]
    write_group(path, "0.4", {"plate": {"wells": wells}})
    assert [type(image) for image in found(path)] == [ImageSource, SourceDamaged, SourceDamaged]
    write_group(path, "0.4", {"plate": []})
    with pytest.raises(SourceDamaged, match=r"plate.wells"):
        found(path)


def test_series(tmp_path: Path) -> None:
    path = write_series(tmp_path / "8.zarr", 3)
    assert names(path) == ["8/0", "8/1", "8/2"]
    assert {image.given_id for image in found(path) if isinstance(image, ImageSource)} == {None}
    listed = write_series(tmp_path / "9.zarr", 3, series=["1", "0", "../x", 7])
    assert names(listed) == ["9/0", "9/1"]
    assert image_at(write_series(tmp_path / "10.zarr", 1)).given_id == 10


def test_spatialdata_root_is_one_image(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    write_group(path, "0.5", {}, spatialdata_attrs={"version": "0.2"})
    write_group(path / "labels", "0.5", {"labels": ["cells"]})
    write_multiscale(path / "labels/cells", blobs(8, 8))
    write_multiscale(path / "images/raw", blobs(8, 8))
    assert found(path) == [ImageSource(str(path.resolve()), "", "s", None)]


@pytest.mark.parametrize("extra", [{}, {"image-label": {}}])
def test_a_root_that_is_a_label_is_an_image(tmp_path: Path, extra: dict[str, object]) -> None:
    path = write_multiscale(tmp_path / "label.zarr", blobs(8, 8), extra=extra)
    assert names(path) == ["label"]


def test_zip_of_a_folder(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", labels=CELLS, version="0.4")
    image = image_at(zip_store(path, ".zip", inside="a.zarr/"))
    assert (image.path, image.name) == ("a.zarr", "a")


def test_folder_of_stores(tmp_path: Path) -> None:
    write_image(tmp_path / "b.zarr", labels=CELLS)
    write_image(tmp_path / "deep/er/3.zarr", labels=CELLS, version="0.4")
    write_plate(tmp_path / "p.zarr", {"A/1/0": CELLS})
    zip_store(write_image(tmp_path / "z.zarr", labels=CELLS))
    write_group(tmp_path / "other.zarr", "0.5", {})  # a zarr store, but of something else
    write_image(tmp_path / "b.zarr/inner.zarr", labels=CELLS)
    (tmp_path / "notes.txt").write_text("no store")
    (tmp_path / "bad.zarr").mkdir()
    (tmp_path / "bad.zarr/.zattrs").write_text("{")
    (tmp_path / "bad.zip").write_text("no zip")
    images = found(tmp_path)
    assert names(tmp_path) == ["b", "3", "p/A/1/0", "z", "z"]
    assert [image.given_id for image in images if isinstance(image, ImageSource)] == [
        None,
        3,
        None,
        None,
        None,
    ]
    errors = [str(image) for image in images if not isinstance(image, ImageSource)]
    assert len(errors) == 2
    assert "bad.zarr [.zattrs]" in errors[0]
    assert "bad.zip" in errors[1]


def test_links_in_folders(tmp_path: Path) -> None:
    outside = write_image(tmp_path / "outside.zarr", labels=CELLS)
    top = tmp_path / "top"
    write_image(top / "sub/a.zarr", labels=CELLS)
    (top / "sub/loop").symlink_to(top)
    (top / "twice.zarr").symlink_to(top / "sub/a.zarr")
    (top / "x.zarr").symlink_to(outside)
    (top / "broken.zarr").symlink_to(tmp_path / "nothing")
    images = found(top)
    assert names(top) == ["a"]
    assert [type(image) for image in images] == [ImageSource, SourceRefused]
    assert "x.zarr" in str(images[1])


def test_images_come_lazily_and_within_the_limit(tmp_path: Path) -> None:
    for name in "abcd":
        write_image(tmp_path / f"{name}.zarr", labels=CELLS)
    images = found(tmp_path, Limits(images=2))
    assert [type(image) for image in images] == [ImageSource, ImageSource, SourceRefused]
    first = next(find_images(tmp_path, None, LIMITS))
    assert isinstance(first, ImageSource)
    assert first.name == "a"


def test_locations_that_hold_nothing(tmp_path: Path) -> None:
    write_group(tmp_path / "other.zarr", "0.5", {})
    (tmp_path / "empty").mkdir()
    for location in (tmp_path, tmp_path / "other.zarr", tmp_path / "empty", tmp_path / "nothing"):
        with pytest.raises(SourceDamaged, match=location.name):
            found(location)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_of_many_stores_nothing_is_read_but_the_metadata_of_each_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    for number in range(1, 21):
        write_image(tmp_path / f"images/{number}.zarr", labels=CELLS, version=version)
    read: list[tuple[str, str]] = []
    real = roots._Folder.read

    def noted(store: Store, path: str, most: int | None = None) -> bytes | None:
        read.append((store.location, path))
        return real(store, path, most)

    monkeypatch.setattr(roots._Folder, "read", noted)
    client = start_service(tmp_path / "images").client
    assert len(client.get("/images").get_json()["images"]) == 20
    assert [path for _, path in read if "/" in path] == [], "groups below the root are looked at"
    assert len(read) == len(set(read)), "a document is read twice"
    read.clear()
    assert client.get("/images/7/collections/labels:cells").status_code == 200
    assert {location for location, _ in read} == {str(tmp_path / "images/7.zarr")}
