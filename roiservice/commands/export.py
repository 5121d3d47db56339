"""`roiservice export`: the ROIs of one image as a file."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from roiservice.bootstrap import Services, build_services
from roiservice.catalog.reader import Catalog
from roiservice.commands.build import build_layers, complain_of
from roiservice.commands.console import complain
from roiservice.commands.interrupt import Step, compiled_code, unfinished
from roiservice.encode.formats import FORMATS, Format
from roiservice.encode.geoparquet import write_geoparquet
from roiservice.errors import BadParameter, NotFound, NotWritten
from roiservice.geometry.features import Features
from roiservice.images import Image, Location
from roiservice.layers import Layer
from roiservice.query.columns import read_features
from roiservice.query.pages import feature_page, roi_count, roi_page
from roiservice.query.select import RoiQuery
from roiservice.settings import load_settings

FEATURES = 4096  # encoded at a time
ROIS = 256  # encoded at a time by formats that want all features of a ROI together
NAMED_IMAGES = 5


def export(
    path: str,
    tables: Sequence[Location],
    format_name: str,
    *,
    layer: str | None,
    z: tuple[int, int] | None,
    t: tuple[int, int] | None,
    output: Path | None,
    overrides: Mapping[str, Any],
) -> int:
    """Write one layer or all; 1 if a layer could not be written (the sound ones are), else 0."""
    services = build_services(load_settings(overrides), [(None, path)], tables, alone=True)
    if output is not None:
        output = _writable(output)
    layers, failures = _chosen(services, _only_image(services, path), layer)
    catalogs, errors = build_layers(services, layers)
    if catalogs:
        with _written(output) as file, compiled_code() as step:
            query = RoiQuery(z=z, t=t)
            if format_name == "parquet":
                write_geoparquet(file, _all_features(catalogs, query, step))
            else:
                _write(file, FORMATS[format_name], catalogs, query, step)
        if not any(roi_count(catalog, RoiQuery(z=z, t=t)) for catalog in catalogs):
            complain(f"warning: {path} has no objects" + (" there" if z or t else ""))
    return 1 if failures + errors else 0


def _only_image(services: Services, path: str) -> Image:
    problems = services.images.problems
    if problems and not services.images.total():
        raise problems[0]
    images = services.images.page(0, NAMED_IMAGES)
    if services.images.total() != 1:
        names = ", ".join(image.name for image in images)
        more = ", ..." if services.images.total() > len(images) else ""
        reason = f"{path} holds {services.images.total()} images ({names}{more}); name one of them"
        raise BadParameter("PATH", reason)
    return images[0]


def _chosen(services: Services, image: Image, name: str | None) -> tuple[Sequence[Layer], int]:
    """The layers to write, and how many others cannot be used."""
    if name is not None:
        return [services.layers.chosen(image, name)], 0
    listing = services.layers.of(image)
    complain_of(image, listing)
    if not listing.layers and not listing.problems:
        raise NotFound(f"{image.name} has no label images; --layer . takes the image itself for one")
    return listing.layers, len(listing.problems)


def _all_features(catalogs: Sequence[Catalog], query: RoiQuery, step: Step) -> list[Iterator[Features]]:
    return [_batches(catalog, query, FORMATS["geojson"], step) for catalog in catalogs]


def _write(file: IO[bytes], form: Format, catalogs: Sequence[Catalog], query: RoiQuery, step: Step) -> None:
    """The whole file, in batches; columns of the objects' own properties are those of all layers."""
    names = tuple(dict.fromkeys(name for catalog in catalogs for name in catalog.properties))
    file.write(form.begin(names))
    separator = b""
    for catalog in catalogs:
        for features in _batches(catalog, query, form, step):
            encoded = form.encode(_with_columns(features, names))
            if encoded:
                file.write(separator)
                file.write(form.separator.join(encoded))
                separator = form.separator
    file.write(form.end)


def _with_columns(features: Features, names: tuple[str, ...]) -> Features:
    """The features with a column of each name, in that order."""
    if names == tuple(features.properties):
        return features
    missing = pa.nulls(len(features), pa.string())
    return replace(features, properties={name: features.properties.get(name, missing) for name in names})


def _batches(catalog: Catalog, query: RoiQuery, form: Format, step: Step) -> Iterator[Features]:
    size = ROIS if form.by_roi else FEATURES
    offset, matched = 0, 1
    while offset < matched:
        step()
        # No budget of shapes: ROIs come with the features of the planes asked for, not with those of others.
        page = (
            roi_page(catalog, query, offset, size, max_shapes=0)
            if form.by_roi
            else feature_page(catalog, query, offset, size)
        )
        yield read_features(catalog, page.rows)
        offset, matched = offset + size, page.matched


def _writable(output: Path) -> Path:
    """The file that `output` means, links followed; looked at before any work is done."""
    output = Path(os.path.realpath(output))
    if output.is_symlink():
        raise BadParameter("--output", f"{output} is a symbolic link that leads back to itself")
    if output.is_dir():
        raise BadParameter("--output", f"{output} is a folder")
    if not output.parent.is_dir():
        raise BadParameter("--output", f"there is no folder {output.parent}")
    return output


@contextmanager
def _written(output: Path | None) -> Iterator[IO[bytes]]:
    """As `_opened`; NotWritten names the file, unless a reader of standard output went away."""
    try:
        with _opened(output) as file:
            yield file
    except BrokenPipeError:
        raise
    except OSError as error:
        raise NotWritten(f"{output or 'standard output'}: {error.strerror}") from error


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[bytes]]:
    """Standard output, or a file that appears under its name only when it is complete."""
    if output is None:
        if sys.stdout is None:
            raise BadParameter("--output", "standard output is closed; name a file")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    elif output.exists() and not output.is_file():
        with output.open("wb") as file:  # a device or a pipe has no half-written state to hide
            yield file
    else:
        with _replacing(output) as file:
            yield file


@contextmanager
def _replacing(output: Path) -> Iterator[IO[bytes]]:
    handle, name = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
    unfinished.add(Path(name))
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        os.replace(name, output)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    finally:
        unfinished.discard(Path(name))


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
