"""Programs of the NAT tests: a relay's STUN responder, and a node that looks at its NAT.

python stun_programs.py respond ADDRESS PORT PORT...
python stun_programs.py probe ADDRESS:PORT...
python stun_programs.py lifetime ADDRESS:PORT LONGEST PRECISION IDLE...
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from enum import Enum
from typing import Any

import trio
import trio.testing

from lattica.nat.base.keys.identity import Identity
from lattica.nat.config import SwarmConfig
from lattica.nat.swarm.addresses.nat_report import NatReport
from lattica.nat.swarm.events import NetworkChanged
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.network.monitor import NetworkMonitor, NetworkMonitorConfig
from lattica.nat.traversal.stun.behaviour import Responder
from lattica.nat.traversal.stun.lifetime import measure_mapping_lifetime
from lattica.nat.traversal.stun.prober import NatProber
from lattica.nat.traversal.stun.responder import StunResponder


def say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def plain(report: NatReport) -> dict[str, Any]:
    fields = asdict(report)
    return {name: each.value if isinstance(each, Enum) else each for name, each in fields.items()}


def swarm_on(*addresses: str) -> Swarm:
    listen = tuple(f"/ip4/{address.replace(':', '/udp/')}/quic-v1/noise" for address in addresses)
    return Swarm(Identity.generate(), SwarmConfig(listen=listen))


def responder(text: str) -> Responder:
    host, _, port = text.rpartition(":")
    return Responder(host, int(port))


async def respond(address: str, *ports: str) -> None:
    swarm = swarm_on(*(f"{address}:{port}" for port in ports))
    async with trio.open_nursery() as nursery:
        await nursery.start(swarm.run)
        nursery.start_soon(StunResponder(swarm).run)
        await trio.testing.wait_all_tasks_blocked()
        say(event="ready")


async def probe(*responders: str) -> None:
    swarm = swarm_on("0.0.0.0:4001")
    prober = NatProber(swarm, lambda: [responder(each) for each in responders])
    async with trio.open_nursery() as nursery:
        await nursery.start(swarm.run)
        nursery.start_soon(prober.run)
        report = await prober.measured()
        observed = [str(addr) for addr in swarm.own_addresses.get("observed")]
        say(event="report", observed=observed, **plain(report))
        nursery.cancel_scope.cancel()


async def watch() -> None:
    """Looks when the kernel tells it to, and hardly ever on its own."""
    swarm = swarm_on()
    config = NetworkMonitorConfig(full_poll=3600.0)
    with swarm.events.subscribe() as events:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(NetworkMonitor(swarm.events, config).run)
            await trio.testing.wait_all_tasks_blocked()
            say(event="ready")
            async for event in events:
                if isinstance(event, NetworkChanged):
                    say(event="changed", reason=event.reason)


async def lifetime(server: str, longest: str, precision: str, *idle_times: str) -> None:
    found = await measure_mapping_lifetime(
        responder(server).endpoint,
        "0.0.0.0",
        precision=float(precision),
        longest=float(longest),
        ladder=[float(idle) for idle in idle_times],
    )
    say(event="lifetime", **asdict(found))


PROGRAMS: dict[str, Callable[..., Awaitable[None]]] = {
    "respond": respond,
    "probe": probe,
    "watch": watch,
    "lifetime": lifetime,
}

if __name__ == "__main__":
    trio.run(PROGRAMS[sys.argv[1]], *sys.argv[2:])
