"""A web server on loopback that stands in for OMERO.web: sessions, permissions, ROIs of OMERO's own, faults.

States, bodies and headers are those of omero-web 5.33 and omero-iviewer 0.19 for what concerns ROIs.
"""

from __future__ import annotations

import re
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, quote, urlsplit

from tests.omeroweb.images import OmeroImage
from tests.omeroweb.views import HTML, ROUTES, Answer, Call, no_page


@dataclass(frozen=True)
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


@dataclass
class OmeroWeb:
    """The server; used as a context manager. What is set may be changed while it runs.

    `faults` are taken one per request, in order; `always` is the fault of all requests after those; `on`
    says to which paths faults apply. Faults: a state such as 500 or 403, `hang` (no answer until the end),
    `slow` (a byte at a time), `malformed`, `truncated`, `html200`, `redirect`, `drop`, `security`,
    `down` (OMERO.server is gone, which loses the session). Requests without a session are those of
    `public`, if there is such a user and the method is GET.
    """

    prefix: str = ""
    public: str | None = None
    cookie_name: str = "sessionid"
    limit: int = 200
    max_limit: int = 500
    latency: float = 0.0
    faults: list[str | int] = field(default_factory=list)
    always: str | int | None = None
    on: str = ""
    redirect_to: str = "http://127.0.0.1:1/elsewhere"
    images: dict[int, OmeroImage] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)
    requests: list[Asked] = field(default_factory=list)
    port: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", self.port), type("Handler", (_Handler,), {"web": self}))
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Address with the prefix, without a final slash."""
        return f"http://{self.host}{self.prefix}"

    def add(self, image: OmeroImage) -> OmeroImage:
        """Hold this image."""
        self.images[image.id] = image
        return image

    def login(self, user: str) -> str:
        """A new session of a user: the value of the cookie."""
        session = secrets.token_hex(16)
        self.sessions[session] = user
        return session

    def logout(self, user: str | None) -> None:
        """End all sessions of a user."""
        self.sessions = {session: name for session, name in self.sessions.items() if name != user}

    def asked(self, path: str = "") -> list[Asked]:
        """Requests whose path, below the prefix, starts so."""
        return [each for each in self.requests if each.path.startswith(self.prefix + path)]

    def readable(self, user: str) -> dict[int, OmeroImage]:
        """The images that a user may read."""
        return {
            image.id: image
            for image in self.images.values()
            if image.readers is None or user in image.readers
        }

    def take_fault(self, path: str) -> str | int | None:
        if not re.search(self.on, path):
            return None
        return self.faults.pop(0) if self.faults else self.always


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


class _Handler(BaseHTTPRequestHandler):
    web: OmeroWeb
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.web.requests.append(Asked(self.command, url.path, url.query, dict(self.headers)))
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        if self.web.latency:
            self.web.ended.wait(self.web.latency)
        fault = self.web.take_fault(url.path)
        if fault in ("hang", "drop"):
            self._break(wait=fault == "hang")
        else:
            self._send(self._answer(url.path.removeprefix(self.web.prefix), url.query, fault), fault)

    do_HEAD = do_POST = do_GET  # noqa: N815 (names that the base class looks for)

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, path: str, query: str, fault: str | int | None) -> Answer:
        if fault in ("html200", "redirect"):
            headers = {"Location": self.web.redirect_to} if fault == "redirect" else {}
            return Answer(302 if headers else 200, b"<html>maintenance</html>", HTML, headers)
        user = self._user()
        if fault == "down":
            self.web.logout(user)
            user = None
        found = self._route(path)
        if found is None:
            return self._astray(path)
        view, arguments = found
        api = path.startswith("/api/")
        if user is None:
            return self._refused(api)
        version = {"X-OMERO-ApiVersion": "0.2"} if api else {}
        if fault == "security" or isinstance(fault, int):
            trouble = {"message": "invalid value", "stacktrace": "Traceback ..."}
            return Answer(fault if isinstance(fault, int) else 403, trouble, headers=version)
        base = f"http://{self.headers.get('Host', self.web.host)}{self.web.prefix}/api/v0"
        values = parse_qs(query, keep_blank_values=True)
        call = Call(self.web.readable(user), values, base, self.web.limit, self.web.max_limit)
        answer = view(call, *arguments)
        return Answer(answer.status, answer.body, answer.kind, {**version, **answer.headers})

    def _user(self) -> str | None:
        try:
            jar = SimpleCookie(self.headers.get("Cookie", ""))
        except CookieError:
            return None
        morsel = jar.get(self.web.cookie_name)
        user = None if morsel is None else self.web.sessions.get(morsel.value)
        return self.web.public if user is None and self.command == "GET" else user

    def _route(self, path: str) -> tuple[Callable[..., Answer], tuple[str | None, ...]] | None:
        if self.web.prefix and not self.path.startswith(f"{self.web.prefix}/"):
            return None
        for pattern, view in ROUTES:
            match = re.fullmatch(pattern, path)
            if match:
                return view, match.groups()
        return None

    def _astray(self, path: str) -> Answer:
        """No such page, or one whose final slash is missing."""
        if not path.endswith("/") and self._route(f"{path}/"):
            return Answer(301, b"", HTML, {"Location": f"{self.web.prefix}{path}/"})
        return no_page()

    def _refused(self, api: bool) -> Answer:
        if api:
            return Answer(403, {"message": "Not logged in"})
        if self.headers.get("X-Requested-With") == "XMLHttpRequest":
            return Answer(403, b"", HTML)
        login = f"{self.web.prefix}/webclient/login/?url={quote(self.path, safe='')}"
        return Answer(302, b"", HTML, {"Location": login})

    def _break(self, wait: bool) -> None:
        """End the connection without a word, at once or when the server ends."""
        if wait:
            self.web.ended.wait()
        # With this option closing sends a reset, as a crashed process does.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _send(self, answer: Answer, fault: str | int | None) -> None:
        body = answer.content[:-20] if fault == "malformed" else answer.content
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Vary", "Cookie")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "truncated":
            body = body[: len(body) // 2]
            self.close_connection = True
        if fault == "slow":
            self._drip(body)
        else:
            self.wfile.write(body)

    def _drip(self, body: bytes) -> None:
        for at in range(len(body)):
            if self.web.ended.wait(0.05):
                break
            try:
                self.wfile.write(body[at : at + 1])
            except OSError:
                break
        self.close_connection = True
