"""Lasting numbers: images, layers, catalog versions, ROIs whose label is no usable number.

They are kept in a SQLite file in the state directory, or in PostgreSQL for several machines. Catalogs may be
thrown away; the registry is what makes ids last.
"""

from __future__ import annotations

import logging
import uuid as uuids
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.catalog.database import Ask, Database, PostgresDatabase, Records, SqliteDatabase, Values
from roiservice.catalog.locks import LayerLocks, SharedLocks
from roiservice.errors import NotWritten, RegistryFailed, SettingsError
from roiservice.records import dataclass

log = logging.getLogger(__name__)

FIRST_ID = 10**15
FIRST_IMAGE = 10**14
ROIS = 2**32  # ids per layer and per catalog version
LAST_NUMBER = (2**53 - FIRST_ID) // ROIS - 1  # of layers and versions: JavaScript rounds larger ids
FIRST_EXTRA_ROI = 2**31  # ROI numbers below are labels themselves
MOST_REMEMBERED = 100_000  # numbers of each kind
ROWS_AT_ONCE = 50_000  # that are written in one transaction: PostgreSQL takes a second or two

_SCHEMA = (
    "create table if not exists registry (uuid text not null)",
    "create table if not exists images (number {integer} primary key, uri text not null unique)",
    "create table if not exists numbers (number {integer} primary key {counter})",
    "create table if not exists layers (number {integer} primary key, image {integer} not null,"
    " collection text not null, unique (image, collection))",
    "create table if not exists versions (number {integer} primary key, layer {integer} not null,"
    " token text not null, options text not null, unique (layer, token, options))",
    "create table if not exists extra_rois (layer {integer} not null, key text not null,"
    " number {integer} not null, primary key (layer, key), unique (layer, number)) {options}",
)
_UUID = "select uuid from registry"
_PLACE = (  # and in which registry
    f"select image, collection, 0, ({_UUID}) from layers where number = :number union all"  # noqa: S608
    f" select image, collection, 1, ({_UUID}) from versions join layers on layers.number = layer"
    " where versions.number = :number"
)
_LAYER = "select 1 from layers where number = :layer"
_RENEW = (  # no state of a source gives that token
    "update versions set token = token || '#' || number"
    " where layer = :layer and token = :token and options = :options"
)
_EXTRA_ROIS = "select key, number from extra_rois where layer = :layer order by number"
_LAST_EXTRA_ROI = f"select coalesce(max(number), {FIRST_EXTRA_ROI - 1}) from extra_rois where layer = :layer"  # noqa: S608


@dataclass(frozen=True)
class Place:
    """Where an id points: a ROI number, or with a `version` a running shape number."""

    image_id: int
    collection: str
    version: int | None
    number: int


