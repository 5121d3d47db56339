"""Read checks against a stand-in for OMERO.web, over real connections, with a clock that stands still."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from roiservice.auth.policy import Trust
from roiservice.auth.readcheck import IN_FLIGHT, MOST_KEPT, Decision, ReadCheck, decide
from roiservice.auth.sessions import SessionNames
from roiservice.errors import OmeroWebFailed
from roiservice.omeroweb.client import Answer
from roiservice.omeroweb.client import OmeroWeb as Client
from tests.auth.support import SECRET, Clock, Store
from tests.omeroweb.images import OmeroImage
from tests.omeroweb.standin import OmeroWeb

ALLOWED, REFUSED, LOGIN, UNAVAILABLE = Decision
PATH = "/api/v0/m/images/"


@pytest.fixture
def web() -> Iterator[OmeroWeb]:
    """Image 1 is ada's, 2 is everybody's, 3 is eve's."""
    with OmeroWeb() as server:
        server.add(OmeroImage(1, readers=frozenset({"ada"})))
        server.add(OmeroImage(2))
        server.add(OmeroImage(3, readers=frozenset({"eve"})))
        yield server


def check_of(web: OmeroWeb, clock: Clock, store: Store | None = None, timeout: float = 5.0) -> ReadCheck:
    client = Client(web.url, web.cookie_name, timeout)
    return ReadCheck(client, SessionNames(SECRET, client.cookie_name, client.url), store, clock)


@pytest.fixture
def check(web: OmeroWeb, clock: Clock) -> ReadCheck:
    return check_of(web, clock)


def test_omero_decides(web: OmeroWeb, check: ReadCheck) -> None:
    ada, bob = web.login("ada"), web.login("bob")
    assert [check.may_read(ada, image) for image in (1, 2, 3, 99)] == [ALLOWED, ALLOWED, REFUSED, REFUSED]
    assert [check.may_read(bob, image) for image in (1, 2, 3, 99)] == [REFUSED, ALLOWED, REFUSED, REFUSED]


def test_what_is_asked(web: OmeroWeb, check: ReadCheck) -> None:
    ada = web.login("ada")
    check.may_read(ada, 1)
    check.may_read(None, 1)
    with_session, without = web.asked()
    assert (with_session.method, with_session.path, with_session.query) == ("GET", f"{PATH}1/", "")
    assert with_session.headers["Cookie"] == f"sessionid={ada}"
    assert "Cookie" not in without.headers


def test_answers_are_remembered_for_as_long_as_promised(
    web: OmeroWeb, check: ReadCheck, clock: Clock
) -> None:
    ada = web.login("ada")
    for image, kept in ((1, 60), (3, 10)):
        began, asked = clock.now, len(web.requests)
        first = check.may_read(ada, image)
        clock.now = began + kept - 0.001
        assert check.may_read(ada, image) == first
        assert len(web.requests) == asked + 1
        clock.now = began + kept
        assert check.may_read(ada, image) == first
        assert len(web.requests) == asked + 2


def test_permissions_taken_away_and_given_count_within_the_bound(
    web: OmeroWeb, check: ReadCheck, clock: Clock
) -> None:
    ada = web.login("ada")
    assert [check.may_read(ada, image) for image in (1, 3)] == [ALLOWED, REFUSED]
    web.images[1].readers, web.images[3].readers = frozenset(), frozenset({"ada"})
    clock.now += 10
    assert [check.may_read(ada, image) for image in (1, 3)] == [ALLOWED, ALLOWED]
    clock.now += 50
    assert check.may_read(ada, 1) == REFUSED


def test_an_answer_is_as_old_as_its_question(web: OmeroWeb, clock: Clock) -> None:
    """What changes while OMERO.web answers slowly counts after the same time."""
    check = check_of(web, clock)
    ada, fetch = web.login("ada"), check._web.get

    def slowly(*arguments: object, **named: object) -> Answer:
        answer = fetch(*arguments, **named)  # type: ignore[arg-type]
        clock.now += 4
        return answer

    check._web.get = slowly  # type: ignore[method-assign, assignment]
    check.may_read(ada, 1)
    clock.now += 56
    check.may_read(ada, 1)
    assert len(web.requests) == 2


def test_a_clock_put_back_makes_nothing_last(web: OmeroWeb, check: ReadCheck, clock: Clock) -> None:
    ada = web.login("ada")
    check.may_read(ada, 1)
    clock.now -= 3600
    web.logout("ada")
    assert check.may_read(ada, 1) == LOGIN


