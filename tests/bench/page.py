"""A page of 500 ROIs from a catalog to OMERO JSON, and to gzip, without a cache. Targets: 3 ms, 6 ms."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from roiservice.catalog.reader import Catalog
from roiservice.encode.formats import FORMATS
from roiservice.query.columns import read_features
from roiservice.query.pages import feature_page, roi_page
from roiservice.query.select import RoiQuery
from roiservice.web.compress import pack, splice
from tests.bench.common import alternating, report, touching_cells
from tests.catalog.support import write_catalog

ROIS = 500
QUERY = RoiQuery(z=(0, 0), t=(0, 0))


def main(rounds: int = 30) -> None:
    """All formats in turns; each round takes another page."""
    with tempfile.TemporaryDirectory() as folder:
        plane = touching_cells(2048, 110)
        catalog = write_catalog(Path(folder) / "2", [([(0, -1, 0)], plane)])
        rows = roi_page(catalog, QUERY, 0, ROIS).rows
        vertices = len(read_features(catalog, rows).polygons.xy) / ROIS
        print(f"{catalog.meta['counts']['rois']} ROIs; {ROIS} on a page, {vertices:.0f} vertices each")
        runs = {}
        for name in FORMATS:
            runs[name] = Pages(catalog, name, packed=False)
            runs[f"{name}, gzip"] = Pages(catalog, name, packed=True)
        report(alternating(runs, rounds), "omero")
        for name in ("omero", "omero, gzip"):
            print(f"{name}: {len(runs[name]())} bytes")


class Pages:
    """Each call makes the next page."""

    def __init__(self, catalog: Catalog, name: str, *, packed: bool) -> None:
        self._catalog, self._form, self._packed = catalog, FORMATS[name], packed
        self._offset = 0
        self._last = catalog.meta["counts"]["rois"] - ROIS

    def __call__(self) -> bytes:
        page = roi_page if self._form.by_roi else feature_page
        self._offset = (self._offset + ROIS) % self._last
        chosen = page(self._catalog, QUERY, self._offset, ROIS)
        encoded = self._form.encode(read_features(self._catalog, chosen.rows))
        assert len(encoded) == ROIS
        body = self._form.separator.join(encoded)
        if not self._packed:
            return body
        return splice(b'{"data":[', pack(body, chosen.matched, ROIS), b'],"meta":{}}')


if __name__ == "__main__":
    np.seterr(all="raise")
    main(*map(int, sys.argv[1:]))
