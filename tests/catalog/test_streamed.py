"""Blocks on many threads, kept in files, written in a stream, killed and resumed: always the same bytes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roiservice.catalog import build as build_module
from roiservice.catalog import cluster, columns, engine, spill, tracing, writer
from roiservice.catalog.build import build_catalog
from roiservice.catalog.registry import Registry
from roiservice.catalog.spill import BlockFiles
from roiservice.catalog.versions import LayerVersion, blocks_folder
from roiservice.errors import RegistryFailed, SourceDamaged
from roiservice.sources.limits import Limits
from roiservice.sources.planes import LabelLayer, open_layer
from roiservice.vectorize.blocks import trace_block
from roiservice.vectorize.outlines import Outline
from roiservice.vectorize.plane import trace_plane
from tests.catalog.oracle import Plane, catalog_files
from tests.catalog.support import keeper_at, layer_key, wait_for
from tests.stores import write_image

KILLED = """
import sys, time
from pathlib import Path
from roiservice.catalog.cluster import Cluster, DaskEngine
from tests.catalog import test_streamed
folder = Path(sys.argv[1])
engine = DaskEngine(Cluster(sys.argv[3])) if sys.argv[3:] else None

def slow(pixels, features):
    if pixels:
        print("block", flush=True)
        time.sleep(float(sys.argv[2]))

test_streamed.small_pieces(setattr)
test_streamed.build(test_streamed.layer_in(folder), folder / "resumed", progress=slow, engine=engine)
"""


def small_pieces(put: Any) -> None:
    """Let the smallest layers go the way of large ones; `put` is setattr or that of monkeypatch."""
    for module, name, value in (
        (build_module, "SPILL_PIXELS", 0),
        (build_module, "SPILL_PIXELS_OF_PLANES", 0),
        (tracing, "BLOCK_PIXELS", 500),
        (tracing, "RUN_VERTICES", 300),
        (engine, "BATCH_PIXELS", 500),
        (cluster, "BATCH_PIXELS", 500),
        (writer, "PIECE_ROWS", 100),
        (columns, "PIECE_BYTES", 1000),
    ):
        put(module, name, value)


def blobs(*shape: int) -> np.ndarray:
    """Labels in patches of 3 x 3 pixels: touching, in several parts, with holes."""
    chance = np.random.default_rng(3)
    small = chance.integers(0, 40, (*shape[:-2], -(-shape[-2] // 3), -(-shape[-1] // 3)))
    return small.repeat(3, -2).repeat(3, -1)[..., : shape[-2], : shape[-1]].astype(np.uint16)


@pytest.fixture
def stack(tmp_path: Path) -> LabelLayer:
    """Two channels of two planes, each of which lies on two z planes of the image."""
    array = blobs(2, 2, 90, 70)
    array[1, 0] = 0
    write_image(
        tmp_path / "1.zarr",
        labels={"cells": array},
        axes="czyx",
        image_shape=(2, 4, 90, 70),
        scale=[1.0, 1.0, 1.0, 1.0],
        label_scale=[1.0, 2.0, 1.0, 1.0],
        chunks=(1, 2, 10, 30),
    )
    return layer_in(tmp_path)


def layer_in(folder: Path) -> LabelLayer:
    return open_layer(layer_key(Registry(folder / "state"), folder / "1.zarr").source, Limits())


def build(layer: LabelLayer, directory: Path, **options: Any) -> None:
    version = LayerVersion(1, 2, "token", Outline())
    options = {"max_vertices": None, **options}
    build_catalog(layer, version, directory, Registry(directory.parent), **options)


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_bytes(
    tmp_path: Path, stack: LabelLayer, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    build(stack, tmp_path / "plain")
    small_pieces(monkeypatch.setattr)
    monkeypatch.setattr(engine, "THREADS", threads)
    build(stack, tmp_path / "pieces")
    assert content(tmp_path / "pieces") == content(tmp_path / "plain")
    assert not blocks_folder(tmp_path / "pieces").exists()


def test_the_bytes_are_those_of_a_writer_that_holds_all_in_memory(
    tmp_path: Path, stack: LabelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch.setattr)
    build(stack, tmp_path / "streamed")
    planes = [
        Plane(
            [tuple(-1 if i is None else i for i in (key.t, key.c, key.z)) for key in plane.keys],
            *trace_plane([stack.read(plane.index, 0, stack.height)]),
        )
        for plane in stack.planes
    ]
    own = json.loads((tmp_path / "streamed" / "layer.json").read_text())
    meta = {name: own[name] for name in own if name not in ("format", "counts", "extent", "property_names")}
    (tmp_path / "plain").mkdir()
    catalog_files(planes, stack.frame, meta, tmp_path / "plain")
    assert content(tmp_path / "streamed") == content(tmp_path / "plain")


@pytest.mark.parametrize("outline", [Outline(simplify=1.0), Outline(smooth=True), Outline(min_area=50)])
def test_options_give_the_same_bytes_in_pieces(
    tmp_path: Path, stack: LabelLayer, monkeypatch: pytest.MonkeyPatch, outline: Outline
) -> None:
    for name in ("plain", "pieces"):
        version = LayerVersion(1, 2, "token", outline)
        build_catalog(stack, version, tmp_path / name, Registry(tmp_path), max_vertices=None)
        small_pieces(monkeypatch.setattr)
    assert content(tmp_path / "pieces") == content(tmp_path / "plain")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of blocks as they are traced from now on."""
    names: list[str] = []
    real = engine.trace_strip
    monkeypatch.setattr(
        engine, "trace_strip", lambda pixels, rows, most: names.append(rows.name) or real(pixels, rows, most)
    )
    return names


