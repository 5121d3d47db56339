"""Where the registry keeps its rows: a SQLite file, or PostgreSQL, which several machines share.

Both are asked by the same statements, whose values are written `:name`. SQLite is spoken to by Python's own
module: SQLAlchemy takes 0.15 s to import, and a look-up through it six times as long.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from roiservice.errors import NotWritten, RegistryFailed
from roiservice.sources.paths import is_unicode

if TYPE_CHECKING:
    import sqlalchemy

log = logging.getLogger(__name__)

Values = Mapping[str, object]
Records = list[tuple[Any, ...]]
Ask = Callable[[str, "Values | Sequence[Values]"], Records]  # with several values: once for each, no rows

PAUSE = 2.0  # seconds for which PostgreSQL is not asked once it did not answer
LONGEST_TEXT = 500  # characters; an entry of PostgreSQL's indexes holds 2704 bytes
LOCKS = 0x524F4953  # PostgreSQL's advisory locks of ours have this for the first of their two numbers
WRITERS = 0  # and this for the second, where layers have their own, which is above
ENCODINGS = ("UTF8", "SQL_ASCII")  # of databases that keep any name of a file
# What libpq is told unless the URL says otherwise: hosts that went away without a word are noticed.
_OPTIONS = {
    "client_encoding": "utf8",
    "connect_timeout": "5",
    "tcp_user_timeout": "10000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
# The same for the server, which else keeps the locks of such a host for two hours, and those of a process
# that is stopped in a transaction for ever.
_SERVER_OPTIONS = (
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
    " -c statement_timeout=30000 -c idle_in_transaction_session_timeout=60000"
)


class Database(Protocol):
    """What the registry asks of where it is kept; safe for several threads and processes at once.

    Everything raises RegistryFailed where there is no answer, and may raise NotWritten as `check` does.
    """

    @property
    def words(self) -> Mapping[str, str]:
        """How the schema says `integer`, `counter` (of the key of numbers) and `options` of a table."""

    def read(self, statement: str, values: Values) -> Records:
        """The rows of a statement that changes nothing."""

    def writing(self) -> AbstractContextManager[Ask]:
        """A transaction that nobody else writes beside: its end keeps, an exception undoes, all of it."""

    def storable(self, text: str) -> str:
        """`text`, or what stands for one that cannot be kept."""

    def check(self) -> None:
        """NotWritten if what was opened is not there any more."""

    def close(self) -> None:
        """Let go of the connections of this thread, or of all that are not in use."""


def _digest(text: str) -> str:
    return f"sha256:{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


class SqliteDatabase:
    """A SQLite file; each thread has a connection of its own."""

    words: Mapping[str, str] = {
        "integer": "integer",
        "counter": "autoincrement",
        "options": "without rowid",
    }

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        with _sqlite_answers():
            self._connect().execute("pragma journal_mode=wal")
        self._file = self._identity()

    def read(self, statement: str, values: Values) -> Records:
        """The rows of a statement."""
        with _sqlite_answers():
            return self._connection().execute(statement, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[Ask]:
        """A transaction; whoever else writes is waited for."""
        with _sqlite_answers():
            connection = self._connection()
            with connection:
                connection.execute("begin immediate")
                yield partial(_ask_sqlite, connection)

    def storable(self, text: str) -> str:
        """`text`, or a digest of one that is no Unicode, as names of files may be."""
        return text if is_unicode(text) else _digest(text)

    def check(self) -> None:
        """NotWritten if the file was taken away, be another there: what is written would be lost with it."""
        if self._file is None or self._identity() != self._file:
            raise NotWritten(f"{self._path}: the registry of lasting ids is gone")

    def _identity(self) -> tuple[int, int] | None:
        """What tells the file from another of its name; None if it is not there."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def close(self) -> None:
        """Let go of this thread's connection."""
        connection: sqlite3.Connection | None = self._local.__dict__.pop("connection", None)
        if connection is not None:
            connection.close()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            self.check()  # what another registry numbered so is something else
            connection = self._connect()
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None)
        self._local.connection = connection
        return connection


def _ask_sqlite(connection: sqlite3.Connection, statement: str, values: Values | Sequence[Values]) -> Records:
    if isinstance(values, Mapping):
        return connection.execute(statement, values).fetchall()
    connection.executemany(statement, values)
    return []


@contextmanager
def _sqlite_answers() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        log.warning("the registry cannot be used: %s", error)
        raise RegistryFailed(str(error)) from error


