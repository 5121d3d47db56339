"""Files of chunks where nothing can be listed: named by the array's grid, and asked for one by one."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from roiservice.catalog.registry import Registry
from roiservice.catalog.task import LayerKey
from roiservice.errors import SourceDamaged
from roiservice.sources.chunks import chunk_files
from roiservice.sources.layer import LayerSource
from roiservice.sources.remote import store as remote_store
from roiservice.sources.remote import transport
from roiservice.sources.tokens import ChunkState, chunk_state, source_token
from tests.catalog.support import keeper_at
from tests.sources.remote.server import Served
from tests.sources.remote.support import described, windows_read
from tests.sources.support import LIMITS, edit_array, listing_of
from tests.stores import write_image, zip_store

CELLS = np.kron(np.arange(1, 65).reshape(8, 8), np.ones((8, 8))).astype(np.uint16)
LEVEL = "labels/cells/0"
FORMATS: list[dict[str, Any]] = [
    {"version": "0.5", "chunks": (16, 16)},
    {"version": "0.5", "chunks": (8, 8), "shards": (16, 16)},
    {"version": "0.4", "chunks": (16, 16)},
]


def source_of(served: Served, folder: Path, **written: Any) -> tuple[LayerSource, Path]:
    """A layer of 64 cells in 4 x 4 files behind the server, and the folder of its level 0."""
    path = write_image(folder / "a.zarr", labels={"cells": CELLS}, **written)
    (source,) = listing_of(f"{served.url}/a.zarr").layers  # type: ignore[arg-type]
    served.headers.clear()
    return source, path / LEVEL


def state_of(source: LayerSource) -> ChunkState:
    state = chunk_state(source, LIMITS)
    assert state is not None
    return state


def heads(served: Served) -> Counter[str]:
    """How often the version of each file was asked for since they were last forgotten."""
    asked = Counter(request["path"] for request in served.headers if request["method"] == "HEAD")
    served.headers.clear()
    return asked


@pytest.mark.parametrize("written", FORMATS)
@pytest.mark.parametrize("missing", [404, 403])
def test_tokens_see_every_chunk(
    tmp_path: Path, server: Served, written: dict[str, Any], missing: int
) -> None:
    server.faults.missing = missing
    source, level = source_of(server, tmp_path, **written)
    tokens = [source_token(source, LIMITS)]
    assert source_token(source, LIMITS) == tokens[0]
    zarr.open_array(level, mode="r+")[40, 40] = 0
    tokens.append(source_token(source, LIMITS))
    name = state_of(source).names[-1]
    content = (level / name).read_bytes()
    (level / name).unlink()
    tokens.append(source_token(source, LIMITS))
    (level / name).write_bytes(content + b"\0")
    tokens.append(source_token(source, LIMITS))
    assert len(set(tokens)) == 4
    assert source_token(source, LIMITS) == tokens[-1]


@pytest.mark.parametrize("written", FORMATS)
def test_names_are_those_of_the_folder(tmp_path: Path, server: Served, written: dict[str, Any]) -> None:
    source, level = source_of(server, tmp_path, **written)
    zarr.open_array(level, mode="r+")[16:32] = 0  # some chunks that are not stored
    for folder in (level / "c" / "1", level / "1"):
        shutil.rmtree(folder, ignore_errors=True)
    (local,) = listing_of(tmp_path / "a.zarr").layers
    state, expected = state_of(source), state_of(local)
    assert (state.names, state.sizes) == (expected.names, expected.sizes)
    assert len(state.names) == 12
    assert len(set(state.marks)) > 1


def test_each_look_asks_once(tmp_path: Path, server: Served) -> None:
    source, _ = source_of(server, tmp_path, **FORMATS[1])
    for look in (source_token, chunk_state):
        look(source, LIMITS)
        documents = Counter(each["path"] for each in server.headers if each["method"] == "GET")
        assert max(documents.values()) == 1
        asked = heads(server)
        assert len(asked) == 16
        assert set(asked.values()) == {1}


def test_a_build_looks_once(tmp_path: Path, server: Served) -> None:
    source, level = source_of(server, tmp_path, **FORMATS[1])
    keeper = keeper_at(tmp_path)
    key = LayerKey(Registry(tmp_path / "state").layer_number(1, source.collection), source)
    for _ in range(2):
        keeper.build(key)
        asked = heads(server)
        assert len(asked) == 16
        assert set(asked.values()) == {1}
        zarr.open_array(level, mode="r+")[56:, 56:] = 0


def test_more_files_than_are_asked_for(
    tmp_path: Path, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_store, "ASKED_FILES", 15)
    source, level = source_of(server, tmp_path, **FORMATS[0])
    token = source_token(source, LIMITS)
    zarr.open_array(level, mode="r+")[40, 40] = 0
    assert source_token(source, LIMITS) == token
    assert chunk_state(source, LIMITS) is None
    assert not heads(server)
    monkeypatch.setattr(remote_store, "ASKED_FILES", 16)
    assert source_token(source, LIMITS) != token
    assert len(state_of(source).names) == 16


def test_versions_from_dates_alone(tmp_path: Path, server: Served) -> None:
    server.faults.etags = False
    source, level = source_of(server, tmp_path, **FORMATS[0])
    before, token = state_of(source), source_token(source, LIMITS)
    os.utime(level / before.names[5], (1e9, 1e9))
    after = state_of(source)
    assert [one == other for one, other in zip(before.marks, after.marks, strict=True)].index(False) == 5
    assert source_token(source, LIMITS) != token


def test_without_versions_no_state_is_told(tmp_path: Path, server: Served) -> None:
    server.faults.etags = server.faults.dates = False
    source, level = source_of(server, tmp_path, **FORMATS[0])
    token = source_token(source, LIMITS)
    assert source_token(source, LIMITS) == token
    assert chunk_state(source, LIMITS) is None
    zarr.open_array(level, mode="r+")[:16, :16] = np.arange(256).reshape(16, 16)  # of another size
    assert source_token(source, LIMITS) != token


@pytest.mark.parametrize("head", [401, 405, 500, 503])
def test_servers_without_head(tmp_path: Path, server: Served, head: int) -> None:
    """What GET says in place of HEAD is as certain: the same state, and errors where it fails as well."""
    source, level = source_of(server, tmp_path, **FORMATS[0])
    (level / "c" / "1" / "1").unlink()
    state, token = state_of(source), source_token(source, LIMITS)
    server.faults.head = head
    assert state_of(source) == state
    assert source_token(source, LIMITS) == token
    for status in (401, 503):
        server.faults.on = {"c/2/1": (status, -1)}
        with pytest.raises(SourceDamaged, match=str(status)):
            chunk_state(source, LIMITS)


@pytest.mark.parametrize("status", [403, 404])
def test_servers_that_answer_head_in_another_way(tmp_path: Path, server: Served, status: int) -> None:
    """That no chunk is there must not be taken for known: all that there was would be what there is."""
    source, _ = source_of(server, tmp_path, **FORMATS[0])
    server.faults.on = {"cells/0/c/": (status, -1)}
    assert chunk_state(source, LIMITS) is None
    server.faults.on = {"cells/0/c/2/1": (403, -1)}
    assert chunk_state(source, LIMITS) is None
    server.faults.on = {"cells/0/c/2/1": (404, -1)}
    assert len(state_of(source).names) == 15


def test_faults_are_errors(tmp_path: Path, server: Served) -> None:
    source, _ = source_of(server, tmp_path, **FORMATS[0])
    token, state = source_token(source, LIMITS), chunk_state(source, LIMITS)
    server.faults.on = {"c/2/1": (503, -1)}
    for look in (source_token, chunk_state):
        with pytest.raises(SourceDamaged, match=r"503 Service Unavailable .3 tries"):
            look(source, LIMITS)
    server.faults.on = {"c/2/1": (503, 2)}
    assert source_token(source, LIMITS) == token
    server.faults.on = {"c/2/1": (503, 2)}
    assert chunk_state(source, LIMITS) == state


def test_arrays_whose_chunks_cannot_be_named(tmp_path: Path, server: Served) -> None:
    source, level = source_of(server, tmp_path, **FORMATS[0])
    unusable: list[dict[str, Any]] = [
        {"chunk_grid": {"name": "rectilinear", "configuration": {"chunk_shapes": [[16] * 4] * 2}}},
        {"chunk_grid": 3},
        {"shape": [64, -64]},
        {"shape": []},
    ]
    for changes in unusable:
        content = (level / "zarr.json").read_text()
        edit_array(level, **changes)
        source_token(source, LIMITS)
        assert chunk_state(source, LIMITS) is None
        (level / "zarr.json").write_text(content)
    (level / "zarr.json").write_text("no JSON")
    source_token(source, LIMITS)
    assert chunk_state(source, LIMITS) is None
    assert not heads(server)


def test_zip_files_are_asked_for_as_one(tmp_path: Path, server: Served) -> None:
    zip_store(write_image(tmp_path / "a.zarr", labels={"cells": CELLS}, chunks=(16, 16)))
    (source,) = listing_of(f"{server.url}/a.ozx").layers  # type: ignore[arg-type]
    heads(server)
    source_token(source, LIMITS)
    assert chunk_state(source, LIMITS) is None
    assert set(heads(server)) == {"a.ozx"}


V3 = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [20, 30],
    "data_type": "uint16",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10, 20]}},
    "chunk_key_encoding": {"name": "default"},
    "fill_value": 0,
    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
}
V2 = {
    "zarr_format": 2,
    "shape": [20, 30],
    "chunks": [10, 20],
    "dtype": "<u2",
    "compressor": None,
    "fill_value": 0,
    "order": "C",
    "filters": None,
}


@pytest.mark.parametrize(
    ("metadata", "first"),
    [
        (V3, "c/0/0"),
        ({**V3, "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}}}, "c.0.0"),
        ({**V3, "chunk_key_encoding": {"name": "v2"}}, "0.0"),
        ({**V3, "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "/"}}}, "0/0"),
        (V2, "0.0"),
        ({**V2, "dimension_separator": "/"}, "0/0"),
    ],
)
def test_names_of_all_encodings(metadata: dict[str, Any], first: str) -> None:
    names = [first[:-3] + f"{y}{first[-2]}{x}" for y in (0, 1) for x in (0, 1)]
    assert chunk_files(metadata, 4) == names
    assert chunk_files(metadata, 3) == []
    assert chunk_files({**metadata, "shape": [10**30, 10**30]}, 256) == []
    assert chunk_files({**metadata, "shape": "20"}, 256) == []
    assert chunk_files({}, 256) == []


def test_only_changed_chunks_are_traced_again(
    tmp_path: Path, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, level = source_of(server, tmp_path, **FORMATS[1])
    keeper = keeper_at(tmp_path, check_interval=0.0)
    key = LayerKey(Registry(tmp_path / "state").layer_number(1, source.collection), source)
    first = keeper.build(key)
    assert keeper.build(key).version == first.version
    read = windows_read(monkeypatch)
    zarr.open_array(level, mode="r+")[56:, 56:] = 0
    catalog = keeper.build(key)
    assert read == [((0, 0, 0), 48, 64, (48, 64))]
    assert len(first.features["area"]) == 64
    assert len(catalog.features["area"]) == 63


def test_the_service_notices_a_changed_chunk(tmp_path: Path, server: Served) -> None:
    source, level = source_of(server, tmp_path, **FORMATS[2])
    keeper = keeper_at(tmp_path, check_interval=0.0)
    key = LayerKey(Registry(tmp_path / "state").layer_number(1, source.collection), source)
    assert len(keeper.catalog(key).features["area"]) == 64
    zarr.open_array(level, mode="r+")[56:, 56:] = 0
    keeper._refresh(key)
    assert len(keeper.catalog(key).features["area"]) == 63


def test_looks_count_little(tmp_path: Path, server: Served) -> None:
    """256 files: one request each beside those for documents."""
    path = write_image(tmp_path / "a.zarr", labels={"cells": CELLS}, chunks=(4, 4), version="0.4")
    (source,) = listing_of(f"{server.url}/a.zarr").layers  # type: ignore[arg-type]
    traffic = transport.connect(transport.origin_of(server.url)).traffic
    before = traffic.requests, traffic.bytes
    source_token(source, LIMITS)
    assert traffic.requests - before[0] < 256 + 20
    assert traffic.bytes - before[1] < 20_000
    assert described(f"{server.url}/a.zarr") == described(path)
