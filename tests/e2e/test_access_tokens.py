"""Attacks with forged tokens on the running service: 1 to 11, 18, 28 to 30 of the list in docs/access.md."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from roiservice.auth.claims import ACCESS, TICKET
from tests.e2e.access import Forge, Guarded, bearer, encoded, guarded, listening, raw
from tests.omeroweb.standin import OmeroWeb
from tests.web.walk import ITEMS, NONE, PRIVATE, SHARED, Got

INVALID = 'Bearer realm="roiservice", error="invalid_token"'


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with OmeroWeb() as web, guarded(tmp_path_factory.mktemp("site"), web) as running:
        yield running


@pytest.fixture(scope="module")
def forge(site: Guarded) -> Forge:
    return site.forge


def check_invalid(got: Got, *, expired: bool = False) -> None:
    """One message for all, and no word of the token."""
    assert got.status == 401, got
    assert got.header("WWW-Authenticate") == INVALID + (', error_description="expired"' if expired else "")
    assert got.header("Cache-Control") == "no-store"
    if not expired:
        assert json.loads(got.body)["detail"] == "the token is not valid"


def test_what_is_not_forged_is_accepted(site: Guarded, forge: Forge) -> None:
    assert site.get(ITEMS, **bearer(forge.token())).status == 200
    assert site.get(f"{ITEMS}?ticket={forge.token(TICKET)}").status == 200


@pytest.mark.parametrize("name", ["none", "None", "nOnE", "", None])
def test_attack_01_no_algorithm_and_no_signature(site: Guarded, forge: Forge, name: object) -> None:
    header, claims = encoded(forge.header(alg=name)), encoded(forge.claims())
    for signature in ("", forge.token().rpartition(".")[2], "A" * 86):
        check_invalid(site.get(ITEMS, **bearer(f"{header}.{claims}.{signature}")))


def test_attack_02_the_public_key_as_a_shared_secret(site: Guarded, forge: Forge) -> None:
    import hashlib
    import hmac

    public = forge.key.public
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    keys = site.get("/.well-known/jwks.json").body
    for secret in (
        pem,
        pem.strip(),
        public.public_bytes_raw(),
        keys,
        json.dumps(json.loads(keys)["keys"][0]).encode(),
    ):
        text = f"{encoded(forge.header(alg='HS256'))}.{encoded(forge.claims())}"
        signature = hmac.new(secret, text.encode(), hashlib.sha256).digest()
        check_invalid(site.get(ITEMS, **bearer(f"{text}.{encoded(signature)}")))


def test_attack_03_other_algorithms_and_other_keys(site: Guarded, forge: Forge) -> None:
    others = {
        "RS256": rsa.generate_private_key(65537, 2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    headers = {"typ": ACCESS.typ, "kid": forge.key.id}
    for name, key in others.items():
        check_invalid(site.get(ITEMS, **bearer(jwt.encode(forge.claims(), key, name, headers))))
    check_invalid(
        site.get(
            ITEMS, **bearer(jwt.encode(forge.claims(), ed448.Ed448PrivateKey.generate(), "EdDSA", headers))
        )
    )


@pytest.mark.parametrize(
    "key_id",
    [
        None,
        "unknown",
        "../../dev/null",
        "' or 1=1 --",
        [],
        {},
        7,
        "a\0b",
        "x" * 65,
        "secret",
        "../registry.sqlite",
    ],
)
def test_attack_04_names_of_keys(site: Guarded, forge: Forge, key_id: object) -> None:
    check_invalid(site.get(ITEMS, **bearer(forge.signed(forge.header(kid=key_id), forge.claims()))))
    header = forge.header()
    del header["kid"]
    check_invalid(site.get(ITEMS, **bearer(forge.signed(header, forge.claims()))))


def test_attack_05_keys_from_elsewhere(site: Guarded, forge: Forge) -> None:
    own = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with listening() as (port, visits):
        url = f"http://127.0.0.1:{port}/keys.json"
        for name, value in (
            ("jku", url), ("x5u", url), ("jwk", {"kty": "OKP", "crv": "Ed25519", "x": encoded(own)}),
            ("x5c", ["AAAA"]), ("crit", ["exp"]), ("b64", False),
        ):  # fmt: skip
            check_invalid(
                site.get(ITEMS, **bearer(forge.signed(forge.header(**{name: value}), forge.claims())))
            )
        time.sleep(0.2)
    assert visits == []


def test_attack_06_times_of_expiry(site: Guarded, forge: Forge) -> None:
    now = int(time.time())
    check_invalid(
        site.get(ITEMS, **bearer(forge.token(iat=now - 100, nbf=now - 100, exp=now - 1))), expired=True
    )
    for value in (str(now + 300), now + 300.0, True, 1e20, None, -1, now + 3601 + 300, 10**30):
        check_invalid(site.get(ITEMS, **bearer(forge.token(exp=value))))
    nan = json.dumps(forge.claims(exp="N")).replace('"N"', "NaN").encode()
    check_invalid(site.get(ITEMS, **bearer(forge.signed(forge.header(), nan))))
    claims = forge.claims()
    del claims["exp"]
    check_invalid(site.get(ITEMS, **bearer(forge.signed(forge.header(), claims))))


def test_attack_07_tokens_of_the_future(site: Guarded, forge: Forge) -> None:
    later = int(time.time()) + 90
    check_invalid(site.get(ITEMS, **bearer(forge.token(iat=later, nbf=later, exp=later + 60))))
    check_invalid(site.get(ITEMS, **bearer(forge.token(nbf=later))))


def test_attack_08_issuers_and_audiences(site: Guarded, forge: Forge) -> None:
    ours = forge.issuer
    for name in ("aud", "iss"):
        for value in ("urn:uuid:other", [ours], [ours, "x"], f"{ours}/", ours.upper(), "", None, {"x": ours}):
            check_invalid(site.get(ITEMS, **bearer(forge.token(**{name: value}))))


def test_attack_09_tokens_of_the_other_kind(site: Guarded, forge: Forge) -> None:
    check_invalid(site.get(ITEMS, **bearer(forge.token(TICKET))))
    check_invalid(site.get(f"{ITEMS}?ticket={forge.token()}"))
    for typ in ("JWT", "at+jwt", "", None, ACCESS.typ.upper(), TICKET.typ):
        check_invalid(site.get(ITEMS, **bearer(forge.signed(forge.header(typ=typ), forge.claims()))))


def test_attack_10_a_token_for_another_image(site: Guarded, forge: Forge) -> None:
    token = bearer(forge.token(img=[SHARED]))
    there, missing = (site.get(f"/images/{image}", **token) for image in (PRIVATE, NONE))
    assert there.status == missing.status == 403
    assert there.header("WWW-Authenticate").endswith('error="insufficient_scope", scope="roi:read"')
    assert there.body.replace(b"%d" % PRIVATE, b"N") == missing.body.replace(b"%d" % NONE, b"N")
    different = {"Date", "Content-Length"}
    assert {k: v for k, v in there.headers.items() if k not in different} == {
        k: v for k, v in missing.headers.items() if k not in different
    }


@pytest.mark.parametrize(
    "images",
    [
        [True],
        [str(PRIVATE)],
        [float(PRIVATE)],
        [-1],
        [],
        "*",
        ["*"],
        list(range(1, 400)),
        [2**63],
        [None],
        None,
        PRIVATE,
    ],
    ids=lambda images: str(images)[:20],
)
def test_attack_11_lists_of_images(site: Guarded, forge: Forge, images: object) -> None:
    check_invalid(site.get(ITEMS, **bearer(forge.token(img=images))))


def test_attack_18_huge_tokens(site: Guarded, forge: Forge) -> None:
    """Refused by the parser of requests or before anything is decoded; memory stays as it was."""
    before = memory(site)
    for value in (b"." * 8000, b"A" * 8000, b"\x1f\x8b" + b"A" * 100, b"[" * 4000):
        assert status(raw(site.host, request(b"Authorization: Bearer " + value))) in (400, 401)
    for value in (b"A" * 10_000_000, b"." * 100_000, b"[" * 1_000_000):
        assert status(raw(site.host, request(b"Authorization: Bearer " + value))) in (400, 431)
    many = b"\r\n".join([b"Authorization: Bearer " + forge.token().encode()] * 90)
    assert status(raw(site.host, request(many))) in (400, 401, 431)
    long = b"GET /images?ticket=" + b"A" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    assert status(raw(site.host, long)) in (400, 414)
    deep = (b'{"a":' * 500 + b"1" + b"}" * 500, b"[" * 1000, b"{" * 2900)
    for text in deep:
        check_invalid(site.get(ITEMS, **bearer(forge.signed(forge.header(), text))))
        check_invalid(site.get(ITEMS, **bearer(forge.signed(text, forge.claims()))))
    assert memory(site) - before < 60 * 2**20
    assert site.get(ITEMS, **bearer(forge.token())).status == 200


def request(header: bytes) -> bytes:
    return b"GET " + ITEMS.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + header + b"\r\n\r\n"


def status(answer: bytes) -> int:
    """The state; 431 if the server closed without reading all, which a client may see as a reset."""
    return int(answer.split()[1]) if answer else 431


def memory(site: Guarded) -> int:
    """Bytes that all processes of the service hold."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/status"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        fields = dict(line.partition(":")[::2] for line in text.splitlines())
        if int(fields["PPid"]) == site.service.process.pid:
            total += int(fields["VmRSS"].split()[0]) * 1024
    return total


