"""`roiservice keys`: the keys that sign tokens."""

from __future__ import annotations

import time

import click

from roiservice.auth.keys import PUBLISHED, KeyRing, SigningKey, keys_folder, signer_of, signs_from
from roiservice.settings import load_settings


def list_keys() -> None:
    """One line per key: its id, when it was made, and what it does."""
    ring = open_keys()
    keys = ring.all_keys()
    now = time.time()
    signer = signer_of(keys, now)
    for key in keys:
        does = "verifies"
        if key is signer:
            does = "signs"
        elif isinstance(key, SigningKey) and signs_from(key) > now:
            does = f"signs from {_time(signs_from(key))}"
        click.echo(f"{key.id}  {_time(key.made)}  {does}")


def new_key() -> None:
    """Make a key, and say when it signs."""
    ring = open_keys()
    key = ring.new()
    alone = ring.signer().id == key.id
    click.echo(f"{key.id}  signs {'now' if alone else f'in {PUBLISHED // 60} minutes'}")


def retire(key_id: str | None) -> None:
    """Delete a key; without an id, those that have signed nothing that is still valid."""
    ring = KeyRing(keys_folder(load_settings().state_dir))  # whatever lies beside the key that has to go
    for each in [key.id for key in ring.outlived()] if key_id is None else [key_id]:
        ring.retire(each)
        click.echo(f"{each}  retired")


def open_keys() -> KeyRing:
    """The keys of the service whose state directory the settings name; SettingsError if one is of no use."""
    ring = KeyRing(keys_folder(load_settings().state_dir))
    ring.check()
    return ring


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
