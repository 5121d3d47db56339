"""Who is asking, and may they: the order of credentials, and what each refusal says."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roiservice.auth.claims import covers
from roiservice.auth.omero import OmeroPolicy, bearer_token
from roiservice.auth.policy import Caller, Identity, Policy, PublicPolicy, may_read
from roiservice.auth.readcheck import ReadCheck
from roiservice.auth.revocation import Revocations
from roiservice.auth.sessions import DjangoSessions, SessionNames
from roiservice.errors import (
    InsufficientScope,
    InvalidRequest,
    LoginRequired,
    NotFound,
    RoiServiceError,
    SessionExpired,
    TokenExpired,
    TokenInvalid,
    Unauthorized,
    Unavailable,
)
from roiservice.omeroweb.client import OmeroWeb as Client
from tests.auth.support import OWNER, SECRET, Service, Store
from tests.omeroweb.images import OmeroImage
from tests.omeroweb.standin import OmeroWeb

HERE = "/images/7/collections"


@dataclass
class Site:
    """A policy, and all that it stands on. Images 1 and 7 are ada's, 2 is everybody's."""

    policy: OmeroPolicy
    web: OmeroWeb
    issuing: Service
    store: Store
    sessions: Store

    def bearer(self, *images: int, lifetime: int = 300) -> str:
        return f"Bearer {self.issuing.tokens.access_token(OWNER, images, lifetime).text}"

    def ticket(self, image: int = 7, path: str = "/images/7") -> str:
        return self.issuing.tokens.ticket(OWNER, image, path).text

    def identify(
        self,
        authorization: str | None = None,
        tickets: tuple[str, ...] = (),
        session: str | None = None,
        method: str = "GET",
        path: str = HERE,
    ) -> Identity:
        return self.policy.identify(authorization, tickets, session, method, path)


@pytest.fixture
def site(issuing: Service) -> Iterator[Site]:
    with OmeroWeb() as web:
        for image in (1, 7):
            web.add(OmeroImage(image, readers=frozenset({"ada"})))
        web.add(OmeroImage(2))
        client = Client(web.url)
        names = SessionNames(SECRET, client.cookie_name, client.url)
        store = Store()
        reads = ReadCheck(client, names, None, issuing.clock)
        revocations = Revocations(store, clock=issuing.clock)
        policy: Policy = OmeroPolicy(reads, names, issuing.tokens, revocations)
        assert isinstance(policy, OmeroPolicy)
        yield Site(policy, web, issuing, store, Store())


def with_sessions(site: Site) -> Site:
    """The same, with OMERO.web's sessions in Redis."""
    site.policy._sessions = DjangoSessions(site.sessions)
    return site


def keep(site: Site, session: str, user_id: int) -> None:
    kept = pickle.dumps({"connector": {"user_id": user_id, "is_public": False}})
    site.sessions.values[f":1:django.contrib.sessions.cache{session}"] = kept


def test_in_public_everybody_may_read(issuing: Service) -> None:
    policy = PublicPolicy()
    who = policy.identify("Bearer rubbish", ("x", "y"), "z", "POST", "//")
    assert who == Identity(Caller.ANYBODY)
    policy.require(who, 7)
    assert may_read(policy, who, 7)


def test_sessions_are_asked_about(site: Site) -> None:
    ada, bob = site.web.login("ada"), site.web.login("bob")
    site.policy.require(site.identify(session=ada), 7)
    with pytest.raises(NotFound, match=r"^there is no image 7$"):
        site.policy.require(site.identify(session=bob), 7)
    with pytest.raises(NotFound, match=r"^there is no image 99$"):
        site.policy.require(site.identify(session=bob), 99)
    assert [may_read(site.policy, site.identify(session=bob), image) for image in (1, 2, 7)] == [
        False,
        True,
        False,
    ]


def test_nobody_and_sessions_that_have_ended(site: Site) -> None:
    with pytest.raises(LoginRequired):
        site.policy.require(site.identify(), 7)
    with pytest.raises(SessionExpired):
        site.policy.require(site.identify(session="a" * 32), 7)
    site.web.public = "guest"
    site.policy.require(site.identify(), 2)
    with pytest.raises(NotFound):
        site.policy.require(site.identify(), 7)


