"""Chaos: random faults over a mesh of nodes, and what must hold all the same.

The mesh and the faults are a function of the seed: the same seed, length and size give the same
scenario. What the programs make of it depends on the machine's timing, too.

Invariants, checked at the end, some time after the last fault has healed:

* No node has crashed, or written a traceback. (Those that a fault kills are started again.)
* What a node says of its connections makes sense: none is lost that was not there, or made twice.
* Both ends agree about who is connected: nobody believes in a connection that is dead.
* A newcomer reaches every node that has a public address.
* No node has grown out of bounds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tools.netlab.runs.jobs import Job
from tools.netlab.runs.runner import Run
from tools.netlab.spec.fault import (
    AddressChange,
    ClockSkew,
    Fault,
    Kill,
    LinkChange,
    LinkDown,
    NatReboot,
    Partition,
    Pause,
)
from tools.netlab.spec.link import BurstLoss, LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.topology import INTERNET, Host, Link, Node, Relay, Router
from tools.netlab.spec.workload import NodeProgram

HUBS = ("hub-1", "hub-2")
FIRST_FAULT_AFTER = 2.0
"""Seconds until the first fault, once the mesh stands: the timeline waits for that."""
QUIET = 20.0
"""Seconds from the last fault to the judgement: a dead peer must be noticed within 15 s."""
MEAN_GAP = 6.0
"""Seconds between two faults."""
LONGEST_FAULT = 12.0
"""Seconds."""
MAX_RSS = 512 << 20
MAX_FILES = 512
NATS = (
    "full-cone",
    "restricted-cone",
    "port-restricted",
    "linux-masquerade",
    "symmetric-random",
    "cgnat",
)


def mesh(
    seed: int,
    minutes: float,
    nodes: int,
    *,
    start_s: float = FIRST_FAULT_AFTER,
    quiet_s: float = QUIET,
    mean_gap_s: float = MEAN_GAP,
) -> Scenario:
    """The scenario for a seed.

    nodes: beside the two hubs; a third of them are public. start_s: from when the timeline begins
    to its faults; before the first it waits until the mesh stands. mean_gap_s: between faults.
    quiet_s: from the last one to the judgement.
    """
    rng = random.Random(seed)
    hosts, routers, programs = [], [], []
    public = [*HUBS]
    for number in range(1, nodes + 1):
        name = f"node-{number}"
        behind = INTERNET
        if number % 3:
            behind = f"nat-{number}"
            routers.append(Router(behind, nat=NAMES[rng.choice(NATS)], link=_link(rng)))
        else:
            public.append(name)
        hosts.append(Host(name, behind=behind, link=_link(rng)))
        programs.append(NodeProgram(name, name, connect=HUBS, stays=False, timeout_s=30))
    end = start_s + minutes * 60
    faults = tuple(_faults(rng, start_s, end, mean_gap_s, hosts, routers))
    hosts.append(Host("newcomer"))
    programs.append(
        NodeProgram("newcomer", "newcomer", connect=tuple(public), at_s=end + quiet_s, timeout_s=30)
    )
    return Scenario(
        name=f"chaos-{seed}",
        about=f"random faults over {nodes + len(HUBS)} nodes for {minutes:g} minutes",
        hosts=tuple(hosts),
        routers=tuple(routers),
        relays=tuple(Relay(name) for name in HUBS),
        programs=tuple(programs),
        faults=faults,
        duration_s=end + quiet_s + 300,
        seed=seed,
    )


def _link(rng: random.Random) -> Link:
    """Some links are perfect, some are slow, some lose packets."""
    kind = rng.randrange(3)
    if kind == 0:
        return Link()
    delay = round(rng.uniform(0.002, 0.080), 4)
    if kind == 1:
        rate = round(rng.uniform(5e6, 200e6))
        return Link(LinkSpec(delay_s=delay, rate_bps=rate), LinkSpec(delay_s=delay, rate_bps=rate))
    bad = LinkSpec(
        delay_s=delay,
        jitter_s=round(delay * 0.3, 4),
        loss=0.005,
        burst=BurstLoss(enter=0.001, leave=0.25),
    )
    return Link(bad, bad)


def _faults(
    rng: random.Random,
    start: float,
    end: float,
    mean_gap: float,
    hosts: list[Host],
    routers: list[Router],
) -> Iterator[Fault]:
    """Faults that are over before `end`; of those that concern the same thing none overlap."""
    busy: dict[str, float] = {}
    nodes: list[Node] = [*hosts, *routers]
    programs = [*HUBS, *(host.name for host in hosts)]
    outside = [node.name for node in nodes if node.behind == INTERNET]
    t = start
    while True:
        t = round(t + rng.expovariate(1 / mean_gap), 2)
        if t >= end:
            return
        for_s = round(min(rng.uniform(0.5, LONGEST_FAULT), max(0.1, end - t)), 2)
        kind = rng.choice(
            ("link-down", "link-change", "nat-reboot", "address", "kill", "pause", "cut", "skew")
        )
        node = rng.choice(nodes).name
        program = rng.choice(programs)
        router = rng.choice(routers).name if routers else ""
        link = _link(rng)
        sides = list(outside)
        rng.shuffle(sides)
        offset = round(rng.uniform(-86400, 86400), 1)
        fault: Fault
        # Everything random has been drawn: what is left out does not change what follows.
        if kind == "link-down":
            subject, fault = node, LinkDown(t, node, for_s)
        elif kind == "link-change":
            subject, fault = node, LinkChange(t, node, link, for_s)
        elif kind == "nat-reboot" and router:
            subject, fault = router, NatReboot(t, router, for_s)
        elif kind == "address" and router:
            subject, fault = router, AddressChange(t, router)
        elif kind == "kill":
            subject, fault = f"program {program}", Kill(t, program, for_s)
        elif kind == "pause":
            subject, fault = f"program {program}", Pause(t, program, for_s)
        elif kind == "cut":
            half = len(sides) // 2
            groups = ((HUBS[0], *sides[:half]), (HUBS[1], *sides[half:]))
            subject, fault = "the core", Partition(t, groups, for_s)
        else:
            subject, fault = f"clock {program}", ClockSkew(t, program, offset)
        if busy.get(subject, 0.0) <= t:
            busy[subject] = t + for_s
            yield fault


def judge(run: Run) -> list[str]:
    """What is wrong at the end; empty if all invariants hold."""
    nodes = [job for job in run.jobs.values() if job.name != "newcomer"]
    found = [text for job in nodes for text in _health(job)]
    for job in nodes:
        for other in sorted(run.mesh.neighbours(job.name)):
            # The newcomer is about to be judged by its own success.
            is_node = other in run.jobs and other != "newcomer"
            if is_node and not run.mesh.is_mutual(job.name, other):
                found.append(f"{job.name} believes in a connection to {other}, which has none")
    return found


def _health(job: Job) -> Iterator[str]:
    running = job.running
    if running is None:
        return
    if running.process.status is not None:
        yield f"{job.name} ended with status {running.process.status}{running.last_words()}"
        return
    if "Traceback (most recent call last)" in running.stderr():
        yield f"{job.name} wrote a traceback{running.last_words()}"
    rss, files = usage(running.process.pid)
    if rss > MAX_RSS:
        yield f"{job.name} takes {rss >> 20} MiB of memory"
    if files > MAX_FILES:
        yield f"{job.name} has {files} files open"


def usage(pid: int) -> tuple[int, int]:
    """A process's resident memory in bytes, and its open files; zeros if it has gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * 4096, sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0, 0
