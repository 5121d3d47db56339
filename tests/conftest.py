"""Shared fixtures: the whole service over a folder of real stores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import settings as hypothesis_settings

from roiservice.bootstrap import Services, build_services
from roiservice.settings import Settings
from roiservice.warm import warm_up
from roiservice.warmed import is_warm
from roiservice.web import create_app
from tests.postgres import PostgresServer, programs
from tests.stores import write_image


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile what is not kept yet, once: processes will share the tests, and some of these count seconds."""
    if not hasattr(session.config, "workerinput") and not is_warm():
        warm_up()


@dataclass(frozen=True)
class Service:
    """A running application: its client, its parts, and the folder that it serves."""

    app: Flask
    client: FlaskClient
    services: Services
    folder: Path


def start_service(folder: Path, **settings: object) -> Service:
    """The service over all stores in `folder`, with its state and catalogs beside it."""
    own = {"catalog_dir": folder.parent / "catalogs", "state_dir": folder.parent / "state", **settings}
    services = build_services(Settings(**own), [(None, str(folder))])
    app = create_app(services)
    return Service(app, app.test_client(), services, folder)


def write_sample_images(folder: Path) -> None:
    """Image 1: two planar layers with colours and properties. Image 2: t and z, objects on several planes."""
    squares = np.zeros((60, 80), np.uint16)
    for label, (row, column) in enumerate(
        ((r, c) for r in range(0, 60, 10) for c in range(0, 80, 10)), start=1
    ):
        squares[row + 2 : row + 8, column + 2 : column + 8] = label
    rings = np.zeros((60, 80), np.uint32)
    rings[10:30, 10:30], rings[15:25, 15:25] = 7, 0
    rings[40:45, 5:10] = rings[40:45, 20:25] = 70_000
    image_label = {
        "colors": [{"label-value": 7, "rgba": [255, 0, 0, 128]}],
        "properties": [{"label-value": 7, "class": "ring, hollow", "score": 0.5}],
    }
    write_image(folder / "1.zarr", labels={"squares": squares, "rings": rings}, image_label=image_label)
    moving = np.zeros((2, 3, 32, 32), np.uint8)
    for t in range(2):
        for z in range(3):
            moving[t, z, 2:6, 2 + 2 * z : 6 + 2 * z] = 1  # on every plane
            moving[t, z, 10:14, 10:14] = 10 + 3 * t + z  # each on one plane
    moving[0, 1:, 20:25, 20:25] = 5  # on two planes
    write_image(folder / "2.zarr", labels={"cells": moving}, axes="tzyx", image_label={})


# The first call may compile kernels, and machines that run tests are busy: time is no matter of correctness.
hypothesis_settings.register_profile("roiservice", deadline=None)
hypothesis_settings.load_profile("roiservice")


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sound images; tests must not change them."""
    folder = tmp_path_factory.mktemp("samples") / "images"
    write_sample_images(folder)
    return folder


@pytest.fixture(scope="session")
def service(sample_folder: Path) -> Iterator[Service]:
    """The service over the two sound images of `sample_folder`."""
    return start_service(sample_folder)


@pytest.fixture
def client(service: Service) -> FlaskClient:
    """The HTTP client of `service`."""
    return service.client


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server, which a test that ends it must start again."""
    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL is not installed")
    server = PostgresServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of an empty schema of `postgres_server`."""
    return postgres_server.url()


@pytest.fixture(scope="session")
def live_url(sample_folder: Path) -> Iterator[str]:
    """Address of a service over `sample_folder`, without a final slash.

    It has a process of its own: GDAL holds the interpreter while it waits for answers.
    """
    command = [sys.executable, "-m", "tests.live", str(sample_folder)]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root) as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()
        process.terminate()
