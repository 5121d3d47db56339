"""Locations that tell by an image's id where it lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roiservice.bootstrap import Services, build_services
from roiservice.errors import BadParameter, NotFound, SettingsError, SourceError, SourceRefused
from roiservice.settings import Settings
from roiservice.sources.limits import Limits
from roiservice.sources.remote import transport
from roiservice.sources.remote.transport import Patience
from roiservice.sources.templates import template_of
from tests.sources.remote.server import served
from tests.sources.support import blobs
from tests.stores import write_image, write_plate, zip_store

CELLS = {"cells": blobs(8, 8)}
LIMITS = Limits()


def services_at(home: Path, *locations: object, **settings: object) -> Services:
    own = {"catalog_dir": home / "catalogs", "state_dir": home / "state", **settings}
    given = [each if isinstance(each, tuple) else (None, str(each)) for each in locations]
    return build_services(Settings(**own), given)


def names(services: Services) -> dict[int, str]:
    return {image.id: image.name for image in services.images.page(0, 100)}


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("{image_id}.zarr", {7: "7.zarr", 12: "12.zarr"}),
        ("img-{image_id}-v2.ome.zarr", {7: "img-7-v2.ome.zarr"}),
        ("{image_id}/labels.zarr", {7: "7/labels.zarr", 8: "8/labels.zarr"}),
        ("{image_id}/{image_id}.zarr", {7: "7/7.zarr"}),
        ("a/{image_id}/x/{image_id}.zarr", {7: "a/7/x/7.zarr"}),
    ],
)
def test_images_are_listed_and_opened_by_their_ids(
    tmp_path: Path, pattern: str, paths: dict[int, str]
) -> None:
    for path in paths.values():
        write_image(tmp_path / "data" / path, labels=CELLS)
    services = services_at(tmp_path / "home", tmp_path / "data" / pattern)
    assert sorted(names(services)) == sorted(paths)
    assert services.images.total() == len(paths)
    for number, path in paths.items():
        image = services.images.get(number)
        assert (image.id, image.source.location) == (number, str(tmp_path / "data" / path))
        assert [layer.collection for layer in services.layers.of(image).layers] == ["labels:cells"]
    with pytest.raises(NotFound, match="99"):
        services.images.get(99)


def test_names_tell_images_apart(tmp_path: Path) -> None:
    write_image(tmp_path / "7/labels.zarr", labels=CELLS)
    assert names(services_at(tmp_path / "home", tmp_path / "{image_id}/labels.zarr")) == {7: "7/labels"}


def test_only_canonical_numbers_are_listed(tmp_path: Path) -> None:
    for name in ("7", "07", "+7", "7a", "-7", "0", "\u0667", "1" * 15, "7 ", "7.zarr", ""):
        (tmp_path / f"{name}.zarr").mkdir()
    (tmp_path / "8").mkdir()
    template = template_of(str(tmp_path / "{image_id}.zarr"))
    assert template is not None
    assert template.ids() == [7]
    inner = template_of(str(tmp_path / "{image_id}/x.zarr"))
    assert inner is not None
    assert inner.ids() == []


@given(st.text(max_size=20).filter(lambda text: "/" not in text and "\0" not in text))
def test_a_number_stands_for_itself_whatever_is_around_it(text: str) -> None:
    """What `ids` reads out of a name is what `location` makes of it."""
    location = f"/nowhere/{text}" + "{image_id}" + text
    if location.count("{image_id}") > 1:
        return
    template = template_of(location)
    assert template is not None
    assert template.text.endswith("{image_id}" + text)
    assert template.location(7, LIMITS) is None


def test_one_that_appears_is_found_and_one_that_vanishes_is_gone(tmp_path: Path) -> None:
    services = services_at(tmp_path / "home", tmp_path / "{image_id}.zarr", check_interval=0.0)
    now = [0.0]
    services.images._clock = services.images._opened._clock = lambda: now[0]
    with pytest.raises(NotFound):
        services.images.get(7)
    write_image(tmp_path / "7.zarr", labels=CELLS)
    with pytest.raises(NotFound):  # remembered for a while
        services.images.get(7)
    now[0] = 11.0
    assert services.images.get(7).name == "7"
    assert names(services) == {7: "7"}
    os.rename(tmp_path / "7.zarr", tmp_path / "x.zarr")
    with pytest.raises(NotFound):
        services.images.get(7)
    assert names(services) == {}


def test_links_stay_below_the_folder_of_the_template(tmp_path: Path) -> None:
    write_image(tmp_path / "data/inner/a.zarr", labels=CELLS)
    write_image(tmp_path / "outside/b.zarr", labels=CELLS)
    for number, target in (
        (7, "inner/a.zarr"),
        (8, "../outside/b.zarr"),
        (9, "../gone.zarr"),
        (10, "10.zarr"),
    ):
        (tmp_path / f"data/{number}.zarr").symlink_to(target)
    services = services_at(tmp_path / "home", tmp_path / "data/{image_id}.zarr")
    assert services.images.get(7).source.location == str(tmp_path / "data/inner/a.zarr")
    for number in (8, 9):
        with pytest.raises(SourceRefused, match="leads out of the folder"):
            services.images.get(number)
    with pytest.raises(SourceError):
        services.images.get(10)
    assert names(services) == {7: "7"}
    assert len(services.images.problems) == 3


def test_a_template_below_a_link_is_served(tmp_path: Path) -> None:
    write_image(tmp_path / "data/7.zarr", labels=CELLS)
    (tmp_path / "link").symlink_to("data")
    assert names(services_at(tmp_path / "home", tmp_path / "link/{image_id}.zarr")) == {7: "7"}


def test_a_plate_needs_a_file_of_ids(tmp_path: Path) -> None:
    write_plate(tmp_path / "7.zarr", {"A/1/0": CELLS, "A/1/1": CELLS})
    services = services_at(tmp_path / "home", tmp_path / "{image_id}.zarr")
    with pytest.raises(SourceRefused, match="more than one image; a file of ids"):
        services.images.get(7)
    assert names(services) == {}
    assert "more than one image" in str(services.images.problems[0])


def test_a_damaged_store_costs_no_other(tmp_path: Path) -> None:
    for number in (7, 8):
        write_image(tmp_path / f"{number}.zarr", labels=CELLS)
    (tmp_path / "7.zarr/zarr.json").write_text("{")
    services = services_at(tmp_path / "home", tmp_path / "{image_id}.zarr")
    assert names(services) == {8: "8"}
    with pytest.raises(SourceError, match=r"7\.zarr"):
        services.images.get(7)


def test_zips_and_tables_are_named_by_templates_too(tmp_path: Path) -> None:
    zip_store(write_image(tmp_path / "x/7.zarr", labels=CELLS)).rename(tmp_path / "7.ozx")
    (tmp_path / "8.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    services = services_at(tmp_path / "home", tmp_path / "{image_id}.ozx", tmp_path / "{image_id}.geojson")
    assert names(services) == {7: "7", 8: "8"}


@pytest.mark.parametrize("other", ["{image_id}.ome.zarr", (7, "other.zarr")])
def test_two_that_claim_one_id_are_both_named(tmp_path: Path, other: str | tuple[int, str]) -> None:
    for name in ("7.zarr", "7.ome.zarr", "other.zarr"):
        write_image(tmp_path / name, labels=CELLS)
    second = (7, str(tmp_path / other[1])) if isinstance(other, tuple) else tmp_path / other
    services = services_at(tmp_path / "home", tmp_path / "{image_id}.zarr", second)
    with pytest.raises(SettingsError, match=r"image 7 is claimed by .* and by ") as error:
        services.images.get(7)
    assert str(tmp_path / "7.zarr") in str(error.value)


def test_a_folder_and_a_template_of_it_agree(tmp_path: Path) -> None:
    write_image(tmp_path / "data/7.zarr", labels=CELLS)
    services = services_at(tmp_path / "home", tmp_path / "data", tmp_path / "data/{image_id}.zarr")
    assert names(services) == {7: "7"}
    assert services.images.get(7).id == 7


@pytest.mark.parametrize(
    "location",
    [
        "/data/{image_id}{image_id}.zarr",
        "https://{image_id}.example.org/a.zarr",
        "https://example.org/../{image_id}.zarr",
        "https://example.org/{image_id}.zarr?secret=1",
        "https://user:secret@example.org/{image_id}.zarr",
        "ftp://example.org/{image_id}.zarr",
        "s3://{image_id}/a.zarr",
    ],
)
def test_templates_that_cannot_be_used_are_refused(location: str) -> None:
    with pytest.raises(SettingsError):
        template_of(location)


def test_a_template_takes_no_id(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="template"):
        services_at(tmp_path, (7, "/data/{image_id}.zarr"))


def test_a_folder_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    write_image(tmp_path / "7.zarr", labels=CELLS)
    services = services_at(tmp_path / "home", tmp_path / "7.zarr", tmp_path / "gone/{image_id}.zarr")
    assert names(services) == {7: "7"}
    assert "gone" in str(services.images.problems[0])


def test_images_behind_urls_are_found_but_not_listed(tmp_path: Path) -> None:
    write_image(tmp_path / "data/7.zarr", labels=CELLS)
    write_image(tmp_path / "data/8/x.zarr", labels=CELLS, version="0.4")
    with served(tmp_path / "data") as web:
        services = services_at(
            tmp_path / "home", f"{web.url}/{{image_id}}.zarr", f"{web.url}/{{image_id}}/x.zarr"
        )
        assert services.images.total() == 0
        assert services.images.get(7).source.location == f"{web.url}/7.zarr"
        assert services.images.get(8).name == "8/x"
        asked = web.asked.total()
        for _ in range(5):
            with pytest.raises(NotFound):
                services.images.get(9)
        first = web.asked.total() - asked
        assert 0 < first <= 12
        for _ in range(5):
            with pytest.raises(NotFound):
                services.images.get(9)
        assert web.asked.total() - asked == first


def test_a_host_that_is_down_costs_nobody_his_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = Patience(connect=2, stall=0.5, whole=5, tries=2, pause=0.01)
    monkeypatch.setattr(transport, "PATIENCE", quick)
    write_image(tmp_path / "data/7.zarr", labels=CELLS)
    with served(tmp_path / "data") as web:
        services = services_at(
            tmp_path / "home", f"{web.url}/{{image_id}}.zarr", tmp_path / "data/7.zarr", check_interval=0.0
        )
        remote = services_at(tmp_path / "home", f"{web.url}/{{image_id}}.zarr", check_interval=0.0)
        remote.images.get(7)
        web.faults.on[".*"] = (503, -1)
        assert remote.images.get(7).name == "7"
        with pytest.raises(SourceError):
            remote.images.get(8)
        assert services.images.get(7).source.location == str(tmp_path / "data/7.zarr")


def test_listing_is_not_opening(tmp_path: Path) -> None:
    for number in range(1, 2001):
        (tmp_path / f"data/{number}.zarr").mkdir(parents=True)
    write_image(tmp_path / "data/1.zarr", labels=CELLS)
    services = services_at(tmp_path / "home", tmp_path / "data/{image_id}.zarr")
    assert services.images.total() == 2000
    assert services.images.problems == []
    assert [image.id for image in services.images.page(0, 2)] == [1]
    assert len(services.images.problems) == 1
