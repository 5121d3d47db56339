"""Processes that build large layers: forked for a service, and lasting longer than it if need be."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.support import Home, children, end, serving, wait_for
from tests.stores import write_image

ITEMS = "/images/1/collections/labels:noise/items?limit=1"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", {"ROISERVICE_INLINE_PIXELS": "1000", "ROISERVICE_CHECK_INTERVAL": "0.2"})


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Planes whose outlines take a while: labels at random."""
    labels = np.random.default_rng(1).integers(1, 2000, (6, 600, 600), np.uint16)
    return write_image(tmp_path / "1.zarr", labels={"noise": labels}, axes="zyx")


def test_a_large_layer_is_built_by_a_process_that_is_forked(home: Home, image: Path) -> None:
    with serving(home, image, "--workers", 2) as service:
        assert service.get(ITEMS)[0] == 503
        (builder,) = wait_for(lambda: children(service.fork_server))
        for worker in service.workers:
            os.kill(worker, signal.SIGKILL)
        wait_for(lambda: service.get(ITEMS)[0] == 200, 60)
        wait_for(lambda: not Path(f"/proc/{builder}").exists())
        assert "Traceback" not in end(service.process)[1]  # though nobody waited for it
    assert len(list(home.path.glob("cache/**/layer.json"))) == 1


def test_a_build_goes_on_when_the_service_ends(home: Home, image: Path) -> None:
    with serving(home, image, "--workers", 1) as service:
        service.get(ITEMS)
        forks = service.fork_server
        (builder,) = wait_for(lambda: children(forks))
        os.kill(service.process.pid, signal.SIGTERM)
        service.process.wait(20)
        wait_for(lambda: not Path(f"/proc/{forks}").exists())
        is_built = list(home.path.glob("cache/**/layer.json"))  # so soon where others had the processors
        assert is_built or Path(f"/proc/{builder}").exists()
        port = int(service.base.rpartition(":")[2])
        with socket.socket() as other:  # nobody keeps the port
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
        wait_for(lambda: list(home.path.glob("cache/**/layer.json")), 60)


def test_a_build_that_is_killed_is_said_and_begun_again(home: Home, image: Path) -> None:
    with serving(home, image, "--workers", 1) as service:
        service.get(ITEMS)
        (builder,) = wait_for(lambda: children(service.fork_server))
        os.kill(builder, signal.SIGKILL)
        status, body, _ = wait_for(lambda: (got := service.get(ITEMS))[0] != 503 and got)
        assert (status, b"ended with code" in body) == (422, True)
        wait_for(lambda: service.get(ITEMS)[0] == 200, 60)


def test_without_the_process_that_forks_one_is_started_anew(home: Home, image: Path) -> None:
    with serving(home, image, "--workers", 1) as service:
        os.kill(service.fork_server, signal.SIGKILL)
        wait_for(lambda: len(children(service.process.pid)) == 1)
        service.get(ITEMS)
        wait_for(lambda: service.get(ITEMS)[0] == 200, 60)
        assert "no process can be forked" in end(service.process)[1]
