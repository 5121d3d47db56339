"""Addresses of all kinds against real servers: passwords, users, TLS, sentinels, a cluster."""

from __future__ import annotations

import datetime
import ipaddress
import logging
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roiservice.cache import Page, connect_redis, make_cache
from roiservice.cache.redis import RedisServer as Connected
from roiservice.cache.redis import RedisStore
from roiservice.errors import SettingsError
from tests.cache.support import RedisServer, binaries, wait_until

PAGE = Page(b"deflated", 20, 7, 3, 2)
PASSWORD = "p@s/s:w?o#r%d &ü"
RIGHTS = ("~roiservice:*", "-@all", "+get", "+set", "+del", "+ping")
ENCODED = "p%40s%2Fs%3Aw%3Fo%23r%25d%20%26%C3%BC"


@pytest.fixture(params=binaries(), ids=lambda path: path.rpartition("/")[2])
def binary(request):
    return request.param


@pytest.fixture
def started(tmp_path):
    """Starts servers, and stops them at the end."""
    servers = []

    def start(*arguments, binary=None):
        server = RedisServer(tmp_path, *arguments, binary=binary)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


def keeps_pages(url):
    """Whether a page reaches another process by that address."""
    make_cache(10_000, connect_redis(url)).put("key", PAGE)
    return make_cache(10_000, connect_redis(url)).get("key") == PAGE


def test_every_server_keeps_pages(started, binary):
    assert keeps_pages(started(binary=binary).url)


def test_passwords_hold_any_character_if_they_are_encoded(started, binary):
    server = started("--requirepass", PASSWORD, binary=binary)
    assert keeps_pages(server.url.replace("//", f"//:{ENCODED}@"))
    assert not keeps_pages(server.url.replace("//", "//:wrong@"))
    assert not keeps_pages(server.url)


def test_a_user_needs_few_rights(started, binary):
    server = started(binary=binary)
    server.client().execute_command("ACL", "SETUSER", "roi", "on", f">{PASSWORD}", *RIGHTS)
    url = server.url.replace("//", f"//roi:{ENCODED}@")
    assert keeps_pages(url)
    store = RedisStore(connect_redis(url))
    assert store.add("one", b"1", 60)
    assert not store.add("one", b"2", 60)
    store.remove("one")
    assert store.get("one") is None
    assert connect_redis(url).ping()


def test_tls_is_checked_against_the_authority(started, tmp_path):
    files = write_certificate(tmp_path)
    port = RedisServer(tmp_path).port
    arguments = ("--tls-port", str(port), "--port", "0", "--tls-auth-clients", "no", *files)
    binary = next(filter(has_tls, binaries()), None)
    if binary is None:
        pytest.skip("no server here was built with TLS")
    server = RedisServer(tmp_path, *arguments, binary=binary)
    server.port = port
    server.start()
    try:
        url = f"rediss://127.0.0.1:{port}/0"
        assert keeps_pages(f"{url}?ssl_ca_certs={tmp_path}/cert.pem")
        assert not keeps_pages(url), "nobody vouches for it"
        assert not keeps_pages(url.replace("rediss", "redis"))
    finally:
        server.stop()


