"""Arguments and options that several commands have, and how their values are read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

LONGEST_ID = 18

Span = tuple[int, int]


def locations_of(
    _context: click.Context, _parameter: click.Parameter, values: Sequence[str]
) -> list[tuple[int | None, str]]:
    """(None or the image id, path) of each `PATH` or `ID=PATH`."""
    matches = [(value, re.fullmatch("([0-9]+)=(.+)", value, re.DOTALL)) for value in values]
    for value, match in matches:
        if match and len(match[1]) > LONGEST_ID:
            raise click.BadParameter(f"{value[:20]}...: image ids have at most {LONGEST_ID} digits")
    return [(int(match[1]), match[2]) if match else (None, value) for value, match in matches]


def span_of(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Span | None:
    """(first, last) of `N` or `A-B`, both ends included."""
    if value is None:
        return None
    match = re.fullmatch("([0-9]{1,9})(?:-([0-9]{1,9}))?", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is neither an index such as 3 nor a range such as 2-5")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise click.BadParameter(f"{value!r} ends before it begins")
    return first, last


locations = click.argument("locations", metavar="[ID=]PATH...", nargs=-1, callback=locations_of)


def outline_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of commands that may have to trace outlines; None where not given."""
    for option in (
        click.option(
            "--smooth", is_flag=True, default=None, help="Sub-pixel contours instead of pixel edges."
        ),
        click.option(
            "--simplify",
            metavar="TOLERANCE",
            type=click.FloatRange(min=0),
            help="Simplify outlines by this many pixels; borders of neighbours stay shared.",
        ),
        click.option(
            "--min-area",
            metavar="PIXELS",
            type=click.FloatRange(min=0),
            help="Leave out features that are smaller.",
        ),
    ):
        command = option(command)
    return command


def table_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Table files that are layers beside those of the stores, and what is said of layers."""
    for option in (
        click.option(
            "--layers",
            metavar="FILE",
            type=click.Path(dir_okay=False, path_type=Path),
            help="TOML file that says what an object of a layer is, its name, and whether it is hidden.",
        ),
        click.option(
            "--table",
            "tables",
            metavar="[ID=]PATH",
            multiple=True,
            callback=locations_of,
            help="Table of shapes, or of values of labels, of the image ID: GeoJSON, CSV, Parquet, "
            "FlatGeobuf, OME-XML. Without ID: of the only image. May be repeated.",
        ),
    ):
        command = option(command)
    return command


ids_option = click.option(
    "--ids",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="CSV or YAML file of paths and ids that gives images their ids, and names further images.",
)

root_labels_option = click.option(
    "--root-labels",
    is_flag=True,
    default=None,
    help="Take images that have no labels of their own for label images.",
)


def address_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where a server listens, and with how many processes."""
    for option in (
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            default=min(4, os.cpu_count() or 1),
            show_default="one per core, 4 at most",
            help="Processes that answer requests.",
        ),
        click.option(
            "--public-address",
            is_flag=True,
            help="Allow a --host that other machines reach. There is no access control.",
        ),
        click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    ):
        command = option(command)
    return command
