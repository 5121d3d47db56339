"""Ids that a file gives to images."""

from __future__ import annotations

from pathlib import Path

import pytest

from roiservice.bootstrap import Services, build_services
from roiservice.errors import SettingsError
from roiservice.settings import Settings
from roiservice.sources.idmap import read_id_map
from tests.sources.support import blobs
from tests.stores import write_group, write_image, write_plate, zip_store

CELLS = {"cells": blobs(8, 8)}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two images, a plate, a series of one and a zipped plate in `data`."""
    data = tmp_path / "data"
    write_image(data / "a.zarr", labels=CELLS)
    write_image(data / "9.zarr", labels=CELLS)
    fields = {"A/1/0": CELLS, "B/03/0": CELLS}
    write_plate(data / "plate.zarr", fields)
    write_group(data / "series.zarr", "0.4", {"bioformats2raw.layout": 3})
    write_image(data / "series.zarr/0", labels=CELLS, version="0.4")
    zip_store(write_plate(tmp_path / "zipped.zarr", fields)).rename(data / "zipped.ozx")
    return data


def ids_file(folder: Path, *rows: str) -> Path:
    file = folder / "ids.csv"
    file.write_text("\n".join(rows) + "\n")
    return file


def services_of(file: Path, *locations: Path | tuple[int, Path]) -> Services:
    home = file.parent / "home"
    given = [place if isinstance(place, tuple) else (None, place) for place in locations]
    settings = Settings(catalog_dir=home / "catalogs", state_dir=home / "state", ids=file)
    return build_services(settings, [(number, str(path)) for number, path in given])


def numbers(services: Services) -> dict[str, int]:
    """Ids by name, without those that the service itself gave."""
    images = services.images.page(0, 100)
    return {image.name: image.id for image in images if image.id < 10**14}


@pytest.mark.parametrize("header", [[], ["path,id"], ["\ufeffPath, ID", ""]])
def test_rows_give_ids(study: Path, header: list[str]) -> None:
    rows = [
        "data/a.zarr,51",
        "data/plate.zarr#B/03/0,52",
        "data/plate.zarr/A/1/0,53",
        "data/zipped.ozx#/A/1/0,54",
    ]
    services = services_of(ids_file(study.parent, *header, *rows), study)
    assert numbers(services) == {"a": 51, "9": 9, "plate/B/03/0": 52, "plate/A/1/0": 53, "zipped/A/1/0": 54}
    assert services.images.warnings == ()


def test_paths_are_relative_to_the_file_or_absolute(study: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    rows = ["../data/a.zarr,51", f"{study / 'plate.zarr'}#A/1/0,52"]
    services = services_of(ids_file(tmp_path / "elsewhere", *rows), study)
    assert numbers(services) == {"a": 51, "9": 9, "plate/A/1/0": 52}


def test_a_row_comes_before_a_file_name(study: Path) -> None:
    services = services_of(ids_file(study.parent, "data/9.zarr,10", "data/a.zarr,9"), study)
    assert numbers(services) == {"9": 10, "a": 9}


def test_the_command_line_comes_before_a_row(study: Path) -> None:
    services = services_of(ids_file(study.parent, "data/a.zarr,51"), (77, study / "a.zarr"))
    assert numbers(services) == {"a": 77}
    assert services.images.warnings == ()


def test_a_row_names_a_store_by_links_and_odd_names(study: Path) -> None:
    write_image(study / "b#2, new.zarr", labels=CELLS)
    (study.parent / "link.zarr").symlink_to(study / "a.zarr")
    services = services_of(ids_file(study.parent, "link.zarr,51", '"data/b#2, new.zarr",52'), study)
    assert numbers(services) == {"a": 51, "9": 9, "b#2, new": 52}


def test_the_only_image_of_a_store_is_named_by_the_store(study: Path) -> None:
    rows = ["data/series.zarr,51", "data/plate.zarr,52"]
    services = services_of(ids_file(study.parent, *rows), study)
    assert numbers(services) == {"series/0": 51, "9": 9}
    (warning,) = services.images.warnings
    assert "1 of 2 rows name no image here: data/plate.zarr (line 2)" in warning


def test_a_damaged_neighbour_does_not_make_a_field_the_only_image(study: Path) -> None:
    (study / "plate.zarr/A/1/0/zarr.json").write_text("{")
    assert numbers(services_of(ids_file(study.parent, "data/plate.zarr,52"), study)) == {"9": 9}


def test_one_field_served_by_itself_has_its_id(study: Path) -> None:
    file = ids_file(study.parent, "data/plate.zarr#B/03/0,52")
    assert numbers(services_of(file, study / "plate.zarr/B/03/0")) == {"0": 52}


def test_rows_that_name_nothing_are_a_warning(study: Path) -> None:
    rows = ["path,id", "data/a.zarr,51", *(f"data/gone{n}.zarr,{60 + n}" for n in range(5))]
    services = services_of(ids_file(study.parent, *rows), study)
    assert numbers(services) == {"a": 51, "9": 9}
    (warning,) = services.images.warnings
    assert warning.startswith(str(study.parent / "ids.csv"))
    assert "5 of 6 rows" in warning
    assert "data/gone0.zarr (line 3)" in warning
    assert "gone4" not in warning


@pytest.mark.parametrize(
    "rows",
    [
        ("data/a.zarr,51", "", "data/9.zarr,51"),
        ("data/a.zarr,51", "", "data/a.zarr,52"),
        ("data/a.zarr,51", "", "data/../data/a.zarr/,52"),
        ("data/plate.zarr#A/1/0,51", "", "data/plate.zarr/A/1/0,52"),
        ("https://Example.org/p.zarr#A/1/0,51", "", "https://example.org:443/p.zarr/A/1/0,52"),
    ],
)
def test_rows_that_contradict_each_other_are_both_named(study: Path, rows: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match=r"ids\.csv: lines 1 and 3 both have"):
        read_id_map(ids_file(study.parent, *rows))


@pytest.mark.parametrize(
    "row",
    [
        "data/9.zarr",
        "data/9.zarr,",
        ",5",
        "data/9.zarr,five",
        "data/9.zarr,0",
        "data/9.zarr,-5",
        "data/9.zarr,05",
        "data/9.zarr,5.0",
        f"data/9.zarr,{10**14}",
        "data/9.zarr,5,6",
        "5,data/9.zarr",
        "path,id",
        "data/plate.zarr#../../etc,5",
        "ftp://example.org/a.zarr,5",
        "https://user:secret@example.org/a.zarr,5",
    ],
)
def test_a_row_that_cannot_be_used_is_named(study: Path, row: str) -> None:
    with pytest.raises(SettingsError, match=r"ids\.csv: line 2: ") as error:
        read_id_map(ids_file(study.parent, "data/a.zarr,51", row))
    assert "secret" not in str(error.value).replace(row, "")


@pytest.mark.parametrize("content", [b'"data/a.zarr,51', b"\xff\xfe,1\n", b"a" * 200_000 + b",1\n"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ids.csv"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"ids\.csv"):
        read_id_map(file)


@pytest.mark.parametrize("name", ["nowhere.csv", "folder", "nul\0"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(SettingsError):
        read_id_map(tmp_path / name)


def test_an_empty_file_says_nothing(study: Path) -> None:
    services = services_of(ids_file(study.parent), study)
    assert numbers(services) == {"9": 9}
    assert services.images.warnings == ()


def test_an_id_of_a_row_that_another_file_name_claims_stops_the_start(study: Path) -> None:
    services = services_of(ids_file(study.parent, "data/a.zarr,9"), study)
    with pytest.raises(SettingsError, match="image 9 is claimed by"):
        services.images.total()
