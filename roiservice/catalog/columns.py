"""Column files: Arrow IPC, uncompressed, one record batch, memory-mapped on reading."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roiservice.errors import CatalogDamaged

PIECE_BYTES = 2**24  # that are written at a time


def write_columns(path: Path, columns: Mapping[str, Any], release: Callable[[], None] | None = None) -> None:
    """Write equally long columns: numpy arrays, (n, k) ones as lists of k, or pyarrow arrays.

    `release` is called after each piece that is written, to let go of mapped memory.
    """
    arrays = {name: to_arrow(values) for name, values in columns.items()}
    batch = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    with open(path, "wb") as file, pa.ipc.new_file(_Pieces(file, release), batch.schema) as writer:
        writer.write_batch(batch)


class _Pieces(io.RawIOBase):
    """A file that large columns go to piece by piece."""

    def __init__(self, file: BinaryIO, release: Callable[[], None] | None) -> None:
        self._file = file
        self._release = release

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        for start in range(0, view.nbytes, PIECE_BYTES):
            self._file.write(view[start : start + PIECE_BYTES])
            if self._release is not None and view.nbytes >= PIECE_BYTES:
                self._release()
        return view.nbytes


def read_columns(path: Path) -> dict[str, NDArray[Any]]:
    """Columns by name, as numpy views of the mapped file."""
    return {name: to_numpy(column) for name, column in read_arrays(path).items()}


def read_arrays(path: Path) -> dict[str, pa.Array]:
    """Columns by name, as pyarrow arrays over the mapped file."""
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise CatalogDamaged(f"{path}: {error}") from error
    return {name: batch.column(name) for name in batch.schema.names}


def to_arrow(values: Any) -> pa.Array:
    """A column of numbers as an array over the same memory; (n, k) ones as lists of k."""
    if isinstance(values, pa.Array):
        return values
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(to_arrow(values.reshape(-1)), values.shape[1])
    # pa.array, as to_numpy, would import pandas, wherever that is installed: 0.2 s, and 25 MB of memory.
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, buffer])


def to_numpy(column: pa.Array) -> NDArray[Any]:
    """A column without null as an array: (n, k) for lists of k. Numbers stay where they are in memory."""
    if pa.types.is_fixed_size_list(column.type):
        return to_numpy(column.flatten()).reshape(-1, column.type.list_size)
    dtype = np.dtype(column.type.to_pandas_dtype())
    if not len(column):
        return np.empty(0, dtype)
    if dtype.kind == "b":
        bits = np.frombuffer(column.buffers()[1], np.uint8)
        end = column.offset + len(column)
        return np.unpackbits(bits, count=end, bitorder="little")[column.offset :].view(bool)
    return np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * dtype.itemsize)
