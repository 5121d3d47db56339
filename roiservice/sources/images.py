"""Which images lie at a location: one store, a plate, a series, or a folder of such."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from roiservice.errors import BadParameter, SourceDamaged, SourceError, SourceRefused
from roiservice.records import dataclass
from roiservice.sources.groups import Group, read_group
from roiservice.sources.limits import Limits
from roiservice.sources.ngff import has_multiscales
from roiservice.sources.objects import has_image_label
from roiservice.sources.paths import clean_path, is_inside, join
from roiservice.sources.remote.urls import file_name, is_url
from roiservice.sources.roots import absolute, open_store
from roiservice.sources.store import GROUP_DOCUMENTS, ZIP_SUFFIXES, Store
from roiservice.sources.tables.files import is_table_alone, stem
from roiservice.sources.tables.spatialdata import is_root

_SUFFIX = re.compile(r"((\.ome)?\.zarr)?(\.zip|\.ozx)?$", re.IGNORECASE)
# Larger numbers are time stamps and the like; numbers from 10^14 upward are given by the service itself.
IMAGE_ID = re.compile(r"[1-9][0-9]{0,13}")
_WELLS_AT_ONCE = 32


@dataclass(frozen=True)
class ImageSource:
    """Where an image lies.

    `location` is its store's absolute path or URL, `path` its group inside ("" = root), `name` what a user
    calls it (`name`, `plate/A/1/0`, `name/0`). `given_id` is the number given by the user, else the store's
    file name if that is a number and the store holds one image; else None. A field of a plate has the path of
    its `well` below the plate (`A/1`) and its own path below that as `field` (`0`); other images have None.
    `labels` are label images that were said to belong to it wherever they lie: (store, path inside).
    """

    location: str
    path: str
    name: str
    given_id: int | None
    well: str | None = None
    field: str | None = None
    labels: tuple[tuple[str, str], ...] = ()


ImageOrError = ImageSource | SourceError


def find_images(location: str | Path, given_id: int | None, limits: Limits) -> Iterator[ImageOrError]:
    """Images at `location`, lazily, by name; members that cannot be read come as errors among them.

    `location`: a store (image, label image, plate, bioformats2raw series, SpatialData), a folder of stores,
    at any depth, or the URL of either; over http(s), folders of stores cannot be listed. A table file is
    taken for an image that has this table alone. While iterating it raises BadParameter if `given_id` is to
    number more than one image, and SourceDamaged if there is nothing to be found.
    """
    found = _bounded(_found(location, limits), str(location), limits)
    first = list(islice(found, 1))
    if not first:
        raise SourceDamaged(absolute(location), "", "holds no OME-Zarr image")
    if given_id is not None:
        first += islice(found, 1)
        if len(first) > 1:
            raise BadParameter("ID=PATH", f"{location} holds more than one image; give each its own id")
        if isinstance(first[0], ImageSource):
            first = [replace(first[0], given_id=given_id)]
    yield from first
    yield from found


def only_image(location: str, limits: Limits, path: str = "") -> ImageSource:
    """The image that one store holds, or the one at `path` in it. A folder of stores is not searched.

    Raises SourceDamaged if there is none, SourceRefused if the store holds several.
    """
    place, name = absolute(location), store_name(location)
    if is_table_alone(place) and not os.path.isdir(place):
        return ImageSource(place, "", stem(name), None)
    store = open_store(place, limits)
    if path:
        return _image_at(store, path, name)
    found = list(islice(_in_store(store, name), 2))
    if not found:
        raise SourceDamaged(place, "", "holds no OME-Zarr image")
    if len(found) > 1:
        raise SourceRefused(place, "", "holds more than one image; a file of ids can say which is meant")
    if isinstance(found[0], SourceError):
        raise found[0]
    return found[0]


def store_name(location: str) -> str:
    """What a user calls the store: the last part of its path or URL without the suffix of stores."""
    return _shown(file_name(location) if is_url(location) else os.path.basename(os.path.abspath(location)))


def _shown(file_name: str) -> str:
    """A store's file name without its suffix; what in it is no Unicode is `?`, as no answer could hold it."""
    return _SUFFIX.sub("", file_name).encode(errors="replace").decode()


def _image_at(store: Store, path: str, name: str) -> ImageSource:
    group = read_group(store, path)
    if group is None or not _is_image(store, group):
        raise SourceDamaged(store.location, path, "is no OME-Zarr image")
    well_path, _, field = path.rpartition("/")
    well = read_group(store, well_path) if well_path else None
    if well is None or "well" not in well.attributes:
        return ImageSource(store.location, path, f"{name}/{path}", None)
    return ImageSource(store.location, path, f"{name}/{path}", None, well_path, field)


