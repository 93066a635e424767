"""The scenario: two homes, two relays, a counter behind the one and its caller behind the other,
and faults that follow from a seed.

Every fault changes the path between the two, or ends a program: from relayed to direct and back,
QUIC that migrates to another address or port, another network, SIGKILL of server, caller or relay.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tools.netlab.calls import ledger
from tools.netlab.calls.ledger import Tally
from tools.netlab.runs.runner import Run
from tools.netlab.spec.fault import AddressChange, Fault, Handover, Kill, LinkDown, NatReboot
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.topology import Host, Link, Relay, Router
from tools.netlab.spec.workload import CommandProgram
from tools.netlab.wire.forwarder_client import PROJECT

SERVER, CALLER = "server", "caller"
RELAYS = ("relay-1", "relay-2")
HOMES = ("home-a", "home-b")
FIRST_FAULT = 8.0
"""Seconds of the timeline, which waits there until the first call was answered."""
MEAN_GAP = 5.0
"""Seconds between two faults."""
QUIET = 10.0
"""Seconds before the last call without a fault."""
SPARE = 240.0
"""Seconds that the calls may take longer than planned."""
_LINE = LinkSpec(delay_s=0.005)
LINE = Link(_LINE, _LINE)


def scenario(
    seed: int, calls: int, seconds: float, faults: tuple[Fault, ...] | None = None
) -> Scenario:
    """`calls` over `seconds`; with the faults of `seed`, or these."""
    if faults is None:
        faults = tuple(_faults(random.Random(seed), seconds - QUIET))
    relays = tuple(f"{{addr:{name}}}" for name in RELAYS)
    env = (("PYTHONPATH", str(PROJECT)),)
    module = ("{python}", "-m", "tools.netlab.calls.programs")
    return Scenario(
        name=f"calls-{seed}",
        about=f"{calls} calls of a counter, {len(faults)} faults in {seconds:g} s",
        hosts=(
            Host("alice", behind=HOMES[0], link=LINE),
            Host("bob", behind=HOMES[1], link=LINE, standby="carrier", standby_link=LINE),
        ),
        routers=(
            *(Router(name, nat=NAMES["port-restricted"], link=LINE) for name in HOMES),
            Router("carrier", nat=NAMES["cgnat"], link=LINE),
        ),
        relays=tuple(Relay(name, link=LINE) for name in RELAYS),
        programs=(
            CommandProgram(
                SERVER,
                "alice",
                (*module, "serve", *relays),
                exit_code=None,
                ready="ready",
                after=RELAYS,
                env=env,
            ),
            CommandProgram(
                CALLER,
                "bob",
                (*module, "call", str(calls), f"{seconds:g}", *relays),
                ready="ready",
                after=(SERVER, *RELAYS),
                timeout_s=seconds + SPARE,
                env=env,
            ),
        ),
        faults=faults,
        duration_s=seconds + SPARE + 60,
        seed=seed,
    )


def _faults(rng: random.Random, end: float) -> Iterator[Fault]:
    """Faults that are over before `end`; of those that concern the same thing none overlap."""
    busy: dict[str, float] = {}
    t = FIRST_FAULT
    while t < end:
        for_s = round(min(rng.uniform(0.5, 4.0), end - t + 0.1), 2)
        # Longer than calls wait for their peer to come back.
        long_s = round(rng.uniform(11.0, 14.0), 2)
        home, relay = rng.choice(HOMES), rng.choice(RELAYS)
        host = rng.choice(("alice", "bob"))
        kind = rng.choice(
            ("server", "caller", "relay", "nat", "reboot", "address", "link", "cut", "handover")
        )
        made: dict[str, tuple[str, Fault]] = {
            "server": (SERVER, Kill(t, SERVER, for_s)),
            "caller": (CALLER, Kill(t, CALLER, for_s)),
            "relay": ("relay", Kill(t, relay, for_s)),
            "nat": (home, NatReboot(t, home)),
            "reboot": (home, NatReboot(t, home, for_s)),
            "address": (home, AddressChange(t, home)),
            "link": (host, LinkDown(t, host, for_s)),
            "cut": (host, LinkDown(t, host, long_s)),
            "handover": ("bob", Handover(t, "bob")),
        }
        subject, fault = made[kind]
        lasts = long_s if kind == "cut" else for_s
        if busy.get(subject, 0.0) <= t and t + lasts < end:
            busy[subject] = t + lasts + 0.5
            yield fault
        t = round(t + max(0.3, rng.expovariate(1 / MEAN_GAP)), 2)


class Judge:
    """Says what is wrong at the end of a run, and keeps the counts."""

    def __init__(self) -> None:
        self.tally: Tally | None = None

    def __call__(self, run: Run) -> list[str]:
        caller, server = run.jobs[CALLER], run.jobs[SERVER]
        self.tally, complaints = ledger.read(caller.folder, server.folder)
        for job in (caller, server):
            if job.running is not None and "Traceback (most recent" in job.running.stderr():
                complaints.append(f"{job.name} wrote a traceback{job.running.last_words()}")
        return complaints