def test_a_session_that_has_ended_takes_all_its_answers_along(
    web: OmeroWeb, check: ReadCheck, clock: Clock
) -> None:
    ada, bob = web.login("ada"), web.login("bob")
    for session in (ada, bob):
        for image in (1, 2):
            check.may_read(session, image)
    web.logout("ada")
    assert check.may_read(ada, 2) == ALLOWED  # not yet noticed
    assert check.may_read(ada, 3) == LOGIN
    asked = len(web.requests)
    assert [check.may_read(ada, image) for image in (1, 2)] == [LOGIN, LOGIN]
    assert len(web.requests) == asked + 2  # nor is that remembered
    assert check.may_read(bob, 2) == ALLOWED
    assert len(web.requests) == asked + 2


def test_the_public_user(web: OmeroWeb, check: ReadCheck, clock: Clock) -> None:
    assert check.may_read(None, 2) == LOGIN
    assert check.may_read(None, 2) == LOGIN
    assert len(web.requests) == 2
    web.public = "guest"
    assert [check.may_read(None, image) for image in (2, 2, 1)] == [ALLOWED, ALLOWED, REFUSED]
    assert len(web.requests) == 4


@pytest.mark.parametrize(
    "fault", [500, 503, 401, 200, "hang", "slow", "malformed", "truncated", "html200", "redirect", "drop"]
)
def test_faults_let_nobody_in_and_are_not_remembered(web: OmeroWeb, clock: Clock, fault: str | int) -> None:
    check = check_of(web, clock, timeout=0.5 if fault in ("hang", "slow") else 30.0)
    ada = web.login("ada")
    web.faults = [fault]
    assert check.may_read(ada, 1) == UNAVAILABLE
    check._web._timeout = 30.0  # on a busy machine also a sound answer takes its time
    assert check.may_read(ada, 1) == ALLOWED
    assert len(web.asked(PATH)) == len(web.requests)  # no redirect was followed


def test_a_server_that_is_down(web: OmeroWeb, check: ReadCheck) -> None:
    """OMERO.web loses the session then, and says the same as to one that has ended."""
    ada = web.login("ada")
    check.may_read(ada, 2)
    web.faults = ["down"]
    assert check.may_read(ada, 1) == LOGIN
    assert check.may_read(ada, 2) == LOGIN


def test_a_violation_of_security_looks_like_an_image_that_is_not_there(
    web: OmeroWeb, check: ReadCheck
) -> None:
    web.faults = ["security"]
    assert check.may_read(web.login("ada"), 1) == REFUSED


def test_nobody_at_that_address(clock: Clock) -> None:
    with OmeroWeb() as gone:
        pass
    assert check_of(gone, clock).may_read(None, 1) == UNAVAILABLE


@pytest.mark.parametrize("image", [0, -1, 2**63, True])
def test_images_that_cannot_be_are_not_asked_about(web: OmeroWeb, check: ReadCheck, image: int) -> None:
    assert check.may_read(web.login("ada"), image) == REFUSED
    assert web.requests == []


@pytest.mark.parametrize(
    "session", ["", "x", "a" * 129, "a" * 32 + "; bsession=1", "a" * 32 + "\r\nX: y", "ä" * 32, "a b" * 10]
)
def test_sessions_that_cannot_be_are_not_sent(web: OmeroWeb, check: ReadCheck, session: str) -> None:
    web.public = "guest"
    assert check.may_read(session, 2) == LOGIN
    assert web.requests == []


def test_a_thousand_first_requests_are_one_check(web: OmeroWeb, check: ReadCheck) -> None:
    web.latency = 0.3
    ada = web.login("ada")
    with ThreadPoolExecutor(1000) as threads:
        decisions = set(threads.map(lambda _: check.may_read(ada, 1), range(1000)))
    assert decisions == {ALLOWED}
    assert len(web.requests) == 1


def test_those_who_wait_share_a_failure_too(web: OmeroWeb, check: ReadCheck) -> None:
    web.latency, web.faults = 1.0, [500]  # long enough for all to come meanwhile on a busy machine
    ada = web.login("ada")
    with ThreadPoolExecutor(50) as threads:
        assert set(threads.map(lambda _: check.may_read(ada, 1), range(50))) == {UNAVAILABLE}
    assert len(web.requests) == 1
    assert check.may_read(ada, 1) == ALLOWED


