"""The simulator of the DHT in its short form: what it finds, and that it finds the same again."""

from __future__ import annotations

import pytest

from tools.bench.dht.network import Network
from tools.bench.dht.scenarios import SCENARIOS, run_all, run_scenario
from tools.bench.dht.sweeping import sweep

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def figures(name, nodes=120, lookups=32):
    found = {m.case.name: m.value for m in run_scenario(BY_NAME[name], nodes, lookups, seed=3)}
    assert all(key.startswith(f"{name}-") and key.endswith(f"-{nodes}") for key in found)
    return {key.removeprefix(f"{name}-").removesuffix(f"-{nodes}"): v for key, v in found.items()}


@pytest.mark.parametrize("name", ["nat", "churn", "malicious", "cut", "halves"])
def test_lookups_find_the_nearest_and_records_are_found(name):
    found = figures(name)
    assert found["right"] >= 95.0, found
    assert found["overlap"] >= 75.0, found
    assert found["hops-p50"] <= 5, found
    assert found["queries"] <= 60, found
    assert found["found"] == 100.0, found
    assert found["provide-p50"] <= found["provide-ended-p50"], found
    assert 5 <= found["holders-then"] <= found["holders"], found
    assert 70 <= found["size"] <= 130, found
    assert found["load-most"] >= found["load-mean"] > 0, found
    assert found["stored-most"] >= found["stored-mean"] > 0, found
    assert found["table"] > 20, found


@pytest.mark.parametrize("name", ["sybils", "sybils-few-groups", "eclipse"])
def test_records_are_found_behind_sybils(name):
    found = figures(name, lookups=16)
    assert found["found"] == 100.0, found
    assert found["right"] >= 75.0, found


def test_the_same_seed_gives_the_same_figures():
    assert figures("churn", 60, 8) == figures("churn", 60, 8)


def test_a_sweep_goes_on_after_a_restart_and_takes_few_lookups():
    swept = sweep(150, 1200, 4)
    assert len(swept.given) == 1200
    assert swept.lookups <= 30
    assert min(swept.given.values()) >= 18
    # What was announced before the restart is not announced again.
    assert max(swept.given.values()) <= 25
    assert swept.right >= 0.9


def test_cases_are_chosen_by_name():
    names = {m.case.name.split("-")[0] for m in run_all(40, 4, 1, cases=("nat", "cut"))}
    assert names == {"nat", "cut"}
    with pytest.raises(ValueError, match="known: nat, churn"):
        list(run_all(100, 4, 1, cases=("nothing",)))


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