class Registry:
    """The numbers given so far; safe for several threads and processes at once, not across a fork.

    Numbers never change: what was asked once is known to this process also while the database is away.
    RegistryFailed is raised where that is needed and does not answer. `url` is of a PostgreSQL server; None:
    a SQLite file in `state_dir`. With the `uuid` of a server's registry, nothing is asked before it must be.
    Numbers up to what `highest_used` says are not given any more: a registry that was restored from a backup
    does not know all that it gave.
    """

    def __init__(self, state_dir: Path, url: str | None = None, uuid: str | None = None) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        self.directory = state_dir
        self.highest_used: Callable[[], int] = lambda: 0
        self.url = url
        self.locks = LayerLocks()
        self._database: Database
        if url is None:
            self._database = SqliteDatabase(state_dir / "registry.sqlite")
        else:
            self._database = PostgresDatabase(url)
            self.locks = SharedLocks(self._database)
        self._layers: dict[tuple[int, str], int] = {}
        self._places: dict[int, tuple[int, str, bool]] = {}
        self._used: dict[int, int] = {}
        self.uuid = self._opened() if uuid is None or url is None else uuid

    def close(self) -> None:
        """Let go of the connections, as must be done before a fork; the next question opens them again."""
        self._database.close()

    def check(self) -> None:
        """Raise NotWritten if this registry is gone: numbers given from now on would be given again."""
        self._database.check()
        self._check_uuid(self._database.read(_UUID, {}))

    def is_building(self, layer: int) -> bool:
        """Whether a builder of the layer is at work on any machine; raises NotWritten as `check` does.

        A process that is to build would find out as well, but refuse without a word, and be started again.
        """
        self.check()
        return self.locks.is_held(layer)

    def image_number(self, uri: str) -> int:
        """The lasting number, from 10**14 upward, of an image that has none of its own."""
        return self._number("images", {"uri": self._database.storable(uri)})

    def layer_number(self, image_id: int, collection: str) -> int:
        """The lasting number of a layer."""
        key = (image_id, collection)
        number = self._layers.get(key)
        if number is None:
            number = self._number("layers", {"image": image_id, "collection": collection})
            _remember(self._layers, key, number)
        return number

    def version_number(self, layer: int, token: str, options: str, *, renew: bool = False) -> int:
        """The number of a layer's catalog made from the source state `token` with `options`.

        With `renew` it is a new one from now on: the source may differ although it looks the same. Raises
        NotWritten where the layer has no number: a process that opens an empty registry, where another knew
        one, is not to build for whoever gets the number there.
        """
        key = {"layer": layer, "token": token, "options": self._database.storable(options)}
        if renew:
            with self._database.writing() as ask:
                self._check_uuid(ask(_UUID, {}))
                ask(_RENEW, key)
        return self._number("versions", key)

    def keep_version(self, number: int, layer: int, token: str, options: str) -> None:
        """Have a version stand for the source state `token` from now on, in place of the one that does."""
        with self._database.writing() as ask:
            self._check_uuid(ask(_UUID, {}))
            ask(_RENEW, {"layer": layer, "token": token, "options": self._database.storable(options)})
            ask(
                "update versions set token = :token where number = :number",
                {"token": token, "number": number},
            )

    def note_used(self, layer: int, roi: int) -> None:
        """A catalog of the layer has ROI numbers up to this, though a registry from a backup may not know."""
        self._used[layer] = roi

    def extra_roi_numbers(self, layer: int, keys: Sequence[str]) -> list[int]:
        """Lasting ROI numbers, from 2**31 upward, of objects whose label is no ROI number itself."""
        keys = [self._database.storable(key) for key in keys]
        known: dict[str, int] = dict(self._database.read(_EXTRA_ROIS, {"layer": layer}))
        new = [key for key in dict.fromkeys(keys) if key not in known]
        last = max(known.values(), default=FIRST_EXTRA_ROI - 1)
        for first in range(0, len(new), ROWS_AT_ONCE):
            with self._database.writing() as ask:  # others that write have a turn in between
                self._check_uuid(ask(_UUID, {}))
                if ask(_LAST_EXTRA_ROI, {"layer": layer}) != [(last,)]:
                    known = dict(ask(_EXTRA_ROIS, {"layer": layer}))  # another process was faster
                    last = max(known.values())
                some = [key for key in new[first : first + ROWS_AT_ONCE] if key not in known]
                given = list(enumerate(some, max(last, self._used.get(layer, 0)) + 1))
                rows = [{"layer": layer, "key": key, "number": number} for number, key in given]
                if rows:
                    ask("insert into extra_rois (layer, key, number) values (:layer, :key, :number)", rows)
            known.update((key, number) for number, key in given)
            last = given[-1][0] if given else last
        return [known[key] for key in keys]

    def locate(self, identifier: int) -> Place | None:
        """What a ROI or shape id points to; None for an id that was never given."""
        number, rest = divmod(identifier - FIRST_ID, ROIS)
        if not FIRST_ID <= identifier < 2**63:
            return None
        found = self._places.get(number)
        if found is None:
            rows = self._database.read(_PLACE, {"number": number})
            if not rows:
                return None
            image, collection, is_version, uuid = rows[0]
            self._check_uuid([(uuid,)])
            found = (image, collection, bool(is_version))
            _remember(self._places, number, found)
        image, collection, is_version = found
        return Place(image, collection, number if is_version else None, rest)

    def _opened(self) -> str:
        """The UUID of the registry, made if there is none."""
        with self._database.writing() as ask:
            for statement in _SCHEMA:
                ask(statement.format(**self._database.words), {})
            if not ask(_UUID, {}):
                ask("insert into registry values (:uuid)", {"uuid": str(uuids.uuid4())})
            return str(ask(_UUID, {})[0][0])

    def _check_uuid(self, found: Records) -> None:
        if found != [(self.uuid,)]:
            raise NotWritten(f"the registry of lasting ids is not {self.uuid} any more")

    def _number(self, table: str, key: Values) -> int:
        """The number of the row with this key; a new one where there is none yet."""
        where = " and ".join(f"{column} = :{column}" for column in key)
        find = f"select number, ({_UUID}) from {table} where {where}"  # noqa: S608 - names of our own
        rows = self._database.read(find, key)
        if not rows:
            self._database.check()
            with self._database.writing() as ask:
                self._check_uuid(ask(_UUID, {}))
                rows = ask(find, key)
                if not rows:
                    if "layer" in key and not ask(_LAYER, {"layer": key["layer"]}):
                        raise NotWritten(f"the registry {self.uuid} has no layer {key['layer']}")
                    number = self._following(ask, table)
                    columns, marks = ", ".join(key), ", ".join(f":{column}" for column in key)
                    names = f"insert into {table} (number, {columns})"
                    ask(f"{names} values (:number, {marks})", {"number": number, **key})
                    return number
        number, uuid = rows[0]
        self._check_uuid([(uuid,)])
        return int(number)

    def _following(self, ask: Ask, table: str) -> int:
        """A number that was never given, kept as given by the transaction that asks.

        Layers and versions draw from one sequence, so that no ROI id equals a shape id.
        """
        if table == "images":
            before = {"before": FIRST_IMAGE - 1}
            return int(ask("select coalesce(max(number), :before) + 1 from images", before)[0][0])
        used = self.highest_used()
        last = int(ask("select coalesce(max(number), 0) from numbers", {})[0][0])
        number = max(last, used if used < LAST_NUMBER else 0) + 1
        if number > LAST_NUMBER:
            raise NotWritten("all numbers of layers and versions have been given")
        ask("insert into numbers values (:number)", {"number": number})
        return number


