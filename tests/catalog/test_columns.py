"""Column files: one that grows is one that was written at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from roiservice.catalog.columns import (
    PIECES_AHEAD,
    SPOOL_BYTES,
    GrowingColumn,
    Spool,
    bytes_to_arrow,
    read_arrays,
    read_columns,
    text_to_arrow,
    write_columns,
)


@pytest.mark.parametrize("rows", [[], [0], [1], [3, 0, 1000], [2**17, 5]])
@pytest.mark.parametrize(("dtype", "width"), [(np.int32, 2), (np.float64, 2), (np.uint8, 3)])
def test_growing_is_writing_at_once(tmp_path: Path, rows: list[int], dtype: type, width: int) -> None:
    random = np.random.default_rng(1)
    pieces = [random.integers(0, 200, (n, width)).astype(dtype) for n in rows]
    whole = np.concatenate([np.empty((0, width), dtype), *pieces])
    write_columns(tmp_path / "whole.arrow", {"xy": whole})
    column = GrowingColumn(tmp_path / "grown.arrow", "xy", dtype, width)
    for piece in pieces:
        column.append(piece)
    column.finish()
    assert (tmp_path / "grown.arrow").read_bytes() == (tmp_path / "whole.arrow").read_bytes()
    np.testing.assert_array_equal(read_columns(tmp_path / "grown.arrow")["xy"], whole)


def test_few_pieces_wait_to_be_written(tmp_path: Path) -> None:
    column = GrowingColumn(tmp_path / "grown.arrow", "xy", np.int32, 2)
    for number in range(20):
        column.append(np.full((3, 2), number))
        assert len(column._ahead) <= PIECES_AHEAD + 1
    column.finish()
    assert read_columns(tmp_path / "grown.arrow")["xy"][::3, 0].tolist() == list(range(20))


@pytest.mark.parametrize("texts", [[], [""], ["c/0/1", "", "é", "c/10"]])
def test_text_is_what_pyarrow_makes_of_it(tmp_path: Path, texts: list[str]) -> None:
    assert text_to_arrow(texts).to_pylist() == texts
    write_columns(tmp_path / "ours.arrow", {"name": text_to_arrow(texts)})
    write_columns(tmp_path / "theirs.arrow", {"name": pa.array(texts, pa.string())})
    assert (tmp_path / "ours.arrow").read_bytes() == (tmp_path / "theirs.arrow").read_bytes()


@pytest.mark.parametrize("values", [[], [b""], [b"a", b"", b"\0\xff" * 9]])
def test_bytes_are_written_as_arrow_writes_them(tmp_path: Path, values: list[bytes]) -> None:
    write_columns(tmp_path / "ours.arrow", {"digests": bytes_to_arrow(values)})
    write_columns(tmp_path / "theirs.arrow", {"digests": pa.array(values, pa.large_binary())})
    assert (tmp_path / "ours.arrow").read_bytes() == (tmp_path / "theirs.arrow").read_bytes()
    assert read_arrays(tmp_path / "ours.arrow")["digests"].to_pylist() == values


@pytest.mark.parametrize(
    "sizes", [[], [0, 0], [5, 7], [SPOOL_BYTES, 0], [SPOOL_BYTES, 1, 9], [SPOOL_BYTES + 1]]
)
def test_few_bytes_stay_in_memory_and_many_go_to_a_file(tmp_path: Path, sizes: list[int]) -> None:
    random = np.random.default_rng(1)
    pieces = [random.bytes(size) for size in sizes]
    spool = Spool(tmp_path / "a.raw")
    for piece in pieces:
        spool.write(memoryview(piece))
    spool.close()
    assert bytes(spool.content()) == b"".join(pieces)
    assert list(tmp_path.iterdir()) == ([tmp_path / "a.raw"] if sum(sizes) > SPOOL_BYTES else [])
    spool.delete()
    assert not list(tmp_path.iterdir())
