from __future__ import annotations

from pathlib import Path

import pytest

from tests.auth.support import Clock, Service, Store


@pytest.fixture
def issuing(tmp_path: Path) -> Service:
    return Service(tmp_path / "keys")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> Store:
    return Store()
