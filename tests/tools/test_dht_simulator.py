"""The simulator of the DHT in its short form: what it finds, and that it finds the same again."""

from __future__ import annotations

from tools.bench.dht.network import Network
from tools.bench.dht.scenarios import SCENARIOS, run_scenario


def figures(scenario, nodes=200, lookups=60):
    name = scenario.name
    found = {m.case.name: m.value for m in run_scenario(scenario, nodes, lookups, seed=3)}
    assert all(key.startswith(f"{name}-") and key.endswith(f"-{nodes}") for key in found)
    return {key.removeprefix(f"{name}-").removesuffix(f"-{nodes}"): v for key, v in found.items()}


def test_lookups_find_the_nearest_under_churn_liars_and_a_cut():
    for scenario in SCENARIOS:
        found = figures(scenario)
        assert found["right"] >= 95.0, (scenario.name, found)
        assert found["overlap"] >= 75.0, (scenario.name, found)
        assert found["hops-p50"] <= 5, (scenario.name, found)
        assert found["queries"] <= 60, (scenario.name, found)


def test_the_same_seed_gives_the_same_figures():
    assert figures(SCENARIOS[0], 100, 20) == figures(SCENARIOS[0], 100, 20)


def test_the_truth_that_is_compared_with_is_the_truth():
    network = Network(300, seed=5)
    for target in (0, 2**255, network.rng.getrandbits(256)):
        up = [n.contact.key for n in network.nodes.values() if n.serves]
        assert network.nearest(target, 20) == sorted(up, key=lambda key: key ^ target)[:20]


def test_who_is_switched_off_is_missed_by_those_connected_to_it():
    network = Network(100, seed=6)
    node = next(n for n in network.nodes.values() if n.serves and n.connections)
    friends = list(node.connections.values())
    assert any(node.contact.key in friend.table for friend in friends)
    network.switch_off(node)
    network.run_until(60.0)
    assert not any(node.contact.key in friend.table for friend in friends)
