"""Tokens: what is made is read back, by others too; whatever else is refused."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import tracemalloc
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey
from jwt.api_jws import PyJWS

from roiservice.auth.claims import ACCESS, LONGEST_PATH, TICKET, Kind
from roiservice.errors import BadParameter, TokenExpired, TokenInvalid
from tests.auth.support import ISSUER, NOW, OWNER, Service, encoded, without

pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # what joserfc says of that name
IMAGES = st.integers(1, 2**63 - 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """One service for tests that leave its clock alone."""
    return Service(tmp_path_factory.mktemp("keys") / "keys")


def refused(service: Service, token: str, kind: Kind = ACCESS) -> bool:
    with pytest.raises(TokenInvalid) as caught:
        service.tokens.verify(token, kind)
    return str(caught.value) == "the token is not valid"  # the same words whatever is wrong


@given(st.lists(IMAGES, min_size=1, max_size=100), st.integers(1, ACCESS.longest))
def test_access_tokens_are_read_back(made: Service, images: list[int], lifetime: int) -> None:
    minted = made.tokens.access_token(OWNER, images, lifetime)
    claims = made.tokens.verify(minted.text, ACCESS)
    assert claims.images == tuple(sorted(set(images)))
    assert (claims.subject, claims.session) == (OWNER.subject, OWNER.session)
    assert (claims.issued, claims.expires, claims.path) == (NOW, NOW + lifetime, None)
    assert (claims.token_id, claims.key_id) == (minted.token_id, made.key.id)
    assert len(minted.text) <= 4096
    assert refused(made, minted.text, TICKET)


def test_tickets_are_read_back_and_are_no_access_tokens(issuing: Service) -> None:
    text = issuing.tokens.ticket(OWNER, 7, "/images/7/collections").text
    claims = issuing.tokens.verify(text, TICKET)
    assert (claims.images, claims.path) == ((7,), "/images/7/collections")
    assert refused(issuing, text, ACCESS)


def test_a_ticket_names_the_token_that_made_it(issuing: Service) -> None:
    parent = issuing.tokens.verify(issuing.tokens.access_token(OWNER, [7], 60).text, ACCESS)
    ticket = issuing.tokens.verify(issuing.tokens.ticket(OWNER, 7, "/images/7", 900, parent).text, TICKET)
    assert (ticket.made_with, ticket.expires) == (parent.token_id, parent.expires)
    alone = issuing.tokens.verify(issuing.tokens.ticket(OWNER, 7, "/images/7").text, TICKET)
    assert alone.made_with is None
    for kind, value in ((TICKET, "x"), (TICKET, None), (TICKET, 7), (TICKET, "0" * 31), (ACCESS, "0" * 32)):
        assert refused(issuing, issuing.sign(issuing.header(kind), issuing.claims(kind, via=value)), kind)


def test_no_two_tokens_have_one_id(issuing: Service) -> None:
    ids = {issuing.tokens.access_token(OWNER, [7]).token_id for _ in range(100)}
    assert len(ids) == 100


def test_minted_tokens_do_not_show_in_representations(issuing: Service) -> None:
    minted = issuing.tokens.access_token(OWNER, [7])
    assert minted.text not in repr(minted)
    assert "private" not in repr(issuing.key)


@pytest.mark.parametrize("images", [[], [0], [-1], [True], [2**63], [1.0], list(range(1, 102))])
def test_no_token_is_made_for_images_that_are_none(issuing: Service, images: list[int]) -> None:
    with pytest.raises(BadParameter):
        issuing.tokens.access_token(OWNER, images)


@pytest.mark.parametrize("lifetime", [0, -1, 3601, True, 1.5])
def test_no_token_lives_too_long(issuing: Service, lifetime: int) -> None:
    with pytest.raises(BadParameter):
        issuing.tokens.access_token(OWNER, [7], lifetime)


@pytest.mark.parametrize(
    "path",
    ["", "/", "images/7", "//", "/a//b", "/a/../b", "/./a", "/a%2fb", "/a\\b", "/a\0", "/" + "a" * 512],
)
def test_no_ticket_is_made_for_an_unclear_path(issuing: Service, path: str) -> None:
    with pytest.raises(BadParameter):
        issuing.tokens.ticket(OWNER, 7, path)
    assert refused(issuing, issuing.sign(issuing.header(TICKET), issuing.claims(TICKET, pth=path)), TICKET)


# Another implementation


def test_others_read_what_is_made(issuing: Service) -> None:
    minted = issuing.tokens.access_token(OWNER, [7, 8])
    key = OKPKey.import_key(issuing.public_pem)
    token = jwt.decode(minted.text, key, algorithms=["EdDSA"])
    assert token.header == {"alg": "EdDSA", "typ": "roi-at+jwt", "kid": issuing.key.id}
    assert token.claims["img"] == [7, 8]
    rules = jwt.JWTClaimsRegistry(
        now=NOW, iss={"essential": True, "value": ISSUER}, aud={"essential": True, "value": ISSUER}
    )
    rules.validate(token.claims)


@pytest.mark.parametrize("kind", [ACCESS, TICKET])
def test_what_others_make_is_read(issuing: Service, kind: Kind) -> None:
    key = OKPKey.import_key(issuing.pem)
    text = jwt.encode(issuing.header(kind), issuing.claims(kind), key, algorithms=["EdDSA"])
    assert issuing.tokens.verify(text, kind).images == (7,)


def test_the_test_forges_what_is_accepted_as_it_is(issuing: Service) -> None:
    for kind in (ACCESS, TICKET):
        assert issuing.tokens.verify(issuing.sign(issuing.header(kind), issuing.claims(kind)), kind)


# Attacks on the algorithm and the key


@pytest.mark.parametrize("name", ["none", "None", "nOnE", "NONE", "", None, ["EdDSA"]])
@pytest.mark.parametrize("signature", ["", "A" * 86])
def test_no_token_goes_without_a_signature(issuing: Service, name: object, signature: str) -> None:
    head = encoded(json.dumps(issuing.header(alg=name)).encode())
    assert refused(issuing, f"{head}.{encoded(json.dumps(issuing.claims()).encode())}.{signature}")


@pytest.mark.parametrize("name", ["HS256", "HS512", "EdDSA"])
def test_the_public_key_is_no_shared_secret(issuing: Service, name: str) -> None:
    raw = issuing.key.public.public_bytes_raw()
    jwk = json.dumps(issuing.ring.jwks()["keys"][0]).encode()
    for secret in (issuing.public_pem, issuing.public_pem.strip(), raw, jwk):
        for digest in (hashlib.sha256, hashlib.sha512):
            head = encoded(json.dumps(issuing.header(alg=name)).encode())
            text = f"{head}.{encoded(json.dumps(issuing.claims()).encode())}"
            assert refused(issuing, f"{text}.{encoded(hmac.new(secret, text.encode(), digest).digest())}")


def foreign_tokens(service: Service) -> Iterator[str]:
    header, claims = service.header(), service.claims()
    payload = json.dumps(claims).encode()
    yield PyJWS().encode(payload, rsa.generate_private_key(65537, 2048), "RS256", header | {"alg": "RS256"})
    yield PyJWS().encode(payload, ec.generate_private_key(ec.SECP256R1()), "ES256", header | {"alg": "ES256"})
    yield PyJWS().encode(payload, ed448.Ed448PrivateKey.generate(), "EdDSA", header)
    yield PyJWS().encode(payload, ed25519.Ed25519PrivateKey.generate(), "EdDSA", header)
    yield jwt.encode(header | {"alg": "RS256"}, claims, RSAKey.generate_key(2048), algorithms=["RS256"])
    yield jwt.encode(header | {"alg": "ES256"}, claims, ECKey.generate_key("P-256"), algorithms=["ES256"])


def test_other_algorithms_and_other_keys_are_refused(issuing: Service) -> None:
    for text in foreign_tokens(issuing):
        assert refused(issuing, text)


@pytest.mark.parametrize("name", ["Ed25519", "eddsa", "EDDSA", "EdDSA ", "Ed448", 1, True])
def test_the_algorithm_has_one_name(issuing: Service, name: object) -> None:
    assert refused(issuing, issuing.sign(issuing.header(alg=name), issuing.claims()))


@pytest.mark.parametrize(
    "key_id",
    [
        "",
        "x",
        "../../dev/null",
        "/etc/passwd",
        "' or 1=1 --",
        ["a"],
        {"a": 1},
        None,
        1,
        True,
        "a" * 1_000_000,
        "\0",
    ],
)
def test_a_key_is_found_by_its_name_alone(issuing: Service, key_id: object) -> None:
    assert refused(issuing, issuing.sign(issuing.header(kid=key_id), issuing.claims()))
    assert refused(issuing, issuing.sign(issuing.header(kid=f"{issuing.key.id}\0"), issuing.claims()))
    assert refused(issuing, issuing.sign(issuing.header(kid=f"./{issuing.key.id}"), issuing.claims()))


@pytest.mark.parametrize("name", ["alg", "typ", "kid"])
def test_headers_lack_nothing(issuing: Service, name: str) -> None:
    assert refused(issuing, issuing.sign(without(issuing.header(), name), issuing.claims()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jku", "http://127.0.0.1:1/keys"),
        ("x5u", "http://127.0.0.1:1/keys"),
        ("jwk", {"kty": "OKP"}),
        ("x5c", ["MII"]),
        ("crit", ["exp"]),
        ("b64", False),
        ("b64", True),
        ("cty", "JWT"),
        ("zip", "DEF"),
    ],
)
def test_headers_have_nothing_else(issuing: Service, name: str, value: object) -> None:
    assert refused(issuing, issuing.sign(issuing.header(**{name: value}), issuing.claims()))


def test_an_embedded_key_is_not_used(issuing: Service) -> None:
    own = OKPKey.generate_key("Ed25519")
    header = issuing.header(jwk=own.as_dict(private=False))
    assert refused(issuing, jwt.encode(header, issuing.claims(), own, algorithms=["EdDSA"]))


@pytest.mark.parametrize(
    "typ", ["JWT", "at+jwt", "roi-link+jwt", "ROI-AT+JWT", "application/roi-at+jwt", None, ""]
)
def test_the_type_is_exact(issuing: Service, typ: object) -> None:
    assert refused(issuing, issuing.sign(issuing.header(typ=typ), issuing.claims()))


# Attacks on claims


@pytest.mark.parametrize("kind", [ACCESS, TICKET])
def test_claims_lack_nothing_and_have_nothing_else(issuing: Service, kind: Kind) -> None:
    for name in issuing.claims(kind):
        text = issuing.sign(issuing.header(kind), without(issuing.claims(kind), name))
        assert refused(issuing, text, kind)
    assert refused(issuing, issuing.sign(issuing.header(kind), issuing.claims(kind, more=1)), kind)


WRONG = [
    *(("iss", value) for value in ("", "x", [ISSUER], f"{ISSUER}/", ISSUER.upper(), None, 1)),
    *(("aud", value) for value in ("", [ISSUER], [ISSUER, "x"], f"{ISSUER}/ticket", f"{ISSUER}/", None)),
    *(
        ("exp", value)
        for value in (str(NOW + 300), NOW + 300.0, True, 1e20, None, [], NOW + 3601, NOW, NOW - 1, -1)
    ),
    *(("nbf", value) for value in (NOW + 31, 0.0, True, "0", None)),
    *(("iat", value) for value in (NOW + 31, 1.5, False, "0", None, NOW - 4000, NOW + 300)),
    *(
        ("img", value)
        for value in ([True], ["1"], [1.0], [-1], [0], [], "*", [2**63], [[7]], None, 7, {"7": 7})
    ),
    ("img", [7] * 101),
    *(("act", value) for value in ([], ["roi:write"], ["roi:read", "roi:write"], "roi:read", None)),
    *(("jti", value) for value in ("", "x" * 32, "0" * 31, 0, None)),
    *(("sid", value) for value in ("", "0" * 17, 0, None, "0123456789ABCDEF")),
    *(("sub", value) for value in ("", "a" * 65, "a b", "a\n", 0, None, "\u00fc")),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_claims_have_the_right_type_and_value(issuing: Service, name: str, value: object) -> None:
    assert refused(issuing, issuing.sign(issuing.header(), issuing.claims(**{name: value})))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400", "01", "1_0", "0x10"])
def test_numbers_are_those_of_json(issuing: Service, text: str) -> None:
    claims = json.dumps(issuing.claims(exp="?")).replace('"?"', text)
    assert refused(issuing, issuing.sign(issuing.header(), claims.encode()))


def test_no_name_comes_twice(issuing: Service) -> None:
    claims = json.dumps(issuing.claims())
    twice = claims[:-1] + ', "img": [8]}'
    assert json.loads(twice)["img"] == [8]
    assert refused(issuing, issuing.sign(issuing.header(), twice.encode()))
    header = json.dumps(issuing.header())[:-1] + ', "alg": "EdDSA"}'
    assert refused(issuing, issuing.sign(header.encode(), issuing.claims()))


@pytest.mark.parametrize(
    "text", [b"[]", b"null", b'"x"', b"1", b"", b"{", b"\xff{}", b"\xef\xbb\xbf{}", b"[" * 2000]
)
def test_parts_are_json_objects(issuing: Service, text: bytes) -> None:
    assert refused(issuing, issuing.sign(issuing.header(), text))
    assert refused(issuing, issuing.sign(text, issuing.claims()))


def test_a_ticket_is_for_one_image(issuing: Service) -> None:
    assert refused(issuing, issuing.sign(issuing.header(TICKET), issuing.claims(TICKET, img=[7, 8])), TICKET)


# Attacks on time


def test_a_token_ends_on_the_second(issuing: Service) -> None:
    text = issuing.tokens.access_token(OWNER, [7], 300).text
    issuing.clock.now = NOW + 299.999
    assert issuing.tokens.verify(text, ACCESS)
    for late in (NOW + 300, NOW + 301, NOW + 10**9):
        issuing.clock.now = late
        with pytest.raises(TokenExpired):
            issuing.tokens.verify(text, ACCESS)


def test_only_a_sound_token_is_called_expired(issuing: Service) -> None:
    text = issuing.tokens.access_token(OWNER, [7], 300).text
    issuing.clock.now = NOW + 301
    assert refused(issuing, f"{text[:-5]}AAAAA")
    assert refused(issuing, text, TICKET)


def test_clocks_may_differ_by_half_a_minute(issuing: Service) -> None:
    text = issuing.tokens.access_token(OWNER, [7]).text
    issuing.clock.now = NOW - 30
    assert issuing.tokens.verify(text, ACCESS)
    issuing.clock.now = NOW - 30.001
    assert refused(issuing, text)


@pytest.mark.parametrize(("kind", "longest"), [(ACCESS, 3600), (TICKET, 86_400)])
def test_lifetimes_are_capped(issuing: Service, kind: Kind, longest: int) -> None:
    sign = issuing.sign
    assert issuing.tokens.verify(sign(issuing.header(kind), issuing.claims(kind, exp=NOW + longest)), kind)
    assert refused(issuing, sign(issuing.header(kind), issuing.claims(kind, exp=NOW + longest + 1)), kind)


# Attacks on the form


def test_every_other_spelling_is_refused(issuing: Service) -> None:
    text = issuing.tokens.access_token(OWNER, [7]).text
    head, body, signature = text.split(".")
    last = {"A": "B", "Q": "R", "g": "h", "w": "x"}[signature[-1]]
    for other in (
        f"{text}=", f"{text}==", f"{head}=.{body}.{signature}", f"{text}\n", f" {text}", f"{text} ",
        f"{text}.", f".{text}", f"{head}.{body}",
        f"{head}..{signature}", f"{head}.{body}.", f"{head}.{body}.{signature[:-1]}{last}",
        f"{head}.{body}.{signature}.{signature}", f"{head}.{body}.{signature[:40]}\n{signature[40:]}",
        f"{head}!.{body}.{signature}", text.replace(".", "\uff0e"), text.lower(), "", ".", "..", "\ud800..",
        json.dumps({"payload": body, "protected": head, "signature": signature}),
    ):  # fmt: skip
        assert refused(issuing, other)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_no_text_is_a_token(made: Service, text: str) -> None:
    assert refused(made, text)


def test_huge_tokens_are_not_even_decoded(issuing: Service) -> None:
    huge = ["A" * 10_000_000, "." * 100_000, "A" * 4097, f"{'[' * 5_000_000}.A.A"]
    tracemalloc.start()
    for text in huge:
        assert refused(issuing, text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_a_token_of_4096_characters_is_the_longest(issuing: Service) -> None:
    claims = json.dumps(issuing.claims()).encode()
    lengths = {
        len(text): text for text in (issuing.sign(issuing.header(), claims + b" " * n) for n in range(2700))
    }
    assert issuing.tokens.verify(lengths[4096], ACCESS)
    longer = [text for length, text in lengths.items() if length > 4096]
    assert longer
    assert all(refused(issuing, text) for text in longer)


def test_a_path_of_the_longest_length_still_fits(issuing: Service) -> None:
    path = "/" + "a" * (LONGEST_PATH - 1)
    assert issuing.tokens.verify(issuing.tokens.ticket(OWNER, 2**63 - 1, path).text, TICKET).path == path


def test_nothing_of_a_token_is_in_errors_or_logs(issuing: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    text = issuing.tokens.access_token(OWNER, [7]).text
    for token, kind in ((text, TICKET), (text[:-3] + "AAA", ACCESS), (text[1:], ACCESS)):
        with pytest.raises(TokenInvalid) as caught:
            issuing.tokens.verify(token, kind)
        for part in token.split("."):
            assert part not in f"{caught.value!r} {caught.value.reason} {caplog.text}"
