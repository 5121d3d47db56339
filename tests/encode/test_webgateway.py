"""ROIs for SVG, masks in OMERO JSON, and masks as pictures."""

import io
import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis.extra import numpy as hnp
from PIL import Image

from roiservice.encode.formats import FORMATS, OMERO_MASKS
from roiservice.encode.png import VEIL, mask_color, mask_png
from roiservice.encode.webgateway import rois
from roiservice.geometry.frames import Frame
from roiservice.geometry.polygons import to_shapely
from tests.encode import test_encode_kinds
from tests.encode.support import features_of, strict
from tests.strategies import label_planes

kinds = test_encode_kinds.features

NUMBER = r"-?[0-9.]+(?:e[-+]?[0-9]+)?"


def svg_ring(points):
    """The ring of a path `M x y L x y ... z`."""
    assert re.fullmatch(rf"M {NUMBER} {NUMBER}( L {NUMBER} {NUMBER})* z", points), points
    return [tuple(map(float, pair.split())) for pair in points[2:-2].split(" L ")]


def area(ring):
    """Area inside a ring that may run along itself."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise([*ring, ring[0]])) / 2


@given(plane=label_planes())
def test_paths_have_the_area_of_the_pixels(plane):
    features = features_of(plane)
    found = [strict(roi) for roi in rois(features)]
    assert [roi["id"] for roi in found] == features.roi_id.tolist()
    for i, roi in enumerate(found):
        first = int(features.feature_id[i])
        assert [shape["id"] for shape in roi["shapes"]] == list(range(first, first + len(roi["shapes"])))
        assert sum(area(svg_ring(shape["points"])) for shape in roi["shapes"]) == features.area[i]
        assert {shape["type"] for shape in roi["shapes"]} == {"Polygon"}


def test_a_roi_has_the_fields_of_omero_web():
    plane = np.zeros((8, 8), np.uint8)
    plane[1:4, 2:6] = 3
    features = features_of(plane, colors={3: (255, 128, 0, 200)}, place=(1, -1, 2))
    (roi,) = map(strict, rois(features))
    assert roi["shapes"] == [
        {
            "id": features.feature_id[0],
            "type": "Polygon",
            "points": "M 2 1 L 6 1 L 6 4 L 2 4 z",
            "theT": 1,
            "theZ": 2,
            "textValue": "3",
            "strokeColor": "#ff8000",
            "strokeAlpha": 1.0,
            "fillColor": "#ff8000",
            "fillAlpha": 50 / 255,
            "strokeWidth": 1.0,
        }
    ]
    (roi,) = map(strict, rois(features_of(plane, place=(-1, -1, -1))))
    assert not {"theT", "theZ"} & set(roi["shapes"][0])


def test_shapes_are_in_the_order_of_z_then_t():
    features = features_of(np.array([[1, 2, 0, 3, 0, 4, 0, 5]]))
    places = {"roi_id": np.array([7, 8, 8, 8, 8]), "t": np.array([0, 3, 1, 0, -1], np.int32)}
    features = replace(features, **places, z=np.array([9, 2, 2, 4, -1], np.int32))
    first, second = map(strict, rois(features))
    assert [(shape["theZ"], shape["theT"]) for shape in first["shapes"]] == [(9, 0)]
    planes = [(shape.get("theZ"), shape.get("theT")) for shape in second["shapes"]]
    assert planes == [(None, None), (2, 1), (2, 3), (4, 0)]


def test_nothing_is_an_empty_list():
    assert rois(features_of(np.zeros((4, 4), np.uint8))) == []


def test_kinds(kinds):
    shapes = [shape for roi in rois(kinds) for shape in strict(roi)["shapes"]]
    omero = [shape for roi in FORMATS["omero"].encode(kinds) for shape in json.loads(roi)["shapes"]]
    assert [shape["id"] for shape in shapes] == [shape["@id"] for shape in omero]
    for shape, other in zip(shapes, omero, strict=True):
        kind = other["@type"].rpartition("#")[2]
        assert shape["type"] == {"Polyline": "PolyLine"}.get(kind, kind)
        same = {name[0].lower() + name[1:]: other[name] for name in other if re.match("[XYRWH]", name)}
        assert {name: shape[name] for name in same} == same
        if "Points" in other:
            path = "M " + other["Points"].replace(" ", " L ").replace(",", " ")
            assert shape["points"] == (path + " z" if kind == "Polygon" else path)


@given(plane=label_planes())
def test_masks_in_place_of_polygons_are_the_boxes_of_the_parts(plane):
    features = features_of(plane, frame=Frame(1.5, 0.5, 0.25, -3.0))
    polygons = shapely.get_parts(to_shapely(features.polygons))
    shapes = [shape for roi in OMERO_MASKS.encode(features) for shape in strict(roi)["shapes"]]
    plain = [shape for roi in FORMATS["omero"].encode(features) for shape in strict(roi)["shapes"]]
    for shape, polygon, other in zip(shapes, polygons, plain, strict=True):
        x0, y0, x1, y1 = polygon.bounds
        assert shape.pop("@type").endswith("2016-06#Mask")
        box = [shape.pop(name) for name in ("X", "Y", "Width", "Height")]
        assert box[:2] == [np.floor(x0), np.floor(y0)]
        assert box[2:] == [np.ceil(x1) - np.floor(x0), np.ceil(y1) - np.floor(y0)]
        assert shape == {name: other[name] for name in other if name not in ("@type", "Points")}


def test_other_kinds_than_polygons_are_no_masks(kinds):
    plain, masks = (
        [shape for roi in form.encode(kinds) for shape in json.loads(roi)["shapes"]]
        for form in (FORMATS["omero"], OMERO_MASKS)
    )
    for shape, other in zip(plain, masks, strict=True):
        assert other == shape or (shape["@type"].endswith("#Polygon") and other["@type"].endswith("#Mask"))


@given(mask=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_a_picture_has_the_colour_where_the_mask_is(mask):
    picture = Image.open(io.BytesIO(mask_png(mask, (250, 120, 3, 90))))
    assert (picture.mode, picture.format) == ("RGBA", "PNG")
    assert picture.size == (mask.shape[1], mask.shape[0])
    pixels = np.asarray(picture)
    assert (pixels[mask] == (250, 120, 3, 90)).all()
    assert (pixels[~mask] == 0).all()


@pytest.mark.parametrize(
    ("own", "expected"),
    [((1, 2, 3, 40), (1, 2, 3, 40)), ((1, 2, 3, 255), (1, 2, 3, VEIL)), ((1, 2, 3, 0), (1, 2, 3, VEIL))],
)
def test_the_colour_is_the_objects_own_and_can_be_seen(own, expected):
    plane = np.ones((2, 2), np.uint8)
    assert mask_color(features_of(plane, colors={1: own})) == expected


def test_without_a_colour_of_its_own_an_object_has_that_of_its_outline():
    features = features_of(np.ones((2, 2), np.uint8))
    shape = json.loads(FORMATS["omero"].encode(features)[0])["shapes"][0]
    stroke = shape["StrokeColor"].to_bytes(4, "big", signed=True)
    assert mask_color(features) == (*stroke[:3], VEIL)
