"""Strips that do not fit together are refused, and what was joined does not depend on when."""

from __future__ import annotations

import numpy as np
import pytest

from roiservice.vectorize import seams
from roiservice.vectorize.assemble import assemble, split_rings
from roiservice.vectorize.plane import trace_plane
from roiservice.vectorize.seams import Joiner
from roiservice.vectorize.tracer import new_table, trace_strip
from tests.strategies import Plane, rings_in_rings, snake, spiral
from tests.vectorize.support import rings_of


def test_strips_that_share_no_row_are_refused() -> None:
    plane = np.zeros((6, 9), np.uint8)
    plane[1:5, 2:4] = plane[1:5, 6:8] = 1
    joiner, table = Joiner(), new_table()
    chains, table = trace_strip(np.zeros(9, np.uint8), plane[:3], 0, last=False, table=table)
    joiner.join(chains)
    other, _ = trace_strip(np.ones(9, np.uint8), plane[3:], 3, last=True, table=table)
    with pytest.raises(ValueError, match="share"):
        joiner.join(other)


def test_a_first_strip_that_comes_from_above_is_refused() -> None:
    rows = np.ones((2, 3), np.uint8)
    chains, _ = trace_strip(rows[0], rows, 0, last=True, table=new_table())
    with pytest.raises(ValueError, match="above"):
        Joiner().join(chains)


def test_ports_count_what_crosses_the_border() -> None:
    plane = np.array([[1, 1, 0, 2, 2], [1, 0, 0, 3, 0]], np.uint16)
    chains, _ = trace_strip(np.zeros(5, np.uint16), plane, 0, last=False, table=new_table())
    assert (chains.top_ports, chains.bottom_ports) == (0, 4)
    assert sorted(chains.labels[: len(chains.start)].tolist()) == [1, 3]
    assert chains.labels[len(chains.start) :].tolist() == [2]


def test_a_table_that_grew_is_given_back() -> None:
    noise = np.random.default_rng(0).integers(0, 2, (200, 1000), np.uint8)
    table = new_table()
    _, grown = trace_strip(np.zeros(1000, np.uint8), noise, 0, last=True, table=table)
    assert len(grown) > len(table)
    chains, again = trace_strip(np.zeros(1000, np.uint8), noise, 0, last=True, table=grown)
    assert again is grown
    assert len(chains.labels) > 1000


@pytest.mark.parametrize("plane", [spiral(23), snake(40, 21), snake(40, 21).T.copy(), rings_in_rings(24)])
def test_vertices_of_closed_outlines_are_forgotten(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often that happens, what is still open stays what it is."""
    whole = trace_plane([plane])
    monkeypatch.setattr(seams, "SPARE_VERTICES", 0)
    joiner, table, batches = Joiner(), new_table(), []
    above = np.zeros(plane.shape[1], plane.dtype)
    for row, strip in enumerate(np.split(plane, len(plane))):
        chains, table = trace_strip(above, strip, row, last=row == len(plane) - 1, table=table)
        batches += [split_rings(rings) for rings in joiner.join(chains)]
        assert joiner._pooled <= 2 * joiner.open_vertices
        above = strip[0]
    labels, polygons = assemble(batches, joiner.parts(), plane.dtype)
    assert labels.tolist() == whole[0].tolist()
    assert rings_of(polygons) == rings_of(whole[1])
