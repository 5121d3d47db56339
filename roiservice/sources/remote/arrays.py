"""A remote store as zarr sees it. Importing this imports zarr."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from roiservice.sources.remote.objects import Version
from roiservice.sources.remote.store import METADATA, Remote

_NOTHING: tuple[str, ...] = ()
_MARKS = 10_000  # shards of which it is remembered what version was read


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
        self._marks: OrderedDict[str, Version] = OrderedDict()
        self._lock = threading.Lock()

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
        if key.rpartition("/")[2] in METADATA:
            data = self._store.read(key)
            return data if data is None or span is None else data[span]
        with self._lock:
            version = self._marks.get(key) if span is not None else None
        content = self._store.chunk(key, span, version)
        if content is not None and span is not None:
            with self._lock:
                self._marks[key] = content.version
                self._marks.move_to_end(key)
                if len(self._marks) > _MARKS:
                    self._marks.popitem(last=False)
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


def _span(part: ByteRequest | None) -> slice | None:
    if part is None:
        return None
    if isinstance(part, RangeByteRequest):
        return slice(part.start, part.end)
    return slice(part.offset, None) if isinstance(part, OffsetByteRequest) else slice(-part.suffix, None)
