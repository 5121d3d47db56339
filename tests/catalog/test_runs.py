"""Columns of which rows go and others come, held to what numpy makes of one row after the other."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from roiservice.catalog.runs import edited


@st.composite
def edits(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    """How many rows there are, which of them go, and before which others come."""
    count = draw(st.integers(0, 12))
    gone = sorted(draw(st.sets(st.integers(0, count - 1)))) if count else []
    return count, gone, sorted(draw(st.lists(st.integers(0, count), max_size=8)))


def by_hand(count: int, gone: list[int], places: list[int]) -> list[int]:
    """Rows that stay and come, in order; those that come are counted on from the others."""
    rows: list[int] = []
    for row in range(count + 1):
        rows += [count + number for number, place in enumerate(places) if place == row]
        rows += [row] if row < count and row not in gone else []
    return rows


@given(edits())
def test_rows_go_and_come(edit: tuple[int, list[int], list[int]]) -> None:
    count, gone, places = edit
    runs = edited(count, np.array(gone, np.int64), np.array(places, np.int64))
    rows = by_hand(*edit)
    assert runs.total == len(rows)
    column, come = np.arange(count, dtype=np.int32), count + np.arange(len(places))
    taken = runs.taken(column, come)
    assert taken.tolist() == rows
    assert taken.dtype == np.int32
    lists = runs.taken(np.stack([column, -column], axis=1), np.stack([come, -come], axis=1))
    assert lists.tolist() == [[row, -row] for row in rows]
    assert runs.places(len(places))[rows].tolist() == list(range(len(rows)))


@given(edits(), st.integers(1, 4))
def test_what_stays_put_is_what_it_was(edit: tuple[int, list[int], list[int]], size: int) -> None:
    count, gone, places = edit
    rows = by_hand(*edit)
    runs = edited(count, np.array(gone, np.int64), np.array(places, np.int64))
    starts = np.arange(0, len(rows), size)
    ends = np.minimum(starts + size, len(rows))
    stays = runs.stay_put(starts, ends).tolist()
    spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
    assert stays == [rows[start:end] == list(range(start, end)) and end <= count for start, end in spans]
