"""Every operation of the OpenAPI document as a request about one image, and what becomes of it for whom.

A path that is described and not listed here fails the tests: nobody has said who may ask for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from flask.testing import FlaskClient

from tests.omeroweb.images import OmeroImage, squares
from tests.omeroweb.standin import OmeroWeb
from tests.stores import write_image

ROOT = Path(__file__).parent.parent.parent
PRIVATE, SHARED, NONE = 7007, 8008, 4004  # ada's, everybody's, nobody's
LAYER = "confidential"
ITEMS = f"/images/{PRIVATE}/collections/labels:{LAYER}/items"
OPEN, LIST, OWN, THEIRS, STATS, MAKE, TAKE = "open", "list", "own", "theirs", "stats", "make", "take"
START = "start"  # a POST about an image, where no setting allows it
KINDS = {
    "/": OPEN,
    "/healthz": OPEN,
    "/readyz": OPEN,
    "/metrics": OPEN,
    "/openapi.yaml": OPEN,
    "/openapi.json": OPEN,
    "/docs": OPEN,
    "/def/crs/pixel": OPEN,
    "/.well-known/jwks.json": OPEN,
    "/images": LIST,
    "/images/{image_id}": OWN,
    "/images/{image_id}/conformance": OWN,
    "/images/{image_id}/collections": OWN,
    "/images/{image_id}/collections/{layer}": OWN,
    "/images/{image_id}/collections/{layer}/queryables": OWN,
    "/images/{image_id}/collections/{layer}/density": OWN,
    "/images/{image_id}/collections/{layer}/build": OWN,
    "/images/{image_id}/collections/{layer}/summary": OWN,
    "/images/{image_id}/collections/{layer}/items": OWN,
    "/images/{image_id}/collections/{layer}/items/{feature_id}": OWN,
    "/api/v0/m/rois/": THEIRS,
    "/api/v0/m/images/{image_id}/rois/": THEIRS,
    "/api/v0/m/rois/{roi_id}/": THEIRS,
    "/iviewer/rois_by_plane/{image_id}/{z}/{t}/": THEIRS,
    "/iviewer/plane_shape_counts/{image_id}/": THEIRS,
    "/iviewer/{kind}/{identifier}/page_data/": THEIRS,
    "/iviewer/{kind}/{identifier}/image_data/": THEIRS,
    "/iviewer/image_data/{image_id}/": THEIRS,
    "/iviewer/shape_stats/": STATS,
    "/webgateway/render_shape_mask/{shape_id}/": THEIRS,
    "/webgateway/get_rois_json/{image_id}/": THEIRS,
    "/tokens": MAKE,
    "/tickets": MAKE,
    "/revoke": TAKE,
}
QUERIES = {
    "/api/v0/m/rois/": f"image={PRIVATE}",
    "/iviewer/shape_stats/": "ids={shape}&z=0&t=0&cs=0",
}
BODIES = {"/tokens": {"images": [PRIVATE]}, "/tickets": {"image": PRIVATE, "path": f"/images/{PRIVATE}"}}
CHANGING = {"/metrics", "/readyz"}  # answers that differ from one request to the next


@dataclass(frozen=True)
class Got:
    """An answer, and to which URL."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), "")


Ask = Callable[[str, str, Mapping[str, str], object], Got]  # method, URL, headers, JSON to send


@dataclass(frozen=True)
class Request:
    """One operation about the private image."""

    template: str
    method: str
    url: str
    kind: str
    body: object = None

    @property
    def path(self) -> str:
        return self.url.partition("?")[0]

    def about(self, image: int) -> Request:
        """The same about another image; only for URLs that name the image."""
        url = re.sub(
            rf"(images/|_plane/|counts/|image_data/|rois_json/|image=){PRIVATE}\b", rf"\g<1>{image}", self.url
        )
        assert url != self.url, self.url
        return Request(self.template, self.method, url, self.kind, self.body)


@dataclass(frozen=True)
class Ids:
    """What of the private image has a number, and what its pages say."""

    feature: int
    roi: int
    shape: int
    secrets: tuple[bytes, ...] = field(repr=False)


def described() -> dict[str, list[str]]:
    """The methods of every path of the document."""
    paths = yaml.safe_load((ROOT / "openapi.yaml").read_text())["paths"]
    return {path: [each for each in ("get", "post") if each in item] for path, item in paths.items()}


def requests(ids: Ids) -> Iterator[Request]:
    """Every operation, those by ids of ROIs and shapes for both kinds."""
    for template, methods in described().items():
        for kind, identifier in (("roi", ids.roi), ("shape", ids.shape)):
            values = {
                "image_id": PRIVATE, "layer": f"labels:{LAYER}", "feature_id": ids.feature, "z": 0, "t": 0,
                "roi_id": ids.roi, "shape_id": ids.shape, "kind": kind, "identifier": identifier,
            }  # fmt: skip
            url = re.sub(r"{(\w+)}", lambda name, values=values: str(values[name[1]]), template)
            query = QUERIES.get(template, "").replace("{shape}", str(ids.shape))
            for method in methods:
                yield Request(
                    template,
                    method.upper(),
                    f"{url}?{query}" if query else url,
                    START if method == "post" and KINDS[template] == OWN else KINDS[template],
                    BODIES.get(template, {}),
                )
            if "{kind}" not in template:
                break


def write_images(folder: Path) -> None:
    """The private image and one for everybody."""
    labels = np.kron(np.arange(1, 10, dtype=np.uint16).reshape(3, 3), np.ones((8, 8), np.uint16))
    write_image(folder / f"{PRIVATE}.zarr", labels={LAYER: labels})
    write_image(folder / f"{SHARED}.zarr", labels={"cells": labels})


def add_images(web: OmeroWeb) -> None:
    """What OMERO knows of them."""
    web.add(OmeroImage(PRIVATE, squares(2), readers=frozenset({"ada"}), size=(1, 1, 1, 24, 24)))
    web.add(OmeroImage(SHARED, squares(2, first=50), size=(1, 1, 1, 24, 24)))


def ids_of(ask: Ask, credentials: Mapping[str, str]) -> Ids:
    """Of an object of the private image, as its reader sees it."""
    page = json.loads(ask("GET", f"{ITEMS}?limit=1", credentials, None).body)
    rois = json.loads(ask("GET", f"/api/v0/m/rois/?image={PRIVATE}", credentials, None).body)["data"]
    roi = rois[-1]
    feature = page["features"][0]
    points = json.dumps(feature["geometry"]["coordinates"], separators=(",", ":")).encode()
    secrets = (
        LAYER.encode(),
        str(roi["@id"]).encode(),
        points,
        roi["shapes"][0]["Points"].encode(),
        b"OMERO's 1",
    )
    return Ids(feature["id"], roi["@id"], roi["shapes"][0]["@id"], secrets)


def flask_ask(client: FlaskClient) -> Ask:
    """Ask an application without a server; the client must hold no cookies."""

    def ask(method: str, url: str, headers: Mapping[str, str], body: object) -> Got:
        more = {"json": body} if method == "POST" else {}
        answer = client.open(url, method=method, headers=dict(headers), **more)
        return Got(url, answer.status_code, dict(answer.headers), answer.get_data())

    return ask
