"""Serving a large layer: what pages cost at any offset, memory, starts, all beside a small layer.

`python -m tests.bench.serve LARGE SMALL`: two stores with a label image `cells` each, as for
`tests.bench.slide`. Catalogs lie where ROISERVICE_STATE_DIR and ROISERVICE_CATALOG_DIR say, and are built
there unless they are; without these variables in a temporary folder. A Markdown table on standard output.

Every request is another one, and pages are not kept; the files of the catalog are in the system's cache after
the first request of each kind. Times are medians as a client on the same machine sees them, and the mean of
what the worker's processors worked: the latter holds on a machine that others use as well.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REQUESTS = 40  # of each kind
DIFFERENT = 4000  # queries after which memory is looked at
CLIENTS = 8
STARTS = 5
PAGE = 500
WINDOW = 1000  # pixels along a side
FORMATS = ("geojson", "ndjson", "wkt", "qupath", "omero")
HEADINGS = ("what", "large", "worked", "at the end", "worked", "small", "worked", "large to small")


@dataclass(frozen=True)
class Service:
    """A running service: the process that was started, where it answers, and when it was started."""

    process: subprocess.Popen[str]
    base: str
    began: float

    @property
    def workers(self) -> list[int]:
        """The processes that answer."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task").glob("*/children")
        found = [int(each) for path in children for each in path.read_text().split()]
        return [each for each in found if os.getsid(each) != each]  # what forks builders leads a session

    def worked(self) -> float:
        """Milliseconds of processors that the workers took so far."""
        threads = [path for pid in self.workers for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        return sum(int(path.read_text().split()[0]) for path in threads) / 1e6

    def memory(self) -> dict[str, float]:
        """MB of the largest worker: its share of what it has in memory, with and without files."""
        shares = []
        for pid in self.workers:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            shares.append({line.split(":")[0]: int(line.split()[1]) / 1000 for line in lines})
        return max(shares, key=lambda share: share["Pss_Anon"])

    def connected(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.base).netloc, timeout=60)


@dataclass(frozen=True)
class Layer:
    """A layer that is served, with its size in pixels and ROIs, and ids of some ROIs and features."""

    image: int
    width: int
    height: int
    rois: int
    some_rois: tuple[int, ...]
    some_features: tuple[int, ...]

    @property
    def collection(self) -> str:
        return f"/images/{self.image}/collections/labels:cells"

    @property
    def items(self) -> str:
        return f"{self.collection}/items"


PathOf = Callable[[Layer, int], str]  # of the nth request, which is another one than those before


