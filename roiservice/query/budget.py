"""As many features as have so many vertices together, as they are drawn."""

from __future__ import annotations

import numpy as np

from roiservice.catalog.outlines import vertex_counts
from roiservice.catalog.reader import Catalog
from roiservice.query.detail import SIMPLIFIED_IN_ALL, Detail, check_size, drawn_vertices
from roiservice.query.subsets import Rows

_LEFT_OUT = 4  # that of so many vertices all but one are left out, as is supposed before any are
_FEWEST = 2**14  # vertices that are worth a look at a time


def affordable(catalog: Catalog, rows: Rows, vertices: int, detail: Detail) -> Rows:
    """The largest of these rows that have at most so many vertices together, sorted; of equal ones the first.

    Those that alone have more are passed over. What is simplified is so some at a time, as its vertices are
    not known before. Raises BadParameter where too many would have to be.
    """
    ranked = rows[np.argsort(-catalog.features["area"][rows], kind="stable")]
    exact = vertex_counts(catalog, ranked)
    ends, chosen = np.cumsum(exact), [np.empty(0, np.int64)]
    first, left, before, ratio = 0, vertices, 0, float(_LEFT_OUT)
    while first < len(ranked):
        last = len(ranked)
        if detail.simplify:
            worth = before + max(int(left * ratio), _FEWEST)
            last = max(int(np.searchsorted(ends, worth, side="right")), first + 1)
            check_size(int(ends[last - 1]), SIMPLIFIED_IN_ALL)
        counts = drawn_vertices(catalog, ranked[first:last], detail)
        possible = counts <= vertices
        fits = np.cumsum(np.where(possible, counts, 0)) <= left
        chosen.append(ranked[first:last][possible & fits])
        if not fits.all():
            break
        left -= int(counts[possible].sum())
        ratio = float(exact[first:last].sum() / max(counts.sum(), 1))
        first, before = last, int(ends[last - 1])
    return np.sort(np.concatenate(chosen))
