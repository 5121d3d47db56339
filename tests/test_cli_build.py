"""`roiservice build` of many layers: side by side, in turn, on a cluster; and how it ends."""

from __future__ import annotations

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roiservice.catalog import cluster
from roiservice.catalog.registry import Registry
from roiservice.commands import build as build_module
from roiservice.commands import processes
from roiservice.commands.build import build
from roiservice.errors import EngineFailed, NoRoom, RegistryFailed
from roiservice.sources.limits import Limits
from tests.catalog.support import RULES
from tests.e2e.support import Home, wait_for
from tests.stores import write_image, write_plate

AT_ONCE = """
import sys
from roiservice.commands import build, processes
processes.Processes.ready = property(lambda self: self._ready.wait(60))
build.MANY_IMAGES, build.THREADS = 0, 2
from roiservice.cli import main
main(sys.argv[1:])
"""

Catalogs = dict[str, tuple[dict[str, Any], dict[str, bytes]]]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def labels_of(well: int, field: int) -> np.ndarray:
    """Labels whose number and sizes differ from field to field."""
    chance = np.random.default_rng(10 * well + field)
    return chance.integers(0, 20 + well, (24, 31)).repeat(3, 0).repeat(3, 1).astype(np.uint16)


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    """Twelve wells of two fields."""
    fields = {
        f"{'AB'[well // 6]}/{well % 6 + 1}/{field}": {"cells": labels_of(well, field)}
        for well in range(12)
        for field in range(2)
    }
    return write_plate(tmp_path / "plate.zarr", fields)


@pytest.fixture
def in_home(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """This process has that home."""
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, home.environment[name])
    return home


def built(home: Home) -> Catalogs:
    """All catalogs: what they say of themselves but their numbers, and the bytes of their files."""
    found: Catalogs = {}
    for path in (home.path / "cache").rglob("layer.json"):
        meta = json.loads(path.read_text())
        for number in ("version", "layer_number"):
            del meta[number]  # these are given in the order of builds
        files = {file.name: file.read_bytes() for file in path.parent.iterdir() if file != path}
        found[f"{meta['image_name']} {meta['name']}"] = meta, files
    return found


