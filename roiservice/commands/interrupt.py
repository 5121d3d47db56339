"""Ctrl-C while compiled code runs.

Python raises KeyboardInterrupt wherever it happens to be. Below compiled code it comes out as SystemError, is
lost, or brings the process down. While such code is at work, Ctrl-C is raised between two steps instead.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

INTERRUPTED = 130  # the exit code
LONGEST_STEP = 2.0  # seconds after which a step that is still at work is ended as by a kill
LONGEST_STEP_UNSEEN = 10.0  # the same, in processes that others end
UNSAID = "ignore::UserWarning:multiprocessing.resource_tracker"

unfinished: set[Path] = set()  # files to be deleted even then

Step = Callable[[], None]


@contextmanager
def compiled_code(number: int = signal.SIGINT) -> Iterator[Step]:
    """Ctrl-C, or another signal, is raised by calls of what this gives, and at the end; main thread only.

    A step that takes too long ends the process at once, and so does a second Ctrl-C. Of other signals, which
    programs send, there may be several, and steps may take longer: nobody looks on.
    """
    asked = over = False
    by_hand = number == signal.SIGINT

    def ask(_number: int, _frame: Any) -> None:
        nonlocal asked
        if not asked:
            asked = True
            # Not by `threading`, whose locks the code that was interrupted may hold.
            _thread.start_new_thread(end_later, ())
        elif by_hand:
            _end(by_hand)

    def end_later() -> None:
        time.sleep(LONGEST_STEP if by_hand else LONGEST_STEP_UNSEEN)
        if not over:
            _end(by_hand)

    def step() -> None:
        if asked:
            raise KeyboardInterrupt

    before = signal.signal(number, ask)
    try:
        yield step
        step()
    finally:
        over = True
        signal.signal(number, before)


@contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C waits until the end of this; in processes that are started meanwhile, for ever."""
    _start_tracker()  # which comes with the first process, and would let Ctrl-C through
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _start_tracker() -> None:
    """Start the process that deletes what killed processes have shared, and have it not complain of that."""
    sys.warnoptions.append(UNSAID)  # which it is started with
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(UNSAID)


def _end(by_hand: bool) -> None:
    for path in tuple(unfinished):
        path.unlink(missing_ok=True)
    if by_hand:
        os.write(2, b"\n")  # the terminal has shown ^C
    os._exit(INTERRUPTED)
