"""How commands end when they are stopped, or when what they write to takes no more."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from roiservice.bootstrap import build_services
from roiservice.commands.interrupt import compiled_code
from roiservice.settings import Settings
from tests.e2e.support import COMMAND, Home, end, wait_for
from tests.stores import write_image

STOPPED = (130, "\n")  # exit code and standard error: the terminal has shown ^C without an end of line


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer that is at work in compiled code for seconds."""
    labels = np.random.default_rng(1).integers(0, 3, (4096, 2048)).astype(np.uint16)
    return write_image(
        tmp_path_factory.mktemp("noise") / "noise.zarr", labels={"noise": labels}, chunks=(256, 2048)
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    labels = np.zeros((280, 280), np.uint16)
    labels[::4, ::4] = np.arange(1, 4901).reshape(70, 70)
    return write_image(tmp_path / "image.zarr", labels={"dots": labels})


def half_built(home: Home) -> list[Path]:
    return list((home.path / "cache").rglob("[0-9]*.new"))


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.2, 0.4, 0.6])
def test_ctrl_c_ends_a_build_without_a_traceback(home: Home, noise: Path, delay: float) -> None:
    """Raised below compiled code it would come out as SystemError, be lost, or bring the process down."""
    process = home.start("build", noise)
    wait_for(lambda: half_built(home))
    time.sleep(delay)
    assert end(process, signal.SIGINT) == STOPPED


def test_who_waits_for_another_build_says_so(home: Home, noise: Path) -> None:
    first = home.start("build", noise)
    wait_for(lambda: half_built(home))
    second = home.run("build", noise)
    assert second.stderr == "roiservice: noise noise: another process is building it, and is waited for\n"
    assert first.wait(60) == second.returncode == 0
    assert home.run("build", noise).stderr == ""


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, STOPPED), (signal.SIGTERM, (-15, ""))])
def test_a_build_on_a_cluster_of_its_own_ends_without_a_warning(
    home: Home, noise: Path, number: int, said: tuple[int, str]
) -> None:
    """What its processes shared is deleted by one that would complain of it."""
    process = home.start("build", noise, "--dask", "local")
    wait_for(lambda: half_built(home))
    assert end(process, number) == said


def test_a_build_that_is_ended_leaves_the_old_catalog_and_is_gone_on_with(home: Home, image: Path) -> None:
    places = {"catalog_dir": home.path / "cache/roiservice", "state_dir": home.path / "state/roiservice"}
    services = build_services(Settings(**places), [(None, str(image))])
    layers = services.layers
    (layer,) = layers.of(services.images.page(0, 1)[0]).layers
    old = layers.build(layer)
    labels = np.random.default_rng(1).integers(0, 3, (2200, 2000)).astype(np.uint16)
    shutil.rmtree(image)
    write_image(image, labels={"dots": labels}, chunks=(256, 2000))
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)):
        process = home.start("build", image)
        wait_for(lambda: half_built(home))
        assert end(process, number)[0] == code
        assert layers.existing(layer) is old
        for path in half_built(home):
            shutil.rmtree(path)
    done = home.run("build", image)
    assert (done.returncode, done.stdout) == (0, "image dots: 2 ROIs, 2 features\n")
    new = layers.existing(layer)
    assert new is not None
    assert new.version != old.version


def test_ctrl_c_ends_an_export_and_leaves_no_file(home: Home, noise: Path, tmp_path: Path) -> None:
    assert home.run("build", noise).returncode == 0
    out = tmp_path / "out"
    out.mkdir()
    process = home.start("export", noise, "-o", out / "rois.geojson")
    wait_for(lambda: list(out.iterdir()))
    assert end(process, signal.SIGINT) == STOPPED
    assert list(out.iterdir()) == []


