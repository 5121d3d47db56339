"""Label images that were said to belong to an image, wherever they lie: by a file of ids, or by OMERO."""

from __future__ import annotations

from collections.abc import Callable

from roiservice.errors import SourceDamaged, SourceError
from roiservice.sources.groups import read_group
from roiservice.sources.images import ImageSource, store_name
from roiservice.sources.layer import LABELS, ROOT_COLLECTION, ROOT_NAME, LayerSource
from roiservice.sources.limits import Limits
from roiservice.sources.ngff import has_multiscales, multiscale_of
from roiservice.sources.paths import join
from roiservice.sources.roots import absolute, open_store


def label_place(
    location: str, limits: Limits, usable: Callable[[str], bool] | None = None
) -> tuple[str, str]:
    """(store, path inside) of the label image at `location`, a path or URL.

    The store is that of the image above `labels/` if there is one, so that the label image is related to it;
    `usable` says whether that may be opened. Else the label image is a store of its own.
    """
    place = absolute(location)
    above, found, name = place.rpartition(f"/{LABELS}/")
    if found and above and (usable is None or usable(above)):
        try:
            group = read_group(open_store(above, limits), "")
        except SourceError:
            group = None
        if group is not None and has_multiscales(group):
            return above, join(LABELS, name)
    return place, ""


def label_elsewhere(image: ImageSource, place: tuple[str, str], limits: Limits) -> LayerSource:
    """The layer of an image that one of its `labels` is. SourceError naming the place if it is none."""
    location, path = place
    store = open_store(location, limits)
    group = read_group(store, path)
    if group is None or multiscale_of(store, group) is None:
        raise SourceDamaged(location, path, "has no multiscales, so it is no label image")
    if join(*place) == join(image.location, image.path):
        return LayerSource(image, image.path, ROOT_COLLECTION, ROOT_NAME)
    name = path.removeprefix(f"{LABELS}/") or store_name(location)
    collection = f"{LABELS}:{name.replace('/', ':')}"
    inside = join(*place).removeprefix(f"{image.location}/")
    if inside != join(*place):
        return LayerSource(image, inside, collection, name)
    return LayerSource(image, path, collection, name, own_store=location)
