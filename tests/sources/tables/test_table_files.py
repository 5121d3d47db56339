"""Which files are tables, by their names, and how they are unpacked."""

from __future__ import annotations

import gzip
import io
import zipfile

import pytest

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.sources.limits import Limits
from roiservice.sources.tables.files import is_table, stem, table_suffixes
from tests.sources.tables.tablefiles import read, shapes, values

POINT = b'{"type":"Point","coordinates":[1,2]}'
VALUES = b"label,a\n1,2\n"


def archive(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as opened:
        for name, data in entries.items():
            opened.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/cells.geojson", "cells"),
        ("cells.geojson.gz", "cells"),
        ("a/cells.v2.CSV", "cells.v2"),
        ("METADATA.ome.xml", "METADATA"),
        ("cells.parquet", "cells"),
        ("cells.fgb", "cells"),
        ("cells.json.zip", "cells.json"),
        (".csv", ".csv"),
    ],
)
def test_tables_are_told_by_their_names(path: str, name: str) -> None:
    assert is_table(path)
    assert stem(path) == name


@pytest.mark.parametrize("path", ["cells", "cells.zarr", "cells.parquet.gz", "cells.txt", "csv"])
def test_other_names_are_no_tables(path: str) -> None:
    assert not is_table(path)
    assert stem(path) == path
    with pytest.raises(SourceRefused, match=r"is no table by its name; known are \.geojson, .*\.ome\.xml"):
        read(b"", path)


def test_every_suffix_has_a_reader() -> None:
    for suffix in table_suffixes():
        packed = gzip.compress(b"") if suffix.endswith(".gz") else b""
        try:
            read(packed, f"a{suffix}")
        except SourceDamaged:
            pass
        except SourceRefused as error:
            pytest.fail(str(error))


def test_packed_files() -> None:
    assert shapes(gzip.compress(POINT), "a.geojson.gz").label.tolist() == [1]
    assert shapes(gzip.compress(POINT) + gzip.compress(b"\n" + POINT), "a.json.gz").label.tolist() == [1, 2]
    assert values(gzip.compress(VALUES), "a.csv.gz").label.tolist() == [1]
    entries = {
        "a.geojson": POINT,
        "sub/b.json": b"[%b,%b]" % (POINT, POINT),
        "__MACOSX/a.geojson": b"x",
        "c.txt": b"x",
    }
    assert shapes(archive(entries), "a.zip").label.tolist() == [1, 2, 3]
    assert shapes(archive(entries, zipfile.ZIP_LZMA), "a.zip").label.tolist() == [1, 2, 3]


def test_unpacking_ends_at_the_limit() -> None:
    limits = Limits(table_bytes=100_000)
    bomb = b" " * 10_000_000
    with pytest.raises(SourceRefused, match="has more than 100000 bytes unpacked"):
        read(gzip.compress(bomb), "a.geojson.gz", limits)
    with pytest.raises(SourceRefused, match="has more than 100000 bytes unpacked"):
        read(archive({"a.json": bomb}), "a.zip", limits)
    with pytest.raises(SourceRefused, match="has more than 100000 bytes unpacked"):
        read(archive({f"{n}.json": b" " * 60_000 for n in range(2)}), "a.zip", limits)
    with pytest.raises(SourceRefused, match="has more than 100000 bytes unpacked"):
        read(b" " * 100_001, "a.csv", limits)
    with pytest.raises(SourceRefused, match="has 10001 files; 10000 are allowed"):
        read(archive({f"{n}.json": b"" for n in range(10_001)}), "a.zip")


def test_damaged_packing() -> None:
    whole = gzip.compress(POINT)
    for data in (b"", whole[:-1], whole[:15], b"junk", whole[:20] + b"\xff" * 9 + whole[29:]):
        with pytest.raises(SourceDamaged):
            read(data, "a.geojson.gz")
    good = archive({"a.json": POINT * 100})
    for data in (b"", b"junk", good[:-10], good[:40] + b"\xff" * 20 + good[60:]):
        with pytest.raises(SourceDamaged, match="is no sound zip file"):
            read(data, "a.zip")
    with pytest.raises(SourceRefused, match="holds no GeoJSON file"):
        read(archive({"a.txt": b""}), "a.zip")
