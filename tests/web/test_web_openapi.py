"""The OpenAPI document and the service say the same."""

import json
import re

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from openapi_core import Config, OpenAPI
from openapi_core.contrib.werkzeug import WerkzeugOpenAPIRequest, WerkzeugOpenAPIResponse
from openapi_spec_validator import validate
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from roiservice import __version__
from roiservice.settings import Settings
from roiservice.web.description import openapi_yaml
from roiservice.web.params import IGNORED, ITEMS
from tests.conftest import start_service

DOCUMENT = yaml.safe_load(openapi_yaml(""))
JSON_TYPES = ("application/geo+json", "application/problem+json", "application/vnd.oai.openapi+json")
TEXT_TYPES = ("application/x-ndjson", "text/csv")
CONFIG = Config(
    extra_media_type_deserializers={
        **dict.fromkeys(JSON_TYPES, json.loads),
        "application/yaml": yaml.safe_load,
        **dict.fromkeys(TEXT_TYPES, lambda body, **_: body.decode()),
    }
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
OPERATIONS = [
    (path, method, item[method])
    for path, item in DOCUMENT["paths"].items()
    for method in ("get", "post")
    if method in item
]
DESCRIBED = OpenAPI.from_dict(DOCUMENT, config=CONFIG)


def test_the_document_is_valid():
    validate(DOCUMENT)
    assert DOCUMENT["openapi"] == "3.0.3"
    assert DOCUMENT["info"]["version"] == __version__


def test_every_route_is_described_and_the_reverse(service):
    rules = {
        re.sub(r"<(?:any\([^)]*\):|\w+:)?(\w+)>", r"{\1}", rule.rule)
        for rule in service.app.url_map.iter_rules()
    }
    assert rules == set(DOCUMENT["paths"])


def test_every_operation_has_a_name_and_a_summary():
    operations = [operation for _, _, operation in OPERATIONS]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"] and operation["responses"] for operation in operations)


def test_parameters_of_items_are_those_that_are_parsed():
    listed = DOCUMENT["paths"]["/images/{image_id}/collections/{layer}/items"]["get"]["parameters"]
    parameters = [DOCUMENT["components"]["parameters"][each["$ref"].rpartition("/")[2]] for each in listed]
    assert {parameter["name"] for parameter in parameters} == ITEMS | {"properties"}


def test_defaults_are_those_of_the_settings():
    assert DOCUMENT["components"]["parameters"]["limit"]["schema"]["default"] == Settings.page_limit
    assert DOCUMENT["components"]["parameters"]["omeroLimit"]["schema"]["default"] == Settings.page_limit


def test_the_document_is_served_as_it_is_written(client):
    assert yaml.safe_load(client.get("/openapi.yaml").data) == DOCUMENT
    response = client.get("/openapi.json")
    assert response.json == DOCUMENT
    assert response.content_type == "application/vnd.oai.openapi+json;version=3.0"


def test_the_page_shows_every_operation_and_parameter_and_loads_nothing(client):
    page = client.get("/docs").get_data(as_text=True)
    for path, _, operation in OPERATIONS:
        assert f"<code>{path}</code>" in page
        assert f'id="{operation["operationId"]}"' in page
    for parameter in DOCUMENT["components"]["parameters"].values():
        assert f"<code>{parameter['name']}</code>" in page
    assert not re.search(r"<(script|link|img)|@import|url\(", page)


ITEMS_URL = "/images/1/collections/labels:rings/items"
SAMPLES = [
    "/", "/images", "/images?limit=1", "/images/1", "/images/1/conformance", "/images/1/collections",
    "/images/1/collections/labels:rings", ITEMS_URL, f"{ITEMS_URL}?limit=0", f"{ITEMS_URL}/5",
    f"{ITEMS_URL}?bbox=0,0,15,15&z=0&t=0-1&label=7&min-area=1.5",
    f"{ITEMS_URL}?simplify=2&cursor=start&limit=1", f"{ITEMS_URL}?geometry=none&max-features=1",
    f"{ITEMS_URL}?max-vertices=9",
    f"{ITEMS_URL}?geometry=centroid", f"{ITEMS_URL}?cursor=x",
    "/images/1/collections/labels:rings/density?cells=3", "/images/1/collections/labels:rings/summary",
    f"{ITEMS_URL}?f=qupath", f"{ITEMS_URL}?f=omero", f"{ITEMS_URL}?f=wkt", f"{ITEMS_URL}?f=ndjson&limit=1",
    "/images/1/collections/labels:rings/build", "/images/1/collections/labels:none/build",
    "/images/9", "/images?x=1", "/def/crs/pixel", "/healthz", "/readyz", "/metrics",
    "/docs", "/openapi.yaml", "/openapi.json", "/api/v0/m/rois/?image=2&limit=3", "/api/v0/m/rois/?image=99",
    "/api/v0/m/images/1/rois/?limit=0", "/iviewer/rois_by_plane/2/0-1/1/", "/iviewer/plane_shape_counts/2/",
    "/webgateway/get_rois_json/1/", "/webgateway/get_rois_json/99/", "/webgateway/render_shape_mask/5/",
    "/iviewer/shape_stats/?ids=5&z=0&t=0&cs=0", "/iviewer/roi/5/page_data/", "/iviewer/shape/5/image_data/",
]  # fmt: skip


def check(client, url):
    """The answer, and its request, agree with the document."""
    answer = client.get(url)
    request = WerkzeugOpenAPIRequest(Request(EnvironBuilder(url).get_environ()))
    if answer.status_code != 400:
        DESCRIBED.unmarshal_request(request)
    DESCRIBED.validate_response(request, WerkzeugOpenAPIResponse(answer))
    return answer


@pytest.mark.parametrize("url", SAMPLES)
def test_real_answers_are_as_described(client, url):
    check(client, url)


def test_real_answers_about_objects_are_as_described(client):
    roi = client.get("/api/v0/m/rois/?image=2").json["data"][0]
    shape = roi["shapes"][0]["@id"]
    for url in (
        f"/api/v0/m/rois/{roi['@id']}/",
        f"/iviewer/roi/{roi['@id']}/page_data/",
        f"/iviewer/shape/{shape}/page_data/",
        f"/iviewer/shape/{shape}/image_data/",
        f"/iviewer/shape_stats/?ids={shape}&z=0&t=0&cs=0",
        f"/webgateway/render_shape_mask/{shape}/",
        f"/images/2/collections/labels:cells/items/{shape}",
        f"/images/2/collections/labels:cells/items/{shape}?f=qupath",
    ):
        assert check(client, url).status_code in (200, 302)


@pytest.fixture(scope="session")
def described_service(sample_folder):
    return schemathesis.openapi.from_wsgi("/openapi.json", start_service(sample_folder).app)


@pytest.mark.parametrize(("path", "method"), [(path, method) for path, method, _ in OPERATIONS])
@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_made_up_requests_are_answered_as_described(described_service, path, method, data):
    """Values of the right kind and of any other, unknown parameters and methods."""
    operation = described_service[path][method.upper()]
    mode = data.draw(st.sampled_from(list(schemathesis.GenerationMode)))
    case = data.draw(operation.as_strategy(generation_mode=mode))
    if "image_id" in case.path_parameters and data.draw(st.booleans()):
        case.path_parameters["image_id"] = data.draw(st.sampled_from([1, 2]))
        case.path_parameters.update({"layer": "labels:cells"} if "layer" in case.path_parameters else {})
    answer = case.call(headers={"Accept-Encoding": "identity"})  # a WSGI client unpacks nothing
    case.validate_response(answer, checks=CHECKS)


@pytest.mark.parametrize(
    "path",
    [
        path
        for path, method, _ in OPERATIONS
        if method == "get" and not path.startswith(("/api", "/iviewer", "/webgateway", "/.well-known"))
    ],
)
@given(name=st.text("abcdefghijklmnopqrstuvwxyz-_", min_size=1, max_size=8))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_unknown_parameters_are_refused_on_our_own_paths(client, path, name):
    parameters = DOCUMENT["paths"][path]["get"].get("parameters", ())
    assume(name not in IGNORED | ITEMS and name not in str(parameters))
    url = path.format(image_id=1, layer="labels:rings", feature_id=5)
    answer = client.get(url, query_string={name: "1"})
    assert (answer.status_code, answer.json["parameter"]) == (400, name)
    assert client.get(url, query_string={"_": "1"}).status_code in (200, 404)
