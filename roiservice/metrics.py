"""Counts of what the service does, in Prometheus' text format, over all of its processes.

Each process counts in a row of its own, in memory that all of them see; whoever is asked adds the rows up.
A row outlives its process and is taken over by the next one, so that counters never fall. Labels hold
routes, states and results; never a path, an address or anything else that came with a request.
"""

from __future__ import annotations

import fcntl
import itertools
import mmap
import tempfile
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus

import numpy as np

from roiservice.records import dataclass

ROW_CELLS = 8192  # float64 each; a page of memory is only there once it is written to
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"  # the route of requests that no route takes, and statuses that HTTP does not know
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STATUSES = (*(str(int(status)) for status in HTTPStatus), OTHER)


@dataclass(frozen=True)
class Metric:
    """A counter or gauge, and all values that its labels can have. `sparse`: what is zero is not said."""

    name: str
    kind: str
    text: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    sparse: bool = False

    def series(self) -> Iterator[tuple[str, ...]]:
        """All combinations of values of the labels."""
        return itertools.product(*(values for _, values in self.labels))


PAGES = "roiservice_pages_total"
CACHE_PAGES = "roiservice_page_cache_pages"
CACHE_BYTES = "roiservice_page_cache_bytes"
REDIS_BYTES = "roiservice_page_cache_redis_bytes_total"
REDIS_COMMANDS = "roiservice_redis_commands_total"
REDIS_LEFT_OUT = "roiservice_redis_left_out"
OMERO_REQUESTS = "roiservice_omero_web_requests_total"
OMERO_LEFT_ALONE = "roiservice_omero_web_left_alone"
BUILDS = "roiservice_builds_total"
REMOVED = "roiservice_catalogs_removed_total"
REQUESTS = "roiservice_http_requests_total"
DURATION = "roiservice_http_request_duration_seconds"
_SUM = f"{DURATION}_sum"

_SERVERS = ("server", ("pages", "sessions"))
_PARTS = (
    Metric(PAGES, "counter", "Pages by where they came from.", (("source", ("memory", "redis", "made")),)),
    Metric(CACHE_PAGES, "gauge", "Pages in the memory of all worker processes."),
    Metric(CACHE_BYTES, "gauge", "Bytes of pages in the memory of all worker processes."),
    Metric(
        REDIS_BYTES, "counter", "Bytes of pages exchanged with Redis.", (("direction", ("read", "written")),)
    ),
    Metric(
        REDIS_COMMANDS,
        "counter",
        "Commands to Redis: answered, refused by it, failed (no answer), or not sent as it is left out.",
        (_SERVERS, ("result", ("answered", "refused", "failed", "not_sent"))),
    ),
    Metric(REDIS_LEFT_OUT, "gauge", "Worker processes that leave Redis out as it failed.", (_SERVERS,)),
    Metric(
        OMERO_REQUESTS,
        "counter",
        "Requests to OMERO.web: answered (with any status), failed, or not sent as it is left alone.",
        (("result", ("answered", "failed", "not_sent")),),
    ),
    Metric(OMERO_LEFT_ALONE, "gauge", "Worker processes that leave OMERO.web alone as it failed."),
    Metric(
        BUILDS,
        "counter",
        "Builds of layers: done or failed in a worker process, or given to a process of their own.",
        (("result", ("done", "failed", "elsewhere")),),
    ),
    Metric(
        REMOVED,
        "counter",
        "Catalogs deleted by worker processes: replaced, unfinished, or for the quota.",
        (("reason", ("replaced", "unfinished", "quota")),),
    ),
)


