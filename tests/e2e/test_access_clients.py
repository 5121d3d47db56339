"""GDAL and curl against private images, with tickets and tokens, as docs/access.md says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from roiservice.auth.claims import TICKET
from tests.e2e.access import Guarded, guarded
from tests.omeroweb.standin import OmeroWeb
from tests.web import walk
from tests.web.walk import ITEMS, PRIVATE

READ = """
import json, sys, geopandas, pyogrio
source = sys.argv[1]
layer = pyogrio.list_layers(source)[0][0]
found = geopandas.read_file(source, layer=layer, PAGE_SIZE=4)
print(json.dumps([layer, sorted(found["label"].tolist()), int(found.area.sum())]))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with OmeroWeb() as web, guarded(tmp_path_factory.mktemp("site"), web) as running:
        yield running


def gdal(source: str, **options: str) -> subprocess.CompletedProcess[str]:
    """What GDAL reads, in a process of its own; `options` are GDAL's."""
    command = [sys.executable, "-c", READ, source]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **options}
    )


def check_read(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [f"labels:{walk.LAYER}", list(range(1, 10)), 9 * 64]


def test_gdal_with_a_ticket_follows_every_link(site: Guarded) -> None:
    made = site.home.run("token", "--image", PRIVATE, "--ticket", f"/images/{PRIVATE}")
    check_read(gdal(f"OAPIF:{site.service.base}/images/{PRIVATE}?ticket={made.stdout.strip()}"))


def test_gdal_with_a_token(site: Guarded) -> None:
    token = site.home.run("token", "--image", PRIVATE).stdout.strip()
    source = f"OAPIF:{site.service.base}/images/{PRIVATE}"
    check_read(gdal(source, GDAL_HTTP_AUTH="BEARER", GDAL_HTTP_BEARER=token))
    assert gdal(source).returncode != 0
    assert gdal(f"{source}?ticket={site.forge.token(TICKET, img=[walk.SHARED])}").returncode != 0


def test_gdal_reads_a_file_by_a_ticket(site: Guarded) -> None:
    ticket = site.forge.token(TICKET, pth=ITEMS)
    url = f"/vsicurl/{site.service.base}{ITEMS}?ticket={ticket}"
    code = "import sys, geopandas; print(len(geopandas.read_file(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, url], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "9", done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(site: Guarded) -> None:
    token = site.home.run("token", "--image", PRIVATE).stdout.strip()
    command = ["curl", "-sf", "-H", "@-", site.service.base + ITEMS]
    done = subprocess.run(
        command, input=f"Authorization: Bearer {token}", capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["numberReturned"] == 9
