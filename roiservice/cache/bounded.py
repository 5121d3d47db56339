"""Answers of a Redis server that take no longer, and are no longer, than a sound one's would be.

The client library bounds only each wait for some bytes: an answer that drips in, or that never ends, would
hold its request for ever and fill the memory.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

from redis._parsers import _RESP2Parser

LONGEST = 1.0  # seconds for an answer as a whole
LARGEST = 2**27  # bytes of one answer; more than any page that is put there


class BoundedParser(_RESP2Parser):
    """The library's parser, over a socket that gives up."""

    def on_connect(self, connection: Any) -> None:
        """Begin to read from a new connection."""
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        buffer: Any = self._buffer
        self._bounded = buffer._sock = _BoundedSocket(buffer._sock)

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """One answer. TimeoutError or OSError beyond the bounds, after which the connection is closed."""
        with self._bounded.answer():
            return super().read_response(*arguments, **options)


class _BoundedSocket:
    """What the parser reads from; without bounds between answers, where the library looks for stray data."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._deadline = math.inf
        self._left: float = math.inf

    @contextlib.contextmanager
    def answer(self) -> Iterator[None]:
        self._deadline, self._left = time.monotonic() + LONGEST, LARGEST
        try:
            yield
        finally:
            self._deadline = self._left = math.inf

    def recv(self, size: int) -> bytes:
        if time.monotonic() > self._deadline:
            raise TimeoutError
        if self._left <= 0:
            raise OSError("an answer is too long")
        data: bytes = self._inner.recv(size)
        self._left -= len(data)
        return data

    def settimeout(self, seconds: float | None) -> None:
        self._inner.settimeout(seconds)