def disk_bytes(folder: Path) -> int:
    """That the files of a catalog take, as whole blocks."""
    return sum(-(-file.stat().st_size // 4096) * 4096 for file in folder.iterdir())


def run(*paths: Path, **options: Any) -> int:
    given = {"force": False, "dask": None, "overrides": {}, **options}
    return build([(None, str(path)) for path in paths], (), **given)


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes, from the second image on."""
    monkeypatch.setattr(build_module, "MANY_IMAGES", 0)
    monkeypatch.setattr(build_module, "THREADS", 2)
    monkeypatch.setattr(processes.Processes, "ready", property(lambda self: self._ready.wait(60)))


def in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processes."""
    monkeypatch.setattr(build_module, "MANY_IMAGES", 1000)
    monkeypatch.setattr(build_module, "WORTH_PROCESSES", 3600.0)
    monkeypatch.setattr(build_module, "Processes", None)


def test_a_plate_side_by_side_is_the_plate_built_in_turn(
    plate: Path,
    tmp_path: Path,
    in_home: Home,
    side_by_side: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Also what is said, where some of it is damaged, and one layer is too large for a process of its own."""
    (plate / "A/2/0/labels/cells/0/c/0/0").write_bytes(b"damaged")
    (plate / "A/3/1/labels/zarr.json").write_text('{"zarr_format": 3')
    (plate / "B/1/0/labels/cells/zarr.json").write_text("{}")
    large = labels_of(50, 1).repeat(2, 0)
    write_image(plate / "B/4/1", labels={"cells": labels_of(9, 1), "large": large})
    monkeypatch.setattr(processes, "SMALL_PIXELS", 10_000)
    here: list[str] = []
    real = build_module._built
    monkeypatch.setattr(build_module, "_built", lambda *a, **k: here.append(a[1].collection) or real(*a, **k))
    assert run(plate) == 1
    assert here == ["labels:cells", "labels:large"]  # the first of all, and the large one
    at_once, said = built(in_home), capfd.readouterr()
    in_turn(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other" / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other" / "state"))
    assert run(plate) == 1
    assert capfd.readouterr() == said
    assert built(Home(tmp_path / "other")) == at_once
    assert said.out.splitlines() == list(expected_lines(large))
    assert [word in said.err for word in ("chunk (0, 0)", "A/3/1/labels", "B/1/0/labels")] == [True] * 3


def expected_lines(large: np.ndarray) -> Iterator[str]:
    for well in range(12):
        for field in range(2):
            name = f"plate/{'AB'[well // 6]}/{well % 6 + 1}/{field}"
            layers = {"cells": labels_of(well, field)}
            if name.endswith("B/4/1"):
                layers["large"] = large
            if not name.endswith(("A/2/0", "B/1/0")):
                for layer, labels in layers.items():
                    count = len(np.unique(labels)) - 1
                    yield f"{name} {layer}: {count} ROIs, {count} features"


def test_few_small_layers_have_no_processes(
    plate: Path, in_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_turn(monkeypatch)
    assert run(plate) == 0
    assert len(built(in_home)) == 24


def test_many_or_slow_layers_have_processes_and_go_on_until_these_are_ready(
    plate: Path, in_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What slow ones are is told by the second: the first has to load what all need."""
    here: list[str] = []
    started: list[tuple[int, int]] = []

    class NotReady:
        ready = False

        def __init__(self, _services: Any, count: int, _cluster: Any, *, force: bool) -> None:
            assert not force
            started.append((len(here), count))

        def close(self) -> None:
            pass

    monkeypatch.setattr(build_module, "Processes", NotReady)
    monkeypatch.setattr(build_module, "THREADS", 2)
    real = build_module._built
    monkeypatch.setattr(build_module, "_built", lambda *a, **k: here.append(a[1].name) or real(*a, **k))
    for many, worth, expected in ((24, 3600.0, [(0, 3)]), (25, 0.0, [(2, 2)])):
        monkeypatch.setattr(build_module, "MANY_IMAGES", many)
        monkeypatch.setattr(build_module, "WORTH_PROCESSES", worth)
        assert run(plate) == 0
        assert (len(here), started) == (24, expected)
        here.clear()
        started.clear()


def test_equal_bytes_stay_where_they_are(
    plate: Path,
    in_home: Home,
    side_by_side: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patched:
        in_turn(patched)
        assert run(plate) == 0
    said = capfd.readouterr()
    stamps = {path: path.stat().st_mtime_ns for path in (in_home.path / "cache").rglob("layer.json")}
    assert run(plate, force=True) == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert capfd.readouterr() == said


@pytest.mark.parametrize("noticed", ["when its layer is waited for", "when the next one begins"])
def test_a_process_that_is_killed_is_said_once(
    plate: Path, in_home: Home, side_by_side: None, monkeypatch: pytest.MonkeyPatch, noticed: str
) -> None:
    begin = processes.Processes.begin
    begun: list[object] = []

    def kill(self: processes.Processes, layer: Any) -> Any:
        future = begin(self, layer)
        begun.append(future)
        if len(begun) == 3:
            aborted = self._pool.submit(os.abort)
            if noticed == "when the next one begins":
                wait([aborted])
        return future

    monkeypatch.setattr(processes.Processes, "begin", kill)
    with pytest.raises(EngineFailed, match="a process that built layers was killed"):
        run(plate)
    monkeypatch.undo()


def test_what_finds_no_room_beside_others_is_built_when_these_are_done(
    plate: Path,
    in_home: Home,
    side_by_side: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    begin, build_here = processes.Processes.begin, build_module._built
    begun: list[Future[Any]] = []
    here: list[bool] = []

    def begin_some(self: processes.Processes, layer: Any) -> Any:
        if len(begun) == 3:
            begun.append(Future())
            begun[-1].set_exception(NoRoom("others take too much"))
        else:
            begun.append(begin(self, layer))
        return begun[-1]

    def built_here(*arguments: Any, **options: Any) -> Any:
        here.append(all(each.done() for each in begun))
        return build_here(*arguments, **options)

    monkeypatch.setattr(processes.Processes, "begin", begin_some)
    monkeypatch.setattr(build_module, "_built", built_here)
    assert run(plate) == 0
    assert here == [True, True], "the first of all, before there are processes, and the one without room"
    assert len(built(in_home)) == 24
    assert capfd.readouterr().err == ""


def start(home: Home, *arguments: object) -> subprocess.Popen[str]:
    """`roiservice build` with processes from the second image on, in a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", AT_ONCE, "build", *map(str, arguments)],
        env=home.environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def of_session(process: subprocess.Popen[str]) -> list[int]:
    """Processes that a process has started, and theirs, which are still there."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[3]) == process.pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plate whose fields take a while."""
    noise = np.random.default_rng(1).integers(0, 3, (400, 400)).astype(np.uint16)
    fields = {f"A/{well}/0": {"noise": noise if well else noise[:64, :64]} for well in range(6)}
    return write_plate(tmp_path_factory.mktemp("slow") / "plate.zarr", fields)


def begun(home: Home) -> bool:
    """Whether two layers or more are being built."""
    return len(glob.glob(f"{home.path}/cache/*/*/*/[0-9]*.new")) >= 2


def test_ctrl_c_ends_all_processes_and_leaves_nothing_half(home: Home, slow: Path) -> None:
    """In a terminal it goes to all of them."""
    process = start(home, slow)
    wait_for(lambda: begun(home))
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "\n"
    assert process.returncode == 130
    assert not list((home.path / "cache").rglob("*.new"))
    wait_for(lambda: not of_session(process))


def test_a_build_that_was_killed_leaves_no_process_and_no_lock(home: Home, slow: Path) -> None:
    process = start(home, slow)
    wait_for(lambda: begun(home))
    process.kill()
    assert process.communicate(timeout=30)[1] == ""
    wait_for(lambda: not of_session(process))
    assert home.run("build", slow).returncode == 0
    assert len(built(home)) == 6
    assert not list((home.path / "cache").rglob("*.new"))


def test_a_local_cluster_gives_the_same_catalogs(
    plate: Path,
    tmp_path: Path,
    in_home: Home,
    side_by_side: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
) -> None:
    """Of small fields, which are built side by side, and of a z-stack, which takes all workers."""
    stack = np.stack([labels_of(z, 0) for z in range(9)])
    path = write_image(tmp_path / "stack.zarr", labels={"cells": stack}, axes="zyx", chunks=(2, 30, 93))
    paths = (path, plate / "A/1/0", plate / "A/1/1", plate / "B/1/0")
    monkeypatch.setattr(processes, "SMALL_PIXELS", 10_000)
    monkeypatch.setattr(cluster, "THREADS", 1)
    assert run(*paths, dask="local") == 0
    there, said = built(in_home), capfd.readouterr()
    rois = len(np.unique(stack)) - 1
    features = sum(len(np.unique(plane)) - 1 for plane in stack)
    assert f"stack cells: {rois} ROIs, {features} features" in said.out.splitlines()
    shutil.rmtree(in_home.path)
    in_turn(monkeypatch)
    assert run(*paths) == 0
    assert built(in_home) == there
    assert capfd.readouterr() == said


def test_a_scheduler_that_is_not_there_is_one_line(home: Home, plate: Path) -> None:
    done = home.run("build", plate, "--dask", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("roiservice: --dask: nowhere: ")
    assert len(done.stderr.splitlines()) == 1


def test_processes_use_the_registry_that_the_command_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def noted(*arguments: object) -> Registry:
        asked.extend(arguments)
        return Registry(tmp_path)

    with pytest.raises(RegistryFailed):  # another one lies there now
        processes._keeper.__wrapped__(tmp_path, tmp_path, None, "uuid", RULES, Limits(), None)
    monkeypatch.setattr(processes, "registry_again", noted)
    url = "postgresql://h/d"
    processes._keeper.__wrapped__(tmp_path, tmp_path, url, "uuid", RULES, Limits(), None)
    assert asked == [tmp_path, url, "uuid"]


def test_a_quota_that_is_too_low_for_all_is_told(tmp_path: Path, home: Home) -> None:
    stores = [write_image(tmp_path / f"{n}.zarr", labels={"cells": labels_of(n, 1)}) for n in range(3)]
    done = home.run("build", *stores)
    assert (done.returncode, done.stderr) == (0, "")
    layers = [path.parent for path in (home.path / "cache").rglob("layer.json")]
    two = sum(disk_bytes(layer) for layer in sorted(layers)[1:])
    tight = Home(tmp_path / "tight", {"ROISERVICE_CATALOG_BYTES": str(two)})
    done = tight.run("build", *stores)
    assert done.returncode == 0
    assert done.stdout.count("ROIs") == 3
    said = "1 of these catalogs made room for others: ROISERVICE_CATALOG_BYTES is too low for all"
    assert done.stderr == f"roiservice: warning: {said}\n"


def test_a_template_that_matches_nothing_is_told(tmp_path: Path, home: Home) -> None:
    write_image(tmp_path / "7.zarr", labels={"cells": labels_of(1, 1)})
    done = home.run("build", tmp_path / "{image_id}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "roiservice: there is no image: nothing was built\n"
    assert home.run("build", tmp_path / "{image_id}.zarr").returncode == 0
