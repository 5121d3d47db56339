"""What was made of functions and is kept in files: machine code, for each function and types of arguments.

A file begins with digests of all that its content was made from and of itself. numba's own cache takes code
for up to date while its module is, whatever has become of what it calls in others. Of two processes that
compile one function at once for different types, one may put its code in the place of the other's. Damaged
files and a full disk make it fail.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import llvmlite  # type: ignore[import-untyped]  # comes with numba
import llvmlite.binding as llvm  # type: ignore[import-untyped]
import numpy as np

from roiservice.geometry.machine import numba_folder

newly_kept: set[Path] = set()  # files of what this process had to make, and could keep
taken: set[Path] = set()  # files of what it had not to make

_DIGEST = hashlib.sha256().digest_size


def read_kept(function: Callable[..., Any], kinds: object) -> Any:
    """What was kept of `function` for arguments of `kinds`; None if it has to be made."""
    for folder in _folders(function):  # what lies in the first may be old, and not for this user to replace
        with suppress(Exception):  # there is none, or it is damaged, which may show in any way
            path = folder / _name(function, kinds)
            content = path.read_bytes()
            made = content[2 * _DIGEST :]
            # Code of something else, and damaged code, would end the process.
            if content[: 2 * _DIGEST] == _digest(function, kinds) + hashlib.sha256(made).digest():
                loaded = pickle.loads(made)  # noqa: S301 - our own
                taken.add(path)
                return loaded
    return None


def write_kept(function: Callable[..., Any], kinds: object, made: object) -> bool:
    """Keep what was made in the first place that has room for it; whether there is one."""
    content = pickle.dumps(made)
    for folder in _folders(function):
        with suppress(OSError):
            digest = _digest(function, kinds)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / _name(function, kinds)
            _write(path, digest + hashlib.sha256(content).digest() + content)
            newly_kept.add(path)
            return True
    return False


def _write(path: Path, content: bytes) -> None:
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(beside, 0o644)  # another user may run what was compiled by one who installed it
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def _folders(function: Any) -> Iterator[Path]:
    """Where files may lie: beside the source or in the user's cache directory; or NUMBA_CACHE_DIR alone."""
    source = Path(function.__code__.co_filename).parent
    apart = hashlib.sha256(bytes(source)).hexdigest()[:16]
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        yield Path(chosen, apart)
        return
    yield source / "__pycache__"
    with suppress(OSError, RuntimeError):  # a user without a home
        caches = os.environ.get("XDG_CACHE_HOME")
        if caches or Path.home().stat().st_uid == os.geteuid():  # not another user's, as after sudo
            yield Path(caches or Path.home() / ".cache", "roiservice", "compiled", apart)


def _name(function: Any, kinds: object) -> str:
    """The file for these kinds, this Python and this processor, whatever its content was made from."""
    which = repr((kinds, EXTENSION_SUFFIXES[0], *_processor(), sys.flags.optimize))
    number = hashlib.sha256(which.encode()).hexdigest()[:16]
    return f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}.{number}.kept"


@cache
def _processor() -> tuple[str, ...]:
    """For what numba compiles, as `JITCPUCodegen` in its core/codegen.py does: this one, or what is set."""
    name = os.environ.get("NUMBA_CPU_NAME", llvm.get_host_cpu_name())
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = "" if name.lower() == "generic" else _own_features()
    return llvm.get_process_triple(), name, features, os.environ.get("NUMBA_ENABLE_AVX", "")


def _own_features() -> str:
    with suppress(RuntimeError):  # LLVM cannot tell
        return str(llvm.get_host_cpu_features().flatten())
    return ""


def _digest(function: Any, kinds: object) -> bytes:
    made_by = _content(str(numba_folder() / "_version.py")), *_OWN
    versions = llvmlite.__version__, np.__version__, *made_by
    parts = (versions, kinds, *_ingredients((function, kinds), set()))
    return hashlib.sha256(repr(parts).encode()).digest()


def _ingredients(value: object, known: set[int]) -> Iterator[object]:
    """What compiled code is made from: all that it calls, and constants.

    Functions are taken as they are in this process, whose sources may have been replaced since.
    """
    value = getattr(value, "__wrapped__", value)
    if isinstance(value, ModuleType):
        yield _content(getattr(value, "__file__", None))
    elif isinstance(value, FunctionType):
        if id(value) not in known:
            known.add(id(value))
            yield from _of_function(value, known)
    elif isinstance(value, tuple):
        for each in value:
            yield from _ingredients(each, known)
    elif callable(value):
        yield repr(value)
        yield from _ingredients(sys.modules.get(value.__module__), known)
    else:
        yield pickle.dumps(value)


def _of_function(function: FunctionType, known: set[int]) -> Iterator[object]:
    yield from _of_code(function.__code__)
    yield pickle.dumps(function.__defaults__)
    for cell in function.__closure__ or ():
        yield from _ingredients(cell.cell_contents, known)
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield name
            yield from _ingredients(function.__globals__[name], known)


def _of_code(code: CodeType) -> Iterator[object]:
    yield code.co_code, code.co_exceptiontable, code.co_flags
    yield code.co_varnames, code.co_names, code.co_cellvars, code.co_freevars
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _of_code(constant)
        else:
            yield constant


def _names(code: CodeType) -> Iterator[str]:
    """Names that a function uses, and those within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


@cache
def _content(path: str | None) -> bytes:
    """A digest of a module's source; nothing of one that has none."""
    if path is None or not path.endswith(".py"):
        return b""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).digest()


# As they are when this is imported: they may be replaced while the process runs.
_OWN = tuple(
    _content(str(Path(__file__).with_name(name))) for name in ("compiled.py", "kept.py", "machine.py")
)
