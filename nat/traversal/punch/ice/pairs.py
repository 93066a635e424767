"""The checklist of an ICE agent: its pairs, in the order in which they are checked. Pure.

Source: RFC 8445, section 6.1.2. There are no frozen pairs: one component of one stream has
nothing to learn from another's, and the first round takes a fraction of a second anyhow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from lattica.nat.traversal.punch.ice.candidates import (
    MAX_PAIRS,
    Candidate,
    CandidateType,
    form_pairs,
    pair_priority,
)

MAX_LEARNED = 8
"""Peer-reflexive candidates of the peer in one attempt."""


class PairState(Enum):
    WAITING = "waiting"
    IN_PROGRESS = "in progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(slots=True, eq=False)
class Pair:
    """A socket of this node and an address of the peer's."""

    local: Candidate
    remote: Candidate
    state: PairState = PairState.WAITING
    chosen_by_peer: bool = False
    """The controlling peer has nominated it, perhaps before it was valid."""

    @property
    def base(self) -> int:
        return self.local.base

    def priority(self, controlling: bool) -> int:
        return pair_priority(self.local.priority, self.remote.priority, controlling=controlling)


class Checklist:
    """The pairs of one attempt. Bounded: at most 100, of which few were learned on the way."""

    def __init__(
        self, local: Sequence[Candidate], remote: Sequence[Candidate], *, controlling: bool
    ) -> None:
        self._best: dict[tuple[int, int], Candidate] = {}
        for candidate in sorted(local, key=lambda one: -one.priority):
            self._best.setdefault((candidate.base, candidate.version), candidate)
        self._pairs = {
            (one.base, other.address): Pair(one, other)
            for one, other in form_pairs(local, remote, controlling=controlling)
        }
        self._remotes = {other.address: other for other in remote}
        self._learned = 0
        self._triggered: deque[Pair] = deque()

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs.values())

    def __len__(self) -> int:
        return len(self._pairs)

    def sort(self, *, controlling: bool) -> None:
        """Order by priority, which depends on the role."""
        ordered = sorted(self._pairs.items(), key=lambda item: -item[1].priority(controlling))
        self._pairs = dict(ordered)

    def find(self, base: int, address: tuple[str, int]) -> Pair | None:
        return self._pairs.get((base, address))

    def learn(self, base: int, address: tuple[str, int], priority: int) -> Pair | None:
        """The pair of a socket and an address that a check has come from.

        Makes the peer-reflexive candidate and the pair where they are new; None where there is
        no room for them, or if the socket has no candidate of the address's family.
        """
        if (pair := self.find(base, address)) is not None:
            return pair
        remote = self._remotes.get(address)
        if remote is None:
            if self._learned >= MAX_LEARNED:
                return None
            remote = Candidate(
                CandidateType.PEER_REFLEXIVE, *address, priority, f"learned{self._learned}"
            )
        local = self._best.get((base, remote.version))
        if local is None or len(self._pairs) >= MAX_PAIRS:
            return None
        if address not in self._remotes:
            self._learned += 1
            self._remotes[address] = remote
        pair = self._pairs[base, address] = Pair(local, remote)
        return pair

    def trigger(self, pair: Pair) -> None:
        """Check a pair before all that wait for their turn."""
        pair.state = PairState.WAITING
        if pair not in self._triggered:
            self._triggered.append(pair)

    def next_triggered(self) -> Pair | None:
        """Take the pair that a check of the peer, or a change of roles, wants checked first."""
        while self._triggered:
            pair = self._triggered.popleft()
            if pair.state is PairState.WAITING:
                return pair
        return None

    def next_waiting(self) -> Pair | None:
        """The best pair that has not been checked."""
        return next((pair for pair in self if pair.state is PairState.WAITING), None)

    def count(self, *states: PairState) -> int:
        return sum(pair.state in states for pair in self)
