"""What may go from the folder of a layer: what builds that were killed have left, and replaced versions.

The layer's lock is held while anything goes, so that nobody is at work on it.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from roiservice.catalog.pointers import is_of_another_format, named_versions, pointers, version_in
from roiservice.catalog.versions import blocks_folder
from roiservice.errors import RoiServiceError
from roiservice.metrics import REMOVED, Metrics

HALF_BUILT = (".new", ".gone")  # nobody goes on from these
BLOCKS = ".blocks"  # from these the next build of the same version does
KEPT_BLOCKS = 86_400.0  # seconds for which such a build is waited for
USE_NOTED = 600.0  # seconds: a catalog in use is touched as often as this

log = logging.getLogger(__name__)

Lock = Callable[[Path, float], AbstractContextManager[None]]  # a layer's folder, seconds; TimeoutError


def layer_folders(root: Path) -> list[Path]:
    """The folders of all layers that ever were built below `root`; none if it is not there."""
    with suppress(OSError):
        return [path for path in root.iterdir() if _is_number(path.name) and path.is_dir()]
    return []


def own_folders(layer: Path) -> list[os.DirEntry[str]]:
    """What builds have left in the folder of a layer: catalogs, and folders such as `7.new`.

    What else somebody has put there, symbolic links among it, is not theirs, and stays.
    """
    with suppress(OSError), os.scandir(layer) as entries:
        return [each for each in entries if _is_number(each.name.split(".")[0]) and _is_folder(each)]
    return []


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:  # it went meanwhile
        return False


def sweep(directory: Path, keep_replaced: float, metrics: Metrics, *, is_built: bool = False) -> None:
    """Delete what nobody will go on from or look at in the folder of a layer, whose lock is held.

    That is half-built catalogs; versions that no current file has named for `keep_replaced` seconds, and
    those of another format that have not been used for as long; blocks of builds that did not go on within a
    day, and any blocks if the layer `is_built` now. Nothing goes while it cannot be read what is in service.
    """
    now = time.time()
    try:
        _forget_other_formats(directory, now - keep_replaced - USE_NOTED)
        named = named_versions(directory)
    except OSError as error:
        log.warning("%s: nothing is deleted: %s", directory, error)
        return
    for path in directory.glob("*.json.*"):  # they were to be renamed
        with suppress(OSError):  # somebody else was faster
            if is_built or now - path.stat().st_mtime > keep_replaced:
                path.unlink()
    for path in [directory / each.name for each in own_folders(directory)]:
        with suppress(OSError):
            is_half = path.suffix in HALF_BUILT or (path.suffix == BLOCKS and is_built)
            kept = KEPT_BLOCKS if path.suffix == BLOCKS else keep_replaced
            if is_half or (path.name not in named and now - path.stat().st_mtime > kept):
                shutil.rmtree(path, ignore_errors=True)
                metrics.add(1, REMOVED, "replaced" if path.name.isdigit() else "unfinished")


def make_way(building: Path, *, afresh: bool) -> None:
    """Clear the place of a catalog that will be built, which goes on from blocks that its version has left.

    With `afresh` these go as well: of a source that changed and looks the same they tell nothing.
    """
    shutil.rmtree(building, ignore_errors=True)
    folder = blocks_folder(building)
    for path in folder.parent.glob(f"{folder.name.split('.')[0]}.*{BLOCKS}"):
        with suppress(OSError):  # it has some already
            os.rename(path, folder)
    if afresh:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_all(root: Path, lock: Lock, keep_replaced: float, metrics: Metrics) -> None:
    """As `sweep`, of all layers that nobody builds just now."""
    for directory in layer_folders(root):
        with suppress(OSError, RoiServiceError), lock(directory, 0.0):
            sweep(directory, keep_replaced, metrics)


def _forget_other_formats(directory: Path, oldest: float) -> None:
    """Delete current files that another release has left; one that is at work uses what they name."""
    for pointer in pointers(directory):
        if is_of_another_format(pointer):
            folder = directory / str(version_in(pointer))
            with suppress(OSError):
                if not folder.exists() or folder.stat().st_mtime < oldest:
                    pointer.unlink()
