"""The one way that this package compiles its inner loops, and keeps what was compiled."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar, cast

import llvmlite  # type: ignore[import-untyped]  # comes with numba
import numba
import numpy as np
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher
from numba.core.extending import _Intrinsic
from numba.core.runtime.nrt import rtsys
from numba.core.serialize import dumps

Loop = TypeVar("Loop", bound=Callable[..., Any])

_DIGEST = hashlib.sha256().digest_size

newly_kept: set[str] = set()  # files of the code that this process had to compile, and could keep


class _Kept(FunctionCache):
    """Keeps code in a file for each function and types, after digests of all it was made from and of itself.

    numba's own cache takes code for up to date while its module is, whatever has become of what it calls in
    others. Of two processes that compile one loop at once for different types, one may put its code in the
    place of the other's. Damaged files and a full disk make it fail.

    It also declares every function it could compile before it loads any, and imports scipy's linear algebra
    for that, which takes 0.2 s. Of all this, code that is there already needs only the memory management that
    is set up here. Compiling declares the rest by itself.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The code for arguments of the types `sig`, None if it has to be compiled."""
        rtsys.initialize(target_context)
        try:
            with open(self._path(sig, target_context.codegen()), "rb") as file:
                content = file.read()
            if content[:_DIGEST] != self._digest(sig):
                return None
            code = content[2 * _DIGEST :]
            if content[_DIGEST : 2 * _DIGEST] != hashlib.sha256(code).digest():
                return None  # damaged code would end the process
            return self._impl.rebuild(target_context, pickle.loads(code))  # noqa: S301 - our own
        except Exception:  # noqa: BLE001 - there is none, or it is damaged, which may show in any way
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code `data`, if there is room."""
        if self._impl.check_cachable(data):
            code = dumps(self._impl.reduce(data))  # type: ignore[no-untyped-call]
            path = self._path(sig, data.codegen)
            with suppress(OSError):
                self._impl.locator.ensure_cache_path()
                with self._cache_file._open_for_write(path) as file:
                    file.write(self._digest(sig) + hashlib.sha256(code).digest() + code)
                newly_kept.add(path)

    def _path(self, sig: Any, codegen: Any) -> str:
        """Where code for these types and this processor lies, whatever it was made from."""
        which = repr((sig, codegen.magic_tuple(), sys.flags.optimize))
        number = hashlib.sha256(which.encode()).hexdigest()[:16]
        return os.path.join(self._cache_path, f"{self._impl.filename_base}.{number}.nbc")

    def _digest(self, sig: Any) -> bytes:
        versions = numba.__version__, llvmlite.__version__, np.__version__, _content(__file__)
        fields = [getattr(each, "fields", None) for each in sig]  # of named tuples
        parts = (versions, sig, fields, *_ingredients(self._py_func, set()))
        return hashlib.sha256(repr(parts).encode()).digest()


def _ingredients(value: Any, known: set[int]) -> Iterator[object]:
    """What compiled code is made from: the modules of all that it calls, and the constants of others."""
    if isinstance(value, Dispatcher):
        value = value.py_func
    elif isinstance(value, _Intrinsic):
        value = value._defn
    if isinstance(value, ModuleType):
        yield _content(getattr(value, "__file__", None))
    elif isinstance(value, FunctionType):
        if id(value) not in known:
            known.add(id(value))
            yield from _of_function(value, known)
    elif callable(value):
        yield repr(value)
        yield from _ingredients(sys.modules.get(value.__module__), known)
    else:
        yield pickle.dumps(value)


def _of_function(function: FunctionType, known: set[int]) -> Iterator[object]:
    yield _content(function.__code__.co_filename)
    for cell in function.__closure__ or ():
        yield from _ingredients(cell.cell_contents, known)
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield name
            yield from _ingredients(function.__globals__[name], known)


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


def compiled(function: Loop) -> Loop:
    """Compile on first use, to run without the interpreter's lock; kept on disk if possible.

    Code is kept beside the source, else in the user's cache directory (or in NUMBA_CACHE_DIR). Where there is
    no such place every process compiles for itself.
    """
    loop: Any = numba.njit(nogil=True)(function)
    with suppress(RuntimeError):  # there is no such place
        loop._cache = _Kept(function)  # type: ignore[no-untyped-call]  # what `cache=True` does
    return cast(Loop, loop)
