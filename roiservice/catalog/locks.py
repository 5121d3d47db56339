"""Who builds a layer, across machines that share a registry in PostgreSQL.

Files keep the builders of one host apart (`roiservice.catalog.filelocks`). A builder also holds an advisory
lock of PostgreSQL, which ends with its connection, so with itself. When PostgreSQL is started again, all such
locks are gone, the builders are not. So each leaves a file beside the catalogs until it is done, and takes
its lock again as soon as it can; who finds the file without the lock gives it time to do so. One that cannot
reach PostgreSQL for longer, but the catalogs, finds the file of another there, and stops.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from roiservice.catalog.database import LOCKS, PostgresDatabase
from roiservice.errors import Building, RegistryFailed

if TYPE_CHECKING:
    import sqlalchemy

CLAIM = "claim"
LOOK = 0.05  # seconds between looks for whether a lock is free
WATCH = 0.5  # seconds between looks for whether a lock is still held
TAKEOVER = 3.0  # seconds that a builder whose lock is gone, but not its file, has to take it again
LONGEST_LOOK = 0.5  # seconds that somebody who looks at a lock may hold it
NOT_AVAILABLE = "55P03"  # PostgreSQL's word for a lock that was waited for too long
PATIENCE = 20.0  # seconds that a catalog which is ready waits for PostgreSQL, or as long as it took to build


class LayerLocks:
    """Builders on other machines, for a registry that no other machine has: there are none.

    `are_shared`: builders of this machine have locks of these as well. `beginning` is how many seconds a
    process that was started on another machine may take to take its lock.
    """

    are_shared = False
    beginning = 0.0

    @contextmanager
    def hold(self, layer: int, directory: Path, timeout: float | None) -> Iterator[None]:  # noqa: ARG002
        """Be the only builder of the layer with catalogs in `directory`, on all machines.

        TimeoutError if another one is for longer than `timeout` seconds. None: it is waited for.
        """
        yield

    @contextmanager
    def kept_out(self, layer: int) -> Iterator[bool]:  # noqa: ARG002
        """Whether no builder is at work on any machine; if so, none begins meanwhile."""
        yield True

    def confirm(self, layer: int, collection: str, *, ready: bool = False) -> None:
        """Raise Building if the layer that this process builds is another's now.

        With `ready`, RegistryFailed if that cannot be known for so long that the build is better given up: as
        long as it took, and no less than a little while.
        """

    def mark(self, layer: int) -> str:  # noqa: ARG002
        """What is to be in the names of folders that this process, which holds the layer, works in.

        One that was taken for dead may go on for a moment, and must not come upon those of the next.
        """
        return ""

    def is_held(self, layer: int) -> bool:
        """Whether a builder is at work on any machine."""
        with self.kept_out(layer) as none:
            return not none


class SharedLocks(LayerLocks):
    """Builders of all machines with one registry in PostgreSQL."""

    are_shared = True
    beginning = 10.0

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._held: dict[int, _Lock] = {}

    @contextmanager
    def hold(self, layer: int, directory: Path, timeout: float | None) -> Iterator[None]:
        """As `LayerLocks.hold`; the lock is watched for as long as it is held."""
        deadline = None if timeout is None else time.monotonic() + timeout
        claim = directory / CLAIM
        lock = _Lock(self._database, layer, claim)
        try:
            while not (self._is_free(layer, claim) and lock.take()):
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError
                time.sleep(LOOK)
            lock.since = time.monotonic()
            with lock.claimed(), lock.watched():
                self._held[layer] = lock
                try:
                    yield
                finally:
                    del self._held[layer]
        finally:
            lock.release()

    @contextmanager
    def kept_out(self, layer: int) -> Iterator[bool]:
        """As `LayerLocks.kept_out`."""
        from sqlalchemy import text

        look = text(f"select pg_try_advisory_xact_lock_shared({LOCKS}, :layer)")
        with self._database.transaction() as connection:
            yield bool(connection.scalar(look, {"layer": layer}))

    def confirm(self, layer: int, collection: str, *, ready: bool = False) -> None:
        """As `LayerLocks.confirm`."""
        lock = self._held.get(layer)
        now = time.monotonic()
        deadline = now + PATIENCE if lock is None else now + max(PATIENCE, now - lock.since)
        while lock is not None and (lock.is_lost or (ready and not lock.keep())):
            if lock.is_lost:
                raise Building(collection)
            if time.monotonic() >= deadline:
                raise RegistryFailed("whether another builder is at work cannot be known")
            time.sleep(WATCH)

    def mark(self, layer: int) -> str:
        """As `LayerLocks.mark`."""
        return self._held[layer].mark

    def _is_free(self, layer: int, claim: Path) -> bool:
        """Whether the lock may be taken; a builder that lost it had time to come back."""
        if not claim.exists():
            return True
        if self.is_held(layer):
            return False
        time.sleep(TAKEOVER)
        return True


class _Lock:
    """The lock of one layer, held by a connection of its own, and taken again if that was lost.

    `claim` is the file that says that a builder is not done; `mark` is as of `LayerLocks`. One thread at a
    time uses the connection.
    """

    def __init__(self, database: PostgresDatabase, layer: int, claim: Path) -> None:
        self._database = database
        self._layer = {"layer": layer}
        self._claim = claim
        self.since = time.monotonic()  # when the build began
        self.mark = f".{uuid4().hex[:12]}"
        self._name = f"{socket.gethostname()} {os.getpid()} {self.mark}\n"
        self._connection: sqlalchemy.Connection | None = None
        self._using = threading.Lock()
        self._was_free = True

    @property
    def is_lost(self) -> bool:
        """Whether another builder was faster."""
        return not self._was_free or (self._connection is None and not self._is_claimed())

    def take(self, *, impatient: bool = True) -> bool:
        """Whether the lock was free, but for those who look; RegistryFailed without an answer.

        Nobody looks any more once this waits, so that it has its turn however many do.
        """
        from sqlalchemy import text

        # In one statement, as the limit is to hold for it alone.
        take = text("select pg_advisory_lock(:locks, :layer) from set_config('lock_timeout', :limit, true)")
        values = {**self._layer, "locks": LOCKS, "limit": f"{LONGEST_LOOK:g}s"}
        with self._database.answers(impatient=impatient):
            if self._connection is None:
                self._connection = self._database.connect()
            try:
                self._connection.execute(take, values)
            except self._database.errors as error:
                if getattr(getattr(error, "orig", None), "sqlstate", None) != NOT_AVAILABLE:
                    raise
                return False
        return True

    def keep(self) -> bool:
        """Whether the lock is held, if need be by a new connection; False also while nobody answers."""
        from sqlalchemy import text

        with self._using:
            if self._connection is not None and self._was_free:
                with contextlib.suppress(RegistryFailed), self._database.answers(impatient=False):
                    self._connection.execute(text("select 1"))
                    return True
                self._drop()
            if not self.is_lost:
                with contextlib.suppress(RegistryFailed):
                    if self.take(impatient=False):
                        self._was_free = self._is_claimed()
                        return self._was_free
                self._drop()  # if another builder has the lock, and not who looks, the file will be its own
        return False

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Leave the file; it goes only with the end of this builder, and not if it is another's by then."""
        with contextlib.suppress(OSError):  # where this fails the build does as well, and says why
            self._claim.write_text(self._name, encoding="utf-8")
        try:
            yield
        finally:
            if not self.is_lost:
                with contextlib.suppress(OSError):
                    self._claim.unlink(missing_ok=True)

    def _is_claimed(self) -> bool:
        """Whether the file is this builder's."""
        try:
            return self._claim.read_text(encoding="utf-8") == self._name
        except (OSError, ValueError):
            return False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """See to it, in a thread, that the lock is held."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(WATCH):
                self.keep()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def release(self) -> None:
        """Let others build. A connection that cannot say so is closed, which says it as well."""
        from sqlalchemy import text

        if self._connection is not None:
            with contextlib.suppress(RegistryFailed), self._database.answers(impatient=False):
                self._connection.execute(text("select pg_advisory_unlock_all()"))
                self._connection.close()
                self._connection = None
        self._drop()

    def _drop(self) -> None:
        """Close the connection, whatever state it is in."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(self._database.errors):
                connection.invalidate()
                connection.close()
