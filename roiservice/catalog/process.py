"""What a process does that builds one large layer: `python -m roiservice.catalog.process`, or one forked."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from roiservice.catalog.elsewhere import TRY_AGAIN, LayerKey, Rules, Task
from roiservice.catalog.keeper import Keeper
from roiservice.catalog.registry import registry_again
from roiservice.errors import Building, RegistryFailed, RoiServiceError
from roiservice.sources.images import ImageSource
from roiservice.sources.layer import LayerSource, ValueSource
from roiservice.sources.limits import Limits
from roiservice.vectorize.outlines import Outline


def build_task(plain: dict[str, Any]) -> int:
    """Build the layer of a `Task` that went through JSON; gives what the process is to end with.

    0 when it is there, 1 when it failed, TRY_AGAIN when others must say so: the registry, or another builder.
    """
    task = _task(plain)
    os.nice(5)
    try:
        registry = registry_again(task.state, task.registry_url, task.registry_uuid)
        Keeper(task.catalogs, registry, task.rules, task.limits).build(task.layer)
    except (Building, RegistryFailed):
        return TRY_AGAIN
    except RoiServiceError:
        return 1  # nobody waits for this process: the keeper has left word for who asks next
    except Exception:  # noqa: BLE001 - as above
        traceback.print_exc()
        return 1
    return 0


def _task(plain: dict[str, Any]) -> Task:
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


if __name__ == "__main__":
    sys.exit(build_task(json.load(sys.stdin)))
