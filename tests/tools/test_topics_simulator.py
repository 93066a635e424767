"""The simulator of topics in its short form: what arrives, and that it is the same again."""

from __future__ import annotations

from tools.bench.topics.network import TOPIC, TopicNetwork
from tools.bench.topics.scenarios import SCENARIOS, run_scenario


def figures(scenario, nodes=80, messages=6):
    name = scenario.name
    found = {m.case.name: m.value for m in run_scenario(scenario, nodes, messages, seed=3)}
    assert all(key.startswith(f"{name}-") and key.endswith(f"-{nodes}") for key in found)
    return {key.removeprefix(f"{name}-").removesuffix(f"-{nodes}"): v for key, v in found.items()}


def test_what_is_published_arrives_in_spite_of_churn_and_silent_members():
    for scenario in SCENARIOS:
        found = figures(scenario)
        assert found["delivered"] >= 99.9, (scenario.name, found)
        assert found["latency-p99"] < 1.0, (scenario.name, found)
        assert found["copies"] < 12, (scenario.name, found)


def test_the_same_seed_gives_the_same_figures():
    assert figures(SCENARIOS[1], 100, 2) == figures(SCENARIOS[1], 100, 2)


def test_who_has_gone_is_missed_by_those_it_was_linked_to():
    network = TopicNetwork(50, seed=5, session=1e9)
    network.run_until(5.0)
    node = next(iter(network.nodes.values()))
    others = list(node.links.values())
    assert others
    network._leave(node)
    network.run_until(30.0)
    for other in others:
        assert node.peer_id not in other.router.topics[TOPIC].peers
