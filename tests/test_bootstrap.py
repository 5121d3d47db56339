"""The whole wired together: numbers of images, layers, catalogs, and what is said of what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from roiservice import warm, warmed
from roiservice.bootstrap import Services, build_services
from roiservice.catalog.registry import FIRST_IMAGE, Registry
from roiservice.errors import NotFound, NotWritten, SettingsError, SourceDamaged, SourceError
from roiservice.images import Location
from roiservice.settings import Settings
from roiservice.warm import warm_up
from roiservice.warmed import is_warm, note_warm
from tests.catalog.support import squares
from tests.conftest import start_service, write_sample_images
from tests.e2e.support import wait_for
from tests.stores import edit_attributes, write_image


def services_at(folder: Path, locations: Sequence[Location], **settings: Any) -> Services:
    own = {"catalog_dir": folder / "catalogs", "state_dir": folder / "state", **settings}
    return build_services(Settings(**own), locations)


def image_at(path: Path, **options: Any) -> Path:
    return write_image(path, labels={"cells": squares(20, 20)}, **options)


def test_images_are_numbered_by_their_names_or_lastingly(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for name in ("42.zarr", "b.zarr", "a.zarr"):
        image_at(folder / name)
    services = services_at(tmp_path, [(None, str(folder))])
    numbers = {image.name: image.id for image in services.images.page(0, 10)}
    assert numbers == {"42": 42, "a": FIRST_IMAGE, "b": FIRST_IMAGE + 1}
    assert services.images.total() == 3
    shutil.rmtree(folder / "a.zarr")
    again = services_at(tmp_path, [(None, str(folder))])
    assert {image.name: image.id for image in again.images.page(0, 10)} == {"42": 42, "b": FIRST_IMAGE + 1}


def test_a_given_number_wins(tmp_path: Path) -> None:
    services = services_at(tmp_path, [(7, str(image_at(tmp_path / "42.zarr")))])
    assert services.images.get(7).name == "42"
    with pytest.raises(NotFound, match="42"):
        services.images.get(42)


def test_pages_of_images_are_by_number(tmp_path: Path) -> None:
    for number in (30, 4, 200):
        image_at(tmp_path / "images" / f"{number}.zarr")
    images = services_at(tmp_path, [(None, str(tmp_path / "images"))]).images
    assert [image.id for image in images.page(0, 10)] == [4, 30, 200]
    assert [image.id for image in images.page(1, 1)] == [30]
    assert images.page(3, 5) == []


def test_two_stores_that_claim_one_number_are_both_named(tmp_path: Path) -> None:
    one, two = image_at(tmp_path / "a/5.zarr"), image_at(tmp_path / "b/5.zarr")
    services = services_at(tmp_path, [(None, str(one)), (None, str(two))])
    with pytest.raises(SettingsError) as error:
        services.images.total()
    assert str(one) in str(error.value)
    assert str(two) in str(error.value)


def test_one_store_given_twice_is_one_image(tmp_path: Path) -> None:
    store = image_at(tmp_path / "5.zarr")
    services = services_at(tmp_path, [(None, str(store)), (None, str(store))])
    assert services.images.total() == 1


@pytest.mark.parametrize("number", [0, FIRST_IMAGE, 10**17])
def test_a_given_number_outside_the_range_is_refused(tmp_path: Path, number: int) -> None:
    store = image_at(tmp_path / "a.zarr")
    with pytest.raises(SettingsError, match="from 1 to"):
        services_at(tmp_path, [(number, str(store))]).images.total()


def test_a_location_that_holds_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        services_at(tmp_path, [(None, str(tmp_path / "nowhere"))]).images.total()


def test_layers_have_lasting_numbers_and_order(tmp_path: Path) -> None:
    store = write_image(tmp_path / "1.zarr", labels={"b": squares(20, 20), "a": squares(20, 20)})
    services = services_at(tmp_path, [(None, str(store))])
    image = services.images.get(1)
    numbers = {layer.name: layer.number for layer in services.layers.of(image).layers}
    assert list(numbers.values()) == sorted(numbers.values())
    write_image(
        tmp_path / "1.zarr", labels={"0": squares(20, 20), "b": squares(20, 20), "a": squares(20, 20)}
    )
    again = services_at(tmp_path, [(None, str(store))])
    later = {layer.name: layer.number for layer in again.layers.of(image).layers}
    assert {name: later[name] for name in numbers} == numbers
    assert later["0"] > max(numbers.values())


def test_a_layer_is_found_by_its_collection_or_its_name(tmp_path: Path) -> None:
    store = write_image(tmp_path / "1.zarr", labels={"sub/cells": squares(20, 20)})
    services = services_at(tmp_path, [(None, str(store))])
    image = services.images.get(1)
    by_collection = services.layers.named(image, "labels:sub:cells")
    assert by_collection == services.layers.named(image, "sub/cells")
    assert by_collection.collection == "labels:sub:cells"
    with pytest.raises(NotFound, match="there are: labels:sub:cells"):
        services.layers.named(image, "other")


def test_a_damaged_layer_leaves_the_others_in_service(tmp_path: Path) -> None:
    store = write_image(tmp_path / "1.zarr", labels={"bad": squares(20, 20), "good": squares(20, 20)})
    edit_attributes(store / "labels/bad", multiscales=[])
    services = services_at(tmp_path, [(None, str(store))])
    image = services.images.get(1)
    listing = services.layers.of(image)
    assert [layer.name for layer in listing.layers] == ["good"]
    assert any("labels/bad" in str(problem) for problem in listing.problems)
    assert services.layers.catalog(listing.layers[0]).meta["counts"]["rois"] == 9
    with pytest.raises(SourceDamaged, match="labels/bad"):
        services.layers.named(image, "bad")


def test_the_listing_is_looked_at_again_after_the_interval(tmp_path: Path) -> None:
    store = image_at(tmp_path / "1.zarr")
    patient = services_at(tmp_path, [(None, str(store))])
    eager = services_at(tmp_path, [(None, str(store))], check_interval=0.0)
    image = patient.images.get(1)
    for services in (patient, eager):
        assert len(services.layers.of(image).layers) == 1
    write_image(store, labels={"cells": squares(20, 20), "more": squares(20, 20)})
    assert len(patient.layers.of(image).layers) == 1
    assert len(eager.layers.of(image).layers) == 2


def test_ids_lead_back_to_their_layer(tmp_path: Path) -> None:
    services = services_at(tmp_path, [(None, str(image_at(tmp_path / "1.zarr")))])
    layer = services.layers.of(services.images.get(1)).layers[0]
    catalog = services.layers.catalog(layer)
    roi = services.registry.locate(catalog.first_roi_id + 5)
    shape = services.registry.locate(catalog.first_shape_id + 3)
    assert roi is not None
    assert shape is not None
    assert (roi.image_id, roi.collection, roi.version, roi.number) == (1, "labels:cells", None, 5)
    assert (shape.image_id, shape.collection, shape.version, shape.number) == (
        1,
        "labels:cells",
        catalog.version,
        3,
    )


@pytest.mark.parametrize("name", ["state_dir", "catalog_dir"])
def test_a_directory_that_is_a_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="ROISERVICE_" + name.upper()):
        services_at(tmp_path, [], **{name: tmp_path / "file"})


@pytest.mark.parametrize(
    "content", [b"this is no database at all, but long enough to be looked at" * 20, None]
)
def test_a_damaged_registry_is_a_clear_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "state" / "registry.sqlite"
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match="ROISERVICE_STATE_DIR"):
        services_at(tmp_path, [])


def test_warming_up_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    warm_up()
    assert list(tmp_path.iterdir()) == []


def test_all_that_warming_up_compiles_is_kept_for_the_next_time() -> None:
    warm_up()
    assert is_warm()
    code = """