class PostgresDatabase:
    """PostgreSQL at a URL that `roiservice.settings` has checked.

    While it does not answer, it is asked once every two seconds at most, and nobody else is kept waiting.
    """

    words: Mapping[str, str] = {"integer": "bigint", "counter": "", "options": ""}

    def __init__(self, url: str) -> None:
        import sqlalchemy
        from sqlalchemy.engine import make_url

        self.errors = sqlalchemy.exc.SQLAlchemyError
        self._lock = threading.Lock()
        self._left_out_until = 0.0
        self._failing = False
        try:
            address = make_url(url).set(drivername="postgresql+psycopg")
            self._engine = sqlalchemy.create_engine(
                address,
                connect_args=_options(address),
                isolation_level="READ COMMITTED",
                pool_size=2,
                max_overflow=14,  # those that build hold one; threads that do not wait for their turn
                pool_pre_ping=True,
                hide_parameters=True,
            )
        except (self.errors, ValueError):
            raise RegistryFailed("the address cannot be used") from None
        sqlalchemy.event.listen(self._engine, "connect", _check_encoding)
        self._alone = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    def read(self, statement: str, values: Values) -> Records:
        """The rows of a statement."""
        with self.answers(), self.connect() as connection:
            return _ask_postgres(connection, statement, values)

    @contextmanager
    def writing(self) -> Iterator[Ask]:
        """A transaction; whoever else writes is waited for."""
        with self.answers(), self._engine.begin() as connection:
            _ask_postgres(connection, f"select pg_advisory_xact_lock({LOCKS}, {WRITERS})", {})
            yield partial(_ask_postgres, connection)

    def connect(self) -> sqlalchemy.Connection:
        """A connection, to be closed again; every statement is a transaction of its own."""
        return self._alone.connect()

    @contextmanager
    def transaction(self) -> Iterator[sqlalchemy.Connection]:
        """A connection, and a transaction for as long as this lasts."""
        with self.answers(), self._engine.begin() as connection:
            yield connection

    def storable(self, text: str) -> str:
        """As for SQLite; also of one that is too long for an index or holds NUL, which PostgreSQL has not."""
        is_kept = len(text) <= LONGEST_TEXT and "\0" not in text and is_unicode(text)
        return text if is_kept else _digest(text)

    def check(self) -> None:
        """Nothing: whether it answers, and as which registry, whoever asks finds out."""

    def close(self) -> None:
        """Close all connections that are not in use."""
        self._engine.dispose()

    @contextmanager
    def answers(self, *, impatient: bool = True) -> Iterator[None]:
        """Whatever SQLAlchemy raises within is RegistryFailed.

        So is what is asked while nobody answers, unless `impatient` is False: that is asked all the same.
        """
        if impatient:
            self._begin()
        try:
            yield
        except self.errors as error:
            raise self._failed(error) from None
        self._answered()

    def _begin(self) -> None:
        """RegistryFailed while it is left out, but for one that tries."""
        with self._lock:
            now = time.monotonic()
            if now < self._left_out_until:
                raise RegistryFailed("PostgreSQL is left out until it answers again")
            if self._failing:
                self._left_out_until = now + PAUSE + float(_OPTIONS["connect_timeout"])

    def _answered(self) -> None:
        if self._failing:
            with self._lock:
                self._failing, self._left_out_until = False, 0.0
            log.warning("the registry in PostgreSQL answers again")

    def _failed(self, error: Exception) -> RegistryFailed:
        """What to raise for `error`; where nobody answered, it is not asked for a while."""
        reason = str(getattr(error, "orig", error)).strip().split("\n")[0] or type(error).__name__
        if getattr(error, "statement", None) is not None and not getattr(
            error, "connection_invalidated", False
        ):
            self._answered()
            log.warning("the registry in PostgreSQL refuses a statement: %s", reason)
            return RegistryFailed(reason)
        with self._lock:
            first = not self._failing
            self._failing, self._left_out_until = True, time.monotonic() + PAUSE
        if first:
            log.warning("the registry in PostgreSQL does not answer: %s", reason)
        return RegistryFailed(reason)


def _check_encoding(connection: Any, _record: object) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in ENCODINGS:
        raise RegistryFailed(f"the database has the encoding {encoding}; make one with UTF8")


def _options(address: sqlalchemy.URL) -> dict[str, str]:
    """Options of libpq besides those of the address, which come first."""
    given = {name: value for name, value in _OPTIONS.items() if name not in address.query}
    options = address.query.get("options", "")
    return {
        **given,
        "options": f"{_SERVER_OPTIONS} {options if isinstance(options, str) else ' '.join(options)}",
    }


def _ask_postgres(
    connection: sqlalchemy.Connection, statement: str, values: Values | Sequence[Values]
) -> Records:
    from sqlalchemy import text

    result = connection.execute(text(statement), values)
    return [tuple(row) for row in result] if result.returns_rows else []
