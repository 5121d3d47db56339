"""The command line itself: what it takes, how it fails, how fast it starts."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.support import COMMAND, Home, base_url, end, serving
from tests.stores import write_image

COMMANDS = ("build", "demo", "export", "images", "serve")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    labels = np.zeros((20, 30), np.uint16)
    labels[2:6, 2:6] = 1
    return write_image(tmp_path / "image.zarr", labels={"cells": labels})


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed command says."""
    (line,) = done.stderr.splitlines()
    assert line.startswith("roiservice: ")
    return line


def test_no_call_has_memory_mapped_anew(home: Home) -> None:
    """Wherever in the chain of calls a function is called over and over."""
    code = """
import resource
from roiservice import cli

def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def nothing(): pass

def most_faults(depth):
    before = faults()
    for _ in range(300): nothing()
    own = faults() - before
    return max(own, most_faults(depth - 1)) if depth else own

cli.roiservice.main = lambda *arguments, **options: print(most_faults(300))
cli.main([])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100


def test_help_names_every_command(home: Home) -> None:
    done = home.run("--help")
    assert done.returncode == 0
    assert all(f"  {command}  " in done.stdout for command in COMMANDS)
    assert home.run().stdout == done.stdout


def test_version_is_the_package_version(home: Home) -> None:
    from roiservice import __version__

    assert home.run("--version").stdout == f"roiservice {__version__}\n"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_starts_fast(command: str) -> None:
    """Nothing that takes long to import is imported before a command runs."""
    trace = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], *command.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in trace.splitlines()}
    assert "click" in imported
    heavy = {"numpy", "numba", "zarr", "pyarrow", "flask", "shapely", "rich", "gunicorn", "redis", "asyncio"}
    assert not heavy & imported


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export"], "Missing argument 'PATH'"),
        (["export", "x", "--format", "pdf"], "'pdf' is not one of"),
        (["export", "x", "-z", "5-2"], "ends before it begins"),
        (["export", "x", "-t", "first"], "neither an index"),
        (["export", "x", "--min-area", "-1"], "-1"),
        (["export", "x", "--smooth", "--simplify", "2"], "ROISERVICE_SMOOTH"),
        (["serve"], "Missing argument"),
        (["serve", "x", "--port", "65536"], "65536"),
        (["serve", "x", "--workers", "0"], "0"),
        (["serve", "x", "--host", "no-such-host.invalid"], "no-such-host.invalid"),
        (["fly"], "No such command 'fly'"),
        (["build", "x", "--fast"], "--fast"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(home: Home, arguments: list[str], words: str) -> None:
    done = home.run(*arguments)
    assert done.returncode == 2
    assert words in complaint(done)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("variable", "text"),
    [("ROISERVICE_PAGE_LIMIT", "many"), ("ROISERVICE_NO_SUCH", "1"), ("ROISERVICE_REDIS_URL", "http://x")],
)
def test_a_bad_setting_is_named(tmp_path: Path, image: Path, variable: str, text: str) -> None:
    done = Home(tmp_path / "home", {variable: text}).run("images", image)
    assert done.returncode == 2
    assert variable in complaint(done)


@pytest.mark.parametrize("command", ["serve", "build", "images", "export"])
def test_a_path_that_is_not_there_is_named(home: Home, tmp_path: Path, command: str) -> None:
    done = home.run(command, tmp_path / "nowhere")
    assert done.returncode == 1
    assert str(tmp_path / "nowhere") in complaint(done)


@pytest.mark.parametrize("command", ["serve", "images"])
def test_two_images_with_one_id_are_both_named(home: Home, image: Path, tmp_path: Path, command: str) -> None:
    other = write_image(tmp_path / "other.zarr", labels={"cells": np.ones((5, 5), np.uint8)})
    done = home.run(command, f"7={image}", f"7={other}")
    assert done.returncode == 2
    assert str(image) in complaint(done)
    assert str(other) in complaint(done)


def test_an_address_that_others_reach_must_be_allowed(home: Home, image: Path) -> None:
    refused = home.run("serve", image, "--host", "0.0.0.0", "--port", 0)
    assert refused.returncode == 2
    assert "--public-address" in complaint(refused)
    with serving(home, image, "--host", "0.0.0.0", "--public-address", "--workers", 1) as running:
        assert running.base.startswith("http://0.0.0.0:")
        assert running.json("/healthz")


def test_ipv6_loopback_is_served(home: Home, image: Path) -> None:
    with serving(home, image, "--host", "::1", "--workers", 1) as running:
        assert running.base.startswith("http://[::1]:")
        assert running.json("/healthz")


def test_a_port_in_use_is_said_at_once(home: Home, image: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = home.run("serve", image, "--port", port)
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in complaint(done)


def test_every_url_that_serve_prints_answers(home: Home, image: Path) -> None:
    process = home.start("serve", "--port", 0, "--workers", 1, f"5={image}")
    try:
        base = base_url(process)
        assert process.stdout is not None
        # The first URL has been read; an empty line ends the list.
        urls = [line.split()[0] for line in iter(process.stdout.readline, "\n")]
        assert [url.removeprefix(base) for url in urls] == [
            "/docs",
            "/images/5/collections/labels:cells/items",
            "/api/v0/m/rois/?image=5",
        ]
        assert all(urllib.request.urlopen(url).status == 200 for url in urls)
    finally:
        end(process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_serve_ends_cleanly(home: Home, image: Path, number: int, workers: int) -> None:
    process = home.start("serve", "--port", 0, "--workers", workers, image)
    with urllib.request.urlopen(f"{base_url(process)}/healthz"):
        pass  # it answers, so it is up
    assert end(process, number) == (0, "")


def test_processes_share_no_open_database_and_no_control_socket(home: Home, image: Path) -> None:
    with serving(home, image, "--workers", 1) as running:
        assert running.json("/images")["images"]
        opened = [path.readlink().name for path in Path(f"/proc/{running.process.pid}/fd").iterdir()]
        assert not [name for name in opened if name.startswith("registry")]
        assert not [path for path in home.path.rglob("*") if path.is_socket()]


def test_demo_serves_coins(home: Home) -> None:
    with serving(home, command="demo") as running:
        page = running.json("/images/1/collections/labels:coins/items")
        assert page["numberMatched"] == 24
        table = running.json("/images/1/collections/labels:table/items")["features"]
        assert [len(feature["geometry"]["coordinates"]) for feature in table] == [25]


def test_demo_is_written_once(home: Home, tmp_path: Path) -> None:
    done = home.run("demo", "--build-only", tmp_path / "demo")
    assert done.returncode == 0
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["coins.zarr"]
    again = home.run("demo", "--build-only", tmp_path / "demo")
    assert again.returncode == 1
    assert "coins.zarr is there already" in complaint(again)


def test_garbage_is_looked_for_again_once_a_command_is_imported(home: Home, image: Path) -> None:
    code = f"""
import gc
from roiservice import cli
cli.roiservice.main(["images", {str(image)!r}], standalone_mode=False)
print(gc.isenabled(), gc.get_freeze_count() > 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=home.environment
    )
    assert done.stdout.splitlines()[-1] == "True True"
