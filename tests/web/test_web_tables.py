"""Tables, their values and what is asked of them, over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from roiservice.bootstrap import build_services
from roiservice.errors import SettingsError
from roiservice.settings import Settings
from roiservice.web import create_app
from tests.catalog.support import wait_for
from tests.conftest import start_service
from tests.stores import write_image

SHAPES = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "properties": {
                "label": label,
                "z": 0,
                "t": 0,
                "c": None,
                "area": 8,
                "layer": "old",
                "drawn_as": kind,
                "stain": stain,
            },
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[x, 1], [x + 4, 1], [x + 4, 3], [x, 3], [x, 1]]],
            },
        }
        for label, x, kind, stain in (
            (1, 0, "Rectangle", "red"),
            (2, 10, "Ellipse", "blue"),
            (3, 20, None, None),
        )
    ],
}
VALUES = f"""label,score,class,alive,barcode
1,0.5,a,true,{2**53}
3,2.5,b,false,{-(2**63)}
2,,a,,{2**53 + 1}
9,7,c,true,5
"""


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    plane = np.zeros((40, 40), np.uint16)
    for label, row in enumerate(range(0, 40, 10), start=1):
        plane[row + 2 : row + 2 + label, 2:8] = label
    image = write_image(tmp_path / "images/7.zarr", labels={"cells": plane})
    other = write_image(tmp_path / "images/8.zarr", labels={"cells": plane})
    (tmp_path / "drawn.geojson").write_text(json.dumps(SHAPES))
    (tmp_path / "cells.csv").write_text(VALUES)
    (tmp_path / "layers.toml").write_text('[[layer]]\ncollection = "tables:hidden"\nhidden = true\n')
    (tmp_path / "hidden.geojson").write_text(json.dumps(SHAPES))
    settings = Settings(
        catalog_dir=tmp_path / "catalogs", state_dir=tmp_path / "state", layers=tmp_path / "layers.toml"
    )
    tables = [(7, str(tmp_path / name)) for name in ("drawn.geojson", "cells.csv", "hidden.geojson")]
    services = build_services(settings, [(None, str(image)), (None, str(other))], tables)
    return create_app(services).test_client()


def get(client: FlaskClient, url: str) -> Any:
    answer = client.get(url)
    assert answer.status_code == 200, answer.json
    return answer.json


def labels_of(client: FlaskClient, condition: str, layer: str = "labels:cells") -> list[int]:
    features = get(client, f"/images/7/collections/{layer}/items?{condition}")["features"]
    return sorted(feature["properties"]["label"] for feature in features)


def test_tables_are_layers_of_their_image_alone(client: FlaskClient) -> None:
    collections = get(client, "/images/7/collections")["collections"]
    assert [(each["id"], each["source"], each["hidden"]) for each in collections] == [
        ("labels:cells", "label image", False),
        ("tables:drawn", "table file", False),
        ("tables:hidden", "table file", True),
    ]
    assert [each["id"] for each in get(client, "/images/8/collections")["collections"]] == ["labels:cells"]


def test_all_but_hidden_layers_are_rois_in_omero_s_list(client: FlaskClient) -> None:
    rois = get(client, "/api/v0/m/rois/?image=7")["data"]
    kinds = [shape["@type"].rpartition("#")[2] for roi in rois for shape in roi["shapes"]]
    assert kinds == ["Polygon"] * 4 + ["Rectangle", "Ellipse", "Polygon"]
    assert get(client, "/images/7/collections/tables:hidden/items")["numberMatched"] == 3
    assert get(client, "/iviewer/plane_shape_counts/7/")["data"] == [[7]]


def test_values_are_properties_of_the_labels(client: FlaskClient) -> None:
    features = get(client, "/images/7/collections/labels:cells/items")["features"]
    by_label = {f["properties"]["label"]: f["properties"] for f in features}
    own = {label: {k: p[k] for k in ("score", "class", "alive") if k in p} for label, p in by_label.items()}
    assert own == {
        1: {"score": 0.5, "class": "a", "alive": True},
        2: {"class": "a"},
        3: {"score": 2.5, "class": "b", "alive": False},
        4: {},
    }


@pytest.mark.parametrize(
    ("condition", "labels"),
    [
        ("score=0.5", [1]),
        ("score=..1", [1]),
        ("score=0.5..2.5", [1, 3]),
        ("score=3..", []),
        ("class=a", [1, 2]),
        ("class=a&score=..1", [1]),
        ("alive=true", [1]),
        ("area=13..", [3, 4]),
        ("perimeter=..16", [1, 2]),
        ("area=12..&class=a", [2]),
        ("property:class=b", [3]),
        ("class=a..b", []),
        ("bbox=0,0,40,20&class=a", [1, 2]),
        ("label=1,3&score=1..", [3]),
        (f"barcode={2**53}", [1]),
        (f"barcode={2**53 + 1}..", [2]),
        (f"barcode={-(2**63)}..{2**53}", [1, 3]),
        (f"barcode=..{-(2**63)}", [3]),
        (f"barcode=..{-(2**63) - 1}", []),
        (f"barcode={2**63}..", []),
        (f"barcode={2**70}", []),
        ("barcode=-1e300..1e300", [1, 2, 3]),
        ("barcode=1.5..", [1, 2]),
        ("barcode=..-0.5", [3]),
        ("barcode=0.2..0.8", []),
    ],
)
def test_conditions_on_properties(client: FlaskClient, condition: str, labels: list[int]) -> None:
    assert labels_of(client, condition) == labels


@pytest.mark.parametrize(
    "condition", ["colour=red", "score=much", "score=..", "score=nan", "alive=yes", "score=1...2"]
)
def test_conditions_that_mean_nothing_are_refused(client: FlaskClient, condition: str) -> None:
    answer = client.get(f"/images/7/collections/labels:cells/items?{condition}")
    assert answer.status_code == 400
    assert answer.json["title"]
    assert condition.partition("=")[0] in answer.json["detail"]


def test_conditions_stay_in_links_and_pages_differ(client: FlaskClient) -> None:
    page = get(client, "/images/7/collections/labels:cells/items?class=a&limit=1")
    (following,) = (link["href"] for link in page["links"] if link["rel"] == "next")
    assert "class=a" in following
    path = following[following.index("/images") :]
    rest = get(client, path)
    found = [f["properties"]["label"] for f in (*page["features"], *rest["features"])]
    assert sorted(found) == [1, 2]
    assert (page["numberMatched"], rest["numberMatched"]) == (2, 2)


def test_queryables_say_what_there_is(client: FlaskClient) -> None:
    answer = client.get("/images/7/collections/labels:cells/queryables")
    assert answer.content_type == "application/schema+json"
    kinds = {name: each.get("type") for name, each in answer.json["properties"].items()}
    assert {name: kinds[name] for name in ("score", "class", "alive", "area")} == {
        "score": "number",
        "class": "string",
        "alive": "boolean",
        "area": "number",
    }
    (link,) = (
        each
        for each in get(client, "/images/7/collections/labels:cells")["links"]
        if each["rel"].endswith("queryables")
    )
    assert client.get(link["href"][link["href"].index("/images") :]).json == answer.json


def test_queryables_are_the_names_of_parameters(tmp_path: Path) -> None:
    """Also of properties that are called as other parameters are."""
    own = {"geometry": "round", "limit": 3, "stain": "red", "ticket": "A7", "_": "x"}
    properties = [{"label-value": 1, **own}]
    cells = np.ones((4, 4), np.uint16)
    write_image(tmp_path / "images/7.zarr", labels={"cells": cells}, image_label={"properties": properties})
    client = start_service(tmp_path / "images").client
    listed = client.get("/images/7/collections/labels:cells/queryables").json["properties"]
    assert listed["geometry"]["format"] == "geometry-any"
    clashing = ("geometry=round", "limit=3", "ticket=A7", "_=x")
    for condition in ("stain=red", *(f"property:{each}" for each in clashing)):
        assert condition.partition("=")[0] in listed
        assert labels_of(client, condition) == [1]


def test_refused_rows_are_told(client: FlaskClient, tmp_path: Path) -> None:
    bad = {
        **SHAPES,
        "features": [*SHAPES["features"], {"type": "Feature", "properties": {}, "geometry": None}],
    }
    (tmp_path / "drawn.geojson").write_text(json.dumps(bad))
    assert get(client, "/images/7/collections/tables:drawn/items")["numberMatched"] == 3
    document = get(client, "/images/7/collections/tables:drawn")
    assert document["refused"]["rows"] == 1
    assert "4" in document["refused"]["reasons"][0]
    assert document["counts"]["rois"] == 3


def test_a_table_without_an_image_s_number_needs_a_single_image(tmp_path: Path) -> None:
    plane = np.eye(8, dtype=np.uint8)
    paths = [write_image(tmp_path / f"{name}.zarr", labels={"cells": plane}) for name in (7, 8)]
    (tmp_path / "drawn.geojson").write_text(json.dumps(SHAPES))
    settings = Settings(catalog_dir=tmp_path / "catalogs", state_dir=tmp_path / "state")
    tables = [(None, str(tmp_path / "drawn.geojson"))]
    alone = build_services(settings, [(None, str(paths[0]))], tables)
    assert [layer.collection for layer in alone.layers.of(alone.images.get(7)).layers][1:] == ["tables:drawn"]
    both = build_services(settings, [(None, str(path)) for path in paths], tables)
    with pytest.raises(SettingsError, match=r"7=.*drawn\.geojson"):
        both.layers.of(both.images.get(7))


def test_a_table_is_an_image_of_its_own_where_it_is_served_as_one(tmp_path: Path) -> None:
    (tmp_path / "12.geojson").write_text(json.dumps(SHAPES))
    settings = Settings(catalog_dir=tmp_path / "catalogs", state_dir=tmp_path / "state")
    client = create_app(build_services(settings, [(None, str(tmp_path / "12.geojson"))])).test_client()
    assert get(client, "/images/12")["layers"] == ["tables:12"]
    rois = get(client, "/api/v0/m/rois/?image=12")
    assert rois["meta"]["totalCount"] == 3
    assert get(client, "/images/12/collections/tables:12/items?stain=blue")["numberMatched"] == 1


def test_a_table_of_an_image_that_there_is_not_stops_the_start(tmp_path: Path) -> None:
    path = write_image(tmp_path / "7.zarr", labels={"cells": np.eye(8, dtype=np.uint8)})
    settings = Settings(catalog_dir=tmp_path / "catalogs", state_dir=tmp_path / "state")
    services = build_services(settings, [(None, str(path))], [(5, str(tmp_path / "drawn.geojson"))])
    with pytest.raises(SettingsError, match="there is no image 5"):
        services.layers.of(services.images.get(7))


@pytest.mark.parametrize("rows", ["WKT,label\n", "WKT,label\nPOLYGON EMPTY,1\nfoo,2\n"])
def test_a_table_without_a_usable_row_is_an_empty_layer(tmp_path: Path, rows: str) -> None:
    (tmp_path / "12.csv").write_text(rows)
    settings = Settings(catalog_dir=tmp_path / "catalogs", state_dir=tmp_path / "state")
    client = create_app(build_services(settings, [(None, str(tmp_path / "12.csv"))])).test_client()
    assert get(client, "/images/12/collections/tables:12/items")["numberMatched"] == 0
    assert get(client, "/images/12/collections/tables:12")["refused"]["rows"] == rows.count("\n") - 1
    assert get(client, "/api/v0/m/rois/?image=12")["data"] == []


def test_a_service_started_with_other_tables_or_rules_answers_by_them_at_once(tmp_path: Path) -> None:
    plane = np.zeros((20, 20), np.uint16)
    plane[2:5, 2:5] = plane[10:12, 10:12] = 1
    image = write_image(tmp_path / "7.zarr", labels={"cells": plane})
    for name, mean in (("old", 1), ("new", 2)):
        (tmp_path / f"{name}.csv").write_text(f"label,mean\n1,{mean}\n")
    (tmp_path / "layers.toml").write_text('[[layer]]\ncollection = "*"\nobjects = "component"\n')

    def started(*tables: str, **more: Any) -> FlaskClient:
        own = Settings(catalog_dir=tmp_path / "catalogs", state_dir=tmp_path / "state", **more)
        given = [(7, str(tmp_path / table)) for table in tables]
        return create_app(build_services(own, [(None, str(image))], given)).test_client()

    def seen(client: FlaskClient) -> list[Any]:
        page = get(client, "/images/7/collections/labels:cells/items")
        return [feature["properties"].get("mean") for feature in page["features"]]

    first = started("old.csv")
    assert seen(first) == [1]
    assert seen(started("new.csv")) == [2]
    assert seen(started()) == [None]
    assert seen(started("new.csv", layers=tmp_path / "layers.toml")) == [2, 2]
    assert seen(first) == [1], "what another service asks for changes nothing here"


def test_two_tables_of_one_name_stop_the_start(tmp_path: Path) -> None:
    image = write_image(tmp_path / "7.zarr", labels={"cells": np.eye(8, dtype=np.uint8)})
    own = Settings(catalog_dir=tmp_path / "catalogs", state_dir=tmp_path / "state")
    tables = [(7, str(tmp_path / name)) for name in ("a/cells.csv", "b/cells.csv")]
    services = build_services(own, [(None, str(image))], tables)
    with pytest.raises(SettingsError, match=r"b/cells\.csv.*a/cells\.csv"):
        services.layers.of(services.images.get(7))


def test_of_two_tables_with_one_column_the_later_has_the_say_where_it_has_a_value(tmp_path: Path) -> None:
    plane = np.zeros((20, 20), np.uint16)
    for label in (1, 2, 3):
        plane[label * 4, :3] = label
    image = write_image(tmp_path / "7.zarr", labels={"cells": plane})
    (tmp_path / "a.csv").write_text("label,mean,kind\n1,100,x\n2,200,y\n")
    (tmp_path / "b.csv").write_text("label,mean,kind\n2,2.5,7\n9,9,9\nfoo,1,1\n")
    own = Settings(catalog_dir=tmp_path / "catalogs", state_dir=tmp_path / "state")
    tables = [(7, str(tmp_path / name)) for name in ("a.csv", "b.csv")]
    client = create_app(build_services(own, [(None, str(image))], tables)).test_client()
    page = get(client, "/images/7/collections/labels:cells/items")
    found = {f["properties"]["label"]: f["properties"] for f in page["features"]}
    assert {label: (p.get("mean"), p.get("kind")) for label, p in found.items()} == {
        1: (100, "x"),
        2: (2.5, "7"),
        3: (None, None),
    }
    (warning,) = get(client, "/images/7/collections/labels:cells")["warnings"]
    assert warning.startswith("b.csv: ")


def test_what_is_built_by_a_request_is_what_is_built_anyhow(tmp_path: Path) -> None:
    """No row is refused because a request may build so much and no more; repaired outlines have more."""
    bowties = {"type": "Polygon", "coordinates": [[[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]]}
    crossed = {**SHAPES["features"][2], "geometry": bowties}  # type: ignore[dict-item]
    image = write_image(tmp_path / "images/7.zarr", labels={"cells": np.zeros((40, 40), np.uint16)})
    (tmp_path / "drawn.geojson").write_text(json.dumps({**SHAPES, "features": [crossed] * 3000}))
    answers = []
    for inline_vertices in (3000 * 5, 10**6):
        folders = {"catalog_dir": tmp_path / f"{inline_vertices}", "state_dir": tmp_path / "state"}
        settings = Settings(**folders, inline_vertices=inline_vertices)
        services = build_services(settings, [(None, str(image))], [(7, str(tmp_path / "drawn.geojson"))])
        client = create_app(services).test_client()
        answers.append(get(client, "/images/7/collections/tables:drawn/items?limit=1"))
    assert [answer["numberMatched"] for answer in answers] == [3000, 3000]


@pytest.mark.parametrize(("inline_vertices", "status"), [(10, 503), (1000, 200)])
def test_tables_of_many_vertices_are_built_by_another_process(
    tmp_path: Path, inline_vertices: int, status: int
) -> None:
    """However few bytes hold them."""
    image = write_image(tmp_path / "images/7.zarr", labels={"cells": np.zeros((40, 40), np.uint16)})
    (tmp_path / "drawn.geojson").write_text(json.dumps(SHAPES))
    folders = {"catalog_dir": tmp_path / "catalogs", "state_dir": tmp_path / "state"}
    settings = Settings(**folders, inline_vertices=inline_vertices)
    services = build_services(settings, [(None, str(image))], [(7, str(tmp_path / "drawn.geojson"))])
    client = create_app(services).test_client()
    drawn = "/images/7/collections/tables:drawn/items"
    assert client.get(drawn).status_code == status
    wait_for(lambda: client.get(drawn).status_code == 200)
    assert get(client, drawn)["numberMatched"] == 3
