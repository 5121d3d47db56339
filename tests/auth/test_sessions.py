"""OMERO.web's sessions in Redis: read as data, whatever the bytes."""

from __future__ import annotations

import datetime
import os
import pickle
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roiservice.auth.sessions import ENDED, UNKNOWN, DjangoSessions, Session, SessionNames, plain_pickle
from tests.auth.support import SECRET, Store

SESSION = "abcdefghijklmnopqrstuvwxyz012345"
CONNECTOR = {
    "server_id": "1",
    "is_secure": True,
    "is_public": False,
    "omero_session_key": "5f782f9e-cadd-4646-a7cd-99f2944ea6bc",
    "user_id": 4,
}
KEPT = {
    "connector": CONNECTOR,
    "can_create": True,
    "active_group": 3,
    "server_settings": {"a": ["b", None, 1.5]},
}


def found(store: Store, kept: object, protocol: int = pickle.HIGHEST_PROTOCOL) -> Session:
    value = kept if isinstance(kept, bytes) else pickle.dumps(kept, protocol)
    store.values[f":1:django.contrib.sessions.cache{SESSION}"] = value
    return DjangoSessions(store).find(SESSION)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_session_is_read_whatever_the_protocol(store: Store, protocol: int) -> None:
    assert found(store, KEPT, protocol) == Session(True, 4)


def test_prefix_and_version_are_those_of_the_cache(store: Store) -> None:
    store.values[f"omero:2:django.contrib.sessions.cache{SESSION}"] = pickle.dumps(KEPT)
    assert DjangoSessions(store, "omero", 2).find(SESSION) == Session(True, 4)
    assert DjangoSessions(store).find(SESSION) == ENDED


@pytest.mark.parametrize("user_id", [None, "4", True, -1, 2**63, 1.0])
def test_a_user_that_is_no_number_is_not_known(store: Store, user_id: object) -> None:
    assert found(store, {"connector": {**CONNECTOR, "user_id": user_id}}) == Session(True, None)


@pytest.mark.parametrize("kept", [{}, {"connector": None}, {"can_create": True}])
def test_without_a_connector_nobody_is_logged_in(store: Store, kept: object) -> None:
    assert found(store, kept) == ENDED


@pytest.mark.parametrize("session", ["", "short", "a b" * 10, "../" * 10, "a" * 200, "a" * 31 + "\n"])
def test_no_other_keys_are_asked_for(store: Store, session: str) -> None:
    assert DjangoSessions(store).find(session) == ENDED
    assert store.asked == 0


def test_a_store_that_is_down_says_nothing(store: Store) -> None:
    store.down = True
    assert DjangoSessions(store).find(SESSION) == UNKNOWN


class Runs:
    """Makes a pickle that runs a command when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)

    def __init__(self, path: str) -> None:
        self.path = path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_session_runs_anything(store: Store, tmp_path: Any, protocol: int) -> None:
    assert found(store, {"connector": CONNECTOR, "x": Runs(f"{tmp_path}/made")}, protocol) == UNKNOWN
    assert list(tmp_path.iterdir()) == []


HOSTILE = [
    b"",
    b"x",
    b"garbage" * 100,
    b"\x80\x05.",
    b"N.",
    pickle.dumps([1]),
    pickle.dumps("connector"),
    pickle.dumps({"connector": "x"}),
    pickle.dumps({"at": datetime.datetime(2026, 1, 1)}),
    pickle.dumps({"at": {1, 2}}),
    pickle.dumps(KEPT)[:-10],
    b"cos\nsystem\n(S'true'\ntR.",
    b"\x80\x02}r\xff\xff\xff\x7f.",  # room for 2^31 values
    b"}p99999999999999999999\n.",
    b"}p-1\n.",
    b"(" * 1000 + b".",
    b"]" + b"2a" * 1000 + b".",
    b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",  # a text of 2^62 bytes
    b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"1.",
    b"I" + b"9" * 5000 + b"\n.",
    b"\x80\x02]]\x86" + b"2\x86" * 60 + b"}" + b"(" + b"u.",
    b"\x80\x02}" + b"K\x01K\x02\x86" + b"2\x86" * 100 + b"Ns.",  # a key that would take for ever to hash
    b"\x80\x05\x97.",
    b"P1\n.",
    b"\x82\x01.",
    b"x" * 2**20,
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_sessions_say_nothing(store: Store, value: bytes) -> None:
    assert found(store, value) == UNKNOWN


def test_an_index_makes_no_room(store: Store) -> None:
    tracemalloc.start()
    assert found(store, b"\x80\x02}r" + struct.pack("<I", 2**22) + b".") == UNKNOWN
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


@given(st.binary())
def test_no_bytes_break_it(value: bytes) -> None:
    try:
        plain_pickle(value)
    except ValueError:
        return


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(VALUES, st.sampled_from(range(3, pickle.HIGHEST_PROTOCOL + 1)))
def test_plain_values_are_what_pickle_says(value: object, protocol: int) -> None:
    assert plain_pickle(pickle.dumps(value, protocol)) == value


@given(VALUES, st.integers(0, 2**16), st.integers(0, 255))
def test_a_damaged_pickle_is_plain_or_nothing(value: object, at: int, byte: int) -> None:
    content = bytearray(pickle.dumps(value))
    content[at % len(content)] = byte
    try:
        plain_pickle(bytes(content))
    except ValueError:
        return


# Names


def test_names_differ_in_everything_they_are_made_of() -> None:
    url = "http://omero.example"
    names = {
        SessionNames(secret, cookie, address).of(session)
        for secret in (SECRET, b"t" * 32)
        for cookie in ("sessionid", "omero")
        for address in (url, f"{url}/web")
        for session in (SESSION, SESSION[::-1], None)
    }
    assert len(names) == 24
    assert {len(name) for name in names} == {64}
    assert SECRET.decode() not in repr(SessionNames(SECRET, "sessionid", url))
