"""The one way that this package compiles its inner loops, and keeps what was compiled."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher
from numba.core.extending import _Intrinsic
from numba.core.runtime.nrt import rtsys
from numba.core.serialize import dumps

Loop = TypeVar("Loop", bound=Callable[..., Any])

newly_kept: set[str] = set()  # files of the code that this process had to compile, and could keep


class _Kept(FunctionCache):
    """Keeps code in a file for each function and types, which begins with a digest of all it was made from.

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
                digest = self._digest(sig)
                if file.read(len(digest)) != digest:
                    return None
                return self._impl.rebuild(target_context, pickle.load(file))  # noqa: S301 - our own
        except Exception:  # noqa: BLE001 - there is none, or it is damaged, which may show in any way
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code `data`, if there is room."""
        if self._impl.check_cachable(data):
            content = self._digest(sig) + dumps(self._impl.reduce(data))  # type: ignore[no-untyped-call]
            path = self._path(sig, data.codegen)
            with suppress(OSError):
                with self._cache_file._open_for_write(path) as file:
                    file.write(content)
                newly_kept.add(path)

    def _path(self, sig: Any, codegen: Any) -> str:
        """Where code for these types and this processor lies, whatever it was made from."""
        which = hashlib.sha256(repr((sig, codegen.magic_tuple())).encode()).hexdigest()[:16]
        return os.path.join(self._cache_path, f"{self._impl.filename_base}.{which}.nbc")

    def _digest(self, sig: Any) -> bytes:
        fields = [getattr(each, "fields", None) for each in sig]  # of named tuples
        parts = (numba.__version__, sig, fields, *_ingredients(self._py_func, set()))
        return hashlib.sha256(repr(parts).encode()).digest()


def _ingredients(value: Any, known: set[Any]) -> Iterator[object]:
    """What compiled code is made from: bytecode, constants, and the same of all that is called."""
    if isinstance(value, Dispatcher):
        value = value.py_func
    elif isinstance(value, _Intrinsic):
        value = value._defn
    if isinstance(value, FunctionType):
        if value not in known:
            known.add(value)
            yield value.__defaults__
            yield from _of_code(value.__code__, value.__globals__, known)
    elif isinstance(value, np.ndarray):
        yield value.dtype, value.shape, value.tobytes()
    elif not callable(value) and not isinstance(value, ModuleType):
        yield value


def _of_code(code: CodeType, names: dict[str, Any], known: set[Any]) -> Iterator[object]:
    yield code.co_code, code.co_names, code.co_varnames
    for constant in code.co_consts:
        if isinstance(constant, CodeType):  # of a function within
            yield from _of_code(constant, names, known)
        else:
            yield constant
    for name in code.co_names:
        if name in names:
            yield from _ingredients(names[name], known)


def compiled(function: Loop) -> Loop:
    """Compile on first use, to run without the interpreter's lock; kept on disk if possible.

    Code is kept beside the source, else in the user's cache directory (or in NUMBA_CACHE_DIR). Where there is
    no such place every process compiles for itself.
    """
    loop: Any = numba.njit(nogil=True)(function)
    with suppress(RuntimeError):  # there is no such place
        loop._cache = _Kept(function)  # type: ignore[no-untyped-call]  # what `cache=True` does
    return cast(Loop, loop)
