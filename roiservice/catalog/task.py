"""What is to be built, and how: all that another process needs, and its way there as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

from roiservice.records import dataclass
from roiservice.sources.images import ImageSource
from roiservice.sources.layer import LayerSource, ValueSource
from roiservice.sources.limits import Limits
from roiservice.vectorize.outlines import Outline


@dataclass(frozen=True)
class LayerKey:
    """A layer as the registry numbers it, and where its bytes are."""

    number: int
    source: LayerSource


@dataclass(frozen=True)
class Rules:
    """What decides how and where catalogs are built; meanings as in `roiservice.settings`.

    `catalog_bytes` is how many all catalogs may take; None: any number.
    """

    outline: Outline
    max_vertices: int
    inline_pixels: int
    inline_vertices: int
    waiters: int
    check_interval: float
    keep_replaced: float
    catalog_bytes: int | None = None


@dataclass(frozen=True)
class Task:
    """All that another process needs to build one layer, as the registry `registry_uuid` numbers it."""

    layer: LayerKey
    catalogs: Path
    state: Path
    registry_uuid: str
    rules: Rules
    limits: Limits
    registry_url: str | None = field(default=None, repr=False)


def as_json(task: Task) -> bytes:
    """What `roiservice.catalog.process` reads."""
    return json.dumps(asdict(task), default=str).encode()


def from_json(plain: dict[str, Any]) -> Task:
    """The task that `as_json` gave, parsed."""
    source = plain["layer"]["source"]
    values = tuple(ValueSource(**each) for each in source["values"])
    measures = tuple(source["measures"])
    labels = tuple((store, path) for store, path in source["image"]["labels"])
    image = ImageSource(**{**source["image"], "labels": labels})
    layer = LayerSource(**{**source, "image": image, "values": values, "measures": measures})
    rules = Rules(**{**plain["rules"], "outline": Outline(**plain["rules"]["outline"])})
    key = LayerKey(plain["layer"]["number"], layer)
    limits = Limits(**plain["limits"])
    places = Path(plain["catalogs"]), Path(plain["state"])
    return Task(key, *places, plain["registry_uuid"], rules, limits, plain["registry_url"])
