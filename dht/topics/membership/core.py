"""Who is a member, by what members say and how long they have been silent. Pure.

What is said is one byte, :data:`HERE` or :data:`LEAVING`, and after it what the member wants known
of itself. That it is the member who says it is what the topic's signatures are for.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass

from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.peer_id import PeerId

HERE, LEAVING = b"\x01", b"\x00"
MAX_DATA = 512
"""Bytes that a member may say of itself."""
MAX_MEMBERS = 20_000
"""Members that are known; of more, newcomers are not."""
MAX_LEFT = 1024
"""Members that have left, whose older messages are told from new ones."""
LATE = 120.0
"""Seconds for which they are told from new ones; none is passed on for longer. A member that begins
anew after its clock was set back has lower numbers than before."""
SHORTEST = 10.0
"""Seconds between two signs of life of a member, at least."""
PER_MEMBER = 0.1
"""And as many seconds for each member: ten signs of life a second in all, however many there
are."""
MISSED = 3.0
"""Intervals without a sign of life after which a member is gone."""
_WELCOME_FIRST = 1.0
_WELCOME_PER_MEMBER = 0.02


@dataclass(frozen=True, slots=True)
class MemberJoined:
    """A member is there, or says something else of itself than before."""

    peer_id: PeerId
    data: bytes = b""
    """What it says of itself."""


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """A member is not there any more."""

    peer_id: PeerId
    silent: bool = False
    """It has not said that it leaves: it was not heard for :data:`MISSED` intervals."""


MemberEvent = MemberJoined | MemberLeft


@dataclass(slots=True)
class _Member:
    data: bytes
    seqno: int
    heard_at: float


def encode_here(data: bytes) -> bytes:
    """A sign of life."""
    return HERE + data


def decode_presence(message: bytes) -> bytes | None:
    """What a member says of itself; None: it leaves.

    Raises:
        RemoteProtocolError: it is neither.
    """
    if message == LEAVING:
        return None
    if message[:1] != HERE or len(message) > 1 + MAX_DATA:
        raise RemoteProtocolError("not what a member says of itself")
    return message[1:]


class MembershipCore:
    """The members that one of them knows, itself left out."""

    def __init__(self, rng: random.Random, now: float) -> None:
        self._rng = rng
        self._members: dict[PeerId, _Member] = {}
        self._left: dict[PeerId, tuple[int, float]] = {}
        """The number of the last word of each that has left, and until when it counts."""
        self._silence: list[tuple[float, int, PeerId]] = []
        self._count = 0
        self._said_at = now
        self.due = now
        """When this member has to give a sign of life."""

    @property
    def members(self) -> dict[PeerId, bytes]:
        """What each says of itself."""
        return {peer_id: member.data for peer_id, member in self._members.items()}

    @property
    def interval(self) -> float:
        """Seconds between signs of life, with as many members as there are."""
        return max(SHORTEST, PER_MEMBER * (len(self._members) + 1))

    def said(self, now: float) -> None:
        """This member has given a sign of life."""
        self._said_at = now
        self.due = now + self.interval * self._rng.uniform(0.8, 1.0)

    def heard(
        self, peer_id: PeerId, seqno: int, data: bytes | None, now: float
    ) -> MemberEvent | None:
        """A member has given a sign of life, or (None) leaves. Messages may come in any order."""
        member = self._members.get(peer_id)
        if seqno <= (self._last_word(peer_id, now) if member is None else member.seqno):
            return None
        if data is None:
            self._remember_left(peer_id, seqno, now)
            if member is None:
                return None
            del self._members[peer_id]
            return MemberLeft(peer_id)
        if member is not None:
            changed = member.data != data
            member.data, member.seqno, member.heard_at = data, seqno, now
            return MemberJoined(peer_id, data) if changed else None
        if len(self._members) >= MAX_MEMBERS:
            return None
        self._members[peer_id] = _Member(data, seqno, now)
        self._count += 1
        heapq.heappush(self._silence, (now + self._patience, self._count, peer_id))
        self._welcome(now)
        return MemberJoined(peer_id, data)

    def _welcome(self, now: float) -> None:
        """A newcomer knows nobody: those who have not said anything lately do, one after
        another."""
        if now - self._said_at >= self.interval / 3:
            spread = _WELCOME_FIRST + _WELCOME_PER_MEMBER * len(self._members)
            self.due = min(self.due, now + self._rng.uniform(0.0, spread))

    def _last_word(self, peer_id: PeerId, now: float) -> int:
        seqno, until = self._left.get(peer_id, (-1, now))
        return seqno if now < until else -1

    def _remember_left(self, peer_id: PeerId, seqno: int, now: float) -> None:
        self._left.pop(peer_id, None)
        self._left[peer_id] = seqno, now + LATE
        if len(self._left) > MAX_LEFT:
            del self._left[next(iter(self._left))]

    @property
    def _patience(self) -> float:
        return MISSED * self.interval

    def next_expiry(self) -> float | None:
        """When somebody may have been silent for too long."""
        return self._silence[0][0] if self._silence else None

    def expire(self, now: float) -> list[MemberEvent]:
        """Who has been silent for too long."""
        gone: list[MemberEvent] = []
        while self._silence and self._silence[0][0] <= now:
            _, number, peer_id = heapq.heappop(self._silence)
            member = self._members.get(peer_id)
            if member is None:
                continue
            until = member.heard_at + self._patience
            if until > now:
                heapq.heappush(self._silence, (until, number, peer_id))
                continue
            del self._members[peer_id]
            self._remember_left(peer_id, member.seqno, now)
            gone.append(MemberLeft(peer_id, silent=True))
        return gone
