"""The routes: each parses, looks up, encodes and responds, and leaves the work to others."""

from __future__ import annotations

from flask import current_app

from roiservice.bootstrap import Services


def services() -> Services:
    """The services of the app that handles the request."""
    found: Services = current_app.extensions["roiservice"]
    return found
