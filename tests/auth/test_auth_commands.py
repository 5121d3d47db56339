"""`roiservice keys`, `token` and `revoke`, run for real."""

from __future__ import annotations

import re
import time
from dataclasses import fields
from pathlib import Path

import pytest

from roiservice import cli
from roiservice.auth.claims import ACCESS, TICKET
from roiservice.auth.keys import KeyRing, keys_folder
from roiservice.auth.local import local_store
from roiservice.auth.revocation import Revocations
from roiservice.auth.tokens import Tokens, issuer_of
from roiservice.catalog.registry import Registry
from roiservice.errors import TokenInvalid
from roiservice.settings import PREFIX, Settings
from roiservice.web.problems import KINDS
from tests.e2e.support import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def tokens_of(home: Home) -> Tokens:
    state = home.path / "state/roiservice"
    return Tokens(KeyRing(keys_folder(state)), issuer_of(Registry(state).uuid))


def test_a_token_is_one_that_the_service_accepts(home: Home) -> None:
    done = home.run("token", "--image", 7, "--image", 8)
    assert (done.returncode, done.stderr) == (0, "")
    claims = tokens_of(home).verify(done.stdout.strip(), ACCESS)
    assert (claims.images, claims.subject) == ((7, 8), "script")
    assert claims.expires - claims.issued == 300


def test_a_ticket_is_one_that_the_service_accepts(home: Home) -> None:
    done = home.run("token", "--image", 7, "--ticket", "/images/7", "--lifetime", 86_400)
    claims = tokens_of(home).verify(done.stdout.strip(), TICKET)
    assert (claims.images, claims.path) == ((7,), "/images/7")
    assert claims.expires - claims.issued == 86_400


@pytest.mark.parametrize(
    "arguments",
    [
        ("--image", 0),
        ("--image", 2**63),
        (),
        ("--image", 7, "--lifetime", 3601),
        ("--image", 7, "--image", 8, "--ticket", "/images/7"),
        ("--image", 7, "--ticket", "images/7"),
    ],
)
def test_wrong_usage_is_said_in_one_line(home: Home, arguments: tuple[object, ...]) -> None:
    done = home.run("token", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_keys_are_listed_made_and_retired(home: Home) -> None:
    assert home.run("keys").stdout == ""
    first = home.run("keys", "new").stdout.split()
    assert first[1:] == ["signs", "now"]
    second = home.run("keys", "new").stdout.split()
    assert second[1:] == ["signs", "in", "10", "minutes"]
    listed = [line.split() for line in home.run("keys", "list").stdout.splitlines()]
    assert [row[0] for row in listed] == [first[0], second[0]]
    assert [row[2] for row in listed] == ["signs", "signs"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", listed[1][4])
    assert home.run("keys", "retire").stdout == ""  # what the first signed may still be valid
    assert home.run("keys", "retire", first[0]).stdout.split() == [first[0], "retired"]
    assert [line.split()[::2] for line in home.run("keys").stdout.splitlines()] == [[second[0], "signs"]]
    done = home.run("keys", "retire", first[0])
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_outlived_keys_are_retired_together(home: Home) -> None:
    state = keys_folder(home.path / "state/roiservice")
    now = time.time()
    ids = [KeyRing(state, lambda at=at: now - at * 86_400).new().id for at in (9, 5, 1)]
    assert home.run("keys", "retire").stdout.split()[::2] == ids[:1]
    assert [line.split()[::2] for line in home.run("keys").stdout.splitlines()] == [
        [ids[1], "verifies"],
        [ids[2], "signs"],
    ]


def test_a_damaged_key_is_named(home: Home) -> None:
    home.run("keys", "new")
    (keys_folder(home.path / "state/roiservice") / "bad.pem").write_text("x")
    for command in (["keys"], ["token", "--image", 7]):
        done = home.run(*command)
        assert done.returncode == 2
        assert "bad.pem" in done.stderr


@pytest.mark.parametrize("kind", ["jti", "sid", "sub", "img"])
def test_tokens_are_taken_back_without_redis(home: Home, kind: str) -> None:
    tokens = tokens_of(home)
    claims = tokens.verify(home.run("token", "--image", 7).stdout.strip(), ACCESS)
    marks = Revocations(local_store(home.path / "state/roiservice"), required=True)
    marks.check(claims, 7)
    values = {"jti": claims.token_id, "sid": claims.session, "sub": claims.subject, "img": 7}
    done = home.run("revoke", "--image" if kind == "img" else f"--{kind}", values[kind])
    assert (done.returncode, done.stdout) == (0, f"{kind} {values[kind]}  revoked\n")
    with pytest.raises(TokenInvalid):
        Revocations(local_store(home.path / "state/roiservice")).check(claims, 7)


@pytest.mark.parametrize("arguments", [(), ("--jti", ""), ("--sid", "x" * 100), ("--image", 0)])
def test_nothing_else_is_taken_back(home: Home, arguments: tuple[object, ...]) -> None:
    done = home.run("revoke", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_a_redis_that_is_away_is_said(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", {"ROISERVICE_REDIS_URL": "redis://127.0.0.1:1/0"})
    done = home.run("revoke", "--sub", "u:4")
    assert (done.returncode, done.stdout) == (1, "")
    assert "try again" in done.stderr


def test_what_the_page_for_administrators_names_exists() -> None:
    page = (Path(__file__).parent.parent.parent / "docs/access.md").read_text("utf-8")
    known = {f"{PREFIX}{setting.name.upper()}" for setting in fields(Settings)}
    assert set(re.findall(rf"{PREFIX}[A-Z_]+", page)) <= known
    for command in set(re.findall(r"roiservice ([a-z]+)", page)) - {"on"}:
        assert command in cli.roiservice.commands, command
    titles = {kind.name for kind in KINDS.values()}
    seen = page[page.index("## What each failure looks like") :]
    assert set(re.findall(r"^\| [45]\d\d `([a-z-]+)`", seen, re.MULTILINE)) <= titles
    tests = [
        path.read_text("utf-8") for path in (Path(__file__).parent.parent / "e2e").glob("test_access_*.py")
    ]
    tried = {int(number) for text in tests for number in re.findall(r"def test_attack_(\d\d)_", text)}
    assert tried | {17} == set(range(1, 31))  # 17 is about minutes: tests/web has it, with a clock of its own