def test_a_few_at_a_time(web: OmeroWeb, check: ReadCheck, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most = set(), [0]
    lock, fetch = threading.Lock(), check._web.get

    def counted(path: str, **named: object) -> Answer:
        with lock:
            under_way.add(path)
            most[0] = max(most[0], len(under_way))
        try:
            return fetch(path, **named)  # type: ignore[arg-type]
        finally:
            with lock:
                under_way.discard(path)

    monkeypatch.setattr(check._web, "get", counted)
    web.latency = 0.05
    ada = web.login("ada")
    for image in range(10, 40):
        web.add(OmeroImage(image))
    with ThreadPoolExecutor(30) as threads:
        assert set(threads.map(lambda image: check.may_read(ada, image), range(10, 40))) == {ALLOWED}
    assert most == [IN_FLIGHT]


def test_who_waits_too_long_for_a_turn_is_told_so(
    web: OmeroWeb, check: ReadCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roiservice.auth.readcheck.PATIENCE", 0.01)
    ada = web.login("ada")
    for _ in range(IN_FLIGHT):
        check._turns.acquire()
    assert check.may_read(ada, 1) == UNAVAILABLE
    check._turns.release()
    assert check.may_read(ada, 1) == ALLOWED


def test_memory_is_bounded(web: OmeroWeb, check: ReadCheck, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer(404, (("Content-Type", "application/json"), ("X-OMERO-ApiVersion", "0.2")), b"{}")
    monkeypatch.setattr(check._web, "get", lambda *_, **__: answer)
    ada = web.login("ada")
    for image in range(1, MOST_KEPT + 500):
        check.may_read(ada, image)
    assert len(check._known) == MOST_KEPT
    assert check._flights == {}


def test_no_session_is_kept(web: OmeroWeb, clock: Clock, store: Store) -> None:
    check = check_of(web, clock, store)
    ada = web.login("ada")
    check.may_read(ada, 1)
    assert ada not in f"{check._known} {store.values} {vars(check)}"


# Shared between processes


def test_processes_share_what_omero_said(web: OmeroWeb, clock: Clock, store: Store) -> None:
    one, other = check_of(web, clock, store), check_of(web, clock, store)
    ada = web.login("ada")
    assert [one.may_read(ada, image) for image in (1, 3)] == [ALLOWED, REFUSED]
    clock.now += 9
    assert [other.may_read(ada, image) for image in (1, 3)] == [ALLOWED, REFUSED]
    assert len(web.requests) == 2
    web.logout("ada")
    clock.now += 51  # a minute after the question, not after it was read from the store
    assert other.may_read(ada, 1) == LOGIN
    assert sorted(store.ttls.values())[:2] == [10, 60]


def test_processes_share_the_end_of_a_session(web: OmeroWeb, clock: Clock, store: Store) -> None:
    one, other = check_of(web, clock, store), check_of(web, clock, store)
    ada = web.login("ada")
    one.may_read(ada, 1)
    web.logout("ada")
    clock.now += 1
    assert one.may_read(ada, 2) == LOGIN
    assert other.may_read(ada, 1) == LOGIN
    web.sessions[ada] = "ada"
    clock.now += 1
    assert other.may_read(ada, 1) == ALLOWED
    assert check_of(web, clock, store).may_read(ada, 1) == ALLOWED


def test_nothing_that_was_put_into_the_store_lets_anybody_in(
    web: OmeroWeb, clock: Clock, store: Store
) -> None:
    check = check_of(web, clock, store)
    ada, bob = web.login("ada"), web.login("bob")
    assert check.may_read(ada, 1) == ALLOWED
    (mine,) = store.values
    genuine = store.values[mine]
    name = f"read:{check._names.of(bob)}:1"
    assert name != mine
    for value in (genuine, b"allowed", b"allowed 1 x", b"", b"\xff" * 100, genuine[:-1], genuine + b" x"):
        store.values[name] = value
        assert check_of(web, clock, store).may_read(bob, 1) == REFUSED
        clock.now += 10


def test_without_the_store_all_goes_on(web: OmeroWeb, clock: Clock, store: Store) -> None:
    check = check_of(web, clock, store)
    store.down = True
    ada = web.login("ada")
    assert [check.may_read(ada, image) for image in (1, 1, 3)] == [ALLOWED, ALLOWED, REFUSED]
    web.logout("ada")
    assert check.may_read(ada, 2) == LOGIN


def test_refusals_can_be_left_out(web: OmeroWeb, clock: Clock, store: Store) -> None:
    """Each refusal then is a question, whatever was found out before, and leaves nothing behind."""
    one, other = check_of(web, clock, store), check_of(web, clock, store)
    ada, bob = web.login("ada"), web.login("bob")
    for check in (one, other):
        assert [check.may_read(bob, 1, Trust.ALLOWED) for _ in range(2)] == [REFUSED, REFUSED]
    assert len(web.requests) == 4
    assert store.values == {}
    one.may_read(bob, 1)
    assert [check.may_read(bob, 1, Trust.ALLOWED) for check in (one, other)] == [REFUSED, REFUSED]
    assert len(web.requests) == 7
    assert [check.may_read(ada, 1, Trust.ALLOWED) for check in (one, other, one)] == [ALLOWED] * 3
    assert len(web.requests) == 8


def test_what_was_found_out_anew_replaces_the_old(web: OmeroWeb, clock: Clock, store: Store) -> None:
    one, other = check_of(web, clock, store), check_of(web, clock, store)
    ada = web.login("ada")
    assert one.may_read(ada, 1) == ALLOWED
    web.images[1].readers = frozenset()
    clock.now += 1
    assert one.may_read(ada, 1) == ALLOWED
    assert one.may_read(ada, 1, Trust.NOTHING) == REFUSED
    assert [check.may_read(ada, 1) for check in (one, other)] == [REFUSED, REFUSED]
    web.logout("ada")
    assert one.may_read(ada, 2, Trust.NOTHING) == LOGIN
    assert check_of(web, clock, store).may_read(ada, 1) == LOGIN


# Answers that the stand-in does not give

JSON = ("Content-Type", "application/json; charset=utf-8")
API = ("X-OMERO-ApiVersion", "0.2")
IMAGE = b'{"data": {"@type": "http://www.openmicroscopy.org/Schemas/OME/2016-06#Image", "@id": 7}}'
HTML = ("Content-Type", "text/html")


def test_the_only_answer_that_allows() -> None:
    assert decide(Answer(200, (JSON, API), IMAGE), 7) == ALLOWED


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, (JSON,), IMAGE),
        Answer(200, (API,), IMAGE),
        Answer(200, (HTML, API), IMAGE),
        Answer(201, (JSON, API), IMAGE),
        Answer(206, (JSON, API), IMAGE),
        Answer(200, (JSON, API), IMAGE.replace(b"7}", b"8}")),
        Answer(200, (JSON, API), IMAGE.replace(b"7}", b'"7"}')),
        Answer(200, (JSON, API), IMAGE.replace(b"7}", b"7.0}")),
        Answer(200, (JSON, API), IMAGE.replace(b"#Image", b"#Dataset")),
        Answer(200, (JSON, API), IMAGE.replace(b"#Image", b"")),
        Answer(200, (JSON, API), b'{"data": []}'),
        Answer(200, (JSON, API), b'{"data": {}}'),
        Answer(200, (JSON, API), b"{}"),
        Answer(200, (JSON, API), b"[]"),
        Answer(200, (JSON, API), b"null"),
        Answer(200, (JSON, API), b""),
        Answer(200, (JSON, API), b"[" * 100_000),
        Answer(404, (HTML,), b"<html>no such route</html>"),
        Answer(404, (JSON,), b'{"message": "Image 7 not found"}'),
        Answer(403, (HTML,), b""),
        Answer(403, (JSON,), b'{"message": "blocked by a firewall"}'),
        Answer(403, (JSON,), b'{"message": ["Not logged in"]}'),
        Answer(401, (JSON,), b'{"message": "Not logged in"}'),
        Answer(301, (HTML, ("Location", "/")), b""),
        Answer(302, (JSON, API), IMAGE),
        Answer(500, (JSON, API), b'{"message": "x"}'),
    ],
)
def test_all_other_answers_say_nothing(answer: Answer) -> None:
    with pytest.raises(OmeroWebFailed):
        decide(answer, 7)


@pytest.mark.parametrize("image_id", [1, True])
def test_true_is_no_id(image_id: int) -> None:
    with pytest.raises(OmeroWebFailed):
        decide(Answer(200, (JSON, API), IMAGE.replace(b"7}", b"true}")), image_id)
