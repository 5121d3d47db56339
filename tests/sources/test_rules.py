"""What a site says about its layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from roiservice.errors import SettingsError
from roiservice.sources.images import ImageSource
from roiservice.sources.layer import BOXES, LABEL_IMAGE, LayerSource
from roiservice.sources.rules import applied, read_rules

IMAGE = ImageSource("/data/7.zarr", "", "7", 7)


def layer(collection: str, kind: str = LABEL_IMAGE) -> LayerSource:
    return LayerSource(IMAGE, collection.replace(":", "/"), collection, collection.rpartition(":")[2], kind)


def rules_of(folder: Path, text: str) -> Path:
    path = folder / "layers.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_later_entries_have_the_say_on_what_they_state(tmp_path: Path) -> None:
    rules = read_rules(
        rules_of(
            tmp_path,
            """
            [[layer]]
            collection = "labels:*"
            objects = "component"
            title = "Something"
            [[layer]]
            collection = "labels:cells"
            image = 7
            title = "Cells"
            [[layer]]
            collection = "labels:cells"
            image = 8
            hidden = true
            """,
        )
    )
    cells = applied(rules, 7, layer("labels:cells"))
    assert (cells.objects, cells.shown_name, cells.hidden) == ("component", "Cells", False)
    assert applied(rules, 8, layer("labels:cells")).hidden
    assert applied(rules, 9, layer("labels:other")).shown_name == "Something"
    assert applied(rules, 7, layer("tables:cells", BOXES)) == layer("tables:cells", BOXES)


def test_objects_are_a_matter_of_label_images(tmp_path: Path) -> None:
    rules = read_rules(rules_of(tmp_path, '[[layer]]\ncollection = "*"\nobjects = "per-t"\n'))
    assert applied(rules, 7, layer("tables:boxes", BOXES)).objects == "label"
    assert applied(rules, 7, layer("labels:cells")).objects == "per-t"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[layer", "layers.toml"),
        ('[layers]\ncollection = "x"', "layers"),
        ('layer = "x"', "layer"),
        ('[[layer]]\ntitle = "x"', "layer 1: collection"),
        ('[[layer]]\ncollection = "x"\ncolour = "red"', "colour"),
        (
            '[[layer]]\ncollection = "x"\n[[layer]]\ncollection = "x"\nhidden = 1',
            "layer 2: hidden must be a bool",
        ),
        ('[[layer]]\ncollection = "x"\nimage = true', "image must be a int"),
        ('[[layer]]\ncollection = "x"\nobjects = "cell"', "label, component, per-t"),
        ("[[layer]]\ncollection = 5", "collection"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=r"layers\.toml") as error:
        read_rules(rules_of(tmp_path, text))
    assert said in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml"):
        read_rules(tmp_path / "none.toml")


def test_measures_are_those_that_there_are(tmp_path: Path) -> None:
    rules = read_rules(
        rules_of(tmp_path, '[[layer]]\ncollection = "*"\nmeasures = ["solidity"]\ntext = "class"\n')
    )
    assert applied(rules, 7, layer("labels:cells")).measures == ("solidity",)
    assert applied(rules, 7, layer("labels:cells")).text == "class"
    with pytest.raises(SettingsError, match="beauty"):
        read_rules(rules_of(tmp_path, '[[layer]]\ncollection = "*"\nmeasures = ["beauty"]\n'))
