"""Tokens whose signature was checked before: what is remembered lets nobody in for longer."""

from __future__ import annotations

import pytest

from roiservice.auth import tokens
from roiservice.auth.claims import ACCESS, LEEWAY, TICKET
from roiservice.errors import TokenExpired, TokenInvalid
from tests.auth.support import NOW, OWNER, Service


def test_a_signature_is_checked_once(issuing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    text = issuing.tokens.access_token(OWNER, [7]).text
    claims = issuing.tokens.verify(text, ACCESS)
    monkeypatch.setattr(tokens, "_jws", None)
    assert issuing.tokens.verify(text, ACCESS) == claims


def test_it_ends_on_the_second_as_before(issuing: Service) -> None:
    text = issuing.tokens.access_token(OWNER, [7], 300).text
    issuing.tokens.verify(text, ACCESS)
    issuing.clock.now = NOW + 299.9
    issuing.tokens.verify(text, ACCESS)
    issuing.clock.now = NOW + 300
    with pytest.raises(TokenExpired):
        issuing.tokens.verify(text, ACCESS)
    issuing.clock.now = NOW - LEEWAY - 1
    with pytest.raises(TokenInvalid):
        issuing.tokens.verify(text, ACCESS)


def test_it_is_of_its_kind_alone(issuing: Service) -> None:
    text = issuing.tokens.ticket(OWNER, 7, "/images/7").text
    issuing.tokens.verify(text, TICKET)
    with pytest.raises(TokenInvalid):
        issuing.tokens.verify(text, ACCESS)
    with pytest.raises(TokenInvalid):
        issuing.tokens.verify(text[:-2] + ("AA" if text[-2:] != "AA" else "QQ"), TICKET)


def test_a_key_that_is_gone_takes_its_tokens_along(issuing: Service) -> None:
    text = issuing.tokens.access_token(OWNER, [7]).text
    issuing.tokens.verify(text, ACCESS)
    issuing.ring.retire(issuing.key.id)
    with pytest.raises(TokenInvalid):
        issuing.tokens.verify(text, ACCESS)


def test_no_more_than_so_many_are_kept(issuing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_KEPT", 5)
    for _ in range(20):
        issuing.tokens.verify(issuing.tokens.access_token(OWNER, [7]).text, ACCESS)
    assert len(issuing.tokens._verified) == 5
    for _ in range(20):
        with pytest.raises(TokenInvalid):
            issuing.tokens.verify("x" * 100, ACCESS)
    assert len(issuing.tokens._verified) == 5


def test_a_ticket_does_not_outlive_the_token_it_is_made_with(issuing: Service) -> None:
    claims = issuing.tokens.verify(issuing.tokens.access_token(OWNER, [7], 300).text, ACCESS)
    issuing.clock.now += 100
    made = issuing.tokens.ticket(OWNER, 7, "/images/7", 900, claims)
    assert made.lifetime == 200
    assert issuing.tokens.verify(made.text, TICKET).expires == claims.expires
    assert issuing.tokens.ticket(OWNER, 7, "/images/7", 60, claims).lifetime == 60
