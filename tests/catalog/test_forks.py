"""The process that forks others, in a program of its own: no other thread is at work there."""

from __future__ import annotations

import errno
import subprocess
import sys

from roiservice.catalog.elsewhere import TRY_AGAIN

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
    children.append(fork())
    return children[-1]

children = []

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
    assert codes == [str(TRY_AGAIN), "3", "3"], "the layer is not at fault"
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


def test_a_server_that_was_killed_is_said_once_and_leaves_no_file_open() -> None:
    program = """
import signal
class Started:
    def poll(self):
        return 0
forks.start_build = lambda task, *marks: Started()
os.kill(children[0], signal.SIGKILL)
os.waitpid(children[0], 0)
before = len(os.listdir("/proc/self/fd"))
print(*(ends(server.start(Plain("abc"))) for _ in range(3)), len(os.listdir("/proc/self/fd")) - before)
"""
    codes, errors = said(program)
    assert codes == ["0", "0", "0", "0"]
    assert errors.count("no process can be forked") == 1


def test_where_files_are_short_no_more_of_them_are_lost() -> None:
    program = """
import resource
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
files = sorted(map(int, os.listdir("/proc/self/fd")))[:-1]  # but the one that lists them
spares = [os.dup(0) for _ in range(files[-1] + 1 - len(files))]  # none is free below the last
resource.setrlimit(resource.RLIMIT_NOFILE, (files[-1] + 1 + 2, limit[1]))  # room for one pipe
for _ in range(3):
    try:
        server.start(Plain("abc"))
    except OSError as error:
        print(error.errno)
resource.setrlimit(resource.RLIMIT_NOFILE, limit)
print(ends(server.start(Plain("abc"))), len(os.listdir("/proc/self/fd")) - 1 - len(files) - len(spares))
"""
    codes, errors = said(program)
    assert codes == [*[str(errno.EMFILE)] * 3, "3", "0"]
    assert errors == ""


def test_nothing_is_said_where_who_asks_is_killed_before_it_has_said_all() -> None:
    program = """
import json, signal
forks.as_json = lambda task: os.kill(os.getpid(), signal.SIGKILL)
if os.fork() == 0:
    server.start(Plain("abc"))
os.wait()
forks.as_json = lambda task: json.dumps({"text": "abc"}).encode()
print(ends(server.start(Plain("abc"))))
"""
    assert said(program) == (["3"], "")