def test_while_omero_web_is_down_nobody_gets_in(site: Site) -> None:
    who = site.identify(session=site.web.login("ada"))
    site.web.faults = [500]
    with pytest.raises(Unavailable) as caught:
        site.policy.require(who, 7)
    assert caught.value.retry_after == 5


def test_tokens_are_for_their_images_and_ask_nobody(site: Site) -> None:
    who = site.identify(site.bearer(7, 99))
    site.policy.require(who, 7)
    site.policy.require(who, 99)  # that it does not exist is for others to say
    said = set()
    for image in (2, 98):  # one that exists, one that does not
        with pytest.raises(InsufficientScope) as caught:
            site.policy.require(who, image)
        said.add((str(caught.value), caught.value.challenge))
    assert len(said) == 1
    assert site.web.requests == []


def test_a_bad_token_never_falls_back_to_the_cookie(site: Site) -> None:
    ada = site.web.login("ada")
    good = site.bearer(7)
    for bad in ("Bearer x", "Bearer", "Bearer ", f"{good}x", f"{good}, {good}", "Digest x", "", "x"):
        with pytest.raises(TokenInvalid):
            site.identify(bad, session=ada)
    for tickets in (("",), ("x",), (good.removeprefix("Bearer "),)):
        with pytest.raises(TokenInvalid):
            site.identify(None, tickets, session=ada)
    site.issuing.clock.now += 300
    with pytest.raises(TokenExpired):
        site.identify(good, session=ada)


def test_a_good_token_is_not_widened_by_the_cookie(site: Site) -> None:
    who = site.identify(site.bearer(2), session=site.web.login("ada"))
    with pytest.raises(InsufficientScope):
        site.policy.require(who, 7)


def test_credentials_of_a_proxy_are_not_ours(site: Site) -> None:
    ada = site.web.login("ada")
    assert site.identify("Basic YWRhOmFkYQ==", session=ada).caller is Caller.SESSION


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_name_of_the_scheme_has_any_case(site: Site, scheme: str) -> None:
    assert site.identify(site.bearer(7).replace("Bearer", scheme)).caller is Caller.TOKEN
    assert bearer_token(None) is None


def test_contradicting_credentials_are_refused_before_they_are_read(site: Site) -> None:
    ticket = site.ticket()
    for authorization, tickets, method in (
        (site.bearer(7), (ticket,), "GET"),
        ("Bearer x", ("y",), "GET"),
        (None, (ticket, ticket), "GET"),
        (None, (ticket,), "POST"),
        (None, (ticket,), "DELETE"),
        (None, (ticket,), "get"),
    ):
        with pytest.raises(InvalidRequest):
            site.identify(authorization, tickets, method=method)
    for method in ("GET", "HEAD"):
        assert site.identify(None, (ticket,), method=method).caller is Caller.TICKET


@pytest.mark.parametrize(
    "path", ["/images/7", "/images/7/", "/images/7/collections", "/images/7/collections/labels:cells/items"]
)
def test_a_ticket_is_for_its_path_and_below(site: Site, path: str) -> None:
    for prefix in ("/images/7", "/images/7/"):
        site.policy.require(site.identify(None, (site.ticket(path=prefix),), path=path), 7)


@pytest.mark.parametrize(
    "path",
    [
        "/", "/images", "/images/", "/images/1", "/images/70", "/images/77/collections", "/images/7x",
        "/Images/7", "//images/7", "/images//7", "/images/7/..",
        "/images/7/../1", "/images/7/./x", "/images/7//x",
        "/images/7/%2e%2e/1", "/images/7\\x", "/images/7\0", "/images/7/\n", "images/7", "", "/images/\uff17",
    ],
)  # fmt: skip
def test_a_ticket_is_for_no_other_path(site: Site, path: str) -> None:
    with pytest.raises(InsufficientScope):
        site.identify(None, (site.ticket(),), path=path)


def test_a_ticket_is_for_its_image_whatever_the_path(site: Site) -> None:
    who = site.identify(None, (site.ticket(7, "/images"),), path="/images/1")
    with pytest.raises(InsufficientScope):
        site.policy.require(who, 1)


SEGMENTS = st.lists(st.sampled_from(["images", "7", "77", "1", "a", "b"]), min_size=1, max_size=5)


