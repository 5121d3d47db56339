"""The one family of errors that this package raises on purpose.

Every message is written for the person who has to act on it: it names the part at
fault (store, array, setting, parameter) and says what is wrong with it. How an error
becomes an HTTP answer is decided in `roiservice.web.problems` alone.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar


class RoiServiceError(Exception):
    """Base of all errors raised on purpose; `str(error)` is fit to be shown to a user."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception would call the class with the finished message, which is not what most of them take.
        return type(self).__new__, (type(self), *self.args), self.__dict__ or None


class SettingsError(RoiServiceError):
    """A setting is missing, malformed, or contradicts another one."""


class BadParameter(RoiServiceError):
    """A request or command-line parameter is unknown or has no usable value."""

    def __init__(self, parameter: str, reason: str) -> None:
        super().__init__(f"{parameter}: {reason}")
        self.parameter = parameter
        self.reason = reason


class NotFound(RoiServiceError):
    """No image, layer, feature or page by that name."""


class Gone(RoiServiceError):
    """The id belonged to a catalog version that has since been replaced."""


class CursorExpired(Gone):
    """A cursor of a catalog version that has since been replaced: the walk has to begin again."""


class SourceError(RoiServiceError):
    """A store, or one part of it, cannot be used.

    `store` is the location as the user gave it, `part` the path inside the store (empty
    for the store itself) and `reason` one sentence without a final full stop.
    """

    def __init__(self, store: str, part: str, reason: str) -> None:
        where = f"{store} [{part}]" if part else store
        super().__init__(f"{where}: {reason}")
        self.store = store
        self.part = part
        self.reason = reason


class SourceDamaged(SourceError):
    """Metadata or chunks are missing, cut short, or not what the format demands."""


class SourceUnread(SourceDamaged):
    """The part may be sound, but its server does not answer, or its disk."""


class SourceRefused(SourceError):
    """The part may be sound, but a limit or a rule of this service forbids reading it."""


class TooManyVertices(SourceRefused):
    """The shapes of a table have more vertices than were allowed."""


class BuilderKilled(SourceRefused):
    """The process that built a layer ended without a word, as when memory is short."""


class CatalogDamaged(RoiServiceError):
    """A catalog file on disk is not what was written; rebuilding it helps."""


class NotWritten(RoiServiceError):
    """A file of the service's own could not be written: the disk is full, or permission is missing."""

    retry_after = 60


class Building(RoiServiceError):
    """The catalog of a layer is being built; try again in `retry_after` seconds."""

    retry_after = 5

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is being built; try again in {self.retry_after} s")


class NoRoom(Building):
    """A catalog finds no room while others are being built; try again in `retry_after` seconds."""

    def __init__(self, reason: str) -> None:
        RoiServiceError.__init__(self, reason)  # not that of Building: nothing is being built


class NotOpened(Building):
    """A catalog is there, but cannot be opened while files or memory are short; try again later."""

    def __init__(self, reason: str) -> None:
        RoiServiceError.__init__(self, reason)  # not that of Building: nothing is being built


class Busy(RoiServiceError):
    """Too many requests of a kind that takes long wait already; try again in `retry_after` seconds."""

    retry_after = 1


class EngineFailed(RoiServiceError):
    """What traces layers, a dask cluster or processes of this host, is gone or does not do its work."""


class TooManyObjects(RoiServiceError):
    """Outlines or objects outgrew a limit while they were being traced."""


class OmeroWebFailed(RoiServiceError):
    """OMERO.web does not answer, or not as its API promises; the message names neither host nor user."""


class Unauthorized(RoiServiceError):
    """Who is asking is not known, or no longer; `challenge` is the WWW-Authenticate header (RFC 6750, 3)."""

    challenge = 'Bearer realm="roiservice"'


class LoginRequired(Unauthorized):
    """The image is not public, and the request names nobody."""

    def __init__(self) -> None:
        super().__init__("log in to OMERO.web, or send a token")


class SessionExpired(Unauthorized):
    """OMERO.web does not know the session any more."""

    def __init__(self) -> None:
        super().__init__("the OMERO.web session has ended: log in again")


class TokenInvalid(Unauthorized):
    """A token that is not one of ours, not whole, of the other kind, or revoked.

    Clients get the same words for all of these; `reason` is for the log and never quotes the token.
    """

    challenge = f'{Unauthorized.challenge}, error="invalid_token"'

    def __init__(self, reason: str) -> None:
        super().__init__("the token is not valid")
        self.reason = reason


class TokenExpired(Unauthorized):
    """A token that was valid until it expired."""

    challenge = f'{Unauthorized.challenge}, error="invalid_token", error_description="expired"'

    def __init__(self) -> None:
        super().__init__("the token has expired: ask for a new one")


class InsufficientScope(RoiServiceError):
    """A valid token that is not for this image or path; decided from the token alone, before any look-up."""

    challenge = f'{Unauthorized.challenge}, error="insufficient_scope", scope="roi:read"'

    def __init__(self) -> None:
        super().__init__("the token is not for this image or path")


class InvalidRequest(RoiServiceError):
    """Credentials that contradict each other, or are sent in a way that is not allowed."""

    challenge = f'{Unauthorized.challenge}, error="invalid_request"'


class ForeignOrigin(RoiServiceError):
    """A request that changes something came with a cookie, but not from a page of this host."""

    def __init__(self) -> None:
        super().__init__("requests with the session cookie must come from this host, with JSON in their body")


class Unavailable(RoiServiceError):
    """Whether the caller may read cannot be found out now; try again in `retry_after` seconds."""

    retry_after = 5


class RegistryFailed(RoiServiceError):
    """The registry of lasting ids does not answer; try again in `retry_after` seconds.

    Clients get the same words whatever it is; `reason` is for the log and never holds a password.
    """

    retry_after = 5

    def __init__(self, reason: str) -> None:
        super().__init__("the registry of lasting ids does not answer")
        self.reason = reason


class SharedStoreFailed(RoiServiceError):
    """What the processes of the service share (Redis) does not answer, or with what was never put there."""


Kind = TypeVar("Kind", bound=RoiServiceError)


def renewed(error: Kind) -> Kind:
    """The same error, as if it had not been raised yet, for those that are kept and raised again and again.

    Python notes in an error where it is raised, each time, and so keeps all that was in use there.
    """
    again = copy.copy(error)
    again.__traceback__ = again.__context__ = again.__cause__ = None  # what is pickled may bring them along
    return again
