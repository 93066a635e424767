"""A swarm in virtual time: the real schedules and books of who asked for what, links, slow turns.

Everybody fetches the same from one source. A node's uplink is shared by its streams, 256 KiB at a
time; requests of a stream are answered in order; news of what a node has and sends goes out 50 ms
after it is new. A node does one thing at a time, which takes a moment, and now and then, on a busy
machine, a long one. Who has everything lingers as a fetch does, and leaves.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from lattica.content.download.fetcher import _LINGERING, _MOST_LINGERING
from lattica.content.download.plan import Span
from lattica.content.manifest.cid import Cid
from lattica.content.publish.service import _UNASKED
from lattica.content.swarm.members import Members
from lattica.content.swarm.messages import Hello, Sending
from lattica.content.swarm.schedule import Schedule
from lattica.nat.base.keys.identity import Identity, PeerId

MIB = 1 << 20
SOURCE = "source"
UNIT = 256 * 1024
"""Bytes that a stream sends before it is another one's turn."""
_DELAY = 0.02
_NEWS_PAUSE = 0.05
_LOOK = 0.5
_WAIT = 0.25
_CID = Cid.of(b"")


@dataclass(frozen=True, slots=True)
class Turns:
    """How long things take on one machine: seconds."""

    work: float = 0.0
    """Of one thing."""
    often: float = 0.0
    """Share of things that take long."""
    longest: float = 0.0
    """What these take at most."""
    cores: int = 0
    """All nodes share so many; 0: each has its own."""


_QUICK = Turns()


@dataclass(slots=True)
class _Node:
    members: Members[str]
    has: set[int] = field(default_factory=set)
    came: list[int] = field(default_factory=list)
    told: dict[str, int] = field(default_factory=dict)
    """How much of `came` each watcher knows."""
    queues: dict[str, deque[tuple[int, int]]] = field(default_factory=dict)
    """Pieces to be sent by receiver, with the bytes left; -1: that it is to be had of others."""
    line_free: float = 0.0
    is_sending: bool = False
    is_telling: bool = False
    free_at: float = 0.0
    is_here: bool = True
    asked_at: float = 0.0
    waiting: dict[str, deque[int]] = field(default_factory=dict)
    """What this one was promised by others, in order."""


