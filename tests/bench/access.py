"""What it costs a warm page to be private: over a public one, with the cookie and with a bearer token.

Target: at most 0.5 ms. Each round asks each of the applications for the same pages, in turns.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from roiservice.auth.tokens import Owner
from tests.bench.common import alternating, report
from tests.conftest import start_service
from tests.omeroweb.standin import OmeroWeb
from tests.web import walk
from tests.web.walk import ITEMS, PRIVATE

REQUESTS = 200  # in a round


def main(rounds: int = 15) -> None:
    """Milliseconds for REQUESTS warm pages; divide."""
    with tempfile.TemporaryDirectory() as folder, OmeroWeb() as web:
        images = Path(folder) / "images"
        walk.write_images(images)
        walk.add_images(web)
        public = start_service(images)
        guarded = start_service(images, auth="omero", omero_web_url=web.url)
        access = guarded.services.omero_access
        assert access is not None
        token = access.tokens.access_token(Owner("u:4", "0" * 16), [PRIVATE]).text
        ticket = access.tokens.ticket(Owner("u:4", "0" * 16), PRIVATE, f"/images/{PRIVATE}").text
        runs = {
            "public": _pages(public.app.test_client(use_cookies=False), ITEMS, {}),
            "cookie": _pages(
                guarded.app.test_client(use_cookies=False), ITEMS, {"Cookie": f"sessionid={web.login('ada')}"}
            ),
            "bearer": _pages(
                guarded.app.test_client(use_cookies=False), ITEMS, {"Authorization": f"Bearer {token}"}
            ),
            "ticket": _pages(guarded.app.test_client(use_cookies=False), f"{ITEMS}?ticket={ticket}", {}),
        }
        print(f"{REQUESTS} requests each")
        report(alternating(runs, rounds), "public")


def _pages(client: object, url: str, headers: Mapping[str, str]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(REQUESTS):
            answer = client.get(url, headers=dict(headers))  # type: ignore[attr-defined]
            assert answer.status_code == 200

    return run


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
