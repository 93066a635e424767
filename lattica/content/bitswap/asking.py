"""Whom to ask for a block, and when to ask somebody else. Pure, with the clock of the caller.

The peers that are known are asked whether they have it, one of them for the block at once, as it
mostly has; then those who say that they have it, one after the other, each with a time of its own,
and as many at a time as have been asked already and are silent.
Whoever comes later is asked as well. Where nobody is left, those who have been asked for the block
are asked anew: implementations exist that keep a want which came before their block was stored,
and never look it up again (beetswap 0.4, and so the original).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Final

from lattica.content.bitswap.messages import Message, cancel_of, own_cid, wants_of
from lattica.content.bitswap.record import PeerRecord
from lattica.content.manifest.cid import Cid
from lattica.nat.base.keys.peer_id import PeerId

PATIENCE: Final = 5.0
"""Seconds without the block after which another peer is asked for it, too."""

MAX_ASKED: Final = 64
"""Peers asked for one block."""

MAX_RECORDS: Final = 1024
"""Peers whose successes and failures are counted."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message to a peer."""

    peer: PeerId
    message: Message


@dataclass(slots=True)
class _Search:
    """A block that is looked for."""

    asked: set[PeerId] = field(default_factory=set)
    holders: dict[PeerId, None] = field(default_factory=dict)
    """Said that they have it, and have not been asked for it; the first said so first."""
    sources: dict[PeerId, float] = field(default_factory=dict)
    """Asked for the block itself, and may still send it; when they were asked."""
    late: set[PeerId] = field(default_factory=set)
    """Those of them that have taken too long."""
    refused: set[PeerId] = field(default_factory=set)
    next_source: float = 0.0
    """When another one is asked, if it has not come."""
    again: float = 0.0
    """When the sources may be asked anew."""
    pause: float = PATIENCE
    """Seconds from then to the next time."""


