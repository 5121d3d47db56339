"""Statistics, pictures and drawings of shapes over HTTP, against numpy on the pixels of the labels."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from roiservice.bootstrap import build_services
from roiservice.settings import Settings
from roiservice.web import create_app
from roiservice.web.routes import webgateway
from tests.conftest import start_service, write_sample_images
from tests.stores import write_array, write_image, write_multiscale

TYPES = ["bool", "u1", "i1", "u2", ">u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]
KEYS = ("index", "points", "min", "max", "sum", "mean", "std_dev")


def random_pixels(dtype, shape, seed=1):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.normal(500, 200, shape).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype.newbyteorder("="), endpoint=True).astype(dtype)


def random_labels(shape, seed=2):
    """Blocks of random labels, with holes and several parts."""
    small = np.random.default_rng(seed).integers(0, 9, [*shape[:-2], -(-shape[-2] // 3), -(-shape[-1] // 2)])
    return small.repeat(3, -2).repeat(2, -1)[..., : shape[-2], : shape[-1]].astype("u2")


def write(folder, number, pixels, labels, axes, chunks=None):
    """An image with these pixels, and labels on the same axes but channels."""
    label_axes = axes.replace("c", "")
    write_image(
        folder / f"{number}.zarr",
        labels={"cells": labels},
        axes=label_axes,
        image_axes=axes,
        image_shape=pixels.shape,
    )
    write_array(folder / f"{number}.zarr" / "0", pixels, chunks=chunks)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "images"
    made.mkdir()
    return made


def get(client, url, status=200, **headers):
    answer = client.get(url, headers=headers)
    assert answer.status_code == status, answer.get_data(as_text=True)
    return answer


def stats(client, ids, rest="z=0&t=0"):
    return get(client, f"/iviewer/shape_stats/?ids={','.join(map(str, ids))}&{rest}&_=1700000000000").json


def shapes(client, image):
    """(id, label, t, z) of all shapes of an image."""
    listed = get(client, f"/webgateway/get_rois_json/{image}/").json
    return [
        (shape["id"], int(shape["textValue"]), shape.get("theT"), shape.get("theZ"))
        for roi in listed
        for shape in roi["shapes"]
    ]


def picture(client, shape_id):
    """The pixels of a mask and where they lie, which the list of polygons tells."""
    return np.asarray(Image.open(io.BytesIO(get(client, f"/webgateway/render_shape_mask/{shape_id}/").data)))


def corners(client, image):
    """Top left pixels of the shapes' boxes."""
    data = get(client, f"/api/v0/m/rois/?image={image}&limit=500").json["data"]
    points = {shape["@id"]: shape["Points"] for roi in data for shape in roi["shapes"]}
    return {
        number: tuple(int(min(float(pair.split(",")[axis]) for pair in text.split())) for axis in (0, 1))
        for number, text in points.items()
    }


def check_values(found, values):
    """One channel's statistics against those of numpy."""
    assert tuple(found) == KEYS
    assert found["points"] == len(values)
    assert (found["min"], found["max"]) == (values.min(), values.max())
    if values.dtype.kind == "f":
        assert found["sum"] == pytest.approx(math.fsum(values.tolist()), rel=1e-12)
    else:
        total = sum(map(int, values.tolist()))
        assert found["sum"] == (total if -(2**63) <= total < 2**64 else float(total))
    values = values.astype(np.longdouble)
    assert found["mean"] == pytest.approx(float(values.mean()), rel=1e-12)
    assert found["std_dev"] == pytest.approx(float(values.std()), rel=1e-12)


@pytest.mark.parametrize("dtype", TYPES)
def test_statistics_are_numpys_on_the_pixels_of_the_mask(folder, dtype):
    """The mask of every shape comes as a picture; together they are the labels."""
    labels = random_labels((2, 3, 37, 41))
    pixels = random_pixels(dtype, (2, 4, 3, 37, 41))
    write(folder, 1, pixels, labels, "tczyx", chunks=(1, 2, 2, 16, 10))
    client = start_service(folder).client
    listed = shapes(client, 1)
    found = stats(client, [number for number, *_ in listed], "z=0&t=0&cs=3,0")
    place = corners(client, 1)
    drawn = np.zeros_like(labels)
    for number, label, t, z in listed[::7]:
        mask = picture(client, number)[:, :, 3] > 0
        x, y = place[number]
        part = (t, z, slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1]))
        drawn[part][mask] = label
        assert [each["index"] for each in found[str(number)]] == [3, 0]
        for each in found[str(number)]:
            check_values(each, pixels[t, each["index"], z][part[2:]][mask])
    np.testing.assert_array_equal(drawn[drawn > 0], labels[drawn > 0])


