"""OMERO.web's and OMERO.iviewer's paths."""

import pytest

from tests.conftest import start_service

LISTS = ("/api/v0/m/rois/?image=2", "/api/v0/m/images/2/rois/?", "/api/v0/m/images/2/rois?")


def get(client, url, status=200, **headers):
    response = client.get(url, headers=headers)
    assert response.status_code == status, response.get_data(as_text=True)
    return response


def ids(client, url):
    return [roi["@id"] for roi in get(client, url).json["data"]]


def texts(client, url):
    return [roi["shapes"][0]["Text"] for roi in get(client, url).json["data"]]


@pytest.mark.parametrize("url", LISTS)
def test_a_list_has_data_and_meta(client, url):
    response = get(client, f"{url}&limit=3&offset=1&_=1700000000000&owner=5")
    assert response.content_type == "application/json"
    assert response.json["meta"] == {"totalCount": 8, "limit": 3, "offset": 1, "maxLimit": 500}
    assert len(response.json["data"]) == 3


def test_lists_page_through_all_layers_in_the_order_of_ids(client):
    url = "/api/v0/m/rois/?image=1"
    everything = ids(client, url)
    assert len(everything) == 50
    assert everything == sorted(everything)
    assert [
        i for offset in range(0, 56, 7) for i in ids(client, f"{url}&limit=7&offset={offset}")
    ] == everything
    assert get(client, f"{url}&limit=1&offset=1").json["meta"]["totalCount"] == 50


@pytest.mark.parametrize(
    ("query", "limit", "offset", "number"),
    [
        ("", 200, 0, 8),
        ("limit=0", 0, 0, 0),
        ("limit=-1&offset=-9", 200, 0, 8),
        ("limit=9999", 500, 0, 8),
        ("offset=8", 200, 8, 0),
        ("offset=99999999999999999999", 200, 2**53 - 1, 0),
    ],
)
def test_limits_are_taken_as_omero_takes_them(client, query, limit, offset, number):
    answer = get(client, f"/api/v0/m/images/2/rois/?{query}").json
    assert len(answer["data"]) == number
    assert answer["meta"] == {"totalCount": 8, "limit": limit, "offset": offset, "maxLimit": 500}


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("/api/v0/m/rois/", 404),
        ("/api/v0/m/rois/?image=3", 404),
        ("/api/v0/m/rois/?image=99999999999999999999999", 404),
        ("/api/v0/m/rois/?image=x", 400),
        ("/api/v0/m/rois/?image=1&limit=x", 400),
        ("/api/v0/m/images/3/rois/", 404),
        ("/api/v0/m/rois/7/", 404),
        ("/api/v0/m/nothing/", 404),
        ("/iviewer/rois_by_plane/3/0/0/", 404),
        ("/iviewer/rois_by_plane/1/x/0/", 404),
        ("/iviewer/plane_shape_counts/3/", 404),
        ("/iviewer/roi/7/page_data/", 404),
        ("/iviewer/shape/7/page_data/", 404),
        ("/iviewer/mask/7/page_data/", 404),
    ],
)
def test_errors_have_a_message(client, url, status):
    response = get(client, url, status)
    assert response.content_type == "application/json"
    assert list(response.json) == ["message"]


def test_one_roi(client):
    for roi in get(client, "/api/v0/m/rois/?image=2").json["data"]:
        assert get(client, f"/api/v0/m/rois/{roi['@id']}/").json == {"data": roi}
        for shape in roi["shapes"]:
            get(client, f"/api/v0/m/rois/{shape['@id']}/", 404)


def test_rois_by_plane_send_all_shapes_of_the_rois_that_have_any_there(client):
    url = "/iviewer/rois_by_plane/2"
    assert texts(client, f"{url}/0/0/") == ["1", "10"]
    assert texts(client, f"{url}/0/1") == ["1", "13"]
    assert texts(client, f"{url}/1-2/0/") == ["1", "5", "11", "12"]
    assert texts(client, f"{url}/0-2/0-1/") == texts(client, "/api/v0/m/rois/?image=2")
    assert texts(client, f"{url}/9/9/") == []
    first = get(client, f"{url}/0/0/?limit=1").json
    assert len(first["data"][0]["shapes"]) == 6
    assert first["meta"]["totalCount"] == 2


def test_shape_counts(client):
    assert get(client, "/iviewer/plane_shape_counts/2/").json == {"data": [[2, 2], [3, 2], [3, 2]]}
    assert get(client, "/iviewer/plane_shape_counts/1").json == {"data": [[51]]}


@pytest.mark.parametrize("image", [1, 2])
def test_page_data_is_the_place_in_the_list(client, image):
    everything = get(client, f"/api/v0/m/rois/?image={image}").json["data"]
    for index, roi in enumerate(everything):
        data = get(client, f"/iviewer/roi/{roi['@id']}/page_data/").json
        assert data == {
            "image": {"id": image},
            "roi": {"id": roi["@id"]},
            "roi_index": index,
            "roi_count": len(everything),
        }


@pytest.mark.parametrize("image", [1, 2])
def test_page_data_of_a_shape_is_the_place_in_the_list_of_its_plane(client, image):
    for roi in get(client, f"/api/v0/m/rois/?image={image}").json["data"]:
        for shape in roi["shapes"]:
            data = get(client, f"/iviewer/shape/{shape['@id']}/page_data").json
            listed = ids(client, f"/iviewer/rois_by_plane/{image}/{shape['TheZ']}/{shape['TheT']}/?limit=500")
            assert listed[data["roi_index"]] == roi["@id"] == data["roi"]["id"]
            assert data["roi_count"] == len(listed)
            assert (data["theZ"], data["theT"]) == (shape["TheZ"], shape["TheT"])


def test_image_data_leads_to_omero(client):
    roi = get(client, "/api/v0/m/rois/?image=2").json["data"][0]
    for path in (f"/iviewer/roi/{roi['@id']}", f"/iviewer/shape/{roi['shapes'][-1]['@id']}"):
        assert get(client, f"{path}/image_data/", 302).headers["Location"] == "../../../image_data/2/"
        assert get(client, f"{path}/image_data", 302).headers["Location"] == "../../image_data/2/"


def test_ids_of_the_other_kind_are_unknown(client):
    roi = get(client, "/api/v0/m/rois/?image=2").json["data"][0]
    get(client, f"/iviewer/shape/{roi['@id']}/page_data/", 404)
    get(client, f"/iviewer/roi/{roi['shapes'][0]['@id']}/page_data/", 404)
    get(client, f"/iviewer/roi/{roi['@id'] + 1000}/image_data/", 404)


def test_a_site_may_prefer_masks(sample_folder):
    client = start_service(sample_folder, masks=True).client
    shapes = [
        shape
        for roi in get(client, "/api/v0/m/rois/?image=1&limit=500").json["data"]
        for shape in roi["shapes"]
    ]
    assert {shape["@type"].rpartition("#")[2] for shape in shapes} == {"Mask"}
    ring = next(shape for shape in shapes if shape["Text"] == "7" and shape["Width"] == 20)
    assert [ring[name] for name in ("X", "Y", "Width", "Height")] == [10, 10, 20, 20]
    picture = get(client, f"/webgateway/render_shape_mask/{ring['@id']}/")
    assert picture.content_type == "image/png"
    everything = get(client, "/api/v0/m/rois/?image=1&limit=500").data
    assert start_service(sample_folder).client.get("/api/v0/m/rois/?image=1&limit=500").data != everything
