"""The client against servers that answer too slowly: nothing of a request outlasts its time limit."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from roiservice.errors import OmeroWebFailed
from roiservice.omeroweb import client
from roiservice.omeroweb.client import AT_ONCE, OmeroWeb
from tests.cache.support import FalseServer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
BODY = b"x" * 500
PATH = "/api/v0/m/images/7/"


@dataclass
class Dripping:
    """An answer to each request: as many bytes at once as `whole` says, then one after the other."""

    whole: int
    ended: threading.Event = field(default_factory=threading.Event)

    def __call__(self, connection: socket.socket) -> None:
        while connection.recv(65536):
            answer = HEAD + BODY
            connection.sendall(answer[: self.whole])
            for at in range(self.whole, len(answer)):
                if self.ended.wait(0.02):
                    return
                connection.sendall(answer[at : at + 1])


@pytest.fixture
def dripping() -> Iterator[Dripping]:
    answer = Dripping(0)
    yield answer
    answer.ended.set()


def tried(web: OmeroWeb) -> bytes | str:
    try:
        return web.get(PATH).body
    except OmeroWebFailed as error:
        return str(error)


@pytest.mark.parametrize("whole", [0, 20, len(HEAD)], ids=["status", "headers", "body"])
def test_what_drips_in_holds_up_no_others(
    dripping: Dripping, monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    monkeypatch.setattr(client, "PAUSE", 0.0)
    server = FalseServer(dripping)
    web = OmeroWeb(f"http://127.0.0.1:{server.port}", timeout=0.5)
    dripping.whole = whole
    with ThreadPoolExecutor(AT_ONCE) as threads:
        asked = list(threads.map(lambda _: tried(web), range(AT_ONCE)))
    assert asked == ["OMERO.web does not answer in time"] * AT_ONCE
    dripping.whole = len(HEAD + BODY)
    assert [tried(web) for _ in range(3)] == [BODY] * 3
    server.stop()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_connections_of_both_kinds_have_the_limit(scheme: str) -> None:
    pool = OmeroWeb(f"{scheme}://127.0.0.1")._pool.connection_from_url(f"{scheme}://127.0.0.1")
    assert pool.ConnectionCls.response_class.__module__ == "roiservice.omeroweb.deadline"
