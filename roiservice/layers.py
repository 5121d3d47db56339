"""Which layers images have, and their catalogs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from roiservice.catalog.keeper import Keeper
from roiservice.catalog.progress import BuildStatus, Progress
from roiservice.catalog.reader import Catalog
from roiservice.catalog.registry import Registry
from roiservice.catalog.task import LayerKey, Task
from roiservice.errors import NotFound, RoiServiceError, SettingsError, SourceError, SourceUnread
from roiservice.images import Image, ImageIndex, Location
from roiservice.looks import Looks
from roiservice.records import dataclass
from roiservice.settings import Settings
from roiservice.sources.layer import ROOT_COLLECTION, ROOT_NAME, LayerSource, place_of
from roiservice.sources.layers import find_layers, group_of, layer_named
from roiservice.sources.limits import Limits
from roiservice.sources.opened import open_source
from roiservice.sources.paths import join
from roiservice.sources.pixels import ImagePixels, open_pixels
from roiservice.sources.planes import LabelLayer
from roiservice.sources.roots import absolute
from roiservice.sources.rules import applied, read_rules
from roiservice.sources.tables.files import stem
from roiservice.sources.tables.layers import Size, TableLayer

MOST_LISTINGS = 10_000  # of images whose layers are known; one takes some kilobytes


@dataclass(frozen=True)
class Layer:
    """A layer of an image with its lasting number; `collection` is its id in URLs."""

    number: int
    image: Image
    collection: str
    name: str
    source: LayerSource

    @property
    def key(self) -> LayerKey:
        """What the keeper of catalogs knows it by."""
        return LayerKey(self.number, self.source)


@dataclass(frozen=True)
class LayerListing:
    """The layers of an image in the order of their numbers, and what is wrong with others."""

    layers: tuple[Layer, ...]
    problems: tuple[SourceError, ...]
    warnings: tuple[str, ...]


def _with_unread(
    found: Sequence[LayerSource], before: Sequence[LayerSource], problems: Sequence[SourceError]
) -> list[LayerSource]:
    """What was found, and what was there `before` and cannot be looked at: layers and tables of their values.

    These may be there still, and go on being served, as all does of a host that is down.
    """
    unread = [join(each.store, group_of(each.part)) for each in problems if isinstance(each, SourceUnread)]

    def is_unread(location: str, path: str) -> bool:
        return any(f"{place_of(location, path)}/".startswith(f"{group}/") for group in unread)

    def with_values(source: LayerSource) -> LayerSource:
        known = those_before.get(source.collection, source).values
        location = source.image.location
        kept = [each for each in known if each in source.values or is_unread(location, each.path)]
        return replace(source, values=tuple(dict.fromkeys((*kept, *source.values))))

    those_before = {source.collection: source for source in before}
    there = {source.collection for source in found}
    lost = [each for each in before if each.collection not in there and is_unread(each.location, each.path)]
    return [*map(with_values, found), *lost]


class TableFiles:
    """The table files that were given, by the image they belong to."""

    def __init__(self, tables: Sequence[Location], images: ImageIndex) -> None:
        self._tables = [(image_id, absolute(path)) for image_id, path in tables]
        self._images = images

    def of(self, image_id: int) -> tuple[str, ...]:
        """Locations of an image's table files.

        SettingsError for a file without an image's number where there are several images, for one of an image
        that there is not, and for two of one name.
        """
        for number, path in self._tables:
            if number is not None and not self._images.may_have(number):
                raise SettingsError(f"--table {number}={path}: there is no image {number}")
        unnumbered = [path for number, path in self._tables if number is None]
        if unnumbered and (self._images.is_open or self._images.total() > 1):
            raise SettingsError(f"--table {unnumbered[0]}: say whose it is, as in 7={unnumbered[0]}")
        own = [path for number, path in self._tables if number in (None, image_id)]
        by_name: dict[str, str] = {}
        for path in own:
            if by_name.setdefault(stem(path), path) != path:
                raise SettingsError(f"--table {path}: would be called as {by_name[stem(path)]} is")
        return tuple(dict.fromkeys(own))


class Layers:
    """The layers of images and their current catalogs."""

    def __init__(
        self, keeper: Keeper, registry: Registry, limits: Limits, settings: Settings, tables: TableFiles
    ) -> None:
        self._tables = tables
        self._rules = () if settings.layers is None else read_rules(settings.layers)
        self._keeper = keeper
        self._registry = registry
        self._limits = limits
        self._root_labels = settings.root_labels
        self._listings: Looks[Image, LayerListing] = Looks(MOST_LISTINGS, settings.check_interval)
        self._sizes: Looks[Layer, Size | None] = Looks(MOST_LISTINGS, settings.check_interval)

    def of(self, image: Image) -> LayerListing:
        """All layers of an image; looked for again once per check interval, by one for all who ask."""
        return self._listings.get(image, partial(self._find, image))

    def _find(self, image: Image) -> LayerListing:
        listing = find_layers(image.source, self._limits, self._tables.of(image.id))
        before = self._listings.before(image)
        known = [] if before is None else [layer.source for layer in before.layers]
        sources = _with_unread(listing.layers, known, listing.problems)
        if self._root_labels and not sources:
            sources = self._root(image, known, listing.problems)
        layers = sorted((self._numbered(image, source) for source in sources), key=lambda layer: layer.number)
        return LayerListing(tuple(layers), listing.problems, listing.warnings)

    def _root(
        self, image: Image, before: Sequence[LayerSource], problems: Sequence[SourceError]
    ) -> list[LayerSource]:
        """The image itself, if it is known to have no other labels, or was taken for labels `before`."""
        if not problems:
            return [layer_named(image.source, ROOT_NAME, self._limits)]
        is_unread = all(isinstance(problem, SourceUnread) for problem in problems)
        return [source for source in before if is_unread and source.collection == ROOT_COLLECTION]

    def named(self, image: Image, collection: str) -> Layer:
        """The layer by its collection id.

        Raises NotFound, or the SourceError that keeps the layer from being used. An image's own pixels are a
        layer only if the image or a setting says that they are labels: nobody is to have photographs traced
        by asking.
        """
        for layer in self.of(image).layers:
            if layer.collection == collection:
                return layer
        if collection in (ROOT_COLLECTION, ROOT_NAME):
            raise NotFound(f"image {image.id} does not say that it is a label image itself")
        return self.chosen(image, collection)

    def chosen(self, image: Image, name: str) -> Layer:
        """As `named`, also by the path below `labels/`; `.` takes the image itself for labels."""
        source = layer_named(image.source, name, self._limits, self._tables.of(image.id))
        return self._numbered(image, source)

    def opened(self, layer: Layer) -> LabelLayer | TableLayer:
        """The layer at its source, nothing of it read yet. Raises SourceError naming the part at fault."""
        return open_source(layer.source, self._limits)

    def image_size(self, listing: LayerListing) -> Size | None:
        """Size of the image as (t, c, z, y, x), by the first of its layers that is sound; None without one.

        It is remembered as the listing is, and so is there while a host is down.
        """
        for layer in listing.layers:
            with suppress(RoiServiceError):
                size = self._sizes.get(layer, partial(self._image_size, layer))
                if size is not None:
                    return size
        return None

    def _image_size(self, layer: Layer) -> Size | None:
        return self.opened(layer).image_size

    def pixels(self, image: Image) -> ImagePixels:
        """The image's own pixels, none of them read yet. Raises what `open_pixels` does."""
        return open_pixels(image.source, self._limits)

    def catalog(self, layer: Layer) -> Catalog:
        """The current catalog; a small layer's is built by the first to ask. Raises Building, SourceError."""
        return self._keeper.catalog(layer.key)

    def existing(self, layer: Layer) -> Catalog | None:
        """The current catalog if it has been built, whatever the state of its source."""
        return self._keeper.existing(layer.key)

    def has_catalog(self, layer: Layer) -> bool:
        """Whether it has been built, and is still there."""
        return self._keeper.has_catalog(layer.key)

    def build(self, layer: Layer, *, force: bool = False, progress: Progress | None = None) -> Catalog:
        """Bring the catalog up to the source's present state, however large the layer is."""
        return self._keeper.build(layer.key, force=force, progress=progress)

    def task(self, layer: Layer) -> Task:
        """All that another process needs to do what `build` does."""
        return self._keeper.task(layer.key)

    def start(self, layer: Layer) -> None:
        """Have a process of its own bring the catalog up to date, unless one does already."""
        self._keeper.start(layer.key)

    def status(self, layer: Layer) -> BuildStatus:
        """Whether the layer is built, and how far its build is."""
        return self._keeper.status(layer.key)

    def tidy(self) -> None:
        """Delete what builds that were killed have left on disk, and catalogs that are more than allowed."""
        self._keeper.tidy()

    def _numbered(self, image: Image, source: LayerSource) -> Layer:
        source = applied(self._rules, image.id, source)
        number = self._registry.layer_number(image.id, source.collection)
        return Layer(number, image, source.collection, source.shown_name, source)