def test_pictures_of_all_shapes_are_the_labels(folder):
    labels = random_labels((30, 50))
    write(folder, 1, np.zeros((30, 50), "u1"), labels, "yx")
    client = start_service(folder).client
    place = corners(client, 1)
    drawn = np.zeros_like(labels)
    for number, label, *_ in shapes(client, 1):
        mask = picture(client, number)[:, :, 3] > 0
        x, y = place[number]
        view = drawn[y : y + mask.shape[0], x : x + mask.shape[1]]
        assert not view[mask].any()
        view[mask] = label
    np.testing.assert_array_equal(drawn, labels)


def test_a_picture_is_the_same_whatever_the_encoding_and_is_named_by_its_tag(folder):
    write(
        folder,
        1,
        np.zeros((99, 99), "u1"),
        (np.random.default_rng(0).random((99, 99)) < 0.8).astype("u1"),
        "yx",
    )
    client = start_service(folder).client
    largest = max(shapes(client, 1), key=lambda each: picture(client, each[0]).size)[0]
    url = f"/webgateway/render_shape_mask/{largest}/"
    first, second = get(client, url), get(client, url, **{"Accept-Encoding": "gzip"})
    assert first.data == second.data
    assert len(first.data) > 1000  # so that other answers would be compressed
    assert "Content-Encoding" not in second.headers
    assert first.content_type == "image/png"
    assert get(client, url, 304, **{"If-None-Match": first.headers["ETag"]}).data == b""


def test_shapes_on_every_plane_are_measured_on_the_one_asked_for(folder):
    pixels = random_pixels("u2", (3, 4, 20, 20))
    labels = np.zeros((1, 1, 20, 20), "u1")
    labels[..., 3:9, 4:8] = 1
    write(folder, 1, pixels, labels, "tzyx")
    client = start_service(folder).client
    ((number, _, t, z),) = shapes(client, 1)
    assert (t, z) == (None, None)
    for t, z in ((0, 0), (2, 3), (1, 2)):
        (found,) = stats(client, [number], f"z={z}&t={t}")[str(number)]
        check_values(found, pixels[t, z, 3:9, 4:8].ravel())
    (first,) = stats(client, [number], "")[str(number)]
    check_values(first, pixels[0, 0, 3:9, 4:8].ravel())
    (outside,) = stats(client, [number], "z=4&t=0")[str(number)]
    assert outside == dict(zip(KEYS, (0, 0, *[None] * 5), strict=True))


def test_without_channels_all_are_given(folder):
    write(folder, 1, random_pixels("u1", (3, 8, 8)), np.ones((8, 8), "u1"), "cyx")
    client = start_service(folder).client
    ((number, *_),) = shapes(client, 1)
    for rest in ("z=0&t=0", "z=0&t=0&cs="):
        assert [each["index"] for each in stats(client, [number], rest)[str(number)]] == [0, 1, 2]
    assert [each["index"] for each in stats(client, [number], "cs=2,1,2,")[str(number)]] == [2, 1]


def test_the_viewers_own_spelling_of_ids(folder):
    write(folder, 1, np.ones((8, 8), "u1"), np.ones((8, 8), "u1"), "yx")
    client = start_service(folder).client
    ((number, *_),) = shapes(client, 1)
    assert stats(client, [f"1000004294967297:{number}", number]) == stats(client, [number])


def test_values_that_are_no_numbers_are_null(folder):
    pixels = np.ones((8, 8), "f4")
    pixels[3, 3] = np.nan
    write(folder, 1, pixels, np.ones((8, 8), "u1"), "yx")
    client = start_service(folder).client
    ((number, *_),) = shapes(client, 1)
    assert stats(client, [number])[str(number)] == [dict(zip(KEYS, (0, 64, *[None] * 5), strict=True))]


def test_pixels_outside_the_image_do_not_count(folder):
    """A layer twice as fine that is shifted over the border."""
    pixels = random_pixels("u2", (10, 10))
    labels = np.ones((10, 10), "u1")
    write_image(
        folder / "1.zarr",
        labels={"cells": labels},
        scale=(2, 2),
        label_scale=(2, 2),
        label_translation=(8, -6),
    )
    write_array(folder / "1.zarr" / "0", pixels)
    client = start_service(folder).client
    ((number, *_),) = shapes(client, 1)
    (found,) = stats(client, [number])[str(number)]
    check_values(found, pixels[4:, :7].ravel())
    assert picture(client, number).shape == (10, 10, 4)


