"""Which addresses a host name may stand for.

Stores of a site lie at private addresses as well as public ones, so those are as good as the name, which an
administrator gave. A name that leads to this very machine, or to one of the link (where clouds keep the keys
of their machines, RFC 3927), has been turned against the service by whoever rules it.
"""

from __future__ import annotations

import ipaddress
import socket

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_address(host: str, address: str) -> str | None:
    """Why `host`, as the location has it, may not lead to `address`; None if it may."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if found.is_link_local or found.is_multicast or found.is_unspecified:
        return f"its name leads to {found}, where no stores are"
    if found.is_loopback and not _names_loopback(host):
        return "its name leads to this very machine; name it localhost if that is meant"
    return None


def checked_pools(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    """The manager, whose connections look at the address they reach before anything is sent."""
    manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return manager


class AddressRefused(HTTPError):
    """The address that a host name stands for is none that may be asked."""


class _HTTP(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _checked(self, super()._new_conn())


class _HTTPS(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _checked(self, super()._new_conn())


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTP


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPS


def _checked(connection: HTTPConnection, reached: socket.socket) -> socket.socket:
    reason = check_address(connection.host, reached.getpeername()[0])
    if reason is not None:
        reached.close()
        raise AddressRefused(reason)
    return reached


def _names_loopback(host: str) -> bool:
    host = host.strip("[]").lower()
    if host in LOOPBACK or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
