"""`roiservice images`: what a location holds, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from roiservice.bootstrap import Services, build_services
from roiservice.commands.console import check_given, complain
from roiservice.errors import SourceError
from roiservice.images import Image, Location
from roiservice.layers import Layer
from roiservice.settings import load_settings
from roiservice.sources.planes import LabelLayer
from roiservice.sources.tables.layers import TableLayer

IMAGES = 1000  # at a time


def images(
    locations: Sequence[Location], tables: Sequence[Location], *, as_json: bool, overrides: Mapping[str, Any]
) -> int:
    """List everything; 1 if anything has a problem, else 0."""
    settings = load_settings(overrides)
    check_given(locations, settings)
    services = build_services(settings, locations, tables)
    described = [describe(services, image) for image in _all(services)]
    problems = [str(problem) for problem in services.images.problems]
    warnings = services.images.warnings
    if as_json:
        click.echo(json.dumps({"images": described, "problems": problems, "warnings": warnings}, indent=1))
    else:
        _show(described)
        for warning in [
            *warnings,
            *(f"{image['name']}: {text}" for image in described for text in image["warnings"]),
        ]:
            complain(f"warning: {warning}")
        for problem in [*problems, *(text for image in described for text in image["problems"])]:
            complain(problem)
    return 1 if problems or any(image["problems"] for image in described) else 0


def describe(services: Services, image: Image) -> dict[str, Any]:
    """An image with its layers as plain values; `size` counts pixels per axis, null without a sound layer."""
    layers: list[dict[str, Any]] = []
    size = None
    problems: list[str] = []
    warnings: list[str] = []
    try:
        listing = services.layers.of(image)
        problems += map(str, listing.problems)
        warnings += listing.warnings
        for layer in listing.layers:
            try:
                opened = services.layers.opened(layer)
            except SourceError as error:
                problems.append(str(error))
                continue
            layers.append(_layer(layer, opened))
            warnings += opened.warnings
            if size is None and opened.image_size is not None:
                size = dict(zip("tczyx", opened.image_size, strict=True))
    except SourceError as error:
        problems.append(str(error))
    return {
        "id": image.id,
        "name": image.name,
        "location": image.source.location,
        "path": image.source.path,
        "well": image.source.well,
        "field": image.source.field,
        "size": size,
        "layers": layers,
        "problems": problems,
        "warnings": warnings,
    }


def _layer(layer: Layer, opened: LabelLayer | TableLayer) -> dict[str, Any]:
    common = {
        "name": layer.name,
        "collection": layer.collection,
        "kind": layer.source.kind,
        "hidden": layer.source.hidden,
    }
    if isinstance(opened, TableLayer):
        return common
    return {
        **common,
        "dtype": str(opened.dtype),
        "height": opened.height,
        "width": opened.width,
        "planes": len(opened.planes),
    }


def _all(services: Services) -> Iterator[Image]:
    for offset in range(0, services.images.total(), IMAGES):
        yield from services.images.page(offset, IMAGES)


def _show(described: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("id", "image", "layer", "planes", "height x width", "type", box=None, pad_edge=False)
    for image in described:
        first = (str(image["id"]), image["name"])
        for layer in image["layers"] or [None]:
            cells = (*first, *(_cells(layer) if layer else ("none", "", "", "")))
            table.add_row(*map(Text, cells))
            first = ("", "")
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)  # whole lines for other programs
    console.print(table)


def _cells(layer: dict[str, Any]) -> tuple[str, ...]:
    if "planes" not in layer:
        return layer["name"], "", "", layer["kind"]
    return layer["name"], str(layer["planes"]), f"{layer['height']} x {layer['width']}", layer["dtype"]