class SwarmNetwork:
    """`pieces` of 1 MiB, `peers` that fetch them, uplinks in bytes a second (else 60 MiB)."""

    def __init__(
        self,
        peers: int,
        pieces: int,
        uplinks: dict[str, float],
        seed: int,
        *,
        lag: float = 0.0,
        turns: Turns = _QUICK,
    ) -> None:
        self.rng = random.Random(seed)
        self.pieces = pieces
        self.uplinks = uplinks
        self.lag = lag
        self.turns = turns
        self.names = [f"p{number}" for number in range(peers)]
        self.sent: Counter[str] = Counter()
        """Bytes, by node."""
        self.finished: dict[str, float] = {}
        self.starts: dict[str, float] = {}
        self.schedules: dict[str, Schedule[str]] = {}
        self._ids: dict[str, PeerId] = {}
        self._nodes: dict[str, _Node] = {}
        for name in (SOURCE, *self.names):
            self._ids[name] = Identity.generate().peer_id
            self._nodes[name] = _Node(Members(random.Random(seed)))
        self._names_by_id = {peer: name for name, peer in self._ids.items()}
        self._nodes[SOURCE].has = set(range(pieces))
        self._events: list[tuple[float, int, str, Callable[..., None], tuple[object, ...]]] = []
        self._order = count()
        self._cores = [0.0] * turns.cores

    # --- time ---

    def _at(self, when: float, node: str, do: Callable[..., None], *arguments: object) -> None:
        heapq.heappush(self._events, (when, next(self._order), node, do, arguments))

    def _turn(self, node: _Node, now: float) -> float:
        """When a node, which is free, has done one thing."""
        turns = self.turns
        work = turns.work
        if turns.often and self.rng.random() < turns.often:
            work += self.rng.random() * turns.longest
        if self._cores:
            core = min(range(len(self._cores)), key=self._cores.__getitem__)
            now = self._cores[core] = max(now, self._cores[core]) + turns.work
            return now + work - turns.work
        return now + work

    def run(self, starts: list[float]) -> float:
        """Until everybody has everything; when that is."""
        for name, start in zip(self.names, starts, strict=True):
            self._at(start, name, self._start, name)
        now = 0.0
        while len(self.finished) < len(self.names):
            when, order, name, do, arguments = heapq.heappop(self._events)
            assert when < 3600, "it takes too long"
            node = self._nodes[name]
            if not node.is_here:
                continue
            if when < node.free_at:
                heapq.heappush(self._events, (node.free_at, order, name, do, arguments))
                continue
            now = node.free_at = self._turn(node, when)
            do(now, *arguments)
        return now

    # --- who is there ---

    def _start(self, now: float, name: str) -> None:
        self.starts[name] = now
        made = self.schedules[name] = Schedule[str](
            self.pieces, random.Random(self.rng.random()), 32 * MIB
        )
        made.want(Span(number, 1, MIB) for number in range(self.pieces))
        made.scatter()
        made.add(SOURCE, now, complete=True)
        self._at(now + _DELAY, SOURCE, self._watched, SOURCE, name)
        for other in self.names:
            if other != name and other in self.schedules and self._nodes[other].is_here:
                for one, two in ((name, other), (other, name)):
                    self._at(now + 3 * _DELAY, one, self._watched, one, two)
        self._at(now + _LOOK, name, self._look, name)

    def _watched(self, now: float, server: str, watcher: str) -> None:
        node = self._nodes[server]
        node.members.enter(watcher, self._ids[watcher], Hello(_CID, shares=True))
        node.queues.setdefault(watcher, deque())
        self._nodes[watcher].waiting.setdefault(server, deque())
        node.told[watcher] = len(node.came)
        self._at(now + _DELAY, watcher, self._met, watcher, server, frozenset(node.has))

    def _met(self, now: float, name: str, server: str, has: frozenset[int]) -> None:
        made = self.schedules[name]
        if server != SOURCE and self._nodes[server].is_here:
            if server not in made:
                made.add(server, now)
            made.set_holdings(server, sum(1 << number for number in has))
        self._changed(now, name)

    def _linger(self, now: float, name: str, until: float) -> None:
        """Stay as long as others ask for something, but not for too long."""
        node = self._nodes[name]
        if len(node.members) and now < min(until, node.asked_at + _UNASKED):
            self._at(now + _WAIT, name, self._linger, name, until)
            return
        node.is_here = False
        for other in (SOURCE, *self.names):
            if other != name:
                self._at(now + _DELAY, other, self._gone, other, name)

    def _gone(self, now: float, name: str, other: str) -> None:
        node = self._nodes[name]
        node.members.leave(other)
        node.queues.pop(other, None)
        node.waiting.pop(other, None)
        made = self.schedules.get(name)
        if made is not None and other in made:
            made.left(other)
            made.remove(other)
            self._changed(now, name)

    # --- serving ---

    def _asked(self, now: float, server: str, client: str, pieces: list[int]) -> None:
        node = self._nodes[server]
        queue = node.queues.get(client)
        if queue is None:
            return
        node.asked_at = now
        for piece in pieces:
            due = server != SOURCE or node.members.asks(self._ids[client], [piece], now)
            queue.append((piece, MIB if due and piece in node.has else -1))
        self._news(now, server)
        self._send(now, server)

    def _send(self, now: float, server: str) -> None:
        node = self._nodes[server]
        if node.is_sending:
            return
        for client in list(node.queues):
            queue = node.queues[client]
            if not queue:
                continue
            # Its turn comes after all others.
            node.queues[client] = node.queues.pop(client)
            while queue and queue[0][1] < 0:
                piece, _ = queue.popleft()
                self._at(now + _DELAY, client, self._later, client, server, piece)
            if not queue:
                continue
            piece, left = queue[0]
            left -= UNIT
            node.is_sending = True
            self.sent[server] += UNIT
            end = max(now, node.line_free) + UNIT / self.uplinks.get(server, 60 * MIB)
            node.line_free = end
            if left:
                queue[0] = piece, left
            else:
                queue.popleft()
            self._at(end + _DELAY, client, self._came, client, server, None if left else piece)
            # A little before, so that a free node keeps its line busy.
            self._at(max(now, end - UNIT / 4 / MIB), server, self._sent, server)
            return

    def _sent(self, now: float, server: str) -> None:
        self._nodes[server].is_sending = False
        self._send(now, server)

    def _news(self, now: float, server: str) -> None:
        node = self._nodes[server]
        if not node.is_telling:
            node.is_telling = True
            self._at(now + _NEWS_PAUSE, server, self._tell, server)

    def _tell(self, now: float, server: str) -> None:
        node = self._nodes[server]
        node.is_telling = False
        for watcher in list(node.told):
            if watcher not in node.queues:
                continue
            _, sending = node.members.untold(watcher)
            more = node.came[node.told[watcher] :]
            node.told[watcher] = len(node.came)
            if sending or more:
                later = now + _DELAY + self.lag
                self._at(later, watcher, self._heard, watcher, server, sending, tuple(more))

    # --- fetching ---

    def _heard(
        self,
        now: float,
        name: str,
        server: str,
        sending: tuple[Sending, ...],
        more: tuple[int, ...],
    ) -> None:
        made = self.schedules[name]
        if server not in made:
            return
        for message in sending:
            claimant = self._names_by_id[message.peer_id]
            made.hold_back(server, message.numbers, now, claimant)
        made.add_holdings(server, more, now)
        self._changed(now, name)

    def _look(self, now: float, name: str) -> None:
        self.schedules[name].silence(now)
        self._changed(now, name)
        self._at(now + _WAIT, name, self._look, name)

    def _changed(self, now: float, name: str) -> None:
        """Links that wait for nothing look whether there is something to ask for."""
        for server, waiting in self._nodes[name].waiting.items():
            if not waiting:
                self._ask(now, name, server)

    def _ask(self, now: float, name: str, server: str) -> None:
        made = self.schedules[name]
        if server not in made or not made.has_room(server):
            return
        pieces = []
        while (piece := made.next(server, now)) is not None:
            pieces.append(piece)
        if pieces:
            self._nodes[name].waiting[server].extend(pieces)
            self._at(now + _DELAY, server, self._asked, server, name, pieces)

    def _came(self, now: float, name: str, server: str, piece: int | None) -> None:
        made, node = self.schedules[name], self._nodes[name]
        if server not in made:
            return
        made.came(server, UNIT, now)
        if piece is not None:
            node.waiting[server].popleft()
            if made.arrived(server, piece, now):
                made.done(piece)
                node.has.add(piece)
                node.came.append(piece)
                self._news(now, name)
                if len(node.has) == self.pieces:
                    self.finished[name] = now
                    until = now + min(_MOST_LINGERING, _LINGERING * (now - self.starts[name]))
                    self._at(now, name, self._linger, name, until)
                    return
                self._changed(now, name)
        self._ask(now, name, server)

    def _later(self, now: float, name: str, server: str, piece: int) -> None:
        made = self.schedules[name]
        if server not in made:
            return
        self._nodes[name].waiting[server].popleft()
        made.came(server, 20, now)
        made.deferred(server, piece, now)
        self._ask(now, name, server)
