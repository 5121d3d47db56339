"""Measurements of a million objects: joined to their layer, and a page of a range filter over them.

`python -m tests.bench.join [ROWS]`: peak memory is that of this process, less what it had before the join.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from roiservice.catalog.indexes import RoiColumns
from roiservice.catalog.properties import joined_columns
from roiservice.catalog.reader import Catalog, open_catalog
from roiservice.catalog.writer import CatalogWriter
from roiservice.encode.formats import FORMATS
from roiservice.geometry.frames import Frame
from roiservice.geometry.polygons import Polygons
from roiservice.query.columns import read_features
from roiservice.query.pages import feature_page
from roiservice.query.select import PropertyFilter, RoiQuery
from roiservice.sources.limits import Limits
from roiservice.sources.tables.files import read_table
from roiservice.sources.tables.table import TableFile, ValueTable

PAGE = 500


def main(rows: str = "1000000") -> None:
    """Read and join the table, write a catalog of squares with it, and query that."""
    count = int(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "values.parquet"
        write_values(path, count)
        labels = np.arange(1, count + 1)
        before = peak()
        began = time.perf_counter()
        table = read_table(TableFile(folder, path.name, path.read_bytes()), Limits())
        assert isinstance(table, ValueTable)
        columns = joined_columns(table, labels)
        seconds = time.perf_counter() - began
        print(f"{count} rows, {len(columns)} columns: {seconds:.2f} s, at most {peak() - before} MB more")
        assert (
            columns["intensity"][4].as_py() == table.columns["intensity"][list(table.label).index(5)].as_py()
        )
        query_pages(write_squares(Path(folder) / "1", labels, columns))


def query_pages(catalog: Catalog) -> None:
    """Pages of range filters that let through a lot, some, and little."""
    for low, high in ((0.0, 900.0), (200.0, 300.0), (500.0, 500.1)):
        query = RoiQuery(properties=(PropertyFilter("intensity", low, high),))
        times = []
        for offset in (0, 100, 200, 300, 400):
            began = time.perf_counter()
            page = feature_page(catalog, query, offset, PAGE)
            FORMATS["geojson"].encode(read_features(catalog, page.rows))
            times.append(time.perf_counter() - began)
        middle = sorted(times)[2] * 1e3
        print(
            f"intensity={low}..{high}: {page.matched} match, a page of {PAGE} as GeoJSON in {middle:.1f} ms"
        )


def write_values(path: Path, count: int) -> None:
    """A table in another order than the labels, with numbers of both types and text."""
    random = np.random.default_rng(1)
    columns = {
        "label": random.permutation(np.arange(1, count + 1)),
        "intensity": random.uniform(0, 1000, count),
        "solidity": random.uniform(0, 1, count),
        "neighbours": random.integers(0, 9, count),
        "class": np.array(["tumor", "stroma", "immune"])[random.integers(0, 3, count)],
    }
    pq.write_table(pa.table(columns), path)


def write_squares(directory: Path, labels: np.ndarray, columns: dict[str, pa.Array]) -> Catalog:
    """A catalog of squares of 4 x 4 pixels in rows of a thousand."""
    count = len(labels)
    corner = np.stack([np.arange(count) % 1000 * 5, np.arange(count) // 1000 * 5], axis=1)
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]])
    xy = (corner[:, None, :] + square).reshape(-1, 2).astype(np.int32)
    each = np.arange(count + 1)
    writer = CatalogWriter(directory, Frame(), np.int64, np.int32)
    sixteen = np.full(count, 16)
    writer.add_plane([(0, -1, 0)], labels, Polygons(xy, each * 4, each, each), sixteen, exact=True)
    meta = {
        "version": 1,
        "layer_number": 1,
        "name": "squares",
        "image_name": "",
        "frame": [1.0, 1.0, 0.0, 0.0],
    }
    writer.finish(lambda objects, _: RoiColumns(objects, np.full(count, -1), columns), meta)
    return open_catalog(directory)


def peak() -> int:
    """Largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
