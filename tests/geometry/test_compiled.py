"""Tests of how inner loops are compiled and kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TRACE = """
import sys
import numpy as np
from roiservice.vectorize.plane import trace_plane
labels, polygons = trace_plane([np.full((2, 3), 7, np.uint32)])
print(labels.tolist(), polygons.xy.tolist(), "scipy.linalg" in sys.modules)
"""


def test_what_was_compiled_before_is_loaded_without_the_compiler() -> None:
    def traced() -> str:
        return subprocess.run(
            [sys.executable, "-c", TRACE], check=True, capture_output=True, text=True
        ).stdout

    traced()  # it may have to be compiled
    assert traced() == "[7] [[0, 0], [3, 0], [3, 2], [0, 2]] False\n"


CONSTANTS = """
MORE = {more}
least = {least}
"""
INNER = """
from constants import MORE, least
from roiservice.geometry.compiled import compiled

@compiled
def more(value):
    return least(value, 3) + MORE{change}
"""
OUTER = """
import numpy as np
from inner import more
from roiservice.geometry.compiled import compiled

@compiled
def total(values):
    result = 0
    for value in values:
        result += more(value)
    return result

ones = np.full(4, 1)
sums = [total(ones.astype(dtype)) for dtype in (np.int64, np.int8, np.float32)]
print(*sums, sum(total.stats.cache_misses.values()))
"""


@pytest.fixture(scope="module")
def compiled_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "outer.py").write_text(OUTER)
    write_inner(folder)
    assert totals(folder) == "8 8 8.0 3"
    return folder


@pytest.fixture
def modules(compiled_modules: Path, tmp_path: Path) -> Path:
    return shutil.copytree(compiled_modules, tmp_path / "modules")


def write_inner(folder: Path, more: int = 1, change: str = "", least: str = "min") -> None:
    (folder / "constants.py").write_text(CONSTANTS.format(more=more, least=least))
    (folder / "inner.py").write_text(INNER.format(change=change))


def totals(folder: Path, before: str = "") -> str:
    """What a new process gives: three sums, and how many had to be compiled."""
    command = [sys.executable, "-c", f"{before}\nimport outer"]
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.stderr == ""
    return done.stdout.strip()


def kept(folder: Path) -> list[Path]:
    """Files of the compiled `total`."""
    return sorted(folder.glob("__pycache__/outer.total-*.nbc"))


def test_code_is_kept_for_each_type(modules: Path) -> None:
    assert totals(modules) == "8 8 8.0 0"
    assert len(kept(modules)) == 3
    os.utime(modules / "outer.py")
    assert totals(modules) == "8 8 8.0 0"


@pytest.mark.parametrize(
    ("change", "total"),
    [({"more": 2}, "12 12 12.0"), ({"change": " * 2"}, "12 12 12.0"), ({"least": "max"}, "16 16 16.0")],
)
def test_code_is_compiled_anew_when_something_changes_that_it_calls_elsewhere(
    modules: Path, change: dict[str, Any], total: str
) -> None:
    write_inner(modules, **change)
    assert totals(modules) == f"{total} 3"
    assert totals(modules) == f"{total} 0"
    assert len(kept(modules)) == 3


def test_no_code_is_taken_that_was_compiled_for_another_type(modules: Path) -> None:
    first, *others = kept(modules)
    for other in others:
        other.write_bytes(first.read_bytes())
    assert totals(modules) == "8 8 8.0 2"
    assert totals(modules) == "8 8 8.0 0"


@pytest.mark.parametrize("size", [0, 10, 40, 1000, -1])
def test_damaged_code_is_compiled_anew(modules: Path, size: int) -> None:
    for file in kept(modules):
        file.write_bytes(file.read_bytes()[:size])
    assert totals(modules) == "8 8 8.0 3"
    assert totals(modules) == "8 8 8.0 0"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_code_with_a_hole_in_it_is_compiled_anew(modules: Path, share: float) -> None:
    """To run it would end the process."""
    for file in kept(modules):
        content = bytearray(file.read_bytes())
        first = int(share * len(content))
        content[first : first + 512] = bytes(512)
        file.write_bytes(content)
    assert totals(modules) == "8 8 8.0 3"


def test_where_there_is_no_room_nothing_is_kept(modules: Path) -> None:
    for file in kept(modules):
        file.unlink()
    no_room = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    assert totals(modules, no_room) == "8 8 8.0 3"
    assert [path.name for path in modules.glob("__pycache__/outer.total*")] == []
