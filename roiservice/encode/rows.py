"""Rows of text for many features at once, put together from columns of texts by one compiled loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roiservice.geometry.compiled import compiled
from roiservice.records import dataclass

Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Texts:
    """n texts in one buffer of bytes; text i begins at `starts[i]` and has `lengths[i]` bytes."""

    buffer: NDArray[np.uint8]
    starts: Int64
    lengths: Int64

    @staticmethod
    def of(texts: Sequence[bytes]) -> Texts:
        """These texts."""
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        return Texts(np.frombuffer(b"".join(texts), np.uint8), np.cumsum(lengths) - lengths, lengths)

    @staticmethod
    def between(buffer: NDArray[np.uint8], ends: Int64) -> Texts:
        """The texts that lie one after the other between these n + 1 places."""
        return Texts(buffer[: ends[-1]], ends[:-1], np.diff(ends))

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[bytes]:
        whole = self.buffer.tobytes()
        for first, length in zip(self.starts.tolist(), self.lengths.tolist(), strict=True):
            yield whole[first : first + length]

    def take(self, rows: NDArray[Any]) -> Texts:
        """The texts of these numbers, in that order."""
        return Texts(self.buffer, self.starts[rows], self.lengths[rows])

    def where(self, mask: NDArray[np.bool_]) -> Texts:
        """The same, but empty where the mask is false."""
        return Texts(self.buffer, self.starts, self.lengths * mask)


Piece = bytes | Texts  # bytes: the same in all rows


def rows(count: int, pieces: Iterable[Piece]) -> Texts:
    """Rows that have one text of each piece after the other, and lie one after the other as well."""
    every = [piece if isinstance(piece, Texts) else _same(piece) for piece in pieces]
    starts, lengths = np.empty((count, len(every)), np.int64), np.empty((count, len(every)), np.int64)
    before = 0
    for column, piece in enumerate(every):
        starts[:, column], lengths[:, column] = piece.starts + before, piece.lengths
        before += len(piece.buffer)
    buffer = np.concatenate([piece.buffer for piece in every])
    out, ends = _compose(buffer, starts, lengths, int(lengths.sum()))
    return Texts.between(out, ends)


def _same(text: bytes) -> Texts:
    """A text for any number of rows, by numpy's rules of broadcasting."""
    return Texts(np.frombuffer(text, np.uint8), np.zeros(1, np.int64), np.array([len(text)]))


def by_value(values: NDArray[Any], text: Callable[[Any], bytes]) -> Texts:
    """The text of each of few distinct values."""
    if len(values) and (values == values[0]).all():  # as mostly
        return Texts.of([text(values[0].item())]).take(np.zeros(len(values), np.int64))
    distinct, which = np.unique(values, return_inverse=True)
    return Texts.of([text(value) for value in distinct.tolist()]).take(which.ravel())


@compiled
def _compose(buffer: Any, starts: Any, lengths: Any, size: int) -> Any:
    """Texts of (rows, pieces) one after the other, of that size together, and where each row begins."""
    out = np.empty(size, np.uint8)
    ends = np.zeros(starts.shape[0] + 1, np.int64)
    at = 0
    for i in range(starts.shape[0]):
        for j in range(starts.shape[1]):
            target, source = out[at : at + lengths[i, j]], buffer[starts[i, j] : starts[i, j] + lengths[i, j]]
            for k in range(target.size):  # so written it becomes one copy of memory
                target[k] = source[k]
            at += lengths[i, j]
        ends[i + 1] = at
    return out, ends
