"""When to dial a peer that is to stay connected: the schedule, without sockets or clock.

One :class:`Redial` per peer is told what happens to it, with the time in seconds, and says when
the next attempt is due:

* A connection that is lost is replaced at once.
* Attempts that fail are repeated after a delay that doubles from 1 s to 60 s; of each delay the
  second half is random, so that the peers of a hub that comes back do not all dial it at once.
  A connection starts this anew. In the first two minutes after a good connection was lost, and as
  long as there is no peer at all, no delay is longer than 8 s: a hub that is started again has
  its peers back soon.
* A peer that takes connections and drops them again (it is overloaded, or does not let us in) is
  dialed no more often than one that does not answer: connections that last less than a minute
  count like attempts that failed, from when they were made.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from enum import Enum

from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.limits.backoff import pause_after


@dataclass(frozen=True, slots=True)
class RedialPolicy:
    """Times in seconds."""

    first: float = 1.0
    """Longest delay after the first failure; it doubles with each one after that."""
    limit: float = 60.0
    """No delay is longer."""
    lasting: float = 60.0
    """A connection of this age counts as a good one when it is lost."""
    settled: float = 2.0
    """A peer that was unreachable is back when a connection to it is this old."""
    soon: float = 8.0
    """No delay is longer within `soon_for` of the loss of a good connection, or while alone."""
    soon_for: float = 120.0


class Phase(Enum):
    WAITING = "waiting"
    """For the time of the next attempt."""
    DIALING = "dialing"
    CONNECTED = "connected"
    RELEASED = "released"
    """Nobody wants the peer to be connected."""


class Change(Enum):
    """What is worth telling a person. The two take turns."""

    UNREACHABLE = "unreachable"
    BACK = "back"


class Redial:
    """The state of one peer. The first attempt is due at once."""

    def __init__(self, now: float, rng: random.Random, policy: RedialPolicy | None = None) -> None:
        self.policy = policy or RedialPolicy()
        self.phase = Phase.WAITING
        self._rng = rng
        self._due = now
        self._since = now
        """When the connection was made."""
        self._lost_at = -math.inf
        """When the last good connection was lost."""
        self._failures = 0
        """Attempts that failed since the last connection."""
        self._short = 0
        """Connections in a row that did not last."""
        self._unreachable = False

    @property
    def next_wake(self) -> float:
        """When there is something to do: an attempt while WAITING, else :meth:`observe`.

        Infinite when nothing is to be done unless something happens.
        """
        if self.phase is Phase.WAITING:
            return self._due
        if self.phase is Phase.CONNECTED and self._unreachable:
            return self._since + self.policy.settled
        return math.inf

    def begin(self, now: float) -> None:
        """An attempt starts, which ends with :meth:`failed` or :meth:`connected`.

        Raises:
            LocalProtocolError: none is due.
        """
        if self.phase is not Phase.WAITING or now < self._due:
            raise LocalProtocolError("no attempt is due")
        self.phase = Phase.DIALING

    def failed(self, now: float, *, is_alone: bool = False) -> Change | None:
        """The attempt has failed. Ignored if the peer was released or has connected by itself.

        `is_alone`: nobody is connected, and nobody else answered there.
        """
        if self.phase is not Phase.DIALING:
            return None
        self._failures += 1
        is_soon = is_alone or now - self._lost_at < self.policy.soon_for
        at_most = self.policy.soon if is_soon else math.inf
        self._wait(now + self._delay(self._failures + self._short, at_most))
        return self._note_unreachable()

    def connected(self, now: float) -> None:
        """There is a connection, whoever made it."""
        if self.phase in (Phase.WAITING, Phase.DIALING):
            self.phase = Phase.CONNECTED
            self._failures = 0
            self._since = now

    def observe(self, now: float, is_connected: bool) -> Change | None:
        """Learn how things stand; to be called when that changes, and at :attr:`next_wake`."""
        if is_connected:
            self.connected(now)
        elif self.phase is Phase.CONNECTED:
            return self._lost(now)
        if self.phase is not Phase.CONNECTED or not self._unreachable or now < self.next_wake:
            return None
        self._unreachable = False
        return Change.BACK

    def release(self) -> None:
        """From now on no attempts are due, until :meth:`resume`."""
        self.phase = Phase.RELEASED

    def resume(self, now: float) -> None:
        """Begin anew after :meth:`release`; does nothing otherwise."""
        if self.phase is Phase.RELEASED:
            self._failures = self._short = 0
            self._unreachable = False
            self._wait(now)

    def _lost(self, now: float) -> Change | None:
        if now - self._since >= self.policy.lasting:
            self._short = 0
            self._lost_at = now
            self._wait(now)
            return None
        self._short += 1
        due = self._since + self._delay(self._short)
        self._wait(max(now, due))
        return self._note_unreachable() if due > now else None

    def _wait(self, due: float) -> None:
        self.phase = Phase.WAITING
        self._due = due

    def _delay(self, failures: int, at_most: float = math.inf) -> float:
        limit = min(self.policy.limit, at_most)
        return pause_after(failures, self.policy.first, limit, self._rng)

    def _note_unreachable(self) -> Change | None:
        if self._unreachable:
            return None
        self._unreachable = True
        return Change.UNREACHABLE
