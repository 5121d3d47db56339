"""Traced blocks in files: they leave working memory, and a build that was killed goes on from them.

Files cost a small layer as much as tracing does. A build that is over in a moment needs none.

A file is a line of JSON that tells what follows (key, checksum, arrays), then the arrays. It is written
beside and renamed, so that it is whole; the checksum is for machines that lose power.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib  # whose checksums take no time beside writing
from numpy.typing import NDArray

from roiservice.vectorize.assemble import RingTable
from roiservice.vectorize.blocks import Block
from roiservice.vectorize.seams import OpenOutlines

HELD_BYTES = 2**27  # of the first blocks, which are held in memory instead,
HELD_FOR = 3.0  # if no more seconds went by: as much work is lost with a build that is killed
_FORMAT = 3  # raise whenever what is in the files changes
_ALIGNED = 64
_COUNTS = ("parts", "top_ports", "bottom_ports")  # fields of OpenOutlines that are numbers

Arrays = Mapping[str, NDArray[Any]]


class BlockFiles:
    """Blocks of one layer version in a folder, mapped; safe to use from several threads.

    `key` says what the blocks are made from: files of another key are not used. With `held` the first blocks
    are held in memory; those that nobody has loaded by then are written once there is another.
    """

    def __init__(self, folder: Path, key: str, *, held: bool = False) -> None:
        self._folder = folder
        self._key = f"{_FORMAT} {key}"
        self._lock = threading.Lock()
        self._maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._held: dict[str, Block] = {}
        self._held_bytes = 0
        self._held_until: float | None = time.monotonic() + HELD_FOR if held else None
        folder.mkdir(parents=True, exist_ok=True)
        _allow_many_files()

    def has(self, name: str) -> bool:
        """Whether a build has left the block of that name, sound and of the same key."""
        return self._mapped(name, checked=True) is not None

    def keep(self, name: str, block: Block) -> None:
        """Hold a block if it is among the first; else write it to its file, and what is held to others."""
        arrays = _arrays_of(block)
        size = sum(values.nbytes for values in arrays.values())
        with self._lock:
            late: list[tuple[str, Block]] = []
            if self._held_until is not None:
                if time.monotonic() < self._held_until and self._held_bytes + size <= HELD_BYTES:
                    self._held[name] = block
                    self._held_bytes += size
                    return
                self._held_until = None
                late = list(self._held.items())  # they are held on, until they are loaded
        for other, held in late:
            _write(self._path(other), self._key_of(other), _arrays_of(held))
        _write(self._path(name), self._key_of(name), arrays)

    def load(self, name: str) -> Block:
        """A block that is there or was kept. It takes a file descriptor until nobody has it any more."""
        with self._lock:
            held = self._held.pop(name, None)
        if held is not None:
            return held
        arrays = self._mapped(name, checked=False)
        if arrays is None:
            raise OSError(f"{self._path(name)}: cannot be read again")
        return _block_of(arrays)

    def release(self) -> None:
        """Let go of the memory that mapped files take; what is needed again is read again."""
        with self._lock:
            maps = list(self._maps)
        for each in maps:
            each.madvise(mmap.MADV_DONTNEED)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.block"

    def _key_of(self, name: str) -> str:
        """The key that a file has; that of another block may have come by its name."""
        return f"{self._key} {name}"

    def _mapped(self, name: str, *, checked: bool) -> dict[str, NDArray[Any]] | None:
        """Arrays of a block's file; None if it is missing, of another key, or (where `checked`) damaged."""
        try:
            with open(self._path(name), "rb") as file:
                header = json.loads(file.readline())
                first = _aligned(file.tell())
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            if header["key"] != self._key_of(name) or len(content) != first + header["bytes"]:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if checked and isal_zlib.crc32(memoryview(content)[first:]) != header["crc"]:
            return None
        with self._lock:
            self._maps.add(content)
        return {
            name: np.frombuffer(content, dtype, int(np.prod(shape)), first + offset).reshape(shape)
            for name, dtype, shape, offset in header["arrays"]
        }


def _allow_many_files() -> None:
    """As many open files as this process may have: all blocks of a plane are mapped while they are joined."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != most:
        with suppress(ValueError, OSError):  # where the system says more than it allows
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _write(path: Path, key: str, arrays: Arrays) -> None:
    listed, offset, crc = [], 0, 0
    pieces: list[memoryview | bytes] = []
    for name, values in arrays.items():
        listed.append([name, values.dtype.str, values.shape, offset])
        padding = _aligned(values.nbytes) - values.nbytes
        pieces += [np.ascontiguousarray(values).reshape(-1).view(np.uint8).data, bytes(padding)]
        offset += values.nbytes + padding
    for piece in pieces:
        crc = isal_zlib.crc32(piece, crc)
    header = json.dumps({"key": key, "crc": crc, "bytes": offset, "arrays": listed}).encode() + b"\n"
    beside = path.with_name(f"{path.name}.partial")
    with open(beside, "wb") as file:
        file.write(header.ljust(_aligned(len(header)), b"\0"))
        for piece in pieces:
            file.write(piece)
    os.replace(beside, path)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _arrays_of(block: Block) -> dict[str, NDArray[Any]]:
    rings = {f"rings.{each.name}": getattr(block.rings, each.name) for each in fields(RingTable)}
    outlines = {f"outlines.{each.name}": getattr(block.outlines, each.name) for each in fields(OpenOutlines)}
    counts = np.array([outlines.pop(f"outlines.{name}") for name in _COUNTS])
    rows = {"above": block.above, "last_row": block.last_row}
    return {"counts": counts, **rows, **outlines, **rings}


def _block_of(arrays: Arrays) -> Block:
    counts: dict[str, Any] = dict(zip(_COUNTS, arrays["counts"].tolist(), strict=True))
    names = [each.name for each in fields(OpenOutlines) if each.name not in counts]
    given: dict[str, Any] = {name: arrays[f"outlines.{name}"].copy() for name in names}
    rings = RingTable(**{each.name: arrays[f"rings.{each.name}"] for each in fields(RingTable)})
    rows = arrays["above"].copy(), arrays["last_row"].copy()
    return Block(rings, OpenOutlines(**given, **counts), *rows)
