"""HTTP: the only package that knows Flask."""

from roiservice.web.app import create_app

__all__ = ["create_app"]