@given(SEGMENTS, SEGMENTS, st.booleans(), st.booleans())
def test_paths_are_compared_by_whole_segments(
    begin: list[str], path: list[str], slash: bool, other_slash: bool
) -> None:
    one = "/" + "/".join(begin) + "/" * slash
    other = "/" + "/".join(path) + "/" * other_slash
    assert covers(one, other) == (path[: len(begin)] == begin)


def test_revoked_tokens_are_refused(site: Site) -> None:
    bearer, ticket = site.bearer(7, 2), site.ticket()
    revocations = site.policy._revocations
    assert revocations is not None
    revocations.revoke("img", 7)
    for who in (site.identify(bearer), site.identify(None, (ticket,))):
        with pytest.raises(TokenInvalid):
            site.policy.require(who, 7)
    site.policy.require(site.identify(bearer), 2)
    revocations.revoke("sub", OWNER.subject)
    for tickets, authorization in (((), bearer), ((ticket,), None)):
        with pytest.raises(TokenInvalid):
            site.identify(authorization, tickets)


def test_a_logout_counts_at_once_where_sessions_can_be_read(site: Site) -> None:
    with_sessions(site)
    ada = site.web.login("ada")
    keep(site, ada, 4)
    who = site.identify(session=ada)
    site.policy.require(who, 7)
    site.sessions.values.clear()  # OMERO.web's own logout deletes it
    with pytest.raises(SessionExpired):
        site.policy.require(who, 7)
    assert all("Cookie" not in asked.headers for asked in site.web.requests[1:])
    site.web.public = "guest"
    site.policy.require(who, 2)  # what is public stays so
    with pytest.raises(NotFound):
        site.policy.require(who, 7)


def test_where_sessions_cannot_be_read_now_omero_web_is_asked(site: Site) -> None:
    with_sessions(site).sessions.down = True
    ada = site.web.login("ada")
    site.policy.require(site.identify(session=ada), 7)
    site.sessions.down = False
    site.sessions.values[f":1:django.contrib.sessions.cache{ada}"] = b"\x80garbage"
    site.policy.require(site.identify(session=ada), 7)


def test_for_whom_tokens_are_made(site: Site) -> None:
    ada = site.web.login("ada")
    by_session = site.policy.owner(site.identify(session=ada))
    assert by_session.subject == f"s:{by_session.session}"
    assert len(by_session.session) == 16
    keep(with_sessions(site), ada, 4)
    known = site.policy.owner(site.identify(session=ada))
    assert (known.subject, known.session) == ("u:4", by_session.session)
    assert site.policy.owner(site.identify(site.bearer(7))) == OWNER
    made = site.issuing.tokens.access_token(known, [7])
    assert site.identify(f"Bearer {made.text}").caller is Caller.TOKEN


def test_nobody_and_tickets_make_no_tokens(site: Site) -> None:
    with pytest.raises(LoginRequired):
        site.policy.owner(site.identify())
    with pytest.raises(InsufficientScope):
        site.policy.owner(site.identify(None, (site.ticket(),)))


def test_identities_can_be_logged(site: Site) -> None:
    ada, ticket = site.web.login("ada"), site.ticket()
    for who in (site.identify(session=ada), site.identify(None, (ticket,))):
        assert ada not in f"{who} {who!r}"
        assert ticket.split(".")[2] not in f"{who} {who!r}"
    assert str(who) == f"ticket {who.claims.token_id} of u:4"  # type: ignore[union-attr]


def test_every_refusal_has_its_challenge() -> None:
    realm = 'Bearer realm="roiservice"'
    challenges: dict[type[RoiServiceError], str] = {
        LoginRequired: realm,
        SessionExpired: realm,
        TokenInvalid: f'{realm}, error="invalid_token"',
        TokenExpired: f'{realm}, error="invalid_token", error_description="expired"',
        InsufficientScope: f'{realm}, error="insufficient_scope", scope="roi:read"',
        InvalidRequest: f'{realm}, error="invalid_request"',
    }
    assert {kind: kind.challenge for kind in challenges} == challenges  # type: ignore[attr-defined]
    assert all(issubclass(kind, Unauthorized) for kind in list(challenges)[:4])


def test_public_mode_reads_no_tokens(tmp_path: Path) -> None:
    """The service starts as fast as before where nothing is protected."""
    import subprocess
    import sys

    program = "import sys, roiservice.auth.policy; print({'jwt', 'cryptography'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
