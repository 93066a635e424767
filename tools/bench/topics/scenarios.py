"""What is measured of a simulated topic, and how it is shown."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tools.bench.cases import OURS, Case
from tools.bench.figures.stats import Measurement
from tools.bench.topics.network import TopicNetwork

WARM_UP = 30.0
"""Seconds of virtual time before the first message."""
INTERVAL = 0.2
"""Between two messages."""
IN_TIME = 2.0
"""Seconds after which a message that has not arrived counts as lost."""
SIZE = 1024
"""Bytes of a message."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of topic."""

    name: str
    what: str
    session: float
    silent: float


SCENARIOS = (
    Scenario("calm", "all stay and pass messages on", math.inf, 0.0),
    Scenario("churn", "sessions of 10 minutes, a tenth silently passes nothing on", 600.0, 0.1),
)


def run_scenario(scenario: Scenario, nodes: int, messages: int, seed: int) -> Iterator[Measurement]:
    """Run one topic. The same arguments give the same figures."""
    network = TopicNetwork(
        nodes, seed=seed, session=min(scenario.session, 1e12), silent=scenario.silent
    )
    network.run_until(WARM_UP)
    before = network.control
    for number in range(messages):
        network.at(WARM_UP + number * INTERVAL, network.publish, SIZE)
    end = WARM_UP + messages * INTERVAL + 5.0
    network.run_until(end)
    expected = arrived = late = 0
    delays = []
    received = duplicates = 0
    for published in network.published:
        for peer_id in published.expected:
            node = network.nodes.get(peer_id)
            if node is None:
                continue  # gone since: nobody knows what it has heard
            expected += 1
            delay = published.delays.get(peer_id)
            if delay is not None:
                delays.append(delay)
                late += delay > IN_TIME
                arrived += delay <= IN_TIME
    for node in network.nodes.values():
        received += node.router.counters.delivered
        duplicates += node.router.counters.duplicates
    delays.sort()
    control = (network.control - before) / nodes / (end - WARM_UP)
    note = (
        f"{nodes} members, {scenario.what}; {messages} messages of {SIZE} B; {late} of {expected} "
        f"deliveries later than {IN_TIME:g} s, {expected - arrived - late} none; "
        f"control messages {control:.0f} B/s of each member; seed {seed}"
    )
    values = (
        ("delivered", "%", "higher", 100 * arrived / expected, "deliveries within 2 s"),
        ("latency-p50", "s", "lower", delays[len(delays) // 2], "from publisher to subscriber"),
        ("latency-p99", "s", "lower", delays[int(len(delays) * 0.99)], "the same"),
        ("copies", "1/message", "lower", 1 + duplicates / received, "that a member receives"),
    )
    for name, unit, better, value, what in values:
        title = f"{scenario.name}-{name}-{nodes}"
        case = Case("topics", title, unit, better, what)  # type: ignore[arg-type]
        yield Measurement(case, OURS, float(value), (float(value),), note)


def run_all(nodes: int, messages: int, seed: int) -> Iterator[Measurement]:
    """Every scenario."""
    for scenario in SCENARIOS:
        yield from run_scenario(scenario, nodes, messages, seed)
