"""Looking for the peers nearest to a key, by asking ever nearer ones. Pure.

Sources: Kademlia, section 2.3; S/Kademlia, section 4.4 (disjoint paths): a peer that lies leads
astray the one path that it is asked on, and no other.

What it does beyond them. A path whose question waits goes on after `patience`, so that one peer
that is gone costs half a second and not a timeout. The last peers are asked at once, and a few more
than are looked for. Whoever is so near that it is likely one of the nearest, by the size of the
network, is asked as soon as it is heard of: it would be asked in any case. A peer whose contacts do
not answer is not believed: the rest of what it alone told of is not asked while there are enough
others, so that invented peers next to the key cost a few questions and not twenty.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from heapq import heappop, heappush, nsmallest

from lattica.dht.kademlia.config import LookupConfig
from lattica.dht.kademlia.contact import Contact, network_group


class _State(Enum):
    WAITING = auto()
    ASKED = auto()
    SLOW = auto()
    """Asked, and out of patience."""
    ANSWERED = auto()
    FAILED = auto()
    DISTRUSTED = auto()


@dataclass(eq=False, slots=True)
class _Candidate:
    contact: Contact
    distance: int
    hops: int
    """Questions that led to it."""
    state: _State = _State.WAITING
    path: int = 0
    is_on_path: bool = False
    """Its path waits for it."""
    asked_at: float = 0.0
    patience: float = 0.0
    """Seconds for which it holds up what comes after it."""
    sources: list[int] = field(default_factory=list)
    """Keys of the peers that told of it; none: this node knew it."""
    told: list[int] = field(default_factory=list)
    """Keys of the peers that it told of."""
    bad: int = 0
    """How many more of them failed, or make us wait, than answered."""
    likely: int = 0
    """How many of those of whom it alone told were asked as likely ones, and have not answered."""
    vouched_by: _Candidate | None = None
    """Who alone told of it when it was asked as a likely one."""
    is_surplus: bool = False
    """There are enough of its network."""


class Lookup:
    """One lookup. Ask whom :meth:`next_queries` names and say what came of it, until it is done.

    ::

        while not lookup.is_done:
            for contact in lookup.next_queries(now):
                ...  # ask it; then lookup.answered(…) or lookup.failed(…)
            ...  # wait for one of these, or until lookup.deadline

    Args:
        target: the key.
        seeds: peers that this node knows, near to the key if it can be.
        own: this node's key, which is not asked.
        reach: who is nearer to the key than this is likely one of its nearest peers
            (:attr:`~lattica.dht.kademlia.network_size.SizeEstimator.reach`); 0: nobody knows.
        group_limit: so many peers of one network are asked while `count` answer without the rest;
            None: all.
        at_once: so many are asked at a time, but for the paths, and for those that make us wait:
            for what a few of the nearest can say. None: all that are likely among the nearest.
    """

    def __init__(
        self,
        target: int,
        seeds: Iterable[Contact],
        config: LookupConfig,
        *,
        own: int,
        reach: int = 0,
        group_limit: int | None = None,
        at_once: int | None = None,
    ) -> None:
        self.target = target
        self._config = config
        self._own = own
        self._reach = reach
        self._group_limit = group_limit
        self._at_once = at_once
        self._groups: Counter[str] = Counter()
        self._wide: dict[int, Contact] = {}
        self._candidates: dict[int, _Candidate] = {}
        self._near: list[tuple[int, int]] = []
        """(distance, key) of all that may still be found, sorted."""
        self._paths: list[list[tuple[int, int]]] = [[] for _ in range(config.paths)]
        """Heaps of whom each path has heard of."""
        self._open: dict[int, _Candidate] = {}
        """Asked, and neither answered nor failed."""
        self._is_stopped = False
        self._believes_all = False
        """There were not enough peers without those of whom only distrusted ones told."""
        self.queries = 0
        """Peers that were asked."""
        self.junk = Counter[int]()
        """By key of the peer: entries of its answers that no honest peer sends."""
        for number, contact in enumerate(sorted(seeds, key=lambda c: c.key ^ target)):
            self._add(contact, None, number % config.paths)

    # --- what to do ---

    def next_queries(self, now: float) -> list[Contact]:
        """Whom to ask now, each once."""
        self._wait_no_longer(now)
        if self._is_settled() and self._is_short():
            self._believe_all()
        chosen: list[_Candidate] = []
        if not self._is_stopped:
            room = self._room()
            if self._is_near():
                spare = self._config.spare
                wide = self._window(self._config.count + spare, spare)
                chosen = [c for c in wide if c.state is _State.WAITING][:room]
            else:
                chosen = self._likely(room)
            for candidate in chosen:
                candidate.patience = self._config.last_patience
            if not self._is_near():
                for candidate in self._next_of_paths(chosen):
                    candidate.patience = self._config.patience
                    candidate.is_on_path = True
                    chosen.append(candidate)
        chosen = chosen[: max(self._config.max_queries - self.queries, 0)]
        for candidate in chosen:
            candidate.state = _State.ASKED
            candidate.asked_at = now
            self._open[candidate.contact.key] = candidate
        self.queries += len(chosen)
        return [candidate.contact for candidate in chosen]

    @property
    def deadline(self) -> float:
        """When :meth:`next_queries` is to be called again though nothing came; `inf`: never."""
        config = self._config
        return min(
            (
                c.asked_at + (c.patience if c.state is _State.ASKED else config.timeout)
                for c in self._open.values()
            ),
            default=math.inf,
        )

    @property
    def is_done(self) -> bool:
        """The nearest peers there are have answered, or there is nobody left to ask.

        Questions may still be open then; their answers are of no use.
        """
        return self._is_stopped or (self._is_settled() and not self._is_short())

    def stop(self) -> None:
        """What was looked for is found."""
        self._is_stopped = True

    # --- what came of it ---

    def answered(self, key: int, closer: Iterable[Contact], now: float) -> None:
        """A peer has answered, and knows these peers nearer to the target.

        An answer that comes after its timeout counts; one to no question does not.
        """
        candidate = self._candidates.get(key)
        if candidate is None or candidate.state in (
            _State.WAITING,
            _State.ANSWERED,
            _State.DISTRUSTED,
        ):
            return
        self._open.pop(key, None)
        if candidate.state in (_State.SLOW, _State.FAILED):
            self._blame(candidate, -1)
        if candidate.state is _State.FAILED:
            insort(self._near, (candidate.distance, key))
        candidate.state = _State.ANSWERED
        self._blame(candidate, -1)
        if candidate.vouched_by is not None:
            candidate.vouched_by.likely -= 1
        self._learn(candidate, closer)

    def failed(self, key: int) -> None:
        """A peer could not be asked, or its answer broke the protocol."""
        candidate = self._open.pop(key, None)
        if candidate is None:
            return
        if candidate.state is not _State.SLOW:
            self._blame(candidate, 1)
        candidate.state = _State.FAILED
        self._forget(candidate)

    # --- what was found ---

    def closest(self) -> list[Contact]:
        """The nearest peers that have answered, at most `count`, the nearest first; and those of
        :meth:`widen`.
        """
        nearest = [c.contact for c in self._closest()]
        if not self._wide:
            return nearest
        found = {contact.key: contact for contact in nearest} | self._wide
        return sorted(found.values(), key=lambda contact: contact.key ^ self.target)

    def nearest(self) -> list[Contact]:
        """:meth:`closest` without those of :meth:`widen`."""
        return [c.contact for c in self._closest()]

    def widen(self, contacts: Iterable[Contact]) -> None:
        """Peers of the region around the target that have answered, found by other lookups because
        it is crowded next to it: they count as its nearest, too.
        """
        self._wide.update((contact.key, contact) for contact in contacts)

    def heard(self) -> list[Contact]:
        """All that have answered, the nearest first."""
        answered = [c for c in self._candidates.values() if c.state is _State.ANSWERED]
        return [c.contact for c in sorted(answered, key=lambda c: c.distance)]

    def contact(self, key: int) -> Contact | None:
        """A peer that was heard of, by its key."""
        candidate = self._candidates.get(key)
        return None if candidate is None else candidate.contact

    @property
    def has_heard_all(self) -> bool:
        """Whether all that were heard of have answered or failed: there is nobody else."""
        over = (_State.ANSWERED, _State.FAILED)
        return all(c.state in over for c in self._candidates.values())

    @property
    def is_stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._is_stopped

    @property
    def hops(self) -> int:
        """Questions one after another that led to the nearest peer; 0: none has answered."""
        return next((c.hops for c in self._closest()), 0)

    @property
    def answers(self) -> int:
        """Peers that have answered."""
        return sum(c.state is _State.ANSWERED for c in self._candidates.values())

    def _closest(self) -> list[_Candidate]:
        found = []
        for _, key in self._near:
            candidate = self._candidates[key]
            if candidate.state is _State.ANSWERED:
                found.append(candidate)
                if len(found) == self._config.count:
                    break
        return found

    # --- inside ---

    def _is_settled(self) -> bool:
        """Whether nobody who is believed in is nearer than those who have answered."""
        # A few slow ones keep their places: whoever is there behind them has been asked already.
        window = self._window(self._config.count, self._config.spare)
        if any(c.state is _State.ASKED for c in window):
            return False
        if self.queries < self._config.max_queries and any(
            c.state is _State.WAITING for c in window
        ):
            return False
        # They are waited for only where there is not enough without them.
        answered = sum(c.state is _State.ANSWERED for c in window)
        return 2 * answered >= max(len(window), 1) or not self._open

    def _is_short(self) -> bool:
        """Whether there are too few, and others of whom only distrusted peers told."""
        return (
            not self._believes_all
            and self.queries < self._config.max_queries
            and self.answers < self._config.count
            and any(c.state is _State.DISTRUSTED for c in self._candidates.values())
        )

    def _believe_all(self) -> None:
        self._believes_all = True
        for key, candidate in self._candidates.items():
            if candidate.state is _State.DISTRUSTED:
                candidate.state = _State.WAITING
                insort(self._near, (candidate.distance, key))
                heappush(self._paths[candidate.path], (candidate.distance, key))

    def _window(self, size: int, slow: int = 0) -> list[_Candidate]:
        """The nearest ones, and of those that make us wait no more than `slow`."""
        window = []
        for _, key in self._near:
            candidate = self._candidates[key]
            if candidate.state is _State.SLOW:
                if not slow:
                    continue
                slow -= 1
            window.append(candidate)
            if len(window) == size:
                break
        return window

    def _is_near(self) -> bool:
        return all(c.state is _State.ANSWERED for c in self._window(self._config.near))

    def _room(self) -> int:
        """How many more may be asked now."""
        if self._at_once is None:
            return self._config.max_queries
        asked = sum(c.state is _State.ASKED for c in self._open.values())
        return max(self._at_once - asked, 0)

    def _likely(self, most: int) -> list[_Candidate]:
        """Those not asked yet that are likely among the nearest. Of whom one peer alone has told,
        only some until they answer.
        """
        chosen: list[_Candidate] = []
        count, spare = self._config.count, self._config.spare
        within = self._reach * (count + spare) // count
        for candidate in self._window(count + spare, spare) if within else ():
            if candidate.distance > within or len(chosen) == most:
                break
            if candidate.state is not _State.WAITING:
                continue
            if len(candidate.sources) == 1:
                source = self._candidates[candidate.sources[0]]
                if source.likely >= self._config.eager:
                    continue
                source.likely += 1
                candidate.vouched_by = source
            chosen.append(candidate)
        return chosen

    def _next_of_paths(self, likely: list[_Candidate]) -> list[_Candidate]:
        """One of each path that has no question open, or only slow ones; none of `likely`."""
        busy = {c.path for c in self._open.values() if c.state is _State.ASKED and c.is_on_path}
        # Who is farther than all that are looked for and have answered is of no use.
        answered = self._closest()
        bound = answered[-1].distance if len(answered) == self._config.count else None
        chosen: list[_Candidate] = []
        for number, heap in enumerate(self._paths):
            if number in busy:
                continue
            while heap:
                distance, key = heappop(heap)
                candidate = self._candidates[key]
                if bound is not None and distance > bound:
                    break
                if candidate.state is _State.WAITING and candidate not in (*chosen, *likely):
                    candidate.path = number
                    chosen.append(candidate)
                    break
        if not chosen and not busy and not likely:  # paths can end before the nearest are found
            window = self._window(self._config.count)
            chosen = [c for c in window if c.state is _State.WAITING][: self._config.paths]
        return chosen

    def _hurry_last(self) -> None:
        """When only a few of the nearest are waited for, they have less time: most have answered
        long ago, or never will. The very nearest have their time all the same.
        """
        config = self._config
        window = self._window(config.count, config.spare)
        last = [c for c in window if c.state is _State.ASKED]
        answered = sum(c.state is _State.ANSWERED for c in window)
        if len(last) > config.few or answered < config.count - config.spare - config.few:
            return
        for candidate in last:
            if candidate not in window[: config.nearest]:
                candidate.patience = min(candidate.patience, config.few_patience)

    def _wait_no_longer(self, now: float) -> None:
        self._hurry_last()
        for key, candidate in tuple(self._open.items()):
            # As `deadline` adds them: a difference may be rounded to less than what was waited for.
            asked_at = candidate.asked_at
            if candidate.state is _State.ASKED and now >= asked_at + candidate.patience:
                if self._is_worth_more(candidate):
                    candidate.patience = self._config.nearest_patience
                    continue
                candidate.state = _State.SLOW
                self._blame(candidate, 1)
            if now >= asked_at + self._config.timeout:
                self.failed(key)

    def _is_worth_more(self, candidate: _Candidate) -> bool:
        """Whether it is one of the very nearest, of which more than one peer has told."""
        return (
            candidate.patience < self._config.nearest_patience
            and candidate.patience >= self._config.last_patience
            and len(candidate.sources) > 1
            and candidate.distance <= self._near[: self._config.nearest][-1][0]
        )

    def _learn(self, source: _Candidate, closer: Iterable[Contact]) -> None:
        contacts = [c for c in closer if c.key != self._own]
        taken = nsmallest(self._config.count, contacts, key=lambda c: c.key ^ self.target)
        groups: Counter[str] = Counter()
        junk = len(contacts) - len(taken)
        # Paths that never had anything to begin with share what this one hears.
        paths = [source.path]
        if self._is_first(source):
            paths += [n for n, heap in enumerate(self._paths) if not heap and n != source.path]
        for number, contact in enumerate(taken):
            group = next((g for addr in contact.addrs if (g := network_group(addr))), None)
            if group is not None:
                groups[group] += 1
                if groups[group] > self._config.group_in_answer:
                    junk += 1
                    continue
            self._add(contact, source, paths[number % len(paths)])
        if junk:
            self.junk[source.contact.key] += junk

    def _is_first(self, source: _Candidate) -> bool:
        """Whether this node knew fewer peers than there are paths, and this is one of them."""
        if source.sources:
            return False
        known = sum(not c.sources for c in self._candidates.values())
        return known < self._config.paths

    def _add(self, contact: Contact, source: _Candidate | None, path: int) -> None:
        if contact.key == self._own:
            return
        candidate = self._candidates.get(contact.key)
        if candidate is None:
            distance = contact.key ^ self.target
            hops = 1 if source is None else source.hops + 1
            candidate = _Candidate(contact, distance, hops, path=path)
            self._candidates[contact.key] = candidate
            if self._is_surplus(contact):
                candidate.state, candidate.is_surplus = _State.DISTRUSTED, True
            else:
                insort(self._near, (distance, contact.key))
        elif source is None or (not candidate.sources and candidate.state is _State.WAITING):
            return  # this node's own word is worth more
        elif (
            candidate.state is _State.DISTRUSTED
            and not candidate.is_surplus
            and source.bad < self._config.distrust_after
        ):
            candidate.state = _State.WAITING
            insort(self._near, (candidate.distance, contact.key))
        if source is not None:
            candidate.sources.append(source.contact.key)
            source.told.append(contact.key)
        if candidate.state is _State.WAITING:
            heappush(self._paths[path], (candidate.distance, contact.key))

    def _is_surplus(self, contact: Contact) -> bool:
        """Whether there are enough peers of its network; it is counted."""
        if self._group_limit is None:
            return False
        group = next((g for addr in contact.addrs if (g := network_group(addr))), None)
        if group is None:
            return False
        self._groups[group] += 1
        return self._groups[group] > self._group_limit

    def _blame(self, candidate: _Candidate, change: int) -> None:
        """Those who told of a peer are to blame for it, or to be praised."""
        limit = self._config.distrust_after
        for key in candidate.sources:
            source = self._candidates[key]
            source.bad += change
            if change > 0 and source.bad >= limit and not self._believes_all:
                for told in map(self._candidates.__getitem__, source.told):
                    if told.state is _State.WAITING and all(
                        self._candidates[other].bad >= limit for other in told.sources
                    ):
                        told.state = _State.DISTRUSTED
                        self._forget(told)

    def _forget(self, candidate: _Candidate) -> None:
        at = bisect_left(self._near, (candidate.distance, candidate.contact.key))
        if at < len(self._near) and self._near[at][1] == candidate.contact.key:
            del self._near[at]
