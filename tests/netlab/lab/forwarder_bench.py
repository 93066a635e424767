"""A host and a server in namespaces of their own, with a wire of a forwarder between them."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from tests.netlab.holders import Holder, Program, namespaces, require_root
from tools.netlab.lab.netns import wait_for_ipv6, without_ipv6
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.nat import NatSpec
from tools.netlab.spec.wire import AddWire, EndSpec, SetLink, WireSpec
from tools.netlab.wire.forwarder_client import DeviceLost, ForwarderClient, open_forwarder
from tools.netlab.wire.tun import inside_netns

GAUGE = "tests/netlab/lab/gauge.py"
HOST, HOST6 = "10.0.0.1", "fd00::1"
SERVER, SERVER6 = "10.9.9.1", "fd09::1"
NAT = "10.9.0.1"
PERFECT = LinkSpec()
MEASUREMENTS = 20


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
        for end in host, server:
            with inside_netns(end.path):  # so that nobody sends but the test
                Path("/proc/sys/net/ipv6/conf/default/accept_ra").write_text("0")
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
            await heard(host, server)
            yield Bench(host, server, forwarder)


async def heard(*ends: Holder) -> None:
    """Wait until these hear what comes over IPv6."""

    def look(end: Holder) -> set[str]:
        with inside_netns(end.path):
            return without_ipv6()

    await wait_for_ipv6(partial(look, end) for end in ends)


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


async def settled(measure: Callable[[], Awaitable[None]]) -> None:
    """Measure until its assertions hold, a few times: other work on the machine disturbs."""
    for _ in range(MEASUREMENTS - 1):
        try:
            await measure()
        except AssertionError:
            continue
        return
    await measure()


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


def says(sock: socket.socket, data: bytes, timeout: float = 60) -> bool:
    """Whether the echo answers."""
    sock.settimeout(timeout)
    sock.send(data)
    try:
        return sock.recv(65535) == data
    except TimeoutError:
        return False
