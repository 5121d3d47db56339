"""Requests to one host: bounded in time, size and number, tried again when that may help.

Nothing but the host itself is ever asked: redirects are followed on the same scheme, host and port only.
"""

from __future__ import annotations

import http
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    LocationValueError,
    ProxyError,
    SSLError,
)

from roiservice import __version__
from roiservice.errors import SourceError, SourceRefused, SourceUnread
from roiservice.records import dataclass
from roiservice.sources.remote.addresses import LOOPBACK, AddressRefused, checked_pools
from roiservice.sources.remote.circuit import Circuit, counted

CONNECTIONS = 8  # to one host, from one process
_BLOCK = 2**18
_ERROR_BYTES = 2**16  # of the text that comes with an error; connections with longer ones are not used again
_SLOWEST = 2**16  # bytes per second below which a large answer is given up
_REDIRECTS = 3
_MOVED = (301, 302, 303, 307, 308)
PASSING = (408, 425, 429, 500, 502, 503, 504)  # states that may be over in a moment


@dataclass(frozen=True)
class Patience:
    """How long to wait for a host; times in seconds."""

    connect: float = 5
    stall: float = 15
    """Without a single byte."""
    whole: float = 60
    """One try, or one wait for a connection; large answers get a second more for each 64 KiB."""
    tries: int = 4
    pause: float = 0.5
    """Before the second try; doubled before each further one."""

    @property
    def pauses(self) -> float:
        """All pauses of a request together, but for what a host asks for."""
        return self.pause * float(2 ** (self.tries - 1) - 1)


PATIENCE = Patience()


class Traffic:
    """How many requests were sent, second tries included, and how many bytes of content came back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0
        self.bytes = 0

    def add(self, *, requests: int = 0, content: int = 0) -> None:
        """Count; safe to use from several threads."""
        with self._lock:
            self.requests += requests
            self.bytes += content


@dataclass(frozen=True)
class Request:
    """What is asked, and how messages name it: `location` and `part`.

    `headers` are made for each try and URL, as signatures hold the time. Content longer than `most` bytes is
    refused; it is read for the states in `wanted` only.
    """

    url: str
    location: str
    part: str
    headers: Callable[[str, str], Mapping[str, str]]
    most: int
    method: str = "GET"
    wanted: tuple[int, ...] = (200, 206)
    follow: bool = True


@dataclass(frozen=True)
class Reply:
    """An answer. `headers` have lower-case names; `data` is the content, or the start of an error's text."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def phrase(self) -> str:
        """`404 Not Found`."""
        try:
            return f"{self.status} {http.HTTPStatus(self.status).phrase}"
        except ValueError:
            return str(self.status)


class _TryAgain(Exception):
    """What may be otherwise in a moment; `pause` is how long the host asks to wait."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class Origin:
    """One scheme, host and port. Safe to use from several threads, not across a fork.

    `executor` has as many threads as there are connections; `traffic` is what was sent and came so far;
    `circuit` is open while the host is left out.
    """

    def __init__(self, base: str) -> None:
        self.base = base
        self.traffic = Traffic()
        self.circuit = Circuit(base)
        self.executor = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="remote")
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        self._manager = _manager(base)

    def send(self, request: Request) -> Reply:
        """The answer, whatever its state. SourceUnread if there is none, SourceRefused above the limits.

        A state that may be over in a moment is tried again, and then SourceUnread as well; to HEAD it is an
        answer, since some servers fail at nothing else, and who asks can ask by GET. What comes is whole: an
        answer that is cut short, or whose end cannot be told, is an error.
        """
        for _ in range(_REDIRECTS + 1):
            reply = self._with_retries(request)
            if reply.status not in _MOVED or not request.follow:
                return reply
            request = replace(request, url=self._moved_to(request, reply))
        raise _problem(request, "redirects in a circle")

    def _moved_to(self, request: Request, reply: Reply) -> str:
        url = urljoin(request.url, reply.headers.get("location", ""))
        if "location" not in reply.headers:
            raise _problem(request, f"answers {reply.phrase} without saying where to")
        if origin_of(url) != self.base:
            reason = f"redirects to {origin_of(url)}; no other host is asked"
            raise SourceRefused(request.location, request.part, reason)
        return url

    def _with_retries(self, request: Request) -> Reply:
        patience = PATIENCE
        for attempt in range(1, patience.tries + 1):
            try:
                return self._once(request, patience)
            except (_TryAgain, HTTPError, OSError) as error:
                _check_may_pass(request, error)
                failure, pause = error, error.pause if isinstance(error, _TryAgain) else None
            if attempt == patience.tries or self.circuit.leaves_out(request.url):
                break
            time.sleep(min(pause or patience.pause * 2 ** (attempt - 1), patience.stall))
        raise _problem(request, f"{_said(failure)} ({counted(attempt)})")

    def _once(self, request: Request, patience: Patience) -> Reply:
        """One try, unless the host is left out before there is a connection for it."""
        if self.circuit.leaves_out(request.url):
            raise _problem(request, self.circuit.reason)
        headers = {
            **request.headers(request.method, request.url),
            "User-Agent": f"roiservice/{__version__}",
        }
        with self._place(patience):
            if not self.circuit.admits(request.url):  # what was under way has failed meanwhile
                raise _problem(request, self.circuit.reason)
            deadline = time.monotonic() + patience.whole
            return self._read(request, self._response(request, headers, patience), deadline)

    @contextmanager
    def _place(self, patience: Patience) -> Iterator[None]:
        """One of the connections, once it is free."""
        if not self._places.acquire(timeout=patience.whole):
            raise _TryAgain("is busy with other requests of this service")
        try:
            yield
        finally:
            self._places.release()

    def _response(
        self, request: Request, headers: Mapping[str, str], patience: Patience
    ) -> urllib3.BaseHTTPResponse:
        """The state, with content to be read. The circuit is told whether one came."""
        self.traffic.add(requests=1)
        began = time.monotonic()
        try:
            response = self._manager.request(
                request.method,
                request.url,
                headers=headers,
                redirect=False,
                retries=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=patience.connect, read=patience.stall),
            )
        except (HTTPError, OSError) as error:
            _check_may_pass(request, error)
            connected = not isinstance(error, (ConnectTimeoutError, ProxyError))
            self.circuit.unanswered(
                request.url,
                _said(error),
                began,
                connected=connected,
                most=patience.tries,
                pauses=patience.pauses,
            )
            raise
        self.circuit.answered()
        return response

    def _read(self, request: Request, response: urllib3.BaseHTTPResponse, deadline: float) -> Reply:
        whole = False
        try:
            if response.status in PASSING and request.method != "HEAD":
                raise _TryAgain(_passing(response), _pause(response))
            if request.method == "HEAD" or response.status not in request.wanted:
                data, whole = _start_of(response, deadline)
            else:
                data, whole = _content(request, response, deadline), True
        finally:
            self.traffic.add(content=response.tell())
            if not whole:
                response.close()
            response.release_conn()
        return Reply(response.status, {name.lower(): value for name, value in response.headers.items()}, data)


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL."""
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


