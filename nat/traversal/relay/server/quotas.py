"""What peers, networks and all together may move through a relay: rates, and bytes in a month.

Pure: the time is passed in. What has been used is counted in :class:`Meter` objects, one for each
peer and network that has a circuit or had one, and survives a restart where somebody keeps it
(:meth:`Ledger.take_changed`, :meth:`Ledger.restore`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from lattica.nat.base.checks import require, require_types
from lattica.nat.traversal.relay.server.pacer import Pacer

MAX_METERS = 100_000
"""Peers, and networks, that are counted one by one; the memory of an unbounded number of strangers
is not kept."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """What all circuits of somebody may use together; 0 means without limit."""

    rate_per_peer: int = 0
    """Bytes a second, both directions; what is faster is slowed down, and nothing is lost."""
    rate_per_network: int = 0
    """Bytes a second of circuits made from one IPv4 /24 or one IPv6 /48."""
    rate_total: int = 0
    """Bytes a second of the relay."""
    month_per_peer: int = 0
    """Bytes in one calendar month (UTC), both directions; then its circuits end, and it gets no
    more until the month is over."""
    month_per_network: int = 0
    """Bytes in one calendar month of circuits made from one network."""
    month_total: int = 0
    """Bytes in one calendar month of the relay."""
    reservations: int = 0
    """At once, of everybody together."""

    def __post_init__(self) -> None:
        require_types(self)
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            require(0 <= value < 2**63, name, "0 (no limit) or a number above it", value)


class Whose(Enum):
    """What is counted together."""

    PEER = "peer"
    NETWORK = "network"
    TOTAL = "total"


@dataclass(slots=True, eq=False)
class Meter:
    """Bytes of one peer or network, or of all, in the current month."""

    whose: Whose
    name: str
    """The peer's ID or the network; empty for all together."""
    limit: int = 0
    """Bytes; 0: none."""
    rate: int = 0
    used: int = 0
    circuits: int = 0
    """At present."""
    pacer: Pacer | None = None
    changed: bool = False

    @property
    def limit_name(self) -> str:
        """Of its setting in :class:`Quotas`."""
        return "month_total" if self.whose is Whose.TOTAL else f"month_per_{self.whose.value}"

    @property
    def is_exhausted(self) -> bool:
        return bool(self.limit) and self.used >= self.limit

    def set_limits(self, limit: int, rate: int) -> None:
        """They apply to circuits that are open, too."""
        self.limit = limit
        if rate != self.rate:
            self.rate, self.pacer = rate, Pacer(rate) if rate else None


@dataclass(slots=True, eq=False)
class Ledger:
    """The meters of one relay."""

    quotas: Quotas
    period: str = ""
    """The month that is counted, such as "2026-11"; who knows the date sets it with
    :meth:`begin`."""
    total: Meter = field(init=False)
    _meters: dict[tuple[Whose, str], Meter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.total = Meter(Whose.TOTAL, "")
        self.set_quotas(self.quotas)

    def set_quotas(self, quotas: Quotas) -> None:
        """They apply to what is open; a peer's own are set anew with its next circuit."""
        self.quotas = quotas
        self.total.set_limits(quotas.month_total, quotas.rate_total)
        for meter in self._meters.values():
            self._limit(meter)

    def _limit(self, meter: Meter) -> None:
        """Set the limits that each peer, or each network, has."""
        quotas = self.quotas
        if meter.whose is Whose.NETWORK:
            meter.set_limits(quotas.month_per_network, quotas.rate_per_network)
        else:
            meter.set_limits(quotas.month_per_peer, quotas.rate_per_peer)

    def begin(self, period: str) -> bool:
        """A month has begun, and what was used before is of no concern; True unless it is the
        one that is counted already."""
        if period == self.period:
            return False
        was_counting, self.period = bool(self.period), period
        if was_counting:
            for meter in (self.total, *self._meters.values()):
                meter.used = 0
                meter.changed = True
        return True

    def restore(self, rows: Iterable[tuple[Whose, str, int]]) -> None:
        """What has been used this month before the relay was started."""
        for whose, name, used in rows:
            meter = self.total if whose is Whose.TOTAL else self._meter(whose, name)
            meter.used += used

    def of_peer(self, name: str, *, month: int = 0, rate: int = 0) -> Meter:
        """The meter of a peer, which has limits of its own where these are not 0."""
        meter = self._meter(Whose.PEER, name)
        quotas = self.quotas
        meter.set_limits(month or quotas.month_per_peer, rate or quotas.rate_per_peer)
        return meter

    def of_network(self, name: str) -> Meter:
        return self._meter(Whose.NETWORK, name)

    def _meter(self, whose: Whose, name: str) -> Meter:
        key = whose, name
        if (found := self._meters.get(key)) is not None:
            return found
        if len(self._meters) >= MAX_METERS:
            self._make_room()
        made = self._meters[key] = Meter(whose, name)
        self._limit(made)
        return made

    def _make_room(self) -> None:
        """Forget a tenth: of those without a circuit, who have used least."""
        idle = [meter for meter in self._meters.values() if not meter.circuits]
        idle.sort(key=lambda meter: meter.used)
        for meter in idle[: MAX_METERS // 10]:
            del self._meters[meter.whose, meter.name]

    def take_changed(self) -> list[tuple[Whose, str, int]]:
        """Who has used how much this month, of those that have used any since the last call."""
        changed = [meter for meter in (self.total, *self._meters.values()) if meter.changed]
        for meter in changed:
            meter.changed = False
        return [(meter.whose, meter.name, meter.used) for meter in changed]

    def put_back(self, rows: Iterable[tuple[Whose, str, int]]) -> None:
        """These could not be kept, and are changed still."""
        for whose, name, _ in rows:
            meter = self.total if whose is Whose.TOTAL else self._meters.get((whose, name))
            if meter is not None:
                meter.changed = True

    def fullest(self, whose: Whose) -> Meter | None:
        """Who has used most of its month."""
        limited = (m for m in self._meters.values() if m.whose is whose and m.limit)
        return max(limited, key=lambda meter: meter.used / meter.limit, default=None)
