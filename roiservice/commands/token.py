"""`roiservice token`: a token for scripts, made by whoever may read the keys; OMERO is not asked."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import click

from roiservice.auth.claims import ACCESS, TICKET
from roiservice.auth.keys import KeyRing, keys_folder
from roiservice.auth.tokens import Owner, Tokens, issuer_of
from roiservice.catalog.registry import open_registry
from roiservice.errors import BadParameter
from roiservice.settings import load_settings


def token(images: Sequence[int], ticket: str | None, lifetime: int | None) -> None:
    """Write an access token for the images, or a link ticket for one image and the path `ticket`."""
    settings = load_settings()
    keys = KeyRing(keys_folder(settings.state_dir))
    keys.check()
    tokens = Tokens(keys, issuer_of(open_registry(settings.state_dir, settings.registry_url).uuid))
    owner = Owner("script", secrets.token_hex(8))
    if ticket is None:
        made = tokens.access_token(owner, images, lifetime or ACCESS.lifetime)
    elif len(images) != 1:
        raise BadParameter("--image", "a ticket is for one image")
    else:
        made = tokens.ticket(owner, images[0], ticket, lifetime or TICKET.lifetime)
    click.echo(made.text)
