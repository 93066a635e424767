"""The forwarder between real namespaces: links as specified, NATs that work, nothing left behind.

Links are measured with the kernel's own time stamps. Other work on the machine makes single
packets late but hardly the median, and rates are those of a second or two; what is measured
wrongly for such a reason is measured again, a few times.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio

from tests.netlab.holders import Holder, Program, namespaces, require_root
from tools.netlab.forwarder_client import (
    DeviceLost,
    ForwarderClient,
    ForwarderError,
    open_forwarder,
)
from tools.netlab.link_spec import BurstLoss, LinkSpec
from tools.netlab.nat_spec import NAMES, NatSpec
from tools.netlab.tun import inside_netns
from tools.netlab.wire_spec import (
    AddForward,
    AddWire,
    Command,
    EndSpec,
    FlushNat,
    RemoveForward,
    RemoveWire,
    SetExternal,
    SetLink,
    SetUp,
    WireSpec,
)

pytestmark = pytest.mark.root

GAUGE = "tests/netlab/gauge.py"
HOST, HOST6 = "10.0.0.1", "fd00::1"
SERVER, SERVER6 = "10.9.9.1", "fd09::1"
NAT = "10.9.0.1"
PERFECT = LinkSpec()
MEASUREMENTS = 4


class Bench:
    """A host in one namespace, a server in another, and the wire "w" between them."""

    def __init__(self, host: Holder, server: Holder, forwarder: ForwarderClient) -> None:
        self.host = host
        self.server = server
        self.forwarder = forwarder

    async def link(self, **directions: LinkSpec) -> None:
        for direction, spec in directions.items():
            await self.forwarder.command(SetLink("w", spec, direction))  # type: ignore[arg-type]

    async def counters(self, part: str) -> dict[str, int]:
        return (await self.forwarder.stats())["w"][part]


@asynccontextmanager
async def bench(
    nat: NatSpec | None = None,
    on_lost: Callable[[DeviceLost], None] | None = None,
    *,
    ab: LinkSpec = PERFECT,
    ba: LinkSpec = PERFECT,
) -> AsyncIterator[Bench]:
    require_root()
    with namespaces(2) as (host, server):
        async with open_forwarder(on_lost) as forwarder:
            external = (NAT,) if nat is not None and nat.translate != "none" else ()
            ends = EndSpec("host0", host.path), EndSpec("server0", server.path)
            wire = WireSpec("w", *ends, ab, ba, nat, external, seed=1)
            await forwarder.command(AddWire(wire))
            host.ip(
                f"addr add {HOST}/24 dev host0",
                f"addr add {HOST6}/64 dev host0 nodad",
                "route add default dev host0",
                "route add fd09::/64 dev host0",
            )
            server.ip(
                f"addr add {SERVER}/32 dev server0",
                f"addr add {SERVER6}/64 dev server0 nodad",
                "route add 10.9.0.0/24 dev server0",
                "route add 10.0.0.0/24 dev server0",
                "route add fd00::/64 dev server0",
            )
            yield Bench(host, server, forwarder)


async def in_thread(function: Callable[[], Any]) -> Any:
    return await trio.to_thread.run_sync(function)


Arrivals = list[tuple[int, float, float]]


async def datagrams(
    sender: Holder,
    receiver: Holder,
    to: str,
    count: int,
    *,
    size: int = 172,
    pace: float = 500,
    burst: int = 1,
    expected: int | None = None,
) -> Arrivals:
    """Send datagrams; (number, seconds on the way, time of arrival) of each that came."""

    def measure() -> Arrivals:
        with receiver.start(GAUGE, "receive", to, "9000", str(expected or count)) as program:
            numbers = (count, size, pace, burst)
            sender.run(GAUGE, "send", to, "9000", *map(str, numbers))
            arrivals: Arrivals = program.line()
            return arrivals

    arrivals: Arrivals = await in_thread(measure)
    return arrivals


# --- delay ------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.02, 0.3])
async def test_delay_is_accurate_to_a_millisecond(delay: float) -> None:
    async with bench(ab=LinkSpec(delay_s=delay), ba=LinkSpec(delay_s=0.05)) as at:
        median = 0.0
        for _ in range(MEASUREMENTS):
            arrivals = await datagrams(at.host, at.server, SERVER, 300)
            waits = [wait for _, wait, _ in arrivals]
            assert len(waits) == 300
            assert min(waits) >= delay
            median = statistics.median(waits)
            if median < delay + 0.001:
                break
        assert median < delay + 0.001


async def test_each_direction_has_its_link() -> None:
    async with bench(ab=LinkSpec(delay_s=0.01), ba=LinkSpec(delay_s=0.04)) as at:
        there = await datagrams(at.host, at.server, SERVER, 50)
        back = await datagrams(at.server, at.host, HOST, 50)
        assert 0.01 <= min(wait for _, wait, _ in there) < 0.03
        assert min(wait for _, wait, _ in back) >= 0.04


@pytest.mark.parametrize("shape", ["uniform", "normal"])
async def test_jitter_spreads_the_delay(shape: Any) -> None:
    spec = LinkSpec(delay_s=0.05, jitter_s=0.02, jitter_shape=shape, jitter_reorders=True)
    async with bench(ab=spec) as at:
        arrivals = await datagrams(at.host, at.server, SERVER, 1000)
        waits = [wait for _, wait, _ in arrivals]
        assert len(waits) == 1000
        expected = 0.04 / 12**0.5 if shape == "uniform" else 0.02
        assert statistics.stdev(waits) == pytest.approx(expected, rel=0.15)
        assert statistics.median(waits) == pytest.approx(0.05, abs=0.003)
        numbers = [number for number, _, _ in arrivals]
        assert numbers != sorted(numbers)


async def test_jitter_without_reordering() -> None:
    async with bench(ab=LinkSpec(delay_s=0.05, jitter_s=0.03)) as at:
        arrivals = await datagrams(at.host, at.server, SERVER, 500)
        numbers = [number for number, _, _ in arrivals]
        assert numbers == list(range(500))


# --- loss, duplication, reordering ------------------------------------------------------------


async def test_random_loss() -> None:
    async with bench(ab=LinkSpec(loss=0.1)) as at:
        arrivals = await datagrams(at.host, at.server, SERVER, 3000, pace=3000)
        assert len(arrivals) == pytest.approx(2700, abs=70)
        stats = await at.counters("ab")
        assert stats["offered"] - stats["lost"] == stats["delivered"]


async def test_burst_loss() -> None:
    burst = BurstLoss(enter=0.01, leave=0.2)
    async with bench(ab=LinkSpec(burst=burst)) as at:
        arrivals = await datagrams(at.host, at.server, SERVER, 6000, pace=5000)
        numbers = [number for number, _, _ in arrivals]
        gaps = [b - a - 1 for a, b in pairwise(numbers) if b - a > 1]
        assert sum(gaps) / 6000 == pytest.approx(burst.mean_loss, rel=0.3)
        assert statistics.mean(gaps) == pytest.approx(5, rel=0.3)


async def test_duplicates() -> None:
    async with bench(ab=LinkSpec(duplicate=0.2)) as at:
        arrivals = await datagrams(at.host, at.server, SERVER, 1000, expected=10_000)
        assert len(arrivals) == pytest.approx(1200, abs=50)
        assert {number for number, _, _ in arrivals} == set(range(1000))


async def test_reordering() -> None:
    async with bench(ab=LinkSpec(delay_s=0.05, reorder=0.1)) as at:
        arrivals = await datagrams(at.host, at.server, SERVER, 1000)
        quick = sum(wait < 0.045 for _, wait, _ in arrivals)
        assert quick == pytest.approx(100, abs=35)
        numbers = [number for number, _, _ in arrivals]
        assert numbers != sorted(numbers)
        assert sorted(numbers) == list(range(1000))


# --- rate -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mbit", [1, 20, 100])
async def test_rate_of_datagrams_is_within_five_percent(mbit: int) -> None:
    rate = mbit * 1e6
    async with bench(ab=LinkSpec(delay_s=0.005, rate_bps=rate, queue_s=0.5)) as at:
        measured = 0.0
        for _ in range(MEASUREMENTS):
            count = int(1.5 * rate / 8 / 1400)  # IP packets of 1,400 bytes, ten percent too fast
            arrivals = await datagrams(
                at.host,
                at.server,
                SERVER,
                count,
                size=1372,
                pace=1.1 * rate / 8 / 1400,
                burst=max(1, mbit // 10),
            )
            # The median of many stretches: where the sender was kept from its work, nothing waits
            # for the link.
            times = [arrived for _, _, arrived in arrivals]
            length = len(times) // 8
            bits = length * 1400 * 8
            stretches = zip(times, times[length:], strict=False)
            measured = bits / statistics.median(end - start for start, end in stretches)
            if abs(measured / rate - 1) < 0.05:
                break
        assert measured == pytest.approx(rate, rel=0.05)


@pytest.mark.parametrize(
    ("mbit", "nat"), [(10, None), (100, None), (500, None), (500, "port-restricted")]
)
async def test_rate_of_tcp_is_within_five_percent(mbit: int, nat: str | None) -> None:
    rate = mbit * 1e6
    spec = None if nat is None else NAMES[nat]
    async with bench(spec, ab=LinkSpec(delay_s=0.005, rate_bps=rate)) as at:

        def measure() -> float:
            with at.server.start(GAUGE, "sink", SERVER, "9000", "1.2", "0.8") as program:
                at.host.run(GAUGE, "pour", SERVER, "9000", "10")
                payload: float = program.line()
                return payload * 8 * 1500 / 1448  # with its headers

        measured = 0.0
        for _ in range(MEASUREMENTS):
            measured = await in_thread(measure)
            if abs(measured / rate - 1) < 0.05:
                break
        assert measured == pytest.approx(rate, rel=0.05)


async def test_a_full_queue_delays_and_then_drops() -> None:
    # 10 packets of 1,000 bytes may wait; each takes 10 ms.
    spec = LinkSpec(rate_bps=8e5, queue_bytes=10_000)
    async with bench(ab=spec) as at:
        arrivals = await datagrams(at.host, at.server, SERVER, 100, size=972, pace=200)
        waits = [wait for _, wait, _ in arrivals]
        assert 0.08 < max(waits) < 0.13
        stats = await at.counters("ab")
        assert stats["overflowed"] == pytest.approx(40, abs=8)
        assert len(arrivals) + stats["overflowed"] == 100


async def test_bulk_survives_a_lossy_link() -> None:
    # Trains are cut up, and each packet has its own fate.
    spec = LinkSpec(delay_s=0.002, jitter_s=0.001, jitter_reorders=True, loss=0.01, duplicate=0.01)
    async with bench(NAMES["symmetric-random"], ab=spec) as at:

        def measure() -> float:
            with at.server.start(GAUGE, "sink", SERVER, "9000", "1", "0.2") as program:
                at.host.run(GAUGE, "pour", SERVER, "9000", "5")
                payload: float = program.line()
                return payload

        assert await in_thread(measure) > 1e5
        stats = await at.counters("ab")
        assert stats["lost"] > 0
        assert stats["duplicated"] > 0


# --- changes while running ----------------------------------------------------------------------


async def test_a_link_changes_while_it_runs() -> None:
    async with bench(ab=LinkSpec(delay_s=0.001)) as at:
        assert min(w for _, w, _ in await datagrams(at.host, at.server, SERVER, 20)) < 0.03
        await at.link(ab=LinkSpec(delay_s=0.06))
        assert min(w for _, w, _ in await datagrams(at.host, at.server, SERVER, 20)) >= 0.06
        await at.link(both=LinkSpec())
        assert min(w for _, w, _ in await datagrams(at.host, at.server, SERVER, 20)) < 0.03


async def test_a_link_goes_down_and_up() -> None:
    async with bench() as at:
        with conversation(at) as (sock, _):
            assert says(sock, b"one")
            await at.forwarder.command(SetUp("w", False, "ab"))
            assert not says(sock, b"two", timeout=0.3)
            await at.forwarder.command(SetUp("w", True))
            assert says(sock, b"three")
        assert (await at.counters("ab"))["cut"] == 1


# --- NAT ----------------------------------------------------------------------------------------


@contextmanager
def conversation(at: Bench, ip: str = SERVER) -> Iterator[tuple[socket.socket, Program]]:
    """A UDP socket of the host, connected to an echo of the server."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with at.server.start(GAUGE, "echo", ip, "7") as program:
        with inside_netns(at.host.path):
            sock = socket.socket(family, socket.SOCK_DGRAM)
        with sock:
            sock.connect((ip, 7))
            yield sock, program


