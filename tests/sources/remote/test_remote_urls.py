"""URLs: one spelling each, and no secrets in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from roiservice.errors import SourceRefused
from roiservice.sources.remote.urls import bucket_and_key, file_name, is_url, normalized_url
from roiservice.sources.roots import absolute


@pytest.mark.parametrize(
    ("given", "normalized"),
    [
        ("https://Host.Example/a.zarr/", "https://host.example/a.zarr"),
        ("HTTPS://host:443//a//b.zarr", "https://host/a/b.zarr"),
        ("http://host:80/", "http://host"),
        ("http://host:8080/a b/ü.zarr", "http://host:8080/a%20b/%C3%BC.zarr"),
        ("http://host/a%20b/50%25.zarr", "http://host/a%20b/50%25.zarr"),
        ("http://[::1]:80/a.zarr", "http://[::1]/a.zarr"),
        ("s3://bucket/", "s3://bucket"),
        ("S3://bucket//a b/50%.zarr/", "s3://bucket/a b/50%.zarr"),
    ],
)
def test_normalized(given: str, normalized: str) -> None:
    assert is_url(given)
    assert normalized_url(given) == normalized
    assert normalized_url(normalized) == normalized
    assert absolute(given) == normalized


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("https://anna:s3cret@host/a.zarr", "user or password"),
        ("https://s3cret@host/a.zarr", "user or password"),
        ("https://host/a.zarr?token=s3cret", "query"),
        ("https://host/a.zarr#s3cret", "fragment"),
        ("ftp://anna:s3cret@host/a.zarr", "ftp:// is not supported"),
        ("https:///a.zarr", "names no host"),
        ("https://host:port/a.zarr", "no usable URL"),
        ("https://host/a/../b.zarr", "segments"),
        ("https://host/a/%2e%2E/b.zarr", "segments"),
        ("s3://bucket/a/../b.zarr", "segments"),
        ("s3:///a.zarr", "names no bucket"),
        ("s3://s3cret@bucket/a.zarr", "names no bucket"),
    ],
)
def test_refused_without_telling_secrets(given: str, reason: str) -> None:
    with pytest.raises(SourceRefused, match=reason) as caught:
        normalized_url(given)
    assert "s3cret" not in str(caught.value)


def test_paths_are_no_urls(tmp_path: Path) -> None:
    for path in ("a.zarr", "/a/b.zarr", "http:/host/a.zarr", "~/a.zarr", Path("s3://bucket/a")):
        assert not is_url(path)
    assert absolute(tmp_path) == str(tmp_path.resolve())


def test_names() -> None:
    assert file_name("https://host/a%20b.zarr") == "a b.zarr"
    assert file_name("s3://bucket/a%20b.zarr") == "a%20b.zarr"
    assert file_name("s3://bucket") == "bucket"
    assert bucket_and_key("s3://bucket/a/b") == ("bucket", "a/b")
    assert bucket_and_key("s3://bucket") == ("bucket", "")
