"""SpatialData stores (containers 0.1 and 0.2): their elements, and how these lie in the pixels of a raster.

Below the root lie `images/<name>` and `labels/<name>` (multiscales), `shapes/<name>` and `points/<name>`.
Each element states how its own coordinates lead to one or more named coordinate systems.

A raster's own coordinates are pixels of its level 0, the corner of pixel (0, 0) at (0, 0): spatialdata 0.7
gives pixel centres the coordinates 0.5, 1.5, ... and maps corners when it transforms and measures extents.
It takes level 0 for the unit and reads no scale of `datasets`; nor does this module. (Polygons that its
`to_polygons` makes of labels are half a pixel too far up and left in these coordinates; they are served as
they are.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from roiservice.errors import SourceDamaged, SourceError, SourceRefused, SourceUnread
from roiservice.geometry.frames import Frame
from roiservice.records import dataclass
from roiservice.sources.arrays import array_document
from roiservice.sources.groups import Group, read_group
from roiservice.sources.ngff import has_multiscales, multiscale_of
from roiservice.sources.paths import join
from roiservice.sources.store import Store
from roiservice.sources.tables.affine import Affine, Placement, placements_of
from roiservice.sources.transforms import is_plain

SHAPES = "shapes"
POINTS = "points"
_RASTERS = ("images", "labels")
_TABLES = "tables"
_METADATA = ("zarr.json", ".zgroup", ".zattrs")
_USUAL_SYSTEM = "global"


@dataclass(frozen=True)
class Element:
    """A shapes or points element: `kind` is SHAPES or POINTS, `path` its group inside the store."""

    name: str
    path: str
    kind: str


def is_spatialdata(group: Group) -> bool:
    """Whether the group says that it is the root of a SpatialData store; elements have that key as well."""
    is_element = has_multiscales(group) or "encoding-type" in group.raw
    return "spatialdata_attrs" in group.raw and not is_element


def is_root(store: Store, group: Group) -> bool:
    """Whether the group is the root of a SpatialData store, even if it does not say so.

    Before container 0.1 (until the end of 2024) roots had no attributes; then their elements tell. Raises
    SourceError if the metadata of one of these are damaged.
    """
    if group.raw:
        return is_spatialdata(group)
    unread = None
    for folder in (*_RASTERS, SHAPES, POINTS, _TABLES):
        for name in _members(store, group.path, folder):
            try:
                member = read_group(store, join(group.path, folder, name))
            except SourceUnread as error:  # the next one may tell
                unread = error
                continue
            if member is not None and _is_element(member):
                return True
            break
    if unread is not None:
        raise unread
    return False


def _is_element(group: Group) -> bool:
    if "spatialdata_attrs" in group.raw or "spatialdata-encoding-type" in group.raw:
        return True
    if str(group.raw.get("encoding-type")).startswith("ngff:"):
        return True
    multiscales = group.attributes.get("multiscales")
    first = multiscales[0] if isinstance(multiscales, list) and multiscales else None
    items = first.get("coordinateTransformations") if isinstance(first, dict) else None
    return isinstance(items, list) and not all(map(is_plain, items))


def find_elements(store: Store, root_path: str) -> tuple[Element, ...]:
    """Shapes, then points elements below a SpatialData root, by name; whether they are sound is not checked.

    SourceRefused above the limit of layers.
    """
    found = tuple(
        Element(name, join(root_path, kind, name), kind)
        for kind in (SHAPES, POINTS)
        for name in _members(store, root_path, kind)
    )
    if len(found) > store.limits.layers:
        reason = f"has {len(found)} shapes and points elements; {store.limits.layers} are allowed"
        raise SourceRefused(store.location, root_path, reason)
    return found


def reference_raster(store: Store, root_path: str) -> str | None:
    """Path of the raster whose pixels are the store's image: the first image by name, else the first labels.

    None if there is no raster. Raises SourceError if the metadata of one that comes first are damaged.
    """
    for folder in _RASTERS:
        for name in _members(store, root_path, folder):
            path = join(root_path, folder, name)
            group = read_group(store, path)
            if group is not None and has_multiscales(group):
                return path
    return None


def raster_documents(store: Store, path: str) -> Iterator[str]:
    """Files that a raster's place and size depend on, whether or not they exist."""
    yield from (join(path, name) for name in _METADATA)
    try:
        group = read_group(store, path)
        multiscale = None if group is None else multiscale_of(store, group)
    except SourceError:
        return
    if group is not None and multiscale is not None:
        yield array_document(join(path, multiscale.levels[0].path), group.zarr_format)


