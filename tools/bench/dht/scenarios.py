"""What is measured of simulated networks, and how it is shown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from lattica.dht.kademlia.contact import KEY_BITS
from lattica.dht.kademlia.lookup import Lookup
from tools.bench.cases import OURS, Case
from tools.bench.dht.attacks import place_sybils
from tools.bench.dht.lookups import Lookups, Provided, nothing
from tools.bench.dht.network import Network
from tools.bench.dht.nodes import SimNode
from tools.bench.dht.sweeping import run_sweep
from tools.bench.figures.stats import Measurement
from tools.bench.topics import scenarios as topics

HOUR = 3600.0
JOIN_AGAIN = 300.0
"""Seconds after which every node looks for itself again, as `upkeep.membership` has it."""
ASKERS = 40
"""Nodes that make all that is measured: they have been there for some minutes, and know something
of the size of the network."""
DRAWN = 8
"""Keys that each of them has drawn and looked up before."""
SECONDS = 20.0
"""Of virtual time in which the lookups begin, and the provides."""
ATTACKED = 25
"""Keys next to which there are Sybils."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of network; 20% of the nodes are behind NATs in all."""

    name: str
    what: str
    session: float = HOUR
    malicious: float = 0.0
    cut: float = 0.0
    """Share of all nodes that goes at once, just before."""
    sybils: int = 0
    """Next to each of at most :data:`ATTACKED` keys, which are what is looked up and provided."""
    groups: int | None = None
    """Networks that the Sybils of a key are in; None: each is in its own."""
    halves: bool = False
    """Two networks, which have heard of each other at three bootstrap peers ten minutes ago."""


SCENARIOS = (
    Scenario("nat", "all stay", session=math.inf),
    Scenario("churn", "sessions of an hour"),
    Scenario("malicious", "the same, a fifth of those that answer lie", malicious=0.2),
    Scenario("cut", "churn, just after a tenth of all nodes has gone at once", cut=0.1),
    Scenario(
        "sybils",
        "churn, and of each key 100 Sybils in networks of their own are nearest",
        sybils=100,
    ),
    Scenario(
        "sybils-few-groups",
        "churn, and of each key 100 Sybils in 4 networks are nearest",
        sybils=100,
        groups=4,
    ),
    Scenario(
        "eclipse",
        "churn, of each key 40 Sybils are nearest, and a fifth of all others that answer tell of "
        "nobody else there",
        malicious=0.2,
        sybils=40,
    ),
    Scenario("halves", "two halves that meet at three peers, ten minutes later", halves=True),
)
NAMES = (*(scenario.name for scenario in SCENARIOS), "growth", "sweep", "topics")
"""What `--case` takes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one lookup."""

    found_nearest: bool
    """The nearest honest node that was up is among those found."""
    overlap: float
    """Share of the nearest honest nodes that were up, as many as are looked for, that were found;
    where nobody lies, of all."""
    hops: int
    queries: int
    seconds: float


@dataclass(slots=True)
class Seen:
    """All that was seen of one network."""

    outcomes: list[Outcome] = field(default_factory=list)
    provided: list[Provided] = field(default_factory=list)
    found: list[tuple[bool, float]] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    """Estimates, as shares of the truth."""


