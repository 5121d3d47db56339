"""Arrays of a table that lies in a zarr hierarchy, as Arrow arrays, opened within limits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.records import dataclass
from roiservice.sources.arrays import _array_metadata, _brief, _check_codecs, _opened
from roiservice.sources.documents import read_json
from roiservice.sources.limits import Limits
from roiservice.sources.paths import join
from roiservice.sources.store import Store

if TYPE_CHECKING:
    import zarr

_NUMBERS = "biuf"
_TEXTS = "TOUS"  # v3 and v2 strings of any length, objects, fixed-length strings, bytes
_READ_ROWS = 2**16  # texts are read in blocks of about so many rows, so that their bytes can be counted
_ARROW_BYTES = 2**31 - 1  # most bytes of all texts of one Arrow array of strings


@dataclass(frozen=True)
class Hierarchy:
    """A store whose groups and arrays have one zarr format, and the limits for what is read of it."""

    store: Store
    zarr_format: int
    limits: Limits

    def attributes(self, path: str) -> dict[str, Any]:
        """Attributes of the group or array at `path`; empty where there is none."""
        document = read_json(self.store, join(path, ".zattrs" if self.zarr_format == 2 else "zarr.json"))
        if document is not None and self.zarr_format == 3:
            document = document.get("attributes")
        return document if isinstance(document, dict) else {}

    def is_array(self, path: str) -> bool:
        """Whether there is an array at `path`."""
        if self.zarr_format == 2:
            return self.store.file_exists(join(path, ".zarray"))
        document = read_json(self.store, join(path, "zarr.json"))
        return document is not None and document.get("node_type") == "array"

    def is_group(self, path: str) -> bool:
        """Whether there is a group at `path`."""
        if self.zarr_format == 2:
            return self.store.file_exists(join(path, ".zgroup"))
        document = read_json(self.store, join(path, "zarr.json"))
        return document is not None and document.get("node_type") == "group"

    def open(self, path: str, axes: int) -> zarr.Array[Any]:
        """The array at `path`, which must have so many axes.

        Raises SourceDamaged if it is missing or not sound; SourceRefused above the limits of rows and bytes
        (texts count by their references alone), for codecs that can run code, and for data types that are
        neither numbers nor texts.
        """
        document, metadata = _array_metadata(self.store, path, self.zarr_format)
        _check_codecs(self.store, document, metadata)
        array = _opened(self.store, path, metadata)
        if array.ndim != axes:
            raise SourceDamaged(self.store.location, path, f"has {array.ndim} axes instead of {axes}")
        if array.dtype.kind not in _NUMBERS + _TEXTS:
            raise SourceRefused(self.store.location, path, f"holds {array.dtype}: neither numbers nor texts")
        self._check_size(path, array)
        return array

    def numbers(self, path: str, axes: int = 1) -> NDArray[Any]:
        """All of an array of numbers or bools, native-endian. Raises as `open`."""
        array = self.open(path, axes)
        if array.dtype.kind not in _NUMBERS:
            raise SourceDamaged(self.store.location, path, f"holds {array.dtype} instead of numbers")
        return self._numbers(path, array)

    def column(self, path: str) -> pa.Array:
        """All of an array of one axis: numbers and bools in their own type, texts as strings."""
        array = self.open(path, 1)
        if array.dtype.kind in _NUMBERS:
            return pa.array(self._numbers(path, array))
        blocks = list(self._text_blocks(path, array))
        return pa.concat_arrays(blocks) if blocks else pa.array([], pa.string())

    def texts(self, path: str) -> tuple[str, ...] | None:
        """Texts of an array of one axis, or the one text of an array without axes; None if there are none."""
        if not self.is_array(path) or self.attributes(path).get("encoding-type") == "null":
            return None
        shape = _array_metadata(self.store, path, self.zarr_format)[1].get("shape")
        if shape != []:
            values = self.column(path)
        else:
            array = self.open(path, 0)
            values = _text_array(np.atleast_1d(np.asarray(self._read(path, array, ...), object)))
        if not pa.types.is_string(values.type) or values.null_count:
            return None
        return tuple(values.to_pylist())

    def _numbers(self, path: str, array: zarr.Array[Any]) -> NDArray[Any]:
        """Arrow and numpy have not all their floats in common: those of 2 and 16 bytes become 8."""
        values = self._read(path, array, ...)
        native = values.dtype.newbyteorder("=")
        odd_float = native.kind == "f" and native.itemsize not in (4, 8)
        return values.astype(np.float64 if odd_float else native, copy=False)

    def _text_blocks(self, path: str, array: zarr.Array[Any]) -> Iterator[pa.Array]:
        size = 0
        allowed = min(self.limits.table_bytes, _ARROW_BYTES)
        step = -(-_READ_ROWS // array.chunks[0]) * array.chunks[0] if array.size else 1
        for start in range(0, array.shape[0], step):
            block = _text_array(self._read(path, array, slice(start, start + step)))
            size += block.nbytes
            if size > allowed:
                reason = f"holds texts of more than {allowed} bytes, which are allowed"
                raise SourceRefused(self.store.location, path, reason)
            yield block

    def _read(self, path: str, array: zarr.Array[Any], selection: Any) -> NDArray[Any]:
        if not array.size:
            return np.empty(array.shape, array.dtype)
        try:
            return np.asarray(array[selection])
        except SourceError:
            raise
        except Exception as error:  # codecs raise what they like, RuntimeError and EOFError among others
            raise SourceDamaged(self.store.location, path, f"cannot be read: {_brief(error)}") from error

    def _check_size(self, path: str, array: zarr.Array[Any]) -> None:
        limits = self.limits
        rows = array.shape[0] if array.ndim else 1
        if rows > limits.table_rows:
            reason = f"has {rows} rows; {limits.table_rows} are allowed"
            raise SourceRefused(self.store.location, path, reason)
        for name, shape, allowed in (
            ("entries", array.shape, limits.table_bytes),
            ("chunks", array.chunks, limits.chunk_bytes),
            ("shards", array.shards or (), limits.shard_bytes),
        ):
            size = math.prod(shape) * array.dtype.itemsize
            if size > allowed:
                reason = f"has {name} of {size} bytes; {allowed} are allowed"
                raise SourceRefused(self.store.location, path, reason)
        if array.size and 0 in array.chunks:
            raise SourceDamaged(self.store.location, path, "has chunks without entries")


def _text_array(values: NDArray[Any]) -> pa.Array:
    """Strings of a numpy array of strings, bytes or objects; None is null."""
    if values.dtype.kind == "T":
        return pa.array(values.tolist(), pa.string())
    return pa.array([_text(value) for value in values.tolist()], pa.string())


def _text(value: Any) -> str | None:
    """Bytes are taken for UTF-8; what is no valid text, such as lone surrogates, is replaced."""
    if value is None:
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value).encode("utf-8", "replace").decode()
