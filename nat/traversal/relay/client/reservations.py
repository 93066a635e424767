"""A place at one relay, from the first request to its end: pure, without sockets or clock.

:class:`Reserving` is told what happens, with the time in seconds, and says when the relay is
to be asked:

* at once when there is no reservation, and again when three quarters of one's life have passed
  (a little earlier at random, so that the clients of a relay do not all come at once), or sooner
  where that life is told by nothing but the relay's clock;
* after a request that fails, later each time: the pause doubles from `retry_first` to
  `retry_limit`, and the second half of it is random. While a reservation lasts, it stays good
  though renewing it fails;
* at once when the connection to the relay was lost, for the relay has forgotten; when that
  happens again before the reservation is half a minute old, after a pause as above.

Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md.
"""

from __future__ import annotations

import math
import random
from enum import Enum

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.backoff import Backoff
from lattica.nat.traversal.relay.client.config import RelayClientConfig
from lattica.nat.traversal.relay.messages import Reservation
from lattica.nat.traversal.relay.voucher import open_voucher

RENEW_AT = 0.75
"""Fraction of a reservation's life after which it is renewed."""
_EARLIER = 0.1
"""Greatest part of the life by which that is earlier."""
_LASTING = 30.0
"""Seconds after which a reservation that is lost counts as one that worked."""
_CLOCKS_DIFFER = 60.0
"""Seconds that a voucher's end may differ from the reservation's: two times of one clock."""
_ASSUMED_LIFETIME = 120.0
"""Seconds that a reservation is taken to last whose end is past by our clock: the two clocks
differ, and no relay gives so little."""
_RENEW_UNSURE = 300.0
"""A reservation of which only the time of day is known at which it ends is renewed after so many
seconds at the latest: that clock may be wrong, or ours."""
_USUAL_LIFETIME = 3600.0
"""What relays of other implementations grant unless told otherwise."""
_IMPLAUSIBLE = 25 * 3600.0


class Phase(Enum):
    IDLE = "idle"
    """A request is due, now or at a time."""
    ASKING = "asking"
    """A request is on its way."""


def lifetime_of(
    reservation: Reservation,
    *,
    relay: PeerId,
    ours: PeerId,
    wall: float,
    config: RelayClientConfig,
) -> float:
    """Seconds from the receipt that a reservation lasts, at most `max_lifetime`.

    What the relay says it lasts, if it does. Else it is taken from the time of day at which it
    ends, by our clock, `wall` (Unix time); as one of the two may be wrong, such a reservation is
    renewed early (:meth:`Reserving.granted`), and one that seems to be over counts for two
    minutes.

    Raises:
        RemoteProtocolError: it lasts for next to no time, or its voucher is none, is of another
            relay or for another peer, or ends at another time.
    """
    left: float
    if reservation.lifetime is not None:
        left = reservation.lifetime
        if left < config.min_lifetime:
            raise RemoteProtocolError(f"the relay's reservation lasts for {left:.0f} s only")
    else:
        if not reservation.expire:
            raise RemoteProtocolError("the relay does not say when the reservation ends")
        left = reservation.expire - wall
        if left < config.min_lifetime:
            left = max(_ASSUMED_LIFETIME, config.min_lifetime)
    if reservation.voucher:
        voucher = open_voucher(reservation.voucher)
        if voucher.relay != relay:
            raise RemoteProtocolError(f"the voucher is of another relay, {voucher.relay}")
        if voucher.peer != ours:
            raise RemoteProtocolError(f"the voucher is for another peer, {voucher.peer}")
        if abs(voucher.expiration - reservation.expire) > _CLOCKS_DIFFER:
            raise RemoteProtocolError("the voucher ends at another time than the reservation")
    return min(left, config.max_lifetime)