class Asking:
    """The blocks that this node looks for."""

    def __init__(self) -> None:
        self._searches: dict[Cid, _Search] = {}
        self._scores: dict[PeerId, int] = {}
        """Blocks got from a peer, less those that it did not send; only of peers asked now."""
        self.records: OrderedDict[PeerId, PeerRecord] = OrderedDict()
        """Of peers that blocks were asked of, the last ones last, until they are forgotten."""

    def __contains__(self, cid: Cid) -> bool:
        return cid in self._searches

    def expects_blocks_of(self, peer: PeerId) -> bool:
        """Whether a block may come from the peer: it may have it later than it was asked."""
        return any(peer in search.asked for search in self._searches.values())

    def begin(self, cid: Cid, peers: Iterable[PeerId], now: float) -> list[Sent]:
        """Look for a block at these peers. A second search for the same is the first one."""
        self._searches.setdefault(cid, _Search())
        return self.ask(cid, peers, now)

    def ask(self, cid: Cid, peers: Iterable[PeerId], now: float) -> list[Sent]:
        """Ask further peers for a block that is looked for."""
        search = self._searches.get(cid)
        if search is None:
            return []
        new = [peer for peer in dict.fromkeys(peers) if peer not in search.asked]
        new = new[: MAX_ASKED - len(search.asked)]
        new.sort(key=self._worth, reverse=True)
        search.asked.update(new)
        sent = []
        if new and not search.sources:
            sent += self._ask_for_block(cid, search, new.pop(0), now)
        return sent + [Sent(peer, Message(wants=wants_of([cid], have_only=True))) for peer in new]

    def gave_up(self, cid: Cid, now: float) -> None:
        """Nobody has sent a block for as long as it is waited for."""
        search = self._searches.get(cid)
        if search is not None:
            self._fail(search, now)

    def end(self, cid: Cid) -> list[Sent]:
        """The block has come, or nobody wants it any more: tell those who were asked."""
        search = self._searches.pop(cid, None)
        if search is None:
            return []
        if not self._searches:
            self._scores.clear()
        cancel = Message(wants=(cancel_of(cid),))
        return [Sent(peer, cancel) for peer in search.asked - search.refused]

    def on_message(self, peer: PeerId, message: Message, now: float) -> list[Sent]:
        """What a peer says of blocks that are looked for; blocks themselves are :meth:`end`'s."""
        sent: list[Sent] = []
        for raw in message.haves:
            cid = own_cid(raw)
            search = None if cid is None else self._searches.get(cid)
            if cid is None or search is None or peer not in search.asked - search.sources.keys():
                continue
            search.holders[peer] = None
            if not search.sources:
                sent += self._next(cid, search, now)
        for raw in message.dont_haves:
            cid = own_cid(raw)
            search = None if cid is None else self._searches.get(cid)
            if cid is not None and search is not None and peer in search.asked:
                search.refused.add(peer)
                sent += self._lose(cid, search, peer, now)
        return sent

    def got(self, peer: PeerId, cid: Cid, size: int, now: float) -> None:
        """A peer has sent a block that was looked for, of so many bytes."""
        self._scores[peer] = self._scores.get(peer, 0) + 1
        search = self._searches.get(cid)
        asked_at = now if search is None else search.sources.get(peer, now)
        self._record(peer).came(size, now - asked_at, now)

    def forget(self, peer: PeerId) -> None:
        """Nothing is known of a peer any more: it is gone."""
        self.records.pop(peer, None)

    def _record(self, peer: PeerId) -> PeerRecord:
        record = self.records.setdefault(peer, PeerRecord())
        self.records.move_to_end(peer)
        if len(self.records) > MAX_RECORDS:
            self.records.popitem(last=False)
        return record

    def _fail(self, search: _Search, now: float) -> None:
        """None of the sources has sent the block in time."""
        for peer in search.sources.keys() - search.late:
            self._record(peer).failed(now)
        search.late.update(search.sources)

    def lost(self, peer: PeerId, now: float) -> list[Sent]:
        """A peer is gone, or could not be told: others are asked. It may be asked again."""
        sent: list[Sent] = []
        for cid, search in self._searches.items():
            if peer in search.asked:
                search.asked.discard(peer)
                search.refused.discard(peer)
                if peer in search.sources.keys() - search.late:
                    self._record(peer).failed(now)
                sent += self._lose(cid, search, peer, now)
        return sent

    def tick(self, now: float, sending: Container[PeerId] = ()) -> list[Sent]:
        """Ask others where a peer takes too long; peers that are `sending` something take long
        for a reason, and are not asked anew.
        """
        sent: list[Sent] = []
        for cid, search in self._searches.items():
            if search.sources and search.next_source <= now:
                for peer in search.sources:
                    self._scores[peer] = self._scores.get(peer, 0) - 1
                self._fail(search, now)
                search.next_source = now + PATIENCE
                quiet = sum(peer not in sending for peer in search.sources)
                more: list[Sent] = []
                for _ in range(max(1, quiet)):  # liars may be many, and there are few seconds
                    more += self._next(cid, search, now)
                sent += more or self._again(cid, search, now, sending)
        return sent

    def _again(
        self, cid: Cid, search: _Search, now: float, sending: Container[PeerId]
    ) -> list[Sent]:
        """Take the want back and send it anew, as a peer that has it already does nothing."""
        quiet = [peer for peer in search.sources if peer not in sending]
        if now < search.again or not quiet:
            return []
        search.again = now + search.pause
        search.pause *= 2
        again = [
            Message(wants=wants) for wants in ((cancel_of(cid),), wants_of([cid], have_only=False))
        ]
        return [Sent(peer, message) for peer in quiet for message in again]

    @property
    def next_wake(self) -> float | None:
        """When :meth:`tick` has something to do."""
        times = [each.next_source for each in self._searches.values() if each.sources]
        return min(times, default=None)

    def _lose(self, cid: Cid, search: _Search, peer: PeerId, now: float) -> list[Sent]:
        search.holders.pop(peer, None)
        search.sources.pop(peer, None)
        search.late.discard(peer)
        return [] if search.sources else self._next(cid, search, now)

    def _next(self, cid: Cid, search: _Search, now: float) -> list[Sent]:
        """Ask the next peer that has it for the block; where none has said so, anybody asked."""
        waiting = [*search.holders] or [
            peer for peer in search.asked if peer not in search.sources.keys() | search.refused
        ]
        if not waiting:
            return []
        best = max(waiting, key=self._worth)
        return self._ask_for_block(cid, search, best, now)

    def _worth(self, peer: PeerId) -> tuple[int, int]:
        """How good it is now, and how good it has been."""
        record = self.records.get(peer)
        been = 0 if record is None else record.blocks - record.failures
        return self._scores.get(peer, 0), been

    def _ask_for_block(self, cid: Cid, search: _Search, peer: PeerId, now: float) -> list[Sent]:
        search.holders.pop(peer, None)
        search.sources[peer] = now
        search.next_source = now + PATIENCE
        return [Sent(peer, Message(wants=wants_of([cid], have_only=False)))]