def _bounded(found: Iterator[ImageOrError], location: str, limits: Limits) -> Iterator[ImageOrError]:
    for count, image in enumerate(found):
        if count >= limits.images:
            yield SourceRefused(absolute(location), "", f"holds more than {limits.images} images")
            return
        yield image


def _found(location: str | Path, limits: Limits) -> Iterator[ImageOrError]:
    path = absolute(location)
    if is_table_alone(path) and not os.path.isdir(path):
        shown = stem(str(location))
        number = int(shown) if IMAGE_ID.fullmatch(shown) else None
        yield ImageSource(path, "", shown, number)
        return
    if is_url(path):
        yield from _at_url(path, limits)
        return
    if not os.path.isdir(path) or _is_store(path):
        # The name is that of the path as given: a link `7.zarr` names an image as well as a folder does.
        shown = os.path.basename(os.path.abspath(os.path.expanduser(location)))
        yield from _numbered(open_store(path, limits), shown)
        return
    yield from _in_folder(path, path, {path}, limits)


def _at_url(url: str, limits: Limits) -> Iterator[ImageOrError]:
    from roiservice.sources.remote.folders import stores_below

    store = open_store(url, limits)
    if url.lower().endswith(ZIP_SUFFIXES) or any(map(store.file_exists, GROUP_DOCUMENTS)):
        yield from _numbered(store, file_name(url))
        return
    for found in stores_below(store):
        if isinstance(found, SourceError):
            yield found
        else:
            yield from _member(found, file_name(found), limits)


def _in_folder(folder: str, top: str, seen: set[str], limits: Limits) -> Iterator[ImageOrError]:
    """All images of all stores below `folder`. `seen` are the folders and stores already visited."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        yield SourceDamaged(folder, "", f"cannot be read: {error.strerror}")
        return
    for name in names:
        path = os.path.join(folder, name)
        is_folder = os.path.isdir(path)
        if not (is_folder or path.lower().endswith(ZIP_SUFFIXES)):
            continue
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        if not is_inside(path, top):
            yield SourceRefused(path, "", f"a symbolic link leads out of {top}")
        elif is_folder and not _is_store(path):
            yield from _in_folder(path, top, seen, limits)
        else:
            yield from _member(real, name, limits)


def _member(path: str, name: str, limits: Limits) -> Iterator[ImageOrError]:
    """Images of one store of a folder; its errors are given, not raised."""
    try:
        yield from _numbered(open_store(path, limits), name)
    except SourceError as error:
        yield error


def _is_store(path: str) -> bool:
    return any(os.path.isfile(os.path.join(path, name)) for name in GROUP_DOCUMENTS)


def _numbered(store: Store, file_name: str) -> Iterator[ImageOrError]:
    """Images of one store, with the number that is its file name if it holds just one."""
    images = _in_store(store, _shown(file_name))
    first = list(islice(images, 2))
    number = _number_in(file_name, store.location)
    if len(first) == 1 and number is not None and isinstance(first[0], ImageSource):
        first = [replace(first[0], given_id=number)]
    yield from first
    yield from images


def _number_in(file_name: str, location: str) -> int | None:
    """Number of a store called `6001240.zarr`; None for a group inside another one, whatever its name."""
    stem = _SUFFIX.sub("", file_name)
    if stem == file_name or not IMAGE_ID.fullmatch(stem) or _is_inner(location):
        return None
    return int(stem)


def _is_inner(location: str) -> bool:
    """Whether a store lies inside another one; a URL must tell by its spelling."""
    if is_url(location):
        above = location.split("/")[3:-1]  # without scheme and host
        return any(_SUFFIX.sub("", segment) != segment for segment in above)
    return _is_store(os.path.dirname(location))


def _in_store(store: Store, name: str) -> Iterator[ImageOrError]:
    group = read_group(store, "")
    if group is not None:
        yield from _in_group(store, group, name)
    elif store.location.lower().endswith(ZIP_SUFFIXES):
        # RFC-9 wants the hierarchy at the root of the zip; a zipped folder has it one level below.
        for child in store.children(""):
            group = read_group(store, child)
            if group is not None:
                yield from _in_group(store, group, name)


def _in_group(store: Store, group: Group, name: str) -> Iterator[ImageOrError]:
    if "plate" in group.attributes:
        yield from _in_plate(store, group, name)
    elif "bioformats2raw.layout" in group.attributes:
        yield from _in_series(store, group, name)
    elif _is_image(store, group):
        yield ImageSource(store.location, group.path, name, None)


def _is_image(store: Store, group: Group) -> bool:
    """Whether it can have layers: an image, a label, or a SpatialData root (labels without an image)."""
    if has_multiscales(group) or has_image_label(group):
        return True
    # Where nothing can be listed, the group may be there nevertheless.
    if "labels" in store.children(group.path) or read_group(store, join(group.path, "labels")) is not None:
        return True
    return is_root(store, group)


def _in_plate(store: Store, group: Group, name: str) -> Iterator[ImageOrError]:
    """Fields of all wells. Absent wells and fields are normal: plates list what was planned."""
    wells = _paths(store, group, "plate", "wells")
    paths = sorted(path for path in wells if isinstance(path, str))
    for start in range(0, len(paths), _WELLS_AT_ONCE):
        some = paths[start : start + _WELLS_AT_ONCE]
        fields: dict[str, tuple[str, str]] = {}
        for well_path, well in zip(some, _groups(store, group, some), strict=True):
            for field in _fields(store, well):
                if isinstance(field, SourceError):
                    yield field
                else:
                    fields[join(well_path, field)] = (well_path, field)
        for image in _members(store, group, fields, name):
            if isinstance(image, ImageSource):
                own_well, own_field = fields[image.name.removeprefix(f"{name}/")]
                image = replace(image, well=own_well, field=own_field)
            yield image
    yield from (path for path in wells if isinstance(path, SourceError))


def _fields(store: Store, well: Group | SourceError | None) -> list[str | SourceError]:
    """Paths of a well's fields; errors in place of unusable ones."""
    if not isinstance(well, Group):
        return [] if well is None else [well]
    try:
        return _paths(store, well, "well", "images")
    except SourceError as error:
        return [error]


