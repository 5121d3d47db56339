"""Ids of ROIs and shapes of hidden images: neither time nor what is remembered tells them from none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from roiservice.catalog.registry import FIRST_ID, ROIS
from tests.omeroweb.standin import OmeroWeb
from tests.web.test_web_access import Site, cookie, site_in
from tests.web.walk import PRIVATE, Ids

BY_ROI = ("/api/v0/m/rois/{}/", "/iviewer/roi/{}/page_data/", "/iviewer/roi/{}/image_data/")
BY_SHAPE = (
    "/iviewer/shape/{}/page_data/", "/iviewer/shape/{}/image_data/", "/webgateway/render_shape_mask/{}/",
    "/iviewer/shape_stats/?ids={}&z=0&t=0",
)  # fmt: skip
NEVER_GIVEN = 9 * 10**15
CHECKS = "/api/v0/m/images/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="module")
def ids(folder: Path) -> Ids:
    """Known from another service: the one that is tested has told nobody anything yet."""
    with OmeroWeb() as server:
        return site_in(folder, server).ids


@pytest.fixture
def site(folder: Path, ids: Ids) -> Iterator[Site]:
    with OmeroWeb() as web:
        yield site_in(folder, web, ids, pass_unknown=False)


def questions(site: Site, url: str, who: Mapping[str, str]) -> int:
    """How often OMERO.web is asked for one request, which is what takes time."""
    before = len(site.web.asked(CHECKS))
    site.ask("GET", url, who, None)
    return len(site.web.asked(CHECKS)) - before


@pytest.mark.parametrize("template", BY_ROI + BY_SHAPE)
def test_hidden_ids_take_as_long_as_none(site: Site, template: str) -> None:
    """Whatever was asked before: about the image, and about other ids of it."""
    first = site.ids.roi if template in BY_ROI else site.ids.shape
    public = (None, "guest")
    for who in (site.bob, {}, cookie("f" * 32)):
        for site.web.public in public:
            site.ask("GET", f"/images/{PRIVATE}", who, None)
            for step in range(3):
                hidden, none = first + step, NEVER_GIVEN + step
                took = [questions(site, template.format(each), who) for each in (hidden, none, hidden, none)]
                assert took == [1, 1, 1, 1], (who, site.web.public)


def test_hidden_ids_say_nothing_of_their_image(site: Site) -> None:
    """What was found out for an id is not remembered for the image that it belongs to."""
    for template in BY_ROI:
        site.ask("GET", template.format(site.ids.roi), site.bob, None)
    assert questions(site, f"/images/{PRIVATE}", site.bob) == 1


def test_hidden_ids_open_nothing(site: Site) -> None:
    for template in BY_ROI:
        site.ask("GET", template.format(site.ids.roi), site.bob, None)
    for template in BY_SHAPE:
        site.ask("GET", template.format(site.ids.shape), site.bob, None)
    assert site.service.services.layers._listings._known == {}
    assert site.service.services.cache.ping()["memory"]["pages"] == 0


def test_readers_are_asked_about_once(site: Site) -> None:
    """Ids are as cheap as images for those who may read them."""
    took = [questions(site, BY_ROI[0].format(site.ids.roi), site.ada) for _ in range(3)]
    assert took == [1, 0, 0]
    assert questions(site, f"/images/{PRIVATE}", site.ada) == 0


def test_many_ids_in_one_request_are_few_questions(site: Site) -> None:
    """Each id may be of another layer: nobody may have OMERO.web asked thousands of times at once."""
    spread = [FIRST_ID + number * ROIS + 1 for number in range(1000, 1300)]
    for who, most, status in ((site.bob, 3, 200), ({}, 1, 401), (cookie("f" * 32), 1, 401)):
        assert questions(site, stats_of(spread), who) == 0
        assert b"layers" in site.ask("GET", stats_of(spread), who, None).body
        assert questions(site, stats_of(spread[:3]), who) == most
        assert site.ask("GET", stats_of(spread[:3]), who, None).status == status
    site.web.always = 500
    assert questions(site, stats_of(spread[:3]), site.bob) == 1


def stats_of(ids: Sequence[int]) -> str:
    return f"/iviewer/shape_stats/?ids={','.join(map(str, ids))}&z=0&t=0"
