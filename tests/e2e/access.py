"""A service with access control in several processes, OMERO.web beside it, and the means to attack both."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import subprocess
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from roiservice.auth.claims import ACCESS, TICKET, Kind
from roiservice.auth.keys import KeyRing, SigningKey, keys_folder
from roiservice.auth.tokens import issuer_of
from roiservice.catalog.registry import Registry
from tests.e2e.nginx import _command, _free_port, _wait
from tests.e2e.support import Home, Running, serving
from tests.omeroweb.standin import OmeroWeb
from tests.web import walk
from tests.web.walk import PRIVATE, Ask, Got

WORKERS = 3
CACHING = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache keys_zone=pages:1m;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {service};
            proxy_set_header Host $http_host;
            proxy_cache pages;
            proxy_cache_key $uri$is_args$args;
            proxy_cache_valid any 10m;
            proxy_cache_revalidate on;
            add_header X-Cache $upstream_cache_status always;
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Guarded:
    """All that runs."""

    service: Running
    web: OmeroWeb
    home: Home

    @property
    def host(self) -> str:
        return urlsplit(self.service.base).netloc

    @property
    def forge(self) -> Forge:
        return Forge(self.home.path / "state/roiservice")

    def get(self, path: str, method: str = "GET", body: object = None, **headers: str) -> Got:
        own = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask_at(self.service.base)(method, path, own, body)

    def session(self, user: str) -> dict[str, str]:
        return {"Cookie": f"sessionid={self.web.login(user)}"}

    def checks(self, image: int = PRIVATE) -> int:
        """How often OMERO.web was asked whether somebody may read the image."""
        return sum(each.path == f"/api/v0/m/images/{image}/" for each in self.web.requests)


@contextmanager
def guarded(folder: Path, web: OmeroWeb, **settings: str) -> Iterator[Guarded]:
    """The service over the two images of `walk`."""
    walk.write_images(folder / "images")
    walk.add_images(web)
    own = {
        "ROISERVICE_AUTH": "omero",
        "ROISERVICE_OMERO_WEB_URL": web.url,
        "ROISERVICE_OMERO_WEB_TIMEOUT": "2",
    }
    named = {f"ROISERVICE_{name.upper()}": value for name, value in settings.items()}
    home = Home(folder / "home", own | named)
    with serving(home, folder / "images", "--workers", WORKERS) as service:
        yield Guarded(service, web, home)


def ask_at(base: str) -> Ask:
    """Ask a server, with the URL and the headers exactly as they are given."""

    def ask(method: str, url: str, headers: Mapping[str, str], body: object) -> Got:
        connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=60)
        content = None if method != "POST" else json.dumps(body).encode()
        own = {"Content-Type": "application/json"} if content is not None else {}
        connection.request(method, url, body=content, headers=own | dict(headers))
        answer = connection.getresponse()
        got = Got(url, answer.status, dict(answer.getheaders()), answer.read())
        connection.close()
        return got

    return ask


class Forge:
    """Tokens of every kind, signed with the keys of the service; no library of tokens is used."""

    def __init__(self, state: Path) -> None:
        self.ring = KeyRing(keys_folder(state))
        self.key: SigningKey = self.ring.signer()
        self.issuer = issuer_of(Registry(state).uuid)

    def header(self, kind: Kind = ACCESS, **changes: object) -> dict[str, Any]:
        return {"alg": "EdDSA", "typ": kind.typ, "kid": self.key.id, **changes}

    def claims(self, kind: Kind = ACCESS, **changes: object) -> dict[str, Any]:
        now = int(time.time())
        path = {"pth": f"/images/{PRIVATE}"} if kind is TICKET else {}
        return {
            "iss": self.issuer, "aud": self.issuer + kind.audience_end, "sub": "u:4",
            "sid": "0123456789abcdef",
            "iat": now, "nbf": now, "exp": now + 300, "jti": "0" * 32, "act": ["roi:read"], "img": [PRIVATE],
            **path, **changes,
        }  # fmt: skip

    def signed(self, header: object, claims: object) -> str:
        text = f"{encoded(header)}.{encoded(claims)}"
        return f"{text}.{encoded(self.key.private.sign(text.encode()))}"

    def token(self, kind: Kind = ACCESS, **changes: object) -> str:
        return self.signed(self.header(kind), self.claims(kind, **changes))


def encoded(part: object) -> str:
    content = part if isinstance(part, bytes) else json.dumps(part).encode()
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def raw(host: str, request: bytes) -> bytes:
    """What the server answers to these very bytes, until it closes."""
    name, _, port = host.partition(":")
    with socket.create_connection((name, int(port)), timeout=30) as client:
        answer = b""
        try:
            client.sendall(request)
            while block := client.recv(2**16):
                answer += block
        except ConnectionError:
            pass  # closed before all was read
        return answer


async def all_at_once(host: str, request: bytes, times: int) -> list[int]:
    """States of as many requests, each over its own connection; all are open before one is sent."""
    name, _, port = host.partition(":")
    connections = [await asyncio.open_connection(name, int(port)) for _ in range(times)]
    for _, writer in connections:
        writer.write(request)

    async def status(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        line = await reader.readline()
        writer.close()
        return int(line.split()[1])

    return list(await asyncio.gather(*(status(*each) for each in connections)))


@contextmanager
def listening() -> Iterator[tuple[int, list[object]]]:
    """A port that nobody should connect to, and who did."""
    visits: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        ended = threading.Event()

        def wait() -> None:
            while not ended.is_set():
                try:
                    client, address = server.accept()
                except TimeoutError:
                    continue
                visits.append(address)
                client.close()

        thread = threading.Thread(target=wait)
        thread.start()
        yield server.getsockname()[1], visits
        ended.set()
        thread.join()


@contextmanager
def caching_proxy(service: str, folder: Path) -> Iterator[str]:
    """nginx that keeps whatever it may keep, by the URL alone, as nobody should have it; its address."""
    folder.mkdir()
    port = _free_port()
    # Started by root, its workers would be nobody, who may not write here.
    places = {"user": "user root;" if os.geteuid() == 0 else "", "folder": folder, "port": port}
    (folder / "nginx.conf").write_text(CACHING.format(service=service, **places))
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(_command(folder / "nginx.conf", folder), stderr=errors)
    try:
        _wait(process, port, folder)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
