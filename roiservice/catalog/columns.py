"""Column files: Arrow IPC, uncompressed, one record batch, memory-mapped on reading."""

from __future__ import annotations

import errno
import io
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from roiservice.errors import CatalogDamaged, NotOpened, RoiServiceError

PIECE_BYTES = 2**24  # that are written at a time
PIECES_AHEAD = 4  # that wait to be written
SPOOL_BYTES = 2**16  # that stay in memory
# What opening a file fails with that may be sound: files or memory are short, or a server does not answer.
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT)


def write_columns(path: Path, columns: Mapping[str, Any], release: Callable[[], None] | None = None) -> None:
    """Write equally long columns: numpy arrays, (n, k) ones as lists of k, or pyarrow arrays.

    `release` is called after each piece that is written, to let go of mapped memory.
    """
    batch = _batch(columns)
    with open(path, "wb") as file, pa.ipc.new_file(_Pieces(file, release), batch.schema) as writer:
        writer.write_batch(batch)


@contextmanager
def columns_written(
    folder: Path, threads: int, release: Callable[[], None] | None = None
) -> Iterator[Callable[[str, Mapping[str, Any]], None]]:
    """Give what has threads write columns to a file of `folder`, by its name; all are written when this ends.

    `release` is as of `write_columns`. Raises what one of them did.
    """
    written: list[Future[None]] = []
    with ThreadPoolExecutor(threads, "columns") as pool:
        yield lambda name, columns: written.append(
            pool.submit(write_columns, folder / f"{name}.arrow", columns, release)
        )
    while written:  # one that has failed and this frame would hold each other, and what is mapped
        written.pop(0).result()


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


class Spool:
    """Bytes that are written one after the other: kept in memory while they are few, else in a file.

    Files that are made and deleted again cost a small layer more than what is in them; ext4 looks at all that
    were deleted within the last seconds before it makes another.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._few = bytearray()
        self._file: BinaryIO | None = None

    def write(self, data: memoryview) -> None:
        """Add bytes."""
        if self._file is None and len(self._few) + data.nbytes <= SPOOL_BYTES:
            self._few += data
            return
        if self._file is None:
            self._file = open(self._path, "wb")  # noqa: SIM115 - closed by close
            self._file.write(self._few)
            self._few = bytearray()
        self._file.write(data)

    def close(self) -> None:
        """Nothing more is written."""
        if self._file is not None:
            self._file.close()

    def content(self) -> bytearray | mmap.mmap:
        """All bytes, once it is closed: those of the file mapped."""
        if self._file is None:
            return self._few
        with open(self._path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def delete(self) -> None:
        """Delete the file, if there is one."""
        if self._file is not None:
            self._path.unlink()


class GrowingColumn:
    """A file of one column that rows are appended to where they stay.

    Rows are lists of `width` numbers of `dtype`. What stands before the first row tells how many there are:
    room is left for it, and `finish` fills it.
    """

    def __init__(self, path: Path, name: str, dtype: Any, width: int) -> None:
        self._path = path
        self._name = name
        self._dtype = np.dtype(dtype)
        self._width = width
        self._first = _write_around(io.BytesIO(), self._batch(bytes(width * self._dtype.itemsize)))
        self._file = open(path, "wb")  # noqa: SIM115 - closed by finish or close
        self._file.seek(self._first)
        self._thread = ThreadPoolExecutor(1, "column")
        self._ahead: deque[Future[int]] = deque()

    def append(self, values: NDArray[Any]) -> None:
        """Add rows, (n, width), which must stay as they are: a thread writes them."""
        flat = np.ascontiguousarray(values, self._dtype).reshape(-1)
        self._wait(PIECES_AHEAD)
        # tofile would not say that the disk is full
        self._ahead.append(self._thread.submit(self._file.write, flat.view(np.uint8).data))

    def settle(self) -> None:
        """Wait until all rows are written."""
        self._wait(0)

    def finish(self) -> None:
        """Close the file; it is as `write_columns` would have written it."""
        self._wait(0)
        size = self._file.tell() - self._first
        self.close()
        if not size:
            write_columns(self._path, {self._name: np.empty((0, self._width), self._dtype)})
            return
        with open(self._path, "r+b") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            _write_around(file, self._batch(memoryview(content)[self._first :]))

    def close(self) -> None:
        """Close the file as it is."""
        self._thread.shutdown(cancel_futures=True)
        self._file.close()

    def _wait(self, most: int) -> None:
        """Wait until no more than so many pieces are left to be written."""
        while len(self._ahead) > most:
            self._ahead.popleft().result()

    def _batch(self, content: Any) -> pa.RecordBatch:
        return _batch({self._name: np.frombuffer(content, self._dtype).reshape(-1, self._width)})


def _write_around(file: BinaryIO, batch: pa.RecordBatch) -> int:
    """Write a batch of one column to `file`, in which its rows are already; where they begin."""
    sink = _Around(file)
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.first


class _Around(io.RawIOBase):
    """Leaves out the rows, which Arrow hands over as a buffer, and writes what stands around them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.first = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if isinstance(data, pa.Buffer):
            self.first = self._file.tell()
            self._file.seek(size, os.SEEK_CUR)
        else:
            self._file.write(data)
        return size


