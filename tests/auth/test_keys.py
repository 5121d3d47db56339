"""Keys: made once, kept from others, and changed without a gap."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from joserfc import jwt
from joserfc.jwk import KeySet

from roiservice.auth.claims import ACCESS, TICKET
from roiservice.auth.keys import PUBLISHED, KeyRing, server_secret
from roiservice.auth.tokens import Tokens
from roiservice.errors import BadParameter, NotWritten, SettingsError, TokenInvalid
from tests.auth.support import ISSUER, NOW, OWNER, Clock, Service

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
PLAIN = serialization.NoEncryption()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_key_is_made_when_it_is_needed(tmp_path: Path, clock: Clock) -> None:
    ring = KeyRing(tmp_path / "state/keys", clock)
    assert ring.all_keys() == []
    assert ring.jwks() == {"keys": []}
    signer = ring.signer()
    assert ring.signer().id == signer.id
    (file,) = (tmp_path / "state/keys").glob("*.pem")
    assert (mode(file), mode(file.parent)) == (0o600, 0o700)
    assert serialization.load_pem_private_key(file.read_bytes(), None).private_bytes_raw() == (
        signer.private.private_bytes_raw()
    )


def test_many_at_once_make_one_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from roiservice.auth.keys import KeyRing, server_secret;"
        "folder = Path(sys.argv[1]); print(KeyRing(folder).signer().id, server_secret(folder).hex())"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, tmp_path / "keys"], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    assert len({process.communicate()[0] for process in started}) == 1
    with ThreadPoolExecutor(8) as threads:
        rings = [KeyRing(tmp_path / "other") for _ in range(8)]
        assert len({signer.id for signer in threads.map(KeyRing.signer, rings)}) == 1


def test_a_new_key_signs_once_it_is_known_and_the_old_one_still_verifies(issuing: Service) -> None:
    worker = Tokens(KeyRing(issuing.ring._folder, issuing.clock), ISSUER, issuing.clock)  # another process
    old = issuing.tokens.access_token(OWNER, [7], 3600).text
    assert worker.verify(old, ACCESS)
    issuing.clock.now += 100
    new = issuing.ring.new()
    assert issuing.ring.signer().id == issuing.key.id
    assert [key["kid"] for key in issuing.ring.jwks()["keys"]] == [issuing.key.id, new.id]
    issuing.clock.now += PUBLISHED - 1
    assert issuing.ring.signer().id == issuing.key.id
    issuing.clock.now += 1
    assert issuing.ring.signer().id == new.id
    assert worker.verify(issuing.tokens.access_token(OWNER, [7]).text, ACCESS).key_id == new.id
    assert worker.verify(old, ACCESS).key_id == issuing.key.id
    issuing.ring.retire(issuing.key.id)
    with pytest.raises(TokenInvalid):
        worker.verify(old, ACCESS)


def test_a_key_is_outlived_when_all_it_signed_has_expired(issuing: Service) -> None:
    made = NOW + 1000
    issuing.clock.now = made
    new = issuing.ring.new()
    last_signed = made + PUBLISHED - 1
    issuing.clock.now = last_signed
    ticket = issuing.tokens.ticket(OWNER, 7, "/images/7", TICKET.longest).text
    issuing.clock.now = last_signed + TICKET.longest - 1
    assert issuing.tokens.verify(ticket, TICKET).key_id == issuing.key.id
    assert issuing.ring.outlived() == []
    issuing.clock.now = made + PUBLISHED + TICKET.longest + 1
    assert [key.id for key in issuing.ring.outlived()] == [issuing.key.id]
    assert issuing.ring.signer().id == new.id


def test_without_an_older_one_a_new_key_signs_at_once(issuing: Service) -> None:
    new = issuing.ring.new()
    issuing.ring.retire(issuing.key.id)
    assert issuing.ring.signer().id == new.id


@pytest.mark.parametrize("key_id", ["nope", "", "../keys/x", "..", "/etc/passwd"])
def test_only_keys_are_retired(issuing: Service, key_id: str) -> None:
    with pytest.raises(BadParameter):
        issuing.ring.retire(key_id)


def test_others_read_the_public_keys(issuing: Service) -> None:
    issuing.ring.new()
    document = issuing.ring.jwks()
    assert all(set(key) == {"kty", "crv", "use", "alg", "kid", "x"} for key in document["keys"])
    with pytest.warns(match="EdDSA is deprecated"):
        token = jwt.decode(
            issuing.tokens.access_token(OWNER, [7]).text,
            KeySet.import_key_set(document),
            algorithms=["EdDSA"],
        )
    assert token.claims["img"] == [7]


def test_a_public_key_alone_verifies_only(issuing: Service, tmp_path: Path) -> None:
    folder = tmp_path / "verifying"
    folder.mkdir()
    (folder / f"{issuing.key.id}.pem").write_bytes(issuing.public_pem)
    tokens = Tokens(KeyRing(folder, issuing.clock), ISSUER, issuing.clock)
    assert tokens.verify(issuing.tokens.access_token(OWNER, [7]).text, ACCESS)
    assert tokens.access_token(OWNER, [7]).text  # with a key of its own, made now
    assert len(list(folder.glob("*.pem"))) == 2


def unusable() -> dict[str, bytes]:
    p256 = ec.generate_private_key(ec.SECP256R1())
    own = ed25519.Ed25519PrivateKey.generate()
    return {
        "empty": b"",
        "text": b"-----BEGIN PRIVATE KEY-----\nnope\n-----END PRIVATE KEY-----\n",
        "curve": p256.private_bytes(PEM, PKCS8, PLAIN),
        "ed448": ed448.Ed448PrivateKey.generate().private_bytes(PEM, PKCS8, PLAIN),
        "locked": own.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"x")),
        "public": p256.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    }


@pytest.mark.parametrize("name", unusable())
def test_files_that_are_no_keys_are_named(issuing: Service, name: str) -> None:
    file = issuing.ring._folder / f"{name}.pem"
    file.write_bytes(unusable()[name])
    file.chmod(0o600)
    with pytest.raises(SettingsError, match=rf"{name}\.pem"):
        issuing.ring.check()
    assert [key.id for key in issuing.ring.all_keys()] == [issuing.key.id]  # all others go on


def test_a_private_key_that_others_may_read_is_refused(issuing: Service) -> None:
    file = issuing.ring._folder / f"{issuing.key.id}.pem"
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="others may read it"):
        issuing.ring.check()
    assert KeyRing(issuing.ring._folder).all_keys() == []


def test_a_change_is_seen_though_the_folder_looks_as_before(issuing: Service) -> None:
    issuing.ring.all_keys()
    before = issuing.ring._folder.stat()
    other = ed25519.Ed25519PrivateKey.generate()
    (issuing.ring._folder / "other.pem").write_bytes(other.private_bytes(PEM, PKCS8, PLAIN))
    (issuing.ring._folder / "other.pem").chmod(0o600)
    os.utime(
        issuing.ring._folder, ns=(before.st_atime_ns, before.st_mtime_ns)
    )  # within one tick of the clock
    assert {key.id for key in issuing.ring.all_keys()} == {issuing.key.id, "other"}


def test_a_folder_that_is_not_changed_is_not_read_again(
    issuing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(issuing.ring._folder, (NOW - 10**9, NOW - 10**9))
    issuing.ring.all_keys()
    monkeypatch.setattr("roiservice.auth.keys._read", None)
    assert issuing.tokens.verify(issuing.tokens.access_token(OWNER, [7]).text, ACCESS)


def test_a_folder_that_cannot_be_written_is_named() -> None:
    with pytest.raises(NotWritten, match="keys"):
        KeyRing(Path("/proc/keys-of-nobody/keys")).signer()  # not even root may write there


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    with pytest.raises(NotWritten, match="keys"):
        KeyRing(tmp_path / "keys").signer()


def test_the_secret_lasts(tmp_path: Path) -> None:
    secret = server_secret(tmp_path / "keys")
    assert len(secret) == 32
    assert server_secret(tmp_path / "keys") == secret
    assert mode(tmp_path / "keys/secret") == 0o600
    (tmp_path / "keys/secret").write_bytes(b"short")
    with pytest.raises(SettingsError, match="secret"):
        server_secret(tmp_path / "keys")


def test_a_key_that_is_taken_away_counts_no_more_beside_a_file_that_is_none(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    key = ring.signer()
    (tmp_path / "note.pem").write_bytes(b"no key")
    assert ring.verifier(key.id) is not None
    ring.retire(key.id)
    assert KeyRing(tmp_path).verifier(key.id) is None
    assert ring.verifier(key.id) is None
