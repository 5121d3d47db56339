"""Tokens for clients other than OMERO's viewer: made for what their owner may read, and taken back."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
from flask import Blueprint, Response, request

from roiservice.auth.claims import ACCESS, LONGEST_PATH, TICKET, checked_images
from roiservice.auth.policy import Caller, Trust
from roiservice.bootstrap import OmeroAccess
from roiservice.errors import (
    BadParameter,
    InsufficientScope,
    NotFound,
    TokenInvalid,
)
from roiservice.web.access import NOBODYS_IMAGE, check_same_host, identity
from roiservice.web.responses import JSON
from roiservice.web.routes import services

blueprint = Blueprint("tokens", __name__)
_NOT_KEPT = {"Cache-Control": "no-store"}
_KEYS_KEPT = {"Cache-Control": "public, max-age=300"}


@blueprint.post("/tokens")
def tokens() -> Response:
    """An access token for some images, for whoever comes with a session that may read them all."""
    access = _omero()
    document = _body({"images", "lifetime"})
    who = identity()
    if who.caller is Caller.TOKEN:  # a stolen token must not be able to renew itself
        raise InsufficientScope
    owner = access.policy.owner(who)
    images = document.get("images")
    if not isinstance(images, list) or not images or any(type(each) is not int for each in images):
        raise BadParameter("images", "is a list of image ids, such as [7, 8]")
    made = access.tokens.access_token(owner, _allowed(access, images), _lifetime(document, ACCESS.lifetime))
    return _answer(
        {"token": made.text, "token_type": "Bearer", "expires_in": made.lifetime, "id": made.token_id},
        _NOT_KEPT,
    )


@blueprint.post("/tickets")
def tickets() -> Response:
    """A link ticket for what lies below one path of one image, for clients that cannot send headers.

    One that is made with a token ends with that token at the latest, and is taken back with it.
    """
    access = _omero()
    document = _body({"image", "path", "lifetime"})
    who = identity()
    owner = access.policy.owner(who)
    image, path = document.get("image"), document.get("path")
    if type(image) is not int:
        raise BadParameter("image", "is the id of an image")
    if not isinstance(path, str) or len(path) > LONGEST_PATH:
        raise BadParameter("path", f"is a path of at most {LONGEST_PATH} characters, such as /images/7/")
    (allowed,) = _allowed(access, [image])
    lifetime = _lifetime(document, TICKET.lifetime)
    made = access.tokens.ticket(owner, allowed, path, lifetime, who.claims)
    if who.claims is not None:
        # After it was made: what is taken back from now on has a mark that is not older than the ticket.
        access.revocations.check(who.claims, allowed, anew=True)
    return _answer({"ticket": made.text, "expires_in": made.lifetime, "id": made.token_id}, _NOT_KEPT)


@blueprint.post("/revoke")
def revoke() -> Response:
    """Take back one token of the caller's session, or all of them."""
    access = _omero()
    document = _body({"token"})
    who = identity()
    owner = access.policy.owner(who)
    if who.claims is None:  # nobody may fill the store in the name of made-up sessions
        with suppress(NotFound):
            access.policy.require(who, NOBODYS_IMAGE, Trust.NOTHING)
    token = document.get("token")
    if token is None:
        access.revocations.revoke("sid", owner.session)
    else:
        access.revocations.revoke("jti", _own(access, token, owner.session))
    return Response(status=204, headers=_NOT_KEPT)


@blueprint.get("/.well-known/jwks.json")
def keys() -> Response:
    """The public keys that tokens are verified with (RFC 7517)."""
    access = _omero()
    return _answer(access.keys.jwks(), _KEYS_KEPT)


def _omero() -> OmeroAccess:
    access = services().omero_access
    if access is None:
        raise NotFound("there are no tokens here: whoever reaches the service may read everything")
    return access


def _answer(document: dict[str, Any], headers: dict[str, str]) -> Response:
    return Response(orjson.dumps(document), content_type=JSON, headers=headers)


def _body(known: set[str]) -> dict[str, Any]:
    """The JSON object that was sent. With a cookie it must come from a page of this very host."""
    check_same_host()
    try:
        document = request.get_json(silent=True)
    except RecursionError:
        document = None
    if not isinstance(document, dict):
        raise BadParameter("body", "is a JSON object, sent as application/json")
    for name in document.keys() - known:
        raise BadParameter(name[:50], f"there is no such member; known are: {', '.join(sorted(known))}")
    return document


def _allowed(access: OmeroAccess, images: list[int]) -> list[int]:
    for image in dict.fromkeys(checked_images(images)):
        access.policy.require(identity(), image, Trust.NOTHING)
    return images


def _lifetime(document: dict[str, Any], usual: int) -> int:
    lifetime = document.get("lifetime", usual)
    if type(lifetime) is not int:
        raise BadParameter("lifetime", "is a number of seconds")
    return lifetime


def _own(access: OmeroAccess, token: object, session: str) -> str:
    """The id of a token of the session. TokenInvalid, TokenExpired."""
    if not isinstance(token, str):
        raise BadParameter("token", "is the text of a token")
    try:
        claims = access.tokens.verify(token, ACCESS)
    except TokenInvalid:
        claims = access.tokens.verify(token, TICKET)
    if claims.session != session:
        raise InsufficientScope
    return claims.token_id