def read_columns(path: Path) -> dict[str, NDArray[Any]]:
    """Columns by name, as numpy views of the mapped file."""
    return {name: to_numpy(column) for name, column in read_arrays(path).items()}


def read_arrays(path: Path) -> dict[str, pa.Array]:
    """Columns by name, as pyarrow arrays over the mapped file. Raises as `unusable` says."""
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise unusable(path, error) from error
    return {name: batch.column(name) for name in batch.schema.names}


def unusable(path: Path, error: Exception) -> RoiServiceError:
    """What to raise where a file of a catalog cannot be used: NotOpened if nothing is said of what is in it.

    Else CatalogDamaged, after which the catalog is deleted and built again.
    """
    if isinstance(error, OSError) and error.errno in PASSING:
        return NotOpened(f"a catalog cannot be opened now: {os.strerror(error.errno)}")
    return CatalogDamaged(f"{path}: {error!r}")


def _batch(columns: Mapping[str, Any]) -> pa.RecordBatch:
    arrays = {name: to_arrow(values) for name, values in columns.items()}
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))


def to_arrow(values: Any) -> pa.Array:
    """A column of numbers as an array over the same memory; (n, k) ones as lists of k."""
    if isinstance(values, pa.Array):
        return values
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(to_arrow(values.reshape(-1)), values.shape[1])
    # pa.array, as to_numpy, would import pandas, wherever that is installed: 0.2 s, and 25 MB of memory.
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, buffer])


def text_to_arrow(values: Sequence[str]) -> pa.Array:
    """Text as an array, made without pandas as well."""
    encoded = [value.encode() for value in values]
    offsets = np.array(list(accumulate(map(len, encoded), initial=0)), np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))


def bytes_to_arrow(values: Sequence[bytes]) -> pa.Array:
    """Bytes as an array, made so too."""
    offsets = np.array(list(accumulate(map(len, values), initial=0)), np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.large_binary(), len(values), buffers)


def to_numpy(column: pa.Array) -> NDArray[Any]:
    """A column without null as an array: (n, k) for lists of k. Numbers stay where they are in memory."""
    if pa.types.is_fixed_size_list(column.type):
        size = column.type.list_size  # flatten would import all of pyarrow.compute
        return to_numpy(column.values.slice(column.offset * size, len(column) * size)).reshape(-1, size)
    dtype = np.dtype(column.type.to_pandas_dtype())
    if not len(column):
        return np.empty(0, dtype)
    if dtype.kind == "b":
        bits = np.frombuffer(column.buffers()[1], np.uint8)
        end = column.offset + len(column)
        return np.unpackbits(bits, count=end, bitorder="little")[column.offset :].view(bool)
    return np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * dtype.itemsize)
