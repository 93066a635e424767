"""The relay's books: who has reserved, which circuits there are, and who gets what.

Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md. Pure: the driver tells
it what happens and what time it is (monotonic seconds), and does as it says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.limits.places import Places, Source
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.base.net.network_groups import host_of, network_of
from lattica.nat.traversal.relay.messages import Status
from lattica.nat.traversal.relay.server.access import Access, Denial, Standing
from lattica.nat.traversal.relay.server.limits import CircuitLimits, RelayLimits
from lattica.nat.traversal.relay.server.pacer import Pacer
from lattica.nat.traversal.relay.server.quotas import Ledger, Meter, Quotas, Whose

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


def _host_of(ip: IpAddress | None) -> Place:
    return _NOWHERE if ip is None else host_of(ip)


def _network_of(ip: IpAddress | None) -> Place:
    return _NOWHERE if ip is None else network_of(ip)


@dataclass(frozen=True, slots=True)
class Refusal:
    """No, and why."""

    status: Status
    reason: str
    limit: str = ""
    """The name of the limit that was hit, which is that of its setting; empty if none was."""


@dataclass(frozen=True, slots=True)
class LimitUsage:
    """How much of a limit is used."""

    name: str
    """Of the setting."""
    used: float
    """For limits by peer and by network: of whoever has used most."""
    limit: float


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
    meters: tuple[Meter, ...] = ()
    """Where its bytes are counted: of both its peers, of its network, and of all."""
    forwarded: list[int] = field(default_factory=lambda: [0, 0])
    """Bytes from the source, and from the target."""
    _pacers: tuple[Pacer, Pacer] = field(init=False)

    def __post_init__(self) -> None:
        self._pacers = (Pacer(self.limits.rate), Pacer(self.limits.rate))

    def allowance(self, direction: int) -> int | None:
        """How many more bytes may go in a direction (0: from the source); None: any number."""
        data = self.limits.data
        left = data - self.forwarded[direction] if data else None
        for meter in self.meters:
            if meter.limit:
                of_month = max(0, meter.limit - meter.used)
                left = of_month if left is None else min(left, of_month)
        return left

    def used_up(self) -> str:
        """Which limit has no bytes left; the name of its setting."""
        return next((meter.limit_name for meter in self.meters if meter.is_exhausted), "data")

    def account(self, direction: int, size: int, now: float) -> float:
        """Count what was forwarded; return how many seconds to wait before the next."""
        self.forwarded[direction] += size
        delay = self._pacers[direction].pay(size, now)
        if self.shared is not None:
            delay = max(delay, self.shared.pay(size, now))
        for meter in self.meters:
            meter.used += size
            meter.changed = True
            if meter.pacer is not None:
                delay = max(delay, meter.pacer.pay(size, now))
        return delay


class RelayBooks:
    """Reservations and circuits of one relay."""

    def __init__(
        self, relay: PeerId, limits: RelayLimits, access: Access, quotas: Quotas | None = None
    ) -> None:
        self.relay = relay
        self.limits = limits
        self.access = access
        self.ledger = Ledger(quotas or Quotas())
        self.draining = False
        """Nothing new is granted: the relay is about to stop."""
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
        standing = self.access.standing(peer)
        if isinstance(standing, Denial):
            return Refusal(Status.PERMISSION_DENIED, standing.reason, standing.limit)
        self.expire(now)
        old = self._bookings.get(peer)
        if self.draining:
            return Refusal(Status.RESERVATION_REFUSED, "the relay is about to stop", "draining")
        allowed = self.ledger.quotas.reservations
        if allowed and len(self._bookings) - (old is not None) >= allowed:
            reason = f"all {allowed} reservations are taken"
            return Refusal(Status.RESERVATION_REFUSED, reason, "reservations")
        is_stranger = standing.is_stranger
        booking = _Booking(
            now + self.limits.reservation_lifetime, _host_of(ip), _network_of(ip), is_stranger
        )
        if is_stranger and (full := self._is_full(booking, old)) is not None:
            # One that has moved to where there is no room keeps what it has.
            return full
        self._remove(peer)
        self._add(peer, booking)
        limits = self._limits(standing)
        return Grant(peer, booking.expires, limits, old is not None)

    def _limits(self, standing: Standing) -> CircuitLimits:
        """Of the circuits of whoever has this standing."""
        kind = self.limits.for_strangers if standing.is_stranger else self.limits.for_allowed
        if not standing.circuits:
            return kind
        return replace(kind, per_peer=min(kind.per_peer, standing.circuits))

    def _is_full(self, booking: _Booking, old: _Booking | None) -> Refusal | None:
        """Why there is no room for a stranger who gives up `old`; None if there is."""
        limits, status = self.limits, Status.RESERVATION_REFUSED
        if self._strangers - (old is not None) >= limits.max_reservations:
            reason = f"all {limits.max_reservations} reservations are taken"
            return Refusal(status, reason, "max_reservations")
        same_host = old is not None and old.host == booking.host
        if self._hosts[booking.host] - same_host >= limits.reservations_per_ip:
            reason = f"too many reservations at {booking.host or 'an unknown address'}"
            return Refusal(status, reason, "reservations_per_ip")
        same_network = old is not None and old.network == booking.network
        if self._networks[booking.network] - same_network >= limits.reservations_per_network:
            reason = f"too many reservations in {booking.network or 'an unknown network'}"
            return Refusal(status, reason, "reservations_per_network")
        return None

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
        ends = []
        for peer, who in ((source, "peer"), (target, "target")):
            standing = self.access.standing(peer)
            if isinstance(standing, Denial):
                reason = standing.reason.replace("the peer", f"the {who}", 1)
                return Refusal(Status.PERMISSION_DENIED, reason, standing.limit)
            ends.append(standing)
        if source == target:
            return Refusal(Status.CONNECTION_FAILED, "a peer wants a circuit to itself")
        if not self.has_reservation(target, now):
            return Refusal(Status.NO_RESERVATION, "the target has no reservation")
        if self.draining:
            reason = "the relay is about to stop"
            return Refusal(Status.RESOURCE_LIMIT_EXCEEDED, reason, "draining")
        is_stranger = any(end.is_stranger for end in ends)
        limits = self.limits.for_strangers if is_stranger else self.limits.for_allowed
        network = _network_of(ip)
        busy = self._is_busy((source, target), ends, limits, network, is_stranger=is_stranger)
        if busy is not None:
            return busy
        meters = self._meters((source, target), ends, network)
        if (used_up := next((meter for meter in meters if meter.is_exhausted), None)) is not None:
            return _month_over(used_up)
        shared = self._shared if is_stranger and self.limits.strangers_rate else None
        circuit = Circuit(source, target, limits, now, network, is_stranger, shared, meters)
        if is_stranger and (full := self._displace(circuit, now)) is not None:
            return full
        self._circuits.add(circuit)
        self._circuits_of[source] += 1
        self._circuits_of[target] += 1
        for meter in meters:
            meter.circuits += 1
        if is_stranger:
            self._strangers_circuits += 1
            self._circuits_from[network] += 1
        return circuit

    def _meters(
        self, peers: tuple[PeerId, PeerId], ends: list[Standing], network: Place
    ) -> tuple[Meter, ...]:
        of_peers = (
            self.ledger.of_peer(str(peer), month=end.month, rate=end.rate)
            for peer, end in zip(peers, ends, strict=True)
        )
        return (*of_peers, self.ledger.of_network(network), self.ledger.total)

    def _is_busy(
        self,
        peers: tuple[PeerId, PeerId],
        ends: list[Standing],
        limits: CircuitLimits,
        network: Place,
        *,
        is_stranger: bool,
    ) -> Refusal | None:
        """Why there is no room for one more circuit; None if there is."""
        status = Status.RESOURCE_LIMIT_EXCEEDED
        if len(self._circuits) >= self.limits.max_circuits:
            reason = f"all {self.limits.max_circuits} circuits are in use"
            return Refusal(status, reason, "max_circuits")
        target = peers[1]
        for peer, end, name in zip(peers, ends, ("source", "target"), strict=True):
            count = self._circuits_of[peer]
            if end.circuits and count >= end.circuits:
                reason = f"the {name} has {end.circuits} circuits, as many as its token allows"
                return Refusal(status, reason, "token_circuits")
            # Strangers' circuits to a target yield to each other.
            full = count >= limits.per_peer
            if full and not (is_stranger and peer == target and self._places_at.get(target)):
                return Refusal(status, f"the {name} has {limits.per_peer} circuits", "per_peer")
        if is_stranger and self._circuits_from[network] >= self.limits.circuits_per_network:
            reason = f"too many circuits from {network or 'an unknown network'}"
            return Refusal(status, reason, "circuits_per_network")
        return None

    def _displace(self, circuit: Circuit, now: float) -> Refusal | None:
        """Make a place for a stranger's circuit, if need be at others' cost.

        Returns why there is none; None if there is.
        """
        status = Status.RESOURCE_LIMIT_EXCEEDED
        source = Source(circuit.source, circuit.network)
        target = circuit.target
        here = self._places_at.get(target) or self._places(0)
        here.limit = circuit.limits.per_peer - (self._circuits_of[target] - len(here))
        dropped = here.enter(circuit, source, now)
        if dropped is None:
            reason = f"the target has {circuit.limits.per_peer} circuits"
            return Refusal(status, reason, "per_peer")
        for other in dropped:
            self._displaced.append(other)
            self.close(other)
        dropped = self._strangers_places.enter(circuit, source, now)
        if dropped is None:
            here.leave(circuit)
            reason = f"all {self.limits.strangers_circuits} circuits for strangers are in use"
            return Refusal(status, reason, "max_strangers_circuits")
        self._places_at[target] = here
        for other in dropped:
            self._displaced.append(other)
            self.close(other)
        return None

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
        for meter in circuit.meters:
            meter.circuits -= 1
        if circuit.is_stranger:
            self._strangers_circuits -= 1
            _decrement(self._circuits_from, circuit.network)

    @property
    def circuits(self) -> Iterator[Circuit]:
        return iter(tuple(self._circuits))

    @property
    def circuit_count(self) -> int:
        return len(self._circuits)

    # --- for those who run it ---

    def take_denied(self) -> tuple[list[tuple[PeerId, str]], list[tuple[Circuit, str]]]:
        """Reservations and circuits of peers that are not served any more, each with the reason.

        The reservations are ended here; the circuits are to be closed by the caller.
        """
        reasons: dict[PeerId, str] = {}
        peers = {*self._bookings, *self._circuits_of}
        for peer in peers:
            if isinstance(standing := self.access.standing(peer), Denial):
                reasons[peer] = standing.reason
        if not reasons:
            return [], []
        ended = [(peer, reason) for peer, reason in reasons.items() if self._remove(peer)]
        circuits = [
            (circuit, reasons[peer])
            for circuit in self._circuits
            for peer in (circuit.source, circuit.target)
            if peer in reasons
        ]
        return ended, circuits

    def reservations(self) -> tuple[PeerId, ...]:
        """Who has one."""
        return tuple(self._bookings)

    def set_limits(self, limits: RelayLimits, quotas: Quotas) -> None:
        """New ones, for what is granted from now on; the monthly ones and the rates of quotas
        apply to what is open, too."""
        if limits.strangers_rate != self.limits.strangers_rate:
            self._shared = Pacer(limits.strangers_rate)
        self.limits = limits
        self._strangers_places.limit = limits.strangers_circuits
        self.ledger.set_quotas(quotas)

    def usage(self) -> list[LimitUsage]:
        """How much of each limit that is set is used."""
        limits, quotas = self.limits, self.ledger.quotas
        used: list[tuple[str, float, float]] = [
            ("reservations", len(self._bookings), quotas.reservations),
            ("max_reservations", self._strangers, limits.max_reservations),
            ("reservations_per_ip", _most(self._hosts), limits.reservations_per_ip),
            ("reservations_per_network", _most(self._networks), limits.reservations_per_network),
            ("max_circuits", len(self._circuits), limits.max_circuits),
            ("max_strangers_circuits", self._strangers_circuits, limits.strangers_circuits),
            ("circuits_per_network", _most(self._circuits_from), limits.circuits_per_network),
        ]
        for whose in (Whose.PEER, Whose.NETWORK):
            if (meter := self.ledger.fullest(whose)) is not None:
                used.append((meter.limit_name, meter.used, meter.limit))
        total = self.ledger.total
        used.append((total.limit_name, total.used, total.limit))
        return [LimitUsage(*each) for each in used if each[2]]


def _most(counter: Counter[Place]) -> int:
    return max(counter.values(), default=0)


def _month_over(meter: Meter) -> Refusal:
    """Nothing more goes before the month is over."""
    who = "the relay" if meter.whose is Whose.TOTAL else meter.name or "an unknown network"
    reason = f"{who} has used up its {meter.limit} bytes of this month"
    return Refusal(Status.RESOURCE_LIMIT_EXCEEDED, reason, meter.limit_name)


def _decrement(counter: Counter[_Key], key: _Key) -> None:
    """One less; what is at zero takes no memory."""
    if counter[key] <= 1:
        del counter[key]
    else:
        counter[key] -= 1
