"""A server over each test's own folder, and clients without patience."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from roiservice.sources.remote import transport, zipped
from roiservice.sources.remote.transport import Patience
from tests.sources.remote.server import Served, served


@pytest.fixture(autouse=True)
def own_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for a fault, and neither other tests nor the user's files have a say."""
    monkeypatch.setattr(transport, "PATIENCE", Patience(connect=2, stall=0.5, whole=5, tries=3, pause=0.01))
    monkeypatch.setattr(zipped, "_lists", zipped.OrderedDict())
    transport.connect.cache_clear()  # another server may have had the port
    monkeypatch.setenv("NETRC", "/nowhere")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server over `tmp_path`."""
    with served(tmp_path) as running:
        yield running
