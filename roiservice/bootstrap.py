"""The only place that wires the parts of the service together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from roiservice.auth.local import local_store
from roiservice.auth.policy import Policy, PublicPolicy
from roiservice.cache import PageCache, connect_redis, make_cache
from roiservice.catalog.elsewhere import StartBuild, start_build
from roiservice.catalog.keeper import Keeper
from roiservice.catalog.progress import BuildStatus, Progress
from roiservice.catalog.reader import Catalog
from roiservice.catalog.registry import Registry, open_registry
from roiservice.catalog.task import LayerKey, Rules, Task
from roiservice.errors import NotFound, NotWritten, RegistryFailed, SettingsError, SourceError
from roiservice.images import Image as Image
from roiservice.images import ImageIndex
from roiservice.images import Location as Location
from roiservice.metrics import Metrics
from roiservice.records import dataclass
from roiservice.settings import Settings
from roiservice.sources.idmap import read_id_map
from roiservice.sources.layer import ROOT_COLLECTION, ROOT_NAME, LayerSource
from roiservice.sources.layers import find_layers, layer_named
from roiservice.sources.limits import Limits
from roiservice.sources.roots import absolute
from roiservice.sources.rules import applied, read_rules
from roiservice.sources.tables.files import stem
from roiservice.vectorize.outlines import Outline

if TYPE_CHECKING:
    from roiservice.auth.keys import KeyRing
    from roiservice.auth.omero import OmeroPolicy
    from roiservice.auth.revocation import Revocations
    from roiservice.auth.shared import SharedStore
    from roiservice.auth.tokens import Tokens
    from roiservice.cache.redis import RedisServer
    from roiservice.catalog.engine import Engine
    from roiservice.omeroweb.client import OmeroWeb
    from roiservice.omeroweb.ngff import OmeroImages
    from roiservice.omeroweb.rois import OmeroRois


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
        self._interval = settings.check_interval
        self._root_labels = settings.root_labels
        self._listings: dict[Image, tuple[float, LayerListing]] = {}

    def of(self, image: Image) -> LayerListing:
        """All layers of an image; looked for again once per check interval."""
        known = self._listings.get(image)
        if known is not None and time.monotonic() - known[0] < self._interval:
            return known[1]
        tables = self._tables.of(image.id)
        try:
            found = self._found(image, tables)
        except (SourceError, RegistryFailed, NotWritten):
            if known is None:
                raise
            # A host is down for a while, or no numbers can be given: what was there goes on being served.
            found = known[1]
        self._listings[image] = (time.monotonic(), found)
        return found

    def _found(self, image: Image, tables: tuple[str, ...]) -> LayerListing:
        listing = find_layers(image.source, self._limits, tables)
        sources = listing.layers
        if self._root_labels and not sources and not listing.problems:
            sources = (layer_named(image.source, ROOT_NAME, self._limits),)
        layers = sorted((self._numbered(image, source) for source in sources), key=lambda layer: layer.number)
        return LayerListing(tuple(layers), listing.problems, listing.warnings)

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

    def catalog(self, layer: Layer) -> Catalog:
        """The current catalog; a small layer's is built by the first to ask. Raises Building, SourceError."""
        return self._keeper.catalog(layer.key)

    def existing(self, layer: Layer) -> Catalog | None:
        """The current catalog if it has been built, whatever the state of its source."""
        return self._keeper.existing(layer.key)

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


@dataclass(frozen=True)
class OmeroAccess:
    """What decides where OMERO says who may read, and what tokens are made and taken back with."""

    policy: OmeroPolicy
    keys: KeyRing
    tokens: Tokens
    revocations: Revocations


@dataclass(frozen=True)
class Services:
    """Everything that a request or a command needs."""

    settings: Settings
    registry: Registry
    images: ImageIndex
    layers: Layers
    cache: PageCache
    omero_web: OmeroWeb | None
    omero_rois: OmeroRois | None
    policy: Policy
    omero_access: OmeroAccess | None
    metrics: Metrics


