"""`roiservice serve`: the service, and the URLs to begin with."""

from __future__ import annotations

import contextlib
import gc
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import click

from roiservice.bootstrap import Services, build_services
from roiservice.catalog.forks import ForkServer
from roiservice.commands.console import check_given, complain, waiting
from roiservice.commands.interrupt import compiled_code
from roiservice.errors import SourceError
from roiservice.images import Location
from roiservice.layers import Layer
from roiservice.memory import keep_memory_small
from roiservice.metrics import Metrics
from roiservice.server import Server, address_of, listen
from roiservice.settings import Settings, load_settings
from roiservice.sources.remote.circuit import leave_out_hosts
from roiservice.warmed import is_warm
from roiservice.web import create_app

SHOWN_PROBLEMS = 10
LOOKED_AT = 20  # images among which one with a layer is looked for, to be shown as an example


def serve(
    locations: Sequence[Location],
    tables: Sequence[Location],
    host: str,
    port: int,
    *,
    public_address: bool,
    workers: int,
    overrides: Mapping[str, Any],
) -> None:
    """Serve until told to stop; raises before that if settings, address or locations cannot be used."""
    settings = load_settings(overrides)
    check_given(locations, settings, by_omero=True)
    guarded = public_address or settings.auth != "public"
    serve_on(listen(host, port, public_address=guarded), locations, settings, workers, tables)


def serve_on(
    listener: socket.socket,
    locations: Sequence[Location],
    settings: Settings,
    workers: int,
    tables: Sequence[Location] = (),
) -> None:
    """Serve on a socket that listens already."""
    gc.freeze()  # what was imported is not to be looked at below
    keep_memory_small()
    uuid = prepare(build_services(settings, locations, tables), address_of(listener) + settings.script_name)
    gc.collect()  # lets go of what must not be carried into other processes
    gc.freeze()  # what is there by now is never garbage: unless it is looked at, workers share its memory
    forks = ForkServer(not_theirs=[listener], begin=_prepare_to_build)
    metrics = Metrics(2 * workers)  # for a while there are two of a worker that is replaced

    def make_app() -> Any:
        metrics.claim()
        leave_out_hosts()
        # A worker that is replaced while the registry is away serves what it can.
        services = build_services(
            settings, locations, tables, metrics=metrics, registry_uuid=uuid, start_build=forks.start
        )
        return create_app(services)

    Server(make_app, listener, workers).run()


def _prepare_to_build() -> None:
    """What the process begins with that others are forked from, to build layers."""
    import numcodecs  # noqa: F401 - decodes chunks

    import roiservice.commands.loaded  # noqa: F401


def prepare(services: Services, base: str) -> str:
    """Find the images, compile, and say where to look first; what is wrong goes to standard error.

    What is compiled here is there for all processes to come. Nothing stays open: `services` ends with this.
    The UUID of the registry is what comes of it.
    """
    if services.omero_access is not None:
        services.omero_access.keys.check()
    services.layers.tidy()
    images = services.images
    total = images.total()
    if not is_warm():
        from roiservice.warm import warm_up

        with waiting("Compiling; the first start takes up to a minute"), compiled_code():
            warm_up()
    for problem in images.problems[:SHOWN_PROBLEMS]:
        complain(problem)
    for warning in images.warnings:
        complain(f"warning: {warning}")
    more = ", and those that are found by their ids" if images.is_open else ""
    click.echo(f"{total} image{'' if total == 1 else 's'} to serve{more}. Open one of these; Ctrl-C ends.\n")
    urls = {
        "/": "what is here",
        "/docs": "the API, with all parameters",
        **_examples(example_layer(services)),
    }
    width = max(len(base + path) for path in urls)
    for path, text in urls.items():
        click.echo(f"  {base + path:<{width}}  {text}")
    click.echo()
    services.registry.close()
    return services.registry.uuid


def example_layer(services: Services) -> Layer | None:
    """Some layer that can be opened, of the first image that has one."""
    for image in services.images.page(0, LOOKED_AT):
        with contextlib.suppress(SourceError):  # the service says so to who asks for that image
            for layer in services.layers.of(image).layers:
                services.layers.opened(layer)
                return layer
    return None


def _examples(layer: Layer | None) -> dict[str, str]:
    if layer is None:
        return {}
    image = layer.image
    return {
        f"/images/{image.id}/collections/{layer.collection}/items": f"GeoJSON of {image.name}, {layer.name}",
        f"/api/v0/m/rois/?image={image.id}": "the same image as OMERO.web would give it",
    }
