"""`python -m tests.bench.redis`: what clients see while Redis fails in one way after another, 60 s in all.

The service keeps no page in memory, so that every request asks Redis. A phase begins with the fault and ends
a few seconds after it. Nothing may fail, no byte may differ from those of a run without any cache, and both
the latency and the use of Redis must be back within five seconds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.cache.support import RedisServer
from tests.e2e.redisload import (
    CLIENTS,
    FAULTS,
    WORKERS,
    Fault,
    Load,
    Sample,
    body_of,
    metric,
    service_with,
    urls,
    write_cells,
)
from tests.e2e.support import Running

LEFT_OUT = 'roiservice_redis_left_out{server="pages"}'
HEADINGS = ("phase", "answers", "not 200", "wrong", "p50", "p99", "max", "slow until", "Redis after")


@dataclass(frozen=True)
class Phase:
    """What was seen from the beginning of a fault on; it was over at `ended`, in seconds as of samples."""

    name: str
    samples: Sequence[Sample]
    began: float
    ended: float
    used_again: float

    def during(self) -> list[Sample]:
        return [sample for sample in self.samples if self.began <= sample.at < self.ended]

    def slow_after(self, normal: float) -> float:
        """Seconds from the fault's end until the last answer that took longer than is normal."""
        late = [each.at for each in self.samples if each.at >= self.ended and each.seconds > normal]
        return max(late, default=self.ended) - self.ended


def main(seconds: float = 60.0) -> None:
    """All faults in turn; exit code 1 if a request failed or came wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = write_cells(folder / "1.zarr")
        with service_with(folder / "home", image, None) as running:
            right = {url: body_of(running, url) for url in urls()}
        redis = RedisServer(folder)
        redis.start()
        try:
            with service_with(folder / "home", image, redis) as running, Load(running.base, right) as load:
                phases = watch(running, load, redis, seconds / (len(FAULTS) + 1))
        finally:
            redis.stop()
    if not report(phases, load.samples):
        sys.exit(1)


def watch(running: Running, load: Load, redis: RedisServer, seconds: float) -> list[Phase]:
    """One phase without a fault, then one for each fault, which holds for the first half of it."""
    time.sleep(2)  # kernels and first pages
    began = time.monotonic()
    time.sleep(seconds - 2)
    phases = [Phase("sound", tuple(load.samples), began, time.monotonic(), 0.0)]
    return phases + [fail(name, fault, running, load, redis, seconds) for name, fault in FAULTS.items()]


def fail(name: str, fault: Fault, running: Running, load: Load, redis: RedisServer, seconds: float) -> Phase:
    """Make Redis fail, mend it, and wait until all processes use it again."""
    began = time.monotonic()
    first = len(load.samples)
    with fault(redis):
        time.sleep(began + seconds / 2 - time.monotonic())
    ended = time.monotonic()
    used = 0.0
    while time.monotonic() < began + seconds:
        if not used and metric(running, LEFT_OUT) == 0:
            used = time.monotonic() - ended
        time.sleep(0.1)
    return Phase(name, tuple(load.samples[first:]), began, ended, used or float("inf"))


def report(phases: Sequence[Phase], samples: Sequence[Sample]) -> bool:
    """Print the table; whether all is well."""
    normal = 2 * float(np.percentile([each.seconds for each in phases[0].during()], 99))
    print(
        f"{WORKERS} processes, {CLIENTS} clients; milliseconds while the fault lasts, then seconds after it"
    )
    print("".join(f"{heading:>{16 if i == 0 else 12}}" for i, heading in enumerate(HEADINGS)))
    for phase in phases:
        during = phase.during()
        took = [1000 * sample.seconds for sample in during]
        cells = [
            f"{len(during)}",
            f"{sum(sample.status != 200 for sample in during)}",
            f"{sum(not sample.right for sample in during)}",
            *(f"{np.percentile(took, share):.1f}" for share in (50, 99, 100)),
            f"{phase.slow_after(normal):.1f}",
            f"{phase.used_again:.1f}",
        ]
        print(f"{phase.name:>16}" + "".join(f"{cell:>12}" for cell in cells))
    failed = sum(sample.status != 200 for sample in samples)
    wrong = sum(not sample.right for sample in samples)
    print(
        f"{len(samples)} answers in all, {failed} not 200, {wrong} wrong; slow: above {1000 * normal:.0f} ms"
    )
    return failed == wrong == 0


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
