"""`roiservice build`: catalogs of all layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from roiservice.bootstrap import Layer, Location, Services, build_services
from roiservice.catalog.reader import Catalog
from roiservice.commands.console import check_given, complain, progress
from roiservice.commands.interrupt import compiled_code
from roiservice.errors import RoiServiceError
from roiservice.settings import load_settings
from roiservice.sources.limits import Limits
from roiservice.sources.opened import open_source

IMAGES = 1000  # at a time


def build(
    locations: Sequence[Location], tables: Sequence[Location], *, force: bool, overrides: Mapping[str, Any]
) -> int:
    """Build every layer there is; 1 if an image or a layer could not be built, else 0."""
    settings = load_settings(overrides)
    check_given(locations, settings)
    services = build_services(settings, locations, tables)
    failures = 0
    for warning in services.images.warnings:
        complain(f"warning: {warning}")
    for offset in range(0, services.images.total(), IMAGES):
        for image in services.images.page(offset, IMAGES):
            try:
                listing = services.layers.of(image)
            except RoiServiceError as error:
                complain(error)
                failures += 1
                continue
            for problem in listing.problems:
                complain(problem)
            catalogs, errors = build_layers(services, listing.layers, force=force)
            for catalog in catalogs:
                counts = catalog.meta["counts"]
                click.echo(
                    f"{image.name} {catalog.name}: {counts['rois']} ROIs, {counts['features']} features"
                )
            failures += len(listing.problems) + errors
    for unusable in services.images.problems:
        complain(unusable)
        failures += 1
    return 1 if failures else 0


def build_layers(
    services: Services, layers: Sequence[Layer], *, force: bool = False
) -> tuple[list[Catalog], int]:
    """Catalogs of the layers that can be built, and how many others were complained about."""
    catalogs = []
    errors = 0
    for layer in layers:
        try:
            catalog = _built(services, layer, force=force)
            for warning in [*catalog.meta["warnings"], *_refused(catalog)]:
                complain(f"{layer.image.name} {layer.name}: warning: {warning}")
            catalogs.append(catalog)
        except RoiServiceError as error:
            complain(error)
            errors += 1
    return catalogs, errors


def _refused(catalog: Catalog) -> list[str]:
    """Rows of a table that could not be used, in one line with the first reason."""
    refused = catalog.meta.get("refused", {"rows": 0})
    if not refused["rows"]:
        return []
    rows = "1 row" if refused["rows"] == 1 else f"{refused['rows']} rows"
    return [f"{rows} refused: {refused['reasons'][0]}" + (", ..." if refused["rows"] > 1 else "")]


def _built(services: Services, layer: Layer, *, force: bool) -> Catalog:
    pixels = open_source(layer.source, Limits()).pixels
    with progress(f"{layer.image.name} {layer.name}", pixels) as advance, compiled_code() as step:

        def advance_a_step(more: int, features: int) -> None:
            step()
            advance(more, features)

        return services.layers.build(layer, force=force, progress=advance_a_step)
