"""Stores in S3 buckets, against a server that speaks S3."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from roiservice.catalog.registry import Registry
from roiservice.catalog.task import LayerKey
from roiservice.errors import SourceDamaged, SourceError, SourceRefused
from roiservice.sources.images import ImageSource
from roiservice.sources.limits import Limits
from roiservice.sources.remote import s3
from roiservice.sources.remote import store as remote_store
from roiservice.sources.remote.listings import read_page
from roiservice.sources.remote.opening import open_remote
from roiservice.sources.remote.s3 import S3Objects
from roiservice.sources.remote.store import RemoteStore
from roiservice.sources.roots import open_store
from roiservice.sources.tokens import chunk_state, source_token
from tests.catalog.support import keeper_at
from tests.sources.remote.server import answering
from tests.sources.remote.support import described, windows_read
from tests.sources.support import LIMITS, blobs, found, layer_at, listing_of, whole
from tests.stores import write_image, write_plate, zip_store

moto_server = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server that speaks S3 and forgets everything at the end."""
    running = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def client(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """boto3's client for it, with a bucket `data`; the environment names the server and its keys."""
    import boto3
    import requests

    settings(monkeypatch, endpoint)
    requests.post(f"{endpoint}/moto-api/reset", timeout=5)
    made = boto3.client("s3", region_name="us-east-1", endpoint_url=endpoint)
    made.create_bucket(Bucket="data")
    return made


def settings(monkeypatch: pytest.MonkeyPatch, endpoint: str, **more: str) -> None:
    """The environment of somebody with keys for one server, and nothing else."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    values = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        "AWS_EC2_METADATA_DISABLED": "true",
        **more,
    }
    for name, value in values.items():
        if value:
            monkeypatch.setenv(name, value)


def upload(client: Any, folder: Path, prefix: str = "") -> None:
    for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
        if path.is_file():
            client.upload_file(str(path), "data", prefix + path.relative_to(folder.parent).as_posix())


@pytest.mark.parametrize("version", ["0.1", "0.4", "0.5"])
def test_answers_are_those_of_the_folder(tmp_path: Path, client: Any, version: str) -> None:
    labels = blobs(2, 24, 24)
    path = write_image(
        tmp_path / "7.zarr",
        labels={"cells": labels, "odd näme #1 50%/0 +1": labels},
        version=version,
        axes="zyx",
    )
    upload(client, path, "in side/")
    local = described(path)
    assert described("s3://data/in side/7.zarr") == local
    assert local[0] == ("", "7", 7)


def test_unlisted_labels_are_found_by_listing(tmp_path: Path, client: Any) -> None:
    path = write_image(tmp_path / "a.zarr", labels={"deep/cells": blobs(8, 8)}, listed=False)
    upload(client, path)
    assert [layer.name for layer in listing_of("s3://data/a.zarr").layers] == ["deep/cells"]


def test_folders_of_stores(tmp_path: Path, client: Any) -> None:
    folder = tmp_path / "all"
    write_image(folder / "b" / "2.zarr", labels={"cells": blobs(8, 8)})
    write_image(folder / "1.zarr", labels={"cells": blobs(8, 8)}, version="0.4")
    zip_store(write_image(folder / "3.zarr", labels={"cells": blobs(8, 8)}))
    write_plate(folder / "p.zarr", {"A/1/0": {"cells": blobs(8, 8)}})
    (folder / "notes").mkdir()
    (folder / "notes" / "readme.txt").write_text("hello")
    upload(client, folder)
    local = described(folder)
    assert described("s3://data/all") == local
    assert described("s3://data") == local
    assert [image.location for image in found("s3://data") if isinstance(image, ImageSource)][:2] == [
        "s3://data/all/1.zarr",
        "s3://data/all/3.ozx",
    ]


def test_zip_files(tmp_path: Path, client: Any) -> None:
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(64, 64)}, chunks=(16, 16), shards=(32, 32))
    archive = zip_store(path)
    upload(client, archive)
    assert described("s3://data/a.ozx") == described(archive)
    layer = layer_at("s3://data/a.ozx")
    archive.write_bytes(archive.read_bytes() + b"\0")
    upload(client, archive)
    with pytest.raises(SourceDamaged, match="was replaced while it was being read"):
        whole(layer)


def test_tokens_see_every_chunk(tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = blobs(32, 32)
    path = write_image(tmp_path / "a.zarr", labels={"cells": labels}, chunks=(8, 8))
    upload(client, path)
    (source,) = listing_of("s3://data/a.zarr").layers
    token = source_token(source, LIMITS)
    assert source_token(source, LIMITS) == token
    client.put_object(Bucket="data", Key="a.zarr/labels/cells/0/c/3/3", Body=b"changed")
    changed = source_token(source, LIMITS)
    assert changed != token
    client.delete_object(Bucket="data", Key="a.zarr/labels/cells/0/c/3/3")
    assert source_token(source, LIMITS) != changed
    state = chunk_state(source, LIMITS)
    assert state is not None
    assert len(state.names) < 16
    monkeypatch.setattr(remote_store, "LISTED_KEYS", 3)
    monkeypatch.setattr(s3, "_PAGE_KEYS", 2)
    assert chunk_state(source, LIMITS) is None
    few = source_token(source, LIMITS)
    client.put_object(Bucket="data", Key="a.zarr/labels/cells/0/c/3/2", Body=b"changed")
    assert source_token(source, LIMITS) == few


def test_only_changed_chunks_are_traced_again(
    tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.kron(np.arange(1, 65).reshape(8, 8), np.ones((8, 8))).astype(np.uint16)
    path = write_image(tmp_path / "a.zarr", labels={"cells": labels}, chunks=(8, 8))
    upload(client, path)
    keeper = keeper_at(tmp_path)
    (source,) = listing_of("s3://data/a.zarr").layers
    key = LayerKey(Registry(tmp_path / "state").layer_number(1, source.collection), source)
    keeper.build(key)
    zarr.open_array(path / "labels/cells/0", mode="r+")[3:5, 60:] = 0
    chunk = "labels/cells/0/c/0/7"
    client.put_object(Bucket="data", Key=f"a.zarr/{chunk}", Body=(path / chunk).read_bytes())
    read = windows_read(monkeypatch)
    catalog = keeper.build(key)
    assert read == [((0, 0, 0), 0, 8, (56, 64))]
    assert catalog.features["area"][:].tolist().count(56.0) == 1
    assert len(catalog.features["area"]) == 64


def test_listings_of_many_pages(tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_PAGE_KEYS", 3)
    monkeypatch.setattr(remote_store, "LISTED_ENTRIES", 10)
    for number in range(10):
        client.put_object(Bucket="data", Key=f"a.zarr/labels/{number}/zarr.json", Body=b"{}")
    client.put_object(Bucket="data", Key="a.zarr/zarr.json", Body=b"{}")
    store = open_store("s3://data/a.zarr", LIMITS)
    assert store.children("labels") == [str(number) for number in range(10)]
    assert [name for name, _, _ in store.files("labels/3")] == ["labels/3/zarr.json", "labels/3/zarr.json"]
    client.put_object(Bucket="data", Key="a.zarr/labels/10/zarr.json", Body=b"{}")
    with pytest.raises(SourceRefused, match="more than 10 entries"):
        store.children("labels")


def test_missing_things_are_named(client: Any) -> None:
    with pytest.raises(SourceDamaged, match="holds no OME-Zarr image"):
        found("s3://data/none.zarr")
    with pytest.raises(SourceDamaged, match="there is no such bucket"):
        found("s3://nobody/none.zarr")
    with pytest.raises(SourceDamaged, match="there is no such file"):
        found("s3://data/none.ozx")


def test_without_keys_requests_are_not_signed(
    tmp_path: Path, client: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8)})
    upload(client, path)
    keyed = S3Objects("s3://data/a.zarr")
    assert keyed._account.sign is not None
    settings(monkeypatch, endpoint, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert S3Objects("s3://data/a.zarr")._account.sign is None
    with pytest.raises(SourceDamaged, match="403 Forbidden to requests without a signature"):
        found("s3://data/a.zarr")
    for file in client.list_objects_v2(Bucket="data")["Contents"]:
        client.put_object_acl(Bucket="data", Key=file["Key"], ACL="public-read")
    assert described("s3://data/a.zarr") == described(path)
    settings(monkeypatch, endpoint, AWS_NO_SIGN_REQUEST="YES")
    assert S3Objects("s3://data/a.zarr")._account.sign is None


def test_profiles_of_the_configuration_count(
    tmp_path: Path, client: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(
        f"[profile lab]\nregion = eu-west-1\nendpoint_url = {endpoint}\n"
        "aws_access_key_id = lab\naws_secret_access_key = s3cret\n"
    )
    more = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_PROFILE": "lab"}
    settings(monkeypatch, "", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="", **more)
    objects = S3Objects("s3://data/a")
    assert objects._account.endpoint == endpoint
    assert objects._account.region == "eu-west-1"
    signed = objects._signed("GET", f"{endpoint}/data/a", {})
    assert "Credential=lab/" in signed["Authorization"]
    monkeypatch.setenv("AWS_PROFILE", "none")
    with pytest.raises(SourceRefused, match="none"):
        S3Objects("s3://data/a")


def test_accounts_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    settings(monkeypatch, "http://user:s3cret@host:9000?x")
    with pytest.raises(SourceRefused, match="AWS_ENDPOINT_URL") as caught:
        open_store("s3://data/a", LIMITS)
    assert "s3cret" not in str(caught.value)
    assert caught.value.store == "s3://data/a"
    settings(monkeypatch, "", AWS_REGION="evil.example/")
    with pytest.raises(SourceRefused, match="AWS_REGION"):
        open_store("s3://data/a", LIMITS)


def test_keys_without_botocore_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_session", lambda: None)
    s3._account_of.cache_clear()
    settings(monkeypatch, "http://127.0.0.1:1")
    with pytest.raises(SourceRefused, match=r"roiservice\[s3\]"):
        open_store("s3://data/a", LIMITS)
    settings(monkeypatch, "http://127.0.0.1:1", AWS_ACCESS_KEY_ID="")
    assert S3Objects("s3://data/a")._account.sign is None
    s3._account_of.cache_clear()


def test_amazon_wants_the_bucket_in_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    settings(monkeypatch, "", AWS_REGION="eu-west-1")
    for bucket, base in (
        ("data", "https://data.s3.eu-west-1.amazonaws.com"),
        ("with.dots", "https://s3.eu-west-1.amazonaws.com/with.dots"),
    ):
        assert S3Objects(f"s3://{bucket}/a b")._url("c") == f"{base}/a%20b/c"


@pytest.mark.parametrize(
    ("status", "headers", "body", "reason"),
    [
        (403, {}, b"<Error><Code>AccessDenied</Code></Error>", "403 Forbidden to requests with a signature"),
        (403, {}, b"<Error><Code>SignatureDoesNotMatch</Code></Error>", "SignatureDoesNotMatch"),
        (403, {}, b"<Error><Code>InvalidAccessKeyId</Code></Error>", "InvalidAccessKeyId"),
        (400, {}, b"<Error><Code>ExpiredToken</Code></Error>", "ExpiredToken"),
        (301, {"x-amz-bucket-region": "eu-west-1"}, b"", "region eu-west-1; set AWS_REGION"),
        (307, {"Location": "http://127.0.0.2:1/data/a"}, b"", "307 Temporary Redirect"),
        (503, {}, b"<Error><Code>SlowDown</Code></Error>", "503 Service Unavailable .3 tries"),
    ],
)
def test_what_the_server_refuses_is_said(
    monkeypatch: pytest.MonkeyPatch, status: int, headers: dict[str, str], body: bytes, reason: str
) -> None:
    with answering(status, body, headers) as url:
        settings(monkeypatch, url)
        with pytest.raises(SourceError, match=reason) as caught:
            found("s3://data/a.zarr")
        assert caught.value.store == "s3://data/a.zarr"
        assert "s3cret" not in str(caught.value)


def test_buckets_that_cannot_be_listed(tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8)})
    upload(client, path)
    monkeypatch.setattr(S3Objects, "listing", lambda *_, **__: None)
    assert described("s3://data/a.zarr") == described(path)


PAGE = b"""<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>
<Contents><Key>a%2Fb+c</Key><Size>3</Size><ETag>"x"</ETag><Owner><ID>1</ID></Owner></Contents>
<CommonPrefixes><Prefix>a%2Fd%2F</Prefix></CommonPrefixes></ListBucketResult>"""


def test_pages_are_read() -> None:
    page = read_page(PAGE)
    assert page.folders == ("a/d/",)
    assert page.token == "t"
    ((key, version),) = page.files
    assert (key, version.size) == ("a/b c", 3)
    assert read_page(PAGE.replace(b"<EncodingType>url</EncodingType>", b"")).files[0][0] == "a%2Fb+c"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "line 1: no element found"),
        (b"{}", "line 1: not well-formed"),
        (PAGE[:-5], "line 4: unclosed token"),
        (b"<html></html>", "is a html"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><ListBucketResult/>', "has a document type"),
        (b"<a>" * 100, "nested too deep"),
        (PAGE.replace(b"<Size>3</Size>", b""), "entry has no size"),
        (PAGE.replace(b"<Size>3", b"<Size>" + b"9" * 5000), "entry has no size"),
        (PAGE.replace(b"<Key>a%2Fb+c</Key>", b""), "entry has no Key"),
        (PAGE.replace(b"<NextContinuationToken>t</NextContinuationToken>", b""), "not say how to go on"),
        (PAGE.replace(b"a%2Fb+c", b"a" * 20_000), "an element that is too long"),
    ],
)
def test_pages_that_are_none(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_page(data)


def pages(tokens: Iterable[str], last: bytes = b"") -> Iterator[bytes]:
    """Empty pages with these tokens, then a last one that holds `last`."""
    for token in tokens:
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
        yield f"<ListBucketResult>{more}</ListBucketResult>".encode()
    yield b"<ListBucketResult>" + last + b"</ListBucketResult>"


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        (map(str, range(1000)), "does not end its listing: 20 pages hold 0 entries"),
        (["a", "b", "a"], "repeats itself in its listing"),
    ],
)
def test_listings_that_do_not_end(
    monkeypatch: pytest.MonkeyPatch, tokens: Iterable[str], reason: str
) -> None:
    sent = pages(tokens)
    with answering(200, lambda: next(sent), {}) as url:
        settings(monkeypatch, url)
        with pytest.raises(SourceDamaged, match=reason) as caught:
            S3Objects("s3://data/a").listing("b", 1)
    assert (caught.value.store, caught.value.part) == ("s3://data/a", "b")


def test_empty_pages_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = pages(map(str, range(10)), b"<Contents><Key>a/b</Key><Size>3</Size></Contents>")
    with answering(200, lambda: next(sent), {}) as url:
        settings(monkeypatch, url)
        listing = S3Objects("s3://data/a").listing("", 1)
    assert listing is not None
    assert [name for name, _ in listing.files] == ["b"]
    assert listing.complete


def test_pages_may_hold_few_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of servers that give no more than 100 at a time."""
    entries = b"<Contents><Key>a/b</Key><Size>3</Size></Contents>" * 100
    sent = (
        page.replace(b"</ListBucketResult>", entries + b"</ListBucketResult>")
        for page in pages(map(str, range(99)))
    )
    with answering(200, lambda: next(sent), {}) as url:
        settings(monkeypatch, url)
        listing = S3Objects("s3://data/a").listing("", remote_store.LISTED_KEYS)
    assert listing is not None
    assert len(listing.files) == 10_000
    assert listing.complete


def test_names_that_are_no_paths_are_left_out() -> None:
    page = read_page(PAGE.replace(b"a%2Fb+c", b"a%2F..").replace(b"a%2Fd%2F", b"a%2F%2F"))
    listing = s3._below("a/", page, complete=True)
    assert listing.folders == ()
    assert listing.files == ()


def test_sizes_are_limited(tmp_path: Path, client: Any) -> None:
    upload(client, write_image(tmp_path / "a.zarr", labels={"cells": blobs(8, 8)}))
    store = open_remote("s3://data/a.zarr", Limits(shard_bytes=3))
    assert isinstance(store, RemoteStore)
    with pytest.raises(SourceRefused, match="3 are allowed"):
        store.chunk("labels/cells/0/c/0/0")
