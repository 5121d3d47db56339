"""OMERO.web with the service beside it behind nginx, for the viewer's own client.

A browser asks a recorder, which hands everything on to nginx as it is; nginx asks the service, and OMERO.web.
OMERO.web is two servers: pages and pixels come from the viewer's harness, ROIs from the tests' stand-in.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flask

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(sys.argv[1]).resolve() / "tools/iviewer")]

from bundle import find_bundle  # noqa: E402 (the harness lies beside the project)
from pixels import Pixels  # noqa: E402
from stub_web import StubWeb  # noqa: E402

from tests.e2e.nginx import Nginx, nginx_before  # noqa: E402
from tests.e2e.support import Home, Running, serving  # noqa: E402
from tests.omeroweb.images import OmeroImage, squares  # noqa: E402
from tests.omeroweb.standin import OmeroWeb  # noqa: E402

SETTINGS = {
    "ROISERVICE_SCRIPT_NAME": "/roi",
    "ROISERVICE_FORWARDED_HOPS": "1",
    "ROISERVICE_PASS_UNKNOWN": "false",
}
USER = "ada"


class Pages(StubWeb):  # type: ignore[misc] # the harness states no types
    """OMERO.web's pages and pixels; its API and its ROIs come from the stand-in."""

    def _routes(self) -> None:
        self.app.before_request(self._data)
        super()._routes()

    def _data(self) -> Any:
        return self._forward() if flask.request.path.startswith("/api/") else None


class Recorder(StubWeb):  # type: ignore[misc]
    """Hands every request on and keeps what the harness wants to know of those for ROIs."""

    def _routes(self) -> None:
        self.app.before_request(self._forward)


@dataclass(frozen=True)
class Site:
    """All that runs."""

    pages: Any
    recorder: Any
    omero: OmeroWeb
    service: Running
    nginx: Nginx

    @property
    def base(self) -> str:
        """What a browser opens, where all that it asks is recorded; `nginx.base` is the same without."""
        base: str = self.recorder.base
        return base

    def show(
        self, image: dict[str, Any], own: int, pixels: str | None = None, *, everywhere: bool = False
    ) -> str:
        """Let OMERO hold `image` with `own` ROIs of its own; a new session, to which nothing is known yet.

        OMERO's ROIs lie on the planes in turn, or each on all planes.
        """
        t, c, z, y, x = (image["size"][axis] for axis in "tczyx")
        one_by_one = [(plane, time) for time in range(t) for plane in range(z)]
        planes = [(None, None)] if everywhere else one_by_one
        first = image["id"] * 1000 + 1  # OMERO's ids are those of one image alone
        rois = squares(own, first, planes, side=min(x, y))
        self.omero.add(OmeroImage(image["id"], rois, (t, c, z, y, x)))
        self.pages.image_id, self.pages.roi_count, self.pages.size_c = image["id"], own, c
        self.pages.pixels, self.pages.image_name = Pixels(x, y, z, t, pixels), image["name"]
        return self.omero.login(USER)

    def ask(self, path: str, session: str) -> Any:
        """The document at a path behind nginx."""
        request = urllib.request.Request(
            self.nginx.base + path, headers={"Cookie": f"sessionid={session}", "Accept-Encoding": "identity"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@contextmanager
def running(home: Home, locations: list[str], proxy: str = "nginx") -> Iterator[Site]:
    """The site over these locations of images, on free ports; `proxy` is the folder of nginx in `home`."""
    own = {"bundle": find_bundle(), "image_id": 0, "pixels": Pixels(1, 1)}
    with OmeroWeb() as omero:
        pages = Pages(service=omero.url, **own).start()
        settings = {**home.settings, **SETTINGS, "ROISERVICE_OMERO_WEB_URL": pages.base}
        with (
            serving(Home(home.path, settings), *locations, "--workers", 2) as service,
            nginx_before(service.base, pages.base, home.path / proxy) as nginx,
        ):
            recorder = Recorder(service=nginx.base, **own).start()
            try:
                yield Site(pages, recorder, omero, service, nginx)
            finally:
                recorder.stop()
                pages.stop()