def test_attack_28_clocks_that_differ(site: Guarded, forge: Forge) -> None:
    now = int(time.time())
    for skew in (-25, 25):
        token = forge.token(iat=now + skew, nbf=now + skew, exp=now + skew + 300)
        assert site.get(ITEMS, **bearer(token)).status == 200
    owner = {**site.session("ada"), "Origin": site.service.base}
    made = [site.get("/tokens", "POST", {"images": [PRIVATE]}, **owner) for _ in range(6)]
    for got in made:  # whichever process made it, all accept it
        token = bearer(json.loads(got.body)["token"])
        assert {site.get(ITEMS, **token).status for _ in range(6)} == {200}


def test_attack_29_keys_are_replaced(tmp_path: Path) -> None:
    with OmeroWeb() as web, guarded(tmp_path, web) as site:
        ada = {**site.session("ada"), "Origin": site.service.base}
        old = site.forge
        token = bearer(json.loads(site.get("/tokens", "POST", {"images": [PRIVATE]}, **ada).body)["token"])
        assert site.home.run("keys", "new").returncode == 0
        assert len(json.loads(site.get("/.well-known/jwks.json").body)["keys"]) == 2
        assert {site.get(ITEMS, **token).status for _ in range(9)} == {200}
        assert site.home.run("keys", "retire", old.key.id).returncode == 0
        for _ in range(9):
            check_invalid(site.get(ITEMS, **token))
        new = json.loads(site.get("/tokens", "POST", {"images": [PRIVATE]}, **ada).body)["token"]
        assert {site.get(ITEMS, **bearer(new)).status for _ in range(9)} == {200}


def test_attack_30_a_ticket_and_a_path_that_begins_alike(site: Guarded, forge: Forge) -> None:
    short = forge.token(TICKET, img=[PRIVATE], pth="/images/700")
    own = f"/images/{PRIVATE}"
    for path in (own, f"{own}/", f"{own}/collections", ITEMS, "/images", "/images/"):
        assert site.get(f"{path}?ticket={short}").status == 403
    ticket = forge.token(TICKET, pth=f"{own}/collections")
    for path in (
        own,
        "/images",
        f"{own}/collections2",
        f"{own}/collections/../../{SHARED}",
        f"/images/{SHARED}/collections",
    ):
        assert site.get(f"{path}?ticket={ticket}").status in (403, 404), path
    assert site.get(f"{own}/collections?ticket={ticket}").status == 200
    for path in (own, "/tokens"):
        assert site.get(f"{path}?ticket={ticket}", "POST", {}).status in (400, 405)
