"""The forwarder between real namespaces: NATs that work, commands, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket

import pytest
import trio

from tests.netlab.holders import Holder
from tests.netlab.lab.forwarder_bench import (
    HOST6,
    NAT,
    SERVER,
    SERVER6,
    Bench,
    bench,
    conversation,
    says,
)
from tools.netlab.errors import LabError
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.nat import NAMES, NatSpec
from tools.netlab.spec.wire import (
    AddWire,
    Command,
    EndSpec,
    FlushNat,
    RemoveWire,
    SetExternal,
    SetUp,
    WireSpec,
)
from tools.netlab.wire.forwarder_client import DeviceLost, ForwarderError
from tools.netlab.wire.tun import inside_netns

pytestmark = pytest.mark.root


async def test_a_link_goes_down_and_up() -> None:
    async with bench() as at:
        with conversation(at) as (sock, _):
            assert says(sock, b"one")
            await at.forwarder.command(SetUp("w", False, "ab"))
            assert not says(sock, b"two", timeout=0.3)
            assert await counted(at, "ab", "cut") == 1
            await at.forwarder.command(SetUp("w", True))
            assert says(sock, b"three")


async def counted(at: Bench, part: str, key: str) -> int:
    """What a counter says once there is one."""
    with trio.fail_after(60):
        while key not in await at.counters(part):
            await trio.sleep(0.01)
    return (await at.counters(part))[key]


# --- NAT ----------------------------------------------------------------------------------------


async def mapped_port(at: Bench) -> int:
    (mapping,) = await at.forwarder.mappings("w")
    address, port = mapping["external"]
    assert address == NAT
    return int(port)


async def test_a_nat_reboots_and_gets_another_address() -> None:
    async with bench(NatSpec(port="sequential")) as at:
        with conversation(at) as (sock, _):
            assert says(sock, b"one")
            assert await mapped_port(at) == 1024
            await at.forwarder.command(FlushNat("w"))
            assert await at.forwarder.mappings("w") == []
            assert says(sock, b"two")
            await at.forwarder.command(SetExternal("w", ("10.9.0.2",)))
            assert says(sock, b"three")
            (mapping,) = await at.forwarder.mappings("w")
            assert mapping["external"][0] == "10.9.0.2"


async def test_a_reboot_of_the_nat_cuts_tcp() -> None:
    async with bench(NAMES["port-restricted"]) as at:
        with inside_netns(at.server.path):
            listener = socket.create_server((SERVER, 80))
        with inside_netns(at.host.path):
            client = socket.socket()
        with listener, client:
            listener.settimeout(60)
            client.settimeout(60)
            client.connect((SERVER, 80))
            connection, source = listener.accept()
            with connection:
                assert source[0] == NAT
                connection.settimeout(60)
                client.send(b"before")
                assert connection.recv(100) == b"before"
                await at.forwarder.command(FlushNat("w"))
                client.send(b"after")
                connection.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    connection.recv(100)
        assert await counted(at, "nat", "no-session") > 0


@pytest.mark.parametrize("size", [1473, 4000, 40_000])
async def test_fragmented_datagrams_pass_both_ways(size: int) -> None:
    async with bench(NatSpec(port="random")) as at:
        with conversation(at) as (sock, _):
            assert says(sock, bytes(size))


async def test_errors_find_their_way_in() -> None:
    async with bench(NatSpec(port="random")) as at:
        with inside_netns(at.host.path):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.connect((SERVER, 9999))
            sock.settimeout(60)
            sock.send(b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(100)


async def test_ipv6_is_filtered_and_not_translated() -> None:
    async with bench(NatSpec(port="random")) as at:
        with conversation(at, SERVER6) as (sock, _):
            assert says(sock, b"six")
            (mapping,) = await at.forwarder.mappings("w")
            assert mapping["external"] == mapping["internal"] == [HOST6, sock.getsockname()[1]]
        with inside_netns(at.host.path), inside_netns(at.server.path):
            stranger = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with stranger:
            stranger.sendto(b"let me in", (HOST6, 7))
        await counted(at, "nat", "no-mapping")


async def test_refused_connections_are_reset() -> None:
    async with bench(NatSpec(refuse_tcp="reset"), ab=LinkSpec(delay_s=0.01)) as at:
        with inside_netns(at.server.path):
            caller = socket.socket()
        with caller:
            caller.settimeout(60)
            with pytest.raises(ConnectionRefusedError):
                caller.connect((NAT, 8000))


# --- commands, and what is left behind ------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (RemoveWire("x"), "there is no wire 'x'"),
        (FlushNat("w"), "has no nat"),
        (AddWire(WireSpec("w", EndSpec("t1"), EndSpec("t2"))), "there is a wire 'w' already"),
        (AddWire(WireSpec("v", EndSpec("t1", "/nowhere"), EndSpec("t2"))), "/nowhere"),
        (AddWire(WireSpec("v", EndSpec("t1"), EndSpec("t2"), nat=NatSpec())), "needs an address"),
        (AddWire(WireSpec("v", EndSpec("lo"), EndSpec("t2"))), "Invalid argument"),
        (AddWire(WireSpec("v", EndSpec("t1"), EndSpec("t2"), external=("10.0.0.1",))), "a nat"),
    ],
)
async def test_refused_commands(command: Command, message: str) -> None:
    async with bench() as at:
        with pytest.raises(ForwarderError, match=message):
            await at.forwarder.command(command)
        with conversation(at) as (sock, _):
            assert says(sock, b"still here")
    assert not os.path.exists("/sys/class/net/t1")


async def test_a_removed_wire_leaves_no_device_and_can_be_made_again() -> None:
    async with bench() as at:
        await at.forwarder.command(RemoveWire("w"))
        assert devices(at.host) == {"lo"}
        assert devices(at.server) == {"lo"}
        ends = EndSpec("host0", at.host.path), EndSpec("server0", at.server.path)
        await at.forwarder.command(AddWire(WireSpec("w", *ends)))
        assert devices(at.host) == {"lo", "host0"}


def devices(holder: Holder) -> set[str]:
    with inside_netns(holder.path):
        return {name for _, name in socket.if_nameindex()}


async def test_devices_vanish_with_a_killed_forwarder() -> None:
    with pytest.raises(LabError, match=r"the forwarder .* has ended before the lab did"):
        await kill_the_forwarder()


async def kill_the_forwarder() -> None:
    async with bench() as at:
        assert devices(at.host) == {"lo", "host0"}
        os.kill(at.forwarder.pid, signal.SIGKILL)
        # Without the shield the block ends at once, with the error.
        with trio.CancelScope(shield=True), trio.fail_after(60):
            while devices(at.host) != {"lo"}:
                await trio.sleep(0.01)
            for _ in range(2):
                with pytest.raises(ForwarderError, match="has ended"):
                    await at.forwarder.stats()
        await at.forwarder.stats()


async def test_a_device_that_is_taken_away_is_reported() -> None:
    lost: list[DeviceLost] = []
    async with bench(on_lost=lost.append) as at:
        at.host.ip("link delete host0")
        with trio.fail_after(60):
            while not lost:
                await trio.sleep(0.01)
        assert (lost[0].name, lost[0].device) == ("w", "host0")
        await at.forwarder.command(RemoveWire("w"))
