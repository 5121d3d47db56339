"""Hosts that do not answer are left out for a while, by what serves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from roiservice.errors import SourceDamaged
from roiservice.sources.remote import circuit, transport
from roiservice.sources.remote.circuit import Circuit
from roiservice.sources.remote.objects import HttpObjects
from roiservice.sources.remote.transport import Patience
from tests.e2e.support import Home, serving
from tests.sources.remote.server import Served, answering, served

SILENT = r"the server has stopped sending \(3 tries\)"
LEFT_OUT = r"the server has stopped sending \(4 tries\)"


@pytest.fixture(autouse=True)
def leaving_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a service; the pause is longer than a test takes."""
    monkeypatch.setattr(circuit, "_leaving_out", threading.Event())
    circuit.leave_out_hosts()


@pytest.fixture
def files(tmp_path: Path, server: Served) -> HttpObjects:
    """`a`, `b` and `c` behind the server."""
    for name in "abc":
        (tmp_path / name).write_text(name * 1000)
    return HttpObjects(server.url)


def read(files: HttpObjects, name: str) -> bytes:
    content = files.get(name, 2000)
    assert content is not None
    return content.data


def circuit_of(served: Served) -> Circuit:
    return transport.connect(served.url).circuit


def end_pause(served: Served, ago: float = 0) -> None:
    circuit_of(served)._left_out_until = time.monotonic() - ago


