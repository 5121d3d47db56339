"""Two readers of tokens, ours and joserfc with strict rules, held to each other on many damaged tokens."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from roiservice.auth.claims import ACCESS, TICKET, Kind
from roiservice.errors import TokenExpired, TokenInvalid
from tests.auth.support import ISSUER, NOW, OWNER, Json, Service, encoded

pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # what joserfc says of that name
TOKENS = 12_000
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=.+/ \n\0é"
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, NOW, NOW - 1, NOW + 1, NOW + 29, NOW + 31, NOW + 300, NOW + 3600,
    NOW + 3601, NOW + 86_400, float(NOW), 1.5, 1e20, 2**31,
    2**63 - 1, 2**63, 10**30, "", "x", "7", str(NOW), ISSUER,
    f"{ISSUER}/ticket", "u:4", "0" * 16, "0" * 32, "roi:read", "none", "EdDSA", "Ed25519", "HS256", "JWT",
    "roi-at+jwt", "roi-link+jwt", "/images/7", "/", "/images/../7", [], {}, [7], [7, 8], [True], ["7"], [[7]],
    ["roi:read"], ["roi:read", "roi:write"], [ISSUER], {"kid": 1},
)  # fmt: skip
NAMES = (
    "alg", "typ", "kid", "crit", "jku", "jwk", "b64", "iss", "aud", "sub", "iat", "nbf", "exp", "jti", "img",
    "act", "sid", "pth", "via", "more",
)  # fmt: skip


def changed(document: Json, chance: random.Random) -> Json:
    """The document with a member changed, added or taken away."""
    name = chance.choice([*document, *NAMES])
    if chance.random() < 0.2:
        return {key: value for key, value in document.items() if key != name}
    return {**document, name: chance.choice(VALUES)}


def spelled(text: str, chance: random.Random) -> str:
    """The text with one to three characters changed, added, taken away, or two parts exchanged."""
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(text) + 1)
        what = chance.random()
        if what < 0.5:
            text = text[:at] + chance.choice(ALPHABET) + text[at + 1 :]
        elif what < 0.7:
            text = text[:at] + chance.choice(ALPHABET) + text[at:]
        elif what < 0.9:
            text = text[:at] + text[at + 1 :]
        else:
            parts = text.split(".")
            chance.shuffle(parts)
            text = ".".join(parts)
    return text


def damaged(service: Service, kind: Kind, chance: random.Random) -> str:
    """A token that was changed before it was signed with the right key, after that, or both."""
    header, claims = service.header(kind), service.claims(kind)
    what = chance.random()
    for _ in range(chance.randint(0, 2)):
        if what < 0.3:
            header = changed(header, chance)
        else:
            claims = changed(claims, chance)
    text = service.sign(header, claims)
    if what < 0.1:  # signed for other words
        head, body, _ = text.split(".")
        return f"{head}.{body}.{service.sign(header, changed(claims, chance)).rpartition('.')[2]}"
    if what < 0.15:
        return f"{encoded(json.dumps(header | {'alg': 'none'}).encode())}.{text.split('.')[1]}."
    return spelled(text, chance) if what > 0.7 else text


def strict_rules(service: Service, kind: Kind) -> Callable[[str], bool]:
    """Whether joserfc accepts a token, by rules written out once more."""
    key = OKPKey.import_key(service.public_pem)
    required = {"essential": True}
    registry = jwt.JWTClaimsRegistry(
        now=NOW, leeway=30, iss={**required, "value": ISSUER},
        aud={**required, "value": ISSUER + kind.audience_end},
        sub=required, sid=required, iat=required, nbf=required, jti=required, img=required, act=required,
        exp=required, **({"pth": required} if kind is TICKET else {}),
    )  # fmt: skip

    def accepts(text: str) -> bool:
        try:
            token = jwt.decode(text, key, algorithms=["EdDSA"])
            registry.validate(token.claims)
        except (JoseError, ValueError, TypeError):
            return False
        exact = token.header == {"alg": "EdDSA", "typ": kind.typ, "kid": service.key.id}
        return exact and token.claims["exp"] > NOW and sound(token.claims, kind)

    return accepts


def sound(claims: Json, kind: Kind) -> bool:
    """What joserfc has no rules for."""
    texts = ("iss", "aud", "sub", "sid", "jti") + (("pth",) if kind is TICKET else ())
    numbers = ("iat", "nbf", "exp")
    images = claims["img"]
    return (
        all(isinstance(claims[name], str) for name in texts)
        and all(isinstance(claims[name], int) and not isinstance(claims[name], bool) for name in numbers)
        and 0 < claims["exp"] - claims["iat"] <= kind.longest
        and isinstance(images, list)
        and 1 <= len(images) <= (1 if kind is TICKET else 100)
        and all(isinstance(image, int) and image is not True and 0 < image < 2**63 for image in images)
        and claims["act"] == ["roi:read"]
        and kind.claims <= set(claims) <= kind.claims | kind.more
        and ("via" not in claims or re.fullmatch("[0-9a-f]{32}", str(claims["via"])) is not None)
    )


@pytest.mark.parametrize("kind", [ACCESS, TICKET])
def test_nothing_is_accepted_that_another_reader_refuses(issuing: Service, kind: Kind) -> None:
    chance = random.Random(f"tokens of {kind.typ}")
    accepts = strict_rules(issuing, kind)
    seen: Counter[tuple[bool, bool]] = Counter()
    for _ in range(TOKENS // 2):
        text = damaged(issuing, kind, chance)
        try:
            ours = issuing.tokens.verify(text, kind).images != ()
        except (TokenInvalid, TokenExpired):
            ours = False
        theirs = accepts(text)
        seen[ours, theirs] += 1
        assert theirs or not ours, text
    assert seen[True, True] > TOKENS // 20  # unchanged ones and harmless changes are among them
    assert seen[False, False] > TOKENS // 4


def test_a_signed_token_has_one_spelling(issuing: Service) -> None:
    chance = random.Random("spellings")
    text = issuing.tokens.access_token(OWNER, [7]).text
    for _ in range(TOKENS // 4):
        other = spelled(text, chance)
        if other != text:
            with pytest.raises(TokenInvalid):
                issuing.tokens.verify(other, ACCESS)
