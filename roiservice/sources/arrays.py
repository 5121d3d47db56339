"""Level-0 arrays: opened within limits, read in blocks, with errors that name the chunk."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.records import dataclass
from roiservice.sources.chunks import Chunks, chunks_of
from roiservice.sources.documents import read_json
from roiservice.sources.paths import join
from roiservice.sources.slabs import Selection, Slabs
from roiservice.sources.store import Store

if TYPE_CHECKING:
    import zarr

# numcodecs' pickle codec runs whatever code the chunk holds.
_FORBIDDEN_CODECS = ("pickle", "numcodecs.pickle")


@dataclass(frozen=True, eq=False)
class LabelArray:
    """An open array of labels or pixels.

    `chunks` are inner ones where chunks are sharded, `shards` those that are files; `dtype` is native-endian.
    `own` reads what need not go through zarr, `through_zarr` opens the array there, by the same metadata:
    SourceDamaged if it cannot be opened.
    """

    store: Store
    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...]
    dtype: np.dtype[Any]
    own: Chunks | None
    through_zarr: Callable[[], zarr.Array[Any]]
    slabs: Slabs

    def read(self, selection: Selection) -> NDArray[Any]:
        """One block; missing chunks are the fill value. SourceDamaged naming the first chunk that fails."""
        return self.slabs.read(selection, self.load)

    def load(self, selection: Selection) -> NDArray[Any]:
        """As `read`, but nothing is kept for later reads."""
        block = None if self.own is None else self.own.read(selection)
        if block is not None:
            return block
        try:
            return np.asarray(self.through_zarr()[selection])
        except SourceError:
            raise
        except Exception as error:  # codecs raise what they like, RuntimeError and EOFError among others
            raise self._damage(selection, error) from error

    def _damage(self, selection: Selection, error: Exception) -> SourceError:
        """Read the selection chunk by chunk to find which one is at fault."""
        sides = [_chunk_range(part, size) for part, size in zip(selection, self.chunks, strict=True)]
        for chunk in itertools.product(*sides):
            cause = self._failure(chunk)
            if isinstance(cause, SourceError):
                return cause
            if cause is not None:
                where = ", ".join(map(str, chunk))
                return SourceDamaged(self.store.location, self.path, f"chunk ({where}): {_brief(cause)}")
        return SourceDamaged(self.store.location, self.path, f"cannot be read: {_brief(error)}")

    def _failure(self, chunk: tuple[int, ...]) -> Exception | None:
        """What reading one chunk raises."""
        corners = zip(chunk, self.chunks, strict=True)
        try:
            self.through_zarr()[tuple(slice(index * size, (index + 1) * size) for index, size in corners)]
        except Exception as error:  # noqa: BLE001 - see `load`
            return error
        return None


def open_array(store: Store, path: str, zarr_format: int, *, floats: bool = False) -> LabelArray:
    """Open the array at `path` after checking its metadata.

    Raises SourceDamaged if it is missing or not a sound array, SourceRefused if it exceeds a limit of the
    store, holds no integers (with `floats`: no real numbers), or uses a codec that may run code. Unknown
    codecs are named.
    """
    document, metadata = _array_metadata(store, path, zarr_format)
    _check_codecs(store, document, metadata)
    _check_stated_chunks(store, path, metadata)
    through_zarr = cache(partial(_opened, store, path, metadata))
    own = chunks_of(store, path, metadata)
    stored = through_zarr() if own is None else own.encoding
    shape, chunks = tuple(stored.shape), tuple(stored.chunks)
    label_array = LabelArray(
        store=store,
        path=path,
        shape=shape,
        chunks=chunks,
        shards=tuple(stored.shards or chunks),
        dtype=_native_dtype(store, path, stored.dtype, floats),
        own=own,
        through_zarr=through_zarr,
        slabs=Slabs(shape, chunks, stored.dtype.itemsize),
    )
    _check_shape(store, path, label_array.shape)
    _check_chunks(store, path, label_array)
    return label_array


def array_shape(store: Store, path: str, zarr_format: int) -> tuple[int, ...]:
    """Shape of the array at `path`, from its metadata alone. SourceDamaged if there is none."""
    document, metadata = _array_metadata(store, path, zarr_format)
    shape = metadata.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size > 0 for size in shape):
        raise SourceDamaged(store.location, document, "shape must be a list of positive integers")
    return tuple(shape)


def array_document(path: str, zarr_format: int) -> str:
    """Path of the file that holds an array's metadata."""
    return join(path, ".zarray" if zarr_format == 2 else "zarr.json")