def fail_at(files: HttpObjects, *names: str) -> None:
    for name in names:
        with pytest.raises(SourceDamaged, match="has stopped sending"):
            files.get(name, 2000)


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_silent_host_is_left_out(
    files: HttpObjects, server: Served, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults.on = {".*": ("silent", -1)}
    with pytest.raises(SourceDamaged, match=SILENT):
        files.get("a", 2000)
    with pytest.raises(SourceDamaged, match=r"has stopped sending \(1 try\)"):
        files.get("c", 2000)
    other = HttpObjects(f"{server.url}/images")
    for ask in (lambda: other.get("b", 2000), lambda: other.head("b")):
        with pytest.raises(SourceDamaged, match=LEFT_OUT) as caught:
            ask()
        assert (caught.value.store, caught.value.part) == (other.location, "b")
    assert server.asked == {"a": 3, "c": 1}
    left_out = f"{server.url} is left out until it answers again: it has stopped sending (4 tries)"
    assert caplog.messages == [left_out]


def test_one_tries_and_one_answer_is_enough(
    files: HttpObjects, server: Served, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults.on = {".*": ("silent", -1)}
    fail_at(files, "a", "c")
    server.asked.clear()
    end_pause(server, circuit.PAUSE)
    with ThreadPoolExecutor(1) as threads:
        trying = threads.submit(files.get, "a", 2000)
        until(lambda: server.asked["a"] == 1)
        with pytest.raises(SourceDamaged, match=LEFT_OUT):
            files.get("b", 2000)
        with pytest.raises(SourceDamaged, match=r"has stopped sending \(1 try\)"):
            trying.result()
    fail_at(files, "b")
    assert server.asked == {"a": 1}
    end_pause(server)
    server.faults.on = {"b": ("silent", 2)}
    assert files.get("d", 2000) is None
    assert read(files, "b") == b"b" * 1000  # with all of its tries
    assert [message.partition(" ")[2] for message in caplog.messages][1:] == ["answers again"]


def test_silent_objects_do_not_keep_others_from_the_one_try(files: HttpObjects, server: Served) -> None:
    server.faults.on = {"[ac]": ("silent", -1)}
    fail_at(files, "a", "c")
    server.asked.clear()
    end_pause(server)
    fail_at(files, "a", "c")
    assert not server.asked
    assert read(files, "b") == b"b" * 1000
    fail_at(files, "a", "c")
    server.asked.clear()
    end_pause(server, circuit.PAUSE)  # and nobody has asked for anything else
    fail_at(files, "a", "c")
    assert server.asked == {"a": 1}


def test_requests_that_wait_when_a_host_falls_silent_wait_no_longer(
    files: HttpObjects, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "PATIENCE", Patience(stall=1, tries=3, pause=0.01))
    server.faults.on = {".*": ("silent", -1)}
    began = time.monotonic()
    with ThreadPoolExecutor(32) as threads:
        asking = [threads.submit(files.get, str(number), 2000) for number in range(32)]
        for each in asking:
            with pytest.raises(SourceDamaged, match="has stopped sending"):
                each.result()
    assert time.monotonic() - began < 3 * transport.PATIENCE.stall  # as long as one alone would wait
    assert server.asked.total() < 2 * transport.CONNECTIONS


def test_an_answer_that_comes_as_a_host_is_left_out_counts(
    files: HttpObjects, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Thread(target=circuit_of(server).answered)

    def monotonic() -> float:
        if answer.ident is None and circuit_of(server)._tries > 3:  # it is left out now
            answer.start()
            answer.join(0.2)  # where it does not wait for what goes on here, it has ended
        return time.monotonic()

    monkeypatch.setattr(circuit, "time", SimpleNamespace(monotonic=monotonic))
    server.faults.on = {"[ac]": ("silent", -1)}
    fail_at(files, "a", "c")
    answer.join(10)
    assert read(files, "b") == b"b" * 1000


def test_a_host_that_is_gone_is_left_out_until_it_is_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    with served(tmp_path) as gone:
        files = HttpObjects(gone.url)
    for _ in range(2):
        with pytest.raises(SourceDamaged, match=r"cannot be reached \(3 tries\)"):
            files.get("a", 2000)
    assert transport.connect(gone.url).traffic.requests == 3
    with served(tmp_path, port=int(gone.url.rpartition(":")[2])) as back:
        end_pause(back)  # what was asked for in vain is asked for again: nothing could be reached
        assert read(files, "a") == b"a"


@pytest.mark.parametrize(
    "fault", [401, 403, 404, 500, 503, "silent", "cut", "stall", "reset", "html", "no length"]
)
def test_what_is_wrong_with_one_object_holds_up_no_other(
    files: HttpObjects, server: Served, fault: int | str
) -> None:
    server.faults.on = {"a": (fault, -1)}
    for _ in range(2):
        if fault == 404:
            assert files.get("a", 2000) is None
        else:
            with pytest.raises(SourceDamaged):
                files.get("a", 2000)
        assert read(files, "b") == b"b" * 1000


def test_a_server_that_is_started_anew_is_not_left_out(
    files: HttpObjects, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that it was sent goes unanswered at once."""
    monkeypatch.setattr(transport, "PATIENCE", Patience(stall=0.2, tries=4, pause=0.1))
    server.faults.on = {".*": ("silent", transport.CONNECTIONS)}
    with ThreadPoolExecutor(transport.CONNECTIONS) as threads:
        reading = [threads.submit(read, files, "abc"[number % 3]) for number in range(transport.CONNECTIONS)]
        assert {each.result()[:1] for each in reading} == {b"a", b"b", b"c"}


def test_tries_that_began_before_the_last_answer_are_not_counted() -> None:
    circuit_alone = Circuit("a host")
    began = time.monotonic()
    circuit_alone.answered()
    for number in range(8):
        circuit_alone.unanswered(str(number), "is silent", began, connected=True, most=4, pauses=0)
    assert circuit_alone.admits("0")
    later = time.monotonic()
    for number in range(8):
        circuit_alone.unanswered(str(number), "is silent", later, connected=True, most=4, pauses=0)
    assert not circuit_alone.admits("0")


def test_tries_of_long_ago_are_not_counted() -> None:
    circuit_alone = Circuit("a host")

    def fail(url: str, began: float) -> None:
        circuit_alone.unanswered(url, "is silent", began, connected=True, most=2, pauses=1)

    now = time.monotonic()
    fail("a", now)
    circuit_alone._since = circuit_alone._last = now - circuit.PAUSE - 1
    fail("b", now)
    fail("c", now)
    assert circuit_alone.admits("a")
    fail("c", now - 1)
    assert not circuit_alone.admits("a")


def test_a_host_that_answers_others_is_not_left_out(files: HttpObjects, server: Served) -> None:
    server.faults.on = {"a": ("silent", -1)}
    with ThreadPoolExecutor(1) as threads:
        failing = threads.submit(files.get, "a", 2000)
        until(lambda: server.asked["a"] == 1)
        assert files.get("d", 2000) is None  # an error is an answer as well
        with pytest.raises(SourceDamaged, match=SILENT):
            failing.result()
    assert read(files, "b") == b"b" * 1000


def test_what_is_under_way_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PATIENCE", Patience(tries=3, pause=0.01))
    asked, go_on = threading.Event(), threading.Event()

    def body() -> bytes:
        asked.set()
        go_on.wait(10)
        return b"here"

    with answering(200, body, {}) as url, ThreadPoolExecutor(1) as threads:
        files, reading = HttpObjects(url), threads.submit(read, HttpObjects(url), "a")
        assert asked.wait(10)
        for _ in range(3):
            now = time.monotonic()
            transport.connect(url).circuit.unanswered(
                "c", "cannot be reached", now, connected=False, most=3, pauses=0
            )
        with pytest.raises(SourceDamaged, match=r"cannot be reached \(3 tries\)"):
            files.get("b", 2000)
        go_on.set()
        assert reading.result() == b"here"
        assert read(files, "b") == b"here"


def test_a_service_that_is_busy_with_a_host_does_not_leave_it_out(
    files: HttpObjects, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "PATIENCE", Patience(pause=0.01))
    server.faults.on = {"a": ("silent", -1)}
    with ThreadPoolExecutor(transport.CONNECTIONS) as threads:
        reading = [threads.submit(read, files, "a") for _ in range(transport.CONNECTIONS)]
        until(lambda: server.asked["a"] == transport.CONNECTIONS)
        with monkeypatch.context() as impatient:
            impatient.setattr(transport, "PATIENCE", Patience(whole=0.1, tries=2, pause=0.01))
            with pytest.raises(SourceDamaged, match="busy with other requests of this service"):
                files.get("b", 2000)
        assert circuit_of(server).admits("b")
        server.faults.on = {}
        server.faults.hurry.set()
        assert {each.result() for each in reading} == {b"a" * 1000}
    assert read(files, "b") == b"b" * 1000


def test_what_builds_asks_each_time(
    files: HttpObjects, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit, "_leaving_out", threading.Event())
    server.faults.on = {"a": ("silent", 3)}
    with pytest.raises(SourceDamaged, match=SILENT):
        files.get("a", 2000)
    assert read(files, "a") == b"a" * 1000


def test_the_command_that_serves_leaves_hosts_out(tmp_path: Path) -> None:
    with served(tmp_path) as gone:
        pass
    home = Home(tmp_path / "home")
    with serving(home, f"{gone.url}/{{image_id}}.zarr", "--workers", 1) as service:
        for image in (7, 8):
            began = time.monotonic()
            assert service.get(f"/images/{image}")[0] >= 400
        assert time.monotonic() - began < 3  # where all tries take 3.5 s
        service.process.terminate()
        said = service.process.communicate()[1]
    assert said.count(f"{gone.url} is left out until it answers again: it cannot be reached") == 1
