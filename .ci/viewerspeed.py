"""How long OMERO.iviewer's own client waits for pages of 500 of 150 000 ROIs, request to drawn.

It is held against the same bytes as static files of the same nginx. Usage: viewerspeed.py SHARED, the folder
with tools/. Exit code 1 if pages take more than 1.3 times as long.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from viewer import MANY, PAGE, many
from viewersite import Site, running

import browser as chrome  # isort: skip (the harness's)

from tests.e2e.nginx import nginx_before
from tests.e2e.support import Home

PAGES = 12
MOST = 1.3
WAITS = ("request_to_last_byte", "request_to_drawn")
STATIC = """
location ^~ /iviewer/rois_by_plane/ {{
    root {folder};
    try_files /page-$arg_offset =404;
    default_type application/json;
    add_header Content-Encoding gzip;
    gzip off;
}}
"""
Seconds = dict[str, float]


def main() -> int:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)  # nginx's own processes have a user of their own
        location = f"{MANY}={many(Path(sys.argv[1]).resolve(), Path(scratch))}"
        home = Home(Path(scratch, "home"))
        home.run("build", location)
        (image,) = json.loads(home.run("images", "--json", location).stdout)["images"]
        with running(home, [location]) as site:
            measured = compare(site, image, Path(scratch))
    for name, seconds in measured.items():
        told = ", ".join(f"{wait.replace('_', ' ')} {seconds[wait] * 1000:.0f} ms" for wait in WAITS)
        print(f"viewer speed: {name}: {told}")
    drawn = {
        name: seconds[WAITS[1]] / measured["static files"][WAITS[1]] for name, seconds in measured.items()
    }
    print(
        "viewer speed: times as long as static files:",
        {name: round(ratio, 2) for name, ratio in drawn.items()},
    )
    return 1 if max(drawn.values()) > MOST else 0


def compare(site: Site, image: dict[str, Any], folder: Path) -> dict[str, Seconds]:
    """First quartiles for static files, pages that nobody asked for before, and pages seen before, in turn.

    Other programs of a machine only ever add to a time: the faster ones tell more. The three planes have the
    same outlines; pages of the first are seen before and saved, those of the others are new.
    """
    session = site.show(image, 0)
    for page in range(PAGES + 1):
        save(site, image, session, page, folder)
    rounds: dict[str, list[Seconds]] = {"static files": [], "new pages": [], "pages seen before": []}
    extra = STATIC.format(folder=folder)
    with nginx_before(site.service.base, site.pages.base, folder / "static", extra=extra) as static:
        for unseen in (1, 2):
            turn = ((static.base, 0), (site.nginx.base, unseen), (site.nginx.base, 0))
            for name, (base, z) in zip(rounds, turn, strict=True):
                rounds[name] += visit(f"{base}/iviewer/?images={image['id']}&z={z + 1}", session, folder)
    return {
        name: {wait: statistics.quantiles((each[wait] for each in seconds), n=4)[0] for wait in WAITS}
        for name, seconds in rounds.items()
    }


def visit(url: str, session: str, folder: Path) -> list[Seconds]:
    """Open an image, then page through its ROIs."""
    browser = chrome.Browser(folder)
    try:
        cookie = {"name": "sessionid", "value": session, "url": url}
        browser.d.execute_cdp_cmd("Network.setCookie", cookie)
        browser.open(url)
        acts = [chrome.CLICK_ROIS_TAB, *[chrome.CLICK_NEXT_PAGE] * PAGES]
        done = []
        for act in acts:
            done.append(browser.act(act))
            browser.settled(0.3)
            if done[-1]["state"] != "drawn":
                raise RuntimeError(f"the client did not draw: {done[-1]}")
        # The first is left out: the client's code for drawing is compiled then.
        return [each["seconds"] for each in done[1:]]
    finally:
        browser.close()


def save(site: Site, image: dict[str, Any], session: str, page: int, folder: Path) -> None:
    """Put a page, compressed as it came, where the static location looks for it."""
    url = f"{site.nginx.base}/iviewer/rois_by_plane/{image['id']}/0/0/?limit={PAGE}&offset={page * PAGE}"
    headers = {"Cookie": f"sessionid={session}", "Accept-Encoding": "gzip"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
        if answer.headers["Content-Encoding"] != "gzip":
            raise RuntimeError("the page came without compression")
        (folder / f"page-{page * PAGE}").write_bytes(answer.read())


if __name__ == "__main__":
    sys.exit(main())
