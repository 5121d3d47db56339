"""The one way that this package compiles its inner loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(function: Loop) -> Loop:
    """Compile on first use, to run without the interpreter's lock; kept on disk if possible.

    numba keeps compiled code beside the source, else in the user's cache directory (or in NUMBA_CACHE_DIR).
    Where there is no such place it refuses at once; then every process compiles for itself.
    """
    try:
        return cast(Loop, numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:
        return cast(Loop, numba.njit(nogil=True)(function))
