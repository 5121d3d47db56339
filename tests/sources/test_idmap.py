"""Ids that a file gives to images."""

from __future__ import annotations

from pathlib import Path

import pytest

from roiservice.bootstrap import Services, build_services
from roiservice.errors import NotFound, SettingsError, SourceDamaged, SourceRefused
from roiservice.settings import Settings
from roiservice.sources.idmap import read_id_map
from tests.sources.support import blobs
from tests.stores import write_group, write_image, write_multiscale, write_plate, zip_store

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


# Rows for what lies at none of the locations.


def test_rows_alone_are_enough(study: Path) -> None:
    rows = [
        "data/a.zarr,51",
        "data/plate.zarr#B/03/0,52",
        "data/plate.zarr/A/1/0,53",
        "data/zipped.ozx#A/1/0,54",
    ]
    services = services_of(ids_file(study.parent, *rows, "data/series.zarr,55"))
    assert services.images.total() == 5
    assert numbers(services) == {"a": 51, "plate/B/03/0": 52, "0": 53, "zipped/A/1/0": 54, "series/0": 55}
    assert services.images.warnings == ()
    for number in (51, 52, 53, 54, 55):
        image = services.images.get(number)
        assert [layer.collection for layer in services.layers.of(image).layers] == ["labels:cells"]
    field = services.images.get(52).source
    assert (field.well, field.field) == ("B/03", "0")
    with pytest.raises(NotFound):
        services.images.get(9)


def test_rows_outside_the_locations_are_served_beside_them(study: Path) -> None:
    write_image(study.parent / "other/b.zarr", labels=CELLS)
    rows = ["other/b.zarr,60", "data/a.zarr,51", "data/gone.zarr,52", "other/gone.zarr,53"]
    services = services_of(ids_file(study.parent, *rows), study / "a.zarr", study / "9.zarr")
    assert numbers(services) == {"a": 51, "9": 9, "b": 60}
    assert sorted(str(problem) for problem in services.images.problems) == [
        f"{study.parent}/{name}: there is no such file or directory"
        for name in ("data/gone.zarr", "other/gone.zarr")
    ]
    assert services.images.warnings == ()


def test_a_location_proper_has_no_rows_beside_it(study: Path) -> None:
    """What `export PATH` writes is that one image."""
    write_image(study.parent / "b.zarr", labels=CELLS)
    file = ids_file(study.parent, "data/a.zarr,51", "b.zarr,60")
    home = study.parent / "home"
    settings = Settings(catalog_dir=home / "catalogs", state_dir=home / "state", ids=file)
    services = build_services(settings, [(None, str(study / "a.zarr"))], alone=True)
    assert numbers(services) == {"a": 51}


def test_an_id_of_a_row_elsewhere_that_a_location_claims_stops_the_start(study: Path) -> None:
    write_image(study.parent / "b.zarr", labels=CELLS)
    services = services_of(ids_file(study.parent, "", "b.zarr,9"), study)
    with pytest.raises(
        SettingsError, match=r"image 9 is claimed by .*/data/9\.zarr and by line 2 of .*ids\.csv"
    ):
        services.images.total()


def test_a_row_and_a_template_that_claim_one_id_are_both_named(study: Path) -> None:
    rows = ["data/a.zarr,9", "data/9.zarr,8"]
    services = services_of(ids_file(study.parent, *rows), study / "{image_id}.zarr")
    with pytest.raises(SettingsError, match=r"image 9 is claimed by .*/data/a\.zarr and by .*/data/9\.zarr"):
        services.images.get(9)
    assert services.images.get(8).source.location == str(study / "9.zarr")


def test_a_row_that_names_several_images_says_so(study: Path) -> None:
    services = services_of(ids_file(study.parent, "data/plate.zarr,51", "data/plate.zarr#X/1,52"))
    with pytest.raises(SourceRefused, match="more than one image"):
        services.images.get(51)
    with pytest.raises(SourceDamaged, match="X/1"):
        services.images.get(52)
    assert numbers(services) == {}
    assert len(services.images.problems) == 2


def test_no_store_is_opened_before_it_is_asked_for(study: Path) -> None:
    """A hundred thousand rows, one of them sound."""
    rows = [f"data/{number}.zarr,{number}" for number in range(1000, 101_000)]
    services = services_of(ids_file(study.parent, "data/a.zarr,5", *rows))
    assert services.images.total() == 100_001
    assert services.images.problems == []
    assert services.images.get(5).name == "a"
    assert [image.id for image in services.images.page(0, 3)] == [5]
    assert len(services.images.problems) == 2
    for _ in range(2):
        with pytest.raises(SourceDamaged, match=r"2000\.zarr"):
            services.images.get(2000)