def test_shapes_of_tables(folder, tmp_path):
    pixels = random_pixels("u2", (20, 30))
    write_multiscale(folder / "1.zarr", pixels)
    ring = [[2, 3], [9, 3], [9, 8], [2, 8], [2, 3]]
    features = [
        {
            "type": "Feature",
            "id": 1,
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {},
        },
        {
            "type": "Feature",
            "id": 2,
            "geometry": {"type": "Point", "coordinates": [5.5, 7.25]},
            "properties": {},
        },
        {"type": "Feature", "id": 3, "geometry": {"type": "Point", "coordinates": [50, 7]}, "properties": {}},
    ]
    write_image(folder / "2.zarr")
    table = tmp_path / "t.geojson"
    table.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    own = Settings(catalog_dir=tmp_path / "catalogs", state_dir=tmp_path / "state")
    client = create_app(build_services(own, [(None, str(folder))], [(1, str(table))])).test_client()
    listed = get(client, "/webgateway/get_rois_json/1/").json
    polygon, inside, outside = (roi["shapes"][0]["id"] for roi in listed)
    found = stats(client, [polygon, inside, outside])
    check_values(found[str(polygon)][0], pixels[3:8, 2:9].ravel())
    check_values(found[str(inside)][0], pixels[7:8, 5:6].ravel())
    assert found[str(outside)][0]["points"] == 0
    assert picture(client, inside).shape == (1, 1, 4)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "ids: name the shapes"),
        ("ids=", "ids: name the shapes"),
        ("ids=x", "ids: is one whole number"),
        ("ids=-1", "ids: is one whole number"),
        ("ids=1;drop", "ids: is one whole number"),
        ("ids=%D9%A1", "ids: is one whole number"),
        ("ids=ID&z=x", "z: is one whole number"),
        ("ids=ID&t=-1", "t: is one whole number"),
        ("ids=ID&cs=0,1", "cs: the image has 1 channels"),
        ("ids=ID&cs=a", "cs: is one whole number"),
        ("ids=5", "there is no shape 5"),
        ("ids=9007199254740991", "there is no shape 9007199254740991"),
        ("ids=" + ",".join(map(str, range(1, 10_002))), "ids: are 10001; 10000 are allowed"),
    ],
)
def test_failures_are_answers_with_an_error(client, query, said):
    number = shapes(client, 1)[0][0]
    answer = get(client, f"/iviewer/shape_stats/?{query.replace('ID', str(number))}").json
    assert list(answer) == ["error"]
    assert answer["error"].startswith(said)


def test_shapes_that_are_not_there_are_left_out(client):
    number = shapes(client, 1)[0][0]
    roi = get(client, "/webgateway/get_rois_json/1/").json[0]["id"]
    assert list(stats(client, [5, number, roi, number + 5000, 9007199254740991])) == [str(number)]


def test_one_shape_that_is_too_large_does_not_keep_others_from_being_measured(folder, monkeypatch):
    labels = np.ones((40, 40), "u1")
    labels[3:5, 3:5] = 2
    write(folder, 1, np.ones((40, 40), "u1"), labels, "yx")
    service = start_service(folder)
    large, small = (each[0] for each in shapes(service.client, 1))
    monkeypatch.setattr("roiservice.query.stats.BOX_PIXELS", 1000)
    answer = get(service.client, f"/iviewer/shape_stats/?ids={large},{small}&z=0&t=0&cs=0")
    assert list(answer.json) == [str(small)]
    assert str(large) in answer.headers["X-Roiservice-Incomplete"]
    assert "box pixels" in stats(service.client, [large])["error"]


def test_shapes_of_several_images_are_refused(client):
    ids = [shapes(client, image)[0][0] for image in (1, 2)]
    assert "several images" in stats(client, ids)["error"]


def test_shapes_of_a_replaced_version(folder):
    write(folder, 1, np.ones((9, 9), "u1"), random_labels((9, 9)), "yx")
    write_image(folder / "1.zarr", labels={"cells": random_labels((9, 9)), "more": np.ones((9, 9), "u1")})
    service = start_service(folder)
    client = service.client
    old = shapes(client, 1)[0][0]
    array = random_labels((9, 9), seed=7)
    write_array(folder / "1.zarr" / "labels" / "cells" / "0", array)
    image = service.services.images.get(1)
    service.services.layers.build(service.services.layers.named(image, "labels:cells"))
    listed = shapes(client, 1)
    assert old not in [each[0] for each in listed]
    assert "replaced" in stats(client, [old])["error"]
    assert list(stats(client, [old, listed[0][0]])) == [str(listed[0][0])]
    assert get(client, f"/webgateway/render_shape_mask/{old}/", 410).json["message"]


