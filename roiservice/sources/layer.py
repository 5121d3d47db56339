"""What a layer is, before it is opened."""

from __future__ import annotations

import os
from functools import cached_property

from roiservice.errors import SourceError
from roiservice.records import dataclass
from roiservice.sources.images import ImageSource
from roiservice.sources.paths import join
from roiservice.sources.remote.urls import file_name, is_url

LABELS = "labels"
ROOT_NAME = "."
ROOT_COLLECTION = "root"

# What a layer is read from. All but label images are tables.
LABEL_IMAGE = "label image"
SPATIALDATA = "SpatialData element"
BOXES = "table of boxes"  # roi_table and masking_roi_table of ngio and Fractal
OME_XML = "OME-XML"
TABLE_FILE = "table file"

# What one object of a label image is.
BY_LABEL = "label"  # all pixels of one label, on all planes
BY_COMPONENT = "component"  # every connected part of a label on a plane
BY_TIME = "per-t"  # all pixels of one label at one time
OBJECTS = (BY_LABEL, BY_COMPONENT, BY_TIME)


@dataclass(frozen=True)
class ValueSource:
    """A table of values of labels: a group of the store, or a file of its own.

    `path` is the group's path, or the absolute location of the file; `region` the name of the element whose
    rows count, where a table is about several.
    """

    kind: str
    path: str
    region: str = ""


@dataclass(frozen=True)
class LayerSource:
    """Where a layer lies.

    `path` is its group inside the store (a table file: its absolute location), `collection` the path below
    the image's group with `/` as `:` (`labels:original:0`; the image group itself: `root`), `name` what
    users call it: a label image by its path below `labels/` (the image group itself: `.`). `values` are
    tables whose columns become properties of its objects; `objects` says what one object is. A `hidden`
    layer is not among the ROIs of its image in OMERO's and the viewer's lists. `title` is shown for its
    name, `text` names the property that OMERO shows as a shape's text, and `measures` are those of
    `roiservice.vectorize.regions` that are wanted of a label image. `own_store` is the store of a label image
    that lies outside its image's.
    """

    image: ImageSource
    path: str
    collection: str
    name: str
    kind: str = LABEL_IMAGE
    values: tuple[ValueSource, ...] = ()
    objects: str = BY_LABEL
    hidden: bool = False
    title: str = ""
    text: str = ""
    measures: tuple[str, ...] = ()
    own_store: str = ""

    @property
    def location(self) -> str:
        """The store that `path` is in."""
        return self.own_store or self.image.location

    @cached_property
    def asked(self) -> str:
        """What is asked of its catalog beyond the source: catalogs of equal sources differ by it."""
        values = [(each.kind, each.path, each.region) for each in self.values]
        return repr((self.objects, self.shown_name, self.text, self.measures, values))

    @property
    def shown_name(self) -> str:
        """What users see as its name; the image group itself has no path below `labels/` to be named by."""
        return self.title or (self.image.name if self.name == ROOT_NAME else self.name)


@dataclass(frozen=True)
class Listing:
    """Layers that can be opened, by path; what is wrong with others; what was passed over."""

    layers: tuple[LayerSource, ...]
    problems: tuple[SourceError, ...] = ()
    warnings: tuple[str, ...] = ()


def place_of(location: str, path: str) -> str:
    """Where a layer or table of values lies: at `path` in the store, or the file whose location `path` is."""
    if not (is_url(path) or os.path.isabs(path)):
        return join(location, path)
    folder, _, name = path.rpartition("/")
    return join(folder or "/", file_name(path) if is_url(path) else name)  # as errors name it
