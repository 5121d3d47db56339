"""What stores behind a network have in common."""

from __future__ import annotations

from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor

from roiservice.sources.limits import Limits
from roiservice.sources.remote.objects import Content, HttpObjects, Version
from roiservice.sources.remote.transport import CONNECTIONS
from roiservice.sources.store import Store


class Remote(Store):
    """A store behind a network."""

    reads_at_once = CONNECTIONS

    def __init__(self, objects: HttpObjects, limits: Limits) -> None:
        super().__init__(objects.location, limits)
        self._objects = objects

    @property
    def executor(self) -> ThreadPoolExecutor:
        """Threads for requests to this store's host."""
        return self._objects.executor

    @abstractmethod
    def chunk(self, key: str, span: slice | None = None, version: Version | None = None) -> Content | None:
        """A chunk, a shard, or `span` of it, of `version` if given; None if there is none.

        Any other trouble is an error.
        """
