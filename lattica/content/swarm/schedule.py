"""Who is asked for what: pieces of a publication over all peers that have some of it. Pure.

A piece is what one request asks for: consecutive chunks of at most 1 MiB. Sets of pieces are whole
numbers, bit n for piece n, so that a million pieces cost a few operations on 128 KiB.

* **Rarest first**: what fewer of those have who have only parts. Among equals in order; at
  random if others fetch the same.
* **Pipelining**: as many bytes are asked of a source ahead as it sends in half a second, but no
  more than 4 MiB, or in two round trips where that is more. It begins with one piece and doubles.
* **The fast first**: a piece is not asked of a source while another one has it that would have
  delivered it in less than half the time.
* **Held back**: what another has asked a source for (:class:`~.messages.Sending`), or it defers, is
  soon to be had of that one, and not asked of this source as long as that one gets on.
* **Of those who share first**: what they have is not asked of who has everything, unless that one
  would have delivered it in less than half the time.
* **In a hurry**: what somebody waits for comes first, of all that a source may be asked for.
* **Work stealing and endgame**: a source with nothing else to do is asked for what another is much
  slower to bring. A source that sends nothing for 5 s loses all that was asked of it to others.

Time is passed in (seconds, never decreasing); randomness is the caller's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from lattica.content.download.plan import Span
from lattica.content.protocol import MAX_SPAN_BYTES
from lattica.content.swarm.holds import Hold, Holds
from lattica.content.swarm.members import MAX_DEFERRALS
from lattica.content.swarm.rarity import Rarity
from lattica.content.swarm.source import QUIET, Source, SourceState

S = TypeVar("S", bound=Hashable)

SILENT_AFTER = 5.0
"""Seconds without a byte after which a source loses what it was asked for, and the least time for
which a piece is held back for somebody of whom nothing is heard."""
STEAL_PAUSE = 0.25
"""Seconds between two looks for something to steal."""

_MAX_ASKED = 1024
"""Requests under way to one source. Their bytes must fit the stream's buffers, or both sides could
wait to send."""
_MAX_COPIES = 2
_MOST_UNKEPT = 64
"""Pieces that a source says it has, and does not send: who says so again and again would be asked
again and again."""
_LENIENCE = 1.0
"""How much longer, as a share of the time that it has gone on, who shares may keep others waiting:
what that costs is little beside the rest, and what it spares may be somebody's thin uplink."""
_MOST_LENIENCE = 10.0
_UNMEASURED = 0.25
"""Seconds more for one of which nothing has come yet."""
_SOON = 0.1
"""Seconds within which it does not matter who is faster."""