def _remember(known: dict[Any, Any], key: Any, value: Any) -> None:
    if len(known) >= MOST_REMEMBERED:
        known.clear()
    known[key] = value


def open_registry(state_dir: Path, url: str | None = None, uuid: str | None = None) -> Registry:
    """The registry, as `Registry` takes it; SettingsError that names the variable if it cannot be had."""
    variable = "ROISERVICE_STATE_DIR" if url is None else "ROISERVICE_REGISTRY_URL"
    try:
        return Registry(state_dir, url, uuid)
    except OSError as error:
        raise SettingsError(f"ROISERVICE_STATE_DIR: {error}") from error
    except ImportError:
        raise SettingsError(f"{variable}: needs pip install 'roiservice[postgresql]'") from None
    except RegistryFailed as error:
        raise SettingsError(f"{variable}: {error.reason}") from None


def registry_again(state_dir: Path, url: str | None, uuid: str) -> Registry:
    """The registry that another process knows as `uuid`; RegistryFailed if what lies there is not that one.

    It may have given the same numbers for something else.
    """
    registry = Registry(state_dir, url)
    if registry.uuid != uuid:
        reason = f"the registry of lasting ids is not {uuid} any more"
        log.warning("%s: %s", state_dir, reason)
        raise RegistryFailed(reason)
    return registry


def roi_numbers(registry: Registry, layer_number: int, labels: NDArray[Any]) -> NDArray[np.int64]:
    """ROI numbers of distinct labels: labels from 1 to 2**31 - 1 themselves, else lasting ones."""
    if not len(labels) or (labels.min() >= 1 and labels.max() < FIRST_EXTRA_ROI):
        return labels.astype(np.int64, copy=False)
    outside = (labels < 1) | (labels >= FIRST_EXTRA_ROI)
    numbers = np.where(outside, 0, labels).astype(np.int64)
    keys = [str(label) for label in labels[outside].tolist()]
    numbers[outside] = registry.extra_roi_numbers(layer_number, keys)
    return numbers
