"""Which layers an image has: the label groups below `labels/`, listed or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from roiservice.errors import NotFound, SourceDamaged, SourceError, SourceRefused
from roiservice.sources.elsewhere import label_elsewhere
from roiservice.sources.groups import Group, is_array, read_group
from roiservice.sources.images import ImageSource
from roiservice.sources.layer import LABEL_IMAGE, LABELS, ROOT_COLLECTION, ROOT_NAME, LayerSource, Listing
from roiservice.sources.limits import Limits
from roiservice.sources.ngff import multiscale_of
from roiservice.sources.objects import has_image_label
from roiservice.sources.paths import clean_path, join
from roiservice.sources.roots import open_store
from roiservice.sources.store import Store, is_metadata
from roiservice.sources.tables.files import is_table_alone
from roiservice.sources.tables.listing import file_layer, find_tables, join_values

_DEPTH = 8  # of groups below labels/ that are searched for unlisted ones


@dataclass
class _Search:
    """A listing in the making."""

    store: Store
    image: ImageSource
    limits: Limits
    layers: dict[str, LayerSource] = field(default_factory=dict)
    problems: dict[str, SourceError] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    visited: int = 0

    @property
    def base(self) -> str:
        return join(self.image.path, LABELS)

    def known(self, path: str) -> bool:
        return path in self.layers or path in self.problems


def find_layers(image: ImageSource, limits: Limits, tables: Sequence[str] = ()) -> Listing:
    """The layers of an image: label groups that `labels` lists, and unlisted ones (0.1 to 0.4: "MAY").

    Also the tables of its store, the files `tables` that were given for it, and its `labels` elsewhere.

    What is wrong with one layer is a problem of the listing and leaves the others usable. The image group
    itself is a layer if it has `image-label`. Raises SourceDamaged only if the store cannot be opened.
    """
    if is_table_alone(image.location):
        return Listing((file_layer(image, image.location),))
    search = _Search(open_store(image.location, limits), image, limits)
    _add_root(search)
    for path in _listed(search):
        _add_listed(search, path)
    _discover(search, search.base, 0)
    found = find_tables(search.store, image, tables)
    search.layers.update({layer.path: layer for layer in found.layers})
    own = _with_elsewhere(search, list(_distinct(search)))
    layers = sorted(own, key=lambda layer: (layer.kind != LABEL_IMAGE, layer.own_store, layer.path))
    joined = join_values(layers, found)
    problems, warnings = (*search.problems.values(), *found.problems), (*search.warnings, *found.warnings)
    return Listing(tuple(joined), problems, warnings)


def layer_named(image: ImageSource, name: str, limits: Limits, tables: Sequence[str] = ()) -> LayerSource:
    """The layer by collection id, or path below `labels/`, or "." (the image group, `image-label` or not).

    Raises the problem of that layer if it has one, else NotFound with the names there are.
    """
    listing = find_layers(image, limits, tables)
    for layer in listing.layers:
        if name == layer.collection:
            return layer
    for layer in listing.layers:
        if name == layer.name:
            return layer
    parts = {join(image.path, LABELS, name), join(image.path, name.replace(":", "/"))}
    for problem in listing.problems:
        if group_of(problem.part) in parts:
            raise problem
    if name in (ROOT_NAME, ROOT_COLLECTION):
        return _root_layer(image, limits)
    known = ", ".join(layer.collection for layer in listing.layers) or "none"
    raise NotFound(f"{image.name} has no layer {name!r}; there are: {known}")


def group_of(part: str) -> str:
    """Path of the group that an error is about, whether it names the group or its metadata file."""
    return part.rpartition("/")[0] if is_metadata(part) else part


def _root_layer(image: ImageSource, limits: Limits) -> LayerSource:
    store = open_store(image.location, limits)
    group = read_group(store, image.path)
    if group is None or multiscale_of(store, group) is None:
        raise SourceDamaged(image.location, image.path, "has no multiscales, so it is no label image")
    return LayerSource(image, image.path, ROOT_COLLECTION, ROOT_NAME)


def _add_root(search: _Search) -> None:
    path = search.image.path
    try:
        group = read_group(search.store, path)
        if group is not None and has_image_label(group) and multiscale_of(search.store, group) is not None:
            search.layers[path] = LayerSource(search.image, path, ROOT_COLLECTION, ROOT_NAME)
    except SourceError as error:
        search.problems[path] = error


def _listed(search: _Search) -> Iterator[str]:
    """Usable entries of the `labels` list; each of the others is a problem."""
    try:
        group = read_group(search.store, search.base)
    except SourceError as error:
        search.problems[search.base] = error
        return
    entries: Any = None
    if group is not None:  # ngio puts the list of 0.5 beside `ome`, not into it
        entries = group.attributes.get("labels", group.raw.get("labels"))
    if group is None or entries is None:
        return
    if not isinstance(entries, list):
        problem = SourceDamaged(search.image.location, group.document, "labels must be a list of paths")
        search.problems[group.document] = problem
        return
    for index, entry in enumerate(entries[: search.limits.layers]):
        path = clean_path(entry)
        if path is not None:
            yield path
        else:
            reason = f"labels[{index}] ({_shown(entry)}) is not a path below the group"
            problem = SourceDamaged(search.image.location, group.document, reason)
            search.problems[f"{group.document}[{index}]"] = problem
    if len(entries) > search.limits.layers:
        _too_many(search)


def _shown(entry: object) -> str:
    text = repr(entry)
    return text if len(text) <= 60 else text[:57] + "..."


def _add_listed(search: _Search, name: str) -> None:
    path = join(search.base, name)
    if search.known(path):
        return
    try:
        group = read_group(search.store, path)
        if group is None and is_array(search.store, path):
            raise SourceDamaged(search.image.location, path, "is an array, not a group with multiscales")
        if group is None:
            search.warnings.append(f"{search.base}: lists {name!r}, but there is no such group")
        elif not _add(search, group):
            raise _no_multiscales(search, path)
    except SourceError as error:
        search.problems[path] = error


def _discover(search: _Search, path: str, depth: int) -> bool:
    """Add label groups below `path`; whether there was any, sound or not."""
    found = False
    try:
        children = search.store.children(path)
    except SourceError as error:
        search.problems.setdefault(path, error)
        return True
    for child in children:
        if search.visited > 10 * search.limits.layers or len(search.layers) >= search.limits.layers:
            _too_many(search)
            return True
        search.visited += 1
        found = _discover_group(search, join(path, child), depth) or found
    return found


def _discover_group(search: _Search, path: str, depth: int) -> bool:
    """Groups between `labels/` and a nested label have no metadata of their own, nor need they exist."""
    if search.known(path):
        return True
    try:
        group = read_group(search.store, path)
        if group is not None and _add(search, group):
            return True
        if is_array(search.store, path):
            return False
    except SourceError as error:
        search.problems[path] = error
        return True
    if depth < _DEPTH and _discover(search, path, depth + 1):
        return True
    if group is None:
        return False
    search.problems[path] = _no_multiscales(search, path)
    return True


def _add(search: _Search, group: Group) -> bool:
    """Add the group as a layer if it has multiscales; whether it has."""
    if multiscale_of(search.store, group) is None:
        return False
    name = group.path[len(search.base) + 1 :]
    collection = f"{LABELS}:{name.replace('/', ':')}"
    search.layers[group.path] = LayerSource(search.image, group.path, collection, name)
    return True


def _with_elsewhere(search: _Search, layers: list[LayerSource]) -> list[LayerSource]:
    """The layers and those of the image's `labels` that are not among them."""
    known = {join(layer.location, layer.path) for layer in layers}
    taken = {layer.collection for layer in layers}
    for place in search.image.labels:
        if join(*place) in known:
            continue
        try:
            layer = label_elsewhere(search.image, place, search.limits)
            if layer.collection in taken:
                reason = f"would get the same id {layer.collection!r} as another layer"
                raise SourceRefused(place[0], place[1], reason)
        except SourceError as error:
            search.problems[join(*place)] = error
            continue
        taken.add(layer.collection)
        layers.append(layer)
    return layers


def _no_multiscales(search: _Search, path: str) -> SourceDamaged:
    return SourceDamaged(search.image.location, path, "has no multiscales, so it is no label image")


def _too_many(search: _Search) -> None:
    reason = f"has more than {search.limits.layers} layers or too many groups; the rest is left out"
    search.problems["too many"] = SourceRefused(search.image.location, search.base, reason)


def _distinct(search: _Search) -> Iterator[LayerSource]:
    """The layers without those whose id (`a:b` for `a/b` or `a:b`) another one already has."""
    taken: dict[str, str] = {}
    for path, layer in sorted(search.layers.items()):
        first = taken.setdefault(layer.collection, path)
        if first == path:
            yield layer
        else:
            reason = f"would get the same id {layer.collection!r} as {first}"
            search.problems[path] = SourceRefused(search.image.location, path, reason)
