"""Where the names of hosts may lead."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from roiservice.errors import SourceRefused
from roiservice.sources.images import find_images
from roiservice.sources.remote.addresses import check_address
from tests.sources.remote.server import Served
from tests.sources.support import LIMITS
from tests.stores import write_image


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("example.org", "93.184.216.34"),
        ("minio.site", "10.1.2.3"),
        ("minio.site", "192.168.1.1"),
        ("minio.site", "fd00::1"),
        ("localhost", "127.0.0.1"),
        ("bucket.localhost", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.8.8.8", "127.8.8.8"),
        ("[::1]", "::1"),
        ("10.1.2.3", "10.1.2.3"),
    ],
)
def test_addresses_that_may_be_asked(host: str, address: str) -> None:
    assert check_address(host, address) is None


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("example.org", "127.0.0.1"),
        ("example.org", "127.8.8.8"),
        ("example.org", "::1"),
        ("example.org", "::ffff:127.0.0.1"),
        ("example.org", "169.254.169.254"),
        ("example.org", "::ffff:169.254.169.254"),
        ("169.254.169.254", "169.254.169.254"),
        ("example.org", "fe80::1%eth0"),
        ("localhost.example.org", "127.0.0.1"),
        ("example.org", "0.0.0.0"),
        ("example.org", "224.0.0.1"),
    ],
)
def test_addresses_that_may_not(host: str, address: str) -> None:
    assert check_address(host, address)


def test_a_name_turned_to_this_machine_gets_no_request(
    tmp_path: Path, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "1.zarr", labels={})
    found = socket.getaddrinfo

    def rebound(host: str, *rest: Any, **named: Any) -> Any:
        return found("127.0.0.1" if host == "rebound.example" else host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    url = f"{server.url}/1.zarr"
    assert list(find_images(url, None, LIMITS))
    before = sum(server.asked.values())
    with pytest.raises(SourceRefused, match="this very machine"):
        list(find_images(url.replace("127.0.0.1", "rebound.example"), None, LIMITS))
    assert sum(server.asked.values()) == before
