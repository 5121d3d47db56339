"""Requests to the OMERO.web beside the service, in the name of one of its users.

Of what a caller sent, only the session cookie goes on to OMERO.web. No redirect is followed, bodies are
capped, and the whole of a request has one time limit. What OMERO.web does not answer it is not asked for a
few seconds: the workers of its default set-up are few, and each request holds one.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin

import orjson
import urllib3
from urllib3.exceptions import HTTPError

from roiservice import __version__
from roiservice.errors import OmeroWebFailed
from roiservice.metrics import OMERO_LEFT_ALONE, OMERO_REQUESTS, Metrics
from roiservice.omeroweb.deadline import bounded_pools
from roiservice.records import dataclass

_log = logging.getLogger(__name__)

LARGEST_BODY = 64 * 2**20  # bytes; a page of 500 ROIs of 400 vertices each takes 3 MB
CONNECTIONS = 16
AT_ONCE = 4  # requests of one kind
PATIENT = (
    4  # requests that are waited for longer: half of those that a process of the service answers at once
)
TOLERATED = 3  # failures in a row of one kind of request before OMERO.web is not asked it any more
PAUSE = 5.0  # seconds that it then is not
_BLOCK = 2**16
_NUMBERS = re.compile("[0-9][0-9-]*")
# RFC 9110, 7.6.1, and what describes the bytes on the wire, which are not passed on as they came.
_HOP_BY_HOP = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "upgrade"),
        *("transfer-encoding", "content-length", "content-encoding", "date", "server"),
    )
)


@dataclass(frozen=True)
class Answer:
    """A whole answer of any status; `headers` are the end-to-end ones, `body` is decompressed."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """The first header of that name, whatever its case; empty if there is none."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    @property
    def says_none(self) -> bool:
        """Whether OMERO says that there is no such thing; a 404 that is no JSON is some other page's."""
        return self.status == 404 and self._is_json

    def json(self) -> Any:
        """The document of a 200 answer in JSON; OmeroWebFailed for every other answer."""
        if self.status != 200:
            raise OmeroWebFailed(f"OMERO.web answers {self.status}")
        if not self._is_json:
            raise OmeroWebFailed("OMERO.web answers with something else than JSON")
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return self._loose_json()

    def _loose_json(self) -> Any:
        """What Python writes and browsers take, but the strict parser does not: NaN and halves of pairs."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise OmeroWebFailed("OMERO.web answers with broken JSON") from None

    @property
    def _is_json(self) -> bool:
        return self.header("Content-Type").partition(";")[0].strip().lower() == "application/json"


class _Circuit:
    """How one kind of request went lately, and places for those under way. A slow kind harms itself only."""

    def __init__(self) -> None:
        self.places = threading.BoundedSemaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        return time.monotonic() < self._open_until

    def failed(self) -> bool:
        """Whether this was one too many."""
        with self._lock:
            self._failures += 1
            if self._failures < TOLERATED:
                return False
            self._open_until = time.monotonic() + PAUSE
            return True

    def succeeded(self) -> None:
        self._failures = 0


class OmeroWeb:
    """One OMERO.web, at `url`, which may end in a prefix. Safe to use from several threads and after a fork.

    `timeout` is in seconds and holds for a request as a whole; `patience` (None: the same) is the longer one,
    for what nobody else can answer. `name` is what requests say in `Via` (RFC 9110, 7.6.3): where `url` leads
    through a proxy that sends them back to the service, it knows them.
    """

    def __init__(
        self,
        url: str,
        cookie_name: str = "sessionid",
        timeout: float = 5.0,
        metrics: Metrics | None = None,
        name: str = "roiservice",
        patience: float | None = None,
    ) -> None:
        self.name = name
        self.url = url.rstrip("/")
        self.origin = urljoin(self.url, "/").rstrip("/")
        self.cookie_name = cookie_name
        self._timeout = timeout
        self._patience = timeout if patience is None else max(patience, timeout)
        self._metrics = metrics or Metrics()
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._circuits: defaultdict[str, _Circuit] = defaultdict(_Circuit)
        self._pool = bounded_pools(urllib3.PoolManager(1, maxsize=CONNECTIONS, block=True, retries=False))
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="omeroweb")
        self._patient = threading.BoundedSemaphore(PATIENT)

    def deadline(self) -> float:
        """When answers to what is asked from now on come too late, for requests that share one time limit."""
        return time.monotonic() + self._timeout

    @contextmanager
    def patience(self) -> Iterator[float]:
        """As `deadline`, for what nobody but OMERO.web can answer: later, but for a few requests at once."""
        places = self._patient
        patient = places.acquire(blocking=False)
        try:
            yield time.monotonic() + (self._patience if patient else self._timeout)
        finally:
            if patient:
                places.release()

    def get(
        self, path: str, query: str = "", session: str | None = None, until: float | None = None
    ) -> Answer:
        """The answer to a GET of `path`, below the prefix, with `session` as the session cookie.

        Raises OmeroWebFailed where no whole answer comes until then (None: as `deadline` says), or one that
        is too long.
        """
        if self._process != os.getpid():  # neither threads nor connections outlive a fork
            self._start()
        circuit = self._circuits[_NUMBERS.sub("#", path)]
        if circuit.is_open:
            self._metrics.add(1, OMERO_REQUESTS, "not_sent")
            raise OmeroWebFailed("OMERO.web did not answer a moment ago")
        deadline = self.deadline() if until is None else until
        headers = {
            "Accept": "*/*",
            "User-Agent": f"roiservice/{__version__}",
            "Via": f"1.1 {self.name}",
            # Without it the viewer's paths redirect to the login page instead of answering 403.
            "X-Requested-With": "XMLHttpRequest",
        }
        if session is not None:
            headers["Cookie"] = f"{self.cookie_name}={session}"
        url = f"{self.url}{path}?{query}" if query else f"{self.url}{path}"
        try:
            # In a thread, as nothing bounds the time in which the name of a host is looked up.
            fetched = self._threads.submit(self._fetch, circuit, url, headers, deadline)
            answer = fetched.result(max(deadline - time.monotonic(), 0))
        except (Late, HTTPError, OSError) as error:
            self._failed(circuit)
            raise OmeroWebFailed(f"OMERO.web {_said(error)}") from None
        except OmeroWebFailed:
            self._metrics.add(1, OMERO_REQUESTS, "failed")
            raise
        circuit.succeeded()
        self._metrics.add(1, OMERO_REQUESTS, "answered")
        self._metrics.set(0, OMERO_LEFT_ALONE)
        return answer

    def _fetch(self, circuit: _Circuit, url: str, headers: dict[str, str], deadline: float) -> Answer:
        if not circuit.places.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise Late
        try:
            return self._send(url, headers, deadline)
        finally:
            circuit.places.release()

    def _send(self, url: str, headers: dict[str, str], deadline: float) -> Answer:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Late
        response = self._pool.request(
            "GET",
            url,
            headers=headers,
            redirect=False,
            preload_content=False,
            timeout=urllib3.Timeout(left, connect=min(1.0, left)),
            pool_timeout=left,
        )
        whole = False
        try:
            body = _body(response)
            whole = True
        finally:
            if not whole:
                response.close()
            response.release_conn()
        kept = [(name, value) for name, value in response.headers.items() if name.lower() not in _HOP_BY_HOP]
        return Answer(response.status, tuple(kept), body)

    def _failed(self, circuit: _Circuit) -> None:
        self._metrics.add(1, OMERO_REQUESTS, "failed")
        if circuit.failed():
            self._metrics.set(1, OMERO_LEFT_ALONE)
            _log.warning("OMERO.web is not asked for %g s what it does not answer", PAUSE)


def _body(response: urllib3.BaseHTTPResponse) -> bytes:
    blocks: list[bytes] = []
    received = 0
    while block := response.read1(_BLOCK, decode_content=True):
        blocks.append(block)
        received += len(block)
        if received > LARGEST_BODY:
            raise OmeroWebFailed(f"OMERO.web answers with more than {LARGEST_BODY} bytes")
    return b"".join(blocks)


def _said(error: Exception) -> str:
    """What went wrong, in words that hold neither address nor secret."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"TimeoutError", "ReadTimeoutError", "ConnectTimeoutError", "EmptyPoolError"}:
        return "does not answer in time"
    if "NewConnectionError" in kinds:
        return "cannot be reached"
    return "broke off its answer"
