"""What the processes of the service share, as far as this package needs to know it."""

from __future__ import annotations

from typing import Protocol


class SharedStore(Protocol):
    """Bytes by key, for a time. All methods raise SharedStoreFailed where the store does not answer."""

    def get(self, key: str) -> bytes | None:
        """The value of the key; None only if the store says that there is none."""

    def put(self, key: str, value: bytes, ttl: int) -> None:
        """Keep a value for `ttl` seconds, at least 1."""

    def add(self, key: str, value: bytes, ttl: int) -> bool:
        """Keep a value if there is none; whether that was so. Of several at once, one is told so."""

    def remove(self, key: str) -> None:
        """Keep the value of the key no longer."""