def has_tls(binary):
    """Whether the server can do TLS; it ends at once, as it is told of no certificate."""
    command = [binary, "--port", "0", "--tls-port", "1", "--bind", "nowhere.invalid"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    return "Bad directive" not in said and "Failed finding TLS support" not in said


def write_certificate(folder):
    """Arguments that make a server use a certificate for 127.0.0.1, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return (
        *("--tls-cert-file", str(folder / "cert.pem"), "--tls-key-file", str(folder / "key.pem")),
        *("--tls-ca-cert-file", str(folder / "cert.pem")),
    )


def test_sentinels_lead_to_the_new_master(started, tmp_path):
    login = ("--requirepass", "secret", "--masterauth", "secret")
    first, second = started(*login), started(*login)
    second_client = connect_redis(second.url.replace("//", "//:secret@"))
    assert second_client.send("REPLICAOF", "127.0.0.1", first.port)
    wait_until(lambda: b"master_link_status:up" in _info(second_client))
    sentinels = []
    for number in range(3):
        file = tmp_path / f"sentinel{number}.conf"
        file.write_text(
            f"sentinel monitor mine 127.0.0.1 {first.port} 2\nsentinel auth-pass mine secret\n"
            "sentinel down-after-milliseconds mine 500\nsentinel failover-timeout mine 2000\n"
            "requirepass other\n"
        )
        sentinels.append(started(str(file), "--sentinel"))
    known = [connect_redis(each.url.replace("//", "//:other@")) for each in sentinels]
    wait_until(lambda: all(_sentinels(each) == 3 for each in known))
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
    cache = Connected(f"redis+sentinel://:secret@{hosts}/mine/0?sentinel_password=other", pause=0.2)
    store = RedisStore(cache)
    store.put("before", b"1", 600)
    wait_until(lambda: RedisStore(second_client).get("before") == b"1")
    sentinels[0].kill()
    first.kill()
    wait_until(lambda: cache.ping(), 60)
    assert store.get("before") == b"1"
    store.put("after", b"2", 600)
    assert RedisStore(second_client).get("after") == b"2"


def _info(server):
    return repr(server.send("INFO", "replication")).replace("'", "").replace(": ", ":").encode()


def _sentinels(server):
    answer = server.send("SENTINEL", "MASTER", "mine")
    master = dict(zip(answer[::2], answer[1::2], strict=True))
    return 1 + int(master[b"num-other-sentinels"])


def test_a_cluster_keeps_each_key_where_it_belongs(started, binary):
    nodes = [
        started(*("--cluster-enabled", "yes", "--cluster-config-file", f"nodes{number}.conf"), binary=binary)
        for number in range(3)
    ]
    for number, node in enumerate(nodes):
        slots = range(number * 5462, min((number + 1) * 5462, 16384))
        node.client().execute_command("CLUSTER", "ADDSLOTS", *slots)
        node.client().execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        node.client().execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
    wait_until(lambda: all(_cluster_is_whole(node) for node in nodes))
    rights = (*RIGHTS, "+cluster|slots", "+command")
    for node in nodes:
        node.client().execute_command("ACL", "SETUSER", "roi", "on", f">{PASSWORD}", *rights)
    gone = RedisServer(nodes[0]._directory)
    url = f"redis+cluster://roi:{ENCODED}@127.0.0.1:{gone.port},127.0.0.1:{nodes[0].port}"
    server = Connected(url, pause=0.2)
    store = RedisStore(server)
    for number in range(30):
        store.put(f"key{number}", b"%d" % number, 60)
    assert [store.get(f"key{number}") for number in range(30)] == [b"%d" % number for number in range(30)]
    assert server.ping()
    assert all(node.client().dbsize() > 0 for node in nodes)
    assert keeps_pages(url)


def _cluster_is_whole(node):
    about = node.client().execute_command("CLUSTER INFO")
    return about["cluster_state"] == "ok" and about["cluster_known_nodes"] == "3"


def test_a_cluster_that_is_away_at_the_start_is_found_later(started, tmp_path):
    server = RedisServer(tmp_path, "--cluster-enabled", "yes")
    connected = Connected(f"redis+cluster://127.0.0.1:{server.port}", pause=0.0)
    assert not connected.ping()
    server.start()
    try:
        server.client().execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        wait_until(lambda: server.client().execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        assert connected.ping()
        RedisStore(connected).put("key", b"1", 60)
    finally:
        server.stop()


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hid/den@host:6379/0",
        "redis://:123/hidden@host:6379/0",
        "redis://:hidden#@host:6379/0",
        "redis://:hidden?@host:6379/0",
        "redis://user:hid]den@host",
        "redis://user:hidden@host:hidden",
        "redis://user:hidden@:6379",
        "rediss+sentinel://user:hidden@host",
        "redis+sentinel://user:hidden@host:26379x/mine",
        "redis+sentinel://user:hidden@/mine",
        "redis+sentinel://user:hidden@host/mine/hidden",
        "redis+cluster://user:hidden@host/1",
        "redis+cluster://user:hidden@host:1,:2",
        "redis://user:hidden@host?ssl_ca_certs=x",
    ],
)
def test_an_address_that_cannot_be_used_is_not_quoted(url):
    with pytest.raises(SettingsError) as caught:
        connect_redis(url)
    assert "hid" not in str(caught.value)
    assert "den" not in str(caught.value)
    assert "ROISERVICE_REDIS_URL" in str(caught.value)


def test_the_address_of_sessions_is_named_as_such():
    with pytest.raises(SettingsError, match="ROISERVICE_SESSIONS_REDIS_URL"):
        connect_redis("redis+sentinel://host", None, "sessions")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.text(st.characters(codec="utf-8"), min_size=6, max_size=20))
def test_no_text_in_place_of_a_password_is_ever_said(caplog, text):
    """Whatever cuts the address short: neither the error nor the log of a failed connection holds a piece."""
    secret = f"Geheim{text}Geheim"
    caplog.clear()
    said = ""
    with caplog.at_level(logging.DEBUG):
        try:
            server = connect_redis(f"redis://u:{secret}@127.0.0.1:1/0")
        except SettingsError as error:
            said = str(error)
        else:
            assert not server.ping()
    assert "Geheim" not in said + caplog.text
