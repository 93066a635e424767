"""What is measured of a simulated network, and how it is shown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from lattica.dht.kademlia.contact import KEY_BITS
from tools.bench.cases import OURS, Case
from tools.bench.dht.network import Network, Outcome
from tools.bench.stats import Measurement

HOUR = 3600.0
SECONDS = 20.0
"""Of virtual time in which the lookups begin."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of network. `cut` is the share of all nodes that goes at once, just before."""

    name: str
    what: str
    session: float = HOUR
    malicious: float = 0.0
    cut: float = 0.0


SCENARIOS = (
    Scenario("churn", "sessions of an hour"),
    Scenario("malicious", "the same, a fifth of those that answer lie", malicious=0.2),
    Scenario("cut", "the same, just after a tenth of all nodes has gone at once", cut=0.1),
)


def run_scenario(scenario: Scenario, nodes: int, lookups: int, seed: int) -> Iterator[Measurement]:
    """Run one network. The same arguments give the same figures."""
    network = Network(nodes, seed=seed, session=scenario.session, malicious=scenario.malicious)
    rng = network.rng
    for key in rng.sample(sorted(network.nodes), int(nodes * scenario.cut)):
        network.switch_off(network.nodes[key])
    outcomes: list[Outcome] = []

    def begin() -> None:
        network.measured(network.any_node(), rng.getrandbits(KEY_BITS), outcomes)

    for number in range(lookups):
        network.at(number * SECONDS / lookups, begin)
    network.run_until(SECONDS + 40.0)
    up = [node for node in network.nodes.values() if node.is_up]
    sizes = [len(node.table) for node in up]
    served = [node.served for node in up if node.serves]
    note = (
        f"{nodes} nodes, 20% behind NATs, {scenario.what}; {len(outcomes)} of {lookups} lookups "
        f"ended before who made them went; tables of {statistics.mean(sizes):.0f} peers; questions "
        f"to a node: mean {statistics.mean(served):.1f}, most {max(served)}; "
        f"{network.messages} messages in all; seed {seed}"
    )
    seconds = sorted(outcome.seconds for outcome in outcomes)
    hops = [outcome.hops for outcome in outcomes]
    figures = (
        ("right", "%", "higher", 100 * sum(o.found_nearest for o in outcomes) / len(outcomes)),
        ("overlap", "%", "higher", 100 * sum(o.overlap for o in outcomes) / len(outcomes)),
        ("hops-p50", "hops", "lower", statistics.median(hops)),
        ("queries", "1/lookup", "lower", statistics.mean(o.queries for o in outcomes)),
        ("latency-p50", "s", "lower", seconds[len(seconds) // 2]),
        ("latency-p95", "s", "lower", seconds[len(seconds) * 19 // 20]),
    )
    for name, unit, better, value in figures:
        case = Case("dht", f"{scenario.name}-{name}-{nodes}", unit, better, scenario.what)  # type: ignore[arg-type]
        yield Measurement(case, OURS, float(value), (float(value),), note)


def run_all(nodes: int, lookups: int, seed: int) -> Iterator[Measurement]:
    """Every scenario with `nodes`, and churn with tenths of them down to a hundred."""
    for scenario in SCENARIOS:
        yield from run_scenario(scenario, nodes, lookups, seed)
    while (nodes := nodes // 10) >= 100:
        yield from run_scenario(SCENARIOS[0], nodes, lookups, seed)
