"""The addresses of this machine, and what is known of them when nobody can look."""

import errno
import ipaddress
import logging
import os
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.nat.base.net import interfaces
from lattica.nat.base.net.interfaces import (
    Use,
    forget_interfaces,
    local_addresses,
    local_interfaces,
    read_local_addresses,
)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "_kept", interfaces._Kept())


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("ifaddr.get_adapters", fail)


def test_interfaces_of_this_machine():
    found = local_interfaces()
    assert ipaddress.ip_interface("127.0.0.1/8") in found
    assert not any(i.version == 6 and i.is_link_local for i in found)
    loopback = [i.is_loopback for i in found]
    assert loopback == sorted(loopback)
    assert set(found) <= {address.interface for address in read_local_addresses()}


def test_without_an_interface_list_there_is_loopback(monkeypatch):
    refuse(monkeypatch, errno.EPERM)
    assert local_interfaces()
    assert all(interface.is_loopback for interface in local_interfaces())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
def test_what_was_known_is_kept_while_nobody_can_look(monkeypatch, caplog, number):
    here = (interfaces.LocalAddress("eth0", ipaddress.ip_interface("192.168.7.5/24")),)
    monkeypatch.setattr(interfaces, "read_local_addresses", lambda: here)
    assert local_addresses() == here
    monkeypatch.undo()
    interfaces._kept.addresses = here
    refuse(monkeypatch, number)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            forget_interfaces()
            assert local_addresses() == here
    assert caplog.text.count("cannot list network interfaces") == 1
    if number == errno.EMFILE:
        assert "ulimit -n" in caplog.text
    monkeypatch.undo()
    forget_interfaces()
    assert ipaddress.ip_interface("127.0.0.1/8") in local_interfaces()


# --- what Linux tells ---


def attribute(kind: int, data: bytes) -> bytes:
    return interfaces._ATTRIBUTE.pack(4 + len(data), kind) + data + bytes(-len(data) % 4)


def link(index: int, name: str, kind: str = "", master: int = 0, flags: int = 0x41) -> bytes:
    body = interfaces._LINK.pack(0, 0, index, flags, 0) + attribute(3, name.encode() + b"\0")
    if kind:
        body += attribute(18, attribute(1, kind.encode() + b"\0"))
    if master:
        body += attribute(10, master.to_bytes(4, sys.byteorder))
    return body


def address(index: int, text: str, flags: int = 0) -> bytes:
    packed = ipaddress.ip_address(text).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    more = attribute(8, flags.to_bytes(4, sys.byteorder))
    return interfaces._ADDRESS.pack(family, 24, 0, 0, index) + attribute(1, packed) + more


def test_what_an_address_is_good_for():
    links = [
        link(1, "lo"),
        link(2, "eth0"),
        link(3, "docker0", "bridge"),
        link(4, "veth1", "veth", master=3),
        link(5, "lan", "bridge"),
        link(6, "veth2", "veth", master=5),
        link(7, "eth1", master=5),
        link(8, "empty", "bridge"),
        link(9, "wlan0", flags=0x1),
    ]
    hosts = {
        address(2, "10.1.0.2"): None,
        address(2, "10.1.0.3", 0x01): None,  # in IPv4 this means: a second one
        address(2, "2a00::1"): None,
        address(2, "2a00::2", 0x01): Use.PASSING,
        address(2, "2a00::3", 0x20): Use.PASSING,
        address(3, "172.17.0.1"): Use.CONFINED,
        address(5, "10.2.0.1"): None,
        address(8, "10.3.0.1"): Use.CONFINED,
        address(9, "10.4.0.1"): Use.DOWN,
        address(9, "2a00::4", 0x01): Use.DOWN,
        address(77, "10.5.0.1"): None,
    }
    found = interfaces._uses_from(links, list(hosts))
    assert list(found.values()) == [use for use in hosts.values() if use is not None]
    assert found["docker0", ipaddress.ip_address("172.17.0.1")] is Use.CONFINED


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_whatever_a_kernel_says(one, other):
    interfaces._uses_from([link(1, "a") + one], [address(1, "10.1.0.1") + other])
