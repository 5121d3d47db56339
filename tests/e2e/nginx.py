"""nginx in front of OMERO.web with the files of `deploy/`; only ports, logs and waits are replaced."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parent.parent.parent
SERVICE, OMERO_WEB, PREFIX = "127.0.0.1:8080", "127.0.0.1:4080", "^/omero"
LOGS, WAIT = "/var/log/nginx/", "30s"
# What the files are put into: OMERO.web's own configuration, as `omero web config nginx` writes it.
MAIN = """
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    gzip on;
    gzip_min_length 1;
    gzip_types application/json;
    include {folder}/nginx-http.conf;
    upstream omeroweb {{
        server {omero_web} fail_timeout=0;
    }}
    server {{
        listen 127.0.0.1:{port};
        error_page 502 =502 @maintenance;
        include {folder}/nginx.conf;
        location @maintenance {{
            root {folder};
            try_files $uri /maintenance.html =502;
        }}
        {extra}
        location @proxy_to_app {{
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header Host $http_host;
            proxy_redirect off;
            proxy_buffering off;
            proxy_pass http://omeroweb;
        }}
        location / {{
            try_files $uri @proxy_to_app;
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A running nginx: its address without a final slash, and the folder with its logs."""

    base: str
    folder: Path

    @property
    def logged(self) -> str:
        """All that nginx has written into logs of ours."""
        return "".join(log.read_text() for log in sorted(self.folder.glob("roiservice*.log")))


@contextmanager
def nginx_before(
    service: str,
    omero_web: str,
    folder: Path,
    *,
    prefix: str = "",
    extra: str = "",
    wait: str = WAIT,
    port: int | None = None,
) -> Iterator[Nginx]:
    """nginx, on a free port unless one is given, before a service and an OMERO.web, given by their URLs.

    `prefix` is OMERO.web's, `extra` what else stands in the server block, `wait` the time after which the
    service is not waited for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = port or _free_port()
    hosts = {SERVICE: urlsplit(service).netloc, OMERO_WEB: urlsplit(omero_web).netloc}
    edits = {
        **hosts,
        LOGS: f"{folder}/",
        f"timeout {WAIT}": f"timeout {wait}",
        "timeout 60s": f"timeout {wait}",
    }
    for name in ("nginx-http.conf", "nginx.conf"):
        (folder / name).write_text(configured(name, edits, prefix))
    places = {"folder": folder, "extra": extra, "port": port, "omero_web": hosts[OMERO_WEB]}
    (folder / "main.conf").write_text(MAIN.format(**places))
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(_command(folder / "main.conf", folder), stderr=errors)
    try:
        _wait(process, port, folder)
        yield Nginx(f"http://127.0.0.1:{port}", folder)
    finally:
        process.terminate()
        process.wait(30)


def configured(name: str, edits: dict[str, str], prefix: str) -> str:
    """A file of `deploy/` as somebody who installs it would edit it."""
    text = (ROOT / "deploy" / name).read_text()
    for old, new in edits.items():
        text = text.replace(old, new)
    if prefix:
        lines = [
            line.replace("# ", "", 1).replace(PREFIX, f"^{prefix}") if '"~^/omero' in line else line
            for line in text.splitlines(keepends=True)
        ]
        text = "".join(lines).replace("(?x) ^ ", f"(?x) ^{prefix} ")
    return text


def _command(configuration: Path, folder: Path) -> list[str]:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, "nginx is not installed"
    return [program, "-p", str(folder), "-c", str(configuration)]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _wait(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        assert process.poll() is None, (folder / "stderr").read_text()
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError("nginx did not start in time")