class Schedule(Generic[S]):
    """What is still to be asked for, and of whom. `S` names sources."""

    def __init__(self, chunks: int, rng: random.Random, most_ahead: int) -> None:
        """`chunks` of the publication; `most_ahead`: bytes that one source is asked for ahead."""
        self._chunk_count = chunks
        self._rng = rng
        self._most_ahead = most_ahead
        self._cursor = 0
        self._scattered = False
        self._spans: list[Span] = []
        self._piece_of: dict[int, int] = {}
        """Piece by chunk."""
        self._sources: dict[S, Source] = {}
        self._began = math.inf
        """When the first source came."""
        self._waiting = 0
        self._unverified = 0
        self._copies: dict[int, int] = {}
        """How many sources are asked for a piece."""
        self._urgent = 0
        """Pieces that somebody waits for."""
        self._rarity = Rarity()
        self._holds = Holds[S]()

    def scatter(self) -> None:
        """Others fetch the same: ask in a random order, so that each has something else soon."""
        self._scattered = True

    # --- pieces ---

    def want(self, spans: Iterable[Span]) -> None:
        """More is to be had. No chunk may be part of two pieces that are not done yet."""
        before = len(self._spans)
        for span in spans:
            piece = len(self._spans)
            self._spans.append(span)
            for number in span.numbers:
                self._piece_of[number] = piece
            self._waiting |= 1 << piece
        for source in self._sources.values():
            if source.chunks is not None:
                source.has |= self._pieces_in(source.chunks, before)
        self._count_holders()

    def wants(self, number: int) -> bool:
        """Whether a chunk is part of a piece that is not done yet."""
        return number in self._piece_of

    def is_of_use(self, source: S) -> bool:
        """Whether a source has something that is still to be had."""
        state = self._sources.get(source)
        return state is not None and bool(state.has & (self._waiting | self._asked_bits()))

    def _asked_bits(self) -> int:
        bits = 0
        for piece in self._copies:
            bits |= 1 << piece
        return bits

    def span(self, piece: int) -> Span:
        """The chunks of a piece."""
        return self._spans[piece]

    @property
    def is_finished(self) -> bool:
        """Everything is here and verified."""
        return not (self._waiting or self._unverified or self._copies)

    @property
    def is_stuck(self) -> bool:
        """Something is to be had, nobody is asked for anything, and nobody has what is missing."""
        if self._copies or self._unverified or not self._waiting:
            return False
        return not any(source.has & self._waiting for source in self._sources.values())

    def _pieces_in(self, chunks: int, start: int = 0) -> int:
        """The pieces from `start` on of which all chunks are among these."""
        found = bytearray((len(self._spans) + 7) // 8)
        held = chunks.to_bytes((chunks.bit_length() + 7) // 8 + 1, "little")
        bits = len(held) * 8
        for piece in range(start, len(self._spans)):
            span = self._spans[piece]
            last = span.first + span.count
            if last <= bits and all(
                held[number >> 3] & (1 << (number & 7)) for number in range(span.first, last)
            ):
                found[piece >> 3] |= 1 << (piece & 7)
        return int.from_bytes(found, "little")

    def hurry(self, number: int) -> None:
        """Somebody waits for this chunk: of what a source may be asked for, it comes first."""
        piece = self._piece_of.get(number)
        if piece is not None:
            self._urgent |= 1 << piece

    # --- sources ---

    def add(self, source: S, now: float, *, complete: bool = False) -> None:
        """A source has come, of which nothing is known yet, or that it has everything."""
        chunks, has = (None, -1) if complete else (0, 0)
        self._sources[source] = Source(chunks, has, now, now, self._most_ahead)
        self._began = min(self._began, now)

    def limit(self, source: S, most_ahead: int) -> None:
        """Ask a source for no more bytes than these ahead."""
        state = self._sources[source]
        state.most = min(self._most_ahead, most_ahead)
        state.window = min(state.window, state.most)

    def has_room(self, source: S) -> bool:
        """Whether it is time to ask for more: for several pieces at once, not for each."""
        state = self._sources[source]
        return state.in_flight <= state.window - state.window // 4

    def __contains__(self, source: object) -> bool:
        return source in self._sources

    def sources(self) -> dict[S, SourceState]:
        """All of them."""
        return {name: source.state for name, source in self._sources.items()}

    def remove(self, source: S) -> None:
        """A source is gone; what it was asked for waits again. Idempotent."""
        state = self._sources.get(source)
        if state is None:
            return
        self._release(state)
        del self._sources[source]
        self._count_holders()

    def broken(self, source: S, now: float) -> None:
        """A source's stream has ended, and with it all that was asked on it."""
        state = self._sources[source]
        self._release(state)
        state.window = MAX_SPAN_BYTES
        state.is_silent = False
        state.is_away = True
        state.heard_at = now

    def _release(self, state: Source) -> None:
        for piece in list(state.asked):
            self._forget(state, piece)
            self._wait_again(piece)

    def _wait_again(self, piece: int) -> None:
        if piece not in self._copies and not self._is_here(piece):
            self._waiting |= 1 << piece

    def _is_here(self, piece: int) -> bool:
        """It is done, or is being verified."""
        is_done = self._piece_of.get(self._spans[piece].first) != piece
        return is_done or bool(self._unverified >> piece & 1)

    def set_holdings(self, source: S, chunks: int | None) -> None:
        """A source has these chunks (bits), or all."""
        state = self._sources[source]
        state.chunks = chunks
        state.has = -1 if chunks is None else self._pieces_in(chunks)
        self._count_holders()

    def add_holdings(self, source: S, numbers: Iterable[int], now: float) -> None:
        """A source has these chunks, too."""
        state = self._sources[source]
        if state.chunks is None:
            return
        gained = set()
        for number in numbers:
            if not state.chunks >> number & 1:
                state.told_at = now
            state.chunks |= 1 << number
            piece = self._piece_of.get(number)
            if piece is not None:
                gained.add(piece)
        for piece in gained:
            self._holds.got(piece, source)
            span = self._spans[piece]
            mask = (1 << span.count) - 1
            if state.chunks >> span.first & mask == mask and not state.has >> piece & 1:
                state.has |= 1 << piece
                self._rarity.add(piece)

    def lacks(self, source: S, piece: int) -> None:
        """A source does not have a piece after all."""
        state = self._sources[source]
        span = self._spans[piece]
        mask = ((1 << span.count) - 1) << span.first
        if state.chunks is None:
            state.chunks = (1 << self._chunk_count) - 1
            state.has = (1 << len(self._spans)) - 1
        state.chunks &= ~mask
        state.has &= ~(1 << piece)
        self._count_holders()

    def _count_holders(self) -> None:
        self._rarity.count(s.has for s in self._sources.values() if s.chunks is not None)

    # --- holding back ---

    def hold_back(
        self, source: S, numbers: Iterable[int], now: float, claimant: S | None = None
    ) -> None:
        """A source is sending these chunks to another, the claimant."""
        for number in numbers:
            piece = self._piece_of.get(number)
            if piece is None:
                continue
            is_new = self._holds.claim(piece, claimant)
            if is_new and self._waiting >> piece & 1:
                self._hold(piece, source, claimant, now)

    def deferred(self, source: S, piece: int, now: float) -> None:
        """A source says that another has asked for a piece, and will have it soon. It is not
        believed that more often than honest sources say so.
        """
        state = self._sources[source]
        times = state.deferrals[piece] = state.deferrals.get(piece, 0) + 1
        if times > MAX_DEFERRALS:
            self.refused(source, piece, now)
            return
        self._forget_unsent(state, piece, now)
        self._wait_again(piece)
        if self._waiting >> piece & 1:
            claimant = self._holds.claimant(piece)
            self._hold(piece, source, claimant if claimant in self._sources else None, now)

    def _hold(self, piece: int, source: S, claimant: S | None, now: float) -> None:
        other = None if claimant is None else self._sources.get(claimant)
        if other is not None and other.has >> piece & 1:
            return  # there it is to be had already, and takes too long
        self._holds.hold(piece, source, claimant, now)

    def left(self, source: S) -> None:
        """Somebody is gone, or does not say any more what there is: what was held back for one who
        had asked for it, or because it said so, is held back no more, and it may put off again what
        it did."""
        self._holds.left(source)
        if source in self._sources:
            self._sources[source].deferrals.clear()

    def _held_until(self, hold: Hold[S]) -> float:
        """How long it is waited for somebody to get a piece, and to say so."""
        source = self._sources.get(hold.source)
        if source is None:
            return -math.inf
        slow = max(4 * source.fastest if source.fastest < math.inf else 0.0, 2 * source.latest)
        since = hold.since
        claimant = None if hold.claimant is None else self._sources.get(hold.claimant)
        if claimant is not None and not claimant.is_silent:
            since = max(since, claimant.told_at)
        return since + max(SILENT_AFTER, slow)

    # --- asking ---

    def next(self, source: S, now: float) -> int | None:
        """The piece to ask a source for now, which counts as asked; None: nothing for now."""
        state = self._sources[source]
        state.is_away = False
        if state.in_flight >= state.window or len(state.asked) >= _MAX_ASKED or state.is_silent:
            return None
        wanted = state.has & self._waiting
        if wanted:
            if state.chunks is None and self._holds:
                wanted &= ~self._holds.of(source, self._waiting, now, self._held_until)
            if state.chunks is None and self._scattered:
                wanted &= ~self._shared(state, now)
            if len(self._sources) > 1:
                wanted &= ~self._faster(state, now)
        wanted = wanted & self._urgent or wanted
        if wanted:
            own = 0 if state.chunks is None else 1
            piece: int | None = self._any(self._rarity.rarest(wanted, own))
        else:
            piece = self._steal(state, now)
        if piece is not None:
            self._ask(state, piece, now)
            self._cursor = piece + 1
        return piece

    def take(self, source: S, piece: int, now: float) -> bool:
        """Ask a source for this very piece; False if it does not wait any more."""
        if not self._waiting >> piece & 1:
            return False
        self._ask(self._sources[source], piece, now)
        return True

    def _ask(self, state: Source, piece: int, now: float) -> None:
        self._waiting &= ~(1 << piece)
        self._copies[piece] = self._copies.get(piece, 0) + 1
        state.ask(piece, self._spans[piece].size, now)

    def _faster(self, state: Source, now: float) -> int:
        """Pieces that another source would bring in less than half the time."""
        own = state.eta(MAX_SPAN_BYTES)
        if own == math.inf:
            return 0  # it has to be measured
        found = 0
        for other in self._sources.values():
            if other is not state and other.rate and other.is_reliable(now):
                least = 2 * other.eta(MAX_SPAN_BYTES) + _SOON
                if state.chunks is not None and other.chunks is None:
                    least += self._lenience(now)
                if least < own:
                    found |= other.has
        return found

    def _shared(self, state: Source, now: float) -> int:
        """Pieces that one of those who fetch the same has, and brings not much later than this
        source, which has everything: the other way round than in :meth:`_faster`.
        """
        most = _SOON + self._lenience(now)
        if state.rate:
            most += 2 * state.eta(MAX_SPAN_BYTES)
        found = 0
        for other in self._sources.values():
            if other.chunks is None or not other.is_reliable(now):
                continue
            if other.rate is None:
                is_soon = now - other.heard_at < min(QUIET, most + _UNMEASURED)
            else:
                is_soon = other.eta(MAX_SPAN_BYTES) <= most
            if is_soon:
                found |= other.has
        return found

    def _lenience(self, now: float) -> float:
        """Seconds that who shares may take longer than who has everything."""
        if not self._scattered:
            return 0.0
        return min(_MOST_LENIENCE, _LENIENCE * (now - self._began))

    def _any(self, pieces: int) -> int:
        """One of some pieces: the next one, so that files are read and written in order; at random
        if others fetch the same."""
        start = self._cursor
        if self._scattered:
            start = self._rng.randrange(pieces.bit_length())
        high = pieces >> start
        if high:
            return (high & -high).bit_length() - 1 + start
        return (pieces & -pieces).bit_length() - 1

    def _steal(self, state: Source, now: float) -> int | None:
        """What another source is to bring, and this one would bring much earlier."""
        if now < state.next_steal or not self._copies:
            return None
        state.next_steal = now + STEAL_PAUSE
        best: int | None = None
        longest = 0.0
        lenience = self._lenience(now) if state.chunks is None else 0.0
        for other in self._sources.values():
            if other is state:
                continue
            ahead = 0
            quiet = now - other.heard_at
            for piece in other.asked:
                ahead += self._spans[piece].size
                if (
                    self._copies.get(piece, 0) >= _MAX_COPIES
                    or piece in state.asked
                    or not state.has >> piece & 1
                    or self._is_here(piece)
                ):
                    continue
                expected = ahead / other.rate + quiet if other.rate else quiet * 4
                if other.chunks is not None:
                    expected -= lenience
                if expected > longest:
                    best, longest = piece, expected
        if best is None:
            return None
        own = state.eta(self._spans[best].size)
        if own == math.inf:
            own = QUIET  # not measured yet: only what takes really long
        return best if longest > 2 * own + 2 * STEAL_PAUSE else None

    # --- what comes ---

    def came(self, source: S, count: int, now: float) -> None:
        """Bytes have come from a source."""
        state = self._sources[source]
        if state.is_silent:
            state.is_silent = False
            # What nobody else was asked for meanwhile comes of it after all.
            for piece in state.asked:
                self._waiting &= ~(1 << piece)
        state.came(count, now)

    def arrived(self, source: S, piece: int, now: float) -> bool:
        """A whole answer is here, to be verified; False: it is here already, or being verified."""
        state = self._sources[source]
        if state.arrived(piece, now):
            self._forget(state, piece)
            state.widen(self._spans[piece].size)
        if self._is_here(piece):
            return False
        self._waiting &= ~(1 << piece)
        self._unverified |= 1 << piece
        return True

    def refused(self, source: S, piece: int, now: float) -> None:
        """A source does not send a piece; it waits again."""
        state = self._sources[source]
        state.unkept += 1
        self._forget_unsent(state, piece, now)
        self._wait_again(piece)
        self.lacks(source, piece)

    def keeps_its_word(self, source: S) -> bool:
        """Whether a source has sent what it said it had, but for some pieces."""
        return self._sources[source].unkept < _MOST_UNKEPT

    def _forget_unsent(self, state: Source, piece: int, now: float) -> None:
        """What was asked for is not sent: until now it was not the source that was slow."""
        self._forget(state, piece)
        state.forget_sample(now)

    def _forget(self, state: Source, piece: int) -> None:
        if state.asked.pop(piece, None) is None:
            return
        state.in_flight -= self._spans[piece].size
        left = self._copies[piece] - 1
        if left:
            self._copies[piece] = left
        else:
            del self._copies[piece]

    def done(self, piece: int) -> None:
        """A piece is verified and written."""
        self._unverified &= ~(1 << piece)
        self._waiting &= ~(1 << piece)
        self._urgent &= ~(1 << piece)
        span = self._spans[piece]
        for number in span.numbers:
            if self._piece_of.get(number) == piece:
                del self._piece_of[number]

    def failed(self, piece: int) -> None:
        """What has come of a piece is wrong; it is to be had again."""
        self._unverified &= ~(1 << piece)
        self._wait_again(piece)

    def silence(self, now: float) -> list[S]:
        """Take away what sources were asked for that send nothing; returns them, each once.

        They are asked for nothing more until something comes.
        """
        found = []
        for name, state in self._sources.items():
            if (
                state.asked
                and not state.is_silent
                and now - state.heard_at >= SILENT_AFTER
                and any(
                    other is not state and other.has & (1 << piece)
                    for other in self._sources.values()
                    for piece in state.asked
                )
            ):
                state.is_silent = True
                for piece in state.asked:
                    if self._copies.get(piece) == 1 and not self._is_here(piece):
                        self._waiting |= 1 << piece
                found.append(name)
        return found
