"""Tests of how inner loops are compiled and kept."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from roiservice.geometry.compiled import compiled

TRACE = """
import sys
import numpy as np
from roiservice.vectorize.plane import trace_plane
labels, polygons = trace_plane([np.full((2, 3), 7, np.uint32)])
print(labels.tolist(), polygons.xy.tolist(), "numba" in sys.modules)
"""


def test_what_was_compiled_before_runs_without_the_compiler() -> None:
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
compiler = vars(total).get("_dispatcher")
print(*sums, len(compiler.overloads) if compiler else 0)
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
    return sorted(folder.glob("__pycache__/outer.total.*.kept"))


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


def test_code_is_kept_for_the_source_that_it_was_made_from(modules: Path) -> None:
    """Even if another source lies in its place by then, as after an upgrade beside a running service."""
    write_inner(modules, change=" * 2")
    before = (modules / "inner.py").read_text()
    write_inner(modules)
    replace = f"import inner; open('inner.py', 'w').write({before!r})"
    for file in kept(modules):
        file.unlink()
    assert totals(modules, replace) == "8 8 8.0 3"
    assert totals(modules) == "12 12 12.0 3"
    write_inner(modules)
    assert totals(modules, replace) == "8 8 8.0 3"


PROCESSOR = """
from numba.core.registry import cpu_target
from roiservice.geometry.kept import _processor
print(_processor()[:3] == cpu_target.target_context.codegen().magic_tuple())
"""


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"NUMBA_CPU_NAME": "generic"},
        {"NUMBA_CPU_NAME": ""},
        {"NUMBA_CPU_NAME": "nehalem"},
        {"NUMBA_CPU_FEATURES": "+sse2"},
        {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+sse2"},
    ],
)
def test_code_is_kept_for_the_processor_that_it_was_made_for(settings: dict[str, str]) -> None:
    """Other processors may lack what such code makes use of."""
    command, environment = [sys.executable, "-c", PROCESSOR], os.environ | settings
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert found.stdout == "True\n"


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
    assert [path.name for path in modules.glob("__pycache__/[!i]*.kept")] == []


def test_code_is_kept_elsewhere_where_it_cannot_lie_beside_its_source(
    modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    shutil.rmtree(modules / "__pycache__")
    (modules / "__pycache__").write_text("")
    assert totals(modules) == "8 8 8.0 3"
    assert totals(modules) == "8 8 8.0 0"
    assert len(list((tmp_path / "cache" / "roiservice").rglob("outer.total.*.kept"))) == 3


def test_old_code_beside_the_source_does_not_hide_what_is_kept_elsewhere(
    modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an upgrade, for a user who may not write there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_inner(modules, change=" * 2")
    for file in (modules / "__pycache__").glob("*.kept"):
        file.unlink()
        file.mkdir()  # nor may root replace that
        (file / "old").write_text("")
    assert totals(modules) == "12 12 12.0 3"
    assert totals(modules) == "12 12 12.0 0"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_no_code_is_taken_from_the_home_of_another_user(
    modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    shutil.rmtree(modules / "__pycache__")
    (modules / "__pycache__").write_text("")
    (tmp_path / "home").mkdir()
    assert [totals(modules), totals(modules)] == ["8 8 8.0 3", "8 8 8.0 0"]
    os.chown(tmp_path / "home", 65534, 65534)
    assert totals(modules) == "8 8 8.0 3"


class Pair(NamedTuple):
    first: Any
    second: Any


@compiled
def compared(value: Any) -> Any:
    return value, value > 4


@compiled
def returned(value: Any) -> Any:
    return value


@compiled
def swapped(pair: Any) -> Any:
    return pair.second, pair.first.sum()


@compiled
def doubled(values: Any) -> Any:
    """All values, in the order of memory or not."""
    result = np.empty(values.size, values.dtype)
    for i, value in enumerate(values.flat):
        result[i] = 2 * value
    return result


@compiled
def filled(size: int) -> Any:
    return np.full(size, 7, np.uint8)


@compiled
def counted(size: int) -> Any:
    if size < 0:
        raise ValueError("less than nothing", size)
    return np.ones(size)


@compiled
def count_of(size: int) -> Any:
    return counted(size).sum()


@pytest.mark.parametrize(
    "value",
    [5, -5, 2**62, -(2**63), 2**63, 2**63 + 2, 5.0, np.int8(5), np.uint64(2**63 + 8), np.float32(5), True],
)
def test_scalars_of_all_types_are_told_apart(value: Any) -> None:
    assert compared(value) == (value, value > 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, np.float64])
def test_arrays_of_all_layouts_are_told_apart(dtype: type) -> None:
    values = np.arange(24, dtype=dtype).reshape(4, 6)
    fixed = values.copy()
    fixed.flags.writeable = False
    others = (values.T, values[::2, ::-1], values[0], values[:, :1], fixed, values[:0])
    for array in (values, *others):
        result = doubled(array)
        assert result.dtype == dtype
        assert result.tolist() == (2 * array).ravel().tolist()


def test_named_tuples_are_told_apart() -> None:
    assert swapped(Pair(np.ones(3), 4)) == (4, 3.0)
    assert swapped(Pair(np.ones(3, np.int32), 4.5)) == (4.5, 3)


def test_units_of_time_are_told_apart() -> None:
    for unit in ("D", "ns"):
        time = np.timedelta64(5, unit)
        assert returned(time) == time


def test_what_cannot_be_told_apart_is_refused() -> None:
    for value in ([1, 2], [0.5], np.int32, "text"):
        with pytest.raises(TypeError, match="compiled code takes no"):
            returned(value)


def test_errors_of_loops_that_loops_call_hold_what_they_are_about() -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="less than nothing") as raised:
            count_of(-3)
        assert raised.value.args == ("less than nothing", -3)
        assert count_of(3) == 3.0


def test_what_goes_wrong_in_compiled_code_is_raised() -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="negative dimensions"):
            filled(-1)
        with pytest.raises(MemoryError):
            filled(2**62)
        assert filled(3).tolist() == [7, 7, 7]


def test_arrays_that_compiled_code_made_are_given_back() -> None:
    filled(1)
    tracemalloc.start()
    try:
        for _ in range(200):
            last = filled(2**20)
        assert tracemalloc.get_traced_memory()[0] < 4 * 2**20
        assert last.nbytes == 2**20
        part = last[5:]
        del last
        assert part.sum() == 7 * part.size
    finally:
        tracemalloc.stop()


def test_threads_may_all_be_the_first() -> None:
    @compiled
    def added(values: Any, more: int) -> Any:
        return values + more

    with ThreadPoolExecutor(8) as pool:
        sums = list(pool.map(lambda k: added(np.arange(3), k).tolist(), range(100)))
    assert sums == [[k, k + 1, k + 2] for k in range(100)]


def test_what_is_kept_runs_beside_what_is_compiled(modules: Path) -> None:
    """Whichever comes first: numba and what runs without it share what they call."""
    other = "from numba import njit; import numpy as np; njit(lambda n: np.zeros(n))(3)"
    for lines in (f"{other}; import outer", f"import outer; {other}"):
        assert totals(modules, lines) == "8 8 8.0 0"


def test_arrays_outlive_the_loop_that_made_them() -> None:
    def made() -> Any:
        @compiled
        def ramp(size: int) -> Any:
            values = [k for k in range(size)]  # noqa: C416 - to be compiled
            return np.array(values)

        return ramp(1000)

    arrays = [made() for _ in range(3)]
    gc.collect()
    assert all(array.tolist() == list(range(1000)) for array in arrays)