def kept_when_interrupted(layer: LabelLayer, directory: Path, traced: list[str], most: int) -> int:
    """Files of blocks that a build leaves which is interrupted once more than so many names are `traced`."""

    def stop(*_: int) -> None:
        if len(traced) > most:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(layer, directory, progress=stop)
    return len(list(blocks_folder(directory).glob("*.block")))


def test_blocks_outlast_a_registry_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch.setattr)
    write_image(tmp_path / "1.zarr", labels={"cells": blobs(90, 70)}, chunks=(10, 70))
    traced = counted(monkeypatch)
    with monkeypatch.context() as patch:

        def gone(*_: object) -> None:
            raise RegistryFailed("connection refused")

        patch.setattr(build_module, "roi_numbers", gone)
        with pytest.raises(RegistryFailed):
            build(layer_in(tmp_path), tmp_path / "2")
    assert len(traced) > 5
    traced.clear()
    build(layer_in(tmp_path), tmp_path / "2")
    assert traced == []
    assert not blocks_folder(tmp_path / "2").exists()


def start(folder: Path, seconds: float, *address: str) -> subprocess.Popen[str]:
    """Build in a process of its own, which rests each time that blocks are traced."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), str(seconds), *address],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.mark.parametrize("times", [1, 7, 15])
def test_a_killed_build_goes_on_from_its_blocks(
    tmp_path: Path, stack: LabelLayer, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    process = start(tmp_path, 0.05)
    assert process.stdout is not None
    for _ in range(times):
        assert process.stdout.readline() == "block\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = len(list(blocks_folder(tmp_path / "resumed").glob("*.block")))
    assert kept >= times
    assert not (tmp_path / "resumed" / "layer.json").exists()
    traced = counted(monkeypatch)
    small_pieces(monkeypatch.setattr)
    build(stack, tmp_path / "resumed")
    assert len(traced) == 4 * 9 - kept
    build(stack, tmp_path / "fresh")
    assert content(tmp_path / "resumed") == content(tmp_path / "fresh")


def test_an_interrupted_build_keeps_its_blocks_and_a_failed_one_does_not(
    tmp_path: Path, stack: LabelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch.setattr)
    for error, kept in ((KeyboardInterrupt, True), (OSError, False)):
        seen: list[int] = []

        def stop(pixels: int, features: int, error: Any = error, seen: list[int] = seen) -> None:
            seen.append(pixels)
            if len(seen) == 5:
                raise error

        with pytest.raises(error):
            build(stack, tmp_path / "2", progress=stop)
        assert blocks_folder(tmp_path / "2").exists() == kept
        assert not (tmp_path / "2").exists()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("build")]


def test_planes_of_one_block_are_gone_on_with_and_never_read_again_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch.setattr)
    write_image(tmp_path / "1.zarr", labels={"cells": blobs(30, 15, 30)}, axes="zyx", chunks=(1, 15, 30))
    layer, traced = layer_in(tmp_path), counted(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(spill.BlockFiles, "load", lambda _, name: pytest.fail(f"{name} is read again"))
        build(layer, tmp_path / "fresh")
        kept = kept_when_interrupted(layer, tmp_path / "2", traced, 40)
    assert kept > 10
    traced.clear()
    build(layer, tmp_path / "2")
    assert len(traced) == 30 - kept
    assert content(tmp_path / "2") == content(tmp_path / "fresh")


@pytest.mark.parametrize(("height", "in_files"), [(15, False), (30, True)])
def test_only_planes_of_several_blocks_need_files_for_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int, in_files: bool
) -> None:
    small_pieces(monkeypatch.setattr)
    monkeypatch.setattr(build_module, "SPILL_PIXELS_OF_PLANES", 10**9)
    kept: list[str] = []
    real = spill.BlockFiles.keep
    monkeypatch.setattr(
        spill.BlockFiles, "keep", lambda files, name, block: kept.append(name) or real(files, name, block)
    )
    write_image(tmp_path / "1.zarr", labels={"cells": blobs(4, height, 30)}, axes="zyx", chunks=(1, 15, 30))
    build(layer_in(tmp_path), tmp_path / "2")
    assert bool(kept) == in_files


def test_who_waits_for_a_block_is_asked_now_and_then(
    tmp_path: Path, stack: LabelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So Ctrl-C need not wait for a block that takes long."""
    monkeypatch.setattr(tracing, "TICK", 0.01)
    asked = threading.Event()

    real = engine.trace_strip

    def trace(*arguments: Any) -> Any:
        assert asked.wait(30)
        return real(*arguments)

    monkeypatch.setattr(engine, "trace_strip", trace)
    build(stack, tmp_path / "2", progress=lambda *_: asked.set())
    assert (tmp_path / "2").exists()


