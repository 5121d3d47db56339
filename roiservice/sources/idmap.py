"""Ids of images from a file: those of a study, say, as they are in OMERO.

A CSV file of `path,id`, in UTF-8, with or without that header, or a YAML file of `id: path`. A path is
relative to the file's own folder, absolute, or a URL. A field of a plate, or an image of a series, is named
by its path inside: `plate.zarr/A/1/0` or `plate.zarr#A/1/0`. In YAML an id may also have `{image: path,
labels: [paths]}`, for label images that lie elsewhere than in their image; without `image` they stand alone.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from roiservice.errors import SettingsError, SourceError
from roiservice.records import dataclass
from roiservice.sources.elsewhere import label_place
from roiservice.sources.images import IMAGE_ID, ImageOrError, ImageSource, only_image
from roiservice.sources.limits import Limits
from roiservice.sources.paths import clean_path, join
from roiservice.sources.remote.urls import is_url
from roiservice.sources.roots import absolute

if TYPE_CHECKING:
    import yaml

_HEADER = ["path", "id"]
_LARGEST = 2**26  # bytes of the file
_LONGEST = 8192  # characters of a path or URL
_NAMED = 3  # rows that a warning names
_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Row:
    """An entry of the file: its line, the path and labels as they are written there, and the id."""

    line: int
    path: str
    id: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A row and what it names: a store's location, a path inside it, and the locations of label images."""

    row: Row
    location: str
    path: str
    labels: tuple[str, ...]

    @property
    def place(self) -> str:
        """Location and path in one."""
        return join(self.location, self.path)

    def source(self, limits: Limits) -> ImageSource:
        """The image that it names, opened. SourceError if there is none."""
        return self.applied(only_image(self.location, limits, self.path), limits)

    def applied(self, source: ImageSource, limits: Limits) -> ImageSource:
        """The image with the id and the labels of the entry."""
        labels = tuple(label_place(location, limits) for location in self.labels)
        return replace(source, given_id=self.row.id, labels=labels)


class IdMap:
    """Entries by their place, and which of them have named no image so far."""

    def __init__(self, file: Path, entries: Mapping[str, Entry]) -> None:
        self.file = file
        self._entries = entries
        self._unused = dict(entries)

    def numbered(self, found: Sequence[ImageOrError], limits: Limits) -> list[ImageOrError]:
        """What was found at one location, the images with the ids and labels that the file gives them.

        Where a store holds one image, whatever its path inside, the store's own location names it too.
        """
        members = Counter(each.location if isinstance(each, ImageSource) else each.store for each in found)
        return [
            self._numbered(each, limits, alone=members[each.location] == 1)
            if isinstance(each, ImageSource)
            else each
            for each in found
        ]

    def outside(self, locations: Sequence[str]) -> dict[int, Entry]:
        """Entries that lie neither at nor below one of the locations, by id; they are no case for a warning.

        `locations` are absolute.
        """
        given = set(locations)
        found = {each.row.id: each for place, each in self._entries.items() if not _is_below(place, given)}
        for entry in found.values():
            self._unused.pop(entry.place, None)
        return found

    def warnings(self) -> tuple[str, ...]:
        """One that says which rows name nothing that was found, if there are any."""
        rows = sorted((entry.row for entry in self._unused.values()), key=lambda row: row.line)
        if not rows:
            return ()
        named = ", ".join(f"{row.path} (line {row.line})" for row in rows[:_NAMED])
        more = ", ..." if len(rows) > _NAMED else ""
        return (f"{self.file}: {len(rows)} of {len(self._entries)} rows name no image here: {named}{more}",)

    def _numbered(self, source: ImageSource, limits: Limits, *, alone: bool) -> ImageSource:
        places = [join(source.location, source.path)]
        if alone and source.path:
            places.append(source.location)
        for place in places:
            entry = self._entries.get(place)
            if entry is not None:
                self._unused.pop(place, None)
                return entry.applied(source, limits)
        return source


def read_id_map(file: Path) -> IdMap:
    """The entries of the file. SettingsError naming the line, or both of two that contradict each other."""
    places: dict[str, Entry] = {}
    ids: dict[int, Row] = {}
    paths = _Paths(file)
    for row in _yaml_rows(file) if file.suffix.lower() in _YAML else _csv_rows(file):
        entry = _entry(file, row, paths)
        other = places.get(entry.place)
        for known in (None if other is None else other.row, ids.get(row.id)):
            if known is not None:
                what = f"the id {row.id}" if known.id == row.id else row.path
                raise SettingsError(f"{file}: lines {known.line} and {row.line} both have {what}")
        places[entry.place], ids[row.id] = entry, row
    return IdMap(file, places)