import sys
import numpy as np
from roiservice.vectorize.plane import trace_plane
from roiservice.warm import warm_up
warm_up()
for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
    trace_plane([np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], dtype)])
print("numba" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_no_request_has_to_compile(tmp_path: Path) -> None:
    """Else a web worker would take seconds for it, and hold the compiler from then on.

    Other tests may have compiled it, so it is among what warming up has, if that is all that a process does.
    """
    folder = tmp_path / "images"
    write_sample_images(folder)
    ring = [[1.5, 1.5], [9.5, 1.5], [9.5, 9.5], [1.5, 9.5], [1.5, 1.5]]
    shapes: list[dict[str, Any]] = [
        {"type": "Polygon", "coordinates": [ring]},
        {"type": "LineString", "coordinates": ring[:3]},
    ]
    features = [{"type": "Feature", "properties": {}, "geometry": shape} for shape in shapes]
    (folder / "drawn.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    for image in (service := start_service(folder)).services.images.page(0, 10):
        for layer in service.services.layers.of(image).layers:
            service.services.layers.build(layer)
    requests = """
import sys
from pathlib import Path
from roiservice.encode.formats import FORMATS
from roiservice.geometry.kept import newly_kept, taken
from tests.conftest import start_service

client = start_service(Path(sys.argv[1])).client

def get(path):
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.text)
    return answer

for image in get("/images").json["images"]:
    shapes = []
    for roi in get(f"/api/v0/m/rois/?image={image['id']}").json["data"]:
        shapes += [shape["@id"] for shape in roi["shapes"]]
    get(f"/iviewer/rois_by_plane/{image['id']}/0/0/")
    get(f"/iviewer/plane_shape_counts/{image['id']}/")
    for shape in shapes[:2] + shapes[-2:]:
        get(f"/webgateway/render_shape_mask/{shape}/")
        get(f"/iviewer/shape/{shape}/page_data/")
    for layer in get(f"/images/{image['id']}/collections").json["collections"]:
        path = f"/images/{image['id']}/collections/{layer['id']}"
        for name in FORMATS:
            for query in ("limit=1", "simplify=1", "bbox=0,0,20,20", "bbox=-9,-9,-8,-8"):
                get(f"{path}/items?f={name}&{query}")
        for query in ("geometry=bbox", "geometry=centroid", "max-vertices=100", "max-features=1"):
            get(f"{path}/items?{query}")
        get(f"{path}/density?cells=4")
        get(f"{path}/summary")
print(*newly_kept | taken)
"""
    warming_up = """
from roiservice.geometry.kept import newly_kept, taken
from roiservice.warm import warm_up
warm_up()
print(*newly_kept | taken)
"""
    warmed, used = (
        subprocess.run(
            [sys.executable, "-c", code, folder],
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout.split()
        for code in (warming_up, requests)
    )
    assert len(used) > 10
    assert set(used) <= set(warmed)


def test_a_start_compiles_again_what_could_not_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm_up()
    monkeypatch.setattr(warm, "newly_kept", set())  # no other process is to compile all once more
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(warm, "not_kept", ["a loop"])
    warm_up()
    assert not is_warm()
    monkeypatch.setattr(warm, "not_kept", [])
    warm_up()
    assert is_warm()


def test_a_start_compiles_again_what_was_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the first request would: caches are emptied by hand, and by what looks for old files."""
    shutil.copytree(Path(warm.__file__).parent, tmp_path / "roiservice")
    code = """
import os, sys
from roiservice import warm, warmed
from roiservice.geometry.kept import read_kept
warm.warm_up()
assert warmed.is_warm()
_, files = read_kept(warmed._sources, ())
for path in files:
    os.rename(path, "away")
    assert not warmed.is_warm(), path
    os.rename("away", path)
assert warmed.is_warm()
print(len([path for path in files if path.startswith(os.getcwd())]))
"""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    there = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=there, capture_output=True, check=True
    )
    assert int(done.stdout) > 30


def test_a_start_compiles_again_what_it_has_another_source_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(warmed, "__file__", str(tmp_path / "package" / "warmed.py"))
    source = tmp_path / "package" / "geometry" / "loops.py"
    source.parent.mkdir(parents=True)
    source.write_text("one = 1")
    assert not is_warm()
    note_warm()
    assert is_warm()
    source.write_text("one = 2")
    assert not is_warm()


def test_what_compiles_beside_a_start_ends_with_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "roiservice.warm"],
        stdin=subprocess.PIPE,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
    ) as process:
        wait_for(lambda: list(tmp_path.rglob("*.kept")))  # it is at work, for half a minute
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()  # as the end of who holds it does
        assert process.wait(10) == 1


def test_a_start_compiles_alone_where_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    reached = False
    with warm._compiled_beside():
        reached = True
    assert reached


def test_an_image_is_no_layer_for_those_who_ask_by_url(tmp_path: Path) -> None:
    services = services_at(tmp_path, [(None, str(image_at(tmp_path / "7.zarr")))])
    image = services.images.get(7)
    for name in ("root", "."):
        with pytest.raises(NotFound):
            services.layers.named(image, name)
        assert services.layers.chosen(image, name).collection == "root"


def test_no_number_is_given_once_the_registry_is_gone(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    number = registry.layer_number(1, "labels:cells")
    shutil.rmtree(tmp_path)
    assert registry.layer_number(1, "labels:cells") == number
    with pytest.raises(NotWritten, match="registry"):
        registry.layer_number(1, "labels:others")


def test_a_location_that_does_not_exist_costs_no_other(tmp_path: Path) -> None:
    missing = (None, str(tmp_path / "none"))
    services = services_at(tmp_path, [missing, (None, str(image_at(tmp_path / "7.zarr")))])
    assert services.images.total() == 1
    assert "none" in str(services.images.problems[0])
    with pytest.raises(SourceDamaged, match="none"):
        services_at(tmp_path, [missing]).images.total()


def test_an_image_without_labels_is_one_where_a_setting_says_so(tmp_path: Path) -> None:
    store = write_image(tmp_path / "7.zarr", labels={})
    plain = services_at(tmp_path, [(None, str(store))])
    assert plain.layers.of(plain.images.get(7)).layers == ()
    taken = services_at(tmp_path, [(None, str(store))], root_labels=True)
    image = taken.images.get(7)
    assert [layer.collection for layer in taken.layers.of(image).layers] == ["root"]
    assert taken.layers.named(image, "root").number == taken.layers.chosen(image, ".").number


def test_building_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    """Each takes a start some tenths of a second, and so each process that builds layers."""
    warm_up()  # numba is there to compile alone
    store = image_at(tmp_path / "7.zarr")
    code = f"""
import sys
from pathlib import Path
from roiservice.bootstrap import build_services
from roiservice.settings import Settings
folder = Path({str(tmp_path)!r})
settings = Settings(catalog_dir=folder / "catalogs", state_dir=folder / "state")
services = build_services(settings, [(7, {str(store)!r})])
services.layers.build(services.layers.of(services.images.get(7)).layers[0])
print(*sorted({{"pandas", "skimage", "zarr", "sklearn", "dask", "numba"}} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_serving_imports_nothing_heavy(tmp_path: Path) -> None:
    """Each of these takes a start some tenths of a second, and each worker tens of megabytes."""
    properties = {"properties": [{"label-value": 1, "a": 1.5}]}
    store = image_at(tmp_path / "7.zarr", image_label=properties)
    services = services_at(tmp_path, [(7, str(store))])
    services.layers.catalog(services.layers.of(services.images.get(7)).layers[0])
    warm_up()  # numba is there to compile alone
    items = "/images/7/collections/labels:cells"
    code = f"""
import sys
from roiservice.bootstrap import build_services
from roiservice.warm import warm_up
from roiservice.settings import Settings
from roiservice.web import create_app
from pathlib import Path
folder = Path({str(tmp_path)!r})
warm_up()
settings = Settings(catalog_dir=folder / "catalogs", state_dir=folder / "state")
client = create_app(build_services(settings, [(7, {str(store)!r})])).test_client()
for path in ("items", "items?a=1..2&f=wkt", "items?f=qupath", "items?f=omero", "summary", "density"):
    assert client.get("{items}/" + path).status_code == 200, path
print(*sorted({{"pandas", "skimage", "zarr", "sklearn", "dask", "numba"}} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
