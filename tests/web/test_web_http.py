"""What all answers share: encodings, entity tags, headers, errors, prefixes, and the cache below them."""

import gzip
import logging
import threading

import pytest

from tests.cache.support import RedisServer
from tests.conftest import start_service

ITEMS = "/images/1/collections/labels:squares/items"
PAGES = (
    ITEMS,
    f"{ITEMS}?f=wkt",
    f"{ITEMS}?f=ndjson",
    "/api/v0/m/rois/?image=1",
    "/iviewer/rois_by_plane/2/0/0/",
)
SHORT = ("/", "/images", "/images/1", "/images/1/collections", "/docs", "/openapi.yaml", "/openapi.json")


@pytest.mark.parametrize("url", PAGES + SHORT)
def test_gzip_holds_the_same_bytes(client, url):
    plain = client.get(url, headers={"Accept-Encoding": "identity"})
    packed = client.get(url, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers.get("Content-Encoding", "identity") == (
        "identity" if len(plain.data) < 1000 else "gzip"
    )
    if "Content-Encoding" in packed.headers:
        assert gzip.decompress(packed.data) == plain.data
        assert len(packed.data) < len(plain.data)
        assert packed.headers["ETag"] != plain.headers["ETag"]
    assert packed.headers["Vary"] == plain.headers["Vary"] == VARY
    assert client.get(url, headers={"Accept-Encoding": "gzip;q=0"}).data == plain.data


@pytest.mark.parametrize("url", PAGES + SHORT)
@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_an_unchanged_answer_is_not_sent_again(client, url, encoding):
    headers = {"Accept-Encoding": encoding}
    first = client.get(url, headers=headers)
    tag = first.headers["ETag"]
    assert not tag.startswith("W/")
    assert client.get(url, headers=headers).headers["ETag"] == tag
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        again = client.get(url, headers={**headers, "If-None-Match": known})
        assert (again.status_code, again.data) == (304, b"")
        assert again.headers["Cache-Control"] == "private, no-cache"
    assert client.get(url, headers={**headers, "If-None-Match": '"other"'}).status_code == 200


VARY = "Accept, Accept-Encoding, Authorization, Cookie, Origin"


def test_no_urls_are_made_of_paths_with_and_without_parts_to_fill_in(client):
    rules = list(client.application.url_map.iter_rules())
    assert {bool(rule.arguments) for rule in rules} == {True, False}
    for rule in rules:
        with pytest.raises(NotImplementedError, match="are not made"):
            rule.build(dict.fromkeys(rule.arguments, "1"))


def test_tags_tell_everything_apart(client):
    urls = [
        f"{ITEMS}?{query}"
        for query in ("", "limit=5", "limit=6", "offset=1", "z=0", "f=wkt", "f=geojson", "bbox=0,0,9,9")
    ]
    urls += [
        "/images/1/collections/labels:rings/items",
        "/api/v0/m/rois/?image=1",
        "/iviewer/rois_by_plane/1/0/0/",
    ]
    tags = [client.get(url).headers["ETag"] for url in urls]
    assert len(set(tags)) == len(tags)
    assert client.get(ITEMS, headers={"Host": "other"}).headers["ETag"] not in tags


@pytest.mark.parametrize("url", PAGES + SHORT)
def test_head_is_get_without_a_body(client, url):
    full, head = client.get(url), client.head(url)
    assert head.status_code == 200
    assert head.data == b""
    assert head.headers["ETag"] == full.headers["ETag"]
    if "f=ndjson" not in url:
        assert head.headers["Content-Length"] == full.headers["Content-Length"]


@pytest.mark.parametrize("url", [*PAGES, *SHORT, "/nowhere", "/images/99", f"{ITEMS}?x=1", "/api/v0/m/rois/"])
def test_every_answer_says_what_it_is(client, url):
    response = client.get(url)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Vary"] == VARY
    assert response.headers["Cache-Control"] == (
        "private, no-cache" if response.status_code == 200 else "no-store"
    )


def test_errors_of_the_routing_are_problems(client):
    for url in ("/nowhere", "/images/x", "/images/1/collections/labels:squares/items/x"):
        answer = client.get(url)
        assert (answer.status_code, answer.content_type) == (404, "application/problem+json")
        assert answer.json["instance"] == url
    answer = client.post(ITEMS)
    assert (answer.status_code, answer.content_type) == (405, "application/problem+json")
    assert "GET" in answer.headers["Allow"]
    answer = client.delete("/api/v0/m/rois/")
    assert answer.status_code == 405
    assert list(answer.json) == ["message"]


def test_client_errors_are_logged_in_one_line_without_traceback(client, caplog):
    with caplog.at_level(logging.INFO):
        client.get("/images/1/collections/a%0Ab/items")
        client.get(f"{ITEMS}?limit=0%0Aforged")
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert all(record.exc_info is None and "\n" not in record.getMessage() for record in caplog.records)


def test_an_unexpected_error_shows_nothing_of_itself(sample_folder, tmp_path, caplog):
    service = start_service(sample_folder, catalog_dir=tmp_path / "catalogs", state_dir=tmp_path / "state")

    @service.app.get("/broken")
    @service.app.get("/api/broken", endpoint="broken_api")
    def broken():
        raise KeyError("secret detail")

    for url in ("/broken", "/api/broken"):
        answer = service.client.get(url)
        assert answer.status_code == 500
        assert "secret" not in answer.get_data(as_text=True)
    assert "secret detail" in caplog.text


def test_a_host_that_is_none_is_refused(client):
    for host in ('a"><b', "a b", "a/b"):
        assert client.get("/images", headers={"Host": host}).status_code == 400


def links_of(document):
    return [link["href"] for link in document["links"]]


@pytest.mark.parametrize("taken_off", [False, True])
def test_below_a_prefix_links_lead_back(sample_folder, taken_off):
    client = start_service(sample_folder, script_name="/rois").client
    prefix = "" if taken_off else "/rois"
    for path in ("/", "/images", "/images/1", "/images/1/collections", ITEMS):
        document = client.get(prefix + path).json
        assert all(href.startswith("http://localhost/rois/") for href in links_of(document))
        assert all(client.get(href).status_code == 200 for href in links_of(document) if "/api/" not in href)
    assert client.get(f"{prefix}/images/99").json["type"] == "/rois/docs#not-found"
    assert client.get("/api/v0/m/rois/?image=1").status_code == 200
    assert client.get("/rois/openapi.json").json["servers"] == [{"url": "/rois"}]


def test_a_prefix_that_the_server_gives(client):
    document = client.get("/images", environ_overrides={"SCRIPT_NAME": "/deep/down"}).json
    assert links_of(document)[0].startswith("http://localhost/deep/down/images?")


def test_forwarded_headers_are_believed_only_if_a_setting_says_so(sample_folder, client):
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "public.example", "X-Forwarded-Prefix": "/x"}
    assert links_of(client.get("/", headers=headers).json)[0] == "http://localhost/"
    behind = start_service(sample_folder, forwarded_hops=1).client
    assert links_of(behind.get("/", headers=headers).json)[0] == "https://public.example/x/"


