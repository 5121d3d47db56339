"""Parameters, parsed without an app."""

import contextlib
from urllib.parse import urlencode

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict

from roiservice.errors import BadParameter, NotFound
from roiservice.web.conditions import with_properties
from roiservice.web.negotiate import accepts_gzip, format_name, prefers_html
from roiservice.web.params import LARGEST, LONGEST_KEPT, Paging, image_id, items, lenient_paging, paging

CRS = "http://localhost/def/crs/pixel"


def parse(**given):
    pairs = {name.replace("_", "-"): value for name, value in given.items()}
    return items(urlencode(pairs).encode(), CRS, 10_000)


def refused(**given):
    with pytest.raises(BadParameter) as error:
        parse(**given)
    return error.value.parameter


def test_nothing_given_means_everything():
    asked = parse()
    assert asked.query.by_plane_only
    assert (asked.limit, asked.offset, asked.filters, asked.f) == (None, 0, (), None)


def test_long_query_strings_do_not_fill_the_memory():
    short, long = b"label=1", b"label=" + b",".join(b"%d" % label for label in range(LONGEST_KEPT))
    assert items(short, CRS, 9) is items(short, CRS, 9)
    assert items(long, CRS, 9) == items(long, CRS, 9)
    assert items(long, CRS, 9) is not items(long, CRS, 9)


def test_all_filters():
    asked = parse(
        bbox="0,1.5,20,30", z="2-5", t="1", c="0", label="7,3,7", min_area="2.5", limit="9", offset="4"
    )
    query = asked.query
    assert query.bbox == (0, 1.5, 20, 30)
    assert (query.z, query.t, query.c) == ((2, 5), (1, 1), (0, 0))
    assert query.labels == (3, 7)
    assert query.min_area == 2.5
    assert (asked.limit, asked.offset) == (9, 4)
    assert dict(asked.filters) == {
        "bbox": "0,1.5,20,30",
        "z": "2-5",
        "t": "1",
        "c": "0",
        "label": "3,7",
        "min-area": "2.5",
    }


def test_labels_may_be_repeated():
    assert items(b"label=5&label=4,-3&label=18446744073709551615", CRS, 10).query.labels == (
        -3,
        4,
        5,
        2**64 - 1,
    )


def test_a_box_with_z_is_a_range_of_planes():
    assert parse(bbox="0,0,3,9,9,3").query.z == (3, 3)
    assert parse(bbox="0,0,0.5,9,9,2.9").query.z == (0, 2)
    assert parse(bbox="0,0,1,9,9,8", z="0-4").query.z == (1, 4)
    assert parse(bbox="0,0,-1e300,9,9,1e300").query.z == (-1, 2**31)


@pytest.mark.parametrize(
    "text",
    ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "nan,0,1,1", "0,0,inf,1", "5,0,1,1", "0,0,9,1,1,2", "1,2,3,4,"],
)
def test_boxes_that_are_none(text):
    assert refused(bbox=text) == "bbox"


@pytest.mark.parametrize("text", ["", "-1", "5-2", "1/2", "1..2", "1-", "x", "1.0", " 1", "1" * 10, "²"])
def test_indices_that_are_none(text):
    assert refused(z=text) == "z"


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1.5", "1e3", "²", "-" + "9" * 5000])
def test_limits_that_are_none(text):
    assert refused(limit=text) == "limit"


@pytest.mark.parametrize("text", ["", "-1", "x"])
def test_offsets_that_are_none(text):
    assert refused(offset=text) == "offset"


def test_numbers_of_any_length():
    assert parse(limit="9" * 5000).limit == 10_000
    assert parse(offset="9" * 5000).offset == LARGEST


@pytest.mark.parametrize(
    ("name", "text"), [("label", "x"), ("label", "1,,2"), ("label", ""), ("min-area", "nan")]
)
def test_other_values_that_are_none(name, text):
    assert refused(**{name: text}) == name


def test_only_one_frame():
    assert parse(crs=CRS, bbox_crs=CRS).filters == (("bbox-crs", CRS), ("crs", CRS))
    assert refused(crs="http://www.opengis.net/def/crs/OGC/1.3/CRS84") == "crs"
    assert refused(bbox_crs="x") == "bbox-crs"


