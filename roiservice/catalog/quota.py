"""How much disk the catalogs may take. They can be made again: those that were used longest ago make room.

The time of a catalog's folder is when it was last used; all processes and hosts see it. What goes is renamed
first, so that nobody opens half of it; who has it open reads on. Nothing goes from a layer that others are
building, and from the builder's own only what is in nobody's service.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path

from roiservice.catalog.filelocks import is_built_elsewhere, lock_within
from roiservice.catalog.leftovers import BLOCKS, USE_NOTED, Lock, layer_folders, own_folders
from roiservice.catalog.pointers import named_versions, pointers, version_in
from roiservice.catalog.progress import Progress
from roiservice.catalog.task import LayerKey, Rules
from roiservice.errors import NoRoom, NotWritten, RoiServiceError, SourceRefused
from roiservice.metrics import REMOVED, Metrics
from roiservice.records import dataclass

SETTING = "ROISERVICE_CATALOG_BYTES"
TOO_LARGE = "too-large.json"  # what a layer took when it was refused
USAGE = "usage"  # the file that says how much there was of all layers when all were looked at
USAGE_WAIT = 10.0  # seconds that it is waited for: who looks at very many takes as long, who hangs longer
USAGE_HOLDS = 600.0  # seconds after which they are looked at again
MANY = 100  # folders from which on a hundredth of the quota is freed at once, as each look costs
DISK_BLOCK = 4096  # bytes: a file takes whole ones
COLUMN_BYTES = 1.5  # that are written at the end of a build for each byte that was collected in `.raw` files
LOOK_INTERVAL = 0.1  # seconds between looks at the size of what is being built
SCAN_INTERVAL = 1.0  # seconds between looks at all other catalogs
COST = 20  # a look that took a second is repeated after so many
LOCK_WAIT = 0.05  # seconds: who only looks at a lock holds it no longer

log = logging.getLogger(__name__)

# The order in which folders go.
UNFINISHED, REPLACED, BLOCKS_LEFT, IN_SERVICE = range(4)


class Uses:
    """Notes when catalogs are used, without a write for each use."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._noted: dict[int, tuple[int, float]] = {}  # of each layer the version, and until when

    def note(self, layer_number: int, version: int) -> None:
        """This catalog is used now."""
        now = time.monotonic()
        noted, until = self._noted.get(layer_number, (0, 0.0))
        if noted != version or now >= until:
            self._noted[layer_number] = version, now + USE_NOTED
            with suppress(OSError):  # it is gone, or another user's
                os.utime(self._root / str(layer_number) / str(version))


@dataclass(frozen=True)
class _Folder:
    """A folder of a layer: a catalog, or part of one. `used` is in seconds since the epoch."""

    layer: Path
    name: str
    size: int
    used: float

    @property
    def path(self) -> Path:
        return self.layer / self.name

    def rank(self, named: set[str]) -> int:
        """Its place in the order in which folders go; `named` are those in service."""
        if self.name in named:
            return IN_SERVICE
        if self.name.isdigit():
            return REPLACED
        return BLOCKS_LEFT if self.name.endswith(BLOCKS) else UNFINISHED


@dataclass(frozen=True)
class Watched:
    """What a build is to call: `advance` as it goes on, `settled` as `build_catalog` says."""

    advance: Progress
    settled: Callable[[], None]


