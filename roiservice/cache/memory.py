"""Values kept in this process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

Value = TypeVar("Value")
_ENTRY_BYTES = 400  # dictionary slot, key and object headers of one entry, about


class MemoryCache(Generic[Value]):
    """The most recently used values, bounded by bytes; safe to use from several threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._values: OrderedDict[str, tuple[Value, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> Value | None:
        """The value of that key, which thereby becomes the most recently used; None if it is not here."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: str, value: Value, size: int) -> None:
        """Keep a value of `size` bytes, and drop the least recently used; above the bound it is not kept."""
        size += _ENTRY_BYTES
        if size > self.max_bytes:
            return
        with self._lock:
            replaced = self._values.pop(key, None)
            self._bytes += size - (replaced[1] if replaced else 0)
            self._values[key] = value, size
            while self._bytes > self.max_bytes:
                self._bytes -= self._values.popitem(last=False)[1][1]

    def usage(self) -> tuple[int, int]:
        """Number of values and the bytes they take."""
        with self._lock:
            return len(self._values), self._bytes
