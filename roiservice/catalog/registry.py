"""Lasting numbers: images, layers, catalog versions, ROIs whose label is no usable number.

One SQLite file in the state directory. Catalogs may be thrown away; this file is what makes ids last.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.errors import NotWritten

FIRST_ID = 10**15
FIRST_IMAGE = 10**14
ROIS = 2**32  # ids per layer and per catalog version
FIRST_EXTRA_ROI = 2**31  # ROI numbers below are labels themselves

_SCHEMA = """
create table if not exists registry (uuid text not null);
create table if not exists images (number integer primary key, uri text not null unique);
create table if not exists numbers (number integer primary key autoincrement);
create table if not exists layers (number integer primary key, image integer not null, collection text not
null,
    unique (image, collection));
create table if not exists versions (number integer primary key, layer integer not null, token text not null,
    options text not null, unique (layer, token, options));
create table if not exists extra_rois (layer integer not null, key text not null, number integer not null,
    primary key (layer, key), unique (layer, number)) without rowid;
"""


@dataclass(frozen=True)
class Place:
    """Where an id points: a ROI number, or with a `version` a running shape number."""

    image_id: int
    collection: str
    version: int | None
    number: int


class Registry:
    """The numbers given so far; safe for several threads and processes at once."""

    def __init__(self, state_dir: Path) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        self.directory = state_dir
        self._path = state_dir / "registry.sqlite"
        self._local = threading.local()
        connection = self._connection()
        connection.execute("pragma journal_mode=wal")
        connection.executescript(_SCHEMA)
        with connection:
            connection.execute("begin immediate")
            if connection.execute("select 1 from registry").fetchone() is None:
                connection.execute("insert into registry values (?)", (str(uuid.uuid4()),))
        self.uuid: str = connection.execute("select uuid from registry").fetchone()[0]

    def check(self) -> None:
        """Raise NotWritten if the file was taken away: numbers given from now on would be given again."""
        if not self._path.exists():
            raise NotWritten(f"{self._path}: the registry of lasting ids is gone")

    def image_number(self, uri: str) -> int:
        """The lasting number, from 10**14 upward, of an image that has none of its own."""
        return self._number("images", {"uri": uri}, FIRST_IMAGE)

    def layer_number(self, image_id: int, collection: str) -> int:
        """The lasting number of a layer."""
        return self._number("layers", {"image": image_id, "collection": collection}, None)

    def version_number(self, layer: int, token: str, options: str, *, renew: bool = False) -> int:
        """The number of a layer's catalog made from the source state `token` with `options`.

        With `renew` it is a new one from now on: the source may differ although it looks the same.
        """
        if renew:
            self._connection().execute(
                "update versions set token = token || '#' || number"
                " where layer = ? and token = ? and options = ?",
                (layer, token, options),
            )
        return self._number("versions", {"layer": layer, "token": token, "options": options}, None)

    def extra_roi_numbers(self, layer: int, keys: Sequence[str]) -> list[int]:
        """Lasting ROI numbers, from 2**31 upward, of objects whose label is no ROI number itself."""
        connection = self._connection()
        with connection:
            connection.execute("begin immediate")
            known = dict(connection.execute("select key, number from extra_rois where layer = ?", (layer,)))
            following = max(known.values(), default=FIRST_EXTRA_ROI - 1) + 1
            new = [key for key in dict.fromkeys(keys) if key not in known]
            known.update(zip(new, range(following, following + len(new)), strict=True))
            connection.executemany(
                "insert into extra_rois values (?, ?, ?)", ((layer, key, known[key]) for key in new)
            )
        return [known[key] for key in keys]

    def locate(self, identifier: int) -> Place | None:
        """What a ROI or shape id points to; None for an id that was never given."""
        number, rest = divmod(identifier - FIRST_ID, ROIS)
        if not FIRST_ID <= identifier < 2**63:
            return None
        find = self._connection().execute
        row = find("select image, collection from layers where number = ?", (number,)).fetchone()
        if row is not None:
            return Place(row[0], row[1], None, rest)
        row = find(
            "select image, collection from versions join layers on layers.number = layer"
            " where versions.number = ?",
            (number,),
        ).fetchone()
        return None if row is None else Place(row[0], row[1], number, rest)

    def _number(self, table: str, key: dict[str, object], first: int | None) -> int:
        """The number of the row with this key; a new one where there is none yet.

        Layers and versions draw from one sequence, so that no ROI id equals a shape id.
        """
        where = " and ".join(f"{column} = ?" for column in key)
        find = f"select number from {table} where {where}"  # noqa: S608 - names of our own
        values = tuple(key.values())
        connection = self._connection()
        row = connection.execute(find, values).fetchone()
        if row is None:
            self.check()
            with connection:
                connection.execute("begin immediate")
                row = connection.execute(find, values).fetchone()
                if row is None:
                    row = (self._following(connection, table, first),)
                    marks = ", ".join("?" * (len(key) + 1))
                    connection.execute(
                        f"insert into {table} (number, {', '.join(key)}) values ({marks})",  # noqa: S608 - as above
                        (*row, *values),
                    )
        return int(row[0])

    def _following(self, connection: sqlite3.Connection, table: str, first: int | None) -> int:
        if first is None:
            return int(connection.execute("insert into numbers default values").lastrowid or 0)
        highest = connection.execute(f"select max(number) from {table}").fetchone()[0]  # noqa: S608 - as above
        return first if highest is None else int(highest) + 1

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, timeout=30, isolation_level=None)
            self._local.connection = connection
        return connection


def roi_numbers(registry: Registry, layer_number: int, labels: NDArray[Any]) -> NDArray[np.int64]:
    """ROI numbers of distinct labels: labels from 1 to 2**31 - 1 themselves, else lasting ones."""
    outside = (labels < 1) | (labels >= FIRST_EXTRA_ROI)
    numbers = np.where(outside, 0, labels).astype(np.int64)
    if outside.any():
        keys = [str(label) for label in labels[outside].tolist()]
        numbers[outside] = registry.extra_roi_numbers(layer_number, keys)
    return numbers
