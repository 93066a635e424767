"""What the lab sees of devices in a namespace."""

from __future__ import annotations

import socket

import pytest
import trio

from tests.netlab.holders import namespaces, require_root
from tests.netlab.lab.forwarder_bench import heard
from tools.netlab.lab.netns import without_ipv6
from tools.netlab.wire.tun import inside_netns

pytestmark = pytest.mark.root


async def test_a_device_is_deaf_until_its_addresses_are_heard() -> None:
    require_root()
    with namespaces(1) as (end,):
        end.ip("link add one type veth peer name two")
        with inside_netns(end.path):
            assert without_ipv6() == {"one", "two"}
        end.ip(
            "link set one up",
            "link set two up",
            "addr add fd00::1/64 dev one nodad",
            # This one makes sure that nobody else has it, which takes a second or two.
            "addr add fd00::2/64 dev two",
        )
        with inside_netns(end.path):
            assert "two" in without_ipv6()
        await heard(end)
        with inside_netns(end.path):
            sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with sock, trio.fail_after(60):
            sock.bind(("fd00::2", 0))
            sock.settimeout(60)
            sock.sendto(b"heard", sock.getsockname())
            assert sock.recv(10) == b"heard"
