"""Shared places, with sources that come, progress, idle and leave as they like."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from lattica.nat.base.limits.places import Held, Places, Source, yielding

LIMIT = 6
IDLE, UNPROVEN = 10.0, 2.0


class Sharing(RuleBasedStateMachine):
    """Beside everybody else there is one honest peer in a network of its own, which has one place
    and makes progress in time."""

    holders = Bundle("holders")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.number = 0
        self.places = Places[object](LIMIT, idle_after=IDLE, unproven_after=UNPROVEN)
        self.held: dict[object, Source] = {}
        assert self._enter("honest", Source("honest", "home")) == []
        self.places.progress("honest", self.now)

    def _enter(self, holder: object, source: Source) -> list[object] | None:
        dropped = self.places.enter(holder, source, self.now)
        if dropped is not None:
            for other in dropped:
                del self.held[other]
            self.held[holder] = source
        return dropped

    def _share(self, network: object) -> int:
        return sum(source.network == network for source in self.held.values())

    @rule(target=holders, peer=st.integers(0, 3), network=st.sampled_from(["one", "two", "three"]))
    def come(self, peer: int, network: str) -> int:
        self.number += 1
        source = Source(peer, network)
        full = len(self.held) >= LIMIT
        shares = {name: self._share(name) for name in ("home", "one", "two", "three")}
        dropped = self._enter(self.number, source)
        if not full:
            assert dropped == []
        elif max(shares.values()) > shares[network] + 1:
            assert dropped is not None, "who has less than others gets a place"
        if dropped:
            (victim,) = dropped
            assert victim != "honest"
        return self.number

    @rule(holder=holders)
    def work(self, holder: int) -> None:
        self.places.progress(holder, self.now)

    @rule(holder=holders)
    def go(self, holder: int) -> None:
        self.places.leave(holder)
        self.held.pop(holder, None)

    @rule(seconds=st.floats(0, IDLE * 0.9))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.places.progress("honest", self.now)

    @invariant()
    def books_agree(self) -> None:
        assert set(self.places) == set(self.held)
        assert len(self.held) <= LIMIT
        for source in self.held.values():
            shared = sum(other == source for other in self.held.values())
            assert self.places.share_of(source) == shared

    @invariant()
    def the_honest_one_has_its_place(self) -> None:
        assert "honest" in self.places


TestSharing = Sharing.TestCase

SOURCES = st.builds(Source, st.integers(0, 4), st.integers(0, 3))
HELD = st.lists(st.tuples(SOURCES, st.integers(1, 50), st.integers(0, 9)), max_size=30)


@given(HELD)
def test_always_the_largest_of_what_is_left_yields(entries):
    left = [Held(number, *entry) for number, entry in enumerate(entries)]
    for item in yielding(list(left)):
        networks: dict[object, int] = {}
        peers: dict[Source, int] = {}
        for other in left:
            networks[other.source.network] = networks.get(other.source.network, 0) + other.weight
            peers[other.source] = peers.get(other.source, 0) + other.weight
        network = item.source.network
        assert networks[network] == max(networks.values())
        assert peers[item.source] == max(w for s, w in peers.items() if s.network == network)
        assert item.rank == min(other.rank for other in left if other.source == item.source)
        left.remove(item)
    assert not left
