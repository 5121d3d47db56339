"""Who may read where OMERO decides: those who can in OMERO, and those who hold a token.

A credential that is there is the one that counts: a bad token is refused, whatever the cookie says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from roiservice.auth.claims import ACCESS, TICKET, Claims, covers
from roiservice.auth.policy import Caller, Identity, Trust
from roiservice.auth.readcheck import Decision, ReadCheck
from roiservice.auth.revocation import Revocations
from roiservice.auth.sessions import ENDED, UNKNOWN, DjangoSessions, Session, SessionNames
from roiservice.errors import (
    InsufficientScope,
    InvalidRequest,
    LoginRequired,
    NotFound,
    RoiServiceError,
    SessionExpired,
    TokenInvalid,
    Unavailable,
)

if TYPE_CHECKING:
    from roiservice.auth.tokens import Owner, Tokens

_SAFE = frozenset(("GET", "HEAD"))


class OmeroPolicy:
    """Those may read an image who can in OMERO, or hold a token for it.

    `sessions` are OMERO.web's where they can be read: a logout then counts at once.
    """

    def __init__(
        self,
        reads: ReadCheck,
        names: SessionNames,
        tokens: Tokens,
        revocations: Revocations | None = None,
        sessions: DjangoSessions | None = None,
    ) -> None:
        self._reads = reads
        self._names = names
        self._tokens = tokens
        self._revocations = revocations
        self._sessions = sessions

    def identify(
        self, authorization: str | None, tickets: Sequence[str], session: str | None, method: str, path: str
    ) -> Identity:
        """As Policy says. The session is not yet asked about: that is done for an image."""
        bearer = bearer_token(authorization)
        _check_credentials(bearer, tickets, method)
        if bearer is not None:
            claims = self._tokens.verify(bearer, ACCESS)
        elif tickets:
            claims = self._tokens.verify(tickets[0], TICKET)
        else:
            return Identity(Caller.ANONYMOUS if session is None else Caller.SESSION, session=session)
        if self._revocations is not None:
            self._revocations.check(claims)
        if claims.path is not None and not covers(claims.path, path):
            raise InsufficientScope
        return Identity(Caller.TOKEN if bearer is not None else Caller.TICKET, claims)

    def require(self, identity: Identity, image_id: int, trust: Trust = Trust.ALL) -> None:
        """As Policy says. Of a token, what it says decides; of a session, what OMERO says."""
        if identity.claims is not None:
            self._require_claims(identity.claims, image_id)
            return
        session, ended = identity.session, False
        if session is not None and self._state(session) == ENDED:
            self._reads.forget(session)
            session, ended = None, True  # what is public stays readable
        decision = self._reads.may_read(session, image_id, trust)
        if decision is not Decision.ALLOWED:
            raise _refusal(decision, image_id, had_session=session is not None or ended)

    def owner(self, identity: Identity) -> Owner:
        """For whom a caller's tokens are made. LoginRequired if it is nobody, InsufficientScope for a ticket.

        SessionExpired if OMERO.web's sessions can be read and this is none of them, public user or not.
        Whether the caller may read the images of the token is for `require` to say, image by image.
        """
        from roiservice.auth.tokens import Owner

        if identity.caller is Caller.TICKET:
            raise InsufficientScope
        if identity.claims is not None:
            return Owner(identity.claims.subject, identity.claims.session)
        if identity.session is None:
            raise LoginRequired
        state = self._state(identity.session)
        if state == ENDED:
            raise SessionExpired
        name = self._names.of(identity.session)[:16]
        return Owner(f"s:{name}" if state.user_id is None else f"u:{state.user_id}", name)

    def _state(self, session: str) -> Session:
        return self._sessions.find(session) if self._sessions is not None else UNKNOWN

    def _require_claims(self, claims: Claims, image_id: int) -> None:
        if image_id not in claims.images:
            raise InsufficientScope
        if self._revocations is not None:
            self._revocations.check(claims, image_id)


def bearer_token(authorization: str | None) -> str | None:
    """The token of an Authorization header (RFC 6750, 2.1). TokenInvalid if it is of another kind.

    Basic credentials are those of a proxy in front, which browsers send with every request: never ours.
    """
    if authorization is None:
        return None
    if "," in authorization:  # several headers, joined on the way
        raise TokenInvalid("more than one credential was sent")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "basic":
        return None
    if scheme.lower() != "bearer":
        raise TokenInvalid("the Authorization header holds no bearer token")
    return token


def _check_credentials(bearer: str | None, tickets: Sequence[str], method: str) -> None:
    if len(tickets) > 1:
        raise InvalidRequest("more than one ticket was sent")
    if tickets and bearer is not None:
        raise InvalidRequest("a bearer token and a ticket were sent: one is enough")
    if tickets and method not in _SAFE:
        raise InvalidRequest("a ticket is for GET and HEAD only")


def _refusal(decision: Decision, image_id: int, *, had_session: bool) -> RoiServiceError:
    if decision is Decision.REFUSED:
        return NotFound(f"there is no image {image_id}")  # the words for one that does not exist
    if decision is Decision.LOGIN:
        return SessionExpired() if had_session else LoginRequired()
    return Unavailable("whether you may read the image cannot be found out now")
