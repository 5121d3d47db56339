"""The one way that this package compiles its inner loops, and runs what was compiled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property, update_wrapper
from types import FunctionType
from typing import Any, TypeVar, cast

import numpy as np

from roiservice.geometry.kept import read_kept, write_kept
from roiservice.geometry.machine import MachineCode, callable_of

Loop = TypeVar("Loop", bound=Callable[..., Any])

not_kept: list[str] = []  # names of what this process had to make, and others will have to

# Bits of an array's flags (numpy/ndarraytypes.h): C_CONTIGUOUS, F_CONTIGUOUS, and ALIGNED and WRITEABLE.
_ROWS, _COLUMNS, _ACCESS = 0x1, 0x2, 0x100 | 0x400
_PLAIN = frozenset((int, float, bool, complex, type(None)))
_LOCK = threading.RLock()  # one thread compiles or loads at a time; what is compiled may look at other loops


def compiled(function: Loop) -> Loop:
    """Compile on first use, to run without the interpreter's lock; kept on disk if possible.

    Code is kept beside the source, else in the user's cache directory (or in NUMBA_CACHE_DIR). Where there is
    no such place every process compiles for itself. Arguments are arrays, numbers, None and tuples of these,
    given by position; TypeError for others.
    """
    return cast(Loop, _Loop(cast(FunctionType, function)))


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """An operation for compiled code: `function` gives its types and how the compiler is told it.

    It is a function for `numba.extending.intrinsic`, and imports by itself what it needs of numba.
    """
    return _Told(function)


class _Told:
    def __init__(self, function: Callable[..., Any]) -> None:
        update_wrapper(self, function)

    @cached_property
    def _numba_type_(self) -> Any:
        """What numba takes this for where a loop names it."""
        from numba.core.registry import cpu_target
        from numba.extending import intrinsic

        operation = intrinsic(self.__wrapped__)  # type: ignore[attr-defined]
        cpu_target.typing_context.refresh()
        return cpu_target.typing_context.resolve_value_type(operation)

    def __call__(self, *_arguments: Any) -> Any:
        raise NotImplementedError(f"{self.__wrapped__.__name__} is for compiled code")  # type: ignore[attr-defined]


class _Loop:
    """A function that runs compiled for arrays, numbers, None and tuples of these, as they come."""

    def __init__(self, function: FunctionType) -> None:
        update_wrapper(self, function)
        self._function = function
        self._by_kinds: dict[object, Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        kinds = tuple(map(_kind, arguments))
        run = self._by_kinds.get(kinds)
        if run is None:
            with _LOCK:
                run = self._by_kinds.get(kinds) or self._found(kinds, arguments)
                self._by_kinds[kinds] = run
        return run(*arguments)

    def _found(self, kinds: object, arguments: tuple[Any, ...]) -> Callable[..., Any]:
        code: MachineCode | None = read_kept(self._function, kinds)
        if code is None:
            result = self._compile(arguments)
            code = _machine_code(result)
            if _is_of_this_process(result) or not write_kept(self._function, kinds, code):
                not_kept.append(code.name)
        return callable_of(code)

    def _compile(self, arguments: tuple[Any, ...]) -> Any:
        """What numba calls a compile result."""
        from numba import typeof

        types = tuple(map(typeof, arguments))
        self._dispatcher.compile(types)
        return self._dispatcher.overloads[types]

    @cached_property
    def _dispatcher(self) -> Any:
        from numba import njit

        return njit(nogil=True)(self._function)

    @property
    def _numba_type_(self) -> Any:
        """What numba takes this for where another loop calls it."""
        return self._dispatcher._numba_type_


def _machine_code(result: Any) -> MachineCode:
    about = result.fndesc
    _, _, (content, _) = result.library.serialize_using_object_code()
    environments = (result.environment, *result._find_referenced_environments())
    constants = {each.env_name: list(each.consts) for each in environments}
    return MachineCode(about.qualname, content, about.llvm_cpython_wrapper_name, constants)


def _is_of_this_process(result: Any) -> bool:
    """Whether code names what another process has not: a large array, or Intel's vector mathematics."""
    from numba.core import config

    return bool(result.library.has_dynamic_globals or config.USING_SVML)  # type: ignore[attr-defined]


def _kind(value: Any) -> object:
    """What of an argument compiled code depends on; TypeError for one of which that is not known here."""
    if isinstance(value, np.ndarray):
        flags = value.flags.num
        return value.dtype, value.ndim, flags & (_ROWS if flags & _ROWS else _COLUMNS) | flags & _ACCESS
    if isinstance(value, tuple):
        return type(value), *map(_kind, value)
    if isinstance(value, np.generic):
        return value.dtype  # which knows units of time and fields, too
    if type(value) is int and value >= 2**63:
        return "u64"
    if type(value) in _PLAIN:
        return type(value)
    raise TypeError(f"compiled code takes no {type(value).__name__}")
