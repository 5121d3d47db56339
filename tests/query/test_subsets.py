"""Sets of numbers as bits, against plain lists."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from roiservice.query.select import on_spans
from roiservice.query.subsets import BATCH, GROUP, Spans, Subset

few = settings(max_examples=150, deadline=None)


@st.composite
def chosen(draw: st.DrawFn) -> list[int]:
    """Numbers here and there, and some that follow one another."""
    starts = draw(st.lists(st.integers(0, 9 * GROUP), max_size=12))
    lengths = draw(st.lists(st.sampled_from([1, 2, GROUP, 2 * GROUP]), min_size=12, max_size=12))
    return sorted(
        {n for start, length in zip(starts, lengths, strict=False) for n in range(start, start + length)}
    )


@few
@given(chosen(), st.integers(0, 12 * GROUP), st.integers(0, 3 * GROUP))
def test_a_page(numbers: list[int], offset: int, limit: int) -> None:
    subset = Subset.of(np.array(numbers, np.int64))
    assert len(subset) == len(numbers)
    assert subset.page(offset, limit).tolist() == numbers[offset : offset + limit]
    assert [n for batch in subset.batches() for n in batch.tolist()] == numbers


@few
@given(chosen(), st.integers(0, 12 * GROUP))
def test_the_index_of_a_number(numbers: list[int], number: int) -> None:
    subset = Subset.of(np.array(numbers, np.int64))
    for each in (number, *numbers[:3]):
        assert subset.index(each) == (numbers.index(each) if each in numbers else None)


def test_groups_come_in_any_order() -> None:
    masks = np.zeros((3, GROUP), bool)
    masks[0, 5] = masks[2, 0] = masks[2, 7] = True
    subset = Subset.of_masks([(np.array([4]), masks[:1]), (np.array([1, 2]), masks[1:])])
    assert subset.page(0, 9).tolist() == [2 * GROUP, 2 * GROUP + 7, 4 * GROUP + 5]
    assert subset.groups.tolist() == [2, 4]  # of groups without any number nothing is kept
    assert Subset.of_masks([]).page(0, 9).tolist() == []


def test_memory_does_not_grow_with_how_many_there_are() -> None:
    groups = np.arange(2400)
    masks = np.zeros((len(groups), GROUP), bool)
    masks[:, ::2] = True
    assert Subset.of_masks([(groups, masks)]).nbytes < GROUP * len(groups) / 7
    assert Subset.of(np.array([5, 2_400_000])).nbytes < 500


@few
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=5),
    st.integers(0, 60),
    st.integers(0, 60),
)
def test_spans(sizes: list[tuple[int, int]], offset: int, limit: int) -> None:
    numbers: list[int] = []
    spans: list[tuple[int, int]] = []
    at = 0
    for gap, size in sizes:
        spans.append((at + gap, at + gap + size))
        numbers += range(*spans[-1])
        at = spans[-1][1]
    chosen = Spans(tuple(spans))
    assert len(chosen) == len(numbers)
    assert chosen.page(offset, limit).tolist() == numbers[offset : offset + limit]
    assert [n for part in chosen.batches() for n in range(part.start, part.stop)] == numbers
    every = np.arange(at + 3)
    assert every[on_spans(every, spans)].tolist() == numbers


def test_batches_of_spans_are_bounded() -> None:
    assert list(Spans(((3, BATCH + 5),)).batches()) == [slice(3, BATCH + 3), slice(BATCH + 3, BATCH + 5)]
