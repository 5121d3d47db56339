"""`roiservice demo`: something to look at, from one line."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from roiservice.demo import NAME, write_demo
from roiservice.errors import RoiServiceError
from roiservice.server import listen
from roiservice.settings import load_settings

PORT = 8080


def demo(port: int | None, build_only: Path | None) -> None:
    """Write the demo image; serve it as image 1 unless it was only to be built."""
    if build_only is not None:
        if (build_only / NAME).exists():
            raise RoiServiceError(f"{build_only / NAME} is there already")
        path, coins = write_demo(build_only)
        click.echo(f"{path}: a photograph of {coins} coins, and their label images")
        return
    from roiservice.commands.serve import serve_on

    settings = load_settings()
    listener = _listener(port)
    path, coins = write_demo(settings.state_dir / "demo")
    click.echo(f"Found {coins} coins in a photograph and wrote them as OME-Zarr labels to\n  {path}\n")
    serve_on(listener, [(1, str(path))], settings, workers=1)


def _listener(port: int | None) -> socket.socket:
    if port is None:
        try:
            return listen("127.0.0.1", PORT, public_address=False)
        except RoiServiceError:
            port = 0
    return listen("127.0.0.1", port, public_address=False)
