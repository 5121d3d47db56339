"""Which images there are, and where they lie.

They are found at locations, named by a file of ids or by a template, or registered in OMERO. Locations are
searched once, when first asked for. What a file of ids names beyond them, and what a template stands for, is
opened when it is asked for: there may be any number of those.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import Protocol

from roiservice.catalog.registry import FIRST_IMAGE, Registry
from roiservice.errors import BadParameter, NotFound, RoiServiceError, SettingsError, SourceError
from roiservice.looks import Looks
from roiservice.records import dataclass
from roiservice.sources.idmap import Entry, IdMap
from roiservice.sources.images import ImageSource, find_images, only_image
from roiservice.sources.limits import Limits
from roiservice.sources.paths import join
from roiservice.sources.roots import absolute
from roiservice.sources.templates import Template, template_of

Location = tuple[int | None, str]  # an image's number if the user gave one, and a path or template

MISSING_KEPT = (
    10.0  # seconds for which an image that is not there, or cannot be opened, is not looked for again
)
MOST_KEPT = 100_000
OPENED_AT_ONCE = 16


@dataclass(frozen=True)
class Image:
    """An image that is served: its lasting number, what a user calls it, where it lies."""

    id: int
    name: str
    source: ImageSource


class Registered(Protocol):
    """Images that somebody else keeps, as OMERO does; what is found depends on who asks."""

    def find(self, image_id: int, session: str | None) -> ImageSource | None:
        """Where the image lies; None if there is none for this session."""


@dataclass(frozen=True)
class _Found:
    """What lies at the locations, by number, what could not be read, and entries for places elsewhere."""

    images: dict[int, Image]
    problems: list[SourceError]
    entries: dict[int, Entry]


class ImageIndex:
    """All images: those at locations, in a file of ids, behind templates, and registered ones.

    `interval` is in seconds: after it, templates and what was opened on demand are looked at again. With
    `entries` False the file of ids only numbers what lies at the locations. Safe to use from several threads.
    """

    def __init__(
        self,
        locations: Sequence[Location],
        registry: Registry,
        limits: Limits,
        ids: IdMap | None = None,
        registered: Registered | None = None,
        *,
        interval: float = 60.0,
        entries: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._locations, self._templates = _told_apart(locations)
        self._ids = ids
        self._registry = registry
        self._limits = limits
        self._registered = registered
        self._interval = interval
        self._with_entries = entries
        self._clock = clock
        self._opened: Looks[int, Image | None] = Looks(MOST_KEPT, interval, MISSING_KEPT, clock)
        self._listed: tuple[float, list[int], list[RoiServiceError]] | None = None
        self._problems: dict[int, RoiServiceError] = {}
        self._lock = threading.Lock()

    def get(self, image_id: int, session: str | None = None) -> Image:
        """The image with this number; NotFound if there is none.

        One that only OMERO knows is looked up there in the name of `session`, which may raise OmeroWebFailed.
        Raises SourceError if it cannot be opened, SettingsError if two stores claim the number.
        """
        image = self._known(image_id)
        if image is None and self._registered is not None:
            source = self._registered.find(image_id, session)
            if source is not None:
                image = Image(image_id, source.name, source)
        if image is None:
            raise NotFound(f"there is no image {image_id}")
        return image

    def may_have(self, image_id: int) -> bool:
        """Whether there is an image with this number, or could be one."""
        if self.is_open or image_id in self._found.entries:
            return True
        try:
            return self._known(image_id) is not None
        except RoiServiceError:
            return True

    @property
    def is_open(self) -> bool:
        """Whether there may be images that nobody can list: behind URLs, or in OMERO."""
        return self._registered is not None or any(template.is_remote for template in self._templates)

    def page(self, offset: int, limit: int) -> list[Image]:
        """Images `offset` to `offset + limit`, by number, as `opened` gives them."""
        return self.opened(self.numbers[offset : offset + limit])

    def opened(self, wanted: Sequence[int]) -> list[Image]:
        """The images with these of the `numbers`; those that cannot be opened are left out.

        What is wrong with these is then among the `problems`.
        """
        if not (self._templates or self._found.entries):
            return [self._found.images[number] for number in wanted]
        with ThreadPoolExecutor(OPENED_AT_ONCE) as threads:
            return [image for image in threads.map(self._known_or_none, wanted) if image is not None]

    def total(self) -> int:
        """How many images there are, opened or not; without those that nobody can list."""
        return len(self.numbers)

    @property
    def problems(self) -> list[RoiServiceError]:
        """What could not be read while images were looked for and opened."""
        listed = [] if self._listed is None else self._listed[2]
        with self._lock:
            return [*self._found.problems, *listed, *self._problems.values()]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What in the file of ids names no image that was found."""
        return self._ids.warnings() if self._ids is not None and self.total() else ()

    @property
    def numbers(self) -> list[int]:
        """Numbers of all images that can be listed, sorted; templates are looked at again now and then."""
        listed = self._listed
        if listed is None or (self._templates and self._clock() >= listed[0]):
            numbers = {*self._found.images, *self._found.entries}
            problems: list[RoiServiceError] = []
            for template in self._templates:
                try:
                    numbers.update(template.ids())
                except SourceError as error:
                    problems.append(error)
            listed = self._listed = (self._clock() + self._interval, sorted(numbers), problems)
        return listed[1]

    def _known_or_none(self, image_id: int) -> Image | None:
        try:
            image = self._known(image_id)
        except RoiServiceError as error:
            with self._lock:
                self._problems[image_id] = error.with_traceback(None)
            return None
        with self._lock:
            self._problems.pop(image_id, None)
        return image

    def _known(self, image_id: int) -> Image | None:
        """The image, opened if need be; None if locations, entries and templates have none.

        What was found or not is remembered.
        """
        found = self._found
        if not self._templates and image_id not in found.entries:
            return found.images.get(image_id)
        return self._opened.get(image_id, partial(self._claimed, image_id))

    def _claimed(self, image_id: int) -> Image | None:
        """The image that the number belongs to. SettingsError if two stores claim it."""
        image, entry = self._found.images.get(image_id), self._found.entries.get(image_id)
        places = [] if image is None else [join(image.source.location, image.source.path)]
        places += [] if entry is None else [entry.place]
        templated = self._templated(image_id, sure=not places)
        claims = dict.fromkeys([*places, *(absolute(location) for location in templated)])
        if len(claims) > 1:
            raise SettingsError(f"image {image_id} is claimed by {' and by '.join(claims)}")
        if image is not None:
            return image
        if entry is not None:
            source = entry.source(self._limits)
        elif templated:
            source = self._named(image_id, only_image(templated[0], self._limits))
        else:
            return None
        return Image(image_id, source.name, source)

    def _templated(self, image_id: int, *, sure: bool) -> list[str]:
        """Where templates have the image; with `sure`, a host that does not tell is an error."""
        found = []
        for template in self._templates if 1 <= image_id < FIRST_IMAGE else ():
            try:
                location = template.location(image_id, self._limits)
            except SourceError:
                if sure:
                    raise
                continue
            found += [] if location is None else [location]
        return found

    def _named(self, image_id: int, source: ImageSource) -> ImageSource:
        """The image of a template; `7/labels` where the store's own name is the same for all of them."""
        name = source.name if str(image_id) in source.name else f"{image_id}/{source.name}"
        return replace(source, given_id=image_id, name=name)

    @cached_property
    def _found(self) -> _Found:
        """Raises SettingsError where two stores claim one number, SourceError if nothing can be used."""
        images: dict[int, Image] = {}
        problems: list[SourceError] = []
        for found in self._sources():
            if isinstance(found, SourceError):
                problems.append(found)
            else:
                image = self._numbered(found)
                other = images.setdefault(image.id, image)
                if (other.source.location, other.source.path) != (found.location, found.path):
                    claim = f"image {image.id} is claimed by {other.source.location}"
                    raise SettingsError(f"{claim} and by {found.location}")
        entries = self._entries(images)
        if problems and not (images or entries or self._templates or self._registered):
            raise problems[0]
        return _Found(images, problems, entries)

    def _entries(self, images: dict[int, Image]) -> dict[int, Entry]:
        """Entries of the file of ids for what does not lie at the locations."""
        if self._ids is None or not self._with_entries:
            return {}
        given = []
        for _, path in self._locations:
            with suppress(SourceError):
                given.append(absolute(path))
        entries = self._ids.outside(given)
        for number in entries.keys() & images.keys():
            place = f"line {entries[number].row.line} of {self._ids.file}"
            raise SettingsError(
                f"image {number} is claimed by {images[number].source.location} and by {place}"
            )
        return entries

    def _sources(self) -> Iterator[ImageSource | SourceError]:
        """What all locations hold; numbers of the command line come before those of the file."""
        for given_id, path in self._locations:
            if self._ids is None:
                yield from self._at(path, given_id)
            else:
                found = list(self._at(path, given_id))
                numbered = self._ids.numbered(found, self._limits)
                yield from numbered if given_id is None else found

    def _at(self, path: str, given_id: int | None) -> Iterator[ImageSource | SourceError]:
        """What one location holds; one that cannot be used comes as its error."""
        try:
            yield from find_images(path, given_id, self._limits)
        except SourceError as error:
            yield error

    def _numbered(self, source: ImageSource) -> Image:
        number = source.given_id
        if number is None:
            number = self._registry.image_number(f"{source.location}#{source.path}")
        elif not 1 <= number < FIRST_IMAGE:
            raise SettingsError(f"{source.location}: image numbers lie from 1 to {FIRST_IMAGE - 1}")
        return Image(number, source.name, source)


def _told_apart(locations: Sequence[Location]) -> tuple[list[Location], list[Template]]:
    """Locations proper and templates. BadParameter for a template that is given an id."""
    proper: list[Location] = []
    templates: list[Template] = []
    for number, path in locations:
        template = template_of(path)
        if template is None:
            proper.append((number, path))
        elif number is not None:
            raise BadParameter("ID=PATH", f"{path} is a template, which gives the ids itself")
        else:
            templates.append(template)
    return proper, templates
