"""Who watches a publication here: whom to tell of whom, and what is being sent to others. Pure."""

from __future__ import annotations

import math
import random
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from lattica.content.swarm.messages import MAX_MEMBERS, MAX_NUMBERS, Hello, Member, Sending
from lattica.nat.base.keys.identity import PeerId

W = TypeVar("W", bound=Hashable)

MAX_UNTOLD = 4 * MAX_NUMBERS
"""Chunks that are being sent, or members, of which one watcher has not been told; older ones are
left out."""


MAX_CLAIMS = 16_384
"""Chunks of which it is known who asked for them last."""
MAX_DEFERRALS = 3
"""Times that a watcher is told to have a chunk of another, each time of somebody else."""
CLAIM_LIFE = 60.0
"""Seconds for which others are asked to wait for what one has asked for."""


class _Watcher:
    def __init__(self, peer: PeerId, hello: Hello) -> None:
        self.peer = peer
        self.hello = hello
        self.deferred: OrderedDict[int, tuple[PeerId, int]] = OrderedDict()
        """What it was told to have of another: of whom last, and the how manieth time that was."""
        self.members: deque[Member] = deque(maxlen=MAX_MEMBERS)
        self.sending: deque[tuple[int, PeerId]] = deque(maxlen=MAX_UNTOLD)


class Members(Generic[W]):
    """Those who watch one content id. `W` names a watcher: a stream."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._watchers: dict[W, _Watcher] = {}
        self._claims: OrderedDict[int, tuple[PeerId, float]] = OrderedDict()
        """Who has asked for a chunk, and when."""
        self.asked_at = -math.inf
        """When a watcher has asked for something last."""

    def __len__(self) -> int:
        return len(self._watchers)

    def enter(self, watcher: W, peer: PeerId, hello: Hello) -> None:
        """Somebody begins to watch: is told of some who share, and they are told of it."""
        new = _Watcher(peer, hello)
        sharing = {
            other.peer: other
            for other in self._watchers.values()
            if other.hello.shares and other.peer != peer
        }
        chosen = list(sharing.values())
        if len(chosen) > MAX_MEMBERS:
            chosen = self._rng.sample(chosen, MAX_MEMBERS)
        new.members.extend(Member(other.peer, other.hello.addrs) for other in chosen)
        if hello.shares:
            for other in chosen:
                other.members.append(Member(peer, hello.addrs))
        self._watchers[watcher] = new

    def leave(self, watcher: W) -> None:
        """Somebody watches no more. Idempotent."""
        self._watchers.pop(watcher, None)

    def asks(self, peer: PeerId, numbers: Sequence[int], now: float) -> bool:
        """A peer asks for chunks; whether it is to have them, or wait for those who have asked.

        If it is to have them and shares, the others are told.
        """
        first = numbers[0]
        own = [watcher for watcher in self._watchers.values() if watcher.peer == peer]
        if not own or len(self._watchers) == len(own):
            return True
        claimed = self._claims.get(first)
        if claimed is not None and claimed[0] != peer and now - claimed[1] < CLAIM_LIFE:
            holder = claimed[0]
            is_here = any(w.peer == holder and w.hello.shares for w in self._watchers.values())
            last, times = own[0].deferred.get(first, (None, 0))
            if is_here and last != holder and times < MAX_DEFERRALS:
                own[0].deferred[first] = holder, times + 1
                if len(own[0].deferred) > MAX_CLAIMS:
                    own[0].deferred.popitem(last=False)
                return False
        if any(watcher.hello.shares for watcher in own):
            self._claims.pop(first, None)
            self._claims[first] = peer, now
            if len(self._claims) > MAX_CLAIMS:
                self._claims.popitem(last=False)
            for other in self._watchers.values():
                if other.peer != peer:
                    other.sending.extend((number, peer) for number in numbers)
        return True

    def untold(self, watcher: W) -> tuple[tuple[Member, ...], tuple[Sending, ...]]:
        """What a watcher is to be told: members, and chunks that are being sent to others."""
        state = self._watchers[watcher]
        members = tuple(state.members)
        state.members.clear()
        numbers: dict[PeerId, list[int]] = {}
        for _ in range(min(MAX_NUMBERS, len(state.sending))):
            number, peer = state.sending.popleft()
            numbers.setdefault(peer, []).append(number)
        return members, tuple(Sending(tuple(some), peer) for peer, some in numbers.items())
