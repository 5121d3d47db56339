"""One place that decides: who is asking, and may they read this image."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Protocol

from roiservice.errors import InsufficientScope, NotFound, TokenInvalid
from roiservice.records import dataclass

if TYPE_CHECKING:
    from roiservice.auth.claims import Claims


class Caller(enum.Enum):
    """How a caller is known."""

    ANYBODY = "anybody"  # nothing is protected
    TOKEN = "token"  # noqa: S105 - the name of a kind
    TICKET = "ticket"
    SESSION = "session"
    ANONYMOUS = "anonymous"  # nothing was sent; OMERO.web may have a public user


@dataclass(frozen=True)
class Identity:
    """Who is asking. `claims` are those of a token or ticket; `session` is OMERO.web's: not to be logged."""

    caller: Caller
    claims: Claims | None = None
    session: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Fit for a log."""
        if self.claims is None:
            return self.caller.value
        return f"{self.caller.value} {self.claims.token_id} of {self.claims.subject}"


class Trust(enum.Enum):
    """What counts of what OMERO said before."""

    ALL = "all"
    ALLOWED = "allowed"  # refusals are neither used nor kept: all take as long, whatever was asked before
    NOTHING = "nothing"  # OMERO.web is asked


class Policy(Protocol):
    """What a service asks before it touches a cache or a store."""

    def identify(
        self, authorization: str | None, tickets: Sequence[str], session: str | None, method: str, path: str
    ) -> Identity:
        """Who is asking, by the Authorization header, the `ticket` parameters and OMERO.web's session cookie.

        `path` is as routes see it: percent-decoded, without the prefix that the service is mounted at.
        Raises InvalidRequest, TokenInvalid, TokenExpired, InsufficientScope, Unavailable.
        """

    def require(self, identity: Identity, image_id: int, trust: Trust = Trust.ALL) -> None:
        """Return if the caller may read the image; `trust` is for what OMERO said a moment ago.

        Raises NotFound as for an image that does not exist, LoginRequired, SessionExpired, InsufficientScope,
        TokenInvalid, Unavailable.
        """


class PublicPolicy:
    """Everybody may read everything; credentials are not looked at."""

    def identify(
        self, authorization: str | None, tickets: Sequence[str], session: str | None, method: str, path: str
    ) -> Identity:
        """Anybody."""
        del authorization, tickets, session, method, path
        return Identity(Caller.ANYBODY)

    def require(self, identity: Identity, image_id: int, trust: Trust = Trust.ALL) -> None:
        """Return."""
        del identity, image_id, trust


def may_read(policy: Policy, identity: Identity, image_id: int) -> bool:
    """Whether an image belongs in a list of what the caller may read. Raises as `require` otherwise."""
    try:
        policy.require(identity, image_id)
    except (NotFound, InsufficientScope):
        return False
    except TokenInvalid:
        if identity.claims is None or image_id not in identity.claims.images:
            raise
        return False  # taken back for this image
    return True
