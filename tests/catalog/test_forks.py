"""The process that forks others, in a program of its own: no other thread is at work there."""

from __future__ import annotations

import subprocess
import sys

START = """
import os, threading, time
from dataclasses import dataclass
from roiservice.catalog import forks

@dataclass
class Plain:
    text: str

def ends(process):
    while process.poll() is None:
        time.sleep(0.01)
    return process.poll()

def fork(fork=os.fork, left=[{forks}]):
    left[0] -= 1
    if left[0] == 0:
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()

forks.build_task = lambda plain: len(plain["text"]) % 251
os.fork = fork
server = forks.ForkServer()
"""


def said(program: str, forks: int = -1) -> tuple[list[str], str]:
    """What a program prints, and the errors; the last of so many forks fails."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", START.format(forks=forks) + program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split(), done.stderr


def test_one_that_cannot_be_forked_is_not_the_last() -> None:
    codes, errors = said("for _ in range(3): print(ends(server.start(Plain('abc'))))", forks=2)
    assert codes == ["-1", "3", "3"]
    assert "no process can be forked" in errors
    assert "Traceback" not in errors


def test_many_threads_ask_at_once_for_more_than_a_pipe_holds() -> None:
    program = """
codes = [None] * 40
def ask(i):
    codes[i] = ends(server.start(Plain("x" * (100_000 + i))))
threads = [threading.Thread(target=ask, args=(i,)) for i in range(40)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(codes == [(100_000 + i) % 251 for i in range(40)], len(os.listdir("/proc/self/fd")))
"""
    (right, files), errors = said(program)
    assert (right, errors) == ("True", "")
    assert int(files) < 8  # none is left open