def test_blocks_of_many_planes_that_share_chunks_need_few_files_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks of such planes are traced before the first plane is whole."""
    write_image(tmp_path / "1.zarr", labels={"cells": blobs(60, 90, 30)}, axes="zyx", chunks=(60, 10, 30))
    small_pieces(monkeypatch.setattr)
    monkeypatch.setattr(spill, "_allow_many_files", lambda: None)
    with few_files(100):
        build(layer_in(tmp_path), tmp_path / "2")
    assert (tmp_path / "2").exists()


def test_a_plane_may_have_more_blocks_than_files_are_allowed_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "1.zarr", labels={"cells": blobs(600, 30)}, chunks=(10, 30))
    small_pieces(monkeypatch.setattr)
    with few_files(50):
        build(layer_in(tmp_path), tmp_path / "2")
    assert (tmp_path / "2").exists()


@contextmanager
def few_files(more: int) -> Iterator[None]:
    """This process may open so many more files than it has open, unless it asks for more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_blocks_are_traced_while_planes_before_them_are_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where planes share chunks, all of some are joined at a time, which takes long."""
    write_image(tmp_path / "1.zarr", labels={"cells": blobs(40, 20, 30)}, axes="zyx", chunks=(1, 10, 30))
    small_pieces(monkeypatch.setattr)
    traced = counted(monkeypatch)
    build(
        layer_in(tmp_path),
        tmp_path / "2",
        engine=engine.Threads(1),
        progress=lambda *_: wait_for(lambda: len(traced) > tracing.AHEAD),
    )
    assert len(traced) == 80


def test_pixels_are_told_of_as_they_are_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only when planes are whole, which is late for those that share chunks."""
    write_image(tmp_path / "1.zarr", labels={"cells": blobs(6, 90, 30)}, axes="zyx", chunks=(6, 10, 30))
    small_pieces(monkeypatch.setattr)
    told: list[int] = []
    build(layer_in(tmp_path), tmp_path / "2", progress=lambda pixels, _: told.append(pixels))
    steps = [pixels for pixels in told if pixels]
    assert steps[:9] == [6 * 10 * 30 * 3 // 4] * 9
    assert max(steps[9:]) < 90 * 30 // 4  # the rest with features, some at a time
    assert sum(steps) == 6 * 90 * 30


def test_objects_are_counted_as_they_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only once all of a plane is traced: of a slide that is the end of the build."""
    plane = np.zeros((90, 30), np.uint16)
    plane[2::10, ::2] = 1 + np.arange(9 * 15).reshape(9, 15)
    write_image(tmp_path / "1.zarr", labels={"cells": plane}, chunks=(10, 30))
    small_pieces(monkeypatch.setattr)
    told: list[tuple[int, int]] = []
    build(layer_in(tmp_path), tmp_path / "2", progress=lambda *step: told.append(step))
    done = np.cumsum([pixels for pixels, _ in told])
    objects = [found for _, found in told]
    assert objects == sorted(objects)
    half = int(np.searchsorted(done, 90 * 30 * 3 // 8))
    assert 9 * 15 // 4 < objects[half] < 9 * 15 * 3 // 4
    assert (done[-1], objects[-1]) == (90 * 30, 9 * 15)


def test_blocks_of_another_source_or_damaged_ones_are_traced_again(tmp_path: Path) -> None:
    plane = blobs(30, 40)
    block = trace_block(plane[0] * 0, plane, 0, last=True)
    files = BlockFiles(tmp_path, "one")
    files.keep("0", block)
    kept = files.load("0")
    assert np.array_equal(kept.rings.xy, block.rings.xy)
    assert kept.outlines.parts == block.outlines.parts
    files.release()
    assert np.array_equal(kept.rings.boxes, block.rings.boxes)
    assert files.has("0")
    assert not files.has("1")
    assert not BlockFiles(tmp_path, "other").has("0")
    (tmp_path / "1.block").write_bytes((tmp_path / "0.block").read_bytes())
    assert not files.has("1")  # it is another block's
    path = tmp_path / "0.block"
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:-50] + b"?" + whole[-49:], bytes(len(whole)), whole + b"x"):
        path.write_bytes(damaged)
        assert not files.has("0")
    path.write_bytes(whole)
    assert files.has("0")


@pytest.mark.parametrize("reason", ["time", "room"])
def test_first_blocks_are_held_until_files_are_worth_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    plane = blobs(30, 40)
    block = trace_block(plane[0] * 0, plane, 0, last=True)
    monkeypatch.setattr(spill, "HELD_FOR", 3600.0)
    files = BlockFiles(tmp_path, "one", held=True)
    for name in ("0", "1"):
        files.keep(name, block)
    assert files.load("0") is block
    assert not list(tmp_path.iterdir())
    later = time.monotonic() + spill.HELD_FOR
    if reason == "time":
        monkeypatch.setattr(time, "monotonic", lambda: later)
    else:
        monkeypatch.setattr(spill, "HELD_BYTES", 100)
    files.keep("2", block)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.block", "2.block"]
    assert files.load("1") is block
    assert np.array_equal(files.load("2").rings.xy, block.rings.xy)
    monkeypatch.undo()
    files.keep("3", block)
    assert (tmp_path / "3.block").exists(), "once there are files, there is one for each"


def test_no_more_is_held_however_fast_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plane that is joined has all its blocks until its end, whoever gave them."""
    plane = blobs(30, 40)
    block = trace_block(plane[0] * 0, plane, 0, last=True)
    files = BlockFiles(tmp_path, "one", held=True)
    files.keep("0", block)
    monkeypatch.setattr(spill, "HELD_BYTES", 2 * files._held_bytes)
    loaded = [files.load("0")]
    for name in ("1", "2"):
        files.keep(name, block)
        loaded.append(files.load(name))
    assert [each is block for each in loaded] == [True, True, False]


def test_a_build_that_is_over_soon_writes_no_blocks(
    tmp_path: Path, stack: LabelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(stack, tmp_path / "plain")
    small_pieces(monkeypatch.setattr)
    monkeypatch.setattr(build_module, "SPILL_PIXELS_OF_PLANES", stack.pixels)
    monkeypatch.setattr(spill, "HELD_FOR", 3600.0)  # however slow this machine is
    monkeypatch.setattr(spill, "_write", None)
    build(stack, tmp_path / "pieces")
    assert content(tmp_path / "pieces") == content(tmp_path / "plain")


@pytest.mark.parametrize(("most", "in_files"), [(0, True), (10_000, True), (2**26, False)])
def test_a_build_that_held_blocks_is_gone_on_with(
    tmp_path: Path, stack: LabelLayer, monkeypatch: pytest.MonkeyPatch, most: int, in_files: bool
) -> None:
    build(stack, tmp_path / "plain")
    small_pieces(monkeypatch.setattr)
    monkeypatch.setattr(build_module, "SPILL_PIXELS_OF_PLANES", stack.pixels)
    monkeypatch.setattr(spill, "HELD_FOR", 3600.0)
    monkeypatch.setattr(spill, "HELD_BYTES", most)
    traced = counted(monkeypatch)
    kept = kept_when_interrupted(stack, tmp_path / "2", traced, 20)
    assert bool(kept) == in_files
    traced.clear()
    build(stack, tmp_path / "2")
    assert len(traced) == 4 * 9 - kept
    assert content(tmp_path / "2") == content(tmp_path / "plain")


def test_a_damaged_chunk_ends_the_build_whatever_waits_for_it(
    tmp_path: Path, stack: LabelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch.setattr)
    monkeypatch.setattr(engine, "THREADS", 4)
    (chunk,) = (tmp_path / "1.zarr/labels/cells/0").glob("c/0/0/3/1")
    chunk.write_bytes(b"damaged")
    with pytest.raises(SourceDamaged, match="chunk"):
        build(stack, tmp_path / "2")
    assert not list(tmp_path.glob("2*"))


def test_a_forced_build_does_not_trust_what_another_has_left(
    tmp_path: Path, stack: LabelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch.setattr)
    keeper = keeper_at(tmp_path)
    layer = layer_key(Registry(tmp_path / "state"), tmp_path / "1.zarr")
    traced = counted(monkeypatch)

    def interrupt(pixels: int, features: int) -> None:
        wait_for(lambda: len(traced) >= 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keeper.build(layer, progress=interrupt)
    assert list(keeper.current.directory(layer).glob("*.blocks/*"))
    assert keeper.existing(layer) is None
    traced.clear()
    keeper.build(layer, force=True)
    assert len(traced) == 4 * 9