def test_ctrl_c_is_raised_between_two_steps() -> None:
    reached = []

    def steps() -> None:
        with compiled_code() as step:
            step()
            signal.raise_signal(signal.SIGINT)
            reached.append("the rest of the step")
            step()
            reached.append("another step")

    with pytest.raises(KeyboardInterrupt):
        steps()
    assert reached == ["the rest of the step"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_raised_at_the_end() -> None:
    with pytest.raises(KeyboardInterrupt), compiled_code():
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("longest_step", "times"), [(0.1, 1), (3600, 2)])
def test_a_step_that_does_not_end_is_ended(tmp_path: Path, longest_step: float, times: int) -> None:
    """After a while, or by a second Ctrl-C; what nobody would delete is deleted."""
    file = tmp_path / "half"
    file.touch()
    code = f"""
import signal, time
from pathlib import Path
from roiservice.commands import interrupt
interrupt.LONGEST_STEP = {longest_step}
interrupt.unfinished.add(Path({str(file)!r}))
with interrupt.compiled_code():
    for _ in range({times}):
        signal.raise_signal(signal.SIGINT)
    time.sleep(3600)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == STOPPED
    assert not file.exists()


def complaint(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line that a failed command says."""
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    return line


def test_a_closed_standard_output_is_said(home: Home, image: Path, tmp_path: Path) -> None:
    closed = {"preexec_fn": partial(os.close, 1)}
    assert "standard output is closed" in complaint(home.run("export", image, **closed), 2)
    done = home.run("export", image, "-o", tmp_path / "rois.geojson", **closed)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "rois.geojson").read_text() == home.run("export", image).stdout


def test_a_symbolic_link_stays_and_its_file_is_written(home: Home, image: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "rois.geojson", tmp_path / "link.geojson"
    link.symlink_to(target)
    expected = home.run("export", image).stdout
    for _ in range(2):  # leading nowhere, then to a file
        assert home.run("export", image, "-o", link).returncode == 0
        assert link.readlink() == target
        assert target.read_text() == expected
        target.write_text("as it was")


def test_a_symbolic_link_to_itself_is_said(home: Home, image: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.geojson"
    link.symlink_to(link)
    assert str(link) in complaint(home.run("export", image, "-o", link), 2)
    assert link.is_symlink()


@pytest.mark.parametrize("form", ["geojson", "wkt"])
def test_a_full_device_is_said(home: Home, image: Path, form: str) -> None:
    line = complaint(home.run("export", image, "-f", form, "-o", "/dev/full"), 1)
    assert line == "roiservice: /dev/full: No space left on device"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "roiservice", "export", image, "-f", form],
            env=home.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert complaint(done, 1) == "roiservice: standard output: No space left on device"


def files_of_at_most(size: int) -> None:
    """What a full disk does to a process, without a disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_is_said_and_leaves_the_file_as_it_was(home: Home, image: Path, tmp_path: Path) -> None:
    assert home.run("build", image).returncode == 0
    out = tmp_path / "out"
    out.mkdir()
    (out / "rois.geojson").write_text("as it was")
    full = {"preexec_fn": partial(files_of_at_most, 100_000)}
    line = complaint(home.run("export", image, "-o", out / "rois.geojson", **full), 1)
    assert line.startswith(f"roiservice: {out / 'rois.geojson'}: ")
    assert [path.name for path in out.iterdir()] == ["rois.geojson"]
    assert (out / "rois.geojson").read_text() == "as it was"


@pytest.mark.parametrize("command", ["build", "export"])
def test_a_disk_too_full_for_a_catalog_is_said(home: Home, noise: Path, command: str) -> None:
    done = home.run(command, noise, preexec_fn=partial(files_of_at_most, 1_000_000))
    line = complaint(done, 1)
    assert line.startswith(f"roiservice: noise noise: {home.path / 'cache'}")
    assert "Traceback" not in line
    assert list((home.path / "cache").rglob("*.new")) == []
    assert done.stdout == ""


def test_a_disk_too_full_for_numbers_is_said(home: Home, image: Path, tmp_path: Path) -> None:
    for number in range(12):
        shutil.copytree(image, tmp_path / "many" / f"{number + 1}.zarr")
    assert home.run("images", image).returncode == 0
    done = home.run("images", tmp_path / "many", preexec_fn=partial(files_of_at_most, 33_000))
    assert done.returncode == 1
    *why, what = done.stderr.splitlines()
    assert {line.partition(":")[0] for line in why} == {"the registry cannot be used"}
    assert what == "roiservice: the registry of lasting ids does not answer"
    assert home.run("images", tmp_path / "many").returncode == 0


def test_without_standard_error_layers_are_built(home: Home, image: Path) -> None:
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND, "build", str(image)]
    done = subprocess.run(command, env=home.environment, stdout=subprocess.PIPE, text=True, check=True)
    assert "4900 features" in done.stdout.replace(",", "")
