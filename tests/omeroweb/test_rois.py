"""What processes remember together of OMERO's counts may be anything: then OMERO.web is asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from roiservice.omeroweb.client import OmeroWeb as Client
from roiservice.omeroweb.rois import OmeroRois, RoiList
from tests.omeroweb.images import OmeroImage, squares
from tests.omeroweb.standin import OmeroWeb

JUNK = [
    b"", b"one", b"\xff", b"-1", b"9" * 5000, "٣".encode(), b"[[", b"[[" * 50_000, b"7", b"[[-1]]",
    b"[[1],[]]",
]  # fmt: skip
IMAGE = RoiList(7)


class Junk:
    """A store that holds the same under every name."""

    def __init__(self, value: bytes) -> None:
        self.value = value

    def get(self, key: str) -> bytes | None:
        del key
        return self.value

    def put(self, key: str, value: bytes, ttl: int) -> None:
        pass


@pytest.fixture
def web() -> Iterator[OmeroWeb]:
    with OmeroWeb(public="guest") as server:
        server.add(OmeroImage(7, squares(3)))
        yield server


@pytest.mark.parametrize("value", [each for each in JUNK if each != b"7"])
def test_counts_that_are_none(web: OmeroWeb, value: bytes) -> None:
    rois = OmeroRois(Client(web.url), Junk(value))
    assert rois.slice(IMAGE, None, 0, 10).total == 3
    assert rois.count(IMAGE, None) == 3


@pytest.mark.parametrize("value", JUNK)
def test_tables_of_planes_that_are_none(web: OmeroWeb, value: bytes) -> None:
    rois = OmeroRois(Client(web.url), Junk(value))
    assert rois.shape_counts(7, None).sum() == 3