class Quota:
    """Keeps the catalogs of all layers below `root` within so many bytes; None: does nothing.

    `lock` excludes builders of a layer. Safe to use from several threads and processes.
    """

    def __init__(self, root: Path, rules: Rules, lock: Lock, metrics: Metrics) -> None:
        self._root = root
        self._most = rules.catalog_bytes
        self._lock = lock
        self._metrics = metrics
        self._sizes: dict[tuple[str, int], int] = {}  # of whole catalogs, which never change

    def watched(self, layer: LayerKey, building: Path, tell: Progress | None) -> Watched:
        """What a build into `building` is to call as it goes on, and which calls `tell`.

        It makes room for what the build has written. Raises SourceRefused if it takes too much, even here if
        the same was built before; NoRoom if others that are being built do. The layer's lock is held.
        """
        most = self._most
        if most is None:
            return Watched(tell or (lambda *_: None), lambda: None)
        noted = _noted_size(building)
        if noted and noted + _size_in_service(building.parent) > most:
            raise self._refused(layer, building, noted)
        others: int | None = None
        first_look = next_look = time.monotonic() + LOOK_INTERVAL
        next_scan = 0.0

        def look(began: float) -> None:
            nonlocal others, next_look, next_scan
            size = sum(_needed(path, own=True) for path in building.parent.glob(f"{building.name}*"))
            if size + _size_in_service(building.parent) > most:  # nobody is to make room in vain
                raise self._refused(layer, building, size)
            if others is None or began >= next_scan or size + others > most:
                others = self._make_room(building, size)
                next_scan = _after(began, SCAN_INTERVAL)
            if size + others > most:
                reason = f"its catalog takes about {size} bytes of disk, others {others} that cannot go"
                raise NoRoom(f"{layer.source.collection}: {reason} now; {SETTING} allows {most}")
            next_look = _after(began, LOOK_INTERVAL)

        def advance(more: int, features: int) -> None:
            if (began := time.monotonic()) >= next_look:
                look(began)
            if tell is not None:
                tell(more, features)

        def settled() -> None:
            if (began := time.monotonic()) >= first_look:  # what was built in less time is small
                look(began)

        return Watched(advance, settled)

    def check(self, layer: LayerKey, built: Path) -> None:
        """Raise SourceRefused, and delete it, if the catalog in `built` alone is too large."""
        if self._most is not None and (size := _size(built)) > self._most:
            shutil.rmtree(built, ignore_errors=True)
            raise self._refused(layer, built, size)

    def keep(self, built: Path) -> None:
        """Delete what is too much, but not the catalog `built`, whose layer's lock is held."""
        (built.parent / TOO_LARGE).unlink(missing_ok=True)
        self._hold(built)

    def hold(self) -> None:
        """Delete what is too much, if for example the setting is lower than it was."""
        if self._root.exists():
            self._hold(None)

    def _hold(self, built: Path | None) -> None:
        if self._most is None:
            return
        try:
            with self._usage(0 if built is None else _size(built)) as (total, note):
                if total is None or total > self._most or built is None:
                    held = None if built is None else built.parent
                    note(self._delete_down_to(self._most, self._folders(), held, built))
        except (OSError, NotWritten) as error:  # what is built is in service all the same
            reason = str(error) or "others have been at it for long"
            log.warning("%s: the quota was not looked after: %s", self._root, reason)

    @contextmanager
    def _usage(self, more: int) -> Iterator[tuple[int | None, Callable[[int], None]]]:
        """Bytes of all catalogs, `more` added, None if not known; and what notes how many there are.

        Others that build or delete wait meanwhile, but not for ever: TimeoutError. What is noted may be too
        much, as not all that goes is subtracted, and too little by what killed builds have left since all was
        looked at, or whoever did not wait any longer has built.
        """
        with open(self._root / USAGE, "a+", encoding="ascii") as file:
            lock_within(file, USAGE_WAIT)

            def note(total: int, looked: float | None = None) -> None:
                file.truncate(0)
                file.write(f"{total} {time.time() if looked is None else looked}")
                file.flush()

            file.seek(0)
            total = None
            with suppress(ValueError):
                size, looked = file.read().split()
                if 0 <= time.time() - float(looked) < USAGE_HOLDS:
                    total = int(size) + more
                    note(total, float(looked))
            yield total, note

    def _make_room(self, building: Path, size: int) -> int:
        """Delete others until there is room for `size` bytes; bytes of those that stay."""
        held = building.parent
        folders = [each for each in self._folders() if not _is_part(each.path, building)]
        return self._delete_down_to((self._most or 0) - size, folders, held, None)

    def _delete_down_to(
        self, most: int, folders: Sequence[_Folder], held: Path | None, built: Path | None
    ) -> int:
        """Delete folders until they are down to `most` bytes, or no more can go; their bytes then.

        Of the layer `held` what is in service stays until something is `built`, and that stays.
        """
        total = sum(each.size for each in folders)
        if total <= most:
            return total
        least = most - (most // 100 if len(folders) >= MANY else 0)
        for rank, each in _in_turn(folders):
            if total <= least:
                break
            if total <= most and total - each.size < least:
                continue
            stays = each.path == built if built is not None else rank == IN_SERVICE
            if each.layer == held:
                went = not stays and _delete(each, rank)
            else:
                went = self._locked_and_deleted(each, rank)
            if went:
                total -= each.size
                self._metrics.add(1, REMOVED, "quota")
                log.info("%s made room, %d bytes", each.path, each.size)
        return total

    def _locked_and_deleted(self, folder: _Folder, rank: int) -> bool:
        with suppress(OSError, RoiServiceError), self._lock(folder.layer, LOCK_WAIT):
            return not is_built_elsewhere(folder.layer) and _delete(folder, rank)
        return False  # it is being built

    def _folders(self) -> list[_Folder]:
        """All folders of all layers."""
        found, sizes = [], {}
        for layer in layer_folders(self._root):
            for entry in own_folders(layer):
                with suppress(OSError):  # it went meanwhile
                    key = (entry.path, entry.inode())
                    size = self._sizes.get(key) or _needed(layer / entry.name)
                    if entry.name.isdigit():
                        sizes[key] = size
                    found.append(_Folder(layer, entry.name, size, entry.stat().st_mtime))
        self._sizes = sizes
        return found

    def _refused(self, layer: LayerKey, building: Path, size: int) -> SourceRefused:
        """The refusal of a build that takes so many bytes, noted for the next one of the same version."""
        note = json.dumps({"version": _version(building), "bytes": size})
        with suppress(OSError):
            (building.parent / TOO_LARGE).write_text(note, encoding="ascii")
        reason = f"its catalog takes about {size} bytes of disk while it is built"
        beside = _size_in_service(building.parent)
        if beside and size <= (self._most or 0):
            reason += f", beside {beside} of the one in service"
        reason += f"; {SETTING} allows {self._most}"
        return SourceRefused(layer.source.image.location, layer.source.path, reason)


def _in_turn(folders: Sequence[_Folder]) -> list[tuple[int, _Folder]]:
    """What may go and its rank, in the order in which it does; nothing of layers where that is not known."""
    ranked = []
    for layer, of_layer in groupby(folders, lambda each: each.layer):
        with suppress(OSError):
            named = named_versions(layer)
            ranked += [(each.rank(named), each) for each in of_layer]
    return sorted(ranked, key=lambda each: (each[0], each[1].used))


def _delete(folder: _Folder, rank: int) -> bool:
    """Delete a folder whose layer's lock is held, unless it is not what it was; whether it went."""
    try:
        if folder.rank(named_versions(folder.layer)) != rank:
            return False
        if folder.path.stat().st_mtime > folder.used:
            return False  # it was used just now
        for pointer in pointers(folder.layer):
            if str(version_in(pointer)) == folder.name:
                pointer.unlink()
        gone = folder.path.with_name(f"{folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(folder.path, gone)
    except OSError as error:
        if folder.path.exists():
            log.warning("%s: cannot be deleted: %s", folder.path, error)
            return False
        return True  # somebody else was faster
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _is_part(path: Path, building: Path) -> bool:
    """Whether a folder belongs to the build into `building`: itself, or what lies beside it meanwhile."""
    return path.parent == building.parent and path.name.split(".")[:2] == building.name.split(".")[:2]


def _version(building: Path) -> str:
    return building.name.split(".")[0]


def _needed(folder: Path, *, own: bool = False) -> int:
    """Bytes of a folder, and of the columns that will be made of what a build has collected in it.

    `own`: without what it shares with other folders.
    """
    return _size(folder, own=own) + int(COLUMN_BYTES * _size(folder, ".raw"))


def _size_in_service(directory: Path) -> int:
    with suppress(OSError):
        return sum(_size(directory / name) for name in named_versions(directory))
    return 0


def _size(folder: Path, suffix: str = "", *, own: bool = False) -> int:
    """Bytes of disk of the files in a folder whose names end so; 0 if it is not there.

    `own`: of those that have no other name.
    """
    size = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(suffix):
                with suppress(OSError):
                    if not own or entry.stat().st_nlink == 1:
                        size += -(-entry.stat().st_size // DISK_BLOCK) * DISK_BLOCK
    return size


def _noted_size(building: Path) -> int:
    """Bytes that a build took that was refused for it; 0 if it is not known to be too large."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        note = json.loads((building.parent / TOO_LARGE).read_text(encoding="ascii"))
        return int(note["bytes"]) if note["version"] == _version(building) else 0
    return 0


def _after(began: float, interval: float) -> float:
    now = time.monotonic()
    return now + max(interval, COST * (now - began))