def test_damaged_pixels_are_named_and_other_shapes_can_be_asked_for(folder):
    labels = np.zeros((8, 8), "u1")
    labels[1:3, 1:3], labels[5:7, 5:7] = 1, 2
    write(folder, 1, np.ones((8, 8), "u1"), labels, "yx", chunks=(4, 4))
    chunk = folder / "1.zarr" / "0" / "c" / "1" / "1"
    chunk.write_bytes(b"no data")
    client = start_service(folder).client
    sound, damaged = (each[0] for each in shapes(client, 1))
    assert "chunk (1, 1)" in stats(client, [sound, damaged])["error"]
    assert str(folder) not in stats(client, [damaged])["error"]
    assert stats(client, [sound])[str(sound)][0]["sum"] == 4
    chunk.unlink()
    assert stats(client, [damaged])[str(damaged)][0]["sum"] == 0


def test_an_image_without_pixels_says_so(folder):
    write_image(folder / "1.zarr", labels={"cells": np.ones((8, 8), "u1")}, image=False)
    client = start_service(folder).client
    ((number, *_),) = shapes(client, 1)
    assert "no pixels" in stats(client, [number])["error"]
    assert picture(client, number).shape == (8, 8, 4)


def test_an_image_that_changed_its_size_says_so(folder):
    write(folder, 1, np.ones((8, 8), "u1"), np.ones((8, 8), "u1"), "yx")
    client = start_service(folder).client
    ((number, *_),) = shapes(client, 1)
    write_array(folder / "1.zarr" / "0", np.ones((9, 8), "u1"))
    assert "other than those of its image" in stats(client, [number])["error"]


def test_an_error_that_nobody_expects_is_an_answer_without_its_text(client, monkeypatch):
    def broken(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr(webgateway, "stats_of", broken)
    assert stats(client, [1]) == {"error": "the service failed; its log says more"}


@pytest.mark.parametrize("number", [5, 2**53 - 1])
def test_unknown_shapes_and_images_have_omeros_answer(client, number):
    for url in (f"/webgateway/render_shape_mask/{number}/", f"/webgateway/get_rois_json/{number}/"):
        answer = get(client, url, 404)
        assert list(answer.json) == ["message"]
    assert get(client, f"/webgateway/render_shape_mask/{shapes(client, 1)[0][0] + 5000}/", 404).json[
        "message"
    ]


def test_a_picture_beyond_the_limit_is_refused(folder, monkeypatch):
    write_sample_images(folder)
    client = start_service(folder).client  # nobody asked it for the picture before
    monkeypatch.setattr(webgateway, "LARGEST_MASK", 35)
    number = max(shapes(client, 1))[0]  # 6 x 6 pixels
    answer = get(client, f"/webgateway/render_shape_mask/{number}/", 422)
    assert "36 pixels; 35 are allowed" in answer.json["message"]


def test_drawings_are_those_of_all_layers_and_the_same_in_pieces(client, monkeypatch):
    whole = get(client, "/webgateway/get_rois_json/1/")
    data = get(client, "/api/v0/m/rois/?image=1&limit=500").json["data"]
    assert [roi["id"] for roi in whole.json] == [roi["@id"] for roi in data]
    assert [s["id"] for roi in whole.json for s in roi["shapes"]] == [
        s["@id"] for roi in data for s in roi["shapes"]
    ]
    for size in (1, 3, 48):
        monkeypatch.setattr(webgateway, "STREAM_BATCH", size)
        assert get(client, "/webgateway/get_rois_json/1/").data == whole.data
    assert (
        get(client, "/webgateway/get_rois_json/1", 304, **{"If-None-Match": whole.headers["ETag"]}).data
        == b""
    )


def test_shapes_of_a_drawing_are_in_the_order_of_planes(client):
    for roi in get(client, "/webgateway/get_rois_json/2/").json:
        planes = [(shape["theZ"], shape["theT"]) for shape in roi["shapes"]]
        assert planes == sorted(planes)


def test_an_image_without_layers_is_an_empty_list_and_a_damaged_layer_is_named(folder):
    write_image(folder / "1.zarr")
    write_image(folder / "2.zarr", labels={"bad": np.ones((8, 8), "u1"), "good": np.ones((8, 8), "u1")})
    (folder / "2.zarr" / "labels" / "bad" / "0" / "c" / "0" / "0").write_bytes(b"no data")
    client = start_service(folder).client
    assert get(client, "/webgateway/get_rois_json/1/").json == []
    answer = get(client, "/webgateway/get_rois_json/2/")
    assert len(answer.json) == 1
    assert "labels:bad" in answer.headers["X-Roiservice-Incomplete"]
