"""The server's own part: what cannot be seen from outside each time."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

from roiservice.server import Worker, listen

# A worker is told to end as soon as it is forked, before it has handlers of its own; so is the server, then.
ENDED_EARLY = """
import os, signal
from roiservice.server import Server, listen

server = Server(lambda: None, listen("127.0.0.1", 0, public_address=False), 1)
server.cfg.set("post_fork", lambda arbiter, worker: os.kill(worker.pid, signal.SIGQUIT))
server.cfg.set("worker_exit", lambda arbiter, worker: os.kill(os.getppid(), signal.SIGTERM))
server.run()
"""


# Answers never end; there is one thread to send them.
UNREAD = """
import sys
from roiservice import server

server.LONGEST_SEND = server.THREADS = 1
listener = server.listen("127.0.0.1", 0, public_address=False)
print(server.address_of(listener), flush=True)


def app(environ, begin):
    begin("200 OK", [("Content-Type", "text/plain")])
    return iter([b"x" * 2**20] * (2000 if environ["PATH_INFO"] == "/long" else 1))


server.Server(lambda: app, listener, 1).run()
"""


def test_a_worker_that_is_told_to_end_before_it_listens_to_signals_ends() -> None:
    done = subprocess.run([sys.executable, "-c", ENDED_EARLY], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_end_does_not_wait_for_a_request_that_is_handed_over() -> None:
    worker = Worker.__new__(Worker)  # no sockets, no process: only what the signal's handler touches
    worker.alive = True
    worker.method_queue = Mock()
    worker.tpool = ThreadPoolExecutor(1)
    with worker.tpool._shutdown_lock:  # held by the main thread, which the signal interrupts, in `submit`
        handler = threading.Thread(target=worker.handle_quit, args=(signal.SIGQUIT, None), daemon=True)
        handler.start()
        handler.join(10)
        assert not handler.is_alive()
    assert not worker.alive


def test_short_answers_do_not_wait_on_connections_that_came_before_the_workers() -> None:
    with (
        listen("127.0.0.1", 0, public_address=False) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_clients_that_read_nothing_are_let_go() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", UNREAD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    base = process.stdout.readline().strip()
    host, port = base.removeprefix("http://").split(":")
    try:
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.recv(15) == b"HTTP/1.1 200 OK"
            with urllib.request.urlopen(f"{base}/short", timeout=10) as answer:
                assert len(answer.read()) == 2**20
    finally:
        process.terminate()
    assert "'/long': a client that does not read on was let go" in process.communicate(timeout=20)[1]


def test_nothing_is_said_of_clients_that_go_without_a_word() -> None:
    """What they did not take is in the system's hands when the connection breaks."""
    process = subprocess.Popen(
        [sys.executable, "-c", UNREAD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    host, port = process.stdout.readline().strip().removeprefix("http://").split(":")
    try:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**12)
            client.connect((host, int(port)))
            client.sendall(b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.recv(15) == b"HTTP/1.1 200 OK"
            time.sleep(4)
    finally:
        process.terminate()
    assert "Traceback" not in process.communicate(timeout=20)[1]