def element_affine(store: Store, element: Element, raster_path: str) -> Affine:
    """From an element's coordinates to the level-0 pixels of a raster, through a system that both have.

    That is "global" if they share it, else the first of the element's that the raster has too. SourceRefused
    naming both lists if there is none, SourceDamaged if the metadata of either cannot be used.
    """
    own, raster = _shared(store, element.path, raster_path)
    affine = own.xy.relative_to(raster.xy)
    if affine.is_singular:
        raise SourceRefused(store.location, element.path, f"its scale against {raster_path} is out of range")
    return affine


def raster_frame(store: Store, path: str, reference_path: str, planes: tuple[int, int]) -> Frame:
    """Frame of a raster's pixels in those of another one; `planes` are the sizes of both along z.

    SourceRefused if they share no system, if one is turned, sheared or mirrored against the other, or if
    planes of the first do not each lie on the plane of the same index of the other.
    """
    own, reference = _shared(store, path, reference_path)
    frame = own.xy.relative_to(reference.xy).frame()
    if frame is None:
        reason = f"is turned, sheared or mirrored against {reference_path}, or too much scaled"
        raise SourceRefused(store.location, path, reason)
    if planes[0] > 1 and not (planes[0] == planes[1] and _same_planes(own, reference)):
        raise SourceRefused(store.location, path, f"its planes are not those of {reference_path}")
    return frame


def _same_planes(first: Placement, second: Placement) -> bool:
    if first.z is None or second.z is None:
        return first.z is second.z
    return all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) for a, b in zip(first.z, second.z, strict=True))


def _shared(store: Store, path: str, raster_path: str) -> tuple[Placement, Placement]:
    """Placements of an element and a raster in the system that relates them."""
    own, problems = _placements(store, path)
    raster, more_problems = _placements(store, raster_path)
    for name in sorted(own, key=lambda name: name != _USUAL_SYSTEM):
        if name in raster:
            return own[name], raster[name]
    reason = f"has the coordinate systems {_listed(own)}, but {raster_path} has {_listed(raster)}"
    faults = [f"{path}: {text}" for text in problems] + [f"{raster_path}: {text}" for text in more_problems]
    raise SourceRefused(store.location, path, "; ".join([reason, *faults[:4]]))


def _listed(placements: dict[str, Placement]) -> str:
    shown = [repr(name) for name in list(placements)[:10]] + ["..."] * (len(placements) > 10)
    return ", ".join(shown) or "none that can be used"


def _placements(store: Store, path: str) -> tuple[dict[str, Placement], tuple[str, ...]]:
    group = read_group(store, path)
    if group is None:
        raise SourceDamaged(store.location, path, "there is no such group")
    multiscale = multiscale_of(store, group)
    if multiscale is None:
        axes = _names_of(group.raw.get("axes")) or ("x", "y")
        return placements_of(group.raw.get("coordinateTransformations", []), axes)
    items = group.attributes["multiscales"][0].get("coordinateTransformations", [])
    if isinstance(items, list):
        items = [item for item in items if not is_plain(item)]
    return placements_of(items, multiscale.axes or ())


def _names_of(axes: Any) -> tuple[str, ...]:
    is_list = isinstance(axes, list) and all(isinstance(axis, str) for axis in axes)
    return tuple(dict.fromkeys(axes)) if is_list else ()


def _members(store: Store, root_path: str, folder: str) -> list[str]:
    """Names of the groups directly below a folder of the root, sorted."""
    base = join(root_path, folder)
    return [name for name in store.children(base) if _is_group(store, join(base, name))]


def _is_group(store: Store, path: str) -> bool:
    """Whether there is a group; also where that cannot be looked at, which who opens it is told."""
    try:
        return any(store.file_exists(join(path, document)) for document in _METADATA)
    except SourceError:
        return True