def main(large: str, small: str) -> None:
    """Pages of both layers, memory, starts."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "ROISERVICE_STATE_DIR": f"{folder}/state",
            "ROISERVICE_CATALOG_DIR": f"{folder}/catalogs",
            **os.environ,
        }
        stores = [large, small]
        subprocess.run([sys.executable, "-m", "roiservice", "build", *stores], env=environment, check=True)
        with running(stores, {**environment, "ROISERVICE_CACHE_BYTES": "0"}) as service:
            layers = layers_of(service)
            costs(service, *layers)
        with running(stores, environment) as service:
            memory(service, layers[0])
        starts(stores, environment, layers[0])


def costs(service: Service, large: Layer, small: Layer) -> None:
    """One line for each kind of request."""
    print("| " + " | ".join(HEADINGS) + " |\n|" + "---|" * len(HEADINGS))
    end = max(large.rois - 51_483, 0)  # 2 400 000 of 2 451 483
    for name, path in paged().items():
        row(service, name, [(large, path), (large, shifted(path, end)), (small, path)])
    for name, path in others().items():
        row(service, name, [(large, path), None, (small, path)])


def shifted(path: PathOf, offset: int) -> PathOf:
    """The same kind of page, that much further on."""
    return lambda of, n: path(of, n + offset)


def paged() -> dict[str, PathOf]:
    """Kinds of pages; what they take is the offset."""
    queries = {f"{form}, {PAGE}": f"f={form}" for form in FORMATS}
    queries |= {"centroids": "geometry=centroid", "simplify=2": "simplify=2"}
    kinds = {name: of_items(f"{query}&limit={PAGE}&offset=") for name, query in queries.items()}
    kinds["m/rois"] = lambda of, n: f"/api/v0/m/rois/?image={of.image}&limit={PAGE}&offset={n}"
    kinds["rois_by_plane"] = lambda of, n: f"/iviewer/rois_by_plane/{of.image}/0/0/?limit={PAGE}&offset={n}"
    return kinds


def of_items(query: str) -> PathOf:
    """Items with this query and the number at its end."""
    return lambda of, n: f"{of.items}?{query}{n}"


def others() -> dict[str, PathOf]:
    """Kinds of requests without an offset."""
    kinds: dict[str, PathOf] = {}
    for form in FORMATS:
        kinds[f"{form}, {PAGE} of a window"] = windowed(f"f={form}&limit={PAGE}")
    for form in FORMATS:
        kinds[f"{form}, all of a window"] = windowed(f"f={form}&limit=10000")
    return kinds | {
        "window of half the image": windowed(f"limit={PAGE}", 0.5),
        "max-features=500 of a window": windowed(f"max-features={PAGE}"),
        "max-vertices= of all": of_items("max-vertices=200"),
        "label=": labelled(1),
        "500 labels": labelled(PAGE),
        "min-area= anew": lambda of, n: f"{of.items}?limit={PAGE}&min-area={500 + n / 1000}",
        "min-area= remembered": of_items(f"limit={PAGE}&min-area=300&offset="),
        "perimeter= anew": lambda of, n: f"{of.items}?limit={PAGE}&perimeter=..{80 + n / 1000}",
        "items/{id}": lambda of, n: f"{of.items}/{of.some_features[n]}",
        "rois/{id}": lambda of, n: f"/api/v0/m/rois/{of.some_rois[n]}/",
        "roi page_data": lambda of, n: f"/iviewer/roi/{of.some_rois[n]}/page_data/",
        "shape page_data": lambda of, n: f"/iviewer/shape/{of.some_features[n]}/page_data/",
        "plane_shape_counts": lambda of, n: f"/iviewer/plane_shape_counts/{of.image}/?_={n}",
        "density": lambda of, n: f"{of.collection}/density?cells={n + 1}",
        "summary": lambda of, n: f"{of.collection}/summary?min-area={(n + 1) / 1000}",
    }


def windowed(query: str, share: float = 0.0) -> PathOf:
    """Items of a window anywhere, of `WINDOW` pixels or a share of the image's height."""

    def path(of: Layer, _: int) -> str:
        side = max(of.height * share, WINDOW)
        x, y = (random.uniform(0, max(size - side, 1)) for size in (of.width, of.height))
        return f"{of.items}?{query}&bbox={x:.2f},{y:.2f},{x + side:.2f},{y + side:.2f}"

    return path


def labelled(count: int) -> PathOf:
    """Items of any labels."""

    def path(of: Layer, _: int) -> str:
        labels = (str(random.randrange(1, of.rois)) for _ in range(count))
        return f"{of.items}?limit={PAGE}&label={','.join(labels)}"

    return path


def row(service: Service, name: str, asked: list[tuple[Layer, PathOf] | None]) -> None:
    """Ask and print, in milliseconds."""
    cells, worked = [], []
    for each in asked:
        if each is None:
            cells += ["", ""]
            continue
        layer, path = each
        seconds, processors = times(service, [path(layer, n) for n in range(REQUESTS + 3)])
        worked.append(processors)
        cells += [f"{seconds * 1e3:.2f}", f"{processors:.2f}"]
    print(f"| {name} | " + " | ".join(cells) + f" | {max(worked[:-1]) / worked[-1]:.2f} |", flush=True)


