"""All settings, in one frozen value: command line over environment over defaults."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from roiservice.errors import SettingsError
from roiservice.records import dataclass

PREFIX = "ROISERVICE_"
REDIS_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)


def _under(variable: str, fallback: str) -> Path:
    base = os.environ.get(variable) or str(Path.home() / fallback)
    return Path(base) / "roiservice"


# The table of settings in the README is held to these by a test.
def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    """Every setting; the environment variable of `name` is `ROISERVICE_NAME`."""

    catalog_dir: Path = field(
        default_factory=lambda: _under("XDG_CACHE_HOME", ".cache"),
        metadata={"help": "where catalogs are kept (disposable)"},
    )
    state_dir: Path = field(
        default_factory=lambda: _under("XDG_STATE_HOME", ".local/state"),
        metadata={"help": "where the registry of lasting ids is kept (keep it)"},
    )
    registry_url: str | None = field(
        default=None,
        repr=False,
        metadata={
            "help": "PostgreSQL that keeps the registry instead, for several machines, such as "
            "postgresql://user:password@host/database"
        },
    )
    catalog_bytes: int | None = _setting(
        None, "most bytes of all catalogs on disk; those that were used longest ago make room"
    )
    redis_url: str | None = _setting(
        None, "Redis for pages shared between workers, such as redis://127.0.0.1:6379/0"
    )
    redis_ttl: int = _setting(86_400, "seconds that a page stays in Redis")
    redis_max_value: int = _setting(8 * 2**20, "largest page, in bytes, that is put into Redis")
    cache_bytes: int = _setting(64 * 2**20, "bytes of pages that each worker keeps in memory")
    page_limit: int = _setting(200, "ROIs or features on a page that asks for no limit")
    page_limit_max: int = _setting(500, "most ROIs on a page of OMERO's and the viewer's paths")
    items_limit_max: int = _setting(10_000, "most features on a page of our own paths")
    shapes_per_page: int = _setting(
        5_000, "shapes on a page beyond which ROIs carry those of the planes asked for alone"
    )
    check_interval: float = _setting(60.0, "seconds after which a layer's source is looked at again")
    inline_pixels: int = _setting(2**26, "most pixels of a layer that is built inside a request")
    inline_vertices: int = _setting(2**24, "most outline vertices of a layer that is built inside a request")
    max_vertices: int = _setting(2**31, "most outline vertices of one plane; more is refused")
    build_waiters: int = _setting(
        4, "requests of one worker that wait for builds; others get 503 after two seconds"
    )
    build_on_post: bool = _setting(False, "whoever can read an image may have its layers built, by a POST")
    keep_replaced: float = _setting(600.0, "seconds that a replaced catalog version stays on disk")
    min_area: float = _setting(0.0, "features below this area, in image pixels, are left out")
    simplify: float = _setting(0.0, "tolerance in layer pixels to simplify outlines by; 0 keeps them exact")
    smooth: bool = _setting(False, "sub-pixel contours instead of pixel edges")
    root_labels: bool = _setting(False, "take images that have no labels of their own for label images")
    ids: Path | None = field(
        default=None, metadata={"help": "CSV or YAML file of ids of images and their paths"}
    )
    layers: Path | None = field(
        default=None,
        metadata={
            "help": "TOML file that says of layers what an object is, their names, and which are hidden"
        },
    )
    auth: str = _setting(
        "public",
        "who may read: public (all who reach the service) or omero (who can in OMERO, or has a token)",
    )
    revocation_required: bool = _setting(
        False, "tokens are refused while Redis does not say whether they were revoked"
    )
    sessions_redis_url: str | None = _setting(
        None, "Redis in which OMERO.web keeps its sessions, so that a logout counts at once"
    )
    sessions_prefix: str = _setting("", "KEY_PREFIX of OMERO.web's cache of sessions")
    sessions_version: int = _setting(1, "VERSION of OMERO.web's cache of sessions")
    cors_origins: str = _setting(
        "",
        "web origins that may read answers in browsers, such as https://a.example, with commas between them",
    )
    omero_web_url: str | None = _setting(
        None, "the OMERO.web beside the service, such as http://127.0.0.1:4080; its ROIs come first in lists"
    )
    omero_web_cookie: str = _setting("sessionid", "name of OMERO.web's session cookie")
    omero_web_timeout: float = _setting(
        5.0, "seconds that OMERO.web is waited for where there is an answer without it"
    )
    omero_web_patience: float = _setting(
        25.0, "seconds that OMERO.web is waited for where nobody else has the answer, as for unknown images"
    )
    pass_unknown: bool = _setting(
        True,
        "images that are not known here are asked of OMERO.web; else they are 404, for a proxy to pass on",
    )
    roots: str = _setting(
        "",
        "folders and URLs, separated by commas or line ends, below which stores that OMERO names may be read",
    )
    masks: bool = _setting(False, "OMERO's and the viewer's lists of ROIs have masks instead of polygons")
    script_name: str = _setting("", "path prefix under which the service is mounted, such as /rois")
    forwarded_hops: int = _setting(0, "reverse proxies whose X-Forwarded-* headers are believed")

    def __post_init__(self) -> None:
        for name, lowest in _LOWEST.items():
            value = getattr(self, name)
            if value is not None and not lowest <= value < math.inf:
                raise SettingsError(f"{PREFIX}{name.upper()}: must be a number of at least {lowest}")
        if self.page_limit > self.page_limit_max:
            raise SettingsError(f"{PREFIX}PAGE_LIMIT: must not exceed {PREFIX}PAGE_LIMIT_MAX")
        if self.smooth and self.simplify:
            raise SettingsError(f"{PREFIX}SMOOTH: cannot be combined with {PREFIX}SIMPLIFY")
        if self.script_name and (not self.script_name.startswith("/") or self.script_name.endswith("/")):
            raise SettingsError(f"{PREFIX}SCRIPT_NAME: must start with / and not end with it")
        for name in ("redis_url", "sessions_redis_url"):
            if getattr(self, name) is not None:
                _check_redis_url(getattr(self, name), name.upper())
        if self.registry_url is not None:
            _check_registry_url(self.registry_url)
        self._check_access()

    def _check_access(self) -> None:
        """SettingsError where what is said of OMERO.web, tokens and browsers cannot be used."""
        if self.omero_web_url is not None:
            _check_web_url(self.omero_web_url)
        if not _COOKIE_NAME.fullmatch(self.omero_web_cookie):
            raise SettingsError(f"{PREFIX}OMERO_WEB_COOKIE: is no name of a cookie")
        if self.auth not in ("public", "omero"):
            raise SettingsError(f"{PREFIX}AUTH: is public or omero, not {self.auth!r}")
        if self.auth == "omero" and self.omero_web_url is None:
            raise SettingsError(f"{PREFIX}AUTH: omero needs {PREFIX}OMERO_WEB_URL")
        if self.revocation_required and self.redis_url is None:
            raise SettingsError(f"{PREFIX}REVOCATION_REQUIRED: needs {PREFIX}REDIS_URL")
        for origin in self.allowed_origins:
            _check_origin(origin)

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins of `cors_origins`."""
        return tuple(each.strip() for each in self.cors_origins.split(",") if each.strip())


