"""The relay's books: who has reserved, which circuits there are, and who gets what.

Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md. Pure: the driver tells
it what happens and what time it is (monotonic seconds), and does as it says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.places import Places, Source
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.base.net.network_groups import host_of, network_of
from lattica.nat.traversal.relay.messages import Status
from lattica.nat.traversal.relay.server.limits import CircuitLimits, RelayLimits
from lattica.nat.traversal.relay.server.pacer import Pacer

Place = str
"""An IP address or a network, as text; what has neither shares one place."""

_Key = TypeVar("_Key")

_NOWHERE: Place = ""
IDLE_AFTER, UNPROVEN_AFTER = 30.0, 5.0
"""Seconds without a byte after which a stranger's circuit yields to others: one that both ends have
used, and one that they have not."""
PROVEN_BYTES = 256
"""From each end, and more than whoever does not know the target can make it say: the ends have
finished their handshake."""
_HOUSEHOLD_PREFIX = 56
"""The IPv6 network that one household or office is likely to have."""


def _host_of(ip: IpAddress | None) -> Place:
    return _NOWHERE if ip is None else host_of(ip)


def _network_of(ip: IpAddress | None) -> Place:
    return _NOWHERE if ip is None else network_of(ip, ipv6_prefix=_HOUSEHOLD_PREFIX)


@dataclass(frozen=True, slots=True)
class Refusal:
    """No, and why."""

    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class Grant:
    """A reservation was made or renewed."""

    peer: PeerId
    expires: float
    """Monotonic seconds."""
    limits: CircuitLimits
    """Of circuits to the peer from peers of its own kind."""
    renewed: bool


@dataclass(frozen=True, slots=True)
class _Booking:
    expires: float
    host: Place
    network: Place
    is_stranger: bool


@dataclass(slots=True, eq=False)
class Circuit:
    """One circuit, from when it is asked for until it has ended."""

    source: PeerId
    target: PeerId
    limits: CircuitLimits
    opened: float
    network: Place
    is_stranger: bool
    """Not both ends are on the allow-list."""
    shared: Pacer | None
    """What all circuits of strangers share."""
    forwarded: list[int] = field(default_factory=lambda: [0, 0])
    """Bytes from the source, and from the target."""
    _pacers: tuple[Pacer, Pacer] = field(init=False)

    def __post_init__(self) -> None:
        self._pacers = (Pacer(self.limits.rate), Pacer(self.limits.rate))

    def allowance(self, direction: int) -> int | None:
        """How many more bytes may go in a direction (0: from the source); None: any number."""
        data = self.limits.data
        return data - self.forwarded[direction] if data else None

    def account(self, direction: int, size: int, now: float) -> float:
        """Count what was forwarded; return how many seconds to wait before the next."""
        self.forwarded[direction] += size
        delay = self._pacers[direction].pay(size, now)
        if self.shared is not None:
            delay = max(delay, self.shared.pay(size, now))
        return delay


class RelayBooks:
    """Reservations and circuits of one relay."""

    def __init__(self, relay: PeerId, limits: RelayLimits, allowed: Iterable[PeerId]) -> None:
        self.relay = relay
        self.limits = limits
        self.allowed = frozenset(allowed)
        self._bookings: dict[PeerId, _Booking] = {}
        self._strangers = 0
        """Bookings of them."""
        self._hosts: Counter[Place] = Counter()
        self._networks: Counter[Place] = Counter()
        self._circuits: set[Circuit] = set()
        self._circuits_of: Counter[PeerId] = Counter()
        self._strangers_circuits = 0
        self._circuits_from: Counter[Place] = Counter()
        """Those of strangers."""
        self._shared = Pacer(limits.strangers_rate)
        self._strangers_places = self._places(limits.strangers_circuits)
        self._places_at: dict[PeerId, Places[Circuit]] = {}
        """Circuits of strangers, by their target."""
        self._displaced: list[Circuit] = []

    @staticmethod
    def _places(limit: int) -> Places[Circuit]:
        return Places(limit, idle_after=IDLE_AFTER, unproven_after=UNPROVEN_AFTER)

    # --- reservations ---

    def reserve(self, peer: PeerId, ip: IpAddress | None, now: float) -> Grant | Refusal:
        """A directly connected peer at `ip` asks for a reservation, or to renew the one it has."""
        is_stranger = peer not in self.allowed
        if is_stranger and not self.limits.open_to_strangers:
            return Refusal(Status.PERMISSION_DENIED, "the peer is not on the allow-list")
        self.expire(now)
        old = self._bookings.get(peer)
        booking = _Booking(
            now + self.limits.reservation_lifetime, _host_of(ip), _network_of(ip), is_stranger
        )
        if is_stranger and (reason := self._is_full(booking, old)):
            # One that has moved to where there is no room keeps what it has.
            return Refusal(Status.RESERVATION_REFUSED, reason)
        self._remove(peer)
        self._add(peer, booking)
        limits = self.limits.for_strangers if is_stranger else self.limits.for_allowed
        return Grant(peer, booking.expires, limits, old is not None)

    def _is_full(self, booking: _Booking, old: _Booking | None) -> str:
        """Why there is no room for a stranger who gives up `old`; empty if there is."""
        limits = self.limits
        if self._strangers - (old is not None) >= limits.max_reservations:
            return f"all {limits.max_reservations} reservations are taken"
        same_host = old is not None and old.host == booking.host
        if self._hosts[booking.host] - same_host >= limits.reservations_per_ip:
            return f"too many reservations at {booking.host or 'an unknown address'}"
        same_network = old is not None and old.network == booking.network
        if self._networks[booking.network] - same_network >= limits.reservations_per_network:
            return f"too many reservations in {booking.network or 'an unknown network'}"
        return ""

    def _add(self, peer: PeerId, booking: _Booking) -> None:
        self._bookings[peer] = booking
        if booking.is_stranger:
            self._strangers += 1
            self._hosts[booking.host] += 1
            self._networks[booking.network] += 1

    def _remove(self, peer: PeerId) -> _Booking | None:
        booking = self._bookings.pop(peer, None)
        if booking is not None and booking.is_stranger:
            self._strangers -= 1
            _decrement(self._hosts, booking.host)
            _decrement(self._networks, booking.network)
        return booking

    def has_reservation(self, peer: PeerId, now: float) -> bool:
        booking = self._bookings.get(peer)
        return booking is not None and booking.expires > now

    @property
    def reservation_count(self) -> int:
        """Those that have run out and were not cleared away yet are among them."""
        return len(self._bookings)

    def peer_gone(self, peer: PeerId) -> bool:
        """The last direct connection to a peer has ended; True if a reservation ended with it."""
        return self._remove(peer) is not None

    def expire(self, now: float) -> list[PeerId]:
        """Clear away reservations that have run out; return whose they were."""
        # They all live equally long, and a renewed one is put at the end: the oldest is first.
        gone: list[PeerId] = []
        for peer, booking in self._bookings.items():
            if booking.expires > now:
                break
            gone.append(peer)
        for peer in gone:
            self._remove(peer)
        return gone

    # --- circuits ---

    def connect(
        self, source: PeerId, target: PeerId, ip: IpAddress | None, now: float
    ) -> Circuit | Refusal:
        """`source` at `ip` asks for a circuit; each that is granted ends with :meth:`close`."""
        is_stranger = not {source, target} <= self.allowed
        if is_stranger and not self.limits.open_to_strangers:
            who = "the peer" if source not in self.allowed else "the target"
            return Refusal(Status.PERMISSION_DENIED, f"{who} is not on the allow-list")
        if source == target:
            return Refusal(Status.CONNECTION_FAILED, "a peer wants a circuit to itself")
        if not self.has_reservation(target, now):
            return Refusal(Status.NO_RESERVATION, "the target has no reservation")
        limits = self.limits.for_strangers if is_stranger else self.limits.for_allowed
        network = _network_of(ip) if is_stranger else _NOWHERE
        if reason := self._is_busy(source, target, limits, network, is_stranger=is_stranger):
            return Refusal(Status.RESOURCE_LIMIT_EXCEEDED, reason)
        shared = self._shared if is_stranger and self.limits.strangers_rate else None
        circuit = Circuit(source, target, limits, now, network, is_stranger, shared)
        if is_stranger and (reason := self._displace(circuit, now)):
            return Refusal(Status.RESOURCE_LIMIT_EXCEEDED, reason)
        self._circuits.add(circuit)
        self._circuits_of[source] += 1
        self._circuits_of[target] += 1
        if is_stranger:
            self._strangers_circuits += 1
            self._circuits_from[network] += 1
        return circuit

    def _is_busy(
        self,
        source: PeerId,
        target: PeerId,
        limits: CircuitLimits,
        network: Place,
        *,
        is_stranger: bool,
    ) -> str:
        """Why there is no room for one more circuit; empty if there is."""
        if len(self._circuits) >= self.limits.max_circuits:
            return f"all {self.limits.max_circuits} circuits are in use"
        for peer, name in ((source, "source"), (target, "target")):
            # Strangers' circuits to a target yield to each other.
            full = self._circuits_of[peer] >= limits.per_peer
            if full and not (is_stranger and peer == target and self._places_at.get(target)):
                return f"the {name} has {limits.per_peer} circuits"
        if is_stranger and self._circuits_from[network] >= self.limits.circuits_per_network:
            return f"too many circuits from {network or 'an unknown network'}"
        return ""

    def _displace(self, circuit: Circuit, now: float) -> str:
        """Make a place for a stranger's circuit, if need be at others' cost.

        Returns why there is none; empty if there is.
        """
        source = Source(circuit.source, circuit.network)
        target = circuit.target
        here = self._places_at.get(target) or self._places(0)
        here.limit = circuit.limits.per_peer - (self._circuits_of[target] - len(here))
        dropped = here.enter(circuit, source, now)
        if dropped is None:
            return f"the target has {circuit.limits.per_peer} circuits"
        for other in dropped:
            self._displaced.append(other)
            self.close(other)
        dropped = self._strangers_places.enter(circuit, source, now)
        if dropped is None:
            here.leave(circuit)
            return f"all {self.limits.strangers_circuits} circuits for strangers are in use"
        self._places_at[target] = here
        for other in dropped:
            self._displaced.append(other)
            self.close(other)
        return ""

    def take_displaced(self) -> list[Circuit]:
        """Circuits that have lost their place since the last call; they are closed here."""
        displaced, self._displaced = self._displaced, []
        return displaced

    def progress(self, circuit: Circuit, now: float) -> None:
        """Something was forwarded on a circuit."""
        if circuit.is_stranger and min(circuit.forwarded) >= PROVEN_BYTES:
            self._strangers_places.progress(circuit, now)
            if (here := self._places_at.get(circuit.target)) is not None:
                here.progress(circuit, now)

    def close(self, circuit: Circuit) -> None:
        """A circuit has ended, or could not be made. Idempotent."""
        if circuit not in self._circuits:
            return
        self._circuits.discard(circuit)
        self._strangers_places.leave(circuit)
        if (here := self._places_at.get(circuit.target)) is not None:
            here.leave(circuit)
            if not here:
                del self._places_at[circuit.target]
        _decrement(self._circuits_of, circuit.source)
        _decrement(self._circuits_of, circuit.target)
        if circuit.is_stranger:
            self._strangers_circuits -= 1
            _decrement(self._circuits_from, circuit.network)

    @property
    def circuits(self) -> Iterator[Circuit]:
        return iter(tuple(self._circuits))

    @property
    def circuit_count(self) -> int:
        return len(self._circuits)


def _decrement(counter: Counter[_Key], key: _Key) -> None:
    """One less; what is at zero takes no memory."""
    if counter[key] <= 1:
        del counter[key]
    else:
        counter[key] -= 1
