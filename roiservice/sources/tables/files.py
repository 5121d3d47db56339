"""Files of tables: which ones are read, told by their names, and unpacking them within limits."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace

from roiservice.errors import SourceDamaged, SourceRefused
from roiservice.sources.limits import Limits
from roiservice.sources.remote.urls import file_name, is_url
from roiservice.sources.tables.table import ShapeTable, TableFile, ValueTable

Table = ShapeTable | ValueTable

_GZIP = ".gz"
_JSON = (".geojson", ".json", ".geojsonl", ".geojsons", ".ndjson", ".jsonl")
_DELIMITED = (".csv", ".tsv")
_PARQUET = (".parquet", ".geoparquet")
_FLATGEOBUF = (".fgb",)
_OME_XML = (".ome.xml", ".xml")
_ZIP = (".zip",)  # of GeoJSON, as QuPath writes it
_MOST_ENTRIES = 10_000


def table_suffixes() -> tuple[str, ...]:
    """Ends of the names of files that can be read; case does not matter."""
    packed = tuple(suffix + _GZIP for suffix in (*_JSON, *_DELIMITED))
    return (*_JSON, *_DELIMITED, *packed, *_ZIP, *_PARQUET, *_FLATGEOBUF, *_OME_XML)


def is_table(name: str) -> bool:
    """Whether a file of this name can be read as a table."""
    return name.lower().endswith(table_suffixes())


def is_table_alone(location: str) -> bool:
    """Whether a location without more said is a table, not an image: a zip is taken for a zipped image."""
    return is_table(location) and not location.lower().endswith(_ZIP)


def stem(path: str) -> str:
    """The name of the file at `path` without the suffix that says what it is."""
    name = path.rstrip("/").rpartition("/")[2]
    shown = file_name(path) if is_url(path) else name
    if shown.isprintable() and "/" not in shown:
        name = shown
    suffixes = sorted(table_suffixes(), key=len, reverse=True)
    found = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(found)] or name


def read_table(file: TableFile, limits: Limits) -> Table:
    """The table in a file, read as the end of its name says.

    Raises SourceRefused for other names and above the limits, SourceDamaged where the content is not what
    the name says.
    """
    name = file.part.lower()
    if not is_table(name):
        known = ", ".join(table_suffixes())
        raise SourceRefused(file.location, file.part, f"is no table by its name; known are {known}")
    if name.endswith(_ZIP):
        return _read_zip(file, limits)
    if len(file.data) > limits.table_bytes:
        raise _too_large(file, limits)
    if name.endswith(_GZIP):
        file = replace(file, data=_gunzipped(file, limits))
        name = name.removesuffix(_GZIP)
    return _reader(name)(file, limits)


def _reader(name: str) -> Callable[[TableFile, Limits], Table]:
    """The reader for a lower-case name; imported only now, as each has libraries of its own."""
    if name.endswith(_JSON):
        from roiservice.sources.tables.geojson import read_geojson

        return read_geojson
    if name.endswith(_DELIMITED):
        from roiservice.sources.tables.delimited import read_delimited

        return read_delimited
    if name.endswith(_PARQUET):
        from roiservice.sources.tables.parquet import read_parquet

        return read_parquet
    if name.endswith(_FLATGEOBUF):
        from roiservice.sources.tables.flatgeobuf import read_flatgeobuf

        return read_flatgeobuf
    from roiservice.sources.tables.omexml import read_omexml

    return read_omexml


def _gunzipped(file: TableFile, limits: Limits) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(file.data)) as opened:
            data = opened.read(limits.table_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceDamaged(file.location, file.part, f"is no sound gzip file: {error}") from None
    if len(data) > limits.table_bytes:
        raise _too_large(file, limits)
    return data


def _read_zip(file: TableFile, limits: Limits) -> Table:
    """All GeoJSON files of an archive as one table."""
    from roiservice.sources.tables.geojson import read_documents

    documents: list[bytes] = []
    left = limits.table_bytes
    try:
        with zipfile.ZipFile(io.BytesIO(file.data)) as archive:
            entries = [entry for entry in archive.infolist() if _is_document(entry)]
            if len(entries) > _MOST_ENTRIES:
                reason = f"has {len(entries)} files; {_MOST_ENTRIES} are allowed"
                raise SourceRefused(file.location, file.part, reason)
            for entry in entries:
                with archive.open(entry) as opened:
                    documents.append(opened.read(left + 1))
                left -= len(documents[-1])
                if left < 0:
                    raise _too_large(file, limits)
    except SourceRefused:
        raise
    except Exception as error:  # noqa: BLE001 - encrypted, of unknown compression, cut short, ...
        raise SourceDamaged(file.location, file.part, f"is no sound zip file: {error}") from None
    if not documents:
        raise SourceRefused(file.location, file.part, "holds no GeoJSON file")
    return read_documents(file, documents, limits)


def _is_document(entry: zipfile.ZipInfo) -> bool:
    name = entry.filename.lower()
    return name.endswith(_JSON) and not name.startswith("__macosx/") and not entry.is_dir()


def _too_large(file: TableFile, limits: Limits) -> SourceRefused:
    return SourceRefused(file.location, file.part, f"has more than {limits.table_bytes} bytes unpacked")