def _array_metadata(store: Store, path: str, zarr_format: int) -> tuple[str, dict[str, Any]]:
    document = array_document(path, zarr_format)
    metadata = read_json(store, document)
    if metadata is None:
        raise SourceDamaged(store.location, path, f"there is no such zarr v{zarr_format} array")
    if zarr_format == 3 and metadata.get("node_type") != "array":
        raise SourceDamaged(store.location, path, "is a group, not an array")
    return document, metadata


def _check_codecs(store: Store, document: str, metadata: dict[str, Any]) -> None:
    """Look through `compressor`, `filters` and (nested) `codecs` for those that must not run."""
    pending: list[Any] = [metadata.get(key) for key in ("compressor", "filters", "codecs")]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, str) and item.lower() in _FORBIDDEN_CODECS:
            raise SourceRefused(store.location, document, f"codec {item!r} can run code and is not allowed")


def _check_stated_chunks(store: Store, path: str, metadata: dict[str, Any]) -> None:
    """SourceDamaged for chunks without pixels, which zarr since 3.4 takes for such of one pixel."""
    grid = metadata.get("chunk_grid")
    stated = grid.get("configuration") if isinstance(grid, dict) else None
    sizes = stated.get("chunk_shape") if isinstance(stated, dict) else metadata.get("chunks")
    if isinstance(sizes, list) and any(type(size) is int and size < 1 for size in sizes):
        raise SourceDamaged(store.location, path, f"has chunks of {_times(sizes)} pixels")


def _opened(store: Store, path: str, metadata: dict[str, Any]) -> zarr.Array[Any]:
    """The array by the metadata that were checked, whatever its document may say by now."""
    import zarr
    from zarr.storage import StorePath

    import roiservice.sources.zarrcodecs  # noqa: F401 - what it decompresses by

    try:
        array: zarr.Array[Any] = zarr.Array.from_dict(StorePath(store.zarr_store(), path), metadata)
        if not isinstance(array.dtype, np.dtype) or array.chunks is None:
            raise TypeError("no numpy data type or no regular chunks")
        return array
    except SourceError:
        raise
    except Exception as error:  # zarr checks metadata with TypeError, KeyError, ValueError and its own
        raise SourceDamaged(store.location, path, f"cannot be opened: {_brief(error)}") from error


def _native_dtype(store: Store, path: str, dtype: np.dtype[Any], floats: bool) -> np.dtype[Any]:
    if dtype.kind not in ("biuf" if floats else "biu"):
        expected = "pixels are real numbers" if floats else "labels are integers"
        raise SourceRefused(store.location, path, f"holds {dtype}; {expected}")
    return dtype.newbyteorder("=")


def _check_shape(store: Store, path: str, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        raise SourceDamaged(store.location, path, f"has {len(shape)} axes; a label image has at least two")
    if min(shape) < 1:
        raise SourceDamaged(store.location, path, f"has no pixels: its shape is {_times(shape)}")
    if math.prod(shape) > store.limits.array_pixels:
        reason = f"has {_times(shape)} pixels; {store.limits.array_pixels} are allowed"
        raise SourceRefused(store.location, path, reason)


def _check_chunks(store: Store, path: str, array: LabelArray) -> None:
    limits = store.limits
    for name, shape, allowed in (
        ("chunks", array.chunks, limits.chunk_bytes),
        ("shards", array.shards, limits.shard_bytes),
    ):
        size = math.prod(shape) * array.dtype.itemsize
        if min(shape) < 1:
            raise SourceDamaged(store.location, path, f"has {name} of {_times(shape)} pixels")
        if size > allowed:
            reason = f"has {name} of {_times(shape)} pixels, {size} bytes; {allowed} are allowed"
            raise SourceRefused(store.location, path, reason)


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _chunk_range(part: int | slice, size: int) -> range:
    if isinstance(part, slice):
        return range(part.start // size, -(-part.stop // size))
    return range(part // size, part // size + 1)


def _brief(error: Exception) -> str:
    """First line of an error's text, after its type where that says more than the text."""
    lines = str(error).strip().splitlines()
    text = lines[0][:300].rstrip(".") if lines else ""
    name = type(error).__name__
    return text if text and name in ("ValueError", "RuntimeError") else f"{name}: {text}".rstrip(": ")