def _csv_rows(file: Path) -> Iterator[Row]:
    try:
        _check_size(file)
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


def _yaml_rows(file: Path) -> Iterator[Row]:
    """Read as nodes, not values: these know their lines, and of two equal keys neither is lost."""
    import yaml

    try:
        _check_size(file)
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        document = yaml.compose(file.read_text("utf-8-sig"), Loader=loader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise SettingsError(f"{file}: cannot be read: {error}") from error
    if document is None:
        return
    if not isinstance(document, yaml.MappingNode):
        raise SettingsError(f"{file}: must be a mapping of ids to paths")
    for key, value in document.value:
        line = key.start_mark.line + 1
        row = _yaml_row(line, key, value)
        if row is None:
            reason = "is no id (from 1 to 10^14 - 1) with a path, or with {image: path, labels: [paths]}"
            raise SettingsError(f"{file}: line {line}: {reason}")
        yield row


def _yaml_row(line: int, key: yaml.Node, value: yaml.Node) -> Row | None:
    number = _text(key)
    if number is None or not IMAGE_ID.fullmatch(number):
        return None
    path = _text(value)
    if path is not None:
        return Row(line, path, int(number))
    import yaml

    if not isinstance(value, yaml.MappingNode):
        return None
    members = {_text(name): member for name, member in value.value}
    listed = members.pop("labels", None)
    labels = [_text(each) for each in listed.value] if isinstance(listed, yaml.SequenceNode) else []
    image = _text(members.pop("image")) if "image" in members else next(iter(labels), None)
    if members or image is None or None in labels or (listed is not None and not labels):
        return None
    return Row(line, image, int(number), tuple(label for label in labels if label is not None))


def _text(node: yaml.Node) -> str | None:
    """A scalar's text as it stands in the file; None for anything else, empty or too long ones included."""
    if not isinstance(node.value, str) or node.tag == "tag:yaml.org,2002:null":
        return None
    text = node.value.strip()
    return text if 0 < len(text) <= _LONGEST else None


def _check_size(file: Path) -> None:
    if file.stat().st_size > _LARGEST:
        raise SettingsError(f"{file}: is larger than {_LARGEST} bytes")


class _Paths:
    """Paths as a file of ids has them, made absolute. Links in folders are followed once, not once a row."""

    def __init__(self, file: Path) -> None:
        self._base = os.path.abspath(file.parent)
        self._folders: dict[str, str] = {}

    def joined(self, path: str) -> str:
        """The path below the file's folder, or as it is."""
        return path if is_url(path) else os.path.join(self._base, os.path.expanduser(path))

    def absolute(self, whole: str) -> str:
        """As `roots.absolute`."""
        folder, _, name = whole.rpartition("/")
        if is_url(whole) or not name or not name.isprintable() or name in (".", ".."):
            return absolute(whole)
        if folder not in self._folders:
            self._folders[folder] = absolute(folder or "/").rstrip("/")
        place = f"{self._folders[folder]}/{name}"
        return absolute(place) if os.path.islink(place) else place


def _entry(file: Path, row: Row, paths: _Paths) -> Entry:
    """What a row names. A `#` that is part of a file's name is left alone."""
    whole = paths.joined(row.path)
    root, hash_sign, inside = whole.rpartition("#")
    if not hash_sign or (not is_url(whole) and os.path.lexists(whole)):
        root, inside = whole, ""
    try:
        location = paths.absolute(root)
        labels = tuple(paths.absolute(paths.joined(label)) for label in row.labels)
    except SourceError as error:
        raise SettingsError(f"{file}: line {row.line}: {error}") from error
    if not inside:
        return Entry(row, location, "", labels)
    path = clean_path(inside.lstrip("/"))
    if path is None:
        raise SettingsError(f"{file}: line {row.line}: {inside!r} is no path inside a store")
    return Entry(row, location, path, labels)


def _is_below(place: str, given: set[str]) -> bool:
    while place:
        if place in given:
            return True
        place = place.rpartition("/")[0]
    return "/" in given