class Metrics:
    """The cells of all processes; counts go to this process's row. Safe to use from several threads.

    Made before the processes are forked, `rows` of them at most; each then calls `claim`.
    """

    def __init__(self, rows: int = 1) -> None:
        self._rows = rows
        memory = mmap.mmap(-1, rows * ROW_CELLS * 8)
        self._rows_of_all = np.frombuffer(memory, np.float64).reshape(rows, ROW_CELLS)
        self._cells_of_all = memoryview(memory).cast("d")  # for single cells, ten times faster
        self._locks = tempfile.TemporaryFile()  # noqa: SIM115 - as long as this; only its locks are used
        self._metrics: dict[str, Metric] = {}
        self._cells: dict[tuple[str, ...], int] = {}
        self._routes: frozenset[str] = frozenset()
        self._take(0)
        for metric in _PARTS:
            self._declare(metric)

    def claim(self) -> None:
        """Count in a row that no other living process counts in; to be called once in each process.

        The lock on the row is the system's, which takes it off whatever ends the process. With more
        processes than rows the last one is shared, and counts may be lost.
        """
        for row in range(self._rows):
            self._take(row)
            try:
                fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, row)
            except OSError:
                continue
            break
        for metric in self._metrics.values():  # what the process before was in the midst of
            if metric.kind == "gauge":
                for labels in metric.series():
                    self.set(0, metric.name, *labels)

    def _take(self, row: int) -> None:
        self._lock = threading.Lock()
        self._own = self._cells_of_all[row * ROW_CELLS : (row + 1) * ROW_CELLS]

    def declare_routes(self, routes: Iterable[str]) -> None:
        """Make room for requests by route; in every process the same routes, and only once."""
        names = (*sorted(set(routes)), OTHER)
        self._routes = frozenset(names)
        by_route = ("route", names)
        text = "Requests by route and status."
        self._declare(Metric(REQUESTS, "counter", text, (by_route, ("status", _STATUSES)), sparse=True))
        bounds = (*map(repr, _BUCKETS), "+Inf")
        text = "Seconds from a request's arrival to the beginning of its answer."
        self._declare(Metric(DURATION, "histogram", text, (by_route, ("le", bounds)), sparse=True))
        self._declare(Metric(_SUM, "", "", (by_route,), sparse=True))

    def _declare(self, metric: Metric) -> None:
        if metric.name in self._metrics:
            return
        cells = {(metric.name, *labels): len(self._cells) + i for i, labels in enumerate(metric.series())}
        if len(self._cells) + len(cells) > ROW_CELLS:
            raise ValueError(f"{metric.name} takes more cells than there are")
        self._metrics[metric.name] = metric
        self._cells.update(cells)

    def add(self, amount: float, name: str, *labels: str) -> None:
        """Add to a counter."""
        cell = self._cells[(name, *labels)]
        with self._lock:
            self._own[cell] += amount

    def set(self, value: float, name: str, *labels: str) -> None:
        """Set this process's part of a gauge."""
        self._own[self._cells[(name, *labels)]] = value

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        route = route if route in self._routes else OTHER
        code = str(status)
        code = code if (REQUESTS, route, code) in self._cells else OTHER
        place = bisect_left(_BUCKETS, seconds)
        bound = repr(_BUCKETS[place]) if place < len(_BUCKETS) else "+Inf"
        self.add(1, REQUESTS, route, code)
        self.add(1, DURATION, route, bound)
        self.add(seconds, _SUM, route)

    def text(self) -> str:
        """The sums over all processes, in Prometheus' text format (version 0.0.4)."""
        totals = self._rows_of_all.sum(axis=0)
        lines: list[str] = []
        for metric in self._metrics.values():
            if metric.kind == "histogram":
                lines += [*_head(metric), *self._histogram(metric, totals.tolist())]
            elif metric.kind:
                lines += [*_head(metric), *self._plain(metric, totals.tolist())]
        return "\n".join(lines) + "\n"

    def _plain(self, metric: Metric, totals: Sequence[float]) -> Iterator[str]:
        names = [name for name, _ in metric.labels]
        for labels in metric.series():
            value = totals[self._cells[(metric.name, *labels)]]
            if value or not metric.sparse:
                yield _line(metric.name, dict(zip(names, labels, strict=True)), value)

    def _histogram(self, metric: Metric, totals: Sequence[float]) -> Iterator[str]:
        """Buckets as the format wants them, each with all that the smaller ones hold."""
        (_, routes), (_, bounds) = metric.labels
        for route in routes:
            counts = [totals[self._cells[(metric.name, route, bound)]] for bound in bounds]
            if not sum(counts):
                continue
            for bound, count in zip(bounds, itertools.accumulate(counts), strict=True):
                yield _line(f"{metric.name}_bucket", {"route": route, "le": bound}, count)
            yield _line(_SUM, {"route": route}, totals[self._cells[(_SUM, route)]])
            yield _line(f"{metric.name}_count", {"route": route}, sum(counts))


def _head(metric: Metric) -> tuple[str, str]:
    return f"# HELP {metric.name} {metric.text}", f"# TYPE {metric.name} {metric.kind}"


def _line(name: str, labels: dict[str, str], value: float) -> str:
    """A sample; whole numbers without a point, for the eye."""
    shown = str(int(value)) if value.is_integer() else repr(value)
    inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{inner}}} {shown}" if inner else f"{name} {shown}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
