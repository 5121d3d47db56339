"""Which catalog of a layer is in service, as one process sees it.

The current version of a layer is one small file, replaced by rename and looked at for every request, so that
all workers change over at once.
"""

from __future__ import annotations

import os
from pathlib import Path

from roiservice.catalog.pointers import pointer_name, pointer_stamp, version_in, write_pointer
from roiservice.catalog.reader import Catalog, OpenCatalogs
from roiservice.catalog.task import LayerKey

LAYERS = 100_000  # of which it is remembered what is current


class CurrentCatalogs:
    """The catalogs in service below `root`, built with `options`; used by several threads.

    `opened` are those that this process has open.
    """

    def __init__(self, root: Path, options: str) -> None:
        self.root = root
        self.options = options
        self.opened = OpenCatalogs()
        self._pointed: dict[str, tuple[tuple[int, int], Path]] = {}

    def directory(self, layer: LayerKey) -> Path:
        """Where the catalogs of a layer are."""
        return self.root / str(layer.number)

    def pointer(self, layer: LayerKey) -> str:
        """Path of the small file that names the current version."""
        return f"{self.root}/{layer.number}/{pointer_name(self.options, layer.source.asked)}"

    def get(self, layer: LayerKey) -> Catalog | None:
        """The current catalog if there is one, whatever the state of its source."""
        pointer = self.pointer(layer)
        stamp = pointer_stamp(pointer)
        pointed = self._pointed.get(pointer)
        if pointed is not None and pointed[0] != stamp:
            self.opened.close(pointed[1])
        if stamp is None:
            return None
        if pointed is None or pointed[0] != stamp:
            version = version_in(Path(pointer))
            if version is None:
                return None
            pointed = stamp, self.directory(layer) / str(version)
            self._remember(pointer, pointed)
        catalog = self.opened.get(pointed[1])
        if catalog is None and pointer_stamp(pointer) != stamp:
            return self.get(layer)  # it was replaced between the two looks
        return catalog

    def put(self, layer: LayerKey, version: int) -> None:
        """Have a version in service from now on; the one before is kept for a while from now."""
        pointer = Path(self.pointer(layer))
        replaced = version_in(pointer)
        if replaced is not None and (before := self.directory(layer) / str(replaced)).exists():
            os.utime(before)
        write_pointer(pointer, version, self.options)

    def _remember(self, pointer: str, pointed: tuple[tuple[int, int], Path]) -> None:
        self._pointed[pointer] = pointed
        if len(self._pointed) > LAYERS:
            self._pointed.pop(next(iter(self._pointed)), None)
