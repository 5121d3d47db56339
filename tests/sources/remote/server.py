"""A web server over a folder, on loopback, whose faults can be switched on."""

from __future__ import annotations

import email.utils
import mimetypes
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

PAGE = b"<!DOCTYPE html><html><body><a href='0/'>0/</a></body></html>"


@dataclass
class Faults:
    """How the server behaves; may be changed while it runs.

    `missing` and `folders`: the state for files that are not there, and for folders; `folders` 200 gives an
    HTML listing, as many servers do. `head`: the state of all answers to HEAD unless 200. `on` has what
    happens to paths that match, and how often (-1: always): a state, `silent` (no answer at all), `stall`,
    `cut`, `reset`, `html`, `chunked`, `endless`, `gzip`, `no length`, `wrong part`, or a URL to redirect to.
    """

    missing: int = 404
    folders: int = 404
    ranges: bool = True
    etags: bool = True
    dates: bool = True
    conditions: bool = True
    head: int = 200
    on: dict[str, tuple[str | int, int]] = field(default_factory=dict)
    hurry: threading.Event = field(default_factory=threading.Event)

    def of(self, path: str) -> str | int | None:
        for pattern, (what, times) in self.on.items():
            if times and re.search(pattern, path):
                self.on[pattern] = (what, times - 1)
                return what
        return None


@dataclass
class Served:
    """A running server: its address without a final slash, what was asked of it, and its faults."""

    url: str
    faults: Faults
    asked: Counter[str]
    headers: list[dict[str, str]]


@contextmanager
def served(folder: Path, host: str = "127.0.0.1", port: int = 0) -> Iterator[Served]:
    faults = Faults()
    asked: Counter[str] = Counter()
    headers: list[dict[str, str]] = []

    class Handler(_Handler):
        pass

    Handler.root, Handler.faults, Handler.asked, Handler.seen = folder, faults, asked, headers
    with _Server((host, port), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield Served(f"http://{host}:{server.server_port}", faults, asked, headers)
        finally:
            faults.hurry.set()
            server.shutdown()


@contextmanager
def answering(status: int, body: bytes | Callable[[], bytes], headers: dict[str, str]) -> Iterator[str]:
    """The address of a server that gives one answer to everything, or the next one."""

    class Handler(_Handler):
        def _serve(self) -> None:
            self._answer(status, body() if callable(body) else body, headers)

    Handler.faults = Faults()
    with _Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # all that a client opens at once: none is to try again after a second


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    root: Path
    faults: Faults
    asked: Counter[str]
    seen: list[dict[str, str]]

    def do_HEAD(self) -> None:
        if self.faults.head != 200:
            self._answer(self.faults.head, b"")
        else:
            self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        path = unquote(self.path.partition("?")[0]).strip("/")
        self.asked[path] += 1
        self.seen.append(
            {"path": path, "method": self.command, **{k.lower(): v for k, v in self.headers.items()}}
        )
        fault = self.faults.of(path)
        file = self.root / path
        if isinstance(fault, int):
            self._answer(fault, b"no luck", {"Retry-After": "0"} if fault == 503 else {})
        elif isinstance(fault, str) and "://" in fault:
            self._answer(302, b"", {"Location": fault})
        elif fault == "silent":
            self.faults.hurry.wait(60)
            self.close_connection = True
        elif fault == "html":
            self._answer(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})
        elif file.is_dir():
            self._folder()
        elif not file.is_file():
            self._answer(self.faults.missing, PAGE, {"Content-Type": "text/html"})
        else:
            self._file(file, fault)

    def _folder(self) -> None:
        if self.faults.folders == 200 and not self.path.endswith("/"):
            self._answer(301, b"", {"Location": self.path + "/"})
        else:
            self._answer(self.faults.folders, PAGE, {"Content-Type": "text/html"})

    def _file(self, file: Path, fault: str | None) -> None:
        data = file.read_bytes()
        status = file.stat()
        headers = {"Content-Type": mimetypes.guess_type(file.name)[0] or "application/octet-stream"}
        tag = f'"{status.st_mtime_ns:x}-{len(data):x}"'
        if self.faults.etags:
            headers["ETag"] = tag
        if self.faults.dates:
            headers["Last-Modified"] = email.utils.formatdate(status.st_mtime, usegmt=True)
        if self.faults.conditions and self.headers.get("If-Match", tag) != tag:
            self._answer(412, b"")
            return
        asked = self.headers.get("Range")
        if asked is None or not self.faults.ranges:
            self._answer(200, data, headers, fault)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(data) - int(last))
        stop = min(int(last) + 1, len(data)) if first and last else len(data)
        if start >= len(data):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        if fault == "wrong part":
            start, stop = start + 1, stop + 1
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self._answer(206, data[start:stop], headers, fault)

    def _answer(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, fault: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if fault == "gzip":
            self.send_header("Content-Encoding", "gzip")
        if fault in ("chunked", "endless"):
            self.send_header("Transfer-Encoding", "chunked")
        elif fault == "no length":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault in ("cut", "stall", "reset"):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            if fault == "stall":
                self.faults.hurry.wait(10)
            elif fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
        elif fault == "chunked":
            self.wfile.write((b"%x\r\n%s\r\n" % (len(data), data) if data else b"") + b"0\r\n\r\n")
        elif fault == "endless":
            block = b"0" * 65536
            while not self.faults.hurry.is_set():
                self.wfile.write(b"10000\r\n" + block + b"\r\n")
        else:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()
