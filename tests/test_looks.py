"""What is looked for: once for all who ask, beside those who can be given what was found before."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from roiservice import looks as looks_module
from roiservice.errors import NotFound, SettingsError, SourceDamaged, SourceError
from roiservice.looks import Looks
from tests.e2e.support import wait_for

THREADS = 16


class Place:
    """Where one looks: it may take until it is told to answer, and fail."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.error: Exception | None = None
        self.looks = 0

    def look(self) -> str:
        self.looks += 1
        self.answers.wait(30)
        if self.error is not None:
            raise self.error
        return f"look {self.looks}"


def at_once(get: Callable[[], str]) -> list[str | SourceError]:
    """What comes of so many who ask at once."""

    def asked(_: int) -> str | SourceError:
        try:
            return get()
        except SourceError as error:
            return error

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(asked, range(THREADS)))


def test_what_is_known_is_looked_for_again_after_its_time() -> None:
    place, now = Place(), [0.0]
    looks: Looks[int, str] = Looks(10, 60.0, clock=lambda: now[0])
    assert looks.get(7, place.look) == "look 1"
    now[0] = 59.0
    assert looks.get(7, place.look) == "look 1"
    now[0] = 60.0
    assert looks.get(7, place.look) == "look 2"
    now[0] = 119.0
    assert looks.get(7, place.look) == "look 2"


def test_nobody_waits_long_for_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks_module, "MOMENT", 0.05)
    place = Place()
    looks: Looks[int, str] = Looks(10, 0.0)
    looks.get(7, place.look)
    place.answers.clear()
    begun = time.monotonic()
    assert at_once(lambda: looks.get(7, place.look)) == ["look 1"] * THREADS
    assert time.monotonic() - begun < 10
    assert place.looks == 2
    place.answers.set()
    wait_for(lambda: not looks._flights)
    assert looks.get(7, place.look) == "look 3"


def test_those_who_ask_first_share_one_look() -> None:
    place = Place()
    place.answers.clear()
    looks: Looks[int, str] = Looks(10, 60.0)
    threading.Timer(0.5, place.answers.set).start()
    assert at_once(lambda: looks.get(7, place.look)) == ["look 1"] * THREADS


def test_each_gets_an_error_of_his_own() -> None:
    place = Place()
    place.answers.clear()
    place.error = SourceDamaged("store", "part", "reason")
    looks: Looks[int, str] = Looks(10, 60.0, 60.0)
    threading.Timer(0.5, place.answers.set).start()
    errors = at_once(lambda: looks.get(7, place.look))
    assert place.looks == 1
    assert {(type(error), str(error)) for error in errors} == {(SourceDamaged, "store [part]: reason")}
    assert len({id(error) for error in errors}) == THREADS


def test_an_error_that_is_kept_does_not_grow() -> None:
    place = Place()
    place.error = SourceDamaged("store", "part", "reason")
    looks: Looks[int, str] = Looks(10, 60.0, 60.0)
    depths = []
    for _ in range(20):
        with pytest.raises(SourceDamaged) as caught:
            looks.get(7, place.look)
        depths.append(len(traceback.extract_tb(caught.value.__traceback__)))
        assert (caught.value.store, caught.value.part, caught.value.reason) == ("store", "part", "reason")
    assert place.looks == 1
    assert len(set(depths)) == 1
    outcome = looks._known[7].outcome
    assert isinstance(outcome, SourceError)
    assert (outcome.__traceback__, outcome.__context__) == (None, None)


def test_what_was_found_outlasts_only_what_passes() -> None:
    place = Place()
    looks: Looks[int, str] = Looks(10, 0.0)
    looks.get(7, place.look)
    place.error = SourceDamaged("store", "part", "does not answer")
    assert looks.get(7, place.look) == "look 1"
    place.error = SettingsError("two claim it")
    with pytest.raises(SettingsError):
        looks.get(7, place.look)
    place.error = None
    assert looks.get(7, place.look) == "look 4"


def test_what_is_missing_is_waited_for_once_its_time_is_over() -> None:
    """Else one that appears would be said to be missing for another while."""
    now, found = [0.0], [None, "there"]
    looks: Looks[int, str | None] = Looks(10, 60.0, 10.0, lambda: now[0])
    assert looks.get(7, lambda: found.pop(0)) is None
    now[0] = 9.0
    assert looks.get(7, lambda: found.pop(0)) is None
    now[0] = 10.0
    assert looks.get(7, lambda: found.pop(0)) == "there"


def test_errors_are_kept_no_longer_than_they_are_to_be() -> None:
    place = Place()
    place.error = NotFound("none")
    looks: Looks[int, str] = Looks(10, 60.0)
    for _ in range(2):
        with pytest.raises(NotFound):
            looks.get(7, place.look)
    assert place.looks == 2


@pytest.mark.parametrize("is_known", [False, True])
def test_a_fault_is_told_and_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture, *, is_known: bool
) -> None:
    place = Place()
    looks: Looks[int, str] = Looks(10, 0.0)
    if is_known:
        looks.get(7, place.look)
    place.error = ZeroDivisionError()
    if is_known:
        assert looks.get(7, place.look) == "look 1"
        assert caplog.messages == ["what is known stays as it was"]
    else:
        with pytest.raises(ZeroDivisionError):
            looks.get(7, place.look)
    place.error = None
    assert looks.get(7, place.look) == f"look {place.looks}"


def test_only_the_latest_are_kept() -> None:
    place = Place()
    looks: Looks[int, str] = Looks(2, 60.0)
    for key in (1, 2, 3):
        looks.get(key, place.look)
    assert list(looks._known) == [2, 3]
    assert looks.get(3, place.look) == "look 3"
    assert looks.get(1, place.look) == "look 4"


def test_what_is_known_stays_where_too_much_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks_module, "MOMENT", 0.01)
    monkeypatch.setattr(looks_module, "AT_ONCE", 2)
    place, other = Place(), Place()
    looks: Looks[int, str] = Looks(10, 0.0)
    for key in (1, 2, 3):
        looks.get(key, place.look)
    place.answers.clear()
    for key in (1, 2, 3):
        assert looks.get(key, place.look) == f"look {key}"
    assert place.looks == 5
    assert looks.get(4, other.look) == "look 1"  # nothing is known of this one
    place.answers.set()
    wait_for(lambda: not looks._flights)
    assert looks.get(3, place.look) == "look 6"


def test_what_is_known_stays_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    place = Place()
    looks: Looks[int, str] = Looks(10, 0.0)
    looks.get(7, place.look)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert looks.get(7, place.look) == "look 1"
    assert looks.get(7, place.look) == "look 2"
