"""The mesh of a soak and its faults: a function of the seed.

One member is public, the others are at home behind NATs; guests come and go, and one of the relays
does. Those that are watched are never ended: what they hold must stay.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tools.netlab.spec.fault import AddressChange, Fault, Kill, LinkDown, NatReboot, lasts
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.topology import Host, Link, Relay, Router
from tools.netlab.spec.workload import CommandProgram
from tools.netlab.wire.forwarder_client import PROJECT

ANCHOR = "anchor"
STEADY_RELAY, RELAYS = "relay-1", ("relay-1", "relay-2")
NATS = ("port-restricted", "full-cone", "symmetric-random", "cgnat")
FIRST_FAULT = 2.0
"""Seconds from when all programs run."""
MEAN_GAP = 6.0
"""Seconds between two faults."""
QUIET = 3.0
"""Seconds without a fault at the end."""
_LINE = LinkSpec(delay_s=0.005)
LINE = Link(_LINE, _LINE)


def members(homes: int) -> tuple[str, ...]:
    """Those that stay: the public one, and one in each home."""
    return (ANCHOR, *(f"home-{number}" for number in range(1, homes + 1)))


def guests(count: int) -> tuple[str, ...]:
    return tuple(f"guest-{number}" for number in range(1, count + 1))


def watched(homes: int) -> tuple[str, ...]:
    """Programs whose memory, files and tasks are judged."""
    return (STEADY_RELAY, *members(homes))


def scenario(
    seed: int, seconds: float, homes: int, guest_count: int, mean_gap: float = MEAN_GAP
) -> Scenario:
    """A soak of `seconds` from when all programs run, with `guest_count` guests that are public."""
    names = (*members(homes), *guests(guest_count))
    routers = tuple(
        Router(f"nat-{number}", nat=NAMES[NATS[(number - 1) % len(NATS)]], link=LINE)
        for number in range(1, homes + 1)
    )
    behind = {f"home-{number}": f"nat-{number}" for number in range(1, homes + 1)}
    hosts = tuple(
        Host(name, behind=behind[name], link=LINE) if name in behind else Host(name, link=LINE)
        for name in names
    )
    module = ("{python}", "-m", "tools.soak.member")
    relays = tuple(f"{{addr:{name}}}" for name in RELAYS)
    faults = tuple(_faults(random.Random(seed), seconds - QUIET, homes, guest_count, mean_gap))
    last = max((fault.at_s + (lasts(fault) or 0.0) for fault in faults), default=0.0)
    return Scenario(
        name=f"soak-{seed}",
        about=f"{len(names)} nodes and {len(RELAYS)} relays, {len(faults)} faults in {seconds:g} s",
        hosts=hosts,
        routers=routers,
        relays=tuple(Relay(name, link=LINE) for name in RELAYS),
        programs=tuple(
            CommandProgram(
                name,
                name,
                (*module, name, ",".join(other for other in names if other != name), *relays),
                exit_code=None,
                ready="ready",
                after=RELAYS,
                env=(("PYTHONPATH", str(PROJECT)),),
            )
            for name in names
        ),
        faults=faults,
        duration_s=seconds + 300,
        settle_s=max(QUIET, seconds - last),
        seed=seed,
    )


def _faults(
    rng: random.Random, end: float, homes: int, guest_count: int, mean_gap: float
) -> Iterator[Fault]:
    """Faults that are over before `end`; of those that concern the same thing none overlap."""
    busy: dict[str, float] = {}
    t = FIRST_FAULT
    while t < end:
        for_s = round(min(rng.uniform(1.0, 6.0), max(0.5, end - t)), 2)
        home = f"nat-{rng.randint(1, homes)}"
        guest = f"guest-{rng.randint(1, guest_count)}"
        kind = rng.choice(("guest", "guest", "relay", "reboot", "address", "link"))
        made: dict[str, tuple[str, Fault]] = {
            "guest": (guest, Kill(t, guest, for_s)),
            "relay": (RELAYS[1], Kill(t, RELAYS[1], for_s)),
            "reboot": (home, NatReboot(t, home, for_s / 4)),
            "address": (home, AddressChange(t, home)),
            "link": (home, LinkDown(t, home, for_s)),
        }
        subject, fault = made[kind]
        if busy.get(subject, 0.0) <= t:
            # One that has just been started again is to have its turn.
            busy[subject] = t + for_s + mean_gap / 2
            yield fault
        t = round(t + max(0.3, rng.expovariate(1 / mean_gap)), 2)
