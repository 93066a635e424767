"""Many provides in a simulated network, region by region, by the real core; with a restart."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from lattica.dht.client.providing.sweep import Sweep
from lattica.dht.kademlia.contact import key_of
from lattica.dht.kademlia.lookup import Lookup
from lattica.dht.store.rows import Row, RowId
from lattica.dht.upkeep.own import OwnRecords
from lattica.nat.base.keys.peer_id import PeerId
from tools.bench.cases import OURS, Case
from tools.bench.dht.lookups import Lookups
from tools.bench.dht.network import Network
from tools.bench.dht.nodes import SimNode
from tools.bench.figures.stats import Measurement

_INTERVAL = 22 * 3600.0
_MOST_SECONDS = 600.0
"""For one lookup; none takes so long."""


@dataclass(slots=True)
class _File:
    """The rows of a node, which outlive it."""

    changed_rows: set[RowId] = field(default_factory=set)
    rows: dict[RowId, Row] = field(default_factory=dict)

    def changed(self, row_id: RowId) -> None:
        self.changed_rows.add(row_id)

    def write(self, own: OwnRecords) -> None:
        for row_id in self.changed_rows:
            row = own.row(row_id)
            if row is not None:
                self.rows[row_id] = row
        self.changed_rows.clear()


@dataclass(slots=True)
class Swept:
    """What came of a sweep."""

    lookups: int
    given: Counter[bytes]
    """Peers that each key was given to."""
    right: float
    """Share of those peers that are among the key's nearest."""


def sweep(nodes: int, keys: int, seed: int, *, restart_at: float = 0.5) -> Swept:
    """Announce so many keys again that are due; the node is killed when it has come to
    `restart_at` of them, and goes on by what is in its file.
    """
    network = Network(nodes, seed=seed)
    ops = Lookups(network)
    rng = network.rng
    node = network.any_node()
    ops.warm_up(node, 8)
    network.run_until(20.0)
    me = PeerId(b"\x12\x20" + bytes(32))
    file = _File()
    own = OwnRecords(me, file)
    own.provides((rng.randbytes(34) for _ in range(keys)), 0.0)
    file.write(own)
    given: Counter[bytes] = Counter()
    lookups = 0
    right: list[float] = []
    count = network.lookup_config.count
    killed_after = int(keys * restart_at)
    while due := own.provided_due(_INTERVAL, 2 * _INTERVAL):
        core = Sweep(due, count, node.sizes.is_crowded)
        while (key := core.next_key()) is not None:
            lookup = _look_up(network, ops, node, key_of(key))
            found = lookup.closest()
            ready = core.learned(key, found, are_all=lookup.has_heard_all)
            for other, nearest in ready.items():
                given[other] += len(nearest)
                if len(given) % 50 == 0:
                    truth = set(network.nearest(key_of(other), count + 1)) - {node.contact.key}
                    right.append(_mean_in([c.key for c in nearest], truth))
                own.provides([other], 2 * _INTERVAL)
            file.write(own)
            if killed_after and len(given) >= killed_after:
                killed_after = 0
                break
        lookups += core.lookups
        own = OwnRecords(me, file)
        for row in file.rows.values():
            own.load(row, 2 * _INTERVAL)
    return Swept(lookups, given, statistics.mean(right))


def _mean_in(found: list[int], truth: set[int]) -> float:
    return sum(key in truth for key in found) / len(found)


def _look_up(network: Network, ops: Lookups, node: SimNode, target: int) -> Lookup:
    ended: list[Lookup] = []
    ops.look_up(node, target, ended.append, patient=True)
    network.run_while(lambda: not ended, network.now + _MOST_SECONDS)
    return ended[0]


def run_sweep(nodes: int, keys: int, seed: int) -> Iterator[Measurement]:
    """The figures of one sweep."""
    swept = sweep(nodes, keys, seed)
    what = "announced again region by region, with a restart at half of them"
    note = (
        f"{keys} keys, {nodes} nodes, 20% behind NATs; each given to "
        f"{statistics.mean(swept.given.values()):.1f} peers, {min(swept.given.values())} at least; "
        f"seed {seed}"
    )
    for name, unit, better, value in (
        ("lookups", "lookups", "lower", float(swept.lookups)),
        ("keys", "keys", "higher", float(len(swept.given))),
        ("nearest", "%", "higher", 100 * swept.right),
    ):
        case = Case("dht", f"sweep-{name}-{nodes}", unit, better, what)  # type: ignore[arg-type]
        yield Measurement(case, OURS, value, (value,), note)
