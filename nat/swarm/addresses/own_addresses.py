"""Where this node can be reached besides its listening addresses, as others have found out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lattica.nat.base.net.multiaddr import Multiaddr

_ORDER = ("mapped", "verified", "observed", "relayed")
"""Sources, the surest way to this node first."""


class OwnAddresses:
    """Addresses by source. `changed` is called when what is told to others changes.

    "mapped": a router opened a port. "verified": others saw this node there, and a stranger
    could connect. "observed": the NAT maps the listening port alike for everybody. "relayed".
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.only_relayed = False
        """Others are told no other addresses than those at relays."""
        self._by_source: dict[str, tuple[Multiaddr, ...]] = dict.fromkeys(_ORDER, ())
        self.reachable: frozenset[Multiaddr] = frozenset()
        """Addresses, of the interfaces too, that strangers were seen to connect to."""
        self.unreachable: frozenset[Multiaddr] = frozenset()
        """Those that strangers were seen to fail at."""

    def set(self, source: str, addrs: Iterable[Multiaddr]) -> None:
        """Replace what is known from a source. KeyError for one that there is not."""
        if source not in self._by_source:
            raise KeyError(source)
        before = self.all
        self._by_source[source] = tuple(dict.fromkeys(addrs))
        if self.all != before:
            self._changed()

    def set_checked(
        self, reachable: Iterable[Multiaddr] = (), unreachable: Iterable[Multiaddr] = ()
    ) -> None:
        """What strangers have met; addresses that they failed at are kept, but not told."""
        before = self.all
        self.reachable, self.unreachable = frozenset(reachable), frozenset(unreachable)
        if self.all != before:
            self._changed()

    def get(self, source: str) -> tuple[Multiaddr, ...]:
        """What is known from a source; KeyError for one that there is not."""
        return self._by_source[source]

    @property
    def all(self) -> tuple[Multiaddr, ...]:
        """What others are told: all that may be reachable, without duplicates."""
        sources = ("relayed",) if self.only_relayed else _ORDER
        found = dict.fromkeys(addr for name in sources for addr in self._by_source[name])
        return tuple(addr for addr in found if addr not in self.unreachable)
