"""How the C library deals with memory that is given back to it."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping

# By their numbers in malloc.h: M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD. Most pages are made within
# the heap: to ask the system for memory anew takes longer than to make them.
_SMALL = {-8: 1, -3: 2**22, -1: 2**23}
# What glibc comes to by itself where large arrays are made all the time. Of heaps there stay as many as there
# were: where that is one, several would take more memory and no less time, and it can only be set once.
_LARGE = {-3: 2**25, -1: 2**26}


def keep_memory_small() -> None:
    """Have the C library give back memory that pages took while they were made; before threads start.

    Left alone, glibc gives every thread a heap of its own and keeps what was freed in each: together several
    times what is in use. Other libraries know no such options, and need none.
    """
    _set_malloc(_SMALL)


def use_memory_freely() -> None:
    """Keep what is given back, in a process that builds: it needs the same memory again."""
    _set_malloc(_LARGE)


def _set_malloc(options: Mapping[int, int]) -> None:
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in options.items():
            mallopt(option, value)
