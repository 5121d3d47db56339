"""Locations with `{image_id}` in them: where an image lies is told by its id.

`/data/{image_id}.zarr`, `/data/{image_id}/labels.zarr`, `https://host/images/{image_id}.zarr`. An id is put
in as digits and nothing else, so that no request can name a place of its own.
"""

from __future__ import annotations

import os
import re

from roiservice.errors import SettingsError, SourceDamaged, SourceError, SourceRefused
from roiservice.records import dataclass
from roiservice.sources.limits import Limits
from roiservice.sources.paths import is_inside
from roiservice.sources.remote.urls import is_url, normalized_url
from roiservice.sources.roots import open_parent
from roiservice.sources.store import GROUP_DOCUMENTS, ZIP_SUFFIXES
from roiservice.sources.tables.files import is_table_alone

PLACEHOLDER = "{image_id}"
_DIGITS = "[1-9][0-9]{0,13}"


@dataclass(frozen=True)
class Template:
    """A location with the placeholder in one or more of its segments; see `template_of`."""

    text: str

    @property
    def is_remote(self) -> bool:
        """Whether it is a URL, of which nobody knows for which ids there is something."""
        return is_url(self.text)

    def location(self, image_id: int, limits: Limits) -> str | None:
        """Where the image lies; None if there is nothing there.

        SourceRefused where a symbolic link leads out of the folder that the template names, SourceError where
        a server does not say what there is.
        """
        filled = self._filled(image_id)
        if self.is_remote:
            location = normalized_url(filled)
            return location if _is_there(location, limits) else None
        if not os.path.lexists(filled):
            return None
        if not is_inside(filled, os.path.realpath(self._folder)):
            raise SourceRefused(filled, "", "a symbolic link leads out of the folder that the template names")
        return filled

    def ids(self) -> list[int]:
        """For which ids there is something, unsorted; none for a URL. SourceDamaged for a bad folder."""
        if self.is_remote:
            return []
        first, *rest = self.text.removeprefix(self._folder).strip("/").split("/")
        before, _, after = first.partition(PLACEHOLDER)
        name = re.compile(f"{re.escape(before)}({_DIGITS}){re.escape(after)}")
        try:
            names = os.listdir(self._folder)
        except OSError as error:
            raise SourceDamaged(self._folder, "", f"cannot be read: {error.strerror}") from None
        found = [int(match[1]) for match in map(name.fullmatch, names) if match]
        return [each for each in found if not rest or os.path.lexists(self._filled(each))]

    def _filled(self, image_id: int) -> str:
        return self.text.replace(PLACEHOLDER, str(image_id))

    @property
    def _folder(self) -> str:
        """The folder above the first segment with the placeholder."""
        return self.text[: self.text.index(PLACEHOLDER)].rpartition("/")[0] or "/"


def template_of(location: str) -> Template | None:
    """The template that a location is; None without `{image_id}`. SettingsError if it cannot be used."""
    if PLACEHOLDER not in location:
        return None
    if is_url(location):
        _check_url(location)
        return Template(location)
    text = os.path.abspath(os.path.expanduser(location))
    _check_segments(location, text)
    return Template(text)


def _check_url(location: str) -> None:
    host, _, path = location.partition("://")[2].partition("/")
    if PLACEHOLDER in host or PLACEHOLDER not in path:
        raise SettingsError(f"{location}: {PLACEHOLDER} must be in the path")
    _check_segments(location, path)
    try:
        normalized_url(location.replace(PLACEHOLDER, "1"))
    except SourceError as error:
        raise SettingsError(str(error)) from None


def _check_segments(location: str, path: str) -> None:
    if any(segment.count(PLACEHOLDER) > 1 for segment in path.split("/")):
        raise SettingsError(f"{location}: {PLACEHOLDER} may stand once between two slashes")


def _is_there(url: str, limits: Limits) -> bool:
    """Whether there is a store or file. 403 counts as no: it is what S3 says of keys it does not list."""
    store, name = open_parent(url, limits)
    if url.lower().endswith(ZIP_SUFFIXES) or is_table_alone(url):
        return store.file_exists(name)
    return any(store.file_exists(f"{name}/{document}") for document in GROUP_DOCUMENTS)