_LOWEST = {
    "catalog_bytes": 1,
    "redis_ttl": 1,
    "redis_max_value": 0,
    "cache_bytes": 0,
    "page_limit": 1,
    "items_limit_max": 1,
    "shapes_per_page": 1,
    "check_interval": 0,
    "inline_pixels": 0,
    "inline_vertices": 0,
    "max_vertices": 4,
    "build_waiters": 1,
    "keep_replaced": 0,
    "min_area": 0,
    "simplify": 0,
    "forwarded_hops": 0,
    "omero_web_timeout": 0.1,
    "omero_web_patience": 0.1,
    "sessions_version": 0,
}
_WANTED = {"Path": "a path", "bool": "yes or no", "int": "a whole number", "float": "a number"}
_COOKIE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}", re.ASCII)


def load_settings(
    overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Settings from `overrides` (None values count as not given), then `environ` (os.environ), then defaults.

    Raises SettingsError naming the variable for unknown `ROISERVICE_` names and for values that do not parse.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    known = {item.name: item.type for item in fields(Settings)}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in known:
            raise SettingsError(f"{variable}: there is no such setting")
        values[name] = _parse(variable, str(known[name]), text)
    values.update({name: value for name, value in (overrides or {}).items() if value is not None})
    return Settings(**values)


def _parse(variable: str, kind: str, text: str) -> Any:
    try:
        if kind == "Path":
            return _path(text)
        if kind == "Path | None":
            return _path(text) if text else None
        if kind == "bool":
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}[
                text.lower()
            ]
        if kind in ("int", "int | None"):
            return int(text) if text or kind == "int" else None
        if kind == "float":
            value = float(text)
            if value != value or value in (float("inf"), float("-inf")):
                raise ValueError(text)
            return value
    except (ValueError, KeyError):
        raise SettingsError(f"{variable}: {text!r} is not {_WANTED[kind.removesuffix(' | None')]}") from None
    return text or None if "None" in kind else text


def _path(text: str) -> Path:
    if not text:
        raise ValueError("empty, which would be the current directory")
    return Path(text).expanduser().absolute()


def _check_redis_url(url: str, name: str) -> None:
    if urlsplit(url).scheme not in REDIS_SCHEMES:
        schemes = ", ".join(f"{scheme}://" for scheme in REDIS_SCHEMES)
        raise SettingsError(f"{PREFIX}{name}: must start with one of {schemes}")


def _check_registry_url(url: str) -> None:
    """SettingsError, which quotes nothing of it, where parts of a password could be taken for others."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("postgresql", "postgresql+psycopg") and (parts.port or 1)
    except ValueError:
        usable = False
    if not usable or parts.netloc.count("@") > 1 or parts.fragment or not parts.path.strip("/"):
        form = "postgresql://user:password@host:port/database"
        raise SettingsError(
            f"{PREFIX}REGISTRY_URL: must be like {form}; special characters are percent-encoded"
        )


def _check_origin(origin: str) -> None:
    parts = urlsplit(origin)
    if (
        parts.scheme not in ("http", "https")
        or origin != f"{parts.scheme}://{parts.netloc}"
        or not parts.netloc
    ):
        raise SettingsError(f"{PREFIX}CORS_ORIGINS: {origin!r} is no origin such as https://a.example")


def _check_web_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or parts.username:
        raise SettingsError(f"{PREFIX}OMERO_WEB_URL: must be like http://host:4080 or https://host/prefix")
