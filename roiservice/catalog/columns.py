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
    arrays = {name: _to_arrow(values) for name, values in columns.items()}
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
    return {name: _to_numpy(column) for name, column in read_arrays(path).items()}


def read_arrays(path: Path) -> dict[str, pa.Array]:
    """Columns by name, as pyarrow arrays over the mapped file."""
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise CatalogDamaged(f"{path}: {error}") from error
    return {name: batch.column(name) for name in batch.schema.names}


def _to_arrow(values: Any) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.array(values)


def _to_numpy(column: pa.Array) -> NDArray[Any]:
    if pa.types.is_fixed_size_list(column.type):
        flat = column.flatten().to_numpy(zero_copy_only=True)
        return np.asarray(flat).reshape(-1, column.type.list_size)
    return np.asarray(column.to_numpy(zero_copy_only=True))