def test_unknown_and_repeated_parameters():
    with pytest.raises(BadParameter, match="there is no such parameter here") as error:
        with_properties(items(b"colour=red", CRS, 10), {})
    assert error.value.parameter == "colour"
    with pytest.raises(BadParameter, match="more than once"):
        items(b"z=1&z=2", CRS, 10)
    assert items(b"_=1&_=2", CRS, 10) == items(b"", CRS, 10)


def test_an_unknown_parameter_of_a_layer_with_very_many_properties_names_some_of_them():
    genes = {f"gene {number:05}": pa.array([1.0]) for number in range(1000)}
    with pytest.raises(BadParameter, match=r"simplify, .*gene 00019, and 980 properties more") as error:
        with_properties(items(b"colour=red", CRS, 10), genes)
    assert len(str(error.value)) < 1000
    with pytest.raises(BadParameter, match=r"gene 00019$"):
        with_properties(items(b"colour=red", CRS, 10), dict(list(genes.items())[:20]))


@given(st.binary(max_size=60))
def test_any_bytes_are_parsed_or_refused(query_string):
    with contextlib.suppress(BadParameter):
        items(query_string, CRS, 10)


names = st.sampled_from(["limit", "offset", "bbox", "z", "t", "c", "label", "min-area", "crs", "_"])
values = st.text("0123456789-,.eE+naif ", max_size=12)


@given(st.lists(st.tuples(names, values), max_size=3))
def test_equal_filters_are_parsed_alike(pairs):
    try:
        asked = items(urlencode(pairs).encode(), CRS, 10)
    except BadParameter:
        return
    assert items(urlencode(asked.filters).encode(), CRS, 10).query == asked.query
    assert items(urlencode(asked.filters).encode(), CRS, 10).filters == asked.filters


def test_paging_of_our_own_paths():
    assert paging(MultiDict(), 200, 10_000) == Paging(200, 0)
    assert paging(MultiDict({"limit": "99999", "offset": "3"}), 200, 10_000) == Paging(10_000, 3)
    assert paging(MultiDict(), 200, 100) == Paging(100, 0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Paging(200, 0)),
        ({"limit": "-5", "offset": "-5"}, Paging(200, 0)),
        ({"limit": "0"}, Paging(0, 0)),
        ({"limit": "501", "offset": "9"}, Paging(500, 9)),
        ({"limit": "7", "other": "x"}, Paging(7, 0)),
    ],
)
def test_paging_as_omero_takes_it(given, expected):
    assert lenient_paging(MultiDict(given), 200, 500) == expected


def test_paging_that_is_no_number():
    with pytest.raises(BadParameter):
        lenient_paging(MultiDict({"limit": "many"}), 200, 500)


def test_the_image_of_omeros_list():
    assert image_id(MultiDict({"image": "12"})) == 12
    with pytest.raises(NotFound):
        image_id(MultiDict())
    with pytest.raises(BadParameter):
        image_id(MultiDict({"image": "x"}))


@pytest.mark.parametrize(
    ("accept", "name"),
    [
        ("", "geojson"),
        ("*/*", "geojson"),
        ("application/json", "geojson"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "geojson"),
        ("image/png", "geojson"),
        ("text/csv", "wkt"),
        ("application/x-ndjson, application/geo+json;q=0.5", "ndjson"),
    ],
)
def test_the_accept_header_names_a_format(accept, name):
    assert format_name(None, accept) == name


def test_f_names_a_format():
    assert format_name("qupath", "text/csv") == "qupath"
    with pytest.raises(BadParameter):
        format_name("shapefile", "")


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", False),
        ("gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("*", True),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("br;q=1", False),
        ("gzip;q=x", False),
    ],
)
def test_gzip_only_for_those_who_take_it(header, wanted):
    assert accepts_gzip(header) is wanted


def test_browsers_prefer_html():
    assert prefers_html("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
    assert not prefers_html("application/json, text/javascript, */*; q=0.01")
    assert not prefers_html("*/*")
    assert not prefers_html("")
