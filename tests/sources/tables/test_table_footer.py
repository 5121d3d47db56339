"""Footers of Parquet files: what pyarrow says of sound ones, and an error for damaged ones."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roiservice.sources.tables.footer import FooterDamaged, read_footer

some = settings(max_examples=300, deadline=None)


def written(table: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    pa.parquet.write_table(table, out, **options)
    return out.getvalue()


TABLE = pa.table(
    {
        "number": range(100),
        "text": [f"a{n % 7}" for n in range(100)],
        "list": [[n, n] for n in range(100)],
        "struct": [{"a.b": "x", "c": 1.5} for _ in range(100)],
        "flag": [n % 2 == 0 for n in range(100)],
        "fixed": pa.array([b"x" * 20] * 100, pa.binary(20)),
    }
)
SOUND = written(TABLE, row_group_size=40)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False},
        {"column_encoding": "PLAIN", "use_dictionary": False},
        {"version": "1.0", "compression": "gzip"},
    ],
)
def test_it_says_what_pyarrow_says(options: dict[str, Any]) -> None:
    data = written(TABLE, row_group_size=40, **options)
    footer = read_footer(data)
    theirs = pa.parquet.ParquetFile(io.BytesIO(data)).metadata
    assert footer.rows == theirs.num_rows == 100
    chunks = [
        theirs.row_group(g).column(c) for g in range(theirs.num_row_groups) for c in range(theirs.num_columns)
    ]
    assert len(footer.chunks) == len(chunks) == 3 * 7
    for ours, chunk in zip(footer.chunks, chunks, strict=True):
        assert ".".join(ours.path) == chunk.path_in_schema
        assert ours.values == chunk.num_values
        assert ours.encoded_bytes == chunk.total_uncompressed_size
        assert ours.is_text == (chunk.physical_type == "BYTE_ARRAY")
        assert ours.has_dictionary == (
            "RLE_DICTIONARY" in chunk.encodings or "PLAIN_DICTIONARY" in chunk.encodings
        )
    assert [chunk.width for chunk in footer.chunks[:7]] == [8, 0, 8, 0, 8, 8, 20]
    assert footer.chunks[6].least_bytes >= 40 * 20


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not begin and end as Parquet files do"),
        (b"PAR1PAR1", "does not begin and end"),
        (SOUND[:-1], "does not begin and end"),
        (b"PAR1" + b"\xff\xff\xff\xffPAR1", "is longer than the file"),
        (b"PAR1" + b"\0" * 4 + b"\4\0\0\0PAR1", "footer is damaged"),
        (b"PAR1" + b"\x1c" * 100 + b"\x64\0\0\0PAR1", "nested too deep"),
        (b"PAR1" + b"\x19\xf1\xff\xff\xff\xff\x0f" + b"\x01" * 9 + b"\x10\0\0\0PAR1", "footer is damaged"),
        (b"PAR1" + b"\x16" + b"\xff" * 20 + b"\x15\0\0\0PAR1", "number of more than 64 bits"),
    ],
)
def test_damage_is_told(data: bytes, reason: str) -> None:
    with pytest.raises(FooterDamaged, match=reason):
        read_footer(data)


@some
@given(st.integers(1, 4000), st.binary(min_size=1, max_size=8))
def test_no_damage_raises_anything_else(back: int, junk: bytes) -> None:
    at = max(0, len(SOUND) - back)
    with contextlib.suppress(FooterDamaged):
        read_footer(SOUND[:at] + junk + SOUND[at + len(junk) :])