@lru_cache(maxsize=64)
def connect(base: str) -> Origin:
    """The one `Origin` of this process for a scheme, host and port as `origin_of` gives them."""
    return Origin(base)


# Neither threads nor connections outlive a fork.
os.register_at_fork(after_in_child=connect.cache_clear)


def _manager(base: str) -> urllib3.PoolManager:
    """A pool of connections, through the proxy that the environment names for this host, if any."""
    parts = urlsplit(base)
    proxy = urllib.request.getproxies_environment().get(parts.scheme)
    if not proxy or parts.hostname in LOOPBACK or urllib.request.proxy_bypass(parts.netloc):
        return checked_pools(urllib3.PoolManager(1, maxsize=CONNECTIONS))
    user = urlsplit(proxy)
    secret = f"{user.username}:{user.password or ''}" if user.username else None
    headers = urllib3.make_headers(proxy_basic_auth=secret) if secret else None
    return urllib3.ProxyManager(proxy, 1, proxy_headers=headers, maxsize=CONNECTIONS)


def _check_may_pass(request: Request, error: Exception) -> None:
    """Raise what `error` means, unless another try may go better."""
    if isinstance(error, AddressRefused):
        raise SourceRefused(request.location, request.part, f"the server cannot be asked: {error}") from error
    if isinstance(error, (SSLError, LocationValueError, DecodeError)):
        raise _problem(request, _said(error)) from error


def _start_of(response: urllib3.BaseHTTPResponse, deadline: float) -> tuple[bytes, bool]:
    """The first bytes of an error's text, as sent, and whether that is all."""
    data = b""
    while block := response.read1(_ERROR_BYTES, decode_content=False):
        data += block
        if len(data) > _ERROR_BYTES or time.monotonic() > deadline:
            return data, False
    return data, True


def _content(request: Request, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    length = stated_length(response.headers)
    if length is None and not getattr(response, "chunked", False):
        raise _problem(request, "answers without stating a length, so that nobody can tell if all has come")
    if length is not None and length > request.most:
        raise _too_long(request, str(length))
    blocks: list[bytes] = []
    received = 0
    while block := response.read1(_BLOCK, decode_content=True):
        received += len(block)
        blocks.append(block)
        if received > request.most:
            raise _too_long(request, f"more than {request.most}")
        if time.monotonic() > deadline + received / _SLOWEST:
            raise _TryAgain(f"is too slow: {received} bytes came in time")
    return b"".join(blocks)


def stated_length(headers: Mapping[str, str]) -> int | None:
    """`Content-Length`; None where there is none that can be used."""
    stated = headers.get("content-length", "")
    return int(stated) if stated.isdecimal() and len(stated) < 19 else None


def _too_long(request: Request, length: str) -> SourceError:
    reason = f"holds {length} bytes; {request.most} are allowed"
    return SourceRefused(request.location, request.part, reason)


def _problem(request: Request, reason: str) -> SourceUnread:
    return SourceUnread(request.location, request.part, f"the server {reason}")


def _passing(response: urllib3.BaseHTTPResponse) -> str:
    return f"answers {Reply(response.status, {}, b'').phrase}"


def _pause(response: urllib3.BaseHTTPResponse) -> float | None:
    stated = response.headers.get("Retry-After", "")
    return float(stated) if stated.isdecimal() and len(stated) < 6 else None


_REASONS = {
    "ConnectTimeoutError": "does not answer",
    "NameResolutionError": "is not known by that name",
    "NewConnectionError": "cannot be reached",
    "ReadTimeoutError": "has stopped sending",
    "SSLError": "has no certificate that can be trusted, or speaks no TLS",
    "LocationParseError": "has no usable name",
    "DecodeError": "sends content that cannot be decompressed",
    "ProtocolError": "broke the connection, or sent less than it had announced",
    "IncompleteRead": "sent less than it had announced",
    "ProxyError": "cannot be reached through the proxy",
}


def _said(error: Exception) -> str:
    """What went wrong, in words that hold neither URL nor secret."""
    if isinstance(error, _TryAgain):
        return str(error)
    for kind in type(error).__mro__:
        if kind.__name__ in _REASONS:
            return _REASONS[kind.__name__]
    return f"cannot be read ({type(error).__name__})"
