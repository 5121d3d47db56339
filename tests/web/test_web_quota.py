"""A quota of the catalogs as clients see it: layers that are too large, and layers that come and go."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.catalog.support import squares
from tests.conftest import Service, start_service
from tests.stores import write_image

LAYERS = "/images/1/collections/labels:{}"
QUOTA = 100_000  # bytes: two of the small layers


@pytest.fixture
def service(tmp_path: Path) -> Service:
    small = np.zeros((40, 50), np.uint8)
    small[5:9, 5:9] = 1
    labels = {"a": small, "b": small, "c": small, "large": squares(400, 400)}
    write_image(tmp_path / "images" / "1.zarr", labels=labels)
    return start_service(tmp_path / "images", catalog_bytes=QUOTA)


def test_a_layer_that_is_too_large_is_a_problem_that_names_the_setting(service: Service) -> None:
    answer = service.client.get(f"{LAYERS.format('large')}/items")
    assert (answer.status_code, answer.content_type) == (422, "application/problem+json")
    assert answer.json["type"].endswith("#source-refused")
    assert f"ROISERVICE_CATALOG_BYTES allows {QUOTA}" in answer.json["detail"]
    build = service.client.get(f"{LAYERS.format('large')}/build").json
    assert build["state"] == "failed"
    assert "ROISERVICE_CATALOG_BYTES" in str(build["error"])


def test_omeros_lists_have_the_other_layers_and_name_it(service: Service) -> None:
    answer = service.client.get("/api/v0/m/rois/?image=1")
    assert (answer.status_code, answer.json["meta"]["totalCount"]) == (200, 3)
    missing = answer.headers["X-Roiservice-Incomplete"]
    assert missing.startswith("labels:large (1.zarr [labels/large]: its catalog takes about ")
    assert f"ROISERVICE_CATALOG_BYTES allows {QUOTA}" in missing


def test_no_request_fails_while_layers_make_room_for_each_other(service: Service) -> None:
    def ask(number: int) -> int:
        url = f"{LAYERS.format('abc'[number % 3])}/items?limit={number + 1}"  # never twice the same page
        return service.app.test_client().get(url).status_code

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(ask, range(60))) <= {200, 503}
    text = service.client.get("/metrics").get_data(as_text=True)
    removed = text.split('roiservice_catalogs_removed_total{reason="quota"} ')[1].split("\n")[0]
    assert int(removed) > 0
