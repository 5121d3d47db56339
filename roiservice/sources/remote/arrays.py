"""A remote store as zarr sees it. Importing this imports zarr."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from roiservice.sources.remote.base import Remote
from roiservice.sources.remote.objects import Version
from roiservice.sources.store import is_metadata

_NOTHING: tuple[str, ...] = ()
_MARKS = 10_000  # shards of which it is remembered what version was read
_WHOLE_BYTES = 2**24  # shards up to this size are read whole once a second part of them is asked for
_KEPT_BYTES = 2**26  # of such shards
_LOCKS = 8


class RemoteArrays(Store):
    """A remote store, read-only and without listing.

    Requests wait in threads of their own, so that a slow host holds up no decompression. Parts of one shard
    are all of one version of it, or an error.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(self, store: Remote) -> None:
        super().__init__(read_only=True)
        self._store = store
        self._shards = _Shards(store)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteArrays) and other._store is self._store

    __hash__ = object.__hash__

    def __str__(self) -> str:
        return self._store.location

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The value, or a part of it; None if there is none. SourceError for all that went wrong."""
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(self._store.executor, self._fetch, key, _span(byte_range))
        return None if data is None else prototype.buffer.from_bytes(data)

    def _fetch(self, key: str, span: slice | None) -> bytes | None:
        if is_metadata(key):
            data = self._store.read(key)
            return data if data is None or span is None else data[span]
        if span is not None:
            return self._shards.part(key, span)
        content = self._store.chunk(key)
        return None if content is None else content.data

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several values or parts, in their order."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether there is such a value."""
        return await asyncio.get_running_loop().run_in_executor(
            self._store.executor, lambda: self._fetch(key, None) is not None
        )

    async def set(self, key: str, value: Buffer) -> None:  # noqa: ARG002
        """Not supported."""
        self._check_writable()

    async def delete(self, key: str) -> None:  # noqa: ARG002
        """Not supported."""
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        """Nothing: a host need not say what it has."""
        for key in _NOTHING:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:  # noqa: ARG002
        """Nothing, as `list`."""
        for key in _NOTHING:
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:  # noqa: ARG002
        """Nothing, as `list`."""
        for key in _NOTHING:
            yield key


class _Shards:
    """Parts of shards, all of one shard from one version of it. Small shards are read whole, once.

    Readers of a shard ask for its index and then for one inner chunk after the other.
    """

    def __init__(self, store: Remote) -> None:
        self._store = store
        self._versions: OrderedDict[str, Version] = OrderedDict()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._reading = [threading.Lock() for _ in range(_LOCKS)]

    def part(self, key: str, span: slice) -> bytes | None:
        with self._lock:
            version = self._versions.get(key)
        if version is not None and 0 <= version.size <= _WHOLE_BYTES:
            whole = self._whole(key, version)
            return None if whole is None else whole[span]
        content = self._store.chunk(key, span, version)
        if content is None:
            return None
        with self._lock:
            version = self._versions.setdefault(key, content.version)
            if len(self._versions) > _MARKS:
                self._kept.pop(self._versions.popitem(last=False)[0], None)
        # Another thread may have read its first part of another version meanwhile.
        return content.data if content.version == version else self.part(key, span)

    def _whole(self, key: str, version: Version) -> bytes | None:
        with self._reading[hash(key) % _LOCKS]:  # several parts are asked for at once, and all wait for one
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            content = self._store.chunk(key, None, version)
            if content is None:
                return None
            with self._lock:
                self._kept[key] = content.data
                while sum(map(len, self._kept.values())) > _KEPT_BYTES:
                    self._kept.popitem(last=False)
            return content.data


def _span(part: ByteRequest | None) -> slice | None:
    if part is None:
        return None
    if isinstance(part, RangeByteRequest):
        return slice(part.start, part.end)
    return slice(part.offset, None) if isinstance(part, OffsetByteRequest) else slice(-part.suffix, None)
