"""The only place that wires the parts of the service together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from roiservice.auth.local import local_store
from roiservice.auth.policy import Policy, PublicPolicy
from roiservice.cache import PageCache, connect_redis, make_cache
from roiservice.catalog.elsewhere import StartBuild, start_build
from roiservice.catalog.keeper import Keeper
from roiservice.catalog.registry import Registry, open_registry
from roiservice.catalog.task import Rules
from roiservice.errors import SettingsError
from roiservice.images import ImageIndex, Location
from roiservice.layers import Layers, TableFiles
from roiservice.metrics import Metrics
from roiservice.records import dataclass
from roiservice.settings import Settings
from roiservice.sources.idmap import read_id_map
from roiservice.sources.limits import Limits
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
