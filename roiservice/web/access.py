"""Who asks, and for which image: every route gets its image here, before a cache or a store is touched."""

from __future__ import annotations

import re

from flask import request

from roiservice.bootstrap import Image
from roiservice.errors import BadParameter
from roiservice.web.routes import services

_SESSION = re.compile(r"[A-Za-z0-9._~:+/=-]{1,512}", re.ASCII)


def caller_session() -> str | None:
    """The caller's session of OMERO.web; None without one.

    BadParameter for two that differ, and for characters that no session has: they would be sent on.
    """
    name = services().settings.omero_web_cookie
    given = set(request.cookies.getlist(name))
    if not given:
        return None
    if len(given) > 1:
        raise BadParameter("Cookie", f"{name} is given more than once")
    (session,) = given
    if not session:
        return None
    if not _SESSION.fullmatch(session):
        raise BadParameter("Cookie", f"{name} holds characters that no session has")
    return session


def readable(image_id: int) -> Image:
    """The image, if the caller may read it; NotFound if there is none."""
    return services().images.get(image_id)