def _in_series(store: Store, group: Group, name: str) -> Iterator[ImageOrError]:
    """Images of a bioformats2raw layout: those that `OME` lists as `series`, else all that are numbers."""
    listed: Any = None
    overview = _group_or_error(store, join(group.path, "OME"))
    if isinstance(overview, Group):
        listed = overview.attributes.get("series")
    if isinstance(listed, list):
        paths = [path for item in listed if (path := clean_path(item)) is not None]
    else:
        paths = [child for child in store.children(group.path) if re.fullmatch("[0-9]+", child)]
    yield from _members(store, group, paths, name)


def _members(store: Store, group: Group, paths: Iterable[str], name: str) -> Iterator[ImageOrError]:
    """Images at `paths` below `group`, by path."""
    some = sorted(set(paths))
    for path, member in zip(some, _groups(store, group, some), strict=True):
        if isinstance(member, SourceError):
            yield member
        elif member is not None and _is_image(store, member):
            yield ImageSource(store.location, member.path, f"{name}/{path}", None)


def _groups(store: Store, above: Group, paths: list[str]) -> Iterable[Group | SourceError | None]:
    """The groups at `paths` below another one, as `_group_or_error`; read at once where that helps."""
    full = [join(above.path, path) for path in paths]
    if store.reads_at_once == 1:
        return (_group_or_error(store, path) for path in full)
    with ThreadPoolExecutor(store.reads_at_once) as threads:
        return list(threads.map(lambda path: _group_or_error(store, path), full))


def _group_or_error(store: Store, path: str) -> Group | SourceError | None:
    try:
        return read_group(store, path)
    except SourceError as error:
        return error


def _paths(store: Store, group: Group, key: str, list_key: str) -> list[str | SourceError]:
    """The unique `path`s in `key.list_key` of a plate or well; errors in place of unusable ones."""
    stated = group.attributes.get(key)
    items = stated.get(list_key) if isinstance(stated, dict) else None
    if not isinstance(items, list):
        raise SourceDamaged(store.location, group.document, f"{key}.{list_key} must be a list")
    paths: dict[str, None] = {}
    errors: list[str | SourceError] = []
    for index, item in enumerate(items):
        path = clean_path(item.get("path")) if isinstance(item, dict) else None
        if path is None:
            reason = f"{key}.{list_key}[{index}].path must be a path below the group"
            errors.append(SourceDamaged(store.location, group.document, reason))
        else:
            paths[path] = None
    return [*paths, *errors]
