"""`python -m tests.live FOLDER`: the service in a process of its own; it prints its address."""

import sys
from pathlib import Path

from werkzeug.serving import make_server

from tests.conftest import start_service

if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, start_service(Path(sys.argv[1])).app, threaded=True)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
