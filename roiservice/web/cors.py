"""What browsers let pages of other sites read: nothing, unless the settings list the site.

Such pages send tokens, never cookies: no answer allows credentials.
"""

from __future__ import annotations

from flask import Response, request

from roiservice.web.routes import services

_EXPOSED = "ETag, Link, WWW-Authenticate, Retry-After, Content-Crs, X-Roiservice-Incomplete"
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, If-None-Match",
    "Access-Control-Max-Age": "600",
}


def add_cors_headers(response: Response) -> Response:
    """Let a listed origin read the answer."""
    origin = request.headers.get("Origin")
    if origin is not None and origin in services().settings.allowed_origins:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED
        if request.method == "OPTIONS":
            response.headers.update(_PREFLIGHT)
    return response
