"""Columns of any type in the few that catalogs keep, and the one that names the labels."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roiservice.sources.tables.columns import label_column, some_whole_numbers, typed_columns


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, 3], pa.int64(), [1, None, 3]),
        ([1, 2.5, None], pa.float64(), [1.0, 2.5, None]),
        ([1.0, float("nan")], pa.float64(), [1.0, None]),
        ([True, None], pa.bool_(), [True, None]),
        (["a", None], pa.string(), ["a", None]),
        ([None, None], pa.string(), [None, None]),
        ([1, "x", None, [1]], pa.string(), ["1", "x", None, "[1]"]),
        ([True, 2], pa.string(), ["true", "2"]),
        ([2**70, 1], pa.string(), [str(2**70), "1"]),
        ([{"a": 1}, None], pa.string(), ['{"a":1}', None]),
        ([[1, 2], []], pa.string(), ["[1,2]", "[]"]),
        (["\ud800", "é"], pa.string(), ["?", "é"]),
    ],
)
def test_lists_become_typed(values: list[Any], kind: Any, expected: list[Any]) -> None:
    column = typed_columns({"a": values}, ())["a"]
    assert column.type == kind
    assert column.to_pylist() == expected


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (pa.array([1, 2], pa.uint8()), pa.int64(), [1, 2]),
        (pa.array([1, None], pa.uint64()), pa.int64(), [1, None]),
        (pa.array([1, 2**64 - 1], pa.uint64()), pa.string(), ["1", str(2**64 - 1)]),
        (pa.array([0.5, float("nan")], pa.float32()), pa.float64(), [0.5, None]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), pa.string(), ["a", "b", "a"]),
        (pa.array(["a", None], pa.large_string()), pa.string(), ["a", None]),
        (pa.array([datetime.date(2020, 1, 2)]), pa.string(), ["2020-01-02"]),
        (pa.array([decimal.Decimal("1.50")]), pa.string(), ["1.50"]),
        (pa.array([{"a": 1}, None]), pa.string(), ['{"a":1}', None]),
        (pa.array([[b"x"]]), pa.string(), ["[\"b'x'\"]"]),
        (pa.chunked_array([[1], [2]]), pa.int64(), [1, 2]),
        (pa.chunked_array([], pa.int32()), pa.int64(), []),
    ],
)
def test_arrays_become_typed(values: Any, kind: Any, expected: list[Any]) -> None:
    column = typed_columns(pa.table({"a": values}), ())["a"]
    assert isinstance(column, pa.Array)
    assert column.type == kind
    assert column.to_pylist() == expected


def test_binary_is_left_out_and_so_is_what_is_asked_for() -> None:
    table = pa.table({"a": [b"x"], "b": [1], "c": [2], "d": pa.array([b"x"], pa.binary_view())})
    assert list(typed_columns(table, ("c",))) == ["b"]


def test_bytes_that_are_no_text_are_replaced() -> None:
    offsets, data = pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(b"\xffab")
    damaged = pa.Array.from_buffers(pa.string(), 2, [None, offsets, data])
    assert typed_columns({"a": damaged}, ())["a"].to_pylist() == ["\ufffd", "ab"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1], [2**40]], pa.list_(pa.int64())).cast(pa.list_(pa.timestamp("s"))),  # a year of 34865
        pa.array([[1], [2**62]], pa.list_(pa.duration("s"))),
        pa.ListArray.from_arrays(
            pa.array([0, 0, 1]),
            pa.Array.from_buffers(
                pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
            ),
        ),
    ],
)
def test_lists_with_a_value_that_python_has_not_are_null(column: pa.Array) -> None:
    texts = typed_columns({"a": column}, ())["a"]
    assert texts.is_valid().to_pylist() == [True, False]


def test_names_that_are_no_unicode_have_it_replaced() -> None:
    assert list(typed_columns({"a\ud800": [1], "a?": [2]}, ())) == ["a?", "a?_2"]


def test_columns_of_one_name_are_told_apart() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "a", "a"])
    assert {name: column[0].as_py() for name, column in typed_columns(table, ()).items()} == {
        "a": 1,
        "a_2": 2,
        "a_3": 3,
    }


@pytest.mark.parametrize(
    ("columns", "name", "labels"),
    [
        ({"a": [1], "Label": [7]}, "Label", [7]),
        ({"shape": [1], "roi": [7]}, "roi", [7]),
        ({"label": ["tumor", "stroma"], "object": [3, 4]}, "object", [3, 4]),
        ({"label": [1.0, 2.0, None]}, "label", [1, 2, None]),
        ({"label": ["1", " 2 ", "+3", "x"]}, "label", [1, 2, 3, None]),
        ({"label": [1.5, 2.0, 3.0]}, "label", [None, 2, 3]),
        ({"label": [2**53 + 1, -4]}, "label", [2**53 + 1, -4]),
        ({"label": [1e300, 2.0, 3.0]}, "label", [None, 2, 3]),
    ],
)
def test_labels_are_found_by_name_and_value(
    columns: dict[str, list[Any]], name: str, labels: list[int | None]
) -> None:
    found = label_column(typed_columns(columns, ()))
    assert found is not None
    assert found.name == name
    known = [value if known else None for value, known in zip(found.values, found.known, strict=True)]
    assert known == labels


@pytest.mark.parametrize(
    "columns", [{}, {"a": [1]}, {"label": ["a", "b"]}, {"label": [None, None]}, {"label": [True]}]
)
def test_what_is_no_label_is_not_taken_for_one(columns: dict[str, list[Any]]) -> None:
    assert label_column(typed_columns(columns, ())) is None


odd_texts = st.sampled_from(["x", "1.5", str(2**63 - 1), str(-(2**63))])


@given(st.lists(st.integers(-(2**66), 2**66).map(str) | odd_texts))
def test_text_of_any_length_is_a_whole_number_if_int64_holds_it(texts: list[str]) -> None:
    values, known = some_whole_numbers(pa.array(texts, pa.string()))
    for text, value, is_known in zip(texts, values.tolist(), known.tolist(), strict=True):
        whole = text.lstrip("-").isdigit() and -(2**63) <= int(text) < 2**63
        assert is_known == whole
        assert value == (int(text) if whole else 0)
