"""Tokens that are taken back before they expire: one token, all of a session, of a subject, or for an image.

Marks lie in the store that all processes share, for as long as a token that they concern could live.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from roiservice.auth.claims import LEEWAY, LONGEST_LIFETIME, Claims, is_image
from roiservice.auth.shared import SharedStore
from roiservice.errors import BadParameter, SharedStoreFailed, TokenInvalid, Unavailable

_log = logging.getLogger(__name__)

REMEMBERED = 1.0  # seconds; for so long, at most, another process honours a revoked token
_MOST_REMEMBERED = 10_000
_KEPT = LONGEST_LIFETIME + 2 * LEEWAY
_TEXTS = {"jti": 32, "sid": 16, "sub": 64}  # longest


class Revocations:
    """Looks for the marks that concern a token. Safe to use from several threads.

    Where the store does not answer, tokens are refused with Unavailable if `required`; else they pass, and
    their lifetime is what bounds them. `clock` gives seconds since 1970.
    """

    def __init__(
        self, store: SharedStore, *, required: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._required = required
        self._clock = clock
        self._remembered: OrderedDict[str, tuple[int | None, float]] = OrderedDict()
        self._lock = threading.Lock()

    def revoke(self, kind: str, value: str | int) -> None:
        """Take back the token with this `jti`, or all made until now of a `sid`, a `sub`, or for an `img`.

        Raises BadParameter, and Unavailable if the mark could not be kept.
        """
        now = int(self._clock())
        name = _name(kind, value)
        try:
            self._store.put(name, str(now).encode(), _KEPT)
        except SharedStoreFailed as error:
            raise Unavailable("the revocation could not be kept: try again") from error
        self._remember(name, now)
        _log.info("revoked: %s", name)

    def check(self, claims: Claims, image_id: int | None = None, *, anew: bool = False) -> None:
        """TokenInvalid if the token was revoked, or the one it was made with.

        Of marks on images, only that of `image_id` counts. With `anew` the store is asked for all of them.
        """
        marks: list[tuple[str, str | int]] = [
            ("jti", claims.token_id), ("sid", claims.session), ("sub", claims.subject)
        ]  # fmt: skip
        if claims.made_with is not None:
            marks.append(("jti", claims.made_with))
        if image_id is not None:
            marks.append(("img", image_id))
        try:
            for kind, value in marks:
                mark = self._mark(_name(kind, value), anew)
                if mark is not None and (kind == "jti" or claims.issued <= mark):
                    raise TokenInvalid(f"revoked by its {kind}")
        except SharedStoreFailed as error:
            if self._required:
                raise Unavailable("whether the token was revoked cannot be found out now") from error

    def _mark(self, name: str, anew: bool) -> int | None:
        """When what the name says was revoked, in seconds since 1970; None if it was not."""
        now = self._clock()
        with self._lock:
            mark, until = self._remembered.get(name, (None, 0.0))
        if not anew and now < until <= now + REMEMBERED:
            return mark
        value = self._store.get(name)
        if value is not None and not (value.isdigit() and len(value) < 16):
            raise SharedStoreFailed("the mark of a revocation is none that was put there")
        mark = None if value is None else int(value)
        self._remember(name, mark)
        return mark

    def _remember(self, name: str, mark: int | None) -> None:
        with self._lock:
            self._remembered[name] = mark, self._clock() + REMEMBERED
            self._remembered.move_to_end(name)
            while len(self._remembered) > _MOST_REMEMBERED:
                self._remembered.popitem(last=False)


def _name(kind: str, value: str | int) -> str:
    if kind == "img":
        usable = is_image(value)
    else:
        usable = isinstance(value, str) and kind in _TEXTS and 0 < len(value) <= _TEXTS[kind]
    if not usable:
        raise BadParameter(kind, "is nothing that can be revoked")
    return f"rev:{kind}:{value}"