def times(service: Service, paths: list[str]) -> tuple[float, float]:
    """Median of seconds, and the workers' mean of milliseconds; the first three do not count."""
    connection = service.connected()
    seconds: list[float] = []
    began = 0.0
    for number, path in enumerate(paths):
        if number == 3:
            began = service.worked()
        begin = time.perf_counter()
        ask(connection, path)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[3:]), (service.worked() - began) / (len(paths) - 3)


def ask(connection: http.client.HTTPConnection, path: str) -> bytes:
    """The body; AssertionError unless the answer is a success."""
    connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, (path, answer.status, body[:300])
    return body


def memory(service: Service, layer: Layer) -> None:
    """A worker's memory when it has answered one request, and after thousands of different ones."""
    ask(service.connected(), f"{layer.items}?limit=1")
    before = service.memory()["Pss_Anon"]

    def work(number: int) -> None:
        connection = service.connected()
        places, rest = paged(), others()
        for n in range(number, DIFFERENT, CLIENTS):
            name = (*places, *rest)[n % (len(places) + len(rest))]
            at = random.randrange(layer.rois) if name in places else n % PAGE
            ask(connection, (places | rest)[name](layer, at))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    most = 0.0
    while any(thread.is_alive() for thread in threads):
        most = max(most, service.memory()["Pss_Anon"])
        time.sleep(0.2)
    after = service.memory()
    print(f"\nMemory of a worker without files: {before:.0f} MB after one request,")
    print(f"{after['Pss_Anon']:.0f} MB after {DIFFERENT} different ones of {CLIENTS} clients;")
    print(f"at most {most:.0f} MB. With files, which the system may take back, {after['Pss']:.0f} MB.")


def starts(stores: list[str], environment: dict[str, str], layer: Layer) -> None:
    """How long a start takes, and the first page after it."""
    ready, first, page = [], [], []
    for number in range(STARTS):
        with running(stores, environment) as service:
            ready.append(time.perf_counter() - service.began)
            begin = time.perf_counter()
            ask(service.connected(), f"{layer.items}?limit={PAGE}&offset={layer.rois // 2 + number}")
            page.append(time.perf_counter() - begin)
            first.append(time.perf_counter() - service.began)
    print(f"\nFirst page after a restart: {statistics.median(page):.3f} s once the service answers, which is")
    print(f"{statistics.median(ready):.2f} s after its start; {statistics.median(first):.2f} s in all.")


def layers_of(service: Service) -> list[Layer]:
    """Both layers, as the service tells of them."""
    found = []
    for image in service_json(service, "/images")["images"]:
        size = service_json(service, f"/images/{image['id']}")["size"]
        listed = f"/api/v0/m/rois/?image={image['id']}&limit={PAGE}"
        count = service_json(service, listed)["meta"]["totalCount"]
        rois = service_json(service, f"{listed}&offset={count // 2}")["data"]
        ids = [roi["@id"] for roi in rois], [roi["shapes"][0]["@id"] for roi in rois]
        found.append(Layer(image["id"], size["x"], size["y"], count, *map(tuple, ids)))
    return sorted(found, key=lambda layer: -layer.rois)


def service_json(service: Service, path: str) -> Any:
    connection = service.connected()
    connection.request("GET", path)
    return json.loads(connection.getresponse().read())


@contextmanager
def running(stores: list[str], environment: dict[str, str]) -> Iterator[Service]:
    """The command with one worker, from when it answers."""
    command = [sys.executable, "-m", "roiservice", "serve", "--port", "0", "--workers", "1", *stores]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        base = ""
        while "/healthz" not in base:
            base = process.stdout.readline()
            assert base, "the server ended"
            base = base.strip()
            if base.startswith("http"):
                break
        service = Service(process, base.split()[0].rstrip("/"), began)
        ask(service.connected(), "/healthz")  # the socket listens already, and the answer comes when it can
        yield service
    finally:
        process.terminate()
        process.wait(20)


if __name__ == "__main__":
    main(*sys.argv[1:])
