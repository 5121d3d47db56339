"""The Flask application."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import BaseConverter, Rule, ValidationError

from roiservice.bootstrap import Services
from roiservice.query.select import Span
from roiservice.web import problems
from roiservice.web.beside import refuse_own_requests
from roiservice.web.cors import add_cors_headers
from roiservice.web.measure import count_requests
from roiservice.web.responses import add_common_headers
from roiservice.web.routes import builds, images, items, iviewer, omero, overview, service, tokens, webgateway

LARGEST_BODY = 2**16  # bytes; requests for tokens are the only ones that have any
WSGIApp = Callable[[dict[str, Any], Any], Iterable[bytes]]


class IdConverter(BaseConverter):
    """An id: digits only, as OMERO's own patterns take them, and never above 2**53 - 1."""

    regex = "[0-9]{1,16}"

    def to_python(self, value: str) -> int:
        """The number; ValidationError, which becomes 404, beyond the largest."""
        number = int(value)
        if number >= 2**53:
            raise ValidationError
        return number


class IndicesConverter(BaseConverter):
    """An index or an inclusive range of indices, such as 3 or 2-5.

    OMERO.iviewer 0.19 writes the plane in view where a projection starts at plane 0. Where that plane lies
    behind the end of the range, as in 5-2, it shows: the range meant is 0-2.
    """

    regex = "[0-9]{1,9}(?:-[0-9]{1,9})?"

    def to_python(self, value: str) -> Span:
        """The range as (first, last)."""
        first, _, last = value.partition("-")
        end = int(last or first)
        return (int(first) if int(first) <= end else 0), end


class Route(Rule):
    """A path that requests come by. None is made of it: code that does so is not compiled for each.

    That would take half as long as all else that an application is made of.
    """

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:  # noqa: ARG002
        def refuse(*_: Any, **__: Any) -> tuple[str, str]:
            raise NotImplementedError(f"URLs of {self.rule} are not made by werkzeug")

        return refuse


def create_app(services: Services) -> Flask:
    """The application over these services; nothing is opened or built until it is asked for."""
    app = Flask("roiservice.web", static_folder=None)
    app.url_rule_class = Route
    app.extensions["roiservice"] = services
    app.url_map.strict_slashes = (
        False  # OMERO takes paths with and without a final slash, and OWSLib adds one
    )
    app.url_map.converters.update(id=IdConverter, indices=IndicesConverter)
    for module in (service, images, items, builds, overview, omero, iviewer, webgateway, tokens):
        app.register_blueprint(module.blueprint)
    problems.register(app)
    count_requests(app, services.metrics)
    app.before_request(refuse_own_requests)
    app.after_request(add_common_headers)
    app.after_request(add_cors_headers)
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY
    if services.settings.script_name:
        mounted = _below(services.settings.script_name, app.wsgi_app)
        app.wsgi_app = mounted  # type: ignore[method-assign,assignment] # Flask's documented way to wrap itself
    hops = services.settings.forwarded_hops
    if hops:
        app.wsgi_app = ProxyFix(app.wsgi_app, hops, hops, hops, hops, hops)  # type: ignore[method-assign]
    return app


def _below(prefix: str, app: WSGIApp) -> WSGIApp:
    """Mount below a prefix, whether the proxy in front takes it off the path or leaves it there."""

    def mounted(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        environ["SCRIPT_NAME"] = prefix
        if path == prefix or path.startswith(f"{prefix}/"):
            environ["PATH_INFO"] = path[len(prefix) :] or "/"
        return app(environ, start_response)

    return mounted
