"""Lists of images under access control: what a page asks OMERO.web, and what a walk along them finds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from roiservice.bootstrap import build_services
from roiservice.settings import Settings
from roiservice.web import create_app
from tests.omeroweb.images import OmeroImage
from tests.omeroweb.standin import OmeroWeb
from tests.web import walk
from tests.web.test_web_access import cookie
from tests.web.walk import PRIVATE, SHARED, Ask

OTHERS = 600  # images that come before those two
CHECKS = "/api/v0/m/images/"
HTML = {"Accept": "text/html"}


@dataclass(frozen=True)
class Listing:
    """A service that lists many images, of which few are for anybody."""

    ask: Ask
    web: OmeroWeb
    ada: Mapping[str, str]
    bob: Mapping[str, str]

    def page(self, url: str, who: Mapping[str, str]) -> tuple[list[int], str, int]:
        """Ids on a page, where `next` leads ("" for nowhere), and how often OMERO.web was asked for it."""
        before = len(self.web.asked(CHECKS))
        got = self.ask("GET", url, who, None)
        assert got.status == 200, got
        document = json.loads(got.body)
        following = (link["href"] for link in document["links"] if link["rel"] == "next")
        questions = len(self.web.asked(CHECKS)) - before
        ids = [image["id"] for image in document["images"]]
        return ids, next(following, "").removeprefix("http://localhost"), questions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("listing") / "images"
    walk.write_images(folder)
    for number in range(1, OTHERS + 1):
        (folder / f"{number}.zarr").mkdir()
    return folder


@pytest.fixture
def listing(folder: Path) -> Iterator[Listing]:
    """Of a service that has asked OMERO.web nothing yet."""
    with OmeroWeb() as web:
        walk.add_images(web)
        settings = Settings(
            auth="omero",
            omero_web_url=web.url,
            catalog_dir=folder.parent / "catalogs",
            state_dir=folder.parent / "state",
        )
        app = create_app(build_services(settings, [(None, f"{folder}/{{image_id}}.zarr")]))
        ask = walk.flask_ask(app.test_client(use_cookies=False))
        yield Listing(ask, web, cookie(web.login("ada")), cookie(web.login("bob")))


@pytest.mark.parametrize(("query", "most"), [("?limit=1", 1), ("?limit=10&offset=400", 10), ("", 200)])
def test_a_page_asks_about_the_images_on_it_alone(listing: Listing, query: str, most: int) -> None:
    ids, following, questions = listing.page(f"/images{query}", listing.bob)
    assert (ids, questions) == ([], most)
    assert following


def test_a_page_looks_at_no_more_than_some_hundreds(listing: Listing) -> None:
    ids, following, questions = listing.page("/images?limit=10000", listing.ada)
    assert (ids, following, questions) == ([], "/images?limit=500&offset=500", 500)
    ids, following, questions = listing.page(following, listing.ada)
    assert (ids, following, questions) == ([PRIVATE, SHARED], "", OTHERS + 2 - 500)


@pytest.mark.parametrize("limit", [97, 301])
def test_a_walk_finds_what_the_caller_may_read(listing: Listing, limit: int) -> None:
    for who, readable in ((listing.ada, [PRIVATE, SHARED]), (listing.bob, [SHARED])):
        url, found = f"/images?limit={limit}", []
        while url:
            ids, url, questions = listing.page(url, who)
            assert questions <= limit
            found += ids
        assert found == readable


def test_who_must_log_in_does_not_learn_how_many_there_are(listing: Listing) -> None:
    for offset in (0, OTHERS, OTHERS + 2, 10**6):
        assert listing.ask("GET", f"/images?offset={offset}", {}, None).status == 401
    assert listing.page("/images?offset=1000000", listing.bob)[:2] == ([], "")


def test_the_landing_page_looks_at_the_first_images_alone(listing: Listing) -> None:
    got = listing.ask("GET", "/", {**listing.bob, **HTML}, None)
    assert len(listing.web.asked(CHECKS)) == 500
    assert got.status == 200
    assert b"the list</a> goes on" in got.body
    assert b"No images are served" not in got.body


def test_the_landing_page_stops_where_it_is_full(listing: Listing) -> None:
    for number in range(1, OTHERS + 1):
        listing.web.add(OmeroImage(number, [], readers=frozenset({"ada"})))
    got = listing.ask("GET", "/", {**listing.ada, **HTML}, None)
    assert 50 < len(listing.web.asked(CHECKS)) < 60
    assert b"the list</a> goes on" in got.body
