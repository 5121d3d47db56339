"""What a Parquet file's footer says of sizes, read before anything else.

pyarrow has the same numbers, but ends the process where a damaged footer makes them contradict each other.
"""

from __future__ import annotations

import struct
from typing import Any

from roiservice.records import dataclass

_MAGIC = b"PAR1"
_MOST_VALUES = 5_000_000  # numbers, texts and structs of one footer
_MOST_LEVELS = 32

# The types of Thrift's compact protocol.
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)

_BYTE_ARRAY, _FIXED_LEN_BYTE_ARRAY = 6, 7  # parquet.thrift, Type
_PLAIN_DICTIONARY, _DELTA_BYTE_ARRAY, _RLE_DICTIONARY = 2, 7, 8  # parquet.thrift, Encoding


class FooterDamaged(ValueError):
    """The footer is not what parquet.thrift describes."""


@dataclass(frozen=True)
class ColumnChunk:
    """The values of one column in one row group; `path` has a part for each level of nesting."""

    path: tuple[str, ...]
    is_text: bool
    values: int
    encoded_bytes: int
    width: int
    has_dictionary: bool
    has_prefixes: bool

    @property
    def least_bytes(self) -> int:
        """Bytes that the values take once decoded; those of texts may be more, see `has_dictionary`."""
        return max(self.encoded_bytes, self.values * self.width)


@dataclass(frozen=True)
class Footer:
    """Rows of a file, and its chunks of columns, uncompressed sizes and all."""

    rows: int
    chunks: tuple[ColumnChunk, ...]


def read_footer(data: bytes) -> Footer:
    """The footer of a Parquet file (parquet.thrift, FileMetaData). Raises FooterDamaged."""
    if len(data) < 12 or not data.startswith(_MAGIC) or not data.endswith(_MAGIC):
        raise FooterDamaged("it does not begin and end as Parquet files do")
    length = struct.unpack("<I", data[-8:-4])[0]
    if length > len(data) - 12:
        raise FooterDamaged("its footer is longer than the file")
    try:
        return _footer(_Compact(data[-8 - length : -8]).struct(_MOST_LEVELS))
    except FooterDamaged:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise FooterDamaged(f"its footer is damaged: {type(error).__name__}") from None


def _footer(metadata: dict[int, Any]) -> Footer:
    widths = [element.get(2) or 0 for element in metadata[2] if 5 not in element]  # leaves have no children
    chunks: list[ColumnChunk] = []
    for group in metadata.get(4, []):
        if len(group[1]) != len(widths):
            raise FooterDamaged("its row groups have not the columns of its schema")
        chunks += [_chunk(column[3], width) for column, width in zip(group[1], widths, strict=True)]
    rows = metadata[3]
    if (
        not isinstance(rows, int)
        or rows < 0
        or any(chunk.values < 0 or chunk.encoded_bytes < 0 for chunk in chunks)
    ):
        raise FooterDamaged("its footer states negative sizes")
    return Footer(rows, tuple(chunks))


def _chunk(stated: dict[int, Any], length: int) -> ColumnChunk:
    kind, encodings = stated[1], set(stated[2])
    return ColumnChunk(
        path=tuple(part.decode() for part in stated[3]),
        is_text=kind == _BYTE_ARRAY,
        values=int(stated[5]),
        encoded_bytes=int(stated[6]),
        width=0 if kind == _BYTE_ARRAY else max(8, length if kind == _FIXED_LEN_BYTE_ARRAY else 0),
        has_dictionary=bool(encodings & {_PLAIN_DICTIONARY, _RLE_DICTIONARY}) or stated.get(11) is not None,
        has_prefixes=_DELTA_BYTE_ARRAY in encodings,
    )


class _Compact:
    """Reader of Thrift's compact protocol: structs as their fields by number."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._left = _MOST_VALUES

    def struct(self, levels: int) -> dict[int, Any]:
        """The fields of a struct; of structs below it no more than so many levels."""
        if levels == 0:
            raise FooterDamaged("its footer is nested too deep")
        fields: dict[int, Any] = {}
        number = 0
        while header := self._byte():
            step = header >> 4
            number = number + step if step else self._integer()
            kind = header & 0xF
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, levels)
        return fields

    def _value(self, kind: int, levels: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise FooterDamaged("its footer has too many values")
        if kind in _INTEGERS:
            return self._integer()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in (_LIST, _SET):
            return self._list(levels)
        if kind == _STRUCT:
            return self.struct(levels - 1)
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind in (_TRUE, _FALSE, _BYTE):  # within lists, where a bool takes a byte
            return self._byte()
        raise FooterDamaged(f"its footer has a value of type {kind}")

    def _list(self, levels: int) -> list[Any]:
        header = self._byte()
        count = header >> 4 if header >> 4 != 0xF else self._varint()
        return [self._value(header & 0xF, levels) for _ in range(count)]

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, count: int) -> bytes:
        self._at += count
        if self._at > len(self._data):
            raise FooterDamaged("its footer is cut short")
        return self._data[self._at - count : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise FooterDamaged("its footer has a number of more than 64 bits")

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