def run_scenario(scenario: Scenario, nodes: int, lookups: int, seed: int) -> Iterator[Measurement]:
    """Run one network. The same arguments give the same figures."""
    network = Network(
        nodes,
        seed=seed,
        session=scenario.session,
        malicious=scenario.malicious,
        halves=scenario.halves,
    )
    ops = Lookups(network)
    network.on_join = ops.join
    rng = network.rng
    if scenario.halves:
        _meet(network, ops)
    askers = [network.any_node() for _ in range(min(ASKERS, max(lookups // 4, 4)))]
    for asker in askers:
        ops.warm_up(asker, DRAWN)
    network.run_until(network.now + SECONDS)
    attacked = min(ATTACKED, max(lookups // 4, 1)) if scenario.sybils else 0
    keys = [rng.getrandbits(KEY_BITS) for _ in range(attacked)]
    for key in keys:
        place_sybils(network, key, scenario.sybils, groups=scenario.groups)
    for key in rng.sample(sorted(network.nodes), int(nodes * scenario.cut)):
        network.switch_off(network.nodes[key])
    for node in network.nodes.values():
        node.served = 0
    began, messages = network.now, network.messages
    seen = _measure(network, ops, askers, keys, lookups)
    network.run_until(began + 4 * SECONDS + 40.0)
    truth = network.servers - attacked * scenario.sybils
    seen.sizes = [a.sizes.size.peers / truth for a in askers if a.sizes.size is not None]
    yield from _figures(scenario, nodes, lookups, seed, network, seen, network.messages - messages)


def _meet(network: Network, ops: Lookups) -> None:
    """Every node looks for itself again, twice, and knows three peers of all."""
    bootstrap = network.some_contacts(3)

    def look(node: SimNode) -> None:
        if node.is_up:
            ops.look_up(node, node.contact.key, nothing, seeds=bootstrap)

    for node in tuple(network.nodes.values()):
        first = network.rng.uniform(0.0, JOIN_AGAIN)
        for when in (first, first + JOIN_AGAIN):
            network.at(when, lambda node=node: look(node))  # type: ignore[misc]
    network.run_until(2 * JOIN_AGAIN)


def _measure(
    network: Network, ops: Lookups, askers: list[SimNode], keys: list[int], lookups: int
) -> Seen:
    """Begin lookups, and provides, each of which is looked for a minute later by another node."""
    seen = Seen()
    rng, began = network.rng, network.now

    def target() -> int:
        return rng.choice(keys) if keys else rng.getrandbits(KEY_BITS)

    def asker() -> SimNode:
        up = [node for node in askers if node.is_up]
        return rng.choice(up) if up else network.any_node()

    def look_up() -> None:
        _look_up(network, ops, asker(), target(), seen.outcomes)

    def provide(key: int) -> None:
        who = asker()
        ops.provide(who, key, seen.provided.append)
        when = network.now + 2 * SECONDS
        network.at(when, lambda: find(key, who))

    def find(key: int, provider: SimNode) -> None:
        who = asker()
        while who is provider:
            who = asker()
        ops.find(who, key, lambda is_found, seconds: seen.found.append((is_found, seconds)))

    for number in range(lookups):
        network.at(began + number * SECONDS / lookups, look_up)
    # A key that was provided is found by all, so each is provided once.
    provided = keys or [target() for _ in range(max(lookups // 4, 1))]
    for number, key in enumerate(provided):
        when = began + number * SECONDS / len(provided)
        network.at(when, lambda key=key: provide(key))  # type: ignore[misc]
    return seen


def _look_up(
    network: Network, ops: Lookups, node: SimNode, target: int, into: list[Outcome]
) -> None:
    """Look for `target`, and compare what is found with what there is at the end."""
    began = network.now

    def done(lookup: Lookup) -> None:
        found = {contact.key for contact in lookup.closest()}
        count = network.lookup_config.count
        near = network.nearest(target, count + 1, honest=True)
        honest = [key for key in near if key != node.contact.key][:count]
        into.append(
            Outcome(
                honest[0] in found,
                len(found.intersection(honest)) / len(honest),
                lookup.hops,
                lookup.queries,
                network.now - began,
            )
        )

    ops.look_up(node, target, done)


def _figures(
    scenario: Scenario,
    nodes: int,
    lookups: int,
    seed: int,
    network: Network,
    seen: Seen,
    messages: int,
) -> Iterator[Measurement]:
    servers = [
        node for node in network.nodes.values() if node.is_up and node.serves and not node.is_sybil
    ]
    tables = [
        len(node.table) for node in network.nodes.values() if node.is_up and not node.is_sybil
    ]
    served = [node.served for node in servers]
    stored = [len(node.stored) for node in servers]
    provided = len(seen.provided)
    ended = len(seen.outcomes)
    note = (
        f"{nodes} nodes, 20% behind NATs, {scenario.what}; {ended} of {lookups} lookups, "
        f"{provided} provides and {len(seen.found)} finds ended before who made them went; "
        f"seed {seed}"
    )
    seconds = [outcome.seconds for outcome in seen.outcomes]
    figures: tuple[tuple[str, str, str, float], ...] = (
        ("right", "%", "higher", 100 * _mean(o.found_nearest for o in seen.outcomes)),
        ("overlap", "%", "higher", 100 * _mean(o.overlap for o in seen.outcomes)),
        ("hops-p50", "hops", "lower", statistics.median(o.hops for o in seen.outcomes)),
        ("queries", "1/lookup", "lower", _mean(o.queries for o in seen.outcomes)),
        ("latency-p50", "s", "lower", _quantile(seconds, 0.5)),
        ("latency-p95", "s", "lower", _quantile(seconds, 0.95)),
        ("found", "%", "higher", 100 * _mean(is_found for is_found, _ in seen.found)),
        ("find-p50", "s", "lower", _quantile([took for _, took in seen.found], 0.5)),
        (
            "provide-p50",
            "s",
            "lower",
            _quantile([p.returned_at - p.began for p in seen.provided], 0.5),
        ),
        ("provide-ended-p50", "s", "lower", _quantile([p.took for p in seen.provided], 0.5)),
        ("holders-then", "peers", "higher", _mean(p.holders_then for p in seen.provided)),
        ("holders", "peers", "higher", _mean(p.holders for p in seen.provided)),
        ("size", "% of truth", "higher", 100 * statistics.median(seen.sizes)),
        ("messages", "1/operation", "lower", messages / (ended + provided + len(seen.found))),
        ("load-mean", "questions/node", "lower", _mean(served)),
        ("load-most", "questions/node", "lower", max(served)),
        ("stored-mean", "records/node", "lower", _mean(stored)),
        ("stored-most", "records/node", "lower", max(stored)),
        ("table", "peers", "lower", _mean(tables)),
    )
    for name, unit, better, value in figures:
        case = Case("dht", f"{scenario.name}-{name}-{nodes}", unit, better, scenario.what)  # type: ignore[arg-type]
        yield Measurement(case, OURS, float(value), (float(value),), note)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)] if values else math.inf


def run_all(
    nodes: int,
    lookups: int,
    seed: int,
    *,
    cases: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Measurement]:
    """Every scenario with `nodes`, churn with tenths of them down to a hundred, 100,000 provides,
    and a topic; or those whose names are in `cases`.

    Raises:
        ValueError: there is no such case.
    """
    if unknown := [case for case in cases if case not in NAMES]:
        raise ValueError(f"no case {unknown[0]!r} of dht; known: {', '.join(NAMES)}")
    wanted = cases or NAMES
    for scenario in SCENARIOS:
        if scenario.name in wanted:
            say(f"dht {scenario.name}: {nodes} nodes, {scenario.what}")
            yield from run_scenario(scenario, nodes, lookups, seed)
    if "growth" in wanted:
        fewer = nodes if cases else nodes // 10
        while fewer >= 100:
            say(f"dht growth: churn with {fewer} nodes")
            yield from run_scenario(SCENARIOS[1], fewer, lookups, seed)
            fewer //= 10
    if "sweep" in wanted:
        say(f"dht sweep: 100,000 keys, {nodes} nodes, with a restart in between")
        yield from run_sweep(nodes, 100_000, seed)
    if "topics" in wanted:
        members = min(nodes, 1000)
        say(f"dht topics: {members} members")
        yield from topics.run_scenario(topics.SCENARIOS[1], members, 100, seed)