def test_every_link_leads_somewhere(client):
    seen, waiting = set(), ["/"]
    while waiting:
        url = waiting.pop()
        if url in seen:
            continue
        seen.add(url)
        answer = client.get(url)
        assert answer.status_code == 200, url
        if answer.is_json and "offset" not in url:
            document = answer.json
            for part in (document, *document.get("images", ()), *document.get("collections", ())):
                waiting += links_of(part) if "links" in part else []
    assert len(seen) > 40


def test_links_have_the_type_of_what_they_lead_to(client):
    links = (
        client.get("/images/1").json["links"] + client.get("/images/1/collections/labels:rings").json["links"]
    )
    links += client.get(f"{ITEMS}?limit=2").json["links"]
    for link in links:
        assert client.get(link["href"]).content_type.split(";")[0] == link["type"].split(";")[0], link


def test_pages_survive_in_redis_and_without_it(sample_folder, tmp_path):
    server = RedisServer(tmp_path)
    server.start()
    try:
        answers = []
        for _ in range(2):
            client = start_service(sample_folder, redis_url=server.url).client
            answers.append(client.get("/api/v0/m/rois/?image=1").data)
        kept = server.client()
        assert kept.dbsize() == 1
        assert not any(b"localhost" in kept.get(key) for key in kept.scan_iter())
        assert client.get("/readyz").json["parts"]["redis"] == {"status": "ok"}
        server.freeze()
        client = start_service(sample_folder, redis_url=server.url).client
        answers.append(client.get("/api/v0/m/rois/?image=1").data)
        server.thaw()
        server.kill()
        client = start_service(sample_folder, redis_url=server.url).client
        answers.append(client.get("/api/v0/m/rois/?image=1").data)
        assert client.get("/readyz").status_code == 200
        assert client.get("/readyz").json["parts"]["redis"] == {"status": "unreachable"}
        assert len(set(answers)) == 1
    finally:
        server.stop()


def test_without_memory_pages_are_made_each_time(sample_folder):
    client = start_service(sample_folder, cache_bytes=0).client
    assert client.get(ITEMS).data == client.get(ITEMS).data


def test_many_threads_get_the_same_page(sample_folder, tmp_path):
    service = start_service(sample_folder, catalog_dir=tmp_path / "catalogs", build_waiters=64)
    answers = []

    def ask():
        response = service.app.test_client().get("/api/v0/m/rois/?image=1")
        answers.append((response.status_code, response.data))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 1
    assert answers[0][0] == 200


def test_readiness_fails_without_the_registry(sample_folder, tmp_path):
    service = start_service(sample_folder, state_dir=tmp_path / "state")
    assert service.client.get("/readyz").json["status"] == "ok"
    (tmp_path / "nothing").mkdir()
    service = start_service(tmp_path / "nothing" / "here", state_dir=tmp_path / "state")
    answer = service.client.get("/readyz")
    assert (answer.status_code, answer.json["status"]) == (503, "unavailable")
    assert service.client.get("/healthz").status_code == 200