def says(sock: socket.socket, data: bytes, timeout: float = 5) -> bool:
    """Whether the echo answers."""
    sock.settimeout(timeout)
    sock.send(data)
    try:
        return sock.recv(65535) == data
    except TimeoutError:
        return False


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
            listener.settimeout(5)
            client.settimeout(5)
            client.connect((SERVER, 80))
            connection, source = listener.accept()
            with connection:
                assert source[0] == NAT
                connection.settimeout(5)
                client.send(b"before")
                assert connection.recv(100) == b"before"
                await at.forwarder.command(FlushNat("w"))
                client.send(b"after")
                connection.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    connection.recv(100)
        assert (await at.counters("nat"))["no-session"] > 0


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
            sock.settimeout(5)
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
        with trio.fail_after(5):
            while "no-mapping" not in await at.counters("nat"):
                await trio.sleep(0.01)


async def test_port_forwards() -> None:
    async with bench(NatSpec(port="random")) as at:
        forward = AddForward("w", "udp", 8000, HOST, 7)
        await at.forwarder.command(forward)
        with pytest.raises(ForwarderError, match="in use"):
            await at.forwarder.command(forward)
        with at.host.start(GAUGE, "echo", HOST, "7"):
            with inside_netns(at.server.path):
                caller = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with caller:
                caller.connect((NAT, 8000))
                assert says(caller, b"hello")
                await at.forwarder.command(RemoveForward("w", "udp", 8000))
                assert not says(caller, b"hello", timeout=0.3)


async def test_refused_connections_are_reset() -> None:
    async with bench(NatSpec(refuse_tcp="reset"), ab=LinkSpec(delay_s=0.01)) as at:
        with inside_netns(at.server.path):
            caller = socket.socket()
        with caller:
            caller.settimeout(5)
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
    async with bench() as at:
        assert devices(at.host) == {"lo", "host0"}
        os.kill(at.forwarder.pid, signal.SIGKILL)
        with pytest.raises(ForwarderError, match="has ended"):
            await at.forwarder.stats()
        with trio.fail_after(5):
            while devices(at.host) != {"lo"}:
                await trio.sleep(0.01)
        with pytest.raises(ForwarderError, match="has ended"):
            await at.forwarder.stats()


async def test_a_device_that_is_taken_away_is_reported() -> None:
    lost: list[DeviceLost] = []
    async with bench(on_lost=lost.append) as at:
        at.host.ip("link delete host0")
        with trio.fail_after(5):
            while not lost:
                await trio.sleep(0.01)
        assert (lost[0].name, lost[0].device) == ("w", "host0")
        await at.forwarder.command(RemoveWire("w"))
