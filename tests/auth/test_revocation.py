"""Tokens that were taken back."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from roiservice.auth.claims import LONGEST_LIFETIME, Claims
from roiservice.auth.revocation import Revocations
from roiservice.errors import BadParameter, TokenInvalid, Unavailable
from tests.auth.support import NOW, Clock, Store

SID = "0123456789abcdef"
CLAIMS = Claims("0" * 32, "kid", "u:4", SID, (7, 8), NOW, NOW + 300, None)
KINDS = [("jti", "0" * 32), ("sid", SID), ("sub", "u:4"), ("img", 7)]


def refused(revocations: Revocations, claims: Claims, image_id: int | None) -> bool:
    try:
        revocations.check(claims, image_id)
    except TokenInvalid:
        return True
    return False


@pytest.mark.parametrize(("kind", "value"), KINDS)
def test_every_process_refuses_what_one_revokes(
    store: Store, clock: Clock, kind: str, value: str | int
) -> None:
    one, other = Revocations(store, clock=clock), Revocations(store, clock=clock)
    assert not refused(one, CLAIMS, 7)
    assert not refused(other, CLAIMS, 7)
    one.revoke(kind, value)
    assert refused(one, CLAIMS, 7)
    clock.now += 1  # what the other remembers is not older
    assert refused(other, CLAIMS, 7)
    assert refused(Revocations(store, clock=clock), CLAIMS, 7)
    assert store.ttls[f"rev:{kind}:{value}"] > LONGEST_LIFETIME


@pytest.mark.parametrize(("kind", "value"), KINDS[1:])
def test_later_tokens_are_not_meant(store: Store, clock: Clock, kind: str, value: str | int) -> None:
    revocations = Revocations(store, clock=clock)
    revocations.revoke(kind, value)
    later = Claims("1" * 32, "kid", "u:4", SID, (7,), NOW + 1, NOW + 300, None)
    assert refused(revocations, CLAIMS, 7)
    assert not refused(revocations, later, 7)


@pytest.mark.parametrize(
    ("kind", "value"), [("jti", "1" * 32), ("sid", "f" * 16), ("sub", "u:44"), ("img", 77), ("img", 8)]
)
def test_others_are_not_meant(store: Store, clock: Clock, kind: str, value: str | int) -> None:
    revocations = Revocations(store, clock=clock)
    revocations.revoke(kind, value)
    assert not refused(revocations, CLAIMS, 7)
    assert not refused(revocations, CLAIMS, None)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("jti", ""), ("jti", 1), ("sub", "a" * 65), ("img", "7"), ("img", True), ("img", 0), ("all", "x")],
)
def test_nothing_else_can_be_revoked(store: Store, kind: str, value: str | int) -> None:
    with pytest.raises(BadParameter):
        Revocations(store).revoke(kind, value)
    assert store.values == {}


def test_without_the_store_tokens_pass_unless_revocation_is_required(store: Store, clock: Clock) -> None:
    store.down = True
    assert not refused(Revocations(store, clock=clock), CLAIMS, 7)
    with pytest.raises(Unavailable) as caught:
        Revocations(store, required=True, clock=clock).check(CLAIMS, 7)
    assert caught.value.retry_after == 5


@pytest.mark.parametrize("value", [b"", b"x", b"-1", b"1.5", b"9" * 100, b"\xff", "٣".encode(), b"1 "])
def test_garbage_in_the_store_is_like_a_store_that_is_down(store: Store, clock: Clock, value: bytes) -> None:
    store.values["rev:jti:" + "0" * 32] = value
    assert not refused(Revocations(store, clock=clock), CLAIMS, 7)
    with pytest.raises(Unavailable):
        Revocations(store, required=True, clock=clock).check(CLAIMS, 7)


def test_a_revocation_that_was_not_kept_is_an_error(store: Store, clock: Clock) -> None:
    store.down = True
    revocations = Revocations(store, clock=clock)
    with pytest.raises(Unavailable):
        revocations.revoke("sub", "u:4")
    store.down = False
    assert not refused(revocations, CLAIMS, 7)


def test_what_was_made_with_a_token_goes_with_it(store: Store, clock: Clock) -> None:
    revocations = Revocations(store, clock=clock)
    ticket = replace(CLAIMS, token_id="1" * 32, made_with=CLAIMS.token_id)
    assert not refused(revocations, ticket, 7)
    revocations.revoke("jti", CLAIMS.token_id)
    assert refused(revocations, ticket, 7)
    assert not refused(revocations, replace(ticket, made_with="2" * 32), 7)


def test_the_store_can_be_asked_at_once(store: Store, clock: Clock) -> None:
    one, other = Revocations(store, clock=clock), Revocations(store, clock=clock)
    other.check(CLAIMS, 7)
    one.revoke("img", 7)
    assert not refused(other, CLAIMS, 7)
    with pytest.raises(TokenInvalid):
        other.check(CLAIMS, 7, anew=True)
    assert refused(other, CLAIMS, 7)


def test_the_store_is_asked_once_a_second(store: Store, clock: Clock) -> None:
    revocations = Revocations(store, clock=clock)
    for _ in range(100):
        revocations.check(CLAIMS, 7)
    assert store.asked == 4
    clock.now += 1
    revocations.check(CLAIMS, 7)
    assert store.asked == 8
    clock.now -= 100  # a clock put back makes nothing last
    revocations.check(CLAIMS, 7)
    assert store.asked == 12


def test_a_store_that_comes_back_counts_at_once(store: Store, clock: Clock) -> None:
    one, other = Revocations(store, clock=clock), Revocations(store, clock=clock)
    one.revoke("sid", SID)
    store.down = True
    assert not refused(other, CLAIMS, 7)
    store.down = False
    assert refused(other, CLAIMS, 7)


def test_what_was_revoked_is_in_the_log(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Revocations(store).revoke("img", 7)
    assert "rev:img:7" in caplog.text
