"""Ids of images from a file: those of a study, say, as they are in OMERO.

A CSV file of `path,id`, in UTF-8, with or without that header. A path is relative to the file's own folder,
absolute, or a URL. A field of a plate, or an image of a series, is named by its path inside:
`plate.zarr/A/1/0` or `plate.zarr#A/1/0`.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from roiservice.errors import SettingsError, SourceError
from roiservice.sources.images import IMAGE_ID, ImageOrError, ImageSource
from roiservice.sources.paths import clean_path
from roiservice.sources.remote.urls import is_url
from roiservice.sources.roots import absolute

_HEADER = ["path", "id"]
_LARGEST = 2**26  # bytes of the file
_LONGEST = 8192  # characters of a path or URL
_NAMED = 3  # rows that a warning names


@dataclass(frozen=True)
class Row:
    """A line of the file: where it is, what it says."""

    line: int
    path: str
    id: int


class IdMap:
    """Rows by place, and which of them have named no image so far.

    A place is the location of a store with the path inside behind a `/`.
    """

    def __init__(self, file: Path, rows: Mapping[str, Row]) -> None:
        self._file = file
        self._rows = rows
        self._unused = dict(rows)

    def numbered(self, found: Sequence[ImageOrError]) -> list[ImageOrError]:
        """What was found at one location, the images with the ids that the file gives them.

        Where a store holds one image, whatever its path inside, the store's own location names it too.
        """
        members = Counter(each.location if isinstance(each, ImageSource) else each.store for each in found)
        return [
            self._numbered(each, alone=members[each.location] == 1) if isinstance(each, ImageSource) else each
            for each in found
        ]

    def warnings(self) -> tuple[str, ...]:
        """One that says which rows name nothing that was found, if there are any."""
        rows = sorted(self._unused.values(), key=lambda row: row.line)
        if not rows:
            return ()
        named = ", ".join(f"{row.path} (line {row.line})" for row in rows[:_NAMED])
        more = ", ..." if len(rows) > _NAMED else ""
        return (f"{self._file}: {len(rows)} of {len(self._rows)} rows name no image here: {named}{more}",)

    def _numbered(self, source: ImageSource, *, alone: bool) -> ImageSource:
        places = [f"{source.location}/{source.path}" if source.path else source.location]
        if alone and source.path:
            places.append(source.location)
        for place in places:
            row = self._rows.get(place)
            if row is not None:
                self._unused.pop(place, None)
                return replace(source, given_id=row.id)
        return source


def read_id_map(file: Path) -> IdMap:
    """The rows of the file. SettingsError naming the line, or both of two that contradict each other."""
    places: dict[str, Row] = {}
    ids: dict[int, Row] = {}
    for row in _rows(file):
        place = _place(file, row)
        for known in (places.get(place), ids.get(row.id)):
            if known is not None:
                what = f"the id {row.id}" if known.id == row.id else row.path
                raise SettingsError(f"{file}: lines {known.line} and {row.line} both have {what}")
        places[place] = ids[row.id] = row
    return IdMap(file, places)


def _rows(file: Path) -> Iterator[Row]:
    try:
        if file.stat().st_size > _LARGEST:
            raise SettingsError(f"{file}: is larger than {_LARGEST} bytes")
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            for cells in reader:
                cells = [cell.strip() for cell in cells]
                if not any(cells) or (reader.line_num == 1 and [cell.lower() for cell in cells] == _HEADER):
                    continue
                usable = len(cells) == 2 and 0 < len(cells[0]) <= _LONGEST
                if not usable or not IMAGE_ID.fullmatch(cells[1]):
                    reason = f"is no path and id (from 1 to 10^14 - 1): {','.join(cells)[:100]!r}"
                    raise SettingsError(f"{file}: line {reader.line_num}: {reason}")
                yield Row(reader.line_num, cells[0], int(cells[1]))
    except (OSError, ValueError, csv.Error) as error:
        raise SettingsError(f"{file}: cannot be read: {error}") from error


def _place(file: Path, row: Row) -> str:
    """What a row names, as `IdMap` has it. A `#` that is part of a file's name is left alone."""
    whole = _joined(file, row.path)
    root, hash_sign, inside = whole.rpartition("#")
    if not hash_sign or (not is_url(whole) and os.path.lexists(whole)):
        root, inside = whole, ""
    try:
        location = absolute(root)
    except SourceError as error:
        raise SettingsError(f"{file}: line {row.line}: {error}") from error
    if not inside:
        return location
    path = clean_path(inside.lstrip("/"))
    if path is None:
        raise SettingsError(f"{file}: line {row.line}: {inside!r} is no path inside a store")
    return f"{location}/{path}"


def _joined(file: Path, path: str) -> str:
    if is_url(path):
        return path
    return os.path.join(os.path.abspath(file.parent), os.path.expanduser(path))