# YAML.


def yaml_file(folder: Path, text: str) -> Path:
    file = folder / "ids.yaml"
    file.write_text(text)
    return file


def test_yaml_gives_ids_as_csv_does(study: Path) -> None:
    text = "# a study\n51: data/a.zarr\n'52': data/plate.zarr#B/03/0\n53: 'data/plate.zarr/A/1/0'\n"
    for services in (
        services_of(yaml_file(study.parent, text), study),
        services_of(yaml_file(study.parent, text)),
    ):
        assert sorted(set(numbers(services).values()) - {9}) == [51, 52, 53]
        assert services.images.get(52).name == "plate/B/03/0"


def test_yaml_names_label_images_elsewhere(study: Path) -> None:
    write_image(study / "b.zarr", labels={"nuclei": blobs(8, 8)})
    write_multiscale(study / "alone.zarr", blobs(8, 8))
    text = """
51: {image: data/a.zarr, labels: [data/b.zarr/labels/nuclei, data/alone.zarr, data/a.zarr/labels/cells]}
52: {labels: [data/alone.zarr]}
53: {labels: [data/b.zarr/labels/nuclei]}
54:
  image: data/9.zarr
"""
    services = services_of(yaml_file(study.parent, text))
    found = {
        image.id: {layer.collection for layer in services.layers.of(image).layers}
        for image in services.images.page(0, 9)
    }
    assert found == {
        51: {"labels:cells", "labels:nuclei", "labels:alone"},
        52: {"root"},
        53: {"root"},
        54: {"labels:cells"},
    }
    for image in services.images.page(0, 9):
        for layer in services.layers.of(image).layers:
            assert services.layers.catalog(layer).meta["counts"]["rois"] > 0


def test_labels_come_to_images_at_locations_too(study: Path) -> None:
    write_multiscale(study.parent / "alone.zarr", blobs(8, 8))
    file = yaml_file(study.parent, "51: {image: data/a.zarr, labels: [alone.zarr]}")
    services = services_of(file, study)
    names = {layer.name for layer in services.layers.of(services.images.get(51)).layers}
    assert names == {"cells", "alone"}


def test_a_label_image_that_is_none_is_a_problem(study: Path) -> None:
    file = yaml_file(study.parent, "51: {image: data/a.zarr, labels: [gone.zarr, data/9.zarr/labels]}")
    services = services_of(file)
    listing = services.layers.of(services.images.get(51))
    assert [layer.name for layer in listing.layers] == ["cells"]
    assert len(listing.problems) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("51: data/a.zarr\n52: b.zarr\n51: c.zarr", "lines 1 and 3 both have the id 51"),
        ("51: data/a.zarr\n\n52: data/./a.zarr", "lines 1 and 3 both have data/./a.zarr"),
        ("51: data/a.zarr\n05: b.zarr", "line 2: is no id"),
        ("51: data/a.zarr\nfive: b.zarr", "line 2: is no id"),
        ("51: data/a.zarr\n52:", "line 2: is no id"),
        ("51: data/a.zarr\n52: ~", "line 2: is no id"),
        ("51: data/a.zarr\n52: []", "line 2: is no id"),
        ("51: data/a.zarr\n52: {}", "line 2: is no id"),
        ("51: data/a.zarr\n52: {labels: []}", "line 2: is no id"),
        ("51: data/a.zarr\n52: {image: a, labels: b}", "line 2: is no id"),
        ("51: data/a.zarr\n52: {image: [a]}", "line 2: is no id"),
        ("51: data/a.zarr\n52: {image: a, label: [b]}", "line 2: is no id"),
        ("51: data/a.zarr\n52: {image: a, labels: [[b]]}", "line 2: is no id"),
        ("51: data/a.zarr\n[52]: b.zarr", "line 2: is no id"),
        ("51: data/a.zarr\n52: ftp://host/b.zarr", "line 2: "),
        ("- data/a.zarr", "must be a mapping"),
        ("51: data/a.zarr: b", "cannot be read"),
        ("51: !!python/object/apply:os.system [ls]", "line 1: is no id"),
        ("51: &a [*a]", "line 1: is no id"),
    ],
)
def test_yaml_that_cannot_be_used_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=r"ids\.yaml") as error:
        read_id_map(yaml_file(tmp_path, text))
    assert words in str(error.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
def test_yaml_may_say_nothing(study: Path, text: str) -> None:
    assert numbers(services_of(yaml_file(study.parent, text), study)) == {"9": 9}
