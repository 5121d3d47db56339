"""What a process does that builds one large layer: `python -m roiservice.catalog.process`, or one forked."""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

from roiservice.catalog.elsewhere import TRY_AGAIN
from roiservice.catalog.keeper import Keeper
from roiservice.catalog.registry import registry_again
from roiservice.catalog.task import from_json
from roiservice.errors import Building, RegistryFailed, RoiServiceError


def build_task(plain: dict[str, Any]) -> int:
    """Build the layer of a `Task` that went through JSON; gives what the process is to end with.

    0 when it is there, 1 when it failed, TRY_AGAIN when others must say so: the registry, or another builder.
    """
    task = from_json(plain)
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


if __name__ == "__main__":
    sys.exit(build_task(json.load(sys.stdin)))