def clock_offset(reservation: Reservation, wall: float) -> float | None:
    """Seconds by which the relay's clock is ahead of ours, `wall` (Unix time), as far as that can
    be told: exactly where it says how long the reservation lasts, roughly where the end that it
    names is past or far away; else None.
    """
    left = reservation.expire - wall
    if reservation.lifetime is not None:
        return left - reservation.lifetime
    return left - _USUAL_LIFETIME if left < 0 or left > _IMPLAUSIBLE else None


class Reserving:
    """The state of one relay."""

    def __init__(self, config: RelayClientConfig, rng: random.Random, now: float) -> None:
        self.phase = Phase.IDLE
        self.until = -math.inf
        """When the reservation ends."""
        self.last_error = ""
        """Why there is no reservation, or no longer a fresh one; empty when all is well."""
        self._rng = rng
        self._since = now
        """When the reservation began, renewals included."""
        self._renew = -math.inf
        """When the reservation is to be renewed."""
        self._backoff = Backoff(config.retry_first, config.retry_limit, rng, now)

    @property
    def due(self) -> float:
        """When to ask; does not count while a request is on its way."""
        return max(self._renew, self._backoff.due)

    def is_held(self, now: float) -> bool:
        """Whether the relay lets others reach us."""
        return now < self.until

    def is_avoided(self, now: float) -> bool:
        """Whether the relay has failed, and its next chance is still to come."""
        return self.phase is Phase.IDLE and not self.is_held(now) and self.due > now

    def is_due(self, now: float) -> bool:
        return self.phase is Phase.IDLE and self.due <= now

    def next_wake(self, now: float) -> float:
        """When something changes by itself: a request is due, or the reservation ends."""
        wakes = [self.due] if self.phase is Phase.IDLE else []
        if self.is_held(now):
            wakes.append(self.until)
        return min(wakes, default=math.inf)

    def ask(self, now: float) -> None:
        """A request leaves. It ends with :meth:`granted`, :meth:`failed` or :meth:`lost`.

        Raises:
            LocalProtocolError: none is due.
        """
        if not self.is_due(now):
            raise LocalProtocolError("no request is due")
        self.phase = Phase.ASKING

    def granted(self, now: float, lifetime: float, *, is_certain: bool = True) -> bool:
        """The relay agreed, for `lifetime` seconds; True if there was no reservation before.

        One whose life is not certain is renewed after five minutes at the latest.
        Ignored unless a request is on its way.
        """
        if self.phase is not Phase.ASKING:
            return False
        is_new = not self.is_held(now)
        if is_new:
            self._since = now
        elif now - self._since >= _LASTING:
            self._backoff.again(now)
        self.phase = Phase.IDLE
        self.until = now + lifetime
        planned = lifetime if is_certain else min(lifetime, _RENEW_UNSURE / RENEW_AT)
        self._renew = now + planned * (RENEW_AT - _EARLIER * self._rng.random())
        self.last_error = ""
        return is_new

    def failed(self, now: float, reason: str) -> bool:
        """The request failed, whoever's fault it is; True if all was well before.

        Ignored unless a request is on its way.
        """
        if self.phase is not Phase.ASKING:
            return False
        self.phase = Phase.IDLE
        self._backoff.failed(now)
        is_news = not self.last_error
        self.last_error = reason
        return is_news

    def lost(self, now: float, reason: str) -> bool:
        """The connection to the relay is gone; True if that ended a reservation.

        A request that was on its way is over, too.
        """
        was_held, was_asking = self.is_held(now), self.phase is Phase.ASKING
        self.phase = Phase.IDLE
        self.until = self._renew = -math.inf
        if was_held:
            self.last_error = reason
            if now - self._since >= _LASTING:
                self._backoff.again(now)
            else:
                # Once at once, since the relay may have started anew; then with patience.
                first = not self._backoff.failures
                self._backoff.failed(now)
                if first:
                    self._backoff.due = now
        elif was_asking:
            self.last_error = reason
            self._backoff.failed(now)
        return was_held

    def renew(self, now: float) -> None:
        """Ask at once, whatever was planned: the network has changed, or time has jumped."""
        self._renew = -math.inf
        self._backoff.again(now)
