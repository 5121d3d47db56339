"""The service under gunicorn: a few processes with a few threads each."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import signal
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.http import errors, message
from gunicorn.workers.gthread import ThreadWorker

from roiservice.errors import BadParameter, RoiServiceError

# The first that fits; all others that the parser raises are of the kind that comes last.
_STATES = {
    errors.LimitRequestLine: 414,
    errors.LimitRequestHeaders: 431,
    errors.UnsupportedTransferCoding: 501,
    errors.ParseException: 400,
}
# Per process. Most of them wait: for builds, OMERO.web, slow clients, or their turn, as pages and what else
# keeps a processor at work are made a few at once (`roiservice.web.pages`).
THREADS = 32
# Seconds that a client may take nothing of its answer, and hold a thread. To Linux a client that reads takes
# nothing until a sixteenth of its buffer of some megabytes is free: those that read 4 KB/s go on.
LONGEST_SEND = 120
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
# Bytes. The viewer asks for statistics of all shapes of a page in one URL, of 17 bytes each.
LONGEST_REQUEST_LINE = 2**17


def listen(host: str, port: int, *, public_address: bool) -> socket.socket:
    """A socket bound to `host`:`port`, 0 for a free port.

    Raises BadParameter for a host that other machines reach unless `public_address`, RoiServiceError if the
    address cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise BadParameter("--host", f"{host!r}: {error.strerror}") from error
    if not public_address and not ipaddress.ip_address(address[0]).is_loopback:
        reason = f"other machines reach {host}, and there is no access control; --public-address allows it"
        raise BadParameter("--host", reason)
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # gunicorn sets this as well, but for clients that came before it starts: each short answer that they get
    # on such a connection would wait 40 ms for their system's word that it has the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(
        socket, "TCP_USER_TIMEOUT"
    ):  # on Linux; a limit of each `send` would cut off slow readers as well
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * LONGEST_SEND)
    try:
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        reason = f"cannot listen on {host}:{port}: {error.strerror}; --port 0 takes a free port"
        raise RoiServiceError(reason) from error
    return listener


def address_of(listener: socket.socket) -> str:
    """Base URL that reaches `listener`, without a final slash."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Worker(ThreadWorker):  # type: ignore[misc] # gunicorn states no types
    """One process of the server, which ends on Ctrl-C as it does on SIGTERM."""

    def init_signals(self) -> None:
        """Handle signals from here on, those that came since the fork as well: see `Server.run`."""
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Finish what is being answered, then end.

        gunicorn's own handler shuts the thread pool down; called while its thread hands a request to that
        pool, it waits for a lock this very thread holds, until the process is killed.
        """
        self.handle_exit(sig, frame)

    def on_client_socket_readable(self, conn: Any, client: socket.socket) -> None:
        """Take up a connection again; one that broke in between ends without a word."""
        client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # takes the error: what is read is the end
        super().on_client_socket_readable(conn, client)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request; a client that does not read on is one that has gone."""
        try:
            return super().handle_request(req, conn)
        except TimeoutError:  # the socket's own limit, which gunicorn would take for a fault
            self.log.warning("%s: a client that does not read on was let go", repr(req.path))
            raise BrokenPipeError(errno.EPIPE, "it does not read on") from None

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what is no HTTP request, or one that failed on its way.

        gunicorn's own handler quotes the request in its log and in its answer: lines of a request and headers
        may hold tickets, tokens and cookies.
        """
        status = next((status for kind, status in _STATES.items() if isinstance(exc, kind)), 500)
        if status == 500:
            where = repr(getattr(req, "path", None))
            self.log.error("%s: failed on its way", where, exc_info=exc)
        else:
            who = addr[0] if addr else "a client"
            self.log.warning("%s: a request was refused with %d (%s)", who, status, type(exc).__name__)
        with contextlib.suppress(OSError):
            util.write_error(client, status, HTTPStatus(status).phrase, "")


class Server(BaseApplication):  # type: ignore[misc] # gunicorn states no types
    """Runs `make_app()` in each of `workers` processes, on a socket that is bound already."""

    def __init__(self, make_app: Callable[[], Any], listener: socket.socket, workers: int) -> None:
        self._make_app = make_app
        # gunicorn cuts its own setting to this, or takes 0 for lines of any length.
        message.MAX_REQUEST_LINE = LONGEST_REQUEST_LINE
        self._options = {
            "bind": f"fd://{listener.detach()}",
            "workers": workers,
            "worker_class": Worker,
            "threads": THREADS,
            "graceful_timeout": 5,
            "keepalive": 75,
            "limit_request_line": LONGEST_REQUEST_LINE,
            "loglevel": "warning",
            "control_socket_disable": True,
            # Which headers of proxies are believed is for the settings to say.
            "forwarded_allow_ips": "",
            "forwarder_headers": "",
        }
        super().__init__()

    def load_config(self) -> None:
        """Set the options this release of gunicorn knows; the control socket came with 25.1."""
        for name, value in self._options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def run(self) -> None:
        """Serve until told to end; does not return.

        A new worker has gunicorn's own handlers, which note signals for a server that it is not: one that is
        told to end just then would have to be killed in the end. They wait until it has handlers of its own.
        """
        os.register_at_fork(
            before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING),
            after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING),
        )
        super().run()

    def load(self) -> Any:
        """The WSGI application, made anew in each process, as open stores do not outlive a fork."""
        return self._make_app()