def build_services(
    settings: Settings,
    locations: Sequence[Location],
    tables: Sequence[Location] = (),
    *,
    alone: bool = False,
    metrics: Metrics | None = None,
    registry_uuid: str | None = None,
    engine: Engine | None = None,
    start_build: StartBuild = start_build,
) -> Services:
    """Wire everything, reading nothing from the locations; SettingsError for unusable directories.

    With `alone` there are no images but those at the locations. `metrics` is where all processes count; None:
    in this one alone. With the `registry_uuid` that another process found, PostgreSQL need not answer now.
    `engine` is where layers are traced; None: in this process. Processes for large ones are made by
    `start_build`.
    """
    limits = Limits()
    metrics = metrics or Metrics()
    registry = open_registry(settings.state_dir, settings.registry_url, registry_uuid)
    try:
        settings.catalog_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"ROISERVICE_CATALOG_DIR: {error}") from error
    ids = None if settings.ids is None else read_id_map(settings.ids)
    redis = connect_redis(settings.redis_url, metrics)
    omero_web = _omero_web(settings, metrics, f"roiservice-{registry.uuid}")
    shared = _shared(settings, redis)
    access = _omero_access(settings, registry, omero_web, shared, metrics)
    registered = None if alone else _registered(settings, omero_web, limits)
    images = ImageIndex(
        locations, registry, limits, ids, registered, interval=settings.check_interval, entries=not alone
    )
    keeper = Keeper(settings.catalog_dir, registry, _rules(settings), limits, metrics, engine, start_build)
    return Services(
        settings=settings,
        registry=registry,
        images=images,
        layers=Layers(keeper, registry, limits, settings, TableFiles(tables, images)),
        cache=make_cache(settings.cache_bytes, redis, settings.redis_ttl, settings.redis_max_value, metrics),
        omero_web=omero_web,
        omero_rois=_omero_rois(omero_web, shared),
        policy=PublicPolicy() if access is None else access.policy,
        omero_access=access,
        metrics=metrics,
    )


def _omero_access(
    settings: Settings,
    registry: Registry,
    web: OmeroWeb | None,
    shared: SharedStore,
    metrics: Metrics,
) -> OmeroAccess | None:
    """None where everything is public; SettingsError for keys that are of no use."""
    if settings.auth == "public" or web is None:
        return None
    from roiservice.auth.keys import KeyRing, keys_folder, server_secret
    from roiservice.auth.omero import OmeroPolicy
    from roiservice.auth.readcheck import ReadCheck
    from roiservice.auth.revocation import Revocations
    from roiservice.auth.sessions import DjangoSessions, SessionNames
    from roiservice.auth.tokens import Tokens, issuer_of
    from roiservice.cache.redis import RedisStore

    folder = keys_folder(settings.state_dir)
    keys = KeyRing(folder)
    names = SessionNames(server_secret(folder), settings.omero_web_cookie, web.url)
    tokens = Tokens(keys, issuer_of(registry.uuid))
    # Redis may be away for a while; a file that cannot be read is damaged.
    required = settings.revocation_required or settings.redis_url is None
    revocations = Revocations(shared, required=required)
    sessions_server = connect_redis(settings.sessions_redis_url, metrics, "sessions")
    sessions = None
    if sessions_server is not None:
        store = RedisStore(sessions_server, prefix="")
        sessions = DjangoSessions(store, settings.sessions_prefix, settings.sessions_version)
    policy = OmeroPolicy(ReadCheck(web, names, shared), names, tokens, revocations, sessions)
    return OmeroAccess(policy, keys, tokens, revocations)


def _shared(settings: Settings, redis: RedisServer | None) -> SharedStore:
    """What processes share besides pages: in Redis, else in a file that is made when it is needed."""
    if redis is None:
        return local_store(settings.state_dir)
    from roiservice.cache.redis import RedisStore

    return RedisStore(redis)


def _omero_web(settings: Settings, metrics: Metrics, name: str) -> OmeroWeb | None:
    if settings.omero_web_url is None:
        return None
    from roiservice.omeroweb.client import OmeroWeb

    cookie, timeout = settings.omero_web_cookie, settings.omero_web_timeout
    return OmeroWeb(settings.omero_web_url, cookie, timeout, metrics, name, settings.omero_web_patience)


def _registered(settings: Settings, web: OmeroWeb | None, limits: Limits) -> OmeroImages | None:
    """The images that OMERO names the place of, if there are any places that it may name."""
    if not settings.roots:
        return None
    from roiservice.omeroweb.ngff import OmeroImages
    from roiservice.omeroweb.places import Roots

    roots = Roots(settings.roots)
    return OmeroImages(web, roots, limits) if web is not None and roots else None


def _omero_rois(web: OmeroWeb | None, shared: SharedStore) -> OmeroRois | None:
    if web is None:
        return None
    from roiservice.omeroweb.rois import OmeroRois

    return OmeroRois(web, shared)


def _rules(settings: Settings) -> Rules:
    return Rules(
        outline=Outline(settings.min_area, settings.simplify, settings.smooth),
        max_vertices=settings.max_vertices,
        inline_pixels=settings.inline_pixels,
        inline_vertices=settings.inline_vertices,
        waiters=settings.build_waiters,
        check_interval=settings.check_interval,
        keep_replaced=settings.keep_replaced,
        catalog_bytes=settings.catalog_bytes,
    )
