"""`roiservice revoke`: tokens taken back by whoever may write where the service keeps its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from roiservice.auth.local import local_store
from roiservice.auth.revocation import Revocations
from roiservice.auth.shared import SharedStore
from roiservice.cache import connect_redis
from roiservice.errors import BadParameter
from roiservice.settings import load_settings


def revoke(values: Mapping[str, Sequence[str | int]]) -> None:
    """Revoke by claim: `jti`, `sid`, `sub`, `img`. Raises BadParameter, Unavailable if it cannot be kept."""
    if not any(values.values()):
        raise BadParameter("--jti, --sid, --sub, --image", "say what is taken back")
    settings = load_settings()
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    redis = connect_redis(settings.redis_url)
    store: SharedStore = local_store(settings.state_dir)
    if redis is not None:
        from roiservice.cache.redis import RedisStore

        store = RedisStore(redis)
    revocations = Revocations(store)
    for kind, some in values.items():
        for value in some:
            revocations.revoke(kind, value)
            click.echo(f"{kind} {value}  revoked")
